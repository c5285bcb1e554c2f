// What the operations have in common, as plain data. Shapes and counts are checked in Python.
//
// Names in csrc: plain data has plain names, private members end in an underscore.
#pragma once
#include <cstdint>

namespace fastgen {

constexpr int MAX_INPUTS = 24, MAX_OUTPUTS = 8, MAX_NOISES = 8;

// Values are DTYPE_CODES of the Python side.
enum class DType : int { float32, float64, bfloat16, float16 };

// Which normals are drawn, all but the numbers of the draws.
struct Noise {
  const int64_t* seeds;
  int64_t seed_stride;  // 0: one seed for all rows, 1: one for each
  const int64_t* sample_ids;
  uint32_t stream;
};

// The number of a draw: one for all rows (stride 0), or one for each.
struct Draw {
  const int64_t* first;
  int64_t stride;

  uint32_t of(int64_t row) const { return static_cast<uint32_t>(first[row * stride]); }
};

}  // namespace fastgen
