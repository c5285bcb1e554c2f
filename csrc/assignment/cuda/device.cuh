// The little of CUDA that the kernels need. No header of the host is included, so that NVRTC
// compiles them; tests compile them for the CPU (tests/couplings/cuda_on_host.h).
#pragma once

// Declares a block's shared memory, whose size is given at the launch.
#ifndef FASTGEN_SHARED
#define FASTGEN_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace fastgen {

typedef long long i64;
typedef unsigned long long u64;

constexpr int LARGEST = 2147483647;
constexpr unsigned ALL_LANES = 0xffffffffu;
constexpr int MOST_WARPS = 16;
constexpr int PARTIAL_SUMS = 256;

__device__ inline int lane() { return threadIdx.x % 32; }
__device__ inline int warp() { return threadIdx.x / 32; }
__device__ inline int warps() { return blockDim.x / 32; }

__device__ inline int warp_min(int x) {
#if __CUDA_ARCH__ >= 800
  return __reduce_min_sync(ALL_LANES, x);
#else
  for (int offset = 16; offset; offset /= 2) x = min(x, __shfl_xor_sync(ALL_LANES, x, offset));
  return x;
#endif
}

__device__ inline double warp_min(double x) {
  for (int offset = 16; offset; offset /= 2) {
    const double other = __shfl_xor_sync(ALL_LANES, x, offset);
    x = other < x ? other : x;
  }
  return x;
}

// Memory of all blocks of a problem, zero before the launch.
struct Barrier {
  unsigned arrived;
  int sums[3];
};

// The blocks that solve one problem together: all of them are resident (a cooperative launch).
struct Team {
  Barrier* barrier;
  int* total;  // shared memory
  int block, blocks;
  unsigned generation = 0;
  int turn = 0;

  // Of the whole team.
  __device__ int warp_index() const { return block * warps() + warp(); }
  __device__ int warp_count() const { return blocks * warps(); }
  __device__ int thread_index() const { return block * blockDim.x + threadIdx.x; }
  __device__ int thread_count() const { return blocks * blockDim.x; }

  // What was written before is seen by all threads of the team after.
  __device__ void sync() {
    __syncthreads();
    if (blocks == 1) return;
    ++generation;
    if (threadIdx.x == 0) {
      __threadfence();
      atomicAdd(&barrier->arrived, 1u);
      const unsigned all = generation * blocks;
      while (static_cast<int>(*const_cast<volatile unsigned*>(&barrier->arrived) - all) < 0)
        __nanosleep(20);
      __threadfence();
    }
    __syncthreads();
  }

  // The same; returns the sum of what the first threads of blocks bring.
  __device__ int sync_sum(int mine) {
    if (blocks == 1) {
      if (threadIdx.x == 0) *total = mine;
      __syncthreads();
      const int sum = *total;
      __syncthreads();
      return sum;
    }
    // A slot is cleared one turn ahead: two turns after all have read it.
    if (threadIdx.x == 0) {
      atomicAdd(&barrier->sums[turn], mine);
      if (block == 0) barrier->sums[(turn + 1) % 3] = 0;
    }
    sync();
    const int sum = *const_cast<volatile int*>(&barrier->sums[turn]);
    turn = (turn + 1) % 3;
    return sum;
  }
};

}  // namespace fastgen
