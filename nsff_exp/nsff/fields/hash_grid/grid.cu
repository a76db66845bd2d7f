// Hash-grid interpolation on CUDA, specialised by the macros N_AXES and N_FEATURES; same results as reference.py.
// Uses no feature that tests/cuda_on_cpu.h does not emulate: the tests compile it for the CPU and run it without a GPU.

constexpr int N_CORNERS = 1 << N_AXES;
constexpr int ROW_BYTES = N_FEATURES * sizeof(float);

// A row of the table; aligned, so that it is one load where its size is a power of two.
struct alignas(ROW_BYTES & (ROW_BYTES - 1) ? 4 : (ROW_BYTES > 16 ? 16 : ROW_BYTES)) Features {
    float value[N_FEATURES];
};

// One level of a layout, read once per thread.
struct Level {
    int cells[N_AXES];
    unsigned strides[N_AXES];
    bool hashed;
    unsigned mask;
    long long first_row;
};

struct Cell {
    unsigned lower[N_AXES];       // lower node * stride
    float high[N_AXES];           // weight of the upper node
};

__device__ Level read_level(
    int level, const int *__restrict__ cells, const unsigned *__restrict__ strides, const bool *__restrict__ hashed,
    const unsigned *__restrict__ mask, const long long *__restrict__ first_row) {
    Level result;
#pragma unroll
    for (int axis = 0; axis < N_AXES; ++axis) {
        result.cells[axis] = cells[level * N_AXES + axis];
        result.strides[axis] = strides[level * N_AXES + axis];
    }
    result.hashed = hashed[level], result.mask = mask[level], result.first_row = first_row[level];
    return result;
}

// The cell of a point, clamped to the box. A coordinate that is NaN gives NaN weights.
__device__ Cell find_cell(const float *__restrict__ point, const Level &level) {
    Cell cell;
#pragma unroll
    for (int axis = 0; axis < N_AXES; ++axis) {
        const float x = point[axis], inside = x < 0.0f ? 0.0f : (x > 1.0f ? 1.0f : x);
        const float position = inside * level.cells[axis];
        const int lower = max(0, min(static_cast<int>(position), level.cells[axis] - 1));
        cell.high[axis] = position - lower;
        cell.lower[axis] = lower * level.strides[axis];
    }
    return cell;
}

// Row of a corner in the table; bit `axis` of its index is 1 for the upper node along that axis.
__device__ long long row_of(const Cell &cell, const Level &level, int corner) {
    unsigned row = 0;
#pragma unroll
    for (int axis = 0; axis < N_AXES; ++axis) {
        const unsigned term = cell.lower[axis] + ((corner >> axis & 1) ? level.strides[axis] : 0u);
        row = level.hashed ? row ^ term : row + term;
    }
    return level.first_row + (level.hashed ? row & level.mask : row);
}

// Interpolation weight of a corner.
__device__ float weight_of(const Cell &cell, int corner) {
    float weight = 1.0f;
#pragma unroll
    for (int axis = 0; axis < N_AXES; ++axis) weight *= (corner >> axis & 1) ? cell.high[axis] : 1.0f - cell.high[axis];
    return weight;
}

__device__ void add(Features *address, const Features &values) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900 && N_FEATURES == 2
    atomicAdd(reinterpret_cast<float2 *>(address), make_float2(values.value[0], values.value[1]));
#else
#pragma unroll
    for (int f = 0; f < N_FEATURES; ++f) atomicAdd(address->value + f, values.value[f]);
#endif
}

// One thread per point (x) and level (y).
extern "C" __global__ void forward(
    const float *__restrict__ points, const Features *__restrict__ table, const int *cells, const unsigned *strides,
    const bool *hashed, const unsigned *mask, const long long *first_row, int n_points, float *__restrict__ out) {
    const int point = blockIdx.x * blockDim.x + threadIdx.x;
    if (point >= n_points) return;
    const Level level = read_level(blockIdx.y, cells, strides, hashed, mask, first_row);
    const Cell cell = find_cell(points + static_cast<long long>(point) * N_AXES, level);
    float total[N_FEATURES] = {};
#pragma unroll
    for (int corner = 0; corner < N_CORNERS; ++corner) {
        const Features features = table[row_of(cell, level, corner)];
        const float weight = weight_of(cell, corner);
#pragma unroll
        for (int f = 0; f < N_FEATURES; ++f) total[f] += weight * features.value[f];
    }
    float *column = out + blockIdx.y * N_FEATURES * static_cast<long long>(n_points) + point;
#pragma unroll
    for (int f = 0; f < N_FEATURES; ++f) column[f * static_cast<long long>(n_points)] = total[f];
}

// One thread per point (x) and level (y).
extern "C" __global__ void backward_table(
    const float *__restrict__ points, const float *__restrict__ grad_out, const int *cells, const unsigned *strides,
    const bool *hashed, const unsigned *mask, const long long *first_row, int n_points, Features *grad_table) {
    const int point = blockIdx.x * blockDim.x + threadIdx.x;
    if (point >= n_points) return;
    const Level level = read_level(blockIdx.y, cells, strides, hashed, mask, first_row);
    const Cell cell = find_cell(points + static_cast<long long>(point) * N_AXES, level);
    const float *column = grad_out + blockIdx.y * N_FEATURES * static_cast<long long>(n_points) + point;
    float grad[N_FEATURES];
#pragma unroll
    for (int f = 0; f < N_FEATURES; ++f) grad[f] = column[f * static_cast<long long>(n_points)];
#pragma unroll
    for (int corner = 0; corner < N_CORNERS; ++corner) {
        const float weight = weight_of(cell, corner);
        Features part;
#pragma unroll
        for (int f = 0; f < N_FEATURES; ++f) part.value[f] = weight * grad[f];
        add(grad_table + row_of(cell, level, corner), part);
    }
}

// Derivative of sum(weight * dot) over the corners along each axis, in cells; overwrites `dot`.
__device__ void slopes(float (&dot)[N_CORNERS], const Cell &cell, float (&slope)[N_AXES]) {
#pragma unroll
    for (int axis = N_AXES - 1; axis >= 0; --axis) {
        const int half = 1 << axis;
        float difference[N_CORNERS / 2];
#pragma unroll
        for (int corner = 0; corner < N_CORNERS / 2; ++corner) {
            if (corner >= half) break;
            difference[corner] = dot[half + corner] - dot[corner];
            dot[corner] += cell.high[axis] * difference[corner];
        }
#pragma unroll
        for (int folded = N_AXES - 2; folded >= 0; --folded) {
            if (folded >= axis) continue;
#pragma unroll
            for (int corner = 0; corner < N_CORNERS / 4; ++corner) {
                if (corner >= 1 << folded) break;
                difference[corner] += cell.high[folded] * (difference[(1 << folded) + corner] - difference[corner]);
            }
        }
        slope[axis] = difference[0];
    }
}

// One thread per point, which loops over the levels, so that no atomics are needed.
extern "C" __global__ void backward_points(
    const float *__restrict__ points, const float *__restrict__ grad_out, const Features *__restrict__ table,
    const int *cells, const unsigned *strides, const bool *hashed, const unsigned *mask, const long long *first_row,
    int n_points, int n_levels, float *__restrict__ grad_points) {
    const int point = blockIdx.x * blockDim.x + threadIdx.x;
    if (point >= n_points) return;
    const float *position = points + static_cast<long long>(point) * N_AXES;
    float total[N_AXES] = {};
    for (int index = 0; index < n_levels; ++index) {
        const Level level = read_level(index, cells, strides, hashed, mask, first_row);
        const Cell cell = find_cell(position, level);
        const float *column = grad_out + index * N_FEATURES * static_cast<long long>(n_points) + point;
        float grad[N_FEATURES], dot[N_CORNERS], slope[N_AXES];
#pragma unroll
        for (int f = 0; f < N_FEATURES; ++f) grad[f] = column[f * static_cast<long long>(n_points)];
#pragma unroll
        for (int corner = 0; corner < N_CORNERS; ++corner) {
            const Features features = table[row_of(cell, level, corner)];
            dot[corner] = 0.0f;
#pragma unroll
            for (int f = 0; f < N_FEATURES; ++f) dot[corner] += features.value[f] * grad[f];
        }
        slopes(dot, cell, slope);
#pragma unroll
        for (int axis = 0; axis < N_AXES; ++axis) total[axis] += slope[axis] * level.cells[axis];
    }
#pragma unroll
    for (int axis = 0; axis < N_AXES; ++axis) {
        const bool outside = position[axis] <= 0.0f || position[axis] >= 1.0f;  // NaN is not, and stays visible
        grad_points[static_cast<long long>(point) * N_AXES + axis] = outside ? 0.0f : total[axis];
    }
}
