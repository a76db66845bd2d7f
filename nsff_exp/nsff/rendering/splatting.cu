// Summation splatting on CUDA; same results as _sum_by_torch in splatting.py up to the order of the sums.
// Uses no feature that tests/cuda_on_cpu.h does not emulate: the tests compile it for the CPU and run it without a GPU.

// One thread per pixel. values, out: (images, channels, height, width); flow: (images, 2, height, width), right, down.
extern "C" __global__ void splat(
    const float *values, const float *flow, int n_images, int n_channels, int height, int width, float *out) {
    const long long size = static_cast<long long>(height) * width;
    const long long thread = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const long long image = thread / size, pixel = thread % size;
    if (image >= n_images) return;
    const float x = static_cast<float>(pixel % width) + flow[image * 2 * size + pixel];
    const float y = static_cast<float>(pixel / width) + flow[(image * 2 + 1) * size + pixel];
    if (!(x >= -1.0f && x < width && y >= -1.0f && y < height)) return;  // NaN compares false and is dropped too
    const int left = static_cast<int>(floorf(x)), top = static_cast<int>(floorf(y));
    const float right_weight = x - left, lower_weight = y - top;
    for (int corner = 0; corner < 4; ++corner) {
        const int column = left + (corner & 1), row = top + (corner >> 1);
        if (column < 0 || column >= width || row < 0 || row >= height) continue;
        const float horizontal = corner & 1 ? right_weight : 1.0f - right_weight;
        const float weight = horizontal * (corner >> 1 ? lower_weight : 1.0f - lower_weight);
        for (int channel = 0; channel < n_channels; ++channel) {
            const long long plane = (image * n_channels + channel) * size;
            atomicAdd(out + plane + static_cast<long long>(row) * width + column, weight * values[plane + pixel]);
        }
    }
}
