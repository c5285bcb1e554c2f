// Walks along virtual Brownian trees: increments between times, one after the other, and the areas
// below them where asked for (fastgen/kernels/brownian/reference.py and area.py).
//
// All elements are asked for the same times, so where a time's cell is, and which nodes above it are
// known from the last time, is found once for all of them. W at the midpoints above a cell makes up
// its path; slot 0 is W(0) = 0, slot 1 is W(1), slot l + 2 the midpoint of level l.
#pragma once
#include <cstdint>
#include <mutex>
#include <vector>

#include "../memory.h"
#include "../operations.h"

namespace fastgen {

constexpr int SLOTS = 24 + 2;  // and the bridge
// Slots that stay between calls: more would serve steps below 2^-12 of the interval only.
constexpr int KEPT = 14;
// Elements that are walked together, in blocks of four.
constexpr int BLOCKS = 64, TILE = 4 * BLOCKS;

// One time: slots first .. last - 1 are computed, from their nodes, for a cell's path; where the
// time is inside of the cell, the last of them is the bridge, and `value` is that number too.
struct Visit {
  uint32_t cell;
  int first, last, value;
  double fraction;  // of the cell
  // From the time before: its length, and scales of the increment and of the area.
  double length, scale, area_scale;
};

struct Walk {
  int64_t rows, elements;
  Noise noise;  // of the tree's stream
  int depth;
  double factor;  // of all values
  const std::vector<Visit>& visits;
  double *slots, *here;  // [tiles][KEPT][TILE] and [tiles][TILE]; null: nothing stays
  bool start_known;      // `here` holds W at the first time, which has no visit of its own
  int64_t increments;
  void* output;          // [increments, rows, elements], with areas [2, increments, rows, elements]
  bool doubles, area;
};

struct MotionKernels {
  void (*walk)(const Walk&, int64_t begin, int64_t end);  // ranges of tiles
};

extern const MotionKernels motion_baseline;
#ifdef FASTGEN_X86
extern const MotionKernels motion_avx2, motion_avx512;
#endif

// What a path remembers of its last walk. Forgetting changes no result.
class Walker {
 public:
  // `memory`: bytes that may be kept.
  Walker(int64_t rows, int64_t elements, Noise noise, int depth, double factor, int64_t memory);
  // output[i] = (factor W(times[i + 1]) - factor W(times[i])) * scales[i], rounded to float32 or
  // float64. Where there are area_scales, the motion is the tree with areas, and
  // output[increments + i] = H * area_scales[i].
  void increments(const std::vector<double>& times, const std::vector<double>& scales,
                  const std::vector<double>& area_scales, void* output, bool doubles, int threads);

 private:
  Visit visit(double time);

  int64_t rows, elements, tiles;
  Noise noise;
  int depth;
  double factor;
  bool keeps;
  Pooled<double> slots, here;
  // The last path: its cell, its slots below `known`, and the time that `here` belongs to.
  uint32_t cell = 0;
  int known = 1;
  double here_time = -1;
  std::mutex busy;
};

}  // namespace fastgen
