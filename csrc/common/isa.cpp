#include "common/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#ifdef FASTGEN_X86
#include <cpuid.h>
#endif

namespace fastgen {
namespace {

constexpr const char* NAMES[] = {"baseline", "avx2", "avx512"};

const char* name_of(Isa isa) { return NAMES[static_cast<int>(isa)]; }

std::vector<Isa> supported() {
  std::vector<Isa> found{Isa::baseline};
#ifdef FASTGEN_X86
  __builtin_cpu_init();
  // Not every compiler's __builtin_cpu_supports knows f16c: CPUID leaf 1, ecx bit 29.
  unsigned a, b, c = 0, d;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
  if (f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    found.push_back(Isa::avx2);
  if (f16c && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    found.push_back(Isa::avx512);
#endif
  return found;
}

Isa find(const std::string& name) {
  std::string names;
  for (const Isa isa : supported()) {
    if (name == name_of(isa)) return isa;
    names += std::string(names.empty() ? "" : ", ") + name_of(isa);
  }
  throw std::invalid_argument("ISA: expected one of " + names + " on this CPU, got " + name);
}

std::atomic<Isa>& in_use() {
  static std::atomic<Isa> chosen = [] {
    const char* name = std::getenv("FASTGEN_ISA");
    return name && *name ? find(name) : supported().back();
  }();
  return chosen;
}

}  // namespace

Isa isa() { return in_use().load(); }

const char* isa_name() { return name_of(isa()); }

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Isa isa : supported()) names.push_back(name_of(isa));
  return names;
}

void set_isa(const std::string& name) { in_use() = find(name); }

}  // namespace fastgen
