// The arithmetic of weighing, bit for bit that of src/smc: f64 operations that are rounded to nearest and
// never contracted to fused multiply-adds, an exponential and a logarithm made of them, integer weights, and
// sums and scans over a block in a fixed order. Equal log-weights therefore choose equal ancestors on every
// device.
#pragma once
#include "reduce.cuh"

DEVICE double add(double a, double b) { return __dadd_rn(a, b); }
DEVICE double sub(double a, double b) { return __dsub_rn(a, b); }
DEVICE double mul(double a, double b) { return __dmul_rn(a, b); }
DEVICE double ratio(double a, double b) { return __ddiv_rn(a, b); }
// a b + c, rounded twice.
DEVICE double mul_add(double a, double b, double c) { return add(mul(a, b), c); }
DEVICE double bits(uint64_t x) { return __longlong_as_double((long long)x); }
DEVICE bool is_finite(double x) { return ((uint64_t)__double_as_longlong(x) >> 52 & 0x7FF) != 0x7FF; }
#define DAS_DEAD bits(0xFFF0000000000000ull)

// e^x for x <= 0, and 0 below -708. src/smc/math.rs has the polynomial and its derivation.
DEVICE double exact_exp(double x) {
  if (x < -708.0) return 0.0;
  const double n = rint(mul(x, 1.4426950408889634074));
  const double r = sub(sub(x, mul(n, bits(0x3FE62E42FEE00000ull))), mul(n, 1.9082149292705877e-10));
  double q = 1.0 / 6227020800.0;
  q = mul_add(q, r, 1.0 / 479001600.0);
  q = mul_add(q, r, 1.0 / 39916800.0);
  q = mul_add(q, r, 1.0 / 3628800.0);
  q = mul_add(q, r, 1.0 / 362880.0);
  q = mul_add(q, r, 1.0 / 40320.0);
  q = mul_add(q, r, 1.0 / 5040.0);
  q = mul_add(q, r, 1.0 / 720.0);
  q = mul_add(q, r, 1.0 / 120.0);
  q = mul_add(q, r, 1.0 / 24.0);
  q = mul_add(q, r, 1.0 / 6.0);
  q = mul_add(q, r, 0.5);
  const double y = add(1.0, add(r, mul(mul(r, r), q)));
  return mul(y, bits((uint64_t)(1023 + __double2ll_rz(n)) << 52));
}

// Natural logarithm of a positive normal number.
DEVICE double exact_ln(double x) {
  const uint64_t root = 0x3FE6A09E667F3BCDull;
  const uint64_t shifted = (uint64_t)__double_as_longlong(x) - root;
  const double e = __int2double_rn((int32_t)((int64_t)shifted >> 52));
  const double f = sub(bits((shifted & 0x000FFFFFFFFFFFFFull) + root), 1.0);
  const double s = ratio(f, add(2.0, f));
  const double z = mul(s, s);
  double q = 2.0 / 23.0;
  q = mul_add(q, z, 2.0 / 21.0);
  q = mul_add(q, z, 2.0 / 19.0);
  q = mul_add(q, z, 2.0 / 17.0);
  q = mul_add(q, z, 2.0 / 15.0);
  q = mul_add(q, z, 2.0 / 13.0);
  q = mul_add(q, z, 2.0 / 11.0);
  q = mul_add(q, z, 2.0 / 9.0);
  q = mul_add(q, z, 2.0 / 7.0);
  q = mul_add(q, z, 2.0 / 5.0);
  q = mul_add(q, z, 2.0 / 3.0);
  const double tail = add(sub(f, mul(s, sub(f, mul(z, q)))), mul(e, 1.9082149292705877e-10));
  return add(mul(e, bits(0x3FE62E42FEE00000ull)), tail);
}

// A weight relative to the largest, as an integer with `fraction` fraction bits.
DEVICE uint64_t fixed_point(double relative, int fraction) {
  return __double2ull_rn(mul(relative, __ull2double_rn(1ull << fraction)));
}

// ---- over a block of whole warps. `scratch` is shared memory for one number per warp. As in reduce.cuh, the
// next call may use the same scratch without a barrier.

// The sum in the order of src/smc/math.rs.
DEVICE double exact_sum(double x, double* scratch) { return block_sum(x, scratch); }

DEVICE double block_max(double x, double* scratch) {
  const int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
#pragma unroll
  for (int o = 16; o; o >>= 1) {
    const double y = __shfl_xor_sync(FULL_WARP, x, o);
    x = y > x ? y : x;
  }
  __syncthreads();
  if ((threadIdx.x & 31) == 0) scratch[warp] = x;
  __syncthreads();
  x = scratch[0];
  for (int i = 1; i < warps; i++) x = scratch[i] > x ? scratch[i] : x;
  return x;
}

// Inclusive sums of integers over the block, and the sum of all.
template <class T>
DEVICE T block_scan(T x, T& total, T* scratch) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  x = warp_scan(x);
  __syncthreads();
  if (lane == 31) scratch[warp] = x;
  __syncthreads();
  total = 0;
  for (int i = 0; i < warps; i++) {
    if (i == warp) x += total;
    total += scratch[i];
  }
  return x;
}
