// Attention by matrix products, with a score matrix in memory: for heads that are too wide for flash.cu (a
// decoder's one head of 512 channels), and for f32 of any width. Score matrices are made in parts: of several
// heads, from `first` on in the order of samples and heads; or of some queries, from `query` on, of one head.
//
//   forward     s = scale q k^T;  p = softmax(s), lse;  y = p v
//   transpose   p = exp(s - lse), ds = p (dy v^T - dot);  dq = scale ds k;  dv = p^T dy, dk = scale ds^T q
//
// A block makes one tile of a product (attention_product.cuh). Scores and sums are f32, probabilities and ds
// are Act. FLOPs per head and sample: 4 d queries keys forward and 10 d queries keys backward. Bytes moved
// forward: 8 queries keys, and q, k, v and y.
#include "attention.cuh"
#include "attention_product.cuh"
#include "reduce.cuh"

struct ScoresParams {
  int64_t first;   // head, in the order of samples and heads
  int32_t query;
  int32_t rows;    // queries
  int32_t stride;  // keys, rounded up to whole packets
};

struct Part {
  Head head;
  int64_t scores;  // offset of this head's scores
};

DEVICE Part part_at(const AttentionParams& p, const ScoresParams& part, const uint32_t* kv_of, int pair) {
  const int64_t at = part.first + pair;
  Part found;
  found.head = head_at(p, kv_of, (int)(at / p.heads), (int)(at % p.heads));
  found.scores = (int64_t)pair * part.rows * part.stride;
  return found;
}

// One head as a matrix: `rows` tokens from token `from` on.
DEVICE Matrix rows_of(const Act* x, int64_t at, int row, int from, int rows, int d) {
  Matrix m;
  m.x = x + at + (int64_t)from * row;
  m.stride = row;
  m.rows = rows;
  m.columns = d;
  return m;
}

// Stores two neighbours in a row, or the first `left` of them.
DEVICE void store2(Act* y, float a, float b, int left) {
#if defined(ACT_F32)
  if (left > 0) y[0] = a;
  if (left > 1) y[1] = b;
#else
  if (left > 0) *reinterpret_cast<uint32_t*>(y) = pack2<Act>(a, b);
#endif
}

// s (heads of the part, rows, stride), f32. Grid: tiles of keys, tiles of queries, heads of the part.
KERNEL(attention_scores, (256, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        float* __restrict__ s, AttentionParams p, ScoresParams part)) {
  SHARED(Act, shared, Product::SHARED_ELEMENTS);
  const Part at = part_at(p, part, kv_of, blockIdx.z);
  const int row = blockIdx.y * Product::ROWS, column = blockIdx.x * Product::COLUMNS;
  const Matrix left = rows_of(q, at.head.q, p.q_row, part.query, part.rows, p.d);
  Product product;
  product.add<true, true>(left, rows_of(kv, at.head.k, p.kv_row, 0, p.keys, p.d), row, column, p.d, shared);
  Product::each([&](int i, int j, int n) {
    i += row, j += column;
    // A row is whole packets long, so both elements are within it or neither is.
    if (i >= part.rows || j >= part.stride) return;
    // j is even.
    store_pair(s + at.scores + (int64_t)i * part.stride + j, __float_as_uint(p.scale * product.get(n)),
               __float_as_uint(p.scale * product.get(n + 1)));
  });
}

// p and lse from s, for n rows: a warp per row, four scores at a time per lane. p is zero for keys beyond the
// last and for keys that may not be seen.
KERNEL(attention_softmax, (256),
       (const float* __restrict__ s, Act* __restrict__ weights, float* __restrict__ lse, AttentionParams p,
        ScoresParams part, int64_t n)) {
  const int64_t at = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  if (at >= n) return;
  const int lane = threadIdx.x % 32, query = part.query + (int)(at % part.rows);
  const int seen = p.causal ? min(p.keys, query + 1) : p.keys;
  const float* const row = s + at * part.stride;
  auto load = [&](int j, float (&x)[4]) {
    const Words v = load_words(row + j);
#pragma unroll
    for (int k = 0; k < 4; k++) x[k] = j + k < seen ? __uint_as_float(v.w[k]) : -DAS_INFINITY;
  };
  float top = -DAS_INFINITY, sum = 0, x[4];
  for (int j = 4 * lane; j < seen; j += 128) {
    load(j, x);
    top = fmaxf(top, fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])));
  }
  top = warp_max(top);
  for (int j = 4 * lane; j < seen; j += 128) {
    load(j, x);
#pragma unroll
    for (int k = 0; k < 4; k++) sum += expf(x[k] - top);
  }
  sum = warp_sum(sum);
  const float inverse = 1.0f / sum;
  for (int j = 4 * lane; j < part.stride; j += 128) {
    load(j, x);
#pragma unroll
    for (int k = 0; k < 4; k++) x[k] = j + k < seen ? expf(x[k] - top) * inverse : 0.0f;
    store4(weights + at * part.stride + j, x);
  }
  if (lane == 0) lse[(part.first + at / part.rows) * p.queries + query] = top + logf(sum);
}

// p and ds from q, kv, dy, lse and dot. The grid is that of attention_scores.
KERNEL(attention_scores_vjp, (256, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        const Act* __restrict__ dy, const float* __restrict__ lse, const float* __restrict__ dot,
        Act* __restrict__ weights, Act* __restrict__ ds, AttentionParams p, ScoresParams part)) {
  SHARED(Act, shared, Product::SHARED_ELEMENTS);
  const Part at = part_at(p, part, kv_of, blockIdx.z);
  const int row = blockIdx.y * Product::ROWS, column = blockIdx.x * Product::COLUMNS;
  const Matrix of_q = rows_of(q, at.head.q, p.q_row, part.query, part.rows, p.d);
  const Matrix of_dy = rows_of(dy, at.head.y, p.y_row, part.query, part.rows, p.d);
  Product s, dp;
  s.add<true, true>(of_q, rows_of(kv, at.head.k, p.kv_row, 0, p.keys, p.d), row, column, p.d, shared);
  dp.add<true, true>(of_dy, rows_of(kv, at.head.v, p.kv_row, 0, p.keys, p.d), row, column, p.d, shared);
  Product::each([&](int i, int j, int n) {
    i += row, j += column;
    if (i >= part.rows || j >= part.stride) return;
    const int query = part.query + i;
    const int seen = p.causal ? min(p.keys, query + 1) : p.keys;
    const float shift = lse[at.head.rows + query], mean = dot[at.head.rows + query];
    float w[2], d[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
      w[k] = j + k < seen ? expf(fmaf(p.scale, s.get(n + k), -shift)) : 0.0f;
      d[k] = j + k < seen ? w[k] * (dp.get(n + k) - mean) : 0.0f;
    }
    const int64_t to = at.scores + (int64_t)i * part.stride + j;
    store2(weights + to, w[0], w[1], 2);
    store2(ds + to, d[0], d[1], 2);
  });
}

// out_i = sum_j a_ij x_j: y from p and v or, if to_q, dq from ds and k. Grid: tiles of channels, tiles of
// queries, heads of the part.
KERNEL(attention_mix, (256, 2),
       (const Act* __restrict__ a, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        Act* __restrict__ out, AttentionParams p, ScoresParams part, int32_t to_q)) {
  SHARED(Act, shared, Product::SHARED_ELEMENTS);
  const Part at = part_at(p, part, kv_of, blockIdx.z);
  const int row = blockIdx.y * Product::ROWS, column = blockIdx.x * Product::COLUMNS;
  const Matrix left = rows_of(a, at.scores, part.stride, 0, part.rows, part.stride);
  const Matrix right = rows_of(kv, to_q ? at.head.k : at.head.v, p.kv_row, 0, p.keys, p.d);
  Product product;
  product.add<true, false>(left, right, row, column, p.keys, shared);
  const int out_row = to_q ? p.q_row : p.y_row;
  const float factor = to_q ? p.scale : 1.0f;
  Act* const to = out + (to_q ? at.head.q : at.head.y) + (int64_t)part.query * out_row;
  Product::each([&](int i, int j, int n) {
    i += row, j += column;
    if (i < part.rows)
      store2(to + (int64_t)i * out_row + j, factor * product.get(n), factor * product.get(n + 1), p.d - j);
  });
}

// out_j = sum_i a_ij x_i: dv from p and dy or, if to_k, dk from ds and q. If the queries of a head come in
// parts, `sum` (keys, d) accumulates over the parts: the one with `first_part` set does not read it, and the
// one with `last_part` set writes `out` in its place. Grid: tiles of channels, tiles of keys, heads of the
// part.
KERNEL(attention_gather, (256, 2),
       (const Act* __restrict__ a, const Act* __restrict__ x, float* __restrict__ sum, Act* __restrict__ out,
        AttentionParams p, ScoresParams part, int32_t to_k, int32_t first_part, int32_t last_part)) {
  SHARED(Act, shared, Product::SHARED_ELEMENTS);
  const Part at = part_at(p, part, nullptr, blockIdx.z);
  const int row = blockIdx.y * Product::ROWS, column = blockIdx.x * Product::COLUMNS;
  const Matrix left = rows_of(a, at.scores, part.stride, 0, part.rows, part.stride);
  const Matrix right = to_k ? rows_of(x, at.head.q, p.q_row, part.query, part.rows, p.d)
                            : rows_of(x, at.head.y, p.y_row, part.query, part.rows, p.d);
  Product product;
  product.add<false, false>(left, right, row, column, part.rows, shared);
  const float factor = to_k ? p.scale : 1.0f;
  Act* const to = out + (to_k ? at.head.k : at.head.v);
  Product::each([&](int i, int j, int n) {
    i += row, j += column;
    if (i >= p.keys) return;
    float v[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
      v[k] = factor * product.get(n + k);
      if (j + k >= p.d || (first_part && last_part)) continue;
      float* const before = sum + (int64_t)i * p.d + j + k;
      if (!first_part) v[k] += *before;
      if (!last_part) *before = v[k];
    }
    if (last_part) store2(to + (int64_t)i * p.kv_row + j, v[0], v[1], p.d - j);
  });
}

// dot_i = <dy_i, y_i> of every head, in f32: eight lanes per query, 32 queries per block. Grid: blocks of
// queries, heads, samples. Reads y and dy once.
KERNEL(attention_dot, (256),
       (const Act* __restrict__ y, const Act* __restrict__ dy, float* __restrict__ dot, AttentionParams p)) {
  const int query = blockIdx.x * 32 + threadIdx.x / 8, lane = threadIdx.x % 8;
  const Head h = head_at(p, nullptr, blockIdx.z, blockIdx.y);
  const int64_t at = h.y + (int64_t)query * p.y_row;
  float sum = 0;
  if (query < p.queries) {
#if defined(ACT_F32)
    for (int i = lane; i < p.d; i += 8) sum = fmaf(y[at + i], dy[at + i], sum);
#else
    for (int i = lane * PACKET; i < p.d; i += 8 * PACKET) {
      float a[8], b[8];
      load8(y + at + i, a);
      load8(dy + at + i, b);
#pragma unroll
      for (int k = 0; k < 8; k++) sum = fmaf(a[k], b[k], sum);
    }
#endif
  }
#pragma unroll
  for (int o = 4; o; o >>= 1) sum += __shfl_xor_sync(FULL_WARP, sum, o);
  if (lane == 0 && query < p.queries) dot[h.rows + query] = sum;
}
