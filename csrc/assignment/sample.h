// Which rows and columns of a square problem a sample has.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

namespace fastgen::assignment {

class Chosen {
 public:
  // All of them.
  explicit Chosen(int64_t count) : count_(count) {}

  bool all() const { return indices_.empty(); }
  int64_t count() const { return count_; }
  int64_t at(int64_t k) const { return all() ? k : indices_[k]; }

  // One of every `step`, at irregular places (Fibonacci hashing): columns may be of kinds that
  // follow one another in turn, of which a regular sample would miss some. Also the places, among
  // these, of those in it.
  std::pair<Chosen, std::vector<int64_t>> sample(int64_t step) const {
    Chosen found((count_ + step - 1) / step);
    std::vector<int64_t> places(found.count_);
    for (int64_t k = 0; k < found.count_; ++k) {
      const int64_t room = k * step + step <= count_ ? step : count_ - k * step;
      const uint32_t hash = static_cast<uint32_t>(k) * 2654435769u;
      places[k] = k * step + static_cast<int64_t>((uint64_t{hash} * room) >> 32);
      found.indices_.push_back(static_cast<int32_t>(at(places[k])));
    }
    return {found, places};
  }

 private:
  int64_t count_;
  std::vector<int32_t> indices_;
};

}  // namespace fastgen::assignment
