// Group norm of (n, h, w, c), with SiLU or without; layer norm and length normalisation of rows; their
// transposes.
//
// A group norm of large samples reads x twice: many blocks per sample, each some rows of pixels, sum groups
// into scratch space; a small kernel combines the sums; then the map itself. The second pass walks the blocks
// backwards, so that what the first left in the cache is read from there. Where some groups of a sample fit
// into a block's shared memory one kernel does it all and reads x once. In the transposes the pre-activation
// is recomputed from x and the statistics.
//
// Everything is f32 inside; the last sums of a group, and lengths, are f64. FLOPs are few: some 10 for an
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
// saved[sample][group] from the sums; a warp per group.
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

// The same for dx; reads 2 n elements.
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

// All in one, a block having block_groups groups of a sample: moves 2 n elements, and 3 n.
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

// ---- rows: a warp each. HELD accesses per lane keep rows of up to 1280 channels in registers, which is
// every row of the models; other rows are read again from the cache, element by element.

struct NormParams {
  int64_t rows;
  int32_t c;
  float eps;
  float share;    // 1 / c
};

constexpr int HELD = 1280 / VECTOR / 32;

DEVICE int64_t warp_row() { return (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32; }

// A row held by a warp, `columns` accesses of it.
struct Row {
  Raw<VECTOR> at[HELD];
  int lane, columns;
  DEVICE Row(const Act* x, int c) : lane(threadIdx.x & 31), columns(c / VECTOR) {
#pragma unroll
    for (int s = 0; s < HELD; s++)
      if (lane + 32 * s < columns) at[s] = fetch<VECTOR>(x + (lane + 32 * s) * VECTOR);
  }
  // f(access, first channel) for each of this lane's.
  template <class F>
  DEVICE void each(F f) const {
#pragma unroll
    for (int s = 0; s < HELD; s++)
      if (lane + 32 * s < columns) f(s, (lane + 32 * s) * VECTOR);
  }
};

// Mean as shift + rest.
DEVICE void save_row(float* saved, float shift, float rest, float rstd) {
  const double mean = (double)shift + (double)rest;
  saved[0] = (float)mean;
  saved[1] = (float)(mean - (double)(float)mean);
  saved[2] = rstd;
}

// y = (x - mean) rstd gamma + beta. The sum is of x - shift, shift being the row's first element, and the
// squares are of x - mean, so a large mean costs no digits. Moves 2 n elements.
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

// dx = rstd (g - mean(g) - xhat mean(g xhat)), g = dy gamma, rounded by itself: then a row of one element
// gets the zero it should. Moves 3 n elements.
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

// ---- rows divided by their length, a warp each: few rows (one per picture), so sums are f64 and lanes read
// elements.

// The shortest length that rows are divided by.
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
// dx = (dy - y <y, dy>) / |x|; rows shorter than the bound are divided by a constant.
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
