// Tile by tile: every tensor, the noises and their powers stay in the first-level cache.
#pragma once
#include "common/convert.h"
#include "common/normals.h"
#include "stochastic_combine/operation.h"

namespace fastgen {
namespace {

constexpr int TILE = 512;

// The monomials of one input in one output: weight = sum_k c_k m_k.
template <class Real>
struct Weight {
  int source, terms, monomial[MONOMIALS];
  Real coefficient[MONOMIALS];
};

template <class Real>
class Tiles {
 public:
  explicit Tiles(const StochasticCombine& op) : op_(op) {}

  void run(int64_t begin, int64_t end) {
    if (!op_.table_per_row) choose(op_.table);
    for (int64_t at = begin; at < end; at += TILE) tile(at, at + TILE < end ? TILE : end - at);
  }

 private:
  const StochasticCombine& op_;
  int count_[MAX_OUTPUTS];
  Weight<Real> weights_[MAX_OUTPUTS][MAX_INPUTS];
  const Real* value_[MAX_INPUTS];
  const Real* monomial_[MONOMIALS];  // that of 1 is never read
  alignas(64) Real input_tile_[MAX_INPUTS][TILE];
  alignas(64) Real monomial_tile_[MONOMIALS][TILE];
  alignas(64) Real output_tile_[MAX_OUTPUTS][TILE];
  alignas(64) Real weight_tile_[TILE];

  void choose(const double* table) {
    for (int j = 0; j < op_.outputs; ++j) {
      count_[j] = 0;
      for (int i = 0; i < op_.inputs; ++i, table += MONOMIALS) {
        Weight<Real>& w = weights_[j][count_[j]];
        w.source = i;
        w.terms = 0;
        for (int k = 0; k < MONOMIALS; ++k) {
          const Real c = static_cast<Real>(table[k]);
          if (c == 0) continue;
          w.monomial[w.terms] = k;
          w.coefficient[w.terms++] = c;
        }
        count_[j] += w.terms > 0;
      }
    }
  }

  const Real* read(Real* tile, const void* from, DType type, int64_t first, int64_t size) {
    if (type == dtype_of<Real>) return static_cast<const Real*>(from) + first;
    load(tile, from, type, first, size);
    return tile;
  }

  const Real* draw(Real* to, int k, int64_t first, int64_t size) {
    if (op_.given[k]) return read(to, op_.given[k], op_.given_type[k], first, size);
    if (k >= op_.noises) return nullptr;
    const Draw number{op_.draws + k, op_.draws_per_row ? op_.noises : 0};
    if constexpr (sizeof(Real) == sizeof(float)) {
      fill_normals(to, first, size, op_.elements, number, op_.noise);
    } else {
      alignas(64) float normals[TILE];
      fill_normals(normals, first, size, op_.elements, number, op_.noise);
      convert(to, normals, size);
    }
    return to;
  }

  void tile(int64_t first, int64_t size) {
    for (int i = 0; i < op_.inputs; ++i)
      value_[i] = read(input_tile_[i], op_.input[i], op_.input_type[i], first, size);
    const Real* z = monomial_[1] = draw(monomial_tile_[1], 0, first, size);
    monomial_[4] = draw(monomial_tile_[4], 1, first, size);
    monomial_[2] = monomial_tile_[2];
    monomial_[3] = monomial_tile_[3];
    if (z) {
      Real *square = monomial_tile_[2], *cube = monomial_tile_[3];
      for (int64_t e = 0; e < size; ++e) {
        square[e] = z[e] * z[e];
        cube[e] = square[e] * z[e];
      }
    }
    if (op_.table_per_row) {
      const int64_t stride = int64_t{op_.outputs} * op_.inputs * MONOMIALS;
      for (int64_t at = first; at < first + size;) {
        const int64_t row = at / op_.elements;
        int64_t stop = (row + 1) * op_.elements;
        if (stop > first + size) stop = first + size;
        choose(op_.table + row * stride);
        sums(at - first, stop - first);
        at = stop;
      }
    } else {
      sums(0, size);
    }
    // Everything is read before anything is written: outputs may be inputs.
    for (int j = 0; j < op_.outputs; ++j)
      store(op_.output[j], op_.output_type[j], first, output_tile_[j], size);
  }

  void sums(int64_t begin, int64_t end) {
    for (int j = 0; j < op_.outputs; ++j) {
      Real* total = output_tile_[j];
      for (int64_t e = begin; e < end; ++e) total[e] = 0;
      for (int n = 0; n < count_[j]; ++n) add(total, weights_[j][n], begin, end);
    }
  }

  void add(Real* total, const Weight<Real>& w, int64_t begin, int64_t end) {
    const Real *x = value_[w.source], c = w.coefficient[0];
    const Real* m = monomial_[w.monomial[0]];
    if (w.terms == 1 && w.monomial[0] == 0) {
      for (int64_t e = begin; e < end; ++e) total[e] += c * x[e];
    } else if (w.terms == 1) {
      for (int64_t e = begin; e < end; ++e) total[e] += (c * m[e]) * x[e];
    } else {
      Real* weight = weight_tile_;
      for (int64_t e = begin; e < end; ++e) weight[e] = w.monomial[0] == 0 ? c : c * m[e];
      for (int k = 1; k < w.terms; ++k) {
        const Real d = w.coefficient[k], *next = monomial_[w.monomial[k]];
        for (int64_t e = begin; e < end; ++e) weight[e] += d * next[e];
      }
      for (int64_t e = begin; e < end; ++e) total[e] += weight[e] * x[e];
    }
  }
};

void combine_elements(const StochasticCombine& op, int64_t begin, int64_t end) {
  if (op.float64)
    Tiles<double>(op).run(begin, end);
  else
    Tiles<float>(op).run(begin, end);
}

}  // namespace
}  // namespace fastgen
