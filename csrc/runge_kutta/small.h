// Samples of few elements, a group at a time: what belongs to a sample is in a lane, and its N
// elements are in neighbouring lanes of N vectors. Samples that are left over are groups of one.
// Internal linkage: each instruction set has its own.
#pragma once
#include <algorithm>

#include "common/power.h"
#include "runge_kutta/outputs.h"
#include "runge_kutta/packs.h"
#include "runge_kutta/rows.h"

namespace fastgen {
namespace {

// The elements of a group in the order of memory.
template <class T, int N, int G>
struct Elements {
  Pack<T, G> part[N];

  static Elements at(const T* from) {
    Elements x;
    for (int v = 0; v < N; ++v) x.part[v] = load<Pack<T, G>>(from + v * G);
    return x;
  }
  void to(T* to) const {
    for (int v = 0; v < N; ++v) store(to + v * G, part[v]);
  }
};

// To every element what its sample has.
template <int N, int G, class T, int V, int... LANE>
FASTGEN_INLINE Pack<T, G> spread_part(Pack<T, G> x, std::integer_sequence<int, LANE...>) {
  if constexpr (G == 1)
    return x;
  else
    return lanes_of<(V * G + LANE) / N...>(x, x);
}
template <int N, int G, class T, int... V>
FASTGEN_INLINE Elements<T, N, G> spread_parts(Pack<T, G> x, std::integer_sequence<int, V...>) {
  return {{spread_part<N, G, T, V>(x, std::make_integer_sequence<int, G>())...}};
}
template <int N, int G, class T>
FASTGEN_INLINE Elements<T, N, G> spread(Pack<T, G> x) {
  return spread_parts<N, G, T>(x, std::make_integer_sequence<int, N>());
}

// Element J of every sample, of those that the first vectors up to V hold.
template <int J, int V, int N, int G, class T, int... LANE>
FASTGEN_INLINE Pack<T, G> element_of(const Elements<T, N, G>& x, Pack<T, G> found,
                                     std::integer_sequence<int, LANE...> lanes) {
  if constexpr (G == 1) {
    return x.part[J];
  } else if constexpr (V == N) {
    return found;
  } else {
    found =
        lanes_of<((LANE * N + J) / G == V ? G + (LANE * N + J) % G : LANE)...>(found, x.part[V]);
    return element_of<J, V + 1>(x, found, lanes);
  }
}

template <class Real, int N, int G>
struct Group {
  using Numbers = Pack<double, G>;
  using Whole = Pack<int64_t, G>;
  using Reals = Pack<Real, G>;
  using State = Elements<Real, N, G>;

  const Integration& op;
  int64_t first;

  Numbers operator[](Control what) const { return load<Numbers>(&op.at(what, first)); }
  Whole operator[](Count what) const { return load<Whole>(&op.at(what, first)); }
  void set(Control what, Numbers x) const { store(&op.at(what, first), x); }
  void set(Count what, Whole x) const { store(&op.at(what, first), x); }
  Real* of(void* data) const { return static_cast<Real*>(data) + first * N; }
  Real* k(int j) const { return of(op.k) + j * op.capacity * N; }
  static Numbers number(double x) { return Numbers{} + x; }
  static Whole whole(int64_t x) { return Whole{} + x; }
  static State weights(Numbers x) { return spread<N, G, Real>(converted<Reals>(x)); }

  // total + sum_j (h weight_j) k_j from left to right, zero weights left out.
  State sum(State total, Numbers h, const double* weights, int count) const {
    for (int j = 0; j < count; ++j) {
      if (weights[j] == 0) continue;
      const State w = Group::weights(h * weights[j]), slope = State::at(k(j));
      for (int v = 0; v < N; ++v) total.part[v] = total.part[v] + w.part[v] * slope.part[v];
    }
    return total;
  }
  // x where the sample's lane of a comparison holds, else y.
  template <class Mask>
  static State chosen(Mask mask, State x, State y) {
    const State one = weights(where(mask, number(1), Numbers{}));
    for (int v = 0; v < N; ++v) y.part[v] = where(one.part[v] != Reals{}, x.part[v], y.part[v]);
    return y;
  }

  void stage(int i) const {
    const Numbers h = (*this)[STEP];
    const State y = State::at(of(op.y));
    State found = sum(y, h, op.a + i * op.stages, i);
    if (const auto ended = h == Numbers{}; bits_of(ended)) found = chosen(ended, y, found);
    const Numbers time = (*this)[TIME] + op.c[i] * h;
    store(static_cast<Real*>(op.stage_times) + first, converted<Reals>(time));
    found.to(of(op.stage));
    if (i == op.stages - 1) found.to(of(op.y_new));
  }

  // The norms of errors; see `norm`. The sums are the same without the lanes that hold zeros.
  Numbers norms(const State& errors) const {
    const State y = State::at(of(op.y)), z = State::at(of(op.y_new));
    const State rtol = weights((*this)[RTOL]), atol = weights((*this)[ATOL]);
    Elements<double, N, G> squares;
    for (int v = 0; v < N; ++v) {
      const Reals error = errors.part[v];
      const Reals scale =
          atol.part[v] + rtol.part[v] * larger(size_of(z.part[v]), size_of(y.part[v]));
      const Reals ratio = where(error == Reals{}, Reals{}, error / scale);
      const Numbers exact = converted<Numbers>(ratio);
      squares.part[v] = exact * exact;
    }
    Numbers by_element[SMALL] = {};
    separate(by_element, squares, std::make_integer_sequence<int, N>());
    if (op.segments == 1) return root(halved<LANES_OF_ALL>(by_element), 0);
    Numbers largest{};
    for (int64_t g = 0, begin = 0; g < op.segments; begin = op.segment_ends[g++]) {
      Numbers part[SMALL] = {};
      std::copy(by_element + begin, by_element + op.segment_ends[g], part);
      const Numbers mean = root(halved<SMALL>(part), g);
      largest = where((mean <= largest) | (largest != largest), largest, mean);
    }
    return largest;
  }
  static constexpr int LANES_OF_ALL = N > 4 ? 8 : N > 2 ? 4 : N;
  template <int LANES>
  static Numbers halved(Numbers (&lane)[SMALL]) {
    for (int half = LANES / 2; half; half /= 2)
      for (int j = 0; j < half; ++j) lane[j] = lane[j] + lane[j + half];
    return lane[0];
  }
  template <int... J>
  static void separate(Numbers* to, const Elements<double, N, G>& x,
                       std::integer_sequence<int, J...>) {
    ((to[J] = element_of<J, 0>(x, Numbers{}, std::make_integer_sequence<int, G>())), ...);
  }
  // The root of the mean of segment g.
  Numbers root(Numbers total, int64_t g) const {
    double live[G];
    for (int l = 0; l < G; ++l)
      live[l] = static_cast<double>(op.live_stride ? op.live_of(first + l)[g] : op.live[g]);
    const Numbers size = load<Numbers>(live);
    const Numbers found = each<G>(total / size, [](double x) { return std::sqrt(x); });
    return where(size != Numbers{}, found, Numbers{});
  }

  static Numbers powers(Numbers x, double exponent) {
    return each<G>(x, [exponent](double base) { return power(base, exponent); });
  }

  // As `decide`, of a group.
  void control() const {
    const StepSize& s = op.step_size;
    const Numbers h = (*this)[STEP], size = size_of(h), before = (*this)[ERROR_1];
    const Whole one = whole(1);
    const Numbers error = norms(sum(State{}, h, op.error, op.stages));
    const auto running = (*this)[STATUS] == Whole{};
    const auto finite = size_of(error) < number(INF);
    const auto taken = finite & running & ((error <= 1.0) | (size <= s.min_step));
    const Numbers counted = larger(error, number(LEAST_ERROR));
    Numbers factor = s.safety * powers(counted, -s.beta[0]);
    if (s.beta[1] != 0) factor = factor * powers(before, -s.beta[1]);
    if (s.beta[2] != 0) factor = factor * powers((*this)[ERROR_2], -s.beta[2]);
    const auto refused = (*this)[PROPOSAL] < Numbers{};
    const Numbers most = where(refused, number(1.0), number(s.max_factor));
    factor = smaller(larger(factor, number(s.min_factor)), where(taken, most, number(s.safety)));
    factor = where(finite, factor, number(s.min_factor));
    const Numbers next = smaller(larger(size * factor, number(s.min_step)), number(s.max_step));
    const Whole took = where(taken, one, Whole{}), tried = where(running, one, Whole{});
    set(TAKEN, took);
    set(ACCEPTED, (*this)[ACCEPTED] + took);
    set(REJECTED, (*this)[REJECTED] + (tried - took));
    set(ERROR_2, where(taken, before, (*this)[ERROR_2]));
    set(ERROR_1, where(taken, counted, before));
    set(ERROR, where(running, error, (*this)[ERROR]));
    set(PROPOSAL, where(running, where(taken, next, -next), (*this)[PROPOSAL]));
  }

  // As `fastgen::move`, of a group.
  void move() const {
    const StepSize& s = op.step_size;
    const Numbers t = (*this)[TIME], h = (*this)[STEP], end = (*this)[END];
    const auto running = (*this)[STATUS] == Whole{};
    const auto taken = running & ((*this)[TAKEN] != Whole{});
    chosen(taken, State::at(of(op.y_new)), State::at(of(op.y))).to(of(op.y));
    chosen(taken, State::at(k(op.stages - 1)), State::at(k(0))).to(k(0));
    const Numbers time = where(taken, where(h == end - t, end, t + h), t);
    const Numbers size = size_of((*this)[PROPOSAL]), rest = end - time;
    Numbers step = where(size_of(rest) <= 1.01 * size, rest, where(rest < Numbers{}, -size, size));
    const auto stuck = (time + step == time) | (size_of(step) == number(INF)) | (step != step);
    const auto finite = size_of((*this)[ERROR]) < number(INF);
    const auto most = (*this)[ACCEPTED] + (*this)[REJECTED] >= whole(s.max_steps);
    Whole status = where(finite, whole(UNDERFLOW_), whole(NON_FINITE));
    status = where(stuck, status, Whole{});
    status = where(most, whole(MAX_STEPS), status);
    status = where(time == end, whole(DONE), status);
    step = where(status == Whole{}, step, Numbers{});
    set(TIME, where(running, time, t));
    set(STEP, where(running, step, h));
    set(STATUS, where(running, status, (*this)[STATUS]));
  }

  // The slope of stage i comes into k.
  void keep(int i, const void* slope) const {
    State::at(static_cast<const Real*>(slope) + first * N).to(k(i));
  }
};

// work(group) for all rows of [begin, end): groups of G, then half as many, down to one.
template <class Real, int N, int G = GROUP, class Work>
FASTGEN_INLINE void in_groups(const Integration& op, int64_t begin, int64_t end, const Work& work) {
  for (; begin + G <= end; begin += G) work(Group<Real, N, G>{op, begin});
  if constexpr (G > 1) in_groups<Real, N, G / 2>(op, begin, end, work);
}

// The kernels for rows of N elements.
template <class Real, int N>
struct SmallRows {
  static void stage(const Integration& op, int i, int64_t begin, int64_t end) {
    in_groups<Real, N>(op, begin, end, [i](const auto& group) { group.stage(i); });
  }
  static void control(const Integration& op, int64_t begin, int64_t end) {
    in_groups<Real, N>(op, begin, end, [](const auto& group) { group.control(); });
  }
  static void commit(const Integration& op, int64_t begin, int64_t end) {
    Due<Real, N> due(op);
    for (; begin < end; begin += SIDE) {
      const int64_t last = std::min(begin + SIDE, end);
      due.pass(begin, last);
      in_groups<Real, N>(op, begin, last, [](const auto& group) { group.move(); });
    }
  }
  static void take(const Integration& op, int i, const void* slope, int64_t begin, int64_t end) {
    if (i < op.stages - 1)
      return in_groups<Real, N>(op, begin, end, [i, slope](const auto& group) {
        group.keep(i, slope);
        group.stage(i + 1);
      });
    Due<Real, N> due(op);
    for (; begin < end; begin += SIDE) {
      const int64_t last = std::min(begin + SIDE, end);
      in_groups<Real, N>(op, begin, last, [i, slope](const auto& group) {
        group.keep(i, slope);
        group.control();
      });
      due.pass(begin, last);
      in_groups<Real, N>(op, begin, last, [](const auto& group) {
        group.move();
        group.stage(1);
      });
    }
  }
};

}  // namespace
}  // namespace fastgen
