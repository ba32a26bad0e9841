// Moving particles: noise for each slot, the transition with its density ratio in one pass, and squared
// lengths. Particles are f32 in every run, so this file is compiled for f32 only.
//
// A particle is `sample` consecutive elements. A group of `group` threads (a power of two, at most a block)
// works on a chunk of 4 group elements: 4 for each thread, which are one block of Philox. A particle is
// `blocks` chunks. Small particles share a block of threads, large ones have several blocks each.
#include "philox.cuh"
#include "reduce.cuh"

constexpr int BLOCK = 256;

// What a thread works on.
struct Place {
  int32_t slot;
  int32_t chunk;
  // Index of the thread in its group.
  int lane;
  // The first of this thread's elements within the particle, and their number, 0 to 4.
  int64_t first;
  int count;
};

DEVICE Place place(int64_t sample, int32_t slots, int32_t group, int32_t blocks) {
  Place at;
  const int32_t unit = blockIdx.x * (BLOCK / group) + threadIdx.x / group;
  at.slot = unit / blocks;
  at.chunk = unit % blocks;
  at.lane = threadIdx.x & (group - 1);
  at.first = ((int64_t)at.chunk * group + at.lane) * 4;
  const int64_t left = at.slot < slots ? sample - at.first : 0;
  at.count = left < 0 ? 0 : left < 4 ? (int)left : 4;
  return at;
}

// Loads or stores up to four elements from `p` on, in one access if `whole`: the length of a particle is a
// multiple of four.
DEVICE void load_up_to_4(const float* p, int count, bool whole, float (&x)[4]) {
  if (whole) {
    const Words v = load_words(p);
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = __uint_as_float(v.w[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = i < count ? p[i] : 0.0f;
  }
}
DEVICE void store_up_to_4(float* p, int count, bool whole, const float (&x)[4]) {
  if (whole) {
    Words v;
#pragma unroll
    for (int i = 0; i < 4; i++) v.w[i] = __float_as_uint(x[i]);
    store_words(p, v);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (i < count) p[i] = x[i];
  }
}

// Sums of a and b over each group of threads, in a fixed order. All threads of the block call.
DEVICE void group_sums(double& a, double& b, int group, double* scratch) {
  for (int o = (group < 32 ? group : 32) >> 1; o; o >>= 1) {
    a += __shfl_xor_sync(FULL_WARP, a, o);
    b += __shfl_xor_sync(FULL_WARP, b, o);
  }
  if (group <= 32) return;
  const int warp = threadIdx.x >> 5, warps = group >> 5;
  if ((threadIdx.x & 31) == 0) {
    scratch[2 * warp] = a;
    scratch[2 * warp + 1] = b;
  }
  __syncthreads();
  a = b = 0.0;
  for (int i = warp / warps * warps, end = i + warps; i < end; i++) {
    a += scratch[2 * i];
    b += scratch[2 * i + 1];
  }
}

// Writes this block's sums, of one chunk, to `sums` [chunk][2] of its particle. In the block that does so
// last, the first warp then adds up the sums of all chunks, in an order that does not depend on which block
// was last, and the result is true for that warp. `counter` is 0 between launches. All threads of the block
// call.
DEVICE bool last_sums(double& a, double& b, double* sums, uint32_t* counter, int chunk, int blocks) {
  SHARED(uint32_t, arrived, 1);
  if (threadIdx.x == 0) {
    sums[2 * chunk] = a;
    sums[2 * chunk + 1] = b;
    __threadfence();
    *arrived = atomicAdd(counter, 1u);
  }
  __syncthreads();
  if (*arrived != (uint32_t)blocks - 1 || threadIdx.x >= 32) return false;
  __threadfence();
  a = b = 0.0;
  for (int i = threadIdx.x; i < blocks; i += 32) {
    a += __ldcg(sums + 2 * i);
    b += __ldcg(sums + 2 * i + 1);
  }
  a = warp_sum(a);
  b = warp_sum(b);
  if (threadIdx.x == 0) *counter = 0;
  return true;
}

struct NormalsParams {
  uint64_t seed;
  int64_t sample;
  uint32_t step;
  uint32_t purpose;
  int32_t slots;
  int32_t group;
  int32_t blocks;
};
// y = standard normals from the stream of each slot; `ids` holds (prompt, particle) of each slot. Writes 4
// bytes per element; about 50 operations for each.
KERNEL(normals, (256), (const uint32_t* __restrict__ ids, float* __restrict__ y, NormalsParams p)) {
  const Place at = place(p.sample, p.slots, p.group, p.blocks);
  if (at.count == 0) return;
  float z[4];
  const Stream stream = {p.seed, p.step, p.purpose};
  normals(stream, ids[2 * at.slot], ids[2 * at.slot + 1], (uint32_t)(at.first / 4), z);
  store_up_to_4(y + at.slot * p.sample + at.first, at.count, p.sample % 4 == 0, z);
}

struct AdvanceParams {
  uint64_t seed;
  int64_t sample;
  // kappa v, -1/2 kappa^2 v, -kappa sqrt v.
  double drift;
  double quadratic;
  double linear;
  float mean_x0;
  float mean_eps;
  float sigma;
  uint32_t step;
  uint32_t purpose;
  int32_t slots;
  int32_t group;
  int32_t blocks;
};

// The log density ratio log p - log m of a move along s g, from |g|^2 and <g, z>.
DEVICE double log_ratio(double quadratic, double linear, double s, double gg, double gz) {
  return quadratic * s * s * gg + linear * s * gz;
}

// y = mean_x0 x0[a] + mean_eps eps[a] + (drift s) g[a] + sigma z for each slot, with a = ancestors[slot], s =
// strength[slot] and z of the slot's own stream; sigma = 0: the mean alone. y is bit for bit that of
// src/cpu/particle.rs.
//
// If grad is not null, also |g|^2 and <g, z> in f64, and from them each slot's log ratio; for particles of
// several chunks by way of `sums` [slot][chunk][2] and `counters` [slot] (`last_sums`). If it is null,
// particles move by the prior and no ratio is written. If norms is not null, a gradient whose squared length
// there is not finite counts as 0. Moves 16 bytes per element and 4 per particle; about 60 f32 and 4 f64
// operations per element.
KERNEL(advance, (256),
       (const float* __restrict__ x0, const float* __restrict__ eps, const float* __restrict__ grad,
        const uint32_t* __restrict__ ids, const uint32_t* __restrict__ ancestors,
        const float* __restrict__ strength, const double* __restrict__ norms, float* __restrict__ y,
        double* __restrict__ ratio, double* __restrict__ sums, uint32_t* __restrict__ counters,
        AdvanceParams p)) {
  SHARED(double, scratch, 2 * BLOCK / 32);
  const Place at = place(p.sample, p.slots, p.group, p.blocks);
  const bool whole = p.sample % 4 == 0, guided = grad != nullptr;
  double gg = 0.0, gz = 0.0, s = 0.0;
  if (at.count) {
    const int64_t from = ancestors[at.slot] * p.sample + at.first, to = at.slot * p.sample + at.first;
    float a[4], b[4], g[4], z[4];
    load_up_to_4(x0 + from, at.count, whole, a);
    load_up_to_4(eps + from, at.count, whole, b);
    if (guided) {
      load_up_to_4(grad + from, at.count, whole, g);
      if (norms && !isfinite(norms[ancestors[at.slot]])) g[0] = g[1] = g[2] = g[3] = 0.0f;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = mul_add(p.mean_x0, a[i], __fmul_rn(p.mean_eps, b[i]));
    if (p.sigma != 0.0f) {
      const Stream stream = {p.seed, p.step, p.purpose};
      normals(stream, ids[2 * at.slot], ids[2 * at.slot + 1], (uint32_t)(at.first / 4), z);
      if (guided) {
        s = strength[at.slot];
        const float drift = __double2float_rn(__dmul_rn(p.drift, s));
#pragma unroll
        for (int i = 0; i < 4; i++) {
          a[i] = __fadd_rn(a[i], mul_add(drift, g[i], __fmul_rn(p.sigma, z[i])));
          if (i < at.count) {
            gg += (double)g[i] * g[i];
            gz += (double)g[i] * z[i];
          }
        }
      } else {
#pragma unroll
        for (int i = 0; i < 4; i++) a[i] = mul_add(p.sigma, z[i], a[i]);
      }
    }
    store_up_to_4(y + to, at.count, whole, a);
  }
  if (!guided) return;
  group_sums(gg, gz, p.group, scratch);
  // If a particle has several chunks, each is a block of its own, so all threads of a block work on one slot.
  double* const mine = sums + 2 * (int64_t)at.slot * p.blocks;
  if (p.blocks > 1 && !last_sums(gg, gz, mine, counters + at.slot, at.chunk, p.blocks)) return;
  if (at.lane == 0 && at.slot < p.slots)
    ratio[at.slot] = log_ratio(p.quadratic, p.linear, strength[at.slot], gg, gz);
}

struct SquaresParams {
  int64_t sample;
  int32_t slots;
  int32_t group;
  int32_t blocks;
};
// y [tensor][slot] = squared lengths in f64 of the particles of up to three tensors, null if absent;
// blockIdx.y is the tensor. Particles of several chunks by way of `sums` [tensor][slot][chunk][2] and
// `counters` [tensor][slot] (`last_sums`). Reads 4 bytes per element.
KERNEL(squares, (256),
       (const float* __restrict__ x0, const float* __restrict__ x1, const float* __restrict__ x2,
        double* __restrict__ y, double* __restrict__ sums, uint32_t* __restrict__ counters,
        SquaresParams p)) {
  SHARED(double, scratch, 2 * BLOCK / 32);
  const float* const x = blockIdx.y == 0 ? x0 : blockIdx.y == 1 ? x1 : x2;
  if (!x) return;
  const Place at = place(p.sample, p.slots, p.group, p.blocks);
  const int64_t row = (int64_t)blockIdx.y * p.slots + at.slot;
  double sum = 0.0, none = 0.0;
  if (at.count) {
    float v[4];
    load_up_to_4(x + at.slot * p.sample + at.first, at.count, p.sample % 4 == 0, v);
#pragma unroll
    for (int i = 0; i < 4; i++) sum += (double)v[i] * v[i];
  }
  group_sums(sum, none, p.group, scratch);
  double* const mine = sums + 2 * row * p.blocks;
  if (p.blocks > 1 && !last_sums(sum, none, mine, counters + row, at.chunk, p.blocks)) return;
  if (at.lane == 0 && at.slot < p.slots) y[row] = sum;
}

// y = score if the squared length of the sample is finite, else NaN. One thread per sample; 16 bytes for
// each.
KERNEL(where_finite, (256),
       (const float* __restrict__ score, const double* __restrict__ norms, float* __restrict__ y,
        int64_t n)) {
  const int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (i < n) y[i] = isfinite(norms[i]) ? score[i] : __uint_as_float(0x7FC00000u);
}
