// Conversions of the 16-bit types, without branches, so that loops over them become vector code. Also used by
// the emulated tensor core.
#pragma once
#include <stdint.h>

namespace emu {
inline float bits_float(uint32_t u) {
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}
inline uint32_t float_bits(float f) {
  uint32_t u;
  __builtin_memcpy(&u, &f, 4);
  return u;
}

// A half's exponent and fraction stand at the place of a float's, 112 too low; the product with 2^112 puts
// that right for normal and subnormal halves alike. Infinities and NaNs get the largest exponent.
inline float half_to_float(uint16_t h) {
  const uint32_t magnitude = (uint32_t)(h & 0x7fffu) << 13;
  const uint32_t finite = float_bits(bits_float(magnitude) * 0x1p112f);
  const uint32_t special = magnitude | 0x7f800000u | (magnitude > 0x0f800000u ? 0x00400000u : 0u);
  return bits_float((magnitude >= 0x0f800000u ? special : finite) | (uint32_t)(h & 0x8000u) << 16);
}
inline float bf16_to_float(uint16_t b) { return bits_float((uint32_t)b << 16); }

// To the nearest, ties to even. The largest halves overflow to infinity from 65520 on; NaNs become 0x7fff, as
// on the device.
inline uint16_t float_to_half(float f) {
  const uint32_t u = float_bits(f), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
  uint32_t r;
  if (a > 0x7f800000u) return 0x7fff;
  if (a >= 0x477ff000u) {
    r = 0x7c00;
  } else if (a >= 0x38800000u) {
    r = (a - 0x38000000u + 0xfffu + (a >> 13 & 1u)) >> 13;
  } else {
    // 0.5 has an ulp of 2^-24, that of subnormal halves: the sum rounds, and its low bits are the result.
    r = float_bits(bits_float(a) + 0.5f) - 0x3f000000u;
  }
  return (uint16_t)(r | sign);
}
inline uint16_t float_to_bf16(float f) {
  const uint32_t u = float_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (uint16_t)((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}
}  // namespace emu
