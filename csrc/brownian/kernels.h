// The virtual Brownian tree, one group of W blocks of four
// elements at a time. Normals depend on the time alone, so those of a whole descent are drawn
// together, before the first bisection. A time that follows another starts where they part. There
// is a figure of the tree in brownian/motion/walk.h; here blocks may be asked for different times.
#pragma once
#include <cmath>
#include <cstring>

#include "brownian/operation.h"
#include "common/normals.h"

namespace fastgen {
namespace {

class BrownianGroup {
 public:
  explicit BrownianGroup(const Brownian& op) : op_(op) {}

  // Takes blocks from element `first` of the flattened [rows, elements] on; returns their length.
  int64_t take(int64_t first, int64_t count) {
    begin_ = first;
    blocks_ = 0;
    int64_t row = first / op_.elements, element = first % op_.elements, written = 0;
    for (; blocks_ < W && written < count; ++blocks_) {
      const Row r = noise_row(op_.noise, row);
      const uint64_t block = static_cast<uint64_t>(element) / 4;
      const int at = slot(blocks_), skip = element & 3;
      w0_.at[at] = block;
      w1_.at[at] = r.sample;
      w3_.at[at] = last_word(op_.noise.stream, block, r.sample);
      k0_.at[at] = r.seed;
      k1_.at[at] = r.seed >> 32;
      int64_t length = 4 - skip;
      if (length > op_.elements - element) length = op_.elements - element;
      if (length > count - written) length = count - written;
      row_of_[blocks_] = row;
      from_[blocks_] = 4 * blocks_ + skip;
      written += length;
      end_[blocks_] = static_cast<int>(written);
      element += length;
      if (element == op_.elements) element = 0, ++row;
    }
    known_levels_ = -1;
    return written;
  }

  void evaluate(int64_t time) {
    const bool first = known_levels_ < 0;
    const int shared = find_cells(op_.times + time * op_.time_stride);
    descend(first ? 0 : shared + 1, last_normal_);
    known_levels_ = max(shared, min(last_normal_, op_.depth));
    write(op_.output + time * op_.size() + begin_);
  }

 private:
  const Brownian& op_;
  // Normals are drawn in this order: W(1), the levels from 0 on, the bridge inside the cell.
  const int depth_ = op_.depth, bridge_number_ = op_.depth + 1;
  const uint32_t cell_count_ = 1u << op_.depth;
  int64_t begin_ = 0, row_of_[W] = {};
  int blocks_ = 0, from_[W] = {}, end_[W] = {};
  Lanes w0_{}, w1_{}, w3_{}, k0_{}, k1_{}, cell_words_{};
  uint32_t cells_[W] = {};
  double fraction_[W] = {};  // of the cell; 1 at t = 1 only, NaN outside of [0, 1]
  bool same_cell_ = true;    // all blocks are in one cell
  int last_normal_ = 0;      // the last normal that some block's time depends on
  int known_levels_ = -1;    // levels of `left_` and `right_` that belong to `cells_`; -1: none
  const double *left_[MAX_DEPTH + 1], *right_[MAX_DEPTH + 1];
  alignas(64) double ends_[MAX_DEPTH + 1][2][GROUP];
  alignas(64) float normals_[BATCH * GROUP], bridge_[GROUP];

  static int min(int a, int b) { return a < b ? a : b; }
  static int max(int a, int b) { return a > b ? a : b; }

  // Finds the cells of a time, and returns on how many levels all agree with the last time's.
  int find_cells(const double* times) {
    int shared = known_levels_;
    last_normal_ = 0;
    for (int i = 0; i < blocks_; ++i) {
      const double t = times[op_.times_per_row ? row_of_[i] : 0];
      const bool inside = t >= 0 && t <= 1;
      const double scaled = inside ? t * cell_count_ : 0;
      const uint32_t k = scaled < cell_count_ ? static_cast<uint32_t>(scaled) : cell_count_ - 1;
      const uint32_t changed = k ^ cells_[i];
      if (changed) shared = min(shared, depth_ - 32 + __builtin_clz(changed));
      cells_[i] = k;
      cell_words_.at[slot(i)] = k;
      fraction_[i] = inside ? scaled - k : NAN;
      // A multiple of 2^-l is an end on level l, and bisection leaves it alone from there on.
      const bool dyadic = fraction_[i] == 0 && k > 0, drawn = fraction_[i] > 0 && fraction_[i] < 1;
      last_normal_ = max(last_normal_, drawn    ? bridge_number_
                                       : dyadic ? depth_ - __builtin_ctz(k)
                                                : 0);
    }
    same_cell_ = true;
    for (int i = 1; i < blocks_; ++i) same_cell_ &= cells_[i] == cells_[0];
    return max(shared, 0);
  }

  U64 node(int number, int half) const {
    if (number == 0) return U64{};
    return splat(uint64_t{1} << (number - 1)) +
           (cell_words_.pair[half] >> (bridge_number_ - number));
  }

  // Draws the normals `number` to `last`, and bisects with them.
  void descend(int number, int last) {
    GroupWords words[BATCH];
    while (number <= last) {
      const int count = min(BATCH, last + 1 - number);
      for (int i = 0; i < count; ++i) {
        const U64 even = node(number + i, 0), odd = node(number + i, 1);
        words[i] = {philox({w0_.pair[0], w1_.pair[0], even, w3_.pair[0]}, k0_.pair[0], k1_.pair[0]),
                    philox({w0_.pair[1], w1_.pair[1], odd, w3_.pair[1]}, k0_.pair[1], k1_.pair[1])};
      }
      store_normals(normals_, words, count);
      for (int i = 0; i < count; ++i, ++number) use(number, normals_ + i * GROUP);
    }
  }

  void use(int number, const float* z) {
    if (number == bridge_number_) {
      std::memcpy(bridge_, z, sizeof bridge_);
    } else if (number > 0) {
      bisect(number - 1, z);
    } else {
      for (int e = 0; e < GROUP; ++e) ends_[0][0][e] = 0, ends_[0][1][e] = z[e];
      left_[0] = ends_[0][0];
      right_[0] = ends_[0][1];
    }
  }

  void bisect(int level, const float* z) {
    const double scale = (level & 1 ? 0x1.6a09e667f3bcdp-1 : 1.0) / (2u << level / 2);
    const double *a = left_[level], *b = right_[level];
    double *middle = ends_[level + 1][0], *other = ends_[level + 1][1];
    for (int e = 0; e < GROUP; ++e) middle[e] = (a[e] + b[e]) * 0.5 + scale * z[e];
    const int shift = depth_ - 1 - level;
    if (same_cell_) {
      const bool upper = cells_[0] >> shift & 1;
      left_[level + 1] = upper ? middle : a;
      right_[level + 1] = upper ? b : middle;
      return;
    }
    for (int i = 0; i < blocks_; ++i) {
      const bool upper = cells_[i] >> shift & 1;
      for (int e = 4 * i; e < 4 * i + 4; ++e) {
        const double m = middle[e];
        other[e] = upper ? b[e] : m;
        middle[e] = upper ? m : a[e];
      }
    }
    left_[level + 1] = middle;
    right_[level + 1] = other;
  }

  void write(double* to) const {
    const double *a = left_[known_levels_], *b = right_[known_levels_], *at_one = ends_[0][1];
    alignas(64) double value[GROUP];
    for (int i = 0; i < blocks_; ++i) {
      const double u = fraction_[i];
      const double scale = std::sqrt(u * (1 - u)) * std::sqrt(1.0 / cell_count_);
      for (int e = 4 * i; e < 4 * i + 4; ++e) {
        const double inside = (a[e] + u * (b[e] - a[e])) + scale * bridge_[e];
        value[e] = u == 0 ? a[e] : u == 1 ? at_one[e] : inside;
      }
    }
    if (end_[blocks_ - 1] == GROUP) return void(std::memcpy(to, value, GROUP * sizeof(double)));
    for (int i = 0, at = 0; i < blocks_; at = end_[i++])
      std::memcpy(to + at, value + from_[i], (end_[i] - at) * sizeof(double));
  }
};

void brownian_of_elements(const Brownian& op, int64_t begin, int64_t end) {
  BrownianGroup group(op);
  while (begin < end) {
    const int64_t taken = group.take(begin, end - begin);
    for (int64_t time = 0; time < op.times_count; ++time) group.evaluate(time);
    begin += taken;
  }
}

}  // namespace
}  // namespace fastgen
