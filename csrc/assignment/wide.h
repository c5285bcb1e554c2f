// Integers of L 64-bit limbs in two's complement: sums and differences of float64 numbers, exactly.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace fastgen::assignment {

// A finite number as mantissa 2^exponent, the mantissa odd or zero.
struct Dyadic {
  int64_t mantissa;
  int exponent;
};

inline Dyadic dyadic(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const int field = static_cast<int>(bits >> 52 & 2047);
  uint64_t mantissa = bits & ((uint64_t{1} << 52) - 1);
  if (field) mantissa |= uint64_t{1} << 52;
  if (mantissa == 0) return {0, 0};
  const int zeros = __builtin_ctzll(mantissa);
  const auto odd = static_cast<int64_t>(mantissa >> zeros);
  return {bits >> 63 ? -odd : odd, (field ? field : 1) - 1075 + zeros};
}

// In units of 2^unit, which whoever uses it keeps in mind.
template <int L>
struct Wide {
  uint64_t limb[L];

  static Wide zero() { return Wide{}; }

  // What is below the unit is rounded off.
  static Wide from(double x, int unit) {
    Wide out{};
    const Dyadic given = dyadic(x);
    if (given.mantissa == 0) return out;
    const bool negative = given.mantissa < 0;
    auto mantissa = static_cast<uint64_t>(negative ? -given.mantissa : given.mantissa);
    const int shift = given.exponent - unit;
    if (shift < 0) {
      out.limb[0] = shift > -64 ? mantissa >> -shift : 0;
    } else {
      const int at = shift / 64, by = shift % 64;
      out.limb[at] = mantissa << by;
      if (by && at + 1 < L) out.limb[at + 1] = mantissa >> (64 - by);
    }
    return negative ? zero() - out : out;
  }

  bool negative() const { return limb[L - 1] >> 63; }

  Wide& operator+=(const Wide& b) {
    uint64_t carry = 0;
    for (int k = 0; k < L; ++k) {
      const uint64_t sum = limb[k] + b.limb[k], all = sum + carry;
      carry = (sum < b.limb[k]) | (all < carry);
      limb[k] = all;
    }
    return *this;
  }
  Wide& operator-=(const Wide& b) {
    uint64_t borrow = 0;
    for (int k = 0; k < L; ++k) {
      const uint64_t less = limb[k] - b.limb[k], all = less - borrow;
      borrow = (limb[k] < b.limb[k]) | (less < borrow);
      limb[k] = all;
    }
    return *this;
  }
  friend Wide operator+(Wide a, const Wide& b) { return a += b; }
  friend Wide operator-(Wide a, const Wide& b) { return a -= b; }

  // Within one part in 2^52.
  double times_power(int exponent) const {
    const bool below = negative();
    const Wide size = below ? zero() - *this : *this;
    int top = L - 1;
    while (top > 0 && size.limb[top] == 0) --top;
    double x = static_cast<double>(size.limb[top]);
    // The limb below matters where the top one has few bits.
    if (top > 0) x += static_cast<double>(size.limb[top - 1]) * 0x1p-64;
    const int power = exponent + 64 * top;
    if (power) x = std::ldexp(x, power);
    return below ? -x : x;
  }
};

}  // namespace fastgen::assignment
