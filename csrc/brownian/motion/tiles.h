// Walks over tiles of blocks of four elements; walk.h has a figure of the tree.
#pragma once
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "brownian/motion/walk.h"
#include "common/normals.h"

namespace fastgen {
namespace {

constexpr int GROUPS = TILE_ELEMENTS / GROUP;
// Normals of so many nodes are drawn at once: one alone leaves the processor waiting.
constexpr int NODES = BATCH / GROUPS;
// Added to a node's number for the second normal of its area.
constexpr uint32_t AREA_NODES = 1u << 31;

// The blocks of a tile: their keys, the normals of nodes, and their place in the output.
class Blocks {
 public:
  explicit Blocks(const Walk& walk) : op_(walk), blocks_per_row_((walk.elements + 3) / 4) {}

  void take(int64_t tile) {
    const int64_t left = op_.rows * blocks_per_row_ - tile * TILE_BLOCKS;
    blocks_ = static_cast<int>(left < TILE_BLOCKS ? left : TILE_BLOCKS);
    row_ = tile * TILE_BLOCKS / blocks_per_row_;
    int64_t row = row_, block = tile * TILE_BLOCKS % blocks_per_row_;
    element_ = 4 * block;
    Lanes w0{}, w1{}, w3{}, k0{}, k1{};
    // Of one row, whose blocks' numbers differ in the low word alone: all groups share a key.
    const bool together =
        block + TILE_BLOCKS <= blocks_per_row_ && block >> 32 == (block + TILE_BLOCKS) >> 32;
    key_stride_ = !together;
    for (int g = 0; g < GROUPS; ++g) {
      if (!together || g == 0) {
        for (int i = 0; i < W; ++i) {
          const Row key = noise_row(op_.noise, row < op_.rows ? row : op_.rows - 1);
          const int at = slot(i);
          w0.at[at] = block;
          w1.at[at] = key.sample;
          w3.at[at] = last_word(op_.noise.stream, block, key.sample);
          k0.at[at] = key.seed;
          k1.at[at] = key.seed >> 32;
          if (++block == blocks_per_row_) block = 0, ++row;
        }
      }
      for (int h = 0; h < 2; ++h) {
        if (!together || g == 0) {
          U64 key0 = k0.pair[h], key1 = k1.pair[h];
          for (int round = 0; round < PHILOX_ROUNDS; ++round) {
            keys_[g][h][round][0] = key0, keys_[g][h][round][1] = key1;
            key0 += PHILOX_STEP_0;
            key1 += PHILOX_STEP_1;
          }
        }
        begin(h, w0.pair[h] + (together ? uint64_t(g) * W : 0), w1.pair[h], w3.pair[h],
              keys_[g * key_stride_][h], &starts_[g]);
      }
    }
  }

  // The node whose normal slot s above a cell is made of; the bridge is the cell's.
  uint32_t node(uint32_t cell, int s) const {
    return s == 1 ? 0 : (1u << (s - 2)) + (cell >> (op_.depth + 2 - s));
  }

  void draw(const uint32_t* nodes, int count, float* normals) const {
    GroupWords words[NODES * GROUPS];
    for (int i = 0; i < count; ++i) {
      const uint64_t product = uint64_t{nodes[i]} * PHILOX_FACTOR_1;
      const U64 low = splat(product), high = splat(product >> 32);
      for (int g = 0; g < GROUPS; ++g)
        words[i * GROUPS + g] = {rest(starts_[g].half[0], low, high, keys_[g * key_stride_][0]),
                                 rest(starts_[g].half[1], low, high, keys_[g * key_stride_][1])};
    }
    store_normals(normals, words, count * GROUPS);
  }

  void write(const double* values, int64_t number) const {
    if (op_.doubles) return store(static_cast<double*>(op_.output), values, number);
    store(static_cast<float*>(op_.output), values, number);
  }

 private:
  const Walk& op_;
  const int64_t blocks_per_row_;
  int64_t row_ = 0, element_ = 0;
  int blocks_ = 0;
  int key_stride_ = 0;
  U64 keys_[GROUPS][2][PHILOX_ROUNDS][2];

  // Two of Philox's rounds, of all words but the third: that is the node, the only one that differs
  // between the normals of a block. `rest` brings in its product with the factor, low and high
  // word.
  struct Start {
    struct Half {
      U64 into_0, into_1, w1, into_2;
    } half[2];
  };
  Start starts_[GROUPS];

  static void begin(int h, U64 w0, U64 w1, U64 w3, const U64 (*key)[2], Start* start) {
    const U64 p0 = multiply_wide(w0, PHILOX_FACTOR_0);
    const U64 p1 = multiply_wide((p0 >> 32) ^ w3 ^ key[0][1], PHILOX_FACTOR_1);
    start->half[h] = {w1 ^ key[0][0], (p1 >> 32) ^ key[1][0], p1, p0 ^ key[1][1]};
  }

  static FASTGEN_INLINE Words rest(const Start::Half& s, U64 low, U64 high, const U64 (*key)[2]) {
    const U64 p = multiply_wide(high ^ s.into_0, PHILOX_FACTOR_0);
    Words c{s.into_1 ^ low, s.w1, (p >> 32) ^ s.into_2, p};
    for (int round = 2; round < PHILOX_ROUNDS; ++round)
      c = philox_round(c, key[round][0], key[round][1]);
    return c;
  }

  template <class T>
  void store(T* to, const double* values, int64_t number) const {
    to += number * op_.rows * op_.elements + row_ * op_.elements + element_;
    if (op_.elements % 4 == 0) {
      for (int e = 0; e < 4 * blocks_; ++e) to[e] = static_cast<T>(values[e]);
      return;
    }
    int64_t within = element_;
    for (int b = 0; b < blocks_; ++b) {
      const int64_t left = op_.elements - within, length = left < 4 ? left : 4;
      for (int e = 4 * b; e < 4 * b + length; ++e) *to++ = static_cast<T>(values[e]);
      within = length == left ? 0 : within + 4;
    }
  }
};

// Whether a cell is in the upper half of its ancestor of slot s.
FASTGEN_INLINE bool is_upper(uint32_t cell, int depth, int s) {
  return cell >> (depth + 1 - s) & 1;
}

class Motion {
 public:
  explicit Motion(const Walk& walk) : op_(walk), tile_(walk), scratch_{} {}

  void run(int64_t number) {
    tile_.take(number);
    for (int s = 0; s < PATH_SLOTS; ++s) slots_[s] = scratch_[s];
    double *before = values_[0], *after = values_[1];
    if (op_.kept_slots)
      for (int s = 1; s < KEPT_SLOTS; ++s)
        slots_[s] = op_.kept_slots + (number * KEPT_SLOTS + s) * TILE_ELEMENTS;
    if (op_.starts_at_last)
      std::memcpy(before, op_.last_values + number * TILE_ELEMENTS, sizeof values_[0]);
    int64_t at = static_cast<int64_t>(op_.starts_at_last) - 1;  // of the increment up to a visit
    for (const Visit& visit : op_.visits) {
      evaluate(visit, after);
      if (at >= 0) {
        for (int e = 0; e < TILE_ELEMENTS; ++e) before[e] = (after[e] - before[e]) * visit.scale;
        tile_.write(before, at);
      }
      ++at;
      std::swap(before, after);
    }
    if (op_.last_values)
      std::memcpy(op_.last_values + number * TILE_ELEMENTS, before, sizeof values_[0]);
  }

 private:
  const Walk& op_;
  Blocks tile_;
  double* slots_[PATH_SLOTS];
  alignas(64) double scratch_[PATH_SLOTS][TILE_ELEMENTS], values_[2][TILE_ELEMENTS];
  alignas(64) float normals_[NODES * TILE_ELEMENTS];

  void evaluate(const Visit& visit, double* to) {
    int left = 0, right = 1;  // slots of the ends of the interval that is known so far
    for (int s = 2; s < visit.draw_from; ++s)
      (is_upper(visit.cell, op_.depth, s) ? left : right) = s;
    for (int s = visit.draw_from; s < visit.draw_to;) {
      uint32_t nodes[NODES];
      int count = 0;
      while (count < NODES && s + count < visit.draw_to)
        nodes[count] = tile_.node(visit.cell, s + count), ++count;
      tile_.draw(nodes, count, normals_);
      for (const float* z = normals_; z < normals_ + count * TILE_ELEMENTS;
           z += TILE_ELEMENTS, ++s) {
        if (s == op_.depth + 2) return bridge(visit.fraction, slots_[left], slots_[right], z, to);
        bisect(s, slots_[left], slots_[right], z);
        if (s > 1) (is_upper(visit.cell, op_.depth, s) ? left : right) = s;
      }
    }
    const double* value = slots_[visit.slot];
    for (int e = 0; e < TILE_ELEMENTS; ++e) to[e] = value[e] * op_.factor;
  }

  void bisect(int s, const double* a, const double* b, const float* __restrict z) {
    double* __restrict m = slots_[s];
    if (s == 1) {
      for (int e = 0; e < TILE_ELEMENTS; ++e) m[e] = z[e];
      return;
    }
    const double scale = std::sqrt(std::ldexp(1.0, 2 - s)) / 2;
    for (int e = 0; e < TILE_ELEMENTS; ++e) m[e] = (a[e] + b[e]) * 0.5 + scale * z[e];
  }

  void bridge(double u, const double* a, const double* b, const float* z,
              double* __restrict to) const {
    const double scale = std::sqrt(u * (1 - u)) * std::sqrt(std::ldexp(1.0, -op_.depth));
    for (int e = 0; e < TILE_ELEMENTS; ++e)
      to[e] = ((a[e] + u * (b[e] - a[e])) + scale * z[e]) * op_.factor;
  }
};

// W and its integral. A slot holds at a midpoint W and the integral up to it, and of the halves the
// areas; slot 1 holds W(1) and the area of the whole.
class MotionWithArea {
 public:
  explicit MotionWithArea(const Walk& walk) : op_(walk), tile_(walk), slots_{} {}

  void run(int64_t number) {
    tile_.take(number);
    int64_t at = -1;
    Values *before = &values_[0], *after = &values_[1];
    for (const Visit& visit : op_.visits) {
      evaluate(visit, *after);
      if (at >= 0) {
        for (int e = 0; e < TILE_ELEMENTS; ++e) {
          const double w0 = before->w[e], w1 = after->w[e];
          const double h =
              (after->integral[e] - before->integral[e]) / visit.length - (w0 + w1) * 0.5;
          before->w[e] = (w1 * op_.factor - w0 * op_.factor) * visit.scale;
          before->integral[e] = h * visit.area_scale;
        }
        tile_.write(before->w, at);
        tile_.write(before->integral, op_.increments + at);
      }
      ++at;
      std::swap(before, after);
    }
  }

 private:
  struct Values {
    alignas(64) double w[TILE_ELEMENTS], integral[TILE_ELEMENTS];
  };
  struct Slot {
    alignas(64) double w[TILE_ELEMENTS], integral[TILE_ELEMENTS], lower[TILE_ELEMENTS],
        upper[TILE_ELEMENTS];
  };
  struct Interval {
    const double *left, *right, *integral, *area;
  };
  const Walk& op_;
  Blocks tile_;
  Slot slots_[PATH_SLOTS];
  Values values_[2];
  alignas(64) float normals_[2 * TILE_ELEMENTS];

  void turn(const Visit& visit, int s, Interval* i) const {
    if (s < 2) {
      i->area = slots_[1].lower;
    } else if (is_upper(visit.cell, op_.depth, s)) {
      i->left = slots_[s].w, i->integral = slots_[s].integral, i->area = slots_[s].upper;
    } else {
      i->right = slots_[s].w, i->area = slots_[s].lower;
    }
  }

  void evaluate(const Visit& visit, Values& to) {
    Interval i{slots_[0].w, slots_[1].w, slots_[0].integral, slots_[1].lower};
    for (int s = 2; s < visit.draw_from; ++s) turn(visit, s, &i);
    for (int s = visit.draw_from; s < visit.draw_to; ++s) {
      const uint32_t node = tile_.node(visit.cell, s);
      const uint32_t nodes[2] = {node, node + AREA_NODES};
      for (int k = 0; k < 2; k += NODES)
        tile_.draw(nodes + k, NODES < 2 ? NODES : 2, normals_ + k * TILE_ELEMENTS);
      if (s == op_.depth + 2) return bridge(visit.fraction, i, to);
      bisect(s, i);
      turn(visit, s, &i);
    }
    const bool end = visit.slot == 1;
    std::memcpy(to.w, slots_[visit.slot].w, sizeof to.w);
    std::memcpy(to.integral, end ? slots_[1].upper : slots_[visit.slot].integral,
                sizeof to.integral);
  }

  void bisect(int s, const Interval& i) {
    const float *z = normals_, *other = normals_ + TILE_ELEMENTS;
    Slot& m = slots_[s];
    if (s == 1) {
      for (int e = 0; e < TILE_ELEMENTS; ++e) {
        m.w[e] = z[e];
        m.lower[e] = std::sqrt(1.0 / 12) * other[e];
        m.upper[e] = m.lower[e] + m.w[e] * 0.5;  // the integral up to 1
      }
      return;
    }
    const double root = std::sqrt(std::ldexp(1.0, 2 - s)), half = std::ldexp(1.0, 1 - s);
    const double scale = root / 4, area_scale = root * std::sqrt(1.0 / 48);
    for (int e = 0; e < TILE_ELEMENTS; ++e) {
      const double a = i.left[e], area = i.area[e];
      const double shift = scale * z[e], apart = area_scale * other[e];
      const double w = (a + i.right[e]) * 0.5 + (1.5 * area + shift);
      const double middle = area * 0.25 - shift * 0.5, lower = middle + apart;
      m.w[e] = w;
      m.lower[e] = lower;
      m.upper[e] = middle - apart;
      m.integral[e] = i.integral[e] + half * (lower + (a + w) * 0.5);
    }
  }

  void bridge(double p, const Interval& i, Values& to) const {
    const float *z = normals_, *other = normals_ + TILE_ELEMENTS;
    const double q = 1 - p, length = std::ldexp(1.0, -op_.depth), root = std::sqrt(length);
    const double pq = p * q, cubes = std::sqrt(1 - 3 * pq), product = std::sqrt(pq);
    const double scale = (product * cubes) * root, ratio = (product / cubes) * (root * 0.5);
    const double back = ratio * (p * p), area_scale = (ratio * q) * std::sqrt(1.0 / 3);
    for (int e = 0; e < TILE_ELEMENTS; ++e) {
      const double a = i.left[e], area = i.area[e];
      const double w = (a + p * (i.right[e] - a)) + ((6 * pq) * area + scale * z[e]);
      const double h = ((p * p) * area - back * z[e]) + area_scale * other[e];
      to.w[e] = w;
      to.integral[e] = i.integral[e] + (p * length) * (h + (a + w) * 0.5);
    }
  }
};

template <class M>
void walk_with(const Walk& op, int64_t begin, int64_t end) {
  const std::unique_ptr<M> motion(new M(op));
  for (int64_t i = begin; i < end; ++i) motion->run(i);
}

void walk_tiles(const Walk& op, int64_t begin, int64_t end) {
  op.area ? walk_with<MotionWithArea>(op, begin, end) : walk_with<Motion>(op, begin, end);
}

}  // namespace
}  // namespace fastgen
