// CUDA as a CPU has it: threads one after the other, so only for kernels without shared memory, barrier or warp operation.
#include <cmath>
#include <cstddef>
#include <cstring>
#include <utility>

#define __global__
#define __device__
struct Index { int x, y, z; };
static thread_local Index threadIdx, blockIdx, blockDim, gridDim;

template <class T> static T atomicAdd(T *at, T value) { T old = *at; *at += value; return old; }
template <class T> static T atomicMax(T *at, T value) { T old = *at; *at = old > value ? old : value; return old; }
template <class T> static T max(T a, T b) { return a > b ? a : b; }
template <class T> static T min(T a, T b) { return a < b ? a : b; }
static int __float_as_int(float value) { int bits; std::memcpy(&bits, &value, 4); return bits; }
static float __int_as_float(int bits) { float value; std::memcpy(&value, &bits, 4); return value; }

template <class... A, std::size_t... I>
static void run(void (*kernel)(A...), int blocks, int threads, void **args, std::index_sequence<I...>) {
    gridDim.x = blocks, blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x) kernel(*static_cast<A *>(args[I])...);
}
template <class... A> static void run(void (*kernel)(A...), int blocks, int threads, void **args) {
    run(kernel, blocks, threads, args, std::index_sequence_for<A...>());
}
// As cuLaunchKernel takes them: an array of pointers to the arguments.
#define LAUNCHER(NAME) \
    extern "C" void launch_##NAME(int blocks, int threads, void **args) { run(NAME, blocks, threads, args); }
