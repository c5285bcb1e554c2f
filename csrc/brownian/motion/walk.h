// Walks along virtual Brownian trees, as plain data: increments between times, one after the other,
// and the areas below them where asked for.
//
// The interval [0, 1] is halved `depth` times, and W at each midpoint is drawn given W at the ends
// of what it halves; a time inside of one of the 2^depth cells is then reached by a bridge. A
// time's path is the ends and midpoints on the way down to its cell. Each has a slot, and the
// normal that makes it has the number of a node of the tree. Of depth 3, with the path to 0.6 in
// [brackets]:
//
//     slot                                                    node
//       0   W(0) = 0 |
//       1            |                               [W(1)]      0
//       2            |              [o]                 |        1              level 0
//       3            |       o               [o]        |        2, 3           level 1
//       4            |   o       o      [o]       o     |        4 .. 7         level 2
//                    | 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7 |           cells
//       5                            [x]                         8 + cell       the bridge to 0.6
//
// The bits of a cell's number, the highest first, say for each level whether the path goes on in
// the lower or in the upper half. So paths share their slots as far as their cells' leading bits
// are the same: level l halves what the first l bits lead to. All elements are asked for the same
// times, so what a path shares with the one before is found once for all of them.
#pragma once
#include <cstdint>
#include <vector>

#include "common/types.h"

namespace fastgen {

constexpr int MAX_DEPTH = 24;
// Slots of a path without the bridge.
constexpr int PATH_SLOTS = MAX_DEPTH + 2;
// Slots that stay between calls: more would serve steps below 2^-12 of the interval only.
constexpr int KEPT_SLOTS = 14;
// Elements that are walked together, in blocks of four.
constexpr int TILE_BLOCKS = 64, TILE_ELEMENTS = 4 * TILE_BLOCKS;

// One time of a walk.
struct Visit {
  uint32_t cell;
  double fraction;  // of the cell; 1 at time 1 only
  // The slots [draw_from, draw_to) are drawn; those before are known from the visit before.
  int draw_from, draw_to;
  int slot;  // that has W at the time; the bridge's where the time is inside of the cell
  // From the time before: its length, and scales of the increment and of the area.
  double length, scale, area_scale;
};

struct Walk {
  int64_t rows, elements;
  Noise noise;  // of the tree's stream
  int depth;
  double factor;  // of all values
  const std::vector<Visit>& visits;
  // [tiles][KEPT_SLOTS][TILE_ELEMENTS], and [tiles][TILE_ELEMENTS] of W at the last time; null:
  // nothing stays.
  double *kept_slots, *last_values;
  bool starts_at_last;  // the first increment begins at the last time, which is not visited
  int64_t increments;
  void* output;  // [increments, rows, elements], with areas [2, increments, rows, elements]
  bool doubles, area;
};

}  // namespace fastgen
