// One operation of the device language each, for tests/emulator.rs to compare with plain loops.
#include "act.cuh"
#include "mma.cuh"
#include "reduce.cuh"

// ---- conversions

KERNEL(op_widen, (256), (const Act* x, float* y, int n)) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = to_f32(x[i]);
}
KERNEL(op_narrow, (256), (const float* x, Act* y, int n)) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = from_f32<Act>(x[i]);
}
// Packets of 8.
KERNEL(op_packets, (256), (const Act* x, Act* y)) {
  float v[8];
  load8(x + 8 * threadIdx.x, v);
  for (int i = 0; i < 8; i++) v[i] += 1.0f;
  store8(y + 8 * threadIdx.x, v);
}

// ---- warps: y[kind * 32 + lane]

KERNEL(op_shuffles, (32), (const uint32_t* x, uint64_t* wide, uint32_t* y)) {
  const unsigned l = threadIdx.x;
  const uint32_t v = x[l];
  y[l] = __shfl_sync(FULL_WARP, v, 5);
  y[32 + l] = __shfl_sync(FULL_WARP, v, (int)l + 3, 8);
  y[64 + l] = __shfl_xor_sync(FULL_WARP, v, 9);
  y[96 + l] = __shfl_up_sync(FULL_WARP, v, 3);
  y[128 + l] = __shfl_down_sync(FULL_WARP, v, 4, 16);
  wide[l] = __shfl_sync(FULL_WARP, wide[l], 31 - (int)l);
}
KERNEL(op_votes, (32), (const uint32_t* x, uint32_t* y)) {
  const unsigned l = threadIdx.x;
  y[l] = __ballot_sync(FULL_WARP, x[l] & 1);
  y[32 + l] = (uint32_t)__any_sync(FULL_WARP, x[l] == 7);
  y[64 + l] = (uint32_t)__all_sync(FULL_WARP, x[l] < 1000);
  y[96 + l] = __match_any_sync(FULL_WARP, x[l] % 5);
  // The two halves vote on their own, in branches.
  if (l < 16)
    y[128 + l] = __ballot_sync(0x0000ffffu, x[l] & 2);
  else
    y[128 + l] = __ballot_sync(0xffff0000u, x[l] & 4);
}
KERNEL(op_sums, (1024), (const float* x, float* y)) {
  SHARED(float, scratch, 32);
  const int i = threadIdx.x;
  const float sum = block_sum(x[i], scratch), most = block_max(x[i], scratch);
  y[2 * i] = sum;
  y[2 * i + 1] = most;
}
KERNEL(op_barriers, (256), (const uint32_t* x, int* y)) {
  const int i = threadIdx.x;
  y[i] = __syncthreads_count(x[i] % 3 == 0);
  y[256 + i] = __syncthreads_or(x[i] == 77);
  y[512 + i] = __syncthreads_and(x[i] < 1000);
}
// Threads leave one after the other; the others' barriers go on without them.
KERNEL(op_leaving, (256), (int* y)) {
  SHARED(int, count, 1);
  const int i = threadIdx.x;
  if (i == 0) count[0] = 0;
  __syncthreads();
  for (int round = 0; round < 4; round++) {
    if (i >= 256 - 64 * round) return;
    atomicAdd(&count[0], 1);
    __syncthreads();
    y[i] = count[0];
    __syncthreads();
  }
}

// ---- asynchronous copies: y = x, the first `n` bytes of each packet; the rest becomes zeros

KERNEL(op_copies, (32), (const float* x, float* y, int n)) {
  SHARED(float, s, 256);
  const int l = threadIdx.x;
  for (int group = 0; group < 2; group++) {
    cp_async16(s + 128 * group + 4 * l, x + 128 * group + 4 * l, (unsigned)n);
    cp_async_commit();
  }
  cp_async_wait<1>();
  __syncthreads();
  for (int i = l; i < 128; i += 32) y[i] = s[i];
  cp_async_wait<0>();
  __syncthreads();
  for (int i = 128 + l; i < 256; i += 32) y[i] = s[i];
}

// ---- tensor core: y[lane * 4 + j] and products

KERNEL(op_ldmatrix, (32), (const uint16_t* x, uint32_t* y, uint32_t* transposed)) {
  SHARED(uint16_t, s, 4 * 8 * 8);
  const int l = threadIdx.x;
  for (int i = l; i < 256; i += 32) s[i] = x[i];
  __syncwarp();
  uint32_t r[4];
  ldmatrix_x4(r, s + 8 * l);
  for (int j = 0; j < 4; j++) y[4 * l + j] = r[j];
  ldmatrix_x4_trans(r, s + 8 * l);
  for (int j = 0; j < 4; j++) transposed[4 * l + j] = r[j];
}
#if !defined(ACT_F32)
// d (16x8) += a (16x16) b (16x8, given by columns)
KERNEL(op_mma, (32), (const Act* a, const Act* b, float* d, int times)) {
  const int l = threadIdx.x, g = l / 4, t = l % 4;
  const auto pair = [](const Act* p) { return (uint32_t)p[0].bits | (uint32_t)p[1].bits << 16; };
  const uint32_t fa[4] = {pair(a + g * 16 + 2 * t), pair(a + (g + 8) * 16 + 2 * t),
                          pair(a + g * 16 + 2 * t + 8), pair(a + (g + 8) * 16 + 2 * t + 8)};
  const uint32_t fb[2] = {pair(b + g * 16 + 2 * t), pair(b + g * 16 + 2 * t + 8)};
  float fd[4] = {d[g * 8 + 2 * t], d[g * 8 + 2 * t + 1], d[(g + 8) * 8 + 2 * t], d[(g + 8) * 8 + 2 * t + 1]};
  for (int i = 0; i < times; i++) mma_16816<Act>(fd, fa, fb);
  d[g * 8 + 2 * t] = fd[0];
  d[g * 8 + 2 * t + 1] = fd[1];
  d[(g + 8) * 8 + 2 * t] = fd[2];
  d[(g + 8) * 8 + 2 * t + 1] = fd[3];
}
#endif

// ---- atomics, across blocks: y[0] sum, y[1] most, y[2] least, y[3] or, y[4] the sum by compare-and-swap

KERNEL(op_atomics, (64), (const uint32_t* x, uint32_t* y, unsigned long long* wide, float* sum)) {
  const uint32_t v = x[blockIdx.x * 64 + threadIdx.x];
  atomicAdd(&y[0], v);
  atomicMax(&y[1], v);
  atomicMin(&y[2], v);
  atomicOr(&y[3], v);
  for (uint32_t old = atomicAdd(&y[4], 0u), seen;; old = seen) {
    seen = atomicCAS(&y[4], old, old + v);
    if (seen == old) break;
  }
  atomicAdd(wide, (unsigned long long)v << 30);
  atomicAdd(sum, 1.0f);
}
// Blocks add up in the order of a ticket: each waits for the one before it, and says its sum to the next.
KERNEL(op_look_back, (32), (unsigned* ticket, unsigned* flags, float* sums)) {
  SHARED(unsigned, mine, 1);
  if (threadIdx.x == 0) mine[0] = atomicAdd(ticket, 1u);
  __syncthreads();
  const unsigned b = mine[0];
  if (threadIdx.x == 0) {
    float before = 0.0f;
    if (b > 0) {
      while (atomicAdd(&flags[b - 1], 0u) == 0) __nanosleep(100);
      __threadfence();
      before = sums[b - 1];
    }
    sums[b] = before + (float)b;
    __threadfence();
    atomicExch(&flags[b], 1u);
  }
}

// ---- arithmetic: one row of results per element

KERNEL(op_arithmetic, (256), (const double* x, double* y, int n)) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const double d = x[i];
  const float f = (float)d;
  double* r = y + 12 * i;
  r[0] = __fmul_rn(f, f);
  r[1] = __fadd_rn(__fmul_rn(f, f), f);
  r[2] = __fmaf_rn(f, f, f);
  r[3] = __fdiv_rn(1.0f, f);
  r[4] = __fsqrt_rn(fabsf(f));
  r[5] = __dadd_rn(__dmul_rn(d, d), d);
  r[6] = (double)__double2ull_rz(d);
  r[7] = (double)__double2ull_rn(d);
  r[8] = (double)__float2int_rn(f);
  r[9] = __ull2double_rn((unsigned long long)__double_as_longlong(d));
  r[10] = min(f, 1.0f);
  r[11] = max(f, 1.0f);
}
KERNEL(op_bits, (256), (const uint32_t* x, uint32_t* y)) {
  const uint32_t v = x[threadIdx.x];
  uint32_t* r = y + 8 * threadIdx.x;
  r[0] = (uint32_t)__popc(v);
  r[1] = (uint32_t)__clz((int)v);
  r[2] = (uint32_t)__ffs((int)v);
  r[3] = __brev(v);
  r[4] = __umulhi(v, 0xdeadbeefu);
  r[5] = (uint32_t)(__umul64hi((uint64_t)v << 32 | v, 0xdeadbeefcafef00dull) >> 32);
  r[6] = __byte_perm(v, ~v, 0x6240u);
  r[7] = __funnelshift_l(v, ~v, v & 31u);
}

// ---- memory of a block: what a block finds in shared memory, and where

KERNEL(op_shared, (32), (uint32_t* y, uint64_t* where)) {
  SHARED(uint32_t, s, 32);
  DYNAMIC_SHARED(uint32_t, d);
  y[64 * blockIdx.x + threadIdx.x] = s[threadIdx.x];
  y[64 * blockIdx.x + 32 + threadIdx.x] = d[threadIdx.x];
  __syncthreads();
  s[threadIdx.x] = d[threadIdx.x] = 0;
  if (threadIdx.x == 0) {
    where[2 * blockIdx.x] = (uint64_t)s;
    where[2 * blockIdx.x + 1] = (uint64_t)d;
  }
}

// ---- to measure speed: y = x after n rounds through a barrier; and a matrix product

KERNEL(op_rounds, (256), (const float* x, float* y, int n)) {
  SHARED(float, s, 256);
  float v = x[threadIdx.x];
  for (int i = 0; i < n; i++) {
    s[threadIdx.x] = v;
    __syncthreads();
    v = s[threadIdx.x ^ 1];
    __syncthreads();
  }
  y[threadIdx.x] = v;
}
#if !defined(ACT_F32)
// c (m x n) = a (m x k) b' (n x k): a block of 4 warps makes 64x64, a warp 32x32; two stages of 32 along k.
// Sizes are multiples.
KERNEL(op_product, (128), (const Act* a, const Act* b, float* c, int n, int k)) {
  constexpr int PITCH = 40;    // elements: rows begin in other banks
  DYNAMIC_SHARED(Act, tiles);
  const int t = threadIdx.x, lane = t % 32, row = t / 64 * 32, column = t / 32 % 2 * 32;
  a += (long long)blockIdx.y * 64 * k;
  b += (long long)blockIdx.x * 64 * k;
  const auto fetch = [&](int i) {
    if (i < k / 32)
      for (int p = t; p < 512; p += 128) {
        const Act* from = (p < 256 ? a : b) + (long long)(p % 256 / 4) * k + 32 * i + p % 4 * 8;
        cp_async16(tiles + (i % 2 * 128 + p / 4) * PITCH + p % 4 * 8, from);
      }
    cp_async_commit();
  };
  float d[2][4][4] = {};
  fetch(0);
  for (int i = 0; i < k / 32; i++) {
    fetch(i + 1);
    cp_async_wait<1>();
    __syncthreads();
    const Act* tile = tiles + i % 2 * 128 * PITCH;
    for (int h = 0; h < 32; h += 16) {
      uint32_t fa[2][4], fb[2][4];
      for (int m = 0; m < 2; m++)
        ldmatrix_x4(fa[m], tile + (row + 16 * m + lane % 16) * PITCH + h + lane / 16 * 8);
      for (int m = 0; m < 2; m++)
        ldmatrix_x4(fb[m],
                    tile + (64 + column + 16 * m + lane / 16 * 8 + lane % 8) * PITCH + h + lane / 8 % 2 * 8);
      for (int m = 0; m < 2; m++)
        for (int j = 0; j < 4; j++) {
          const uint32_t pair[2] = {fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]};
          mma_16816<Act>(d[m][j], fa[m], pair);
        }
    }
    __syncthreads();
  }
  for (int m = 0; m < 2; m++)
    for (int j = 0; j < 4; j++)
      for (int h = 0; h < 4; h++) {
        const int r = row + 16 * m + lane / 4 + h / 2 * 8, s = column + 8 * j + lane % 4 * 2 + h % 2;
        c[(long long)(blockIdx.y * 64 + r) * n + blockIdx.x * 64 + s] = d[m][j][h];
      }
}
#endif

// ---- for the stand-in driver: y = 2 x + y

KERNEL(op_add, (256), (const float* x, float* y, int n)) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += 2.0f * x[i];
}
