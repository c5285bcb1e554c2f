// The instruction set in use and the split of large calls over threads.
#pragma once
#include <string>
#include <vector>

#include "operations.h"

namespace fastgen {

// Levels this CPU can run, plainest first.
std::vector<std::string> supported_isas();
const char* isa();
// For families of kernels with tables of their own.
Isa isa_level();
// Throws std::invalid_argument, with the levels there are, for any other name.
void set_isa(const std::string& name);

void combine(const Combine& op, int threads);
void normals(const Normals& op, int threads);
void brownian(const Brownian& op, int threads);
void philox(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]);

}  // namespace fastgen
