// Pointwise maps: one pass over memory for each, f32 inside. A thread issues IN_FLIGHT loads of 16 bytes of
// each input before it uses the first (half as many with two inputs). A block covers a contiguous piece, or
// whole rows if the map depends on the channel.
#include "math.cuh"
#include "access.cuh"

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

// Words of the host that travel as a parameter of the kernel.
struct PutParams {
  uint32_t words[960];
  int32_t at;
  int32_t n;
};
KERNEL(put, (256), (uint32_t* __restrict__ y, PutParams p)) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.n) y[p.at + i] = p.words[i];
}

// y[i] = f(x[i]) in accesses of W elements. The last access may be partial in the f32 image only; then it is
// done element by element.
template <int W, class F>
DEVICE void map(const Act* x, Act* y, int64_t n, F f) {
  const int64_t first = ((int64_t)blockIdx.x * IN_FLIGHT * blockDim.x + threadIdx.x) * W;
  const int step = blockDim.x * W;
  Raw<W> loaded[IN_FLIGHT];
#pragma unroll
  for (int u = 0; u < IN_FLIGHT; u++)
    if (first + u * step + W <= n) loaded[u] = fetch<W>(x + first + u * step);
#pragma unroll
  for (int u = 0; u < IN_FLIGHT; u++) {
    const int64_t i = first + u * step;
    if (i + W <= n) {
      float v[W];
      unpack(loaded[u], v);
#pragma unroll
      for (int k = 0; k < W; k++) v[k] = f(v[k]);
      store(y + i, v);
    } else if (EXACT) {
#pragma unroll 1
      for (int64_t j = i; j < n; j++) y[j] = from_f32<Act>(f(to_f32(x[j])));
    }
  }
}

// y[i] = f(a[i], b[i]).
template <int W, class F>
DEVICE void map2(const Act* a, const Act* b, Act* y, int64_t n, F f) {
  constexpr int EACH = IN_FLIGHT / 2;
  const int64_t first = ((int64_t)blockIdx.x * EACH * blockDim.x + threadIdx.x) * W;
  const int step = blockDim.x * W;
  Raw<W> loaded_a[EACH], loaded_b[EACH];
#pragma unroll
  for (int u = 0; u < EACH; u++) {
    const int64_t i = first + u * step;
    if (i + W <= n) {
      loaded_a[u] = fetch<W>(a + i);
      loaded_b[u] = fetch<W>(b + i);
    }
  }
#pragma unroll
  for (int u = 0; u < EACH; u++) {
    const int64_t i = first + u * step;
    if (i + W <= n) {
      float v[W], w[W];
      unpack(loaded_a[u], v);
      unpack(loaded_b[u], w);
#pragma unroll
      for (int k = 0; k < W; k++) v[k] = f(v[k], w[k]);
      store(y + i, v);
    } else if (EXACT) {
#pragma unroll 1
      for (int64_t j = i; j < n; j++) y[j] = from_f32<Act>(f(to_f32(a[j]), to_f32(b[j])));
    }
  }
}

struct ActivateParams {
  int64_t n;
  int32_t f;    // 0 silu, 1 gelu, 2 quick-gelu
};
// y = f(x); moves 2 n elements.
KERNEL(activate, (256), (const Act* __restrict__ x, Act* __restrict__ y, ActivateParams p)) {
  switch (p.f) {
    case 0: return map<VECTOR>(x, y, p.n, [](float v) { return silu(v); });
    case 1: return map<VECTOR>(x, y, p.n, [](float v) { return gelu(v); });
    default: return map<VECTOR>(x, y, p.n, [](float v) { return quick_gelu(v); });
  }
}
// dx = dy f'(x); moves 3 n elements.
KERNEL(activate_vjp, (256),
       (const Act* __restrict__ x, const Act* __restrict__ dy, Act* __restrict__ dx, ActivateParams p)) {
  switch (p.f) {
    case 0: return map2<VECTOR>(x, dy, dx, p.n, [](float v, float d) { return d * silu_slope(v); });
    case 1: return map2<VECTOR>(x, dy, dx, p.n, [](float v, float d) { return d * gelu_slope(v); });
    default: return map2<VECTOR>(x, dy, dx, p.n, [](float v, float d) { return d * quick_gelu_slope(v); });
  }
}

struct AxpbyParams {
  int64_t n;
  float a;
  float b;
};
// out = a x + b y; moves 3 n elements.
KERNEL(axpby, (256),
       (const Act* __restrict__ x, const Act* __restrict__ y, Act* __restrict__ out, AxpbyParams p)) {
  map2<VECTOR>(x, y, out, p.n, [=](float v, float w) { return fmaf(p.a, v, p.b * w); });
}
// y = a x; moves 2 n elements.
KERNEL(scale, (256), (const Act* __restrict__ x, Act* __restrict__ y, AxpbyParams p)) {
  map<VECTOR>(x, y, p.n, [=](float v) { return p.a * v; });
}

struct BlendParams {
  int64_t n;
  int32_t which;
};
// out = k0 x + k1 y, k on the device; moves 3 n elements.
KERNEL(blend, (256),
       (const float* __restrict__ k, const Act* __restrict__ x, const Act* __restrict__ y,
        Act* __restrict__ out, BlendParams p)) {
  const float a = k[0], b = k[1];
  map2<VECTOR>(x, y, out, p.n, [=](float v, float w) { return fmaf(a, v, b * w); });
}
// dx = k[which] dy; moves 2 n elements.
KERNEL(blend_vjp, (256),
       (const float* __restrict__ k, const Act* __restrict__ dy, Act* __restrict__ dx, BlendParams p)) {
  const float a = k[p.which];
  map<VECTOR>(dy, dx, p.n, [=](float v) { return a * v; });
}

struct ClampParams {
  int64_t n;
  float a;
  float b;
  float lo;
  float hi;
};
// Rounded twice, as on the host, so that forward, transpose and all devices agree on which elements are
// outside the bounds.
DEVICE float affine(const ClampParams& p, float x) { return __fadd_rn(__fmul_rn(p.a, x), p.b); }
// y = min(max(a x + b, lo), hi), and NaN for NaN; moves 2 n elements.
KERNEL(affine_clamp, (256), (const Act* __restrict__ x, Act* __restrict__ y, ClampParams p)) {
  map<VECTOR>(x, y, p.n, [=](float v) {
    // Written as comparisons, which keep a NaN; fminf and fmaxf would drop it.
    float w = affine(p, v);
    w = w < p.lo ? p.lo : w;
    return w > p.hi ? p.hi : w;
  });
}
// dx = a dy where a x + b lies within the bounds; moves 3 n elements.
KERNEL(affine_clamp_vjp, (256),
       (const Act* __restrict__ x, const Act* __restrict__ dy, Act* __restrict__ dx, ClampParams p)) {
  map2<VECTOR>(x, dy, dx, p.n, [=](float v, float d) {
    const float w = affine(p, v);
    return w >= p.lo && w <= p.hi ? p.a * d : 0.0f;
  });
}

struct SoftClampParams {
  int64_t n;
  float limit;
};
// y = limit tanh(x / limit), and NaN for NaN; moves 2 n elements.
KERNEL(soft_clamp, (256), (const Act* __restrict__ x, Act* __restrict__ y, SoftClampParams p)) {
  map<VECTOR>(x, y, p.n, [=](float v) { return p.limit * tanh_of(v / p.limit); });
}
// dx = (1 - tanh^2(x / limit)) dy; moves 3 n elements.
KERNEL(soft_clamp_vjp, (256),
       (const Act* __restrict__ x, const Act* __restrict__ dy, Act* __restrict__ dx, SoftClampParams p)) {
  map2<VECTOR>(x, dy, dx, p.n, [=](float v, float d) { return d * tanh_slope(v / p.limit); });
}

struct CfgCombineParams {
  int64_t n;       // elements of the guided half
  float s;
  int32_t vectorized;    // n is whole accesses of 16 bytes
};
// x = [u, c]: y = u + s (c - u); moves 3 n elements.
KERNEL(cfg_combine, (256), (const Act* __restrict__ x, Act* __restrict__ y, CfgCombineParams p)) {
  const auto f = [=](float u, float c) { return u + p.s * (c - u); };
  if (p.vectorized) return map2<VECTOR>(x, x + p.n, y, p.n, f);
  map2<1>(x, x + p.n, y, p.n, f);
}
// dx = [(1 - s) dy, s dy]; moves 3 n elements.
template <int W>
DEVICE void cfg_combine_vjp(const Act* dy, Act* dx, const CfgCombineParams& p) {
  const int64_t first = ((int64_t)blockIdx.x * IN_FLIGHT * blockDim.x + threadIdx.x) * W;
  const int step = blockDim.x * W;
  Raw<W> loaded[IN_FLIGHT];
#pragma unroll
  for (int u = 0; u < IN_FLIGHT; u++)
    if (first + u * step < p.n) loaded[u] = fetch<W>(dy + first + u * step);
#pragma unroll
  for (int u = 0; u < IN_FLIGHT; u++) {
    const int64_t i = first + u * step;
    if (i >= p.n) return;
    float v[W], w[W];
    unpack(loaded[u], v);
#pragma unroll
    for (int k = 0; k < W; k++) {
      w[k] = p.s * v[k];
      v[k] = (1.0f - p.s) * v[k];
    }
    store(dx + i, v);
    store(dx + p.n + i, w);
  }
}
KERNEL(cfg_combine_vjp, (256), (const Act* __restrict__ dy, Act* __restrict__ dx, CfgCombineParams p)) {
  if (p.vectorized) return cfg_combine_vjp<VECTOR>(dy, dx, p);
  cfg_combine_vjp<1>(dy, dx, p);
}

struct RowMapParams {
  int64_t rows;
  int32_t c;          // channels of the narrower side
  int32_t columns;    // accesses of a row that a block covers
  int32_t lanes;      // rows it covers at once
  int32_t vectorized;       // c is whole accesses of 16 bytes
};

// y = x gain + shift per channel; moves 2 n elements.
template <int W>
DEVICE void channel_affine(const Act* x, const Act* gain, const Act* shift, Act* y, const RowMapParams& p) {
  const ThreadPosition at = thread_position(p.columns, p.lanes, p.c / W);
  if (!at.inside) return;
  const int c = at.column * W;
  float g[W], s[W];
  unpack(fetch<W>(gain + c), g);
#pragma unroll
  for (int k = 0; k < W; k++) s[k] = 0.0f;
  if (shift) unpack(fetch<W>(shift + c), s);
  Raw<W> loaded[IN_FLIGHT];
#pragma unroll
  for (int u = 0; u < IN_FLIGHT; u++) {
    const int64_t row = at.row + u * p.lanes;
    if (row < p.rows) loaded[u] = fetch<W>(x + row * p.c + c);
  }
#pragma unroll
  for (int u = 0; u < IN_FLIGHT; u++) {
    const int64_t row = at.row + u * p.lanes;
    if (row >= p.rows) return;
    float v[W];
    unpack(loaded[u], v);
#pragma unroll
    for (int k = 0; k < W; k++) v[k] = fmaf(v[k], g[k], s[k]);
    store(y + row * p.c + c, v);
  }
}
KERNEL(channel_affine, (384),
       (const Act* __restrict__ x, const Act* __restrict__ gain, const Act* __restrict__ shift,
        Act* __restrict__ y, RowMapParams p)) {
  if (sizeof(Act) == 2 || p.vectorized) return channel_affine<VECTOR>(x, gain, shift, y, p);
  channel_affine<1>(x, gain, shift, y, p);
}

// Rows [a, g] of 2c: y = a gelu(g), c channels; moves 3 n elements, n elements of y.
template <int W>
DEVICE void geglu(const Act* x, Act* y, const RowMapParams& p) {
  const ThreadPosition at = thread_position(p.columns, p.lanes, p.c / W);
  if (!at.inside) return;
  const int c = at.column * W;
  Raw<W> loaded_a[IN_FLIGHT], loaded_g[IN_FLIGHT];
#pragma unroll
  for (int u = 0; u < IN_FLIGHT; u++) {
    const int64_t row = at.row + u * p.lanes;
    if (row < p.rows) {
      loaded_a[u] = fetch<W>(x + row * 2 * p.c + c);
      loaded_g[u] = fetch<W>(x + row * 2 * p.c + p.c + c);
    }
  }
#pragma unroll
  for (int u = 0; u < IN_FLIGHT; u++) {
    const int64_t row = at.row + u * p.lanes;
    if (row >= p.rows) return;
    float a[W], g[W];
    unpack(loaded_a[u], a);
    unpack(loaded_g[u], g);
#pragma unroll
    for (int k = 0; k < W; k++) a[k] *= gelu(g[k]);
    store(y + row * p.c + c, a);
  }
}
KERNEL(geglu, (384), (const Act* __restrict__ x, Act* __restrict__ y, RowMapParams p)) {
  if (sizeof(Act) == 2 || p.vectorized) return geglu<VECTOR>(x, y, p);
  geglu<1>(x, y, p);
}

// dx = [dy gelu(g), dy a gelu'(g)]; moves 5 n elements, n elements of dy.
template <int W>
DEVICE void geglu_vjp(const Act* x, const Act* dy, Act* dx, const RowMapParams& p) {
  const ThreadPosition at = thread_position(p.columns, p.lanes, p.c / W);
  if (!at.inside) return;
  const int c = at.column * W;
  // Three inputs, so half as many rows at a time.
  constexpr int EACH = IN_FLIGHT / 2;
#pragma unroll 1
  for (int half = 0; half < 2; half++) {
    const int64_t first = at.row + half * EACH * p.lanes;
    Raw<W> loaded_a[EACH], loaded_g[EACH], loaded_d[EACH];
#pragma unroll
    for (int u = 0; u < EACH; u++) {
      const int64_t row = first + u * p.lanes;
      if (row < p.rows) {
        loaded_a[u] = fetch<W>(x + row * 2 * p.c + c);
        loaded_g[u] = fetch<W>(x + row * 2 * p.c + p.c + c);
        loaded_d[u] = fetch<W>(dy + row * p.c + c);
      }
    }
#pragma unroll
    for (int u = 0; u < EACH; u++) {
      const int64_t row = first + u * p.lanes;
      if (row >= p.rows) return;
      float a[W], g[W], d[W];
      unpack(loaded_a[u], a);
      unpack(loaded_g[u], g);
      unpack(loaded_d[u], d);
#pragma unroll
      for (int k = 0; k < W; k++) {
        const Normal n = normal(g[k]);
        const float slope = fmaf(g[k], n.pdf, n.cdf), gate = g[k] * n.cdf;
        g[k] = d[k] * a[k] * slope;
        a[k] = d[k] * gate;
      }
      store(dx + row * 2 * p.c + c, a);
      store(dx + row * 2 * p.c + p.c + c, g);
    }
  }
}
KERNEL(geglu_vjp, (384),
       (const Act* __restrict__ x, const Act* __restrict__ dy, Act* __restrict__ dx, RowMapParams p)) {
  if (sizeof(Act) == 2 || p.vectorized) return geglu_vjp<VECTOR>(x, dy, dx, p);
  geglu_vjp<1>(x, dy, dx, p);
}
