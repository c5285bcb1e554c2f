// Normals of the noise contract on W lanes; the PyTorch reference has the same order of roundings.
// Only steps that cannot change a bit are rearranged: powers of two move through products, and -2
// goes into the coefficients of the logarithm.
#pragma once
#include "common/philox.h"

namespace fastgen {
namespace {

constexpr int GROUP = 4 * W;  // normals of one step

// sqrt(-2 log((r + 1/2) / 2^32)) of N vectors at once: each is a long chain of dependent
// operations, and the others fill its gaps.
template <int N>
FASTGEN_INLINE void radii(const U32 (&r)[N], F32 (&radius)[N]) {
  constexpr int32_t SQRT_HALF = 0x3F3504F3, EXPONENT_32 = 32 << 23;
  constexpr float POLYNOMIAL[] = {
      -2 * 7.0376836292e-2f,  -2 * -1.1514610310e-1f, -2 * 1.1676998740e-1f,
      -2 * -1.2420140846e-1f, -2 * 1.4249322787e-1f,  -2 * -1.6668057665e-1f,
      -2 * 2.0000714765e-1f,  -2 * -2.4999993993e-1f, -2 * 3.3333331174e-1f};
  F32 m[N], exponent[N], y[N];
  for (int n = 0; n < N; ++n) {
    const U32 complement = (U32)(r[n] >= 3037000500u);
    const F32 f = to_float(r[n] ^ complement) + 0.5f;
    const I32 offset = (I32)f - (SQRT_HALF + EXPONENT_32);
    exponent[n] = to_float((offset >> 23) & ~(I32)complement);
    const F32 mantissa = (F32)((offset & 0x7FFFFF) + SQRT_HALF) - 1.0f;
    m[n] = (I32)complement ? f * -0x1p-32f : mantissa;
  }
  for (int n = 0; n < N; ++n) y[n] = m[n] * POLYNOMIAL[0] + POLYNOMIAL[1];
  for (int k = 2; k < 9; ++k)
    for (int n = 0; n < N; ++n) y[n] = y[n] * m[n] + POLYNOMIAL[k];
  for (int n = 0; n < N; ++n) {
    const F32 z = m[n] * m[n];
    y[n] = ((y[n] * m[n]) * z + exponent[n] * (-2 * -2.12194440e-4f)) + z;
  }
  for (int n = 0; n < N; ++n)
    radius[n] = square_root((m[n] * -2.0f + y[n]) + exponent[n] * (-2 * 0.693359375f));
}

// radius * (cos, sin) of 2 pi a / 2^32.
FASTGEN_INLINE void polar(F32 radius, U32 a, F32* x, F32* y) {
  constexpr float QUARTER_TURN = 1.4629180792671596e-09f / 4;  // the angle is shifted by 2 bits
  const F32 theta = to_float((I32)(a << 2)) * QUARTER_TURN;
  const F32 z = theta * theta;
  const F32 s = ((z * -1.9515295891e-4f + 8.3321608736e-3f) * z + -1.6666654611e-1f) * z;
  const F32 sine = s * theta + theta;
  const F32 c = (z * 2.443315711809948e-5f + -1.388731625493765e-3f) * z + 4.166664568298827e-2f;
  const F32 cosine = ((c * z) * z - z * 0.5f) + 1.0f;
  const U32 quadrant = a + 0x20000000u;  // in the two upper bits
  const I32 odd = (I32)(quadrant << 1) < 0;
  const U32 sign_x = (quadrant ^ (quadrant << 1)) & 0x80000000u, sign_y = quadrant & 0x80000000u;
  *x = (F32)((U32)(radius * (odd ? sine : cosine)) ^ sign_x);
  *y = (F32)((U32)(radius * (odd ? cosine : sine)) ^ sign_y);
}

// The words of one group; even lanes and odd lanes apart (see `slot`).
struct GroupWords {
  Words even, odd;
};

// Both halves of the work are long chains of dependent operations. Loops of their own keep each
// short enough for the processor to overlap several groups; those of radii take `TOGETHER` a turn.
constexpr int BATCH = 16, TOGETHER = 2;

template <int GROUPS>
FASTGEN_INLINE void store_groups(float* to, const GroupWords* words) {
  U32 bits[2 * GROUPS];
  F32 radius[2 * GROUPS];
  for (int g = 0; g < GROUPS; ++g) {
    bits[2 * g] = join(words[g].even.w0, words[g].odd.w0);
    bits[2 * g + 1] = join(words[g].even.w2, words[g].odd.w2);
  }
  radii(bits, radius);
  for (int g = 0; g < GROUPS; ++g) {
    const GroupWords& w = words[g];
    F32 z0, z1, z2, z3;
    polar(radius[2 * g], join(w.even.w1, w.odd.w1), &z0, &z1);
    polar(radius[2 * g + 1], join(w.even.w3, w.odd.w3), &z2, &z3);
    store_interleaved(to + g * GROUP, z0, z1, z2, z3);
  }
}

__attribute__((noinline)) void store_normals(float* to, const GroupWords* words, int64_t groups) {
  int64_t g = 0;
  for (; g + TOGETHER <= groups; g += TOGETHER) store_groups<TOGETHER>(to + g * GROUP, words + g);
  for (; g < groups; ++g) store_groups<1>(to + g * GROUP, words + g);
}

// z_0 and z_1 alone of each of `groups`, x and y.
template <int GROUPS>
FASTGEN_INLINE void points(const GroupWords* words, F32 (&x)[GROUPS], F32 (&y)[GROUPS]) {
  U32 bits[GROUPS];
  F32 radius[GROUPS];
  for (int g = 0; g < GROUPS; ++g) bits[g] = join(words[g].even.w0, words[g].odd.w0);
  radii(bits, radius);
  for (int g = 0; g < GROUPS; ++g)
    polar(radius[g], join(words[g].even.w1, words[g].odd.w1), &x[g], &y[g]);
}

// Words of `groups` whole groups of one row from block `block`, whose low word does not overflow.
__attribute__((noinline)) void draw_words(GroupWords* words, int64_t groups, uint64_t block,
                                          Row row, uint32_t draw, uint32_t stream) {
  Lanes first;
  for (int i = 0; i < W; ++i) first.at[slot(i)] = block + i;
  U64 even = first.pair[0], odd = first.pair[1];
  const U64 w1 = splat(row.sample), w2 = splat(draw);
  const U64 w3 = splat(last_word(stream, block, row.sample));
  const U64 k0 = splat(row.seed), k1 = splat(row.seed >> 32);
  for (int64_t g = 0; g < groups; ++g, even += W, odd += W)
    words[g] = {philox({even, w1, w2, w3}, k0, k1), philox({odd, w1, w2, w3}, k0, k1)};
}

// Blocks of four that belong to several rows, or of which only a part is wanted, one to a lane.
// Returns the number of elements written: it stops where whole groups of one row are to be had.
int64_t fill_mixed(float* to, int64_t count, int64_t row, int64_t element, int64_t elements,
                   Draw draw, const Noise& noise) {
  GroupWords words[BATCH];
  int skip[BATCH * W], end[BATCH * W], groups = 0, blocks = 0, written = 0;
  bool more = true;
  for (; groups < BATCH && more; ++groups) {
    Lanes w0{}, w1{}, w2{}, w3{}, k0{}, k1{};
    for (int i = 0; i < W && more; ++i, ++blocks) {
      const Row r = noise_row(noise, row);
      const uint64_t block = static_cast<uint64_t>(element) / 4;
      const int at = slot(i);
      w0.at[at] = block;
      w1.at[at] = r.sample;
      w2.at[at] = draw.of(row);
      w3.at[at] = last_word(noise.stream, block, r.sample);
      k0.at[at] = r.seed;
      k1.at[at] = r.seed >> 32;
      skip[blocks] = element & 3;
      int64_t length = 4 - skip[blocks];
      if (length > elements - element) length = elements - element;
      if (length > count - written) length = count - written;
      end[blocks] = written += static_cast<int>(length);
      element += length;
      if (element == elements) element = 0, ++row;
      const int64_t left =
          elements - element < count - written ? elements - element : count - written;
      more = left > 0 && (left < 4 * GROUP || element % 4 != 0);
    }
    words[groups] = {
        philox({w0.pair[0], w1.pair[0], w2.pair[0], w3.pair[0]}, k0.pair[0], k1.pair[0]),
        philox({w0.pair[1], w1.pair[1], w2.pair[1], w3.pair[1]}, k0.pair[1], k1.pair[1])};
  }
  float normals[BATCH * GROUP + 4];
  store_normals(normals, words, groups);
  for (int i = 0, at = 0; i < blocks; at = end[i++]) {
    const float* from = normals + 4 * i + skip[i];
    if (at + 4 <= written)  // what is copied too far, the next block overwrites
      std::memcpy(to + at, from, 4 * sizeof(float));
    else
      for (int j = at; j < end[i]; ++j) to[j] = from[j - at];
  }
  return written;
}

// The place, as `slot`, of a position when z_0 and z_1 alone are put in order by two interleavings.
constexpr int pair_slot(int position) {
  const int half = position / (W / 2), rest = position % (W / 2);
  return (rest & 1) * (W / 2) + 2 * (rest / 2) + half;
}

// Rows of two elements, as points in the plane: half of each block's normals are never made.
// Returns the number of elements written, of whole groups of W rows.
int64_t fill_pairs(float* to, int64_t rows, int64_t row, Draw draw, const Noise& noise) {
  static_assert(BATCH % TOGETHER == 0);
  GroupWords words[BATCH];
  const int64_t groups = rows / W < BATCH ? rows / W : BATCH;
  for (int64_t g = 0; g < groups; ++g, row += W) {
    Lanes w1, w2, w3, k0;
    for (int i = 0; i < W; ++i) {
      const Row r = noise_row(noise, row + i);
      const int at = pair_slot(i);
      w1.at[at] = r.sample;
      w2.at[at] = draw.of(row + i);
      w3.at[at] = last_word(noise.stream, 0, r.sample);
      k0.at[at] = r.seed;
    }
    words[g] = {philox({U64{}, w1.pair[0], w2.pair[0], w3.pair[0]}, k0.pair[0], k0.pair[0] >> 32),
                philox({U64{}, w1.pair[1], w2.pair[1], w3.pair[1]}, k0.pair[1], k0.pair[1] >> 32)};
  }
  for (int64_t g = groups; g % TOGETHER; ++g)
    words[g] = GroupWords{};  // computed, and never stored
  for (int64_t g = 0; g < groups; g += TOGETHER) {
    F32 x[TOGETHER], y[TOGETHER];
    points(words + g, x, y);
    for (int64_t k = g; k < g + TOGETHER && k < groups; ++k) {
      const F32 pairs[2] = {low_pairs(x[k - g], y[k - g]), high_pairs(x[k - g], y[k - g])};
      std::memcpy(to + 2 * W * k, pairs, sizeof pairs);
    }
  }
  return groups * 2 * W;
}

// Normals number first .. first + count - 1 of the flattened [rows, elements].
[[maybe_unused]] void fill_normals(float* to, int64_t first, int64_t count, int64_t elements,
                                   Draw draw, const Noise& noise) {
  while (count > 0) {
    const int64_t row = first / elements, element = first % elements, block = element / 4;
    const int64_t left = elements - element < count ? elements - element : count;
    const int64_t until_carry = ((int64_t{1} << 32) - static_cast<uint32_t>(block)) / W;
    int64_t groups = element % 4 == 0 ? left / GROUP : 0;
    if (groups > until_carry) groups = until_carry;
    if (groups > BATCH) groups = BATCH;
    int64_t written = groups * GROUP;
    if (groups > 0) {
      GroupWords words[BATCH];
      draw_words(words, groups, block, noise_row(noise, row), draw.of(row), noise.stream);
      store_normals(to, words, groups);
    } else if (elements == 2 && element == 0 && count >= 2 * W) {
      written = fill_pairs(to, count / 2, row, draw, noise);
    } else {
      written = fill_mixed(to, count, row, element, elements, draw, noise);
    }
    to += written;
    first += written;
    count -= written;
  }
}

}  // namespace
}  // namespace fastgen
