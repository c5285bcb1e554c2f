#include "dispatch.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

#ifdef FASTGEN_X86
#include <cpuid.h>
#endif

namespace fastgen {
namespace {

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> kernels{&baseline_kernels};
#ifdef FASTGEN_X86
  __builtin_cpu_init();
  // Not every compiler's __builtin_cpu_supports knows f16c: CPUID leaf 1, ecx bit 29.
  unsigned a, b, c = 0, d;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
  if (f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    kernels.push_back(&avx2_kernels);
  if (f16c && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    kernels.push_back(&avx512_kernels);
#endif
  return kernels;
}

const Kernels* find(const std::string& name) {
  std::string names;
  for (const Kernels* kernels : supported_kernels()) {
    if (name == kernels->name) return kernels;
    names += std::string(names.empty() ? "" : ", ") + kernels->name;
  }
  throw std::invalid_argument("ISA: expected one of " + names + " on this CPU, got " + name);
}

std::atomic<const Kernels*>& active() {
  static std::atomic<const Kernels*> kernels = [] {
    const char* name = std::getenv("FASTGEN_ISA");
    return name && *name ? find(name) : supported_kernels().back();
  }();
  return kernels;
}

// Ranges start at multiples of whole rows or of this many elements, so that no two threads share
// a cache line of an aligned output and no block of noise is computed twice.
constexpr int64_t GRAIN = 1024;

template <class Operation>
void run(void (*kernel)(const Operation&, int64_t, int64_t), const Operation& op, int threads) {
  const int64_t size = op.size();
  if (size == 0) return;
  if (threads <= 1) return kernel(op, 0, size);
  const int64_t unit = op.elements < GRAIN ? GRAIN / op.elements * op.elements : GRAIN;
  const int64_t units = (size + unit - 1) / unit;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int i = 0; i < threads; ++i) {
    const int64_t begin = units * i / threads * unit, end = units * (i + 1) / threads * unit;
    if (begin < end) kernel(op, begin, std::min(end, size));
  }
}

}  // namespace

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Kernels* kernels : supported_kernels()) names.push_back(kernels->name);
  return names;
}

const char* isa() { return active().load()->name; }

Isa isa_level() { return active().load()->isa; }

void set_isa(const std::string& name) { active() = find(name); }

void combine(const Combine& op, int threads) { run(active().load()->combine, op, threads); }

void normals(const Normals& op, int threads) { run(active().load()->normals, op, threads); }

void brownian(const Brownian& op, int threads) { run(active().load()->brownian, op, threads); }

void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]) {
  active().load()->philox(counter, key, words);
}

}  // namespace fastgen
