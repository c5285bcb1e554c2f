// Tile by tile: a tile of every tensor stays in the first-level cache while it is converted,
// clipped, summed and stored.
#pragma once
#include <algorithm>

#include "combine/operation.h"
#include "combine/sums.h"
#include "common/convert.h"
#include "common/normals.h"

namespace fastgen {
namespace {

// Rows shorter than this get their coefficients spread over a tile, one to an element; for longer
// ones it is quicker to prepare the sums anew for each row.
constexpr int64_t SHORT_ROW = 32;

// Outputs from this size on are written past the caches unless they are inputs too: their cache
// lines need not be read first. Measured on Zen 3 with a reader following: 25 % slower at 1 MiB,
// even at 4 MiB, 10 to 15 % faster from 8 MiB on; without a reader 30 % faster from 1 MiB on.
constexpr int64_t STREAM_FROM_BYTES = 4 << 20;

template <class Real>
class Stage {
 public:
  explicit Stage(const Combine& op)
      : op_(op), columns_(op.columns()), clipped_(op.inputs), first_noise_(op.inputs + op.clip) {
    if (op_.size() * int64_t{sizeof(Real)} < STREAM_FROM_BYTES) return;
    for (int j = 0; j < op_.outputs; ++j) {
      bool is_input = false;
      for (int i = 0; i < op_.inputs; ++i) is_input |= op_.input[i] == op_.output[j];
      if (op_.output_type[j] == dtype_of<Real> && !is_input) streamed_ |= 1u << j;
    }
  }

  void run(int64_t begin, int64_t end) {
    if (!op_.table_per_row) {
      choose_terms(op_.table);
      for (int64_t at = begin; at < end; at += TILE) tile(at, at + TILE < end ? TILE : end - at);
    } else if (op_.elements < SHORT_ROW) {
      used_ = (uint64_t{1} << columns_) - 1;
      const int64_t step = TILE / op_.elements * op_.elements;
      for (int64_t at = begin; at < end; at += step)
        tile_of_short_rows(at, at + step < end ? step : end - at);
    } else {
      for (int64_t row = begin / op_.elements; row * op_.elements < end; ++row) {
        choose_terms(op_.table + row * op_.table_rows() * columns_);
        int64_t at = row * op_.elements, stop = at + op_.elements;
        if (at < begin) at = begin;
        if (stop > end) stop = end;
        for (; at < stop; at += TILE) tile(at, at + TILE < stop ? TILE : stop - at);
      }
    }
    if (streamed_) finish_streams();
  }

 private:
  const Combine& op_;
  const int columns_, clipped_, first_noise_;  // the sources: inputs, clipped value, noises
  uint64_t used_ = 0;                          // bit i: some sum reads source i
  uint32_t kept_ = 0;                          // bit j: output j is an input that stays as it is
  uint32_t deferred_ = 0;  // bit j: a later output reads the input that output j overwrites
  uint32_t streamed_ = 0;  // bit j: output j is written past the caches
  Sum<Real> clip_sum_, sums_[MAX_OUTPUTS], known_sums_[MAX_OUTPUTS];
  const uint8_t* chosen_ = nullptr;  // the mask of the tile, bytes
  const Real* mixed_ = nullptr;      // or weights
  Side side_ = Side::some;           // of the tile
  const Real* value_[MAX_SOURCES];
  alignas(64) Real source_tile_[MAX_SOURCES][TILE];
  alignas(64) Real output_tile_[MAX_OUTPUTS][TILE];
  alignas(64) Real known_tile_[TILE], mask_tile_[TILE];

  void choose_terms(const double* table) {
    used_ = 0;
    const double* c = table + op_.clip * columns_;
    for (int j = 0; j < op_.outputs; ++j, c += columns_) choose_terms(c, columns_, &sums_[j]);
    for (int j = 0; j < op_.outputs * op_.known; ++j, c += columns_)
      choose_terms(c, columns_, &known_sums_[j]);
    if (used_ >> clipped_ & op_.clip) choose_terms(table, op_.inputs, &clip_sum_);
    kept_ = deferred_ = 0;
    for (int j = 0; j < op_.outputs; ++j)
      if (keeps(sums_[j], j) && (!op_.known || keeps(known_sums_[j], j))) kept_ |= 1u << j;
    for (int j = 0; j < op_.outputs; ++j)
      for (int later = j + 1; later < op_.outputs; ++later)
        if (reads_memory(sums_[later], op_.output[j]) ||
            (op_.known && reads_memory(known_sums_[later], op_.output[j])))
          deferred_ |= 1u << j;
    deferred_ &= ~kept_;
  }

  // Whether a sum is no more than what already lies where it is written.
  bool keeps(const Sum<Real>& sum, int j) const {
    if (sum.terms != 1 || sum.coefficient[0] != 1 || sum.source[0] >= op_.inputs) return false;
    const int i = sum.source[0];
    return op_.input[i] == op_.output[j] && op_.input_type[i] == op_.output_type[j];
  }

  bool reads_memory(const Sum<Real>& sum, const void* memory) const {
    for (int k = 0; k < sum.terms; ++k)
      if (sum.source[k] < op_.inputs && op_.input[sum.source[k]] == memory) return true;
    return false;
  }

  void choose_terms(const double* c, int count, Sum<Real>* sum) {
    sum->terms = 0;
    for (int i = 0; i < count; ++i) {
      const Real rounded = static_cast<Real>(c[i]);
      if (rounded == 0) continue;
      sum->source[sum->terms] = i;
      sum->coefficient[sum->terms++] = rounded;
      used_ |= uint64_t{1} << i;
    }
  }

  bool reads(int source) const { return used_ >> source & 1; }

  void load_inputs(int64_t first, int64_t count) {
    for (int i = 0; i < op_.inputs; ++i) {
      if (!reads(i)) continue;
      if (op_.input_type[i] == dtype_of<Real>) {
        value_[i] = static_cast<const Real*>(op_.input[i]) + first;
      } else {
        load(source_tile_[i], op_.input[i], op_.input_type[i], first, count);
        value_[i] = source_tile_[i];
      }
    }
  }

  void clip_tile(int64_t count) {
    const Real low = static_cast<Real>(op_.low), high = static_cast<Real>(op_.high);
    Real* d = source_tile_[clipped_];
    for (int64_t i = 0; i < count; ++i) {  // NaN passes through both comparisons
      d[i] = d[i] < low ? low : d[i];
      d[i] = d[i] > high ? high : d[i];
    }
    value_[clipped_] = d;
  }

  // `count` elements from `first` on of what all rows may share; in `tile` if they do not lie where
  // and as they are needed.
  const Real* part(const Part& part, int64_t first, int64_t count, Real* tile) {
    int64_t at = part.per_row ? first : first % op_.elements;
    const bool whole = part.per_row || at + count <= op_.elements;
    if (whole && part.type == dtype_of<Real>) return static_cast<const Real*>(part.data) + at;
    for (int64_t done = 0; done < count; at = 0) {
      const int64_t left = count - done, run = whole ? left : std::min(left, op_.elements - at);
      load(tile + done, part.data, part.type, at, run);
      done += run;
    }
    return tile;
  }

  void load_known(int64_t first, int64_t count) {
    if (!op_.known) return;
    if (reads(columns_ - 1))
      value_[columns_ - 1] = part(op_.values, first, count, source_tile_[columns_ - 1]);
    if (!op_.mask.boolean) {
      mixed_ = part(op_.mask, first, count, mask_tile_);
      return;
    }
    const auto* bytes = static_cast<const uint8_t*>(op_.mask.data);
    int64_t at = op_.mask.per_row ? first : first % op_.elements;
    chosen_ = bytes + at;
    if (!op_.mask.per_row && at + count > op_.elements) {
      auto* tile = reinterpret_cast<uint8_t*>(mask_tile_);
      for (int64_t done = 0; done < count; at = 0) {
        const int64_t run = std::min(count - done, op_.elements - at);
        std::memcpy(tile + done, bytes + at, run);
        done += run;
      }
      chosen_ = tile;
    }
    side_ = side_of(chosen_, count);
  }

  // An output; `to` may be an input, of which both sums are read before it is written.
  void add(int j, Real* to, int64_t count) {
    if (!op_.known || side_ == Side::none) return add_terms(sums_[j], value_, to, count);
    if (side_ == Side::all) return add_terms(known_sums_[j], value_, to, count);
    if (op_.mask.boolean && add_chosen(sums_[j], known_sums_[j], value_, chosen_, to, count))
      return;
    add_terms(known_sums_[j], value_, known_tile_, count);
    if (op_.mask.boolean)
      add_terms(sums_[j], value_, to, count, Chosen<Real>{known_tile_, chosen_});
    else
      add_terms(sums_[j], value_, to, count, Mixed<Real>{known_tile_, mixed_});
  }

  void draw_noise(int64_t first, int64_t count) {
    for (int k = 0; k < op_.noises; ++k) {
      if (!reads(first_noise_ + k)) continue;
      Real* z = source_tile_[first_noise_ + k];
      const Draw draw{op_.draws + k, op_.draws_per_row ? op_.noises : 0};
      if constexpr (sizeof(Real) == sizeof(float)) {
        fill_normals(z, first, count, op_.elements, draw, op_.noise);
      } else {
        alignas(64) float normals[TILE];
        fill_normals(normals, first, count, op_.elements, draw, op_.noise);
        convert(z, normals, count);
      }
      value_[first_noise_ + k] = z;
    }
  }

  void tile(int64_t first, int64_t count) {
    load_inputs(first, count);
    if (used_ >> clipped_ & op_.clip) {
      add_terms(clip_sum_, value_, source_tile_[clipped_], count);
      clip_tile(count);
    }
    draw_noise(first, count);
    load_known(first, count);
    for (int j = 0; j < op_.outputs; ++j) {
      if (kept_ >> j & 1) continue;
      Real* to = static_cast<Real*>(op_.output[j]) + first;
      if (streamed_ >> j & 1 && reinterpret_cast<uintptr_t>(to) % sizeof(F32) == 0) {
        add(j, output_tile_[j], count);
        stream_bytes(to, output_tile_[j], count * sizeof(Real));
      } else if (op_.output_type[j] == dtype_of<Real> && !(deferred_ >> j & 1)) {
        add(j, to, count);
      } else {
        add(j, output_tile_[j], count);
        if (!(deferred_ >> j & 1)) store_tile(j, first, count);
      }
    }
    for (int j = 0; deferred_ >> j; ++j)
      if (deferred_ >> j & 1) store_tile(j, first, count);
  }

  void store_tile(int j, int64_t first, int64_t count) {
    store(op_.output[j], op_.output_type[j], first, output_tile_[j], count);
  }

  void tile_of_short_rows(int64_t first, int64_t count) {
    load_inputs(first, count);
    if (op_.clip) {
      add_rows(0, op_.inputs, first, count, source_tile_[clipped_]);
      clip_tile(count);
    }
    draw_noise(first, count);
    load_known(first, count);
    for (int j = 0; j < op_.outputs; ++j) {
      Real* to = output_tile_[j];
      add_rows(op_.clip + j, columns_, first, count, to);
      if (!op_.known) continue;
      add_rows(op_.clip + op_.outputs + j, columns_, first, count, known_tile_);
      if (op_.mask.boolean)
        mix(to, count, Chosen<Real>{known_tile_, chosen_});
      else
        mix(to, count, Mixed<Real>{known_tile_, mixed_});
    }
    for (int j = 0; j < op_.outputs; ++j) store_tile(j, first, count);
  }

  template <class Result>
  static void mix(Real* sum, int64_t count, const Result& result) {
    for (int64_t i = 0; i < count; ++i) sum[i] = result(sum[i], i);
  }

  // Row `table_row` of each sample's table, on whole samples.
  void add_rows(int table_row, int terms, int64_t first, int64_t count, Real* total) {
    constexpr int WIDE = 8;
    const int64_t stride = op_.table_rows() * columns_;
    const double* table = op_.table + first / op_.elements * stride + table_row * columns_;
    alignas(64) Real c[TILE + WIDE];
    for (int64_t i = 0; i < count; ++i) total[i] = 0;
    for (int k = 0; k < terms; ++k) {
      const double* entry = table + k;
      for (int64_t at = 0; at < count; at += op_.elements, entry += stride)
        for (int64_t i = at; i < at + op_.elements; i += WIDE)  // the next sample overwrites excess
          for (int lane = 0; lane < WIDE; ++lane) c[i + lane] = static_cast<Real>(*entry);
      const Real* x = value_[k];
      for (int64_t i = 0; i < count; ++i) {
        const Real sum = total[i] + c[i] * x[i];
        total[i] = c[i] == 0 ? total[i] : sum;
      }
    }
  }
};

void combine_elements(const Combine& op, int64_t begin, int64_t end) {
  if (op.float64)
    Stage<double>(op).run(begin, end);
  else
    Stage<float>(op).run(begin, end);
}

}  // namespace
}  // namespace fastgen
