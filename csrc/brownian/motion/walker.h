// What a path remembers of its last walk. Forgetting changes no result.
#pragma once
#include <mutex>

#include "brownian/motion/walk.h"
#include "common/memory.h"

namespace fastgen {

class Walker {
 public:
  // `memory`: bytes that may be kept: of the path and W at the last time, or of that alone.
  Walker(int64_t rows, int64_t elements, Noise noise, int depth, double factor, int64_t memory);
  // output[i] = (factor W(times[i + 1]) - factor W(times[i])) * scales[i], rounded to float32 or
  // float64. Where there are area_scales, the motion is the tree with areas, and
  // output[increments + i] = H * area_scales[i].
  void increments(const std::vector<double>& times, const std::vector<double>& scales,
                  const std::vector<double>& area_scales, void* output, bool doubles, int threads);

 private:
  Visit visit(double time);

  int64_t rows_, elements_, tiles_;
  Noise noise_;
  int depth_;
  double factor_;
  bool may_keep_, may_keep_last_;
  Pooled<double> kept_slots_, last_values_;
  // The last path: its cell, its slots [0, known_slots_), and the time that last_values_ belong to.
  uint32_t last_cell_ = 0;
  int known_slots_ = 1;
  double last_time_ = -1;
  std::mutex busy_;
};

}  // namespace fastgen
