// Philox4x32-10, and standard normals and uniforms made of its words, bit for bit those of src/noise.rs,
// which documents the layout of keys and counters. Every operation is rounded to nearest and never contracted
// to a fused multiply-add, so products and sums are written as intrinsics.
#pragma once
#include "act.cuh"

// The part of the key that is common to all particles of a launch.
struct Stream {
  uint64_t seed;
  uint32_t step;
  uint32_t purpose;
};
// The four words of block `block` in the stream of (prompt, particle).
DEVICE Words philox(Stream s, uint32_t prompt, uint32_t particle, uint32_t block) {
  uint32_t c0 = block, c1 = particle, c2 = s.step, c3 = s.purpose << 28 | prompt;
  uint32_t k0 = (uint32_t)s.seed, k1 = (uint32_t)(s.seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; round++) {
    const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
    c1 = (uint32_t)p1;
    c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c3 = (uint32_t)p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return Words{{c0, c1, c2, c3}};
}

// Uniform `index` of the stream of (prompt, particle), in (0, 1) with 52 bits.
DEVICE double uniform(Stream s, uint32_t prompt, uint32_t particle, uint32_t index) {
  const Words x = philox(s, prompt, particle, index >> 1);
  const uint32_t low = index & 1 ? x.w[2] : x.w[0], high = index & 1 ? x.w[3] : x.w[1];
  const uint64_t m = ((uint64_t)high << 32 | low) >> 12;
  return __dmul_rn(__dadd_rn(__ull2double_rn(m), 0.5), 0x1p-52);
}

// a b + c, rounded twice.
DEVICE float mul_add(float a, float b, float c) { return __fadd_rn(__fmul_rn(a, b), c); }

DEVICE float ln(float u) {
  const uint32_t shifted = __float_as_uint(u) - 0x3F3504F3u;
  const float e = __int2float_rn((int32_t)shifted >> 23);
  const float m = __uint_as_float((shifted & 0x007FFFFFu) + 0x3F3504F3u);
  const float x = __fadd_rn(m, -1.0f);
  const float z = __fmul_rn(x, x);
  float p = 7.0376836292E-2f;
  p = mul_add(p, x, -1.1514610310E-1f);
  p = mul_add(p, x, 1.1676998740E-1f);
  p = mul_add(p, x, -1.2420140846E-1f);
  p = mul_add(p, x, 1.4249322787E-1f);
  p = mul_add(p, x, -1.6668057665E-1f);
  p = mul_add(p, x, 2.0000714765E-1f);
  p = mul_add(p, x, -2.4999993993E-1f);
  p = mul_add(p, x, 3.3333331174E-1f);
  float y = __fmul_rn(__fmul_rn(x, z), p);
  y = mul_add(e, -2.12194440E-4f, y);
  y = mul_add(-0.5f, z, y);
  return mul_add(e, 0.693359375f, __fadd_rn(x, y));
}

// Sine and cosine of the angle x / 2^32 of a full turn.
DEVICE void sin_cos_turn(uint32_t x, float& sin, float& cos) {
  const uint32_t quarter = (x + (1u << 29)) >> 30;
  const int32_t rest = (int32_t)(x - (quarter << 30));
  const float a = __fmul_rn(__int2float_rn(rest), 6.283185307179586f * 0x1p-32f);
  const float z = __fmul_rn(a, a);
  float s = mul_add(-1.9515295891E-4f, z, 8.3321608736E-3f);
  s = mul_add(s, z, -1.6666654611E-1f);
  s = mul_add(__fmul_rn(s, z), a, a);
  float c = mul_add(2.443315711809948E-5f, z, -1.388731625493765E-3f);
  c = mul_add(c, z, 4.166664568298827E-2f);
  c = __fadd_rn(__fmul_rn(__fmul_rn(c, z), z), mul_add(-0.5f, z, 1.0f));
  const bool even = (quarter & 1) == 0;
  sin = __uint_as_float(__float_as_uint(even ? s : c) ^ (quarter & 2) << 30);
  cos = __uint_as_float(__float_as_uint(even ? c : s) ^ ((quarter + 1) & 2) << 30);
}

// Two standard normals from two words.
DEVICE void box_muller(uint32_t x0, uint32_t x1, float& a, float& b) {
  const float u = __fadd_rn(__fmul_rn(__uint2float_rn(x0), 0x1p-32f), 0x1p-33f);
  const float square = __fmul_rn(-2.0f, ln(u));
  const float radius = __fsqrt_rn(square > 0.0f ? square : 0.0f);
  float sin, cos;
  sin_cos_turn(x1, sin, cos);
  a = __fmul_rn(radius, cos);
  b = __fmul_rn(radius, sin);
}

// Elements 4 block to 4 block + 3 of the stream of (prompt, particle).
DEVICE void normals(Stream s, uint32_t prompt, uint32_t particle, uint32_t block, float (&z)[4]) {
  const Words x = philox(s, prompt, particle, block);
  box_muller(x.w[0], x.w[1], z[0], z[1]);
  box_muller(x.w[2], x.w[3], z[2], z[3]);
}
