// Hash-grid interpolation on CUDA, specialised by the macros N_AXES and N_FEATURES; same results as reference.py.
// Uses no feature that tests/cuda_on_cpu.h does not emulate: the tests compile it for the CPU and run it without a GPU.

struct Layout {
    const int *cells;             // (levels, axes)
    const unsigned *strides;      // (levels, axes)
    const bool *hashed;           // (levels)
    const unsigned *mask;         // (levels)
    const long long *first_row;   // (levels)
};

struct Cell {
    unsigned term[N_AXES];        // lower node * stride
    float high[N_AXES];           // weight of the upper node
};

__device__ Cell find_cell(const float *point, const Layout &layout, int level) {
    Cell cell;
    for (int axis = 0; axis < N_AXES; ++axis) {
        const int n_cells = layout.cells[level * N_AXES + axis];
        const float position = fminf(fmaxf(point[axis], 0.0f), 1.0f) * n_cells;
        const int lower = min(static_cast<int>(position), n_cells - 1);
        cell.high[axis] = position - lower;
        cell.term[axis] = lower * layout.strides[level * N_AXES + axis];
    }
    return cell;
}

// Row of a corner in the table; bit `axis` of its index is 1 for the upper node along that axis.
__device__ long long row_of(const Cell &cell, const Layout &layout, int level, int corner) {
    const bool hashed = layout.hashed[level];
    unsigned row = 0;
    for (int axis = 0; axis < N_AXES; ++axis) {
        const unsigned stride = layout.strides[level * N_AXES + axis];
        const unsigned term = cell.term[axis] + ((corner >> axis & 1) ? stride : 0u);
        row = hashed ? row ^ term : row + term;
    }
    return layout.first_row[level] + (hashed ? row & layout.mask[level] : row);
}

// Interpolation weight of a corner without the factor of axis `skipped_axis` (-1: all factors).
__device__ float weight_of(const Cell &cell, int corner, int skipped_axis) {
    float weight = 1.0f;
    for (int axis = 0; axis < N_AXES; ++axis) {
        if (axis != skipped_axis) weight *= (corner >> axis & 1) ? cell.high[axis] : 1.0f - cell.high[axis];
    }
    return weight;
}

// One thread per point (x) and level (y).
extern "C" __global__ void forward(
    const float *points, const float *table, const int *cells, const unsigned *strides, const bool *hashed,
    const unsigned *mask, const long long *first_row, int n_points, float *out) {
    const int point = blockIdx.x * blockDim.x + threadIdx.x, level = blockIdx.y;
    if (point >= n_points) return;
    const Layout layout = {cells, strides, hashed, mask, first_row};
    const Cell cell = find_cell(points + static_cast<long long>(point) * N_AXES, layout, level);
    float total[N_FEATURES] = {};
    for (int corner = 0; corner < 1 << N_AXES; ++corner) {
        const float *features = table + row_of(cell, layout, level, corner) * N_FEATURES;
        const float weight = weight_of(cell, corner, -1);
        for (int f = 0; f < N_FEATURES; ++f) total[f] += weight * features[f];
    }
    for (int f = 0; f < N_FEATURES; ++f) out[(level * N_FEATURES + f) * static_cast<long long>(n_points) + point] = total[f];
}

// One thread per point (x) and level (y).
extern "C" __global__ void backward_table(
    const float *points, const float *grad_out, const int *cells, const unsigned *strides, const bool *hashed,
    const unsigned *mask, const long long *first_row, int n_points, float *grad_table) {
    const int point = blockIdx.x * blockDim.x + threadIdx.x, level = blockIdx.y;
    if (point >= n_points) return;
    const Layout layout = {cells, strides, hashed, mask, first_row};
    const Cell cell = find_cell(points + static_cast<long long>(point) * N_AXES, layout, level);
    for (int corner = 0; corner < 1 << N_AXES; ++corner) {
        float *grad = grad_table + row_of(cell, layout, level, corner) * N_FEATURES;
        const float weight = weight_of(cell, corner, -1);
        for (int f = 0; f < N_FEATURES; ++f) {
            atomicAdd(grad + f, weight * grad_out[(level * N_FEATURES + f) * static_cast<long long>(n_points) + point]);
        }
    }
}

// One thread per point, which loops over the levels, so that no atomics are needed.
extern "C" __global__ void backward_points(
    const float *points, const float *grad_out, const float *table, const int *cells, const unsigned *strides,
    const bool *hashed, const unsigned *mask, const long long *first_row, int n_points, int n_levels,
    float *grad_points) {
    const int point = blockIdx.x * blockDim.x + threadIdx.x;
    if (point >= n_points) return;
    const Layout layout = {cells, strides, hashed, mask, first_row};
    const float *position = points + static_cast<long long>(point) * N_AXES;
    float total[N_AXES] = {};
    for (int level = 0; level < n_levels; ++level) {
        const Cell cell = find_cell(position, layout, level);
        for (int corner = 0; corner < 1 << N_AXES; ++corner) {
            const float *features = table + row_of(cell, layout, level, corner) * N_FEATURES;
            float dot = 0.0f;
            for (int f = 0; f < N_FEATURES; ++f) {
                dot += features[f] * grad_out[(level * N_FEATURES + f) * static_cast<long long>(n_points) + point];
            }
            for (int axis = 0; axis < N_AXES; ++axis) {
                const float slope = weight_of(cell, corner, axis) * layout.cells[level * N_AXES + axis];
                total[axis] += (corner >> axis & 1) ? slope * dot : -slope * dot;
            }
        }
    }
    for (int axis = 0; axis < N_AXES; ++axis) {
        const bool inside = position[axis] > 0.0f && position[axis] < 1.0f;
        grad_points[static_cast<long long>(point) * N_AXES + axis] = inside ? total[axis] : 0.0f;
    }
}
