// Normals as a tensor; how they are made is in common/normals.h.
#pragma once
#include "common/convert.h"
#include "common/normals.h"
#include "normals/operation.h"

namespace fastgen {
namespace {

void normals_of_elements(const Normals& op, int64_t begin, int64_t end) {
  constexpr int TILE = 512;
  alignas(64) float tile[TILE];
  for (int64_t at = begin; at < end; at += TILE) {
    const int64_t count = at + TILE < end ? TILE : end - at;
    const bool direct = op.output_type == DType::float32;
    float* z = direct ? static_cast<float*>(op.output) + at : tile;
    fill_normals(z, at, count, op.elements, {&op.draw, 0}, op.noise);
    if (!direct) store(op.output, op.output_type, at, tile, count);
  }
}

void philox_words(const uint32_t counter[4], const uint32_t key[2], uint32_t words[4]) {
  const Words c =
      philox(Words{splat(counter[0]), splat(counter[1]), splat(counter[2]), splat(counter[3])},
             splat(key[0]), splat(key[1]));
  const U32 joined[4] = {join(c.w0, c.w0), join(c.w1, c.w1), join(c.w2, c.w2), join(c.w3, c.w3)};
  for (int i = 0; i < 4; ++i) words[i] = joined[i][W - 1];
}

}  // namespace
}  // namespace fastgen
