// Walks over tiles of blocks of four elements (see motion.h).
#pragma once
#include <cmath>
#include <utility>

#include "../noise.h"
#include "motion.h"

namespace fastgen {
namespace {

constexpr int GROUPS = TILE / GROUP;
// Normals of so many nodes are drawn at once: one alone leaves the processor waiting.
constexpr int NODES = BATCH / GROUPS;
// Added to a node's number for the second normal of its area.
constexpr uint32_t AREA_NODES = 1u << 31;

// The blocks of a tile: their keys, the normals of nodes, and their place in the output.
class Blocks {
 public:
  explicit Blocks(const Walk& walk) : op(walk), per_row((walk.elements + 3) / 4) {}

  void take(int64_t tile) {
    const int64_t left = op.rows * per_row - tile * BLOCKS;
    blocks = static_cast<int>(left < BLOCKS ? left : BLOCKS);
    row = tile * BLOCKS / per_row;
    int64_t r = row, b = tile * BLOCKS % per_row;
    element = 4 * b;
    Lanes l0{}, l1{}, l3{}, m0{}, m1{};
    const bool together = b + BLOCKS <= per_row && b >> 32 == (b + BLOCKS) >> 32;
    key_stride = !together;
    for (int g = 0; g < GROUPS; ++g) {
      if (!together || g == 0) {
        for (int i = 0; i < W; ++i) {
          const Row key = noise_row(op.noise, r < op.rows ? r : op.rows - 1);
          const int at = slot(i);
          l0.at[at] = b;
          l1.at[at] = key.sample;
          l3.at[at] = last_word(op.noise.stream, b, key.sample);
          m0.at[at] = key.seed;
          m1.at[at] = key.seed >> 32;
          if (++b == per_row) b = 0, ++r;
        }
      }
      for (int h = 0; h < 2; ++h) {
        if (!together || g == 0) {
          U64 k0 = m0.pair[h], k1 = m1.pair[h];
          for (int round = 0; round < 10; ++round) {
            keys[g][h][round][0] = k0, keys[g][h][round][1] = k1;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
          }
        }
        begin(h, l0.pair[h] + (together ? uint64_t(g) * W : 0), l1.pair[h], l3.pair[h],
              keys[g * key_stride][h], &starts[g]);
      }
    }
  }

  // The node whose normal slot s above a cell is made of; the bridge is the cell's.
  uint32_t node(uint32_t cell, int s) const {
    return s == 1 ? 0 : (1u << (s - 2)) + (cell >> (op.depth + 2 - s));
  }

  void draw(const uint32_t* nodes, int count, float* normals) const {
    GroupWords words[NODES * GROUPS];
    for (int i = 0; i < count; ++i) {
      const uint64_t product = uint64_t{nodes[i]} * 0xCD9E8D57u;
      const U64 low = splat(product), high = splat(product >> 32);
      for (int g = 0; g < GROUPS; ++g)
        words[i * GROUPS + g] = {rest(starts[g].half[0], low, high, keys[g * key_stride][0]),
                                 rest(starts[g].half[1], low, high, keys[g * key_stride][1])};
    }
    store_normals(normals, words, count * GROUPS);
  }

  void write(const double* values, int64_t number) const {
    if (op.doubles) return store(static_cast<double*>(op.output), values, number);
    store(static_cast<float*>(op.output), values, number);
  }

 private:
  const Walk& op;
  const int64_t per_row;
  int64_t row = 0, element = 0;
  int blocks = 0;
  int key_stride = 0;
  U64 keys[GROUPS][2][10][2];

  // What two rounds of Philox make of all words but the third, the node.
  struct Start {
    struct {
      U64 first, second, third, fourth;
    } half[2];
  };
  Start starts[GROUPS];

  static void begin(int h, U64 w0, U64 w1, U64 w3, const U64 (*key)[2], Start* start) {
    const U64 p0 = multiply_wide(w0, 0xD2511F53u);
    const U64 p1 = multiply_wide((p0 >> 32) ^ w3 ^ key[0][1], 0xCD9E8D57u);
    start->half[h] = {w1 ^ key[0][0], (p1 >> 32) ^ key[1][0], p1, p0 ^ key[1][1]};
  }

  template <class S>
  static FASTGEN_INLINE Words rest(const S& s, U64 low, U64 high, const U64 (*key)[2]) {
    const U64 p = multiply_wide(high ^ s.first, 0xD2511F53u);
    Words c{s.second ^ low, s.third, (p >> 32) ^ s.fourth, p};
    for (int round = 2; round < 10; ++round) {
      const U64 p0 = multiply_wide(c.w0, 0xD2511F53u), p1 = multiply_wide(c.w2, 0xCD9E8D57u);
      c = {(p1 >> 32) ^ c.w1 ^ key[round][0], p1, (p0 >> 32) ^ c.w3 ^ key[round][1], p0};
    }
    return c;
  }

  template <class T>
  void store(T* to, const double* values, int64_t number) const {
    to += number * op.rows * op.elements + row * op.elements + element;
    if (op.elements % 4 == 0) {
      for (int e = 0; e < 4 * blocks; ++e) to[e] = static_cast<T>(values[e]);
      return;
    }
    int64_t within = element;
    for (int b = 0; b < blocks; ++b) {
      const int64_t left = op.elements - within, length = left < 4 ? left : 4;
      for (int e = 4 * b; e < 4 * b + length; ++e) *to++ = static_cast<T>(values[e]);
      within = length == left ? 0 : within + 4;
    }
  }
};

// Whether a cell is in the upper half of its ancestor of slot s.
FASTGEN_INLINE bool is_upper(uint32_t cell, int depth, int s) { return cell >> (depth + 1 - s) & 1; }

class Motion {
 public:
  explicit Motion(const Walk& walk) : op(walk), tile(walk), scratch{} {}

  void run(int64_t number) {
    tile.take(number);
    for (int s = 0; s < SLOTS; ++s) slots[s] = scratch[s];
    double *before = values[0], *after = values[1];
    if (op.slots)
      for (int s = 1; s < KEPT; ++s) slots[s] = op.slots + (number * KEPT + s) * TILE;
    if (op.start_known) std::memcpy(before, op.here + number * TILE, sizeof values[0]);
    int64_t at = static_cast<int64_t>(op.start_known) - 1;  // of the increment up to a visit
    for (const Visit& visit : op.visits) {
      evaluate(visit, after);
      if (at >= 0) {
        for (int e = 0; e < TILE; ++e) before[e] = (after[e] - before[e]) * visit.scale;
        tile.write(before, at);
      }
      ++at;
      std::swap(before, after);
    }
    if (op.here) std::memcpy(op.here + number * TILE, before, sizeof values[0]);
  }

 private:
  const Walk& op;
  Blocks tile;
  double* slots[SLOTS];
  alignas(64) double scratch[SLOTS][TILE], values[2][TILE];
  alignas(64) float normals[NODES * TILE];

  void evaluate(const Visit& visit, double* to) {
    int left = 0, right = 1;  // slots of the ends of the interval that is known so far
    for (int s = 2; s < visit.first; ++s)
      (is_upper(visit.cell, op.depth, s) ? left : right) = s;
    for (int s = visit.first; s < visit.last;) {
      uint32_t nodes[NODES];
      int count = 0;
      while (count < NODES && s + count < visit.last)
        nodes[count] = tile.node(visit.cell, s + count), ++count;
      tile.draw(nodes, count, normals);
      for (const float* z = normals; z < normals + count * TILE; z += TILE, ++s) {
        if (s == op.depth + 2) return bridge(visit.fraction, slots[left], slots[right], z, to);
        bisect(s, slots[left], slots[right], z);
        if (s > 1) (is_upper(visit.cell, op.depth, s) ? left : right) = s;
      }
    }
    const double* value = slots[visit.value];
    for (int e = 0; e < TILE; ++e) to[e] = value[e] * op.factor;
  }

  void bisect(int s, const double* a, const double* b, const float* __restrict z) {
    double* __restrict m = slots[s];
    if (s == 1) {
      for (int e = 0; e < TILE; ++e) m[e] = z[e];
      return;
    }
    const double scale = std::sqrt(std::ldexp(1.0, 2 - s)) / 2;
    for (int e = 0; e < TILE; ++e) m[e] = (a[e] + b[e]) * 0.5 + scale * z[e];
  }

  void bridge(double u, const double* a, const double* b, const float* z,
              double* __restrict to) const {
    const double scale = std::sqrt(u * (1 - u)) * std::sqrt(std::ldexp(1.0, -op.depth));
    for (int e = 0; e < TILE; ++e)
      to[e] = ((a[e] + u * (b[e] - a[e])) + scale * z[e]) * op.factor;
  }
};

// W and its integral. A slot holds at a midpoint W and the integral up to it, and of the halves the
// areas; slot 1 holds W(1) and the area of the whole.
class MotionWithArea {
 public:
  explicit MotionWithArea(const Walk& walk) : op(walk), tile(walk), slots{} {}

  void run(int64_t number) {
    tile.take(number);
    int64_t at = -1;
    Values *before = &values[0], *after = &values[1];
    for (const Visit& visit : op.visits) {
      evaluate(visit, *after);
      if (at >= 0) {
        for (int e = 0; e < TILE; ++e) {
          const double w0 = before->w[e], w1 = after->w[e];
          const double h = (after->integral[e] - before->integral[e]) / visit.length -
                           (w0 + w1) * 0.5;
          before->w[e] = (w1 * op.factor - w0 * op.factor) * visit.scale;
          before->integral[e] = h * visit.area_scale;
        }
        tile.write(before->w, at);
        tile.write(before->integral, op.increments + at);
      }
      ++at;
      std::swap(before, after);
    }
  }

 private:
  struct Values {
    alignas(64) double w[TILE], integral[TILE];
  };
  struct Slot {
    alignas(64) double w[TILE], integral[TILE], lower[TILE], upper[TILE];
  };
  struct Interval {
    const double *left, *right, *integral, *area;
  };
  const Walk& op;
  Blocks tile;
  Slot slots[SLOTS];
  Values values[2];
  alignas(64) float normals[2 * TILE];

  void turn(const Visit& visit, int s, Interval* i) const {
    if (s < 2) {
      i->area = slots[1].lower;
    } else if (is_upper(visit.cell, op.depth, s)) {
      i->left = slots[s].w, i->integral = slots[s].integral, i->area = slots[s].upper;
    } else {
      i->right = slots[s].w, i->area = slots[s].lower;
    }
  }

  void evaluate(const Visit& visit, Values& to) {
    Interval i{slots[0].w, slots[1].w, slots[0].integral, slots[1].lower};
    for (int s = 2; s < visit.first; ++s) turn(visit, s, &i);
    for (int s = visit.first; s < visit.last; ++s) {
      const uint32_t node = tile.node(visit.cell, s);
      const uint32_t nodes[2] = {node, node + AREA_NODES};
      for (int k = 0; k < 2; k += NODES)
        tile.draw(nodes + k, NODES < 2 ? NODES : 2, normals + k * TILE);
      if (s == op.depth + 2) return bridge(visit.fraction, i, to);
      bisect(s, i);
      turn(visit, s, &i);
    }
    const bool end = visit.value == 1;
    std::memcpy(to.w, slots[visit.value].w, sizeof to.w);
    std::memcpy(to.integral, end ? slots[1].upper : slots[visit.value].integral, sizeof to.integral);
  }

  void bisect(int s, const Interval& i) {
    const float *z = normals, *other = normals + TILE;
    Slot& m = slots[s];
    if (s == 1) {
      for (int e = 0; e < TILE; ++e) {
        m.w[e] = z[e];
        m.lower[e] = std::sqrt(1.0 / 12) * other[e];
        m.upper[e] = m.lower[e] + m.w[e] * 0.5;  // the integral up to 1
      }
      return;
    }
    const double root = std::sqrt(std::ldexp(1.0, 2 - s)), half = std::ldexp(1.0, 1 - s);
    const double scale = root / 4, area_scale = root * std::sqrt(1.0 / 48);
    for (int e = 0; e < TILE; ++e) {
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
    const float *z = normals, *other = normals + TILE;
    const double q = 1 - p, length = std::ldexp(1.0, -op.depth), root = std::sqrt(length);
    const double pq = p * q, cubes = std::sqrt(1 - 3 * pq), product = std::sqrt(pq);
    const double scale = (product * cubes) * root, ratio = (product / cubes) * (root * 0.5);
    const double back = ratio * (p * p), area_scale = (ratio * q) * std::sqrt(1.0 / 3);
    for (int e = 0; e < TILE; ++e) {
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
