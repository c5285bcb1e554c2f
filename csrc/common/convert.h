// Conversions between what tensors hold and what the kernels compute in, rounded to nearest even.
#pragma once
#include "common/lanes.h"
#include "common/types.h"

namespace fastgen {
namespace {

FASTGEN_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

FASTGEN_INLINE float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

struct BFloat16 {
  uint16_t bits;
  FASTGEN_INLINE operator float() const { return float_of(uint32_t{bits} << 16); }
  BFloat16() = default;
  FASTGEN_INLINE explicit BFloat16(float x) {
    const uint32_t u = bits_of(x);
    const uint32_t rounded = (u + 0x7FFF + (u >> 16 & 1)) >> 16;
    bits = static_cast<uint16_t>((u & 0x7FFFFFFF) > 0x7F800000 ? 0x7FC0 : rounded);
  }
};

struct Float16 {
  uint16_t bits;
  FASTGEN_INLINE operator float() const {
    const uint32_t sign = uint32_t{bits} << 16 & 0x80000000, u = (bits & 0x7FFFu) << 13;
    const float normal = float_of(u + (112u << 23));
    const float infinite = float_of(u + (224u << 23));
    // No denormal is an operand here, so the result stands even where the CPU flushes them.
    const float denormal = float_of(u + (113u << 23)) - float_of(113u << 23);
    const float x = u >= 0x7C00u << 13 ? infinite : u < 0x400u << 13 ? denormal : normal;
    return float_of(bits_of(x) | sign);
  }
  Float16() = default;
  FASTGEN_INLINE explicit Float16(float x) {
    const uint32_t sign = bits_of(x) >> 16 & 0x8000, u = bits_of(x) & 0x7FFFFFFF;
    const uint32_t normal = (u - (112u << 23) + 0xFFF + (u >> 13 & 1)) >> 13;
    // Adding 1/2 leaves the denormal's mantissa, rounded, in the last bits.
    const uint32_t denormal = bits_of(float_of(u) + 0.5f) - bits_of(0.5f);
    const uint32_t special = u > 0x7F800000 ? 0x7E00 : 0x7C00;
    const uint32_t h = u >= 143u << 23 ? special : u < 113u << 23 ? denormal : normal;
    bits = static_cast<uint16_t>(h | sign);
  }
};

template <class To, class From>
void convert(To* to, const From* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<To>(static_cast<float>(from[i]));
}
template <>
[[maybe_unused]] void convert(double* to, const double* from, int64_t count) {
  std::memcpy(to, from, count * sizeof(double));
}

#if defined(__F16C__)
template <>
[[maybe_unused]] void convert(float* to, const Float16* from, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + i))));
  for (; i < count; ++i) to[i] = _cvtsh_ss(from[i].bits);
}
template <>
[[maybe_unused]] void convert(Float16* to, const float* from, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm_storeu_si128((__m128i*)(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
  for (; i < count; ++i) to[i].bits = _cvtss_sh(from[i], 0);
}
#endif

template <class Real>
constexpr DType dtype_of = sizeof(Real) == 8 ? DType::float64 : DType::float32;

template <class Real>
void load(Real* to, const void* from, DType type, int64_t first, int64_t count) {
  switch (type) {
    case DType::float32: return convert(to, static_cast<const float*>(from) + first, count);
    case DType::float64: return convert(to, static_cast<const double*>(from) + first, count);
    case DType::bfloat16: return convert(to, static_cast<const BFloat16*>(from) + first, count);
    case DType::float16: return convert(to, static_cast<const Float16*>(from) + first, count);
  }
}

template <class Real>
void store(void* to, DType type, int64_t first, const Real* from, int64_t count) {
  switch (type) {
    case DType::float32: return convert(static_cast<float*>(to) + first, from, count);
    case DType::float64: return convert(static_cast<double*>(to) + first, from, count);
    case DType::bfloat16: return convert(static_cast<BFloat16*>(to) + first, from, count);
    case DType::float16: return convert(static_cast<Float16*>(to) + first, from, count);
  }
}

}  // namespace
}  // namespace fastgen
