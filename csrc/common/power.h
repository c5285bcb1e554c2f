// Powers of positive numbers, the same steps for all lanes of a vector and for one number alone:
// what a number becomes does not depend on its place. Semantics: `power` in
// fastgen/common/rounding.py. Internal linkage: each instruction set has its own.
#pragma once
#include <cstdint>
#include <cstring>

namespace fastgen {
namespace {

template <class To, class From>
inline To bits_as(From x) {
  To found;
  std::memcpy(&found, &x, sizeof(found));
  return found;
}

// Coefficients of the minimax approximations of FreeBSD's msun, e_log.c and e_exp.c.
constexpr double LOG[7] = {6.666666666666735130e-01, 3.999999999940941908e-01,
                           2.857142874366239149e-01, 2.222219843214978396e-01,
                           1.818357216161805012e-01, 1.531383769920937332e-01,
                           1.479819860511658591e-01};
constexpr double EXP[5] = {1.66666666666666019037e-01, -2.77777777770155933842e-03,
                           6.61375632143793436117e-05, -1.65339022054652515390e-06,
                           4.13813679705723846039e-08};

// x^exponent for finite x >= 0, within about 2e-15 of it relative to itself where the result is
// between 1e-300 and 1e300; 0 for x below the normal numbers, NaN for NaN
// and infinity.
inline double power(double x, double exponent) {
  constexpr uint64_t ONE = uint64_t{1023} << 52, ROOT_HALF = 0x3fe6a09e667f3bcd;
  constexpr double MAGIC = 6755399441055744.0;  // 1.5 2^52: adding it rounds to a whole number
  constexpr double LN2_HIGH = 0x1.62e42fee00000p-1, LN2_LOW = 0x1.a39ef35793c76p-33;
  // x = m 2^e with m in [sqrt(1/2), sqrt(2)), e a whole number
  const uint64_t bits = bits_as<uint64_t>(x);
  const uint64_t scale = (bits - ROOT_HALF + ONE) >> 52;
  const double m = bits_as<double>(bits - (scale << 52) + ONE);
  const double e = bits_as<double>(bits_as<uint64_t>(MAGIC) + scale - 1023) - MAGIC;
  const double f = m - 1, s = f / (m + 1), z = s * s, w = z * z, half = 0.5 * f * f;
  const double even = w * (LOG[1] + w * (LOG[3] + w * LOG[5]));
  const double odd = z * (LOG[0] + w * (LOG[2] + w * (LOG[4] + w * LOG[6])));
  const double rest = half - s * (half + (even + odd));
  const double log = e * LN2_HIGH - ((rest - e * LN2_LOW) - f);
  // exp(y) = 2^k exp(r), |r| <= log(2) / 2
  const double y = exponent * log;
  const double shifted = y * 0x1.71547652b82fep+0 + MAGIC, k = shifted - MAGIC;
  const double r = (y - k * LN2_HIGH) - k * LN2_LOW;
  const double t = r * r;
  const double c = r - t * (EXP[0] + t * (EXP[1] + t * (EXP[2] + t * (EXP[3] + t * EXP[4]))));
  double found = 1 + (r + r * c / (2 - c));
  int64_t shift = bits_as<int64_t>(shifted) - bits_as<int64_t>(MAGIC);
  shift = shift < -1022 ? -1022 : shift;
  shift = shift > 1023 ? 1023 : shift;
  const uint64_t normal = -uint64_t{bits >= 0x0010000000000000};
  found = found * bits_as<double>(static_cast<uint64_t>(shift + 1023) << 52);
  return bits_as<double>(bits_as<uint64_t>(found) & normal) + (x - x);
}

}  // namespace
}  // namespace fastgen
