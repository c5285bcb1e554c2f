#include "brownian/motion/walker.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "brownian/operation.h"
#include "common/isa.h"
#include "common/parallel.h"

namespace fastgen {
namespace {

constexpr int64_t TILE_BYTES = TILE_ELEMENTS * int64_t{sizeof(double)};

int64_t tiles_of(int64_t rows, int64_t elements) {
  const int64_t blocks = rows * ((elements + 3) / 4);
  return (blocks + TILE_BLOCKS - 1) / TILE_BLOCKS;
}

// The slot that has W at a time, given by its cell and the fraction of that.
int slot_of(uint32_t cell, double fraction, int depth) {
  if (fraction > 0 && fraction < 1) return depth + 2;  // the bridge
  if (fraction == 1) return 1;                         // time 1
  if (cell == 0) return 0;                             // time 0
  // The cell begins at a midpoint: at an odd multiple of 2^-(level + 1) if its number ends in
  // depth - 1 - level zero bits. Level l has slot l + 2.
  const int level = depth - 1 - __builtin_ctz(cell);
  return level + 2;
}

// How many of the `depth` bits of two different cells' numbers are the same, from the front.
int shared_bits(uint32_t cell, uint32_t other, int depth) {
  return __builtin_clz(cell ^ other) - (32 - depth);
}

}  // namespace

Walker::Walker(int64_t rows, int64_t elements, Noise noise, int depth, double factor,
               int64_t memory)
    : rows_(rows),
      elements_(elements),
      tiles_(tiles_of(rows, elements)),
      noise_(noise),
      depth_(depth),
      factor_(factor),
      may_keep_(tiles_ * (KEPT_SLOTS + 1) * TILE_BYTES <= memory),
      may_keep_last_(tiles_ * TILE_BYTES <= memory) {}

// The visit that comes after those before; from now on its path is the last one.
Visit Walker::visit(double time) {
  const uint32_t cell_count = 1u << depth_;
  const double in_cells = time * cell_count;
  Visit next{};
  next.cell = std::min(static_cast<uint32_t>(in_cells), cell_count - 1);
  next.fraction = in_cells - next.cell;
  next.slot = slot_of(next.cell, next.fraction, depth_);
  if (next.cell != last_cell_) {
    // The midpoint at which the paths part is still one of both, and has slot `level` + 2.
    const int level = shared_bits(next.cell, last_cell_, depth_);
    known_slots_ = std::min(known_slots_, level + 3);
  }
  last_cell_ = next.cell;
  next.draw_from = known_slots_;
  next.draw_to = next.slot + 1;
  // The bridge belongs to its time alone.
  known_slots_ = std::max(known_slots_, std::min(next.draw_to, depth_ + 2));
  return next;
}

void Walker::increments(const std::vector<double>& times, const std::vector<double>& scales,
                        const std::vector<double>& area_scales, void* output, bool doubles,
                        int threads) {
  const bool area = !area_scales.empty();
  if (times.empty() || scales.size() != times.size() - 1 ||
      (area && area_scales.size() != scales.size()))
    throw std::invalid_argument("scales: expected one for each increment");
  // Before anything is changed: a call that is refused leaves no trace.
  for (const double time : times)
    if (!(time >= 0 && time <= 1))
      throw std::invalid_argument("times: expected times in [0, 1], got " + std::to_string(time));
  const std::lock_guard<std::mutex> lock(busy_);
  if (tiles_ == 0) return;
  const bool keep = may_keep_ && !area, keep_last = may_keep_last_ && !area;
  if (keep && !kept_slots_) kept_slots_ = pooled<double>(tiles_ * KEPT_SLOTS * TILE_ELEMENTS);
  if (keep_last && !last_values_) last_values_ = pooled<double>(tiles_ * TILE_ELEMENTS);
  std::vector<Visit> visits;
  visits.reserve(times.size());
  const bool starts_at_last = keep_last && times[0] == last_time_;
  last_time_ = -1;  // until this is through
  known_slots_ = keep ? std::min(known_slots_, KEPT_SLOTS) : 1;
  for (size_t i = starts_at_last; i < times.size(); ++i) {
    visits.push_back(visit(times[i]));
    if (i == 0) continue;
    visits.back().length = times[i] - times[i - 1];
    visits.back().scale = scales[i - 1];
    visits.back().area_scale = area ? area_scales[i - 1] : 0;
  }
  const Walk op{rows_,
                elements_,
                noise_,
                depth_,
                factor_,
                visits,
                keep ? kept_slots_.get() : nullptr,
                keep_last ? last_values_.get() : nullptr,
                starts_at_last,
                static_cast<int64_t>(scales.size()),
                output,
                doubles,
                area};
  const auto walk = kernels<BrownianKernels>().walk;
  parallel_for(tiles_, 1, threads, [&](int64_t begin, int64_t end, int) { walk(op, begin, end); });
  if (keep_last) last_time_ = times.back();
  if (!keep) known_slots_ = 1;
}

}  // namespace fastgen
