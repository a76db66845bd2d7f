// Lets a .cu file be compiled by a C++ compiler and run on the CPU, one thread after the other.
#include <algorithm>
#include <cmath>

#define __global__
#define __device__
using std::min;

struct Index {
    int x, y;
};
static Index blockIdx, blockDim, threadIdx;

static void atomicAdd(float *place, float value) { *place += value; }

template <class Kernel, class... Arguments>
static void launch(Kernel kernel, int blocks, int rows, int threads, Arguments... arguments) {
    blockDim = {threads, 1};
    for (blockIdx.y = 0; blockIdx.y < rows; ++blockIdx.y)
        for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
            for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel(arguments...);
}
