// One training batch: rows are taken in chunks. Times and coefficients of a chunk are made first, W
// rows at a time; then short rows are gathered together into a tile, and long ones are worked off
// tile by tile.
#pragma once
#include <cmath>

#include "bridge/operation.h"
#include "common/convert.h"
#include "common/normals.h"

namespace fastgen {
namespace {

constexpr int64_t CHUNK = 256;  // rows
constexpr int64_t TILE = 512;   // elements
// Rows shorter than this get their coefficients spread over a tile, one to an element.
constexpr int64_t SHORT_ROW = 32;

// From the numbers v that rows draw to u, see `Sampling`.
void spread_uniforms(Sampling sampling, int64_t rows, int64_t first, int64_t count, double* u) {
  if (sampling == Sampling::stratified)
    for (int64_t i = 0; i < count; ++i)
      u[i] = (static_cast<double>(first + i) + u[i]) / static_cast<double>(rows);
  if (sampling == Sampling::antithetic)
    for (int64_t i = 0; i < count; ++i)
      if ((first + i) % 2) u[i] = 1.0 - u[i];
}

// u of rows [first, first + count).
void draw_uniforms(const Noise& noise, uint32_t draw, Sampling sampling, int64_t rows,
                   int64_t first, int64_t count, double* u) {
  const bool paired = sampling == Sampling::antithetic;
  const U64 w2 = splat(draw);
  for (int64_t at = 0; at < count; at += W) {
    Lanes w1{}, w3{}, k0{}, k1{}, high, low;
    const int64_t lanes = count - at < W ? count - at : W;
    for (int i = 0; i < lanes; ++i) {
      const int64_t row = first + at + i;
      const Row r = noise_row(noise, paired ? row & ~int64_t{1} : row);
      const int s = slot(i);
      w1.at[s] = r.sample;
      w3.at[s] = last_word(noise.stream, 0, r.sample);
      k0.at[s] = r.seed;
      k1.at[s] = r.seed >> 32;
    }
    for (int half = 0; half < 2; ++half) {
      const Words words =
          philox({U64{}, w1.pair[half], w2, w3.pair[half]}, k0.pair[half], k1.pair[half]);
      high.pair[half] = words.w0;
      low.pair[half] = words.w1;
    }
    for (int i = 0; i < lanes; ++i) {
      const uint64_t h = high.at[slot(i)] & 0xFFFFFFFFu, l = low.at[slot(i)] & 0xFFFFFFFFu;
      u[at + i] = (static_cast<double>(static_cast<int64_t>(h << 20 | l >> 12)) + 0.5) * 0x1p-52;
    }
  }
  spread_uniforms(sampling, rows, first, count, u);
}

// Words of samples id .. id + W - 1 of one seed, block 0: even ones, then odd ones.
FASTGEN_INLINE GroupWords words_in_order(U64 even, U64 odd, uint32_t draw, uint32_t stream,
                                         uint64_t seed) {
  const U64 w2 = splat(draw), w3 = splat(stream), k0 = splat(seed), k1 = splat(seed >> 32);
  return {philox({U64{}, even, w2, w3}, k0, k1), philox({U64{}, odd, w2, w3}, k0, k1)};
}

FASTGEN_INLINE void every_second(int64_t first, U64* even, U64* odd) {
  for (int i = 0; i < W / 2; ++i) (*even)[i] = first + 2 * i, (*odd)[i] = first + 2 * i + 1;
}

FASTGEN_INLINE F64 uniform(const Words& words) {
  const U64 n = (words.w0 & 0xFFFFFFFFu) << 20 | (words.w1 & 0xFFFFFFFFu) >> 12;
  // As the mantissa of a number in [2^52, 2^53) it is converted exactly.
  return (((F64)(n | 0x4330000000000000u) - 0x1p52) + 0.5) * 0x1p-52;
}

// The uniforms v of rows [first, first + count) whose ids are their numbers; writes whole groups.
__attribute__((noinline)) void draw_uniforms_in_order(uint64_t seed, uint32_t stream, uint32_t draw,
                                                      bool paired, int64_t first, int64_t count,
                                                      double* u) {
  U64 even, odd;
  every_second(first, &even, &odd);
  for (int64_t at = 0; at < count; at += W, even += W, odd += W) {
    const GroupWords words = words_in_order(even, paired ? even : odd, draw, stream, seed);
    const F64 e = uniform(words.even), o = uniform(words.odd);
    for (int i = 0; i < W / 2; ++i) u[at + 2 * i] = e[i], u[at + 2 * i + 1] = o[i];
  }
}

// The two normals of every row of [count, 2]; writes whole groups.
__attribute__((noinline)) void draw_pairs_in_order(uint64_t seed, uint32_t stream, uint32_t draw,
                                                   int64_t first, int64_t count, float* to) {
  U64 even, odd;
  every_second(first, &even, &odd);
  for (int64_t at = 0; at < count; at += TOGETHER * W) {
    GroupWords words[TOGETHER];
    for (int g = 0; g < TOGETHER; ++g, even += W, odd += W)
      words[g] = words_in_order(even, odd, draw, stream, seed);
    F32 x[TOGETHER], y[TOGETHER];
    points(words, x, y);
    for (int g = 0; g < TOGETHER && at + g * W < count; ++g) {
      const F32 low = low_pairs(x[g], y[g]), high = high_pairs(x[g], y[g]);
      for (int part = 0; part < W / 4; ++part) {
        float* place = to + 2 * (at + g * W) + 8 * part;
        std::memcpy(place, reinterpret_cast<const char*>(&low) + 16 * part, 16);
        std::memcpy(place + 4, reinterpret_cast<const char*>(&high) + 16 * part, 16);
      }
    }
  }
}

void quantiles_of(const double* quantiles, int64_t cells, double* t, int64_t count) {
  if (cells == 1) {
    const double low = quantiles[0], width = quantiles[1] - quantiles[0];
    for (int64_t i = 0; i < count; ++i) t[i] = low + t[i] * width;
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const double p = t[i] * static_cast<double>(cells);
    int64_t k = static_cast<int64_t>(p);
    if (k > cells - 1) k = cells - 1;
    t[i] = quantiles[k] + (p - static_cast<double>(k)) * (quantiles[k + 1] - quantiles[k]);
  }
}

template <class Real>
class Batch {
 public:
  explicit Batch(const Bridge& op) : op_(op) {
    for (int f = 0; f < FEATURES && op_.recipe; ++f)
      for (int i = 0; i < op_.outputs * TERMS; ++i) needed_[f] |= op_.recipe[i * FEATURES + f] != 0;
    const bool present[TERMS] = {op_.x[0].rows != nullptr, op_.x[1].rows != nullptr, op_.noisy};
    for (int k = 0; k < TERMS; ++k)
      if (present[k]) term_[terms_++] = k;
  }

  void run(int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row += CHUNK) {
      const int64_t count = last - row < CHUNK ? last - row : CHUNK;
      prepare(row, count);
      if (op_.elements == 0) continue;
      if (op_.elements < SHORT_ROW) {
        const int64_t step = TILE / op_.elements;
        for (int64_t r = 0; r < count; r += step)
          short_rows(row + r, r, count - r < step ? count - r : step);
      } else {
        for (int64_t r = 0; r < count; ++r) long_row(row + r, r);
      }
    }
  }

 private:
  const Bridge& op_;
  bool needed_[FEATURES] = {};
  int terms_ = 0, term_[TERMS];
  double t_[CHUNK], feature_[FEATURES][CHUNK];  // CHUNK is a multiple of W
  Real c_[MAX_TARGETS][TERMS][CHUNK];
  alignas(64) Real source_[TERMS][TILE], spread_[TILE], total_[TILE];

  void prepare(int64_t row, int64_t count) {
    if (op_.times) {
      std::memcpy(t_, op_.times + row, count * sizeof(double));
    } else {
      if (op_.in_order) {
        const bool paired = op_.sampling == Sampling::antithetic;
        draw_uniforms_in_order(op_.noise.seeds[0], op_.time_stream, op_.draw, paired, row, count,
                               t_);
        spread_uniforms(op_.sampling, op_.rows, row, count, t_);
      } else {
        Noise noise = op_.noise;
        noise.stream = op_.time_stream;
        draw_uniforms(noise, op_.draw, op_.sampling, op_.rows, row, count, t_);
      }
      quantiles_of(op_.quantiles, op_.cells, t_, count);
    }
    store(op_.times_out, op_.times_type, row, t_, count);
    if (op_.recipe) {
      evaluate(count);
    } else {
      const double* from = op_.table + row * op_.outputs * TERMS;
      for (int64_t r = 0; r < count; ++r)
        for (int j = 0; j < op_.outputs; ++j)
          for (int k = 0; k < TERMS; ++k) c_[j][k][r] = static_cast<Real>(*from++);
    }
  }

  void evaluate(int64_t count) {
    for (int64_t r = 0; r < count; ++r) {
      const bool inside = t_[r] >= 0 && t_[r] <= 1;
      feature_[0][r] = 1.0;
      feature_[1][r] = inside ? t_[r] : NAN;
    }
    if (needed_[2] || needed_[3] || needed_[4])
      for (int64_t r = 0; r < count; ++r)
        feature_[2][r] = std::sqrt(feature_[1][r] * (1.0 - feature_[1][r]));
    if (needed_[3])
      for (int64_t r = 0; r < count; ++r)
        feature_[3][r] = (1.0 - 2.0 * feature_[1][r]) / (2.0 * feature_[2][r]);
    if (needed_[4])
      for (int64_t r = 0; r < count; ++r) feature_[4][r] = 1.0 / feature_[2][r];
    const double* recipe = op_.recipe;
    double sum[CHUNK];
    for (int j = 0; j < op_.outputs; ++j)
      for (int k = 0; k < TERMS; ++k, recipe += FEATURES) {
        for (int64_t r = 0; r < count; ++r) sum[r] = 0;
        for (int f = 0; f < FEATURES; ++f)
          if (recipe[f] != 0)
            for (int64_t r = 0; r < count; ++r) sum[r] += recipe[f] * feature_[f][r];
        for (int64_t r = 0; r < count; ++r) c_[j][k][r] = static_cast<Real>(sum[r]);
      }
  }

  // The row of choice k that belongs to row `row` of the batch, or -1.
  int64_t chosen(int k, int64_t row) const {
    const Choice& x = op_.x[k];
    const int64_t i = x.index ? x.index[row] : row;
    if (i >= 0 && i < x.count) return i;
    op_.bad_index->store(true, std::memory_order_relaxed);
    return -1;
  }

  void draw_noise(int64_t first, int64_t count) {
    const int64_t draw = op_.draw;
    alignas(64) float normals[TILE];
    float* z = normals;
    if constexpr (sizeof(Real) == sizeof(float)) z = source_[2];
    if (op_.in_order && op_.elements == 2)
      draw_pairs_in_order(op_.noise.seeds[0], op_.noise.stream, op_.draw, first / 2, count / 2, z);
    else
      fill_normals(z, first, count, op_.elements, {&draw, 0}, op_.noise);
    if constexpr (sizeof(Real) != sizeof(float)) convert(source_[2], z, count);
  }

  // Of elements e .. e + count - 1 of a long row: in whole groups, the last of which may go beyond.
  void draw_row_noise(int64_t row, int64_t e, int64_t count) {
    static_assert(TILE % GROUP == 0);
    const int64_t block = e / 4, groups = (count + GROUP - 1) / GROUP;
    const bool carries = block >> 32 != (block + groups * W) >> 32;
    if (sizeof(Real) != sizeof(float) || e % 4 != 0 || carries) {
      draw_noise(row * op_.elements + e, count);
      return;
    }
    GroupWords words[BATCH];
    float* z = reinterpret_cast<float*>(source_[2]);
    for (int64_t g = 0; g < groups; g += BATCH) {
      const int64_t some = groups - g < BATCH ? groups - g : BATCH;
      draw_words(words, some, block + g * W, noise_row(op_.noise, row), op_.draw, op_.noise.stream);
      store_normals(z + g * GROUP, words, some);
    }
  }

  void short_rows(int64_t row, int64_t at, int64_t rows) {
    const int64_t elements = op_.elements, count = rows * elements;
    for (int n = 0; n < terms_; ++n) {
      const int k = term_[n];
      if (k == 2) {
        draw_noise(row * elements, count);
      } else if (!op_.x[k].index) {
        load(source_[k], op_.x[k].rows, op_.x[k].type, row * elements, count);
      } else if (op_.x[k].type == dtype_of<Real>) {
        const Real* from = static_cast<const Real*>(op_.x[k].rows);
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t i = chosen(k, row + r);
          if (i < 0) return;
          for (int64_t e = 0; e < elements; ++e)
            source_[k][r * elements + e] = from[i * elements + e];
        }
      } else {
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t i = chosen(k, row + r);
          if (i < 0) return;
          load(source_[k] + r * elements, op_.x[k].rows, op_.x[k].type, i * elements, elements);
        }
      }
    }
    for (int j = 0; j < op_.outputs; ++j) {
      for (int64_t i = 0; i < count; ++i) total_[i] = 0;
      for (int n = 0; n < terms_; ++n) {
        const Real* x = source_[term_[n]];
        const Real* each = spread_over(c_[j][term_[n]] + at, rows);
        for (int64_t i = 0; i < count; ++i) {
          const Real sum = total_[i] + each[i] * x[i];
          total_[i] = each[i] == 0 ? total_[i] : sum;
        }
      }
      store(op_.output[j], op_.output_type[j], row * elements, total_, count);
    }
  }

  const Real* spread_over(const Real* coefficient, int64_t rows) {
    const int64_t elements = op_.elements;
    if (elements == 1) return coefficient;
    if (elements == 2) {
      for (int64_t r = 0; r < rows; ++r) spread_[2 * r] = spread_[2 * r + 1] = coefficient[r];
      return spread_;
    }
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t e = 0; e < elements; ++e) spread_[r * elements + e] = coefficient[r];
    return spread_;
  }

  void long_row(int64_t row, int64_t at) {
    int64_t from[2] = {};
    for (int k = 0; k < 2; ++k)
      if (op_.x[k].rows && (from[k] = chosen(k, row) * op_.elements) < 0) return;
    for (int64_t e = 0; e < op_.elements; e += TILE) {
      const int64_t count = op_.elements - e < TILE ? op_.elements - e : TILE;
      const Real* value[TERMS] = {source_[0], source_[1], source_[2]};
      for (int k = 0; k < 2; ++k) {
        if (!op_.x[k].rows) continue;
        if (op_.x[k].type == dtype_of<Real>)
          value[k] = static_cast<const Real*>(op_.x[k].rows) + from[k] + e;
        else
          load(source_[k], op_.x[k].rows, op_.x[k].type, from[k] + e, count);
      }
      if (op_.noisy) draw_row_noise(row, e, count);
      for (int j = 0; j < op_.outputs; ++j) {
        const bool direct = op_.output_type[j] == dtype_of<Real>;
        Real* to = direct ? static_cast<Real*>(op_.output[j]) + row * op_.elements + e : total_;
        sum(j, at, value, to, count);
        if (!direct) store(op_.output[j], op_.output_type[j], row * op_.elements + e, to, count);
      }
    }
  }

  void sum(int j, int64_t at, const Real* const* value, Real* to, int64_t count) const {
    int present = 0;
    const Real* x[TERMS];
    Real w[TERMS];
    for (int n = 0; n < terms_; ++n) {
      const Real coefficient = c_[j][term_[n]][at];
      if (coefficient == 0) continue;
      x[present] = value[term_[n]];
      w[present++] = coefficient;
    }
    if (present == 3) {
      for (int64_t i = 0; i < count; ++i)
        to[i] = (w[0] * x[0][i] + w[1] * x[1][i]) + w[2] * x[2][i];
    } else if (present == 2) {
      for (int64_t i = 0; i < count; ++i) to[i] = w[0] * x[0][i] + w[1] * x[1][i];
    } else if (present == 1) {
      for (int64_t i = 0; i < count; ++i) to[i] = w[0] * x[0][i];
    } else {
      std::memset(to, 0, count * sizeof(Real));
    }
  }
};

void bridge_rows(const Bridge& op, int64_t first, int64_t last) {
  if (op.float64)
    Batch<double>(op).run(first, last);
  else
    Batch<float>(op).run(first, last);
}

void times_of_rows(const Times& op, int64_t first, int64_t last) {
  const int64_t count = last - first;
  draw_uniforms(op.noise, op.draw, op.sampling, op.rows, first, count, op.output + first);
  quantiles_of(op.quantiles, op.cells, op.output + first, count);
}

}  // namespace
}  // namespace fastgen
