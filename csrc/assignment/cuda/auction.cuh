// An auction in which all rows without a column bid at once (Bertsekas 1979, 1988). A row without
// a column is a token, held by one block from first to last: a row that wins a column gives its
// token to the row that it drives away, and a token ends at a free column. Bids are minima over
// words, so that no result depends on the order in which blocks and warps run.
//
// There is one barrier a round. Prices are read in one array of slots and bids made in another,
// which lacks the bids of the round before: whoever won then makes its bid there again.
#pragma once
#include "problem.cuh"

namespace fastgen {

__device__ inline int start_of(int row, int columns) {
  return static_cast<int>(static_cast<unsigned>(row) * 2654435761u % columns);
}

// The lowest two reduced costs of a row in one part of `parts`, by a warp. Of columns that cost
// the same it is the first one from a place on that differs from row to row: with one choice for
// all, rows of the same costs would bid for the same column.
template <class C>
__device__ Best scan(const C& costs, const u64* slots, int row, int part, int parts) {
  const int start = start_of(row, costs.m);
  Best best{LARGEST, LARGEST, LARGEST};
#pragma unroll(C::UNROLLED)
  for (int j = 4 * (lane() + 32 * part); j < costs.padded; j += 128 * parts) {
    const Four cost = costs.four(row, j);
    const auto* pairs = reinterpret_cast<const TwoSlots*>(slots + j);
    const TwoSlots pair[2] = {pairs[0], pairs[1]};
    for (int e = 0; e < 4; ++e) {
      const int reduced = cost.at[e] - price_of(pair[e / 2].at[e % 2]);
      int turned = j + e - start;
      turned += turned < 0 ? costs.padded : 0;
      if (reduced < best.first) {
        best.second = best.first;
        best.first = reduced;
        best.turned = turned;
      } else {
        best.second = min(best.second, reduced);
        if (reduced == best.first) best.turned = min(best.turned, turned);
      }
    }
  }
  const int first = warp_min(best.first);
  const int turned = warp_min(best.first == first ? best.turned : LARGEST);
  const bool mine = best.first == first && best.turned == turned;
  const int second = warp_min(mine ? best.second : best.first);
  return {first, turned, second};
}

__device__ inline Best merge(const Best& a, const Best& b) {
  const bool first = a.first < b.first || (a.first == b.first && a.turned < b.turned);
  return first ? Best{a.first, a.turned, min(a.second, b.first)}
               : Best{b.first, b.turned, min(b.second, a.first)};
}

// Gives tokens on according to the bids of the round before, which `slots` has and `other` lacks.
// By the first warp; the tokens that go on come to the front.
__device__ inline void resolve(Shared& shared, const u64* slots, u64* other) {
  if (warp() == 0) {
    Token* tokens = shared.token();
    const int count = shared.tokens;
    int kept = 0;
    for (int begin = 0; begin < count; begin += 32) {
      Token token{0, -1, -1, NOBODY};
      if (begin + lane() < count) token = tokens[begin + lane()];
      bool goes_on = token.row >= 0;
      if (token.column >= 0) {
        if (slots[token.column] == token.bid) {
          atomicMin(&other[token.column], token.bid);
          goes_on = token.previous != NOBODY;
          token.row = static_cast<int>(token.previous);
        }
        token.column = -1;
      }
      const unsigned going = __ballot_sync(ALL_LANES, goes_on);
      if (goes_on) tokens[kept + __popc(going & ((1u << lane()) - 1))] = token;
      kept += __popc(going);
      __syncwarp();
    }
    if (lane() == 0) shared.tokens = kept;
  }
  __syncthreads();
}

// All tokens bid, several warps for each where there are few.
template <class C>
__device__ void bid(const C& costs, Shared& shared, const u64* slots, u64* other, int epsilon) {
  const int count = shared.tokens;
  if (count == 0) return;
  int parts = 1;
  while (2 * parts * count <= warps()) parts *= 2;
  const int part = warp() % parts;
  for (int begin = 0; begin < count; begin += warps() / parts) {
    const int index = begin + warp() / parts;
    Token* token = shared.token() + index;
    Best best{};
    if (index < count) best = scan(costs, slots, token->row, part, parts);
    if (parts > 1) {
      if (lane() == 0) shared.best[warp()] = best;
      __syncthreads();
      for (int k = 1; k < parts && part == 0; ++k) best = merge(best, shared.best[warp() + k]);
    }
    if (index >= count || part != 0 || lane() != 0) continue;
    int column = best.turned + start_of(token->row, costs.m);
    column -= column >= costs.padded ? costs.padded : 0;
    const u64 old = slots[column];
    token->bid = slot(price_of(old) - (best.second - best.first + epsilon), token->row);
    token->column = column;
    token->previous = owner_of(old);
    atomicMin(&other[column], token->bid);
  }
}

// Until at most `stop` rows are without a column, or there were too many bids.
template <class C>
__device__ void auction(const C& costs, State& state, Shared& shared, Team& team, int epsilon,
                        int waiting, int stop, i64 most_bids) {
  i64 bids = 0, rounds = 0;
  while (waiting > stop && bids < most_bids) {
    const u64* slots = state.slots();
    u64* other = state.other();
    resolve(shared, slots, other);
    bid(costs, shared, slots, other, epsilon);
    waiting = team.sync_sum(shared.tokens);
    state.current = 1 - state.current;
    bids += waiting;
    ++rounds;
  }
  resolve(shared, state.slots(), state.other());
  if (team.thread_index() == 0) {
    state.counts[BIDS] += bids;
    state.counts[ROUNDS] += rounds;
  }
}

// The least over the block, for all its threads.
__device__ inline int block_min(int x, Shared& shared) {
  x = warp_min(x);
  __syncthreads();
  if (lane() == 0) shared.best[warp()].first = x;
  __syncthreads();
  for (int k = 0; k < warps(); ++k) x = min(x, shared.best[k].first);
  return x;
}

// Before a phase: prices in their bounds, rows freed that could do better by more than epsilon,
// and a token for each free one. Returns how many there are.
template <class C>
__device__ int release(const C& costs, State& state, Shared& shared, Team& team, int epsilon) {
  const u64* slots = state.slots();
  int lowest = LARGEST, highest = LARGEST;  // the latter negated
  for (int j = threadIdx.x; j < costs.m; j += blockDim.x) {
    const int price = price_of(slots[j]);
    lowest = min(lowest, price);
    highest = min(highest, -price);
  }
  lowest = block_min(lowest, shared);
  highest = -block_min(highest, shared);
  const int shift = lowest < -2 * RANGE ? highest : 0;
  if (threadIdx.x == 0) shared.tokens = 0;
  __syncthreads();
  for (int i = team.block + team.blocks * warp(); i < state.rows; i += team.blocks * warps()) {
    const int j = state.match[i];
    if (j >= 0) {
      const int least = scan(costs, slots, i, 0, 1).first;
      if (costs.one(i, j) - price_of(slots[j]) - least <= epsilon) continue;
    }
    if (lane() == 0) {
      state.match[i] = -1;
      shared.token()[atomicAdd(&shared.tokens, 1)] = {0, i, -1, NOBODY};
    }
  }
  team.sync();
  for (int j = team.thread_index(); j < costs.padded; j += team.thread_count()) {
    u64 now = state.slots()[j];
    if (j < costs.m) {
      unsigned owner = owner_of(now);
      if (owner != NOBODY && state.match[owner] != j) owner = NOBODY;
      now = slot(price_of(now) - shift, owner);
    }
    state.slots()[j] = state.other()[j] = now;
  }
  return team.sync_sum(shared.tokens);
}

// Final prices are within `last` levels of optimal for the rows that have a column.
template <class C>
__device__ void phases(const C& costs, State& state, Shared& shared, Team& team, int first,
                       int last, double ends, int factor) {
  constexpr i64 MOST_BIDS = 100;  // for each row: paths do the rest
  const int stop = static_cast<int>(state.rows * ends);
  for (int epsilon = max(first, last);; epsilon = max(last, epsilon / factor)) {
    const int waiting = release(costs, state, shared, team, epsilon);
    auction(costs, state, shared, team, epsilon, waiting, stop, MOST_BIDS * state.rows);
    for (int k = threadIdx.x; k < shared.tokens; k += blockDim.x)
      state.match[shared.token()[k].row] = -1;
    for (int j = team.thread_index(); j < costs.m; j += team.thread_count()) {
      const unsigned owner = owner_of(state.slots()[j]);
      if (owner != NOBODY) state.match[owner] = j;
    }
    team.sync();
    if (epsilon == last) return;
  }
}

}  // namespace fastgen
