// Solves problems of every kind with several threads; run under sanitizers, and checks each result.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "assignment/operation.h"

using namespace fastgen::assignment;

struct Silent : Control {
  void poll(int) override {}
};

template <class T>
int check(int64_t n, int64_t m, int64_t dims, bool points, bool ties, int threads) {
  std::mt19937 random(n + 31 * m);
  std::normal_distribution<double> normal;
  std::vector<T> a(n * dims), b(m * dims), matrix(n * m, T{0});
  for (T& x : a) x = ties ? static_cast<T>(random() % 3) : static_cast<T>(normal(random));
  for (T& x : b) x = ties ? static_cast<T>(random() % 3) : static_cast<T>(normal(random));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < m; ++j)
      for (int64_t k = 0; k < dims; ++k) {
        const T difference = a[i * dims + k] - b[j * dims + k];
        matrix[i * m + j] += difference * difference;
      }
  const std::vector<T> costs = matrix;
  std::vector<int64_t> match(n);
  std::vector<double> u(n), v(m);
  Solution found{match.data(), u.data(), v.data(), 0, 0};
  const Problem problem{points ? Form::points : Form::matrix,
                        sizeof(T) == 8,
                        n,
                        m,
                        points ? nullptr : matrix.data(),
                        a.data(),
                        b.data(),
                        dims,
                        false};
  const double tolerance = sizeof(T) == 8 ? 1e-12 : 1e-6;
  Silent silent;
  Team team(threads);
  assign(problem, {0, tolerance, 0, nullptr}, team, silent, 0, &found);
  std::vector<char> used(m);
  double cost = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (match[i] < 0 || match[i] >= m || used[match[i]]++) return 1;
    cost += costs[i * m + match[i]];
  }
  const bool good =
      found.gap <= 2 * tolerance * cost + 1e-9 && std::abs(found.cost - cost) <= 1e-4 * cost + 1e-6;
  if (!good)
    std::printf("%ld x %ld: cost %g, %g, gap %g\n", long(n), long(m), cost, found.cost, found.gap);
  return !good;
}

int main() {
  int failures = 0;
  for (const int threads : {1, 3})
    for (const bool ties : {false, true}) {
      for (const int64_t n : {1, 2, 5, 33, 64, 150})
        for (const int64_t extra : {0, 1, 40})
          for (const bool points : {false, true}) {
            failures += check<float>(n, n + extra, 3, points, ties, threads);
            failures += check<double>(n, n + extra, 3, points, ties, threads);
          }
      failures += check<float>(700, 700, 2, true, ties, threads);
      failures += check<double>(600, 650, 2, true, ties, threads);
      failures += check<float>(600, 1300, 2, true, ties, threads);
      failures += check<float>(300, 300, 2, false, ties, threads);
      failures += check<double>(300, 400, 2, false, ties, threads);
      failures += check<float>(700, 700, 9, false, ties, threads);
      failures += check<float>(1300, 1300, 2, true, ties, threads);
      failures += check<double>(1300, 1300, 2, true, ties, threads);
      failures += check<double>(600, 600, 9, false, ties, threads);
    }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
