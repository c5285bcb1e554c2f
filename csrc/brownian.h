// The virtual Brownian tree (fastgen/kernels/brownian/reference.py), one group of W blocks of four
// elements at a time. Normals depend on the time alone, so those of a whole descent are drawn
// together, before the first bisection. A time that follows another starts where they part.
#pragma once
#include <cmath>

#include "noise.h"

namespace fastgen {
namespace {

constexpr int MAX_DEPTH = 24;

class BrownianGroup {
 public:
  explicit BrownianGroup(const Brownian& op) : op(op) {}

  // Takes blocks from element `first` of the flattened [rows, elements] on; returns their length.
  int64_t take(int64_t first, int64_t count) {
    begin = first;
    blocks = 0;
    int64_t row = first / op.elements, element = first % op.elements, written = 0;
    for (; blocks < W && written < count; ++blocks) {
      const Row r = noise_row(op.noise, row);
      const uint64_t block = static_cast<uint64_t>(element) / 4;
      const int at = slot(blocks), skip = element & 3;
      w0.at[at] = block;
      w1.at[at] = r.sample;
      w3.at[at] = last_word(op.noise.stream, block, r.sample);
      k0.at[at] = r.seed;
      k1.at[at] = r.seed >> 32;
      int64_t length = 4 - skip;
      if (length > op.elements - element) length = op.elements - element;
      if (length > count - written) length = count - written;
      row_of[blocks] = row;
      from[blocks] = 4 * blocks + skip;
      written += length;
      end[blocks] = static_cast<int>(written);
      element += length;
      if (element == op.elements) element = 0, ++row;
    }
    known = -1;
    return written;
  }

  void evaluate(int64_t time) {
    const bool first = known < 0;
    const int shared = place(op.times + time * op.time_stride);
    descend(first ? 0 : shared + 1, needed);
    known = max(shared, min(needed, op.depth));
    write(op.output + time * op.size() + begin);
  }

 private:
  const Brownian& op;
  // Normals are drawn in this order: W(1), the levels from 0 on, the bridge inside the cell.
  const int depth = op.depth, bridge_number = op.depth + 1;
  const uint32_t cell_count = 1u << op.depth;
  int64_t begin = 0, row_of[W] = {};
  int blocks = 0, from[W] = {}, end[W] = {};
  Lanes w0{}, w1{}, w3{}, k0{}, k1{}, cell{};
  uint32_t cells[W] = {};
  double fraction[W] = {};  // of the cell; 1 at t = 1 only, NaN outside of [0, 1]
  bool together = true;     // all blocks are in one cell
  int needed = 0;           // the last normal that some block's time depends on
  int known = -1;           // levels of `left` and `right` that belong to `cells`; -1: none
  const double *left[MAX_DEPTH + 1], *right[MAX_DEPTH + 1];
  alignas(64) double ends[MAX_DEPTH + 1][2][GROUP];
  alignas(64) float normals[BATCH * GROUP], bridge[GROUP];

  static int min(int a, int b) { return a < b ? a : b; }
  static int max(int a, int b) { return a > b ? a : b; }

  // Finds the cells of a time, and returns on how many levels they agree with the last time's.
  int place(const double* times) {
    int shared = known;
    needed = 0;
    for (int i = 0; i < blocks; ++i) {
      const double t = times[op.times_per_row ? row_of[i] : 0];
      const bool inside = t >= 0 && t <= 1;
      const double scaled = inside ? t * cell_count : 0;
      const uint32_t k = scaled < cell_count ? static_cast<uint32_t>(scaled) : cell_count - 1;
      const uint32_t changed = k ^ cells[i];
      if (changed) shared = min(shared, depth - 32 + __builtin_clz(changed));
      cells[i] = k;
      cell.at[slot(i)] = k;
      fraction[i] = inside ? scaled - k : NAN;
      // A multiple of 2^-l is an end on level l, and bisection leaves it alone from there on.
      const bool dyadic = fraction[i] == 0 && k > 0, drawn = fraction[i] > 0 && fraction[i] < 1;
      needed = max(needed, drawn ? bridge_number : dyadic ? depth - __builtin_ctz(k) : 0);
    }
    together = true;
    for (int i = 1; i < blocks; ++i) together &= cells[i] == cells[0];
    return max(shared, 0);
  }

  U64 node(int number, int half) const {
    if (number == 0) return U64{};
    return splat(uint64_t{1} << (number - 1)) + (cell.pair[half] >> (bridge_number - number));
  }

  void descend(int first, int last) {
    GroupWords words[BATCH];
    for (int number = first; number <= last;) {
      const int count = min(BATCH, last + 1 - number);
      for (int i = 0; i < count; ++i) {
        const U64 even = node(number + i, 0), odd = node(number + i, 1);
        words[i] = {philox({w0.pair[0], w1.pair[0], even, w3.pair[0]}, k0.pair[0], k1.pair[0]),
                    philox({w0.pair[1], w1.pair[1], odd, w3.pair[1]}, k0.pair[1], k1.pair[1])};
      }
      store_normals(normals, words, count);
      for (int i = 0; i < count; ++i, ++number) use(number, normals + i * GROUP);
    }
  }

  void use(int number, const float* z) {
    if (number == bridge_number) {
      std::memcpy(bridge, z, sizeof bridge);
    } else if (number > 0) {
      bisect(number - 1, z);
    } else {
      for (int e = 0; e < GROUP; ++e) ends[0][0][e] = 0, ends[0][1][e] = z[e];
      left[0] = ends[0][0];
      right[0] = ends[0][1];
    }
  }

  void bisect(int level, const float* z) {
    const double scale = (level & 1 ? 0x1.6a09e667f3bcdp-1 : 1.0) / (2u << level / 2);
    const double *a = left[level], *b = right[level];
    double *middle = ends[level + 1][0], *other = ends[level + 1][1];
    for (int e = 0; e < GROUP; ++e) middle[e] = (a[e] + b[e]) * 0.5 + scale * z[e];
    const int shift = depth - 1 - level;
    if (together) {
      const bool upper = cells[0] >> shift & 1;
      left[level + 1] = upper ? middle : a;
      right[level + 1] = upper ? b : middle;
      return;
    }
    for (int i = 0; i < blocks; ++i) {
      const bool upper = cells[i] >> shift & 1;
      for (int e = 4 * i; e < 4 * i + 4; ++e) {
        const double m = middle[e];
        other[e] = upper ? b[e] : m;
        middle[e] = upper ? m : a[e];
      }
    }
    left[level + 1] = middle;
    right[level + 1] = other;
  }

  void write(double* to) const {
    const double *a = left[known], *b = right[known], *w1 = ends[0][1];
    alignas(64) double value[GROUP];
    for (int i = 0; i < blocks; ++i) {
      const double u = fraction[i];
      const double scale = std::sqrt(u * (1 - u)) * std::sqrt(1.0 / cell_count);
      for (int e = 4 * i; e < 4 * i + 4; ++e) {
        const double inside = (a[e] + u * (b[e] - a[e])) + scale * bridge[e];
        value[e] = u == 0 ? a[e] : u == 1 ? w1[e] : inside;
      }
    }
    if (end[blocks - 1] == GROUP) return void(std::memcpy(to, value, GROUP * sizeof(double)));
    for (int i = 0, at = 0; i < blocks; at = end[i++])
      std::memcpy(to + at, value + from[i], (end[i] - at) * sizeof(double));
  }
};

void brownian(const Brownian& op, int64_t begin, int64_t end) {
  BrownianGroup group(op);
  while (begin < end) {
    const int64_t taken = group.take(begin, end - begin);
    for (int64_t time = 0; time < op.times_count; ++time) group.evaluate(time);
    begin += taken;
  }
}

}  // namespace
}  // namespace fastgen
