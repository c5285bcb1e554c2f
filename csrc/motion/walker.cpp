#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "../dispatch.h"
#include "motion.h"

namespace fastgen {
namespace {

const MotionKernels& kernels() {
#ifdef FASTGEN_X86
  if (isa_level() == Isa::avx512) return motion_avx512;
  if (isa_level() == Isa::avx2) return motion_avx2;
#endif
  return motion_baseline;
}

}  // namespace

Walker::Walker(int64_t rows, int64_t elements, Noise noise, int depth, double factor,
               int64_t memory)
    : rows(rows), elements(elements), tiles((rows * ((elements + 3) / 4) + BLOCKS - 1) / BLOCKS), noise(noise),
      depth(depth), factor(factor),
      keeps(tiles * (KEPT + 1) * TILE * int64_t{sizeof(double)} <= memory) {}

Visit Walker::visit(double time) {
  if (!(time >= 0 && time <= 1))
    throw std::invalid_argument("times: expected times in [0, 1], got " + std::to_string(time));
  const uint32_t cells = 1u << depth;
  const double scaled = time * cells;
  Visit v{};
  v.cell = std::min(static_cast<uint32_t>(scaled), cells - 1);
  v.fraction = scaled - v.cell;
  const bool inside = v.fraction > 0 && v.fraction < 1;
  // A multiple of 2^-l is a midpoint of level l - 1 at the latest.
  v.value = inside                ? depth + 2
            : v.fraction == 1     ? 1
            : v.cell == 0         ? 0
                                  : depth + 1 - __builtin_ctz(v.cell);
  // Midpoints of levels up to the first on which the paths part are those of both.
  const uint32_t changed = v.cell ^ cell;
  if (changed) known = std::min(known, depth + __builtin_clz(changed) - 32 + 3);
  cell = v.cell;
  v.first = known;
  v.last = v.value + 1;
  known = std::max(known, std::min(v.last, depth + 2));
  return v;
}

void Walker::increments(const std::vector<double>& times, const std::vector<double>& scales,
                        const std::vector<double>& area_scales, void* output, bool doubles,
                        int threads) {
  const bool area = !area_scales.empty();
  if (times.empty() || scales.size() != times.size() - 1 ||
      (area && area_scales.size() != scales.size()))
    throw std::invalid_argument("scales: expected one for each increment");
  const std::lock_guard<std::mutex> lock(busy);
  if (tiles == 0) return;
  const bool keep = keeps && !area;
  if (keep && !slots) {
    slots = pooled<double>(tiles * KEPT * TILE);
    here = pooled<double>(tiles * TILE);
  }
  const bool start_known = keep && times[0] == here_time;
  here_time = -1;  // until this is through
  known = keep ? std::min(known, KEPT) : 1;
  std::vector<Visit> visits;
  for (size_t i = start_known; i < times.size(); ++i) {
    visits.push_back(visit(times[i]));
    if (i == 0) continue;
    visits.back().length = times[i] - times[i - 1];
    visits.back().scale = scales[i - 1];
    visits.back().area_scale = area ? area_scales[i - 1] : 0;
  }
  const Walk op{rows,
                elements,
                noise,
                depth,
                factor,
                visits,
                keep ? slots.get() : nullptr,
                keep ? here.get() : nullptr,
                start_known,
                static_cast<int64_t>(scales.size()),
                output,
                doubles,
                area};
  const auto walk = kernels().walk;
  if (threads <= 1) {
    walk(op, 0, tiles);
  } else {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int i = 0; i < threads; ++i) walk(op, tiles * i / threads, tiles * (i + 1) / threads);
  }
  if (keep) {
    here_time = times.back();
  } else {
    known = 1;
  }
}

}  // namespace fastgen
