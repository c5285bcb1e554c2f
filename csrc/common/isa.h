// The instruction sets that kernels are compiled for, and the one in use.
//
// An operation's kernels are a struct of functions with three static members of its own type:
//
//   struct CombineKernels {
//     static const CombineKernels baseline, avx2, avx512;
//     void (*combine)(const Combine&, int64_t begin, int64_t end);
//   };
//
// Its kernels_isa.cpp is compiled once for each instruction set, with the set's name as FASTGEN_ISA
// (setup.py), and defines one of the three. Callers take what `kernels<CombineKernels>()` gives.
#pragma once
#include <string>
#include <vector>

namespace fastgen {

// Plainest first.
enum class Isa { baseline, avx2, avx512 };

Isa isa();
const char* isa_name();
// Those that this CPU can run, plainest first.
std::vector<std::string> supported_isas();
// Throws std::invalid_argument, with the names there are, for any other name.
void set_isa(const std::string& name);

template <class Kernels>
const Kernels& kernels() {
#ifdef FASTGEN_X86
  if (isa() == Isa::avx512) return Kernels::avx512;
  if (isa() == Isa::avx2) return Kernels::avx2;
#endif
  return Kernels::baseline;
}

}  // namespace fastgen
