// Enough of CUDA to run kernels on the CPU, for tests: each thread of a block is a fiber that runs
// until it waits for others, and who runs next is drawn by chance. What depends on an order that
// CUDA does not promise then differs between seeds; who waits for what never comes is an error.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
#define __CUDA_ARCH__ 800
#define FASTGEN_SHARED(name) unsigned char* name = cuda_on_host::now->block->shared.data()
#define threadIdx cuda_on_host::now->thread
#define blockIdx cuda_on_host::now->block->index
#define blockDim cuda_on_host::block_size

namespace cuda_on_host {

struct Index {
  unsigned x;
};
struct Fiber;

// Where a number of fibers wait for each other.
struct Meeting {
  std::vector<Fiber*> waiting;
};
struct Warp {
  Meeting meeting;
  unsigned turn = 0;
  uint64_t values[2][32];
};
struct Block {
  Index index;
  Meeting meeting;
  std::vector<unsigned char> shared;
  std::vector<Warp> warps;
};
struct Fiber {
  Index thread;
  Block* block;
  ucontext_t context;
  jmp_buf at;
  bool started = false, ended = false;
  std::unique_ptr<char[]> stack;
};

inline Fiber* now;
inline Index block_size;
inline std::vector<Fiber*> ready, idle;  // idle ones ask again for what they wait for
inline jmp_buf scheduler;
inline uint64_t chance = 1;
inline std::function<void()> body;

inline uint64_t draw(uint64_t below) {
  chance = chance * 6364136223846793005u + 1442695040888963407u;
  return (chance >> 33) % below;
}

inline void leave() {
  if (_setjmp(now->at) == 0) _longjmp(scheduler, 1);
}

inline void start() {
  body();
  now->ended = true;
  _longjmp(scheduler, 1);
}

// Waits for all `count` fibers of the meeting.
inline void meet(Meeting& meeting, size_t count) {
  if (meeting.waiting.size() + 1 == count) {
    ready.insert(ready.end(), meeting.waiting.begin(), meeting.waiting.end());
    meeting.waiting.clear();
    return;
  }
  meeting.waiting.push_back(now);
  leave();
}

// Runs all blocks at the same time; false if they wait for each other for ever.
inline bool run(unsigned first_block, unsigned blocks, unsigned threads, size_t shared) {
  constexpr size_t STACK = 1 << 16;
  block_size = {threads};
  std::vector<Block> grid(blocks);
  std::vector<Fiber> fibers(blocks * threads);
  for (unsigned b = 0; b < blocks; ++b) {
    grid[b].index = {first_block + b};
    grid[b].shared.assign(shared + 16, 0xcd);
    grid[b].warps.resize(threads / 32);
    for (unsigned t = 0; t < threads; ++t) {
      Fiber& fiber = fibers[b * threads + t];
      fiber.thread = {t};
      fiber.block = &grid[b];
      fiber.stack.reset(new char[STACK]);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = STACK;
      makecontext(&fiber.context, start, 0);
      ready.push_back(&fiber);
    }
  }
  size_t left = fibers.size();
  uint64_t questions = 0;  // of idle ones while nobody could go on
  while (left) {
    if (ready.empty()) {
      if (idle.empty() || ++questions > 1000) return false;
      ready.swap(idle);
    } else if (idle.empty()) {
      questions = 0;
    }
    std::swap(ready[draw(ready.size())], ready.back());
    now = ready.back();
    ready.pop_back();
    if (_setjmp(scheduler) == 0) {
      if (now->started) _longjmp(now->at, 1);
      now->started = true;
      setcontext(&now->context);
    }
    left -= now->ended;
  }
  return true;
}

// All lanes of the warp give a value; the values of all of them.
inline const uint64_t* exchange(uint64_t value) {
  Warp& warp = now->block->warps[now->thread.x / 32];
  const unsigned turn = warp.turn;
  warp.values[turn][now->thread.x % 32] = value;
  if (warp.meeting.waiting.size() == 31) warp.turn = 1 - turn;
  meet(warp.meeting, 32);
  return warp.values[turn];
}

template <class T>
uint64_t bits(T x) {
  uint64_t word = 0;
  std::memcpy(&word, &x, sizeof x);
  return word;
}
template <class T>
T from(uint64_t word) {
  T x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

}  // namespace cuda_on_host

inline void __syncthreads() {
  cuda_on_host::meet(cuda_on_host::now->block->meeting, cuda_on_host::block_size.x);
}
inline void __syncwarp() { cuda_on_host::exchange(0); }
inline void __threadfence() {}
inline void __nanosleep(unsigned) {
  cuda_on_host::idle.push_back(cuda_on_host::now);
  cuda_on_host::leave();
}
inline int __reduce_min_sync(unsigned, int x) {
  const uint64_t* all = cuda_on_host::exchange(static_cast<unsigned>(x));
  for (int k = 0; k < 32; ++k) x = static_cast<int>(all[k]) < x ? static_cast<int>(all[k]) : x;
  return x;
}
template <class T>
T __shfl_xor_sync(unsigned, T x, int offset) {
  const unsigned lane = cuda_on_host::now->thread.x % 32;
  return cuda_on_host::from<T>(cuda_on_host::exchange(cuda_on_host::bits(x))[lane ^ offset]);
}
inline unsigned __ballot_sync(unsigned, bool x) {
  const uint64_t* all = cuda_on_host::exchange(x);
  unsigned ones = 0;
  for (int k = 0; k < 32; ++k) ones |= static_cast<unsigned>(all[k]) << k;
  return ones;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }

// Between two switches nobody else runs.
template <class T>
T atomicAdd(T* at, T x) {
  const T old = *at;
  *at += x;
  return old;
}
template <class T>
T atomicMin(T* at, T x) {
  const T old = *at;
  if (x < old) *at = x;
  return old;
}
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}
