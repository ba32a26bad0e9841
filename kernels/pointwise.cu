// Pointwise maps: one pass over memory each, eight elements per thread, f32 inside.
#include "act.cuh"

// Act to f32 and back, n elements; bytes moved: n (sizeof(Act) + 4).
KERNEL(widen, (256), (const Act* __restrict__ x, float* __restrict__ y, int64_t n)) {
  const int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * PACKET;
  if (i + PACKET <= n) {
    float v[8];
    load8(x + i, v);
    store8(y + i, v);
  } else {
    for (int64_t j = i; j < n; j++) y[j] = to_f32(x[j]);
  }
}
KERNEL(narrow, (256), (const float* __restrict__ x, Act* __restrict__ y, int64_t n)) {
  const int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * PACKET;
  if (i + PACKET <= n) {
    float v[8];
    load8(x + i, v);
    store8(y + i, v);
  } else {
    for (int64_t j = i; j < n; j++) y[j] = from_f32<Act>(x[j]);
  }
}

// Words of the host, carried as a parameter.
struct PutParams {
  uint32_t words[960];
  int32_t at;
  int32_t n;
};
KERNEL(put, (256), (uint32_t* __restrict__ y, PutParams p)) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.n) y[p.at + i] = p.words[i];
}
