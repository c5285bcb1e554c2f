// Which rows and columns of a square problem a sample has.
#pragma once
#include <cstdint>
#include <vector>

namespace fastgen::assignment {

// Prices start from those of every SAMPLE_STEP-th row and column, from so many columns on.
constexpr int64_t SAMPLE_STEP = 4, SAMPLE_FROM = 512;

// One of every SAMPLE_STEP of `count` places, irregularly (Fibonacci hashing): columns may be of
// kinds that follow one another in turn, of which a regular sample would miss some.
inline std::vector<int64_t> sample_places(int64_t count) {
  std::vector<int64_t> places((count + SAMPLE_STEP - 1) / SAMPLE_STEP);
  for (size_t k = 0; k < places.size(); ++k) {
    const int64_t begin = k * SAMPLE_STEP;
    const int64_t room = begin + SAMPLE_STEP <= count ? SAMPLE_STEP : count - begin;
    const uint32_t hash = static_cast<uint32_t>(k) * 2654435769u;
    places[k] = begin + static_cast<int64_t>((uint64_t{hash} * room) >> 32);
  }
  return places;
}

}  // namespace fastgen::assignment
