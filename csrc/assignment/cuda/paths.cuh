// Shortest augmenting paths (Jonker and Volgenant 1987) for the rows that an auction leaves
// over, reduced costs below zero (by at most epsilon) taken as zero.
//
// Several searches run at the same time, a block each, from the same prices. Those whose trees
// have no column in common are carried out together: a tree's prices and owners change only in
// its columns, and other trees see those columns become dearer, which they did not need. Shorter
// trees go first, so at least one is carried out; the rest are sought again.
#pragma once
#include "auction.cuh"

namespace fastgen {

constexpr int DONE = -1;  // distance of columns in the tree

// A block's search. Arrays are [padded].
struct Search {
  int root, end, end_dist, count;
  int *dist, *parent, *done, *done_dist;
};

// The least over the block, for all its threads; `turn` alternates between calls.
__device__ inline u64 block_min(u64 key, Shared& shared, int turn) {
  const int high = warp_min(static_cast<int>(key >> 32));
  const bool mine = static_cast<int>(key >> 32) == high;
  // The lower word has its highest bit in use: shifted to compare as a signed number.
  const int low = mine ? static_cast<int>(static_cast<unsigned>(key) ^ 0x80000000u) : LARGEST;
  const int least = warp_min(low);
  if (lane() == 0)
    shared.keys[turn][warp()] =
        (static_cast<u64>(high) << 32) | (static_cast<unsigned>(least) ^ 0x80000000u);
  __syncthreads();
  u64 found = shared.keys[turn][0];
  for (int k = 1; k < warps(); ++k) found = min(found, shared.keys[turn][k]);
  return found;
}

// Dijkstra's search from search.root to the nearest free column.
template <class C>
__device__ void find_path(const C& costs, const u64* slots, Shared& shared, Search& search) {
  int row = search.root, base = 0, offset = 0, turn = 0;
  search.count = 0;
  {
    const Best best = scan(costs, slots, row, warp(), warps());
    offset = block_min(best.first, shared);
  }
  for (bool begun = false;; begun = true) {
    u64 nearest = ~0ull;
#pragma unroll 1
    for (int j = 4 * threadIdx.x; j < costs.padded; j += 4 * blockDim.x) {
      const Four cost = costs.four(row, j);
      const auto* pairs = reinterpret_cast<const TwoSlots*>(slots + j);
      const TwoSlots pair[2] = {pairs[0], pairs[1]};
      auto* stored = reinterpret_cast<Four*>(search.dist + j);
      Four dist{{LARGEST, LARGEST, LARGEST, LARGEST}};
      if (begun) dist = *stored;
      bool changed = !begun;
      for (int e = 0; e < 4; ++e) {
        if (j + e >= costs.m || dist.at[e] == DONE) continue;
        const u64 now = pair[e / 2].at[e % 2];
        const int through = base + max(cost.at[e] - price_of(now) - offset, 0);
        if (through < dist.at[e]) {
          dist.at[e] = through;
          search.parent[j + e] = row;
          changed = true;
        }
        // Of columns as near as each other, free ones first.
        const unsigned owned = owner_of(now) == NOBODY ? 0u : 0x80000000u;
        const u64 key = (static_cast<u64>(dist.at[e]) << 32) | (owned | (j + e));
        nearest = key < nearest ? key : nearest;
      }
      if (changed) *stored = dist;
    }
    // A thread without columns has the key of none: its distance must compare as the largest.
    if (nearest == ~0ull) nearest = (static_cast<u64>(LARGEST) << 32) | 0xffffffffu;
    nearest = block_min(nearest, shared, turn);
    turn = 1 - turn;
    const int j = static_cast<int>(nearest & 0x7fffffffu);
    base = static_cast<int>(nearest >> 32);
    if (!(nearest & 0x80000000u)) {
      search.end = j;
      search.end_dist = base;
      return;
    }
    if (j / 4 % blockDim.x == threadIdx.x) search.dist[j] = DONE;
    if (threadIdx.x == 0) {
      search.done[search.count] = j;
      search.done_dist[search.count] = base;
    }
    ++search.count;
    const u64 now = slots[j];
    row = static_cast<int>(owner_of(now));
    offset = costs.one(row, j) - price_of(now);
  }
}

// The path's rows take their new columns, and the tree's prices fall.
__device__ inline void augment(const Search& search, u64* slots, int* match) {
  if (threadIdx.x == 0) {
    for (int j = search.end;;) {
      const int i = search.parent[j], next = match[i];
      match[i] = j;
      slots[j] = slot(price_of(slots[j]), i);
      if (i == search.root) break;
      j = next;
    }
  }
  __syncthreads();
#pragma unroll 1
  for (int k = threadIdx.x; k < search.count; k += blockDim.x) {
    const int j = search.done[k];
    const u64 now = slots[j];
    slots[j] = slot(price_of(now) - (search.end_dist - search.done_dist[k]), owner_of(now));
  }
  __syncthreads();
}

// For whoever measures: all steps of a round, and those that waited for each other. By one warp.
__device__ inline void count_steps(const Problem& problem, i64 index, State& state, int count) {
  int longest = 0;
  for (int k = lane(); k < count; k += 32) {
    const int steps = problem.dist[(index * problem.searches + k) * problem.padded];
    atomicAdd(reinterpret_cast<u64*>(state.counts + STEPS), static_cast<u64>(steps));
    longest = min(longest, -steps);
  }
  longest = -warp_min(longest);
  if (lane() != 0) return;
  state.counts[LONGEST] += longest;
  ++state.counts[SEARCH_ROUNDS];
}

// Lists the rows without a column in order, first of all rows and then of those listed. By one
// warp; the first of `open` says how many.
__device__ inline void list_open(const State& state, bool first) {
  constexpr int AHEAD = 8;  // loads that do not wait for each other
  const int total = first ? state.rows : state.open[0];
  int count = 0;
  for (int begin = 0; begin < total; begin += 32 * AHEAD) {
    int rows[AHEAD], matches[AHEAD];
    for (int a = 0; a < AHEAD; ++a) {
      const int k = begin + 32 * a + lane();
      rows[a] = k >= total ? -1 : first ? k : state.open[1 + k];
      matches[a] = k >= total ? 0 : state.match[rows[a]];
    }
    __syncwarp();
    for (int a = 0; a < AHEAD; ++a) {
      const unsigned open = __ballot_sync(ALL_LANES, matches[a] < 0);
      if (matches[a] < 0) state.open[1 + count + __popc(open & ((1u << lane()) - 1))] = rows[a];
      count += __popc(open);
    }
    __syncwarp();
  }
  if (lane() == 0) state.open[0] = count;
}

// Assigns all rows that have no column.
template <class C>
__device__ void augment_all(const C& costs, const Problem& problem, i64 index, State& state,
                            Shared& shared, Team& team) {
  const int searches = static_cast<int>(problem.searches);
  u64* slots = state.slots();
  const auto search_at = [&](int k) {
    const i64 at = (index * searches + k) * costs.padded;
    return Search{
        state.open[1 + k],     0, 0, 0, problem.dist + at, problem.parent + at, problem.done + at,
        problem.done_dist + at};
  };
  for (bool first = true;; first = false) {
    if (team.block == 0 && warp() == 0) list_open(state, first);
    team.sync();
    const int open = state.open[0], count = min(open, searches);
    if (team.thread_index() == 0 && first) state.counts[FREE] += open;
    if (open == 0) return;
    // Rounds come first in the words, falling: those of earlier rounds never count.
    const u64 round = 0xffffffull - ++state.searches;
    const auto key_of = [&](const Search& search) {
      return round << 40 | static_cast<u64>(search.count) << 20 | search.root;
    };
    for (int k = team.block; k < count; k += team.blocks) {
      Search search = search_at(k);
      find_path(costs, slots, shared, search);
#pragma unroll 1
      for (int at = threadIdx.x; at <= search.count; at += blockDim.x)
        atomicMin(&state.claims[at < search.count ? search.done[at] : search.end], key_of(search));
      // Distances are no longer needed: their first places keep what the rest has to know.
      if (threadIdx.x == 0) {
        search.dist[0] = search.count;
        search.dist[1] = search.end;
        search.dist[2] = search.end_dist;
      }
      __syncthreads();
    }
    team.sync();
    if (team.block == 0 && warp() == 0) count_steps(problem, index, state, count);
    for (int k = team.block; k < count; k += team.blocks) {
      Search search = search_at(k);
      search.count = search.dist[0];
      search.end = search.dist[1];
      search.end_dist = search.dist[2];
      const u64 key = key_of(search);
      bool alone = true;
#pragma unroll 1
      for (int at = threadIdx.x; at <= search.count; at += blockDim.x)
        if (state.claims[at < search.count ? search.done[at] : search.end] != key) alone = false;
      alone = block_min(alone, shared) == 1;
      if (alone) augment(search, slots, state.match);
    }
    team.sync();
  }
}

}  // namespace fastgen
