// The kernel of stochastic.h, tile by tile: every tensor, the noises and their powers stay in the
// first-level cache. Internal linkage: each instruction set has its own.
#pragma once
#include "../convert.h"
#include "../noise.h"
#include "stochastic.h"

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
class StochasticTiles {
 public:
  explicit StochasticTiles(const Stochastic& op) : op(op) {}

  void run(int64_t begin, int64_t end) {
    if (!op.table_per_row) choose(op.table);
    for (int64_t at = begin; at < end; at += TILE) tile(at, at + TILE < end ? TILE : end - at);
  }

 private:
  const Stochastic& op;
  int count[MAX_OUTPUTS];
  Weight<Real> weights[MAX_OUTPUTS][MAX_INPUTS];
  const Real* value[MAX_INPUTS];
  const Real* monomial[MONOMIALS];  // that of 1 is never read
  alignas(64) Real input_tile[MAX_INPUTS][TILE];
  alignas(64) Real monomial_tile[MONOMIALS][TILE];
  alignas(64) Real output_tile[MAX_OUTPUTS][TILE];
  alignas(64) Real weight_tile[TILE];

  void choose(const double* table) {
    for (int j = 0; j < op.outputs; ++j) {
      count[j] = 0;
      for (int i = 0; i < op.inputs; ++i, table += MONOMIALS) {
        Weight<Real>& w = weights[j][count[j]];
        w.source = i;
        w.terms = 0;
        for (int k = 0; k < MONOMIALS; ++k) {
          const Real c = static_cast<Real>(table[k]);
          if (c == 0) continue;
          w.monomial[w.terms] = k;
          w.coefficient[w.terms++] = c;
        }
        count[j] += w.terms > 0;
      }
    }
  }

  const Real* read(Real* tile, const void* from, DType type, int64_t first, int64_t size) {
    if (type == dtype_of<Real>) return static_cast<const Real*>(from) + first;
    load(tile, from, type, first, size);
    return tile;
  }

  const Real* draw(Real* to, int k, int64_t first, int64_t size) {
    if (op.given[k]) return read(to, op.given[k], op.given_type[k], first, size);
    if (k >= op.noises) return nullptr;
    const Draw number{op.draws + k, op.draws_per_row ? op.noises : 0};
    if constexpr (sizeof(Real) == sizeof(float)) {
      fill_normals(to, first, size, op.elements, number, op.noise);
    } else {
      alignas(64) float normals[TILE];
      fill_normals(normals, first, size, op.elements, number, op.noise);
      convert(to, normals, size);
    }
    return to;
  }

  void tile(int64_t first, int64_t size) {
    for (int i = 0; i < op.inputs; ++i)
      value[i] = read(input_tile[i], op.input[i], op.input_type[i], first, size);
    const Real* z = monomial[1] = draw(monomial_tile[1], 0, first, size);
    monomial[4] = draw(monomial_tile[4], 1, first, size);
    monomial[2] = monomial_tile[2];
    monomial[3] = monomial_tile[3];
    if (z) {
      Real *square = monomial_tile[2], *cube = monomial_tile[3];
      for (int64_t e = 0; e < size; ++e) {
        square[e] = z[e] * z[e];
        cube[e] = square[e] * z[e];
      }
    }
    if (op.table_per_row) {
      const int64_t stride = int64_t{op.outputs} * op.inputs * MONOMIALS;
      for (int64_t at = first; at < first + size;) {
        const int64_t row = at / op.elements;
        int64_t stop = (row + 1) * op.elements;
        if (stop > first + size) stop = first + size;
        choose(op.table + row * stride);
        sums(at - first, stop - first);
        at = stop;
      }
    } else {
      sums(0, size);
    }
    // Everything is read before anything is written: outputs may be inputs.
    for (int j = 0; j < op.outputs; ++j)
      store(op.output[j], op.output_type[j], first, output_tile[j], size);
  }

  void sums(int64_t begin, int64_t end) {
    for (int j = 0; j < op.outputs; ++j) {
      Real* total = output_tile[j];
      for (int64_t e = begin; e < end; ++e) total[e] = 0;
      for (int n = 0; n < count[j]; ++n) add(total, weights[j][n], begin, end);
    }
  }

  void add(Real* total, const Weight<Real>& w, int64_t begin, int64_t end) {
    const Real *x = value[w.source], c = w.coefficient[0];
    const Real* m = monomial[w.monomial[0]];
    if (w.terms == 1 && w.monomial[0] == 0) {
      for (int64_t e = begin; e < end; ++e) total[e] += c * x[e];
    } else if (w.terms == 1) {
      for (int64_t e = begin; e < end; ++e) total[e] += (c * m[e]) * x[e];
    } else {
      Real* weight = weight_tile;
      for (int64_t e = begin; e < end; ++e) weight[e] = w.monomial[0] == 0 ? c : c * m[e];
      for (int k = 1; k < w.terms; ++k) {
        const Real d = w.coefficient[k], *next = monomial[w.monomial[k]];
        for (int64_t e = begin; e < end; ++e) weight[e] += d * next[e];
      }
      for (int64_t e = begin; e < end; ++e) total[e] += weight[e] * x[e];
    }
  }
};

void combine_tiles(const Stochastic& op, int64_t begin, int64_t end) {
  if (op.float64)
    StochasticTiles<double>(op).run(begin, end);
  else
    StochasticTiles<float>(op).run(begin, end);
}

}  // namespace
}  // namespace fastgen
