// Linear combinations (fastgen/kernels/combine/reference.py), tile by tile: a tile of every
// tensor stays in the first-level cache while it is converted, clipped, summed and stored.
#pragma once
#include "convert.h"
#include "noise.h"
#include "operations.h"

namespace fastgen {
namespace {

constexpr int TILE = 512;
// Rows shorter than this get their coefficients spread over a tile, one to an element; for longer
// ones it is quicker to prepare the sums anew for each row.
constexpr int64_t SHORT_ROW = 32;

// Outputs from this size on are written past the caches unless they are inputs too: their cache
// lines need not be read first. Measured on Zen 3 with a reader following: 25 % slower at 1 MiB,
// even at 4 MiB, 10 to 15 % faster from 8 MiB on; without a reader 30 % faster from 1 MiB on.
constexpr int64_t STREAM_FROM_BYTES = 4 << 20;

template <class Real>
struct Sum {
  int terms;
  int source[MAX_SOURCES];
  Real coefficient[MAX_SOURCES];
};

template <int N, class Real>
void add_terms(const Sum<Real>& sum, const Real* const* value, Real* to, int64_t count) {
  const Real* x[N];
  Real c[N];
  for (int k = 0; k < N; ++k) x[k] = value[sum.source[k]], c[k] = sum.coefficient[k];
#pragma GCC ivdep  // `to` may be one of x, but never another part of it
  for (int64_t i = 0; i < count; ++i) {
    Real total = c[0] * x[0][i];
    for (int k = 1; k < N; ++k) total += c[k] * x[k][i];
    to[i] = total;
  }
}

template <class Real>
void add_many_terms(const Sum<Real>& sum, const Real* const* value, Real* to, int64_t count) {
  alignas(64) Real total[TILE]{};
  for (int k = 0; k < sum.terms; ++k) {
    const Real c = sum.coefficient[k], *x = value[sum.source[k]];
    for (int64_t i = 0; i < count; ++i) total[i] += c * x[i];
  }
  std::memcpy(to, total, count * sizeof(Real));
}

template <class Real>
void add_terms(const Sum<Real>& sum, const Real* const* value, Real* to, int64_t count) {
  switch (sum.terms) {
    case 1: return add_terms<1>(sum, value, to, count);
    case 2: return add_terms<2>(sum, value, to, count);
    case 3: return add_terms<3>(sum, value, to, count);
    case 4: return add_terms<4>(sum, value, to, count);
    case 5: return add_terms<5>(sum, value, to, count);
    case 6: return add_terms<6>(sum, value, to, count);
    default: return add_many_terms(sum, value, to, count);
  }
}

template <class Real>
class Stage {
 public:
  explicit Stage(const Combine& op)
      : op(op), columns(op.columns()), clipped(op.inputs), noise(op.inputs + op.clip) {
    if (op.size() * int64_t{sizeof(Real)} < STREAM_FROM_BYTES) return;
    for (int j = 0; j < op.outputs; ++j) {
      bool is_input = false;
      for (int i = 0; i < op.inputs; ++i) is_input |= op.input[i] == op.output[j];
      if (op.output_type[j] == dtype_of<Real> && !is_input) streamed |= 1u << j;
    }
  }

  void run(int64_t begin, int64_t end) {
    if (!op.table_per_row) {
      choose_terms(op.table);
      for (int64_t at = begin; at < end; at += TILE) tile(at, at + TILE < end ? TILE : end - at);
    } else if (op.elements < SHORT_ROW) {
      used = (uint64_t{1} << columns) - 1;
      const int64_t step = TILE / op.elements * op.elements;
      for (int64_t at = begin; at < end; at += step)
        tile_of_short_rows(at, at + step < end ? step : end - at);
    } else {
      for (int64_t row = begin / op.elements; row * op.elements < end; ++row) {
        choose_terms(op.table + row * (op.outputs + op.clip) * columns);
        int64_t at = row * op.elements, stop = at + op.elements;
        if (at < begin) at = begin;
        if (stop > end) stop = end;
        for (; at < stop; at += TILE) tile(at, at + TILE < stop ? TILE : stop - at);
      }
    }
    if (streamed) finish_streams();
  }

 private:
  const Combine& op;
  const int columns, clipped, noise;  // the sources: inputs, clipped value, noises
  uint64_t used = 0;                  // bit i: some sum reads source i
  uint32_t deferred = 0;  // bit j: a later output reads the input that output j overwrites
  uint32_t streamed = 0;  // bit j: output j is written past the caches
  Sum<Real> clip_sum, sums[MAX_OUTPUTS];
  const Real* value[MAX_SOURCES];
  alignas(64) Real source_tile[MAX_SOURCES][TILE];
  alignas(64) Real output_tile[MAX_OUTPUTS][TILE];

  void choose_terms(const double* table) {
    used = 0;
    const double* c = table + op.clip * columns;
    for (int j = 0; j < op.outputs; ++j, c += columns) choose_terms(c, columns, &sums[j]);
    if (used >> clipped & op.clip) choose_terms(table, op.inputs, &clip_sum);
    deferred = 0;
    for (int j = 0; j < op.outputs; ++j)
      for (int later = j + 1; later < op.outputs; ++later)
        for (int k = 0; k < sums[later].terms; ++k) {
          const int i = sums[later].source[k];
          if (i < op.inputs && op.input[i] == op.output[j]) deferred |= 1u << j;
        }
  }

  void choose_terms(const double* c, int count, Sum<Real>* sum) {
    sum->terms = 0;
    for (int i = 0; i < count; ++i) {
      const Real rounded = static_cast<Real>(c[i]);
      if (rounded == 0) continue;
      sum->source[sum->terms] = i;
      sum->coefficient[sum->terms++] = rounded;
      used |= uint64_t{1} << i;
    }
  }

  bool reads(int source) const { return used >> source & 1; }

  void load_inputs(int64_t first, int64_t count) {
    for (int i = 0; i < op.inputs; ++i) {
      if (!reads(i)) continue;
      if (op.input_type[i] == dtype_of<Real>) {
        value[i] = static_cast<const Real*>(op.input[i]) + first;
      } else {
        load(source_tile[i], op.input[i], op.input_type[i], first, count);
        value[i] = source_tile[i];
      }
    }
  }

  void clip_tile(int64_t count) {
    const Real low = static_cast<Real>(op.low), high = static_cast<Real>(op.high);
    Real* d = source_tile[clipped];
    for (int64_t i = 0; i < count; ++i) {  // NaN passes through both comparisons
      d[i] = d[i] < low ? low : d[i];
      d[i] = d[i] > high ? high : d[i];
    }
    value[clipped] = d;
  }

  void draw_noise(int64_t first, int64_t count) {
    for (int k = 0; k < op.noises; ++k) {
      if (!reads(noise + k)) continue;
      Real* z = source_tile[noise + k];
      const Draw draw{op.draws + k, op.draws_per_row ? op.noises : 0};
      if constexpr (sizeof(Real) == sizeof(float)) {
        fill_normals(z, first, count, op.elements, draw, op.noise);
      } else {
        alignas(64) float normals[TILE];
        fill_normals(normals, first, count, op.elements, draw, op.noise);
        convert(z, normals, count);
      }
      value[noise + k] = z;
    }
  }

  void tile(int64_t first, int64_t count) {
    load_inputs(first, count);
    if (used >> clipped & op.clip) {
      add_terms(clip_sum, value, source_tile[clipped], count);
      clip_tile(count);
    }
    draw_noise(first, count);
    for (int j = 0; j < op.outputs; ++j) {
      Real* to = static_cast<Real*>(op.output[j]) + first;
      if (streamed >> j & 1 && reinterpret_cast<uintptr_t>(to) % sizeof(F32) == 0) {
        add_terms(sums[j], value, output_tile[j], count);
        stream_bytes(to, output_tile[j], count * sizeof(Real));
      } else if (op.output_type[j] == dtype_of<Real> && !(deferred >> j & 1)) {
        add_terms(sums[j], value, to, count);
      } else {
        add_terms(sums[j], value, output_tile[j], count);
        if (!(deferred >> j & 1)) store_tile(j, first, count);
      }
    }
    for (int j = 0; deferred >> j; ++j)
      if (deferred >> j & 1) store_tile(j, first, count);
  }

  void store_tile(int j, int64_t first, int64_t count) {
    store(op.output[j], op.output_type[j], first, output_tile[j], count);
  }

  void tile_of_short_rows(int64_t first, int64_t count) {
    load_inputs(first, count);
    if (op.clip) {
      add_rows(0, op.inputs, first, count, source_tile[clipped]);
      clip_tile(count);
    }
    draw_noise(first, count);
    for (int j = 0; j < op.outputs; ++j)
      add_rows(op.clip + j, columns, first, count, output_tile[j]);
    for (int j = 0; j < op.outputs; ++j) store_tile(j, first, count);
  }

  // Row `table_row` of each sample's table, on whole samples.
  void add_rows(int table_row, int terms, int64_t first, int64_t count, Real* total) {
    constexpr int WIDE = 8;
    const int64_t stride = (op.outputs + op.clip) * columns;
    const double* table = op.table + first / op.elements * stride + table_row * columns;
    alignas(64) Real c[TILE + WIDE];
    for (int64_t i = 0; i < count; ++i) total[i] = 0;
    for (int k = 0; k < terms; ++k) {
      const double* entry = table + k;
      for (int64_t at = 0; at < count; at += op.elements, entry += stride)
        for (int64_t i = at; i < at + op.elements; i += WIDE)  // the next sample overwrites excess
          for (int lane = 0; lane < WIDE; ++lane) c[i + lane] = static_cast<Real>(*entry);
      const Real* x = value[k];
      for (int64_t i = 0; i < count; ++i) {
        const Real sum = total[i] + c[i] * x[i];
        total[i] = c[i] == 0 ? total[i] : sum;
      }
    }
  }
};

void combine(const Combine& op, int64_t begin, int64_t end) {
  if (op.float64)
    Stage<double>(op).run(begin, end);
  else
    Stage<float>(op).run(begin, end);
}

void normals(const Normals& op, int64_t begin, int64_t end) {
  alignas(64) float tile[TILE];
  for (int64_t at = begin; at < end; at += TILE) {
    const int64_t count = at + TILE < end ? TILE : end - at;
    const bool direct = op.output_type == DType::float32;
    float* z = direct ? static_cast<float*>(op.output) + at : tile;
    fill_normals(z, at, count, op.elements, {&op.draw, 0}, op.noise);
    if (!direct) store(op.output, op.output_type, at, tile, count);
  }
}

}  // namespace
}  // namespace fastgen
