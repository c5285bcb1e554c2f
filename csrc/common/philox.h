// Philox4x32-10 (Salmon et al. 2011), as the noise contract uses it: the key is a row's seed; the
// counter's words are the block of four elements, the sample's id, the draw, and the stream with
// the high bits of block and id. Everything has internal linkage (see lanes.h).
#pragma once
#include "common/lanes.h"
#include "common/types.h"

namespace fastgen {
namespace {

constexpr uint32_t PHILOX_FACTOR_0 = 0xD2511F53u, PHILOX_FACTOR_1 = 0xCD9E8D57u;
constexpr uint32_t PHILOX_STEP_0 = 0x9E3779B9u, PHILOX_STEP_1 = 0xBB67AE85u;
constexpr int PHILOX_ROUNDS = 10;

// Four words, one in each 64-bit lane of a `Word`: uint64_t or U64. Upper halves hold rubbish: no
// step reads them.
template <class Word>
struct WordsOf {
  Word w0, w1, w2, w3;
};
using Words = WordsOf<U64>;

template <class Word>
FASTGEN_INLINE WordsOf<Word> philox_round(WordsOf<Word> c, Word k0, Word k1) {
  const Word p0 = multiply_wide(c.w0, PHILOX_FACTOR_0), p1 = multiply_wide(c.w2, PHILOX_FACTOR_1);
  return {(p1 >> 32) ^ c.w1 ^ k0, p1, (p0 >> 32) ^ c.w3 ^ k1, p0};
}

template <class Word>
FASTGEN_INLINE WordsOf<Word> philox(WordsOf<Word> c, Word k0, Word k1) {
  for (int round = 0; round < PHILOX_ROUNDS; ++round) {
    c = philox_round(c, k0, k1);
    k0 += PHILOX_STEP_0;
    k1 += PHILOX_STEP_1;
  }
  return c;
}

struct Row {
  uint64_t seed, sample;
};

FASTGEN_INLINE Row noise_row(const Noise& noise, int64_t row) {
  return {static_cast<uint64_t>(noise.seeds[row * noise.seed_stride]),
          static_cast<uint64_t>(noise.sample_ids[row])};
}

FASTGEN_INLINE uint32_t last_word(uint32_t stream, uint64_t block, uint64_t sample) {
  return stream | (block >> 32 & 0xFF) << 8 | static_cast<uint32_t>(sample >> 32) << 16;
}

}  // namespace
}  // namespace fastgen
