// Exact assignment on a GPU: an auction with a falling epsilon, shortest augmenting paths for the
// rest, and dual variables whose gap to the cost is computed in float64; where it is too large,
// what is left of the costs is solved again in finer levels. Nothing returns to the host on the
// way. One block for each of many small problems, or many blocks for one: see Problem::team.
#include "paths.cuh"

namespace fastgen {

// First epsilon, of the range: from scratch and from given prices.
constexpr double COLD = 0.05, WARM = 1e-3;
constexpr int MOST_SOLUTIONS = 4;
// A phase ends when so few of the rows are without a column; epsilon falls by this factor.
#ifndef FASTGEN_PHASE_ENDS
#define FASTGEN_PHASE_ENDS 0.005
#define FASTGEN_FACTOR 6
#endif

// A warp's share of rows, for all warps of the team.
template <class Function>
__device__ void each_row(const Team& team, int rows, Function function) {
#pragma unroll 1
  for (int i = team.warp_index(); i < rows; i += team.warp_count()) function(i);
}
template <class Function>
__device__ void each_column(const Team& team, int columns, Function function) {
#pragma unroll 1
  for (int j = team.thread_index(); j < columns; j += team.thread_count()) function(j);
}

// Levels of all rows where they are kept, and the lowest of each column in `lowest`.
template <bool BUFFERED>
__device__ void quantise(const Costs<BUFFERED>& costs, State& state, Team& team) {
  constexpr int CHUNK = 32;  // rows
  each_column(team, costs.padded, [&](int j) {
    state.lowest[j] = LARGEST;
    if (BUFFERED) *costs.buffer(costs.n, j) = costs.quantised(costs.n, j);
  });
  team.sync();
  const int strips = costs.padded / 32, chunks = (state.rows + CHUNK - 1) / CHUNK;
#pragma unroll 1
  for (int unit = team.warp_index(); unit < strips * chunks; unit += team.warp_count()) {
    const int j = unit % strips * 32 + lane(), begin = unit / strips * CHUNK;
    int lowest = LARGEST;
#pragma unroll 1
    for (int i = begin; i < min(begin + CHUNK, state.rows); ++i) {
      const int level = BUFFERED && i >= costs.n ? costs.one(i, j) : costs.quantised(i, j);
      if (BUFFERED && i < costs.n) *costs.buffer(i, j) = level;
      lowest = min(lowest, level);
    }
    atomicMin(&state.lowest[j], lowest);
  }
  team.sync();
}

// Solves integer costs; adds the prices found to v.
template <bool BUFFERED>
__device__ void solve(Costs<BUFFERED>& costs, const Problem& problem, State& state, Shared& shared,
                      Team& team, double range) {
  const i64 index = costs.index;
  const int m = costs.m;
  quantise(costs, state, team);
  const bool wide = state.rows < m, added = costs.n < m && !wide;
  const bool warm = problem.warm && !costs.refined && costs.n == m;
  double highest = 0;
  if (warm) {
    highest = problem.warm[index * m];
#pragma unroll 1
    for (int j = 1 + threadIdx.x % 32; j < m; j += 32)
      highest = highest < problem.warm[index * m + j] ? problem.warm[index * m + j] : highest;
    highest = -warp_min(-highest);
  }
  each_column(team, costs.padded, [&](int j) {
    int price = PADDING_PRICE;
    if (j < m) {
      // Columns that stay free must keep the price that they start with.
      price = wide || (added && !costs.refined) ? 0 : state.lowest[j];
      if (warm) {
        const double start = (problem.warm[index * m + j] - highest) * costs.scale;
        price = start > -RANGE ? static_cast<int>(start) : -RANGE;
      }
    }
    state.slots()[j] = state.other()[j] = slot(price, NOBODY);
  });
  each_column(team, m, [&](int j) { state.match[j] = -1; });
  state.current = 0;
  team.sync();

  const double wanted = problem.epsilon * range * costs.scale;
  const int last = max(1, static_cast<int>(wanted < RANGE * 0.25 ? wanted : RANGE * 0.25));
  const int first = static_cast<int>(RANGE * (warm ? WARM : COLD));
  phases(costs, state, shared, team, wide ? last : first, last, FASTGEN_PHASE_ENDS, FASTGEN_FACTOR);
  augment_all(costs, problem, index, state, shared, team);

  // The columns of added rows, whose dual variables are left out, have the highest price: 0.
  const u64* slots = state.slots();
  each_column(team, m, [&](int j) { state.v[j] += price_of(slots[j]) / costs.scale; });
  team.sync();
  if (!added) return;
  double high = state.v[0];
#pragma unroll 1
  for (int j = lane(); j < m; j += 32) high = high < state.v[j] ? state.v[j] : high;
  high = -warp_min(-high);
  team.sync();
  each_column(team, m, [&](int j) { state.v[j] -= high; });
  team.sync();
}

// The sum of function(k), k < count, in an order that does not depend on the number of threads.
// By one block, for all its threads.
template <class Function>
__device__ double ordered_sum(int count, Shared& shared, Function function) {
  __syncthreads();
  for (int part = threadIdx.x; part < PARTIAL_SUMS; part += blockDim.x) {
    double sum = 0;
#pragma unroll 4
    for (int k = part; k < count; k += PARTIAL_SUMS) sum += function(k);
    shared.sums[part] = sum;
  }
  for (int width = PARTIAL_SUMS / 2; width; width /= 2) {
    __syncthreads();
    for (int part = threadIdx.x; part < width; part += blockDim.x)
      shared.sums[part] += shared.sums[part + width];
  }
  __syncthreads();
  return shared.sums[0];
}

// Dual variables of rows are what makes those of columns feasible: u_i = min_j (c_ij - v_j).
template <class C>
__device__ void certify(const C& costs, const Problem& problem, State& state, Shared& shared,
                        Team& team) {
  const int n = costs.n, m = costs.m;
  each_row(team, n, [&](int i) {
    double least = 1.7e308;
#pragma unroll 1
    for (int j = lane(); j < m; j += 32) {
      const double reduced = costs.exact(i, j) - state.v[j];
      least = reduced < least ? reduced : least;
    }
    least = warp_min(least);
    if (lane() == 0) {
      state.u[i] = least;
      state.terms[i] = costs.exact(i, state.match[i]);
    }
  });
  team.sync();
  if (team.block == 0) {
    const double cost = ordered_sum(n, shared, [&](int i) { return state.terms[i]; });
    double gap = ordered_sum(
        n, shared, [&](int i) { return (state.terms[i] - state.v[state.match[i]]) - state.u[i]; });
    if (n < m) {  // prices of columns that stay free are not above zero
      gap += ordered_sum(n, shared, [&](int i) { return state.v[state.match[i]]; });
      gap -= ordered_sum(m, shared, [&](int j) { return state.v[j]; });
    }
    if (threadIdx.x == 0) {
      problem.cost[costs.index] = cost;
      problem.gap[costs.index] = gap;
    }
  }
  team.sync();
}

// A solution put aside, or taken back.
__device__ inline void keep(State& state, const Team& team, int n, int m, bool aside) {
  each_column(team, m, [&](int j) {
    (aside ? state.kept_match : state.match)[j] = (aside ? state.match : state.kept_match)[j];
    (aside ? state.kept_v : state.v)[j] = (aside ? state.v : state.kept_v)[j];
    if (j < n) (aside ? state.kept_u : state.u)[j] = (aside ? state.u : state.kept_u)[j];
  });
}

template <bool BUFFERED>
__device__ void assign(const Problem& problem, unsigned char* memory) {
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const i64 index = blockIdx.x / problem.team;
  Team team{problem.barriers + index, &shared.total, static_cast<int>(blockIdx.x % problem.team),
            static_cast<int>(problem.team)};
  Costs<BUFFERED> costs(problem, index);
  State state(problem, index);
  const int n = costs.n, m = costs.m;
  const double range = problem.range[index];
  double kept_cost = 0, kept_gap = 0;

  const bool finite = range < 1.7e308;
  each_column(team, m, [&](int j) {
    state.v[j] = 0;
    state.match[j] = finite ? j : m;
  });
  team.sync();
  if (!finite) {
    if (team.thread_index() == 0) problem.cost[index] = problem.gap[index] = range - range;
    return;
  }
  // Rows are added to make a square where few are: many would bid against each other for long.
  const bool square = n < m && 16 * (m - n) <= m;
  state.rows = square ? m : n;
  double wanted = range;
  for (int solution = 0;; ++solution) {
    costs.scale = LEVELS / wanted;
    if (range > 0) solve(costs, problem, state, shared, team, wanted);
    certify(costs, problem, state, shared, team);
    const double cost = problem.cost[index], gap = problem.gap[index];
    if (solution > 0 && !(gap < kept_gap)) {  // as good as it gets
      team.sync();
      keep(state, team, n, m, false);
      if (team.thread_index() == 0) {
        problem.cost[index] = kept_cost;
        problem.gap[index] = kept_gap;
      }
      return;
    }
    const bool enough = gap <= problem.tolerance * fabs(cost) || gap <= 1e-15 * range * n;
    if (problem.epsilon > 0 || enough || solution + 1 == MOST_SOLUTIONS) return;
    keep(state, team, n, m, true);
    kept_cost = cost;
    kept_gap = gap;
    // No pair whose reduced cost exceeds the gap is part of an optimal assignment: levels end
    // there.
    wanted = wanted < gap ? wanted : gap;
    costs.refined = true;
    state.rows = m;
    if (team.thread_index() == 0) ++state.counts[REFINEMENTS];
    team.sync();
  }
}

}  // namespace fastgen

extern "C" __global__ void __launch_bounds__(512, 1)
    fastgen_assign_levels(const __grid_constant__ fastgen::Problem problem) {
  FASTGEN_SHARED(memory);
  fastgen::assign<true>(problem, memory);
}

extern "C" __global__ void __launch_bounds__(512, 1)
    fastgen_assign_points(const __grid_constant__ fastgen::Problem problem) {
  FASTGEN_SHARED(memory);
  fastgen::assign<false>(problem, memory);
}
