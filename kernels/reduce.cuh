// Sums and maxima over a warp and over a block. Every lane of a warp, or every thread of a block, gets the
// result. The order of the additions is fixed by the shape of the launch, so the same launch gives the same
// bits.
#pragma once
#include "act.cuh"

constexpr unsigned FULL_WARP = 0xffffffffu;

template <class T>
DEVICE T warp_sum(T x) {
#pragma unroll
  for (int o = 16; o; o >>= 1) x += __shfl_xor_sync(FULL_WARP, x, o);
  return x;
}
DEVICE float warp_max(float x) {
#pragma unroll
  for (int o = 16; o; o >>= 1) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, o));
  return x;
}
// Inclusive sums over the lanes.
template <class T>
DEVICE T warp_scan(T x) {
#pragma unroll
  for (int o = 1; o < 32; o <<= 1) {
    const T y = __shfl_up_sync(FULL_WARP, x, o);
    if ((int)(threadIdx.x & 31) >= o) x += y;
  }
  return x;
}

// `scratch` is shared memory for one T per warp. All threads of a block of whole warps call. Safe to call
// again with the same scratch: the first barrier waits for the readers of the last call.
template <class T>
DEVICE T block_sum(T x, T* scratch) {
  const int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  x = warp_sum(x);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) scratch[warp] = x;
  __syncthreads();
  T sum = 0;
  for (int i = 0; i < warps; i++) sum += scratch[i];
  return sum;
}
DEVICE float block_max(float x, float* scratch) {
  const int warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  x = warp_max(x);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) scratch[warp] = x;
  __syncthreads();
  float m = scratch[0];
  for (int i = 1; i < warps; i++) m = fmaxf(m, scratch[i]);
  return m;
}
