// Group norm of (n, h, w, c), with SiLU or without; layer norm and length normalisation of rows; and their
// transposes.
//
// A group norm of large samples reads x twice. In the first pass each block sums the groups over some rows of
// pixels of a sample into scratch memory, and a small kernel combines these sums; the second pass normalises.
// It takes the blocks in reverse order, because what the first pass read last is still in the cache. If a few
// groups of a sample fit into the shared memory of a block, one kernel does everything and reads x once. The
// transposes recompute the pre-activation from x and the statistics.
//
// Everything is f32 inside, except the last sums of a group, and lengths, which are f64. About 10 FLOPs per
// element, 25 in a transpose with SiLU.
#include "group.cuh"

// Calls f<W, SILU> with the arguments.
#define GROUP_CALL(f, ...)                                \
  if (sizeof(Act) == 2 || p.vectorized) {                       \
    if (p.silu) return f<VECTOR, true>(__VA_ARGS__);        \
    return f<VECTOR, false>(__VA_ARGS__);                   \
  }                                                       \
  if (p.silu) return f<1, true>(__VA_ARGS__);             \
  f<1, false>(__VA_ARGS__)

// Sums over blocks of rows; reads n elements.
KERNEL(group_sums, (384), (const Act* __restrict__ x, float* __restrict__ partial, GroupParams p)) {
  DYNAMIC_SHARED(float, shared);
  if (sizeof(Act) == 2 || p.vectorized) return sums_of_rows<VECTOR>(x, partial, p, shared);
  sums_of_rows<1>(x, partial, p, shared);
}
// saved[sample][group] from the sums of the blocks; a warp per group.
KERNEL(group_finish, (256),
       (const Act* __restrict__ x, const float* __restrict__ partial, float* __restrict__ saved,
        GroupParams p)) {
  Group g;
  if (!combine(g, partial, p) || (threadIdx.x & 31)) return;
  const float shift = shift_of(x + (int64_t)g.sample * p.rows * p.c, p, g.group);
  float* to = saved + ((int64_t)g.sample * p.groups + g.group) * SAVED;
  statistics(to, g.a, g.b, shift, p);
}
// y = f((x - mean) rstd gamma + beta); moves 2 n elements.
KERNEL(group_apply, (384),
       (const Act* __restrict__ x, const Act* __restrict__ gamma, const Act* __restrict__ beta,
        const float* __restrict__ saved, Act* __restrict__ y, GroupParams p)) {
  GROUP_CALL(apply_rows, x, gamma, beta, saved, y, p);
}

// The sums for dx over blocks of rows; reads 2 n elements.
KERNEL(group_vjp_sums, (384, 2),
       (const Act* __restrict__ x, const Act* __restrict__ gamma, const Act* __restrict__ beta,
        const float* __restrict__ saved, const Act* __restrict__ dy, float* __restrict__ partial,
        GroupParams p)) {
  DYNAMIC_SHARED(float, shared);
  GROUP_CALL(vjp_sums_of_rows, x, gamma, beta, saved, dy, partial, p, shared);
}
KERNEL(group_vjp_finish, (256),
       (const float* __restrict__ saved, const float* __restrict__ partial, float* __restrict__ means,
        GroupParams p)) {
  Group g;
  if (!combine(g, partial, p) || (threadIdx.x & 31)) return;
  const int64_t index = (int64_t)g.sample * p.groups + g.group;
  means_of(means + index * 2, g.a, g.b, saved[index * SAVED + 2], p);
}
// Moves 3 n elements.
KERNEL(group_vjp_apply, (384),
       (const Act* __restrict__ x, const Act* __restrict__ gamma, const Act* __restrict__ beta,
        const float* __restrict__ saved, const Act* __restrict__ dy, const float* __restrict__ means,
        Act* __restrict__ dx, GroupParams p)) {
  GROUP_CALL(vjp_rows, x, gamma, beta, saved, dy, means, dx, p);
}

// In one kernel, with block_groups groups of a sample per block; moves 2 n elements, and 3 n in the
// transpose.
KERNEL(group_norm, (256, 3),
       (const Act* __restrict__ x, const Act* __restrict__ gamma, const Act* __restrict__ beta,
        Act* __restrict__ y, float* __restrict__ saved, GroupParams p)) {
  DYNAMIC_SHARED(unsigned char, shared);
  GROUP_CALL(norm_whole, x, gamma, beta, y, saved, p, shared);
}
KERNEL(group_norm_vjp, (256, 2),
       (const Act* __restrict__ x, const Act* __restrict__ gamma, const Act* __restrict__ beta,
        const float* __restrict__ saved, const Act* __restrict__ dy, Act* __restrict__ dx, GroupParams p)) {
  DYNAMIC_SHARED(unsigned char, shared);
  GROUP_CALL(vjp_whole, x, gamma, beta, saved, dy, dx, p, shared);
}

// ---- layer norm: a warp per row. Rows of up to 1280 channels, which are all rows of the models, stay in
// registers, HELD accesses per lane. Other rows (the kernels *_any) are read several times, element by
// element.

struct NormParams {
  int64_t rows;
  int32_t c;
  float eps;
  float share;    // 1 / c
};

constexpr int HELD = 1280 / VECTOR / 32;

DEVICE int64_t warp_row() { return (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; }

// A row in the registers of a warp: `columns` accesses.
struct Row {
  Raw<VECTOR> at[HELD];
  int lane, columns;
  DEVICE Row(const Act* x, int c) : lane(threadIdx.x & 31), columns(c / VECTOR) {
#pragma unroll
    for (int s = 0; s < HELD; s++)
      if (lane + 32 * s < columns) at[s] = fetch<VECTOR>(x + (lane + 32 * s) * VECTOR);
  }
  // Calls f(index, first channel) for each access of this lane.
  template <class F>
  DEVICE void each(F f) const {
#pragma unroll
    for (int s = 0; s < HELD; s++)
      if (lane + 32 * s < columns) f(s, (lane + 32 * s) * VECTOR);
  }
};

// Saves the mean shift + rest, what its rounding lost, and 1 / std.
DEVICE void save_row(float* saved, float shift, float rest, float rstd) {
  const double mean = (double)shift + (double)rest;
  saved[0] = (float)mean;
  saved[1] = (float)(mean - (double)(float)mean);
  saved[2] = rstd;
}

// y = (x - mean) rstd gamma + beta. The sum is of x - shift, where shift is the first element of the row, and
// the squares are of x - mean, so that a large mean costs no precision. Moves 2 n elements.
KERNEL(layer_norm, (128),
       (const Act* __restrict__ x, const Act* __restrict__ gamma, const Act* __restrict__ beta,
        Act* __restrict__ y, float* __restrict__ saved, NormParams p)) {
  const int64_t row = warp_row();
  if (row >= p.rows) return;
  const Row held(x + row * p.c, p.c);
  const float shift = to_f32(x[row * p.c]);
  float sum = 0.0f, squares = 0.0f;
  held.each([&](int s, int) {
    float v[VECTOR];
    unpack(held.at[s], v);
#pragma unroll
    for (int k = 0; k < VECTOR; k++) sum += v[k] - shift;
  });
  const float rest = warp_sum(sum) * p.share;
  held.each([&](int s, int) {
    float v[VECTOR];
    unpack(held.at[s], v);
#pragma unroll
    for (int k = 0; k < VECTOR; k++) {
      const float d = (v[k] - shift) - rest;
      squares = fmaf(d, d, squares);
    }
  });
  const float rstd = inverse_root(fmaf(warp_sum(squares), p.share, p.eps));
  held.each([&](int s, int c) {
    float v[VECTOR], g[VECTOR], b[VECTOR];
    unpack(held.at[s], v);
    unpack(fetch<VECTOR>(gamma + c), g);
    unpack(fetch<VECTOR>(beta + c), b);
#pragma unroll
    for (int k = 0; k < VECTOR; k++) v[k] = fmaf(((v[k] - shift) - rest) * rstd, g[k], b[k]);
    store(y + row * p.c + c, v);
  });
  if (held.lane == 0) save_row(saved + row * SAVED, shift, rest, rstd);
}
KERNEL(layer_norm_any, (128),
       (const Act* __restrict__ x, const Act* __restrict__ gamma, const Act* __restrict__ beta,
        Act* __restrict__ y, float* __restrict__ saved, NormParams p)) {
  const int64_t row = warp_row();
  if (row >= p.rows) return;
  const int lane = threadIdx.x & 31;
  x += row * p.c;
  const float shift = to_f32(x[0]);
  float sum = 0.0f, squares = 0.0f;
  for (int i = lane; i < p.c; i += 32) sum += to_f32(x[i]) - shift;
  const float rest = warp_sum(sum) * p.share;
  for (int i = lane; i < p.c; i += 32) {
    const float d = (to_f32(x[i]) - shift) - rest;
    squares = fmaf(d, d, squares);
  }
  const float rstd = inverse_root(fmaf(warp_sum(squares), p.share, p.eps));
  for (int i = lane; i < p.c; i += 32) {
    const float xhat = ((to_f32(x[i]) - shift) - rest) * rstd;
    y[row * p.c + i] = from_f32<Act>(fmaf(xhat, to_f32(gamma[i]), to_f32(beta[i])));
  }
  if (lane == 0) save_row(saved + row * SAVED, shift, rest, rstd);
}

// dx = rstd (g - mean(g) - xhat mean(g xhat)) with g = dy gamma. g is rounded on its own, not fused into a
// sum, so that a row of one element gets exactly zero. Moves 3 n elements.
KERNEL(layer_norm_vjp, (128),
       (const Act* __restrict__ x, const Act* __restrict__ gamma, const float* __restrict__ saved,
        const Act* __restrict__ dy, Act* __restrict__ dx, NormParams p)) {
  const int64_t row = warp_row();
  if (row >= p.rows) return;
  const Row held(x + row * p.c, p.c), held_dy(dy + row * p.c, p.c);
  const float mean = saved[row * SAVED], lost = saved[row * SAVED + 1], rstd = saved[row * SAVED + 2];
  float of_g = 0.0f, of_gx = 0.0f;
  held.each([&](int s, int c) {
    float v[VECTOR], d[VECTOR], g[VECTOR];
    unpack(held.at[s], v);
    unpack(held_dy.at[s], d);
    unpack(fetch<VECTOR>(gamma + c), g);
#pragma unroll
    for (int k = 0; k < VECTOR; k++) {
      const float of = __fmul_rn(d[k], g[k]);
      of_g += of;
      of_gx = fmaf(of, centred(v[k], mean, lost) * rstd, of_gx);
    }
  });
  of_g = warp_sum(of_g) * p.share;
  of_gx = warp_sum(of_gx) * p.share;
  held.each([&](int s, int c) {
    float v[VECTOR], d[VECTOR], g[VECTOR];
    unpack(held.at[s], v);
    unpack(held_dy.at[s], d);
    unpack(fetch<VECTOR>(gamma + c), g);
#pragma unroll
    for (int k = 0; k < VECTOR; k++) {
      const float xhat = centred(v[k], mean, lost) * rstd;
      v[k] = rstd * fmaf(-xhat, of_gx, __fmul_rn(d[k], g[k]) - of_g);
    }
    store(dx + row * p.c + c, v);
  });
}
KERNEL(layer_norm_vjp_any, (128),
       (const Act* __restrict__ x, const Act* __restrict__ gamma, const float* __restrict__ saved,
        const Act* __restrict__ dy, Act* __restrict__ dx, NormParams p)) {
  const int64_t row = warp_row();
  if (row >= p.rows) return;
  const int lane = threadIdx.x & 31;
  x += row * p.c;
  dy += row * p.c;
  const float mean = saved[row * SAVED], lost = saved[row * SAVED + 1], rstd = saved[row * SAVED + 2];
  float of_g = 0.0f, of_gx = 0.0f;
  for (int i = lane; i < p.c; i += 32) {
    const float of = __fmul_rn(to_f32(dy[i]), to_f32(gamma[i]));
    of_g += of;
    of_gx = fmaf(of, centred(to_f32(x[i]), mean, lost) * rstd, of_gx);
  }
  of_g = warp_sum(of_g) * p.share;
  of_gx = warp_sum(of_gx) * p.share;
  for (int i = lane; i < p.c; i += 32) {
    const float xhat = centred(to_f32(x[i]), mean, lost) * rstd;
    const float of = __fmul_rn(to_f32(dy[i]), to_f32(gamma[i]));
    dx[row * p.c + i] = from_f32<Act>(rstd * fmaf(-xhat, of_gx, of - of_g));
  }
}

// ---- rows divided by their length, a warp per row. There are few rows (one per picture), so sums are f64
// and lanes read single elements.

// Rows are divided by at least this length.
constexpr double SHORTEST = 1e-12;
DEVICE double inverse_length(double squares) {
  const double length = sqrt(squares);
  // Written so that NaN passes through.
  return 1.0 / (length < SHORTEST ? SHORTEST : length);
}

// y = x / max(|x|, SHORTEST).
KERNEL(l2_norm, (128), (const Act* __restrict__ x, Act* __restrict__ y, NormParams p)) {
  const int64_t row = warp_row();
  if (row >= p.rows) return;
  x += row * p.c;
  double squares = 0.0;
  for (int i = threadIdx.x & 31; i < p.c; i += 32) {
    const double v = to_f32(x[i]);
    squares += v * v;
  }
  const float inverse = (float)inverse_length(warp_sum(squares));
  for (int i = threadIdx.x & 31; i < p.c; i += 32) y[row * p.c + i] = from_f32<Act>(to_f32(x[i]) * inverse);
}
// dx = (dy - y <y, dy>) / |x|. For rows shorter than SHORTEST the divisor is a constant and dx = dy /
// SHORTEST.
KERNEL(l2_norm_vjp, (128),
       (const Act* __restrict__ x, const Act* __restrict__ dy, Act* __restrict__ dx, NormParams p)) {
  const int64_t row = warp_row();
  if (row >= p.rows) return;
  x += row * p.c;
  dy += row * p.c;
  double squares = 0.0, product = 0.0;
  for (int i = threadIdx.x & 31; i < p.c; i += 32) {
    const double v = to_f32(x[i]);
    squares += v * v;
    product += v * to_f32(dy[i]);
  }
  squares = warp_sum(squares);
  product = warp_sum(product);
  const float inverse = (float)inverse_length(squares);
  const float along = squares > SHORTEST * SHORTEST ? (float)(product / squares) : 0.0f;
  for (int i = threadIdx.x & 31; i < p.c; i += 32)
    dx[row * p.c + i] = from_f32<Act>(fmaf(-to_f32(x[i]), along, to_f32(dy[i])) * inverse);
}
