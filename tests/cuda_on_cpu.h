// Emulates the subset of CUDA that our .cu files use: a C++ compiler builds them for the CPU, threads run in sequence.
#include <algorithm>
#include <cmath>

#define __global__
#define __device__
#define __restrict__
using std::max;
using std::min;

struct Index {
    int x, y;
};
static Index blockIdx, blockDim, threadIdx;

static void atomicAdd(float *address, float value) { *address += value; }

template <class Kernel, class... Arguments>
static void launch(Kernel kernel, int blocks, int rows, int threads, Arguments... arguments) {
    blockDim = {threads, 1};
    for (blockIdx.y = 0; blockIdx.y < rows; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
            for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel(arguments...);
}
