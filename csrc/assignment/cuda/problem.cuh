// The problem, as csrc/assignment/problem.h has it: costs as integers of 0 to RANGE levels, prices
// that only fall. What the arrays hold is said once, here; [N] problems follow one another.
#pragma once
#include "device.cuh"

namespace fastgen {

constexpr int RANGE = 1 << 27;
constexpr int PADDING_COST = 4 * RANGE, PADDING_PRICE = -2 * RANGE;
// Levels are below RANGE by more than rounding.
constexpr double LEVELS = RANGE * 0.999;
constexpr unsigned NOBODY = 0xffffffffu;

// Every field has eight bytes: fastgen/kernels/assignment/cuda.py declares the same.
struct Problem {
  i64 rows, columns;  // rows <= columns
  i64 padded;         // columns, rounded up to a multiple of 128
  i64 team;           // blocks for each problem
  i64 searches;       // augmenting paths sought at the same time
  // Costs: a matrix [N, rows, columns] of float64 or float32, or centred points [N, rows, dims] and
  // [N, dims, padded], and the same in units in which costs are levels.
  const double* matrix_double;
  const float* matrix_float;
  i64 dims, root;
  const double *row_points, *column_points;
  const float *row_levels, *column_levels;
  const double *low, *range;  // [N, rows], the least cost of each row, or null for 0; [N]
  double epsilon, tolerance;  // see csrc/assignment/operation.h
  const double* warm;         // [N, columns], or null
  // Results: match [N, columns], of which the first `rows` count; duals [N, rows] and [N, columns];
  // cost, gap [N], NaN if some cost is not finite; counts [N, COUNTS].
  int* match;
  double *u, *v, *cost, *gap;
  i64* counts;
  // Scratch.
  int* levels;                            // [N, rows + 1, padded], the last for rows added; or null
  u64* slots;                             // [N, 2, padded], prices and owners of columns
  int *lowest, *kept_match;               // [N, padded]
  double *terms, *kept_u, *kept_v;        // [N, padded]
  int *dist, *parent, *done, *done_dist;  // [N, searches, padded]
  u64* claims;                            // [N, padded], all ones
  int* open;                              // [N, columns + 1], how many rows are free, and which
  Barrier* barriers;                      // [N], zero
};

enum Count { ROUNDS, BIDS, SEARCH_ROUNDS, STEPS, LONGEST, REFINEMENTS, FREE, COUNTS };

// A column's price and owner in one word: the lower price is the lower word, and among equal
// prices the one of the lower row.
__device__ inline u64 slot(int price, unsigned owner) {
  return (static_cast<u64>(static_cast<unsigned>(price) ^ 0x80000000u) << 32) | owner;
}
__device__ inline int price_of(u64 slot) {
  return static_cast<int>(static_cast<unsigned>(slot >> 32) ^ 0x80000000u);
}
__device__ inline unsigned owner_of(u64 slot) { return static_cast<unsigned>(slot); }

struct alignas(16) Four {
  int at[4];
};
struct alignas(16) FourFloats {
  float at[4];
};
struct alignas(16) TwoSlots {
  u64 at[2];
};

// Costs of one problem. BUFFERED: as a matrix of levels.
template <bool BUFFERED>
struct Costs {
  static constexpr int UNROLLED = BUFFERED ? 2 : 1;
  const Problem& problem;
  i64 index;  // of the problem
  int n, m, padded;
  const double *u, *v;
  double scale = 0;
  bool refined = false;  // levels are those of costs less prices

  __device__ Costs(const Problem& p, i64 problem_index)
      : problem(p),
        index(problem_index),
        n(static_cast<int>(p.rows)),
        m(static_cast<int>(p.columns)),
        padded(static_cast<int>(p.padded)),
        u(p.u + problem_index * p.rows),
        v(p.v + problem_index * p.columns) {}

  // In float64, as given (of points: centred).
  __device__ double exact(int i, int j) const {
    const i64 row = index * n + i;
    if (problem.matrix_double) return problem.matrix_double[row * m + j];
    if (problem.matrix_float) return problem.matrix_float[row * m + j];
    const int dims = static_cast<int>(problem.dims);
    const double* x = problem.row_points + row * dims;
    const double* y = problem.column_points + index * dims * padded + j;
    double sum = 0;
#pragma unroll 1
    for (int k = 0; k < dims; ++k) {
      const double difference = x[k] - y[static_cast<i64>(k) * padded];
      sum += difference * difference;
    }
    return problem.root ? sqrt(sum) : sum;
  }

  // Rows from n on were added, with costs of 0, to make a square.
  __device__ int quantised(int i, int j) const {
    if (j >= m) return PADDING_COST;
    double cost = 0;
    if (i < n) cost = exact(i, j);
    if (refined)
      cost -= v[j] + (i < n ? u[i] : 0.0);
    else if (problem.low && i < n)
      cost -= problem.low[index * n + i];
    cost *= scale;
    // What is above LEVELS ends at RANGE, to be dearer than any pair of an optimal assignment.
    return cost < 0 ? 0 : cost < RANGE ? static_cast<int>(cost) : RANGE;
  }

  __device__ int* buffer(int i, int j) const {
    return problem.levels + (index * (n + 1) + min(i, n)) * padded + j;
  }

  // Levels of columns j to j + 3; j is a multiple of 4.
  __device__ Four four(int i, int j) const {
    if (BUFFERED) return *reinterpret_cast<const Four*>(buffer(i, j));
    Four out;
    if (refined || i >= n) {
      for (int e = 0; e < 4; ++e) out.at[e] = quantised(i, j + e);
      return out;
    }
    const int dims = static_cast<int>(problem.dims);
    const float* x = problem.row_levels + (index * n + i) * dims;
    const float* y = problem.column_levels + index * dims * padded + j;
    float sums[4] = {};
#pragma unroll 1
    for (int k = 0; k < dims; ++k) {
      const auto at = *reinterpret_cast<const FourFloats*>(y + static_cast<i64>(k) * padded);
      for (int e = 0; e < 4; ++e) {
        const float difference = x[k] - at.at[e];
        sums[e] += difference * difference;
      }
    }
    for (int e = 0; e < 4; ++e) {
      const float cost = problem.root ? sqrtf(sums[e]) : sums[e];
      out.at[e] = j + e < m ? static_cast<int>(cost) : PADDING_COST;
    }
    return out;
  }

  __device__ int one(int i, int j) const {
    if (BUFFERED) return *buffer(i, j);
    const Four found = four(i, j & ~3);
    const int low = j & 1 ? found.at[1] : found.at[0], high = j & 1 ? found.at[3] : found.at[2];
    return j & 2 ? high : low;
  }
};

// Shared memory of a block.
struct Best {
  int first, turned, second;  // the two lowest reduced costs; where the first is, see scan()
};
struct Token {
  u64 bid;
  int row, column;  // of the bid, or -1
  unsigned previous;
};
struct Shared {
  u64 keys[2][MOST_WARPS];
  double sums[PARTIAL_SUMS];
  Best best[MOST_WARPS];
  int total, tokens;
  // Rows without a column, each with its bid, follow: at most ceil(columns / team).
  __device__ Token* token() { return reinterpret_cast<Token*>(this + 1); }
};

// Pointers of one problem, and how its solution stands.
struct State {
  int rows;  // those given, or as many as columns
  i64 padded;
  int *match, *lowest, *kept_match, *open;
  u64 *all_slots, *claims;
  double *u, *v, *terms, *kept_u, *kept_v;
  int current = 0;  // slots
  int searches;     // rounds of them so far
  i64* counts;

  __device__ State(const Problem& p, i64 k)
      : rows(static_cast<int>(p.rows)),
        padded(p.padded),
        match(p.match + k * p.columns),
        lowest(p.lowest + k * p.padded),
        kept_match(p.kept_match + k * p.padded),
        open(p.open + k * (p.columns + 1)),
        all_slots(p.slots + 2 * k * p.padded),
        claims(p.claims + k * p.padded),
        u(p.u + k * p.rows),
        v(p.v + k * p.columns),
        terms(p.terms + k * p.padded),
        kept_u(p.kept_u + k * p.padded),
        kept_v(p.kept_v + k * p.padded),
        searches(0),
        counts(p.counts + k * COUNTS) {}

  __device__ u64* slots() const { return all_slots + current * padded; }
  __device__ u64* other() const { return all_slots + (1 - current) * padded; }
};

}  // namespace fastgen
