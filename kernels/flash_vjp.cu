// The transpose of flash.cu in two passes, neither of which adds to what another block wrote:
//
//   p = exp(scale <q_i, k_j> - lse_i),   dp = <dy_i, v_j>,   ds = p (dp - dot_i)
//   dot_i = <dy_i, y_i> = sum_j p dp
//   dv_j = sum_i p dy_i,   dk_j = scale sum_i ds q_i:   a block owns keys and walks over queries
//   dq_i = scale sum_j ds k_j:                          a block owns queries and walks over keys
//
// FLOPs: 8 d queries keys, and 6 d queries keys. Bytes: what a block owns once from memory, the other side
// again per block from the second-level cache, and each result once.
//
// Scores, dp and all sums are f32; p and ds are rounded for the products. The other side's tiles come by
// asynchronous copies, the next while one is used. For cross-attention, whose keys are constant and which
// saved nothing, the second pass walks over the keys once more before, for lse and dot.
#include "attention.cuh"

#if !defined(ACT_F32)

// ---- keys

template <int D>
struct Keys {
  static constexpr int M = D <= 64 ? 2 : 1;
  static constexpr int KEYS = 16 * M * WARPS;
  static constexpr int QUERIES = 32;
  // k and v as left factors stay in registers.
  static constexpr bool HELD = D <= 32 || (M == 1 && D <= 96);
};

template <int D>
DEVICE void keys_vjp(const Act* qkv, const Act* dy, const float* lse, const float* dot, Act* dqkv,
                     AttentionParams p) {
  constexpr int M = Keys<D>::M, KEYS = Keys<D>::KEYS, QUERIES = Keys<D>::QUERIES, N = QUERIES / 8;
  constexpr int STRIDE = Rows<D>::STRIDE, TILES = Rows<D>::TILES, STEPS = Rows<D>::STEPS,
                STAGE = 2 * QUERIES * STRIDE;
  DYNAMIC_SHARED(Act, shared);
  Act* const stages = shared + 2 * KEYS * STRIDE;
  float* const numbers = reinterpret_cast<float*>(stages + 2 * STAGE);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int block = blockIdx.x * KEYS, first = block + 16 * M * warp;
  const Head h = head_at(p, nullptr, blockIdx.z, blockIdx.y);
  const float c = p.scale * LOG2_E;

  auto load = [&](int i) {
    Act* const to = stages + i % 2 * STAGE;
    const int at = i * QUERIES, left = p.queries - at;
    const Act* const q = qkv + h.q + (int64_t)at * p.q_row;
    load_rows<D, QUERIES, 2>(to, {q, dy + h.y + (int64_t)at * p.y_row}, {p.q_row, p.y_row}, left, p.d);
    cp_async_commit();
  };
  // The two numbers of each query, as the exponent of 2 and dot: thread j's is that of query j / 2. Zeros
  // where there is no query: with q and dy zero, so is all they add.
  auto number = [&](int i) {
    const int query = i * QUERIES + threadIdx.x / 2;
    if (threadIdx.x >= 2 * QUERIES || query >= p.queries) return 0.0f;
    return threadIdx.x % 2 ? dot[h.rows + query] : lse[h.rows + query] * LOG2_E;
  };
  auto keep = [&](int i, float x) {
    if (threadIdx.x < 2 * QUERIES) numbers[i % 2 * 2 * QUERIES + threadIdx.x] = x;
  };

  const int tiles = (p.queries + QUERIES - 1) / QUERIES;
  const int begin = p.causal ? block / QUERIES : 0;
  load_rows<D, KEYS>(shared, qkv + h.k + (int64_t)block * p.kv_row, p.kv_row, p.keys - block, p.d);
  load_rows<D, KEYS>(shared + KEYS * STRIDE, qkv + h.v + (int64_t)block * p.kv_row, p.kv_row, p.keys - block,
                     p.d);
  load(begin);
  keep(begin, number(begin));
  const Act* const k = shared + 16 * M * warp * STRIDE + lane_by_rows<D>();
  const Act* const v = k + KEYS * STRIDE;
  uint32_t ka[M][STEPS][4], va[M][STEPS][4];
  if constexpr (Keys<D>::HELD) {
    cp_async_wait<0>();
    __syncthreads();
    load_left<D, M>(ka, k);
    load_left<D, M>(va, v);
  }
  float dk[M][TILES][4], dv[M][TILES][4];
  clear(dk);
  clear(dv);

#pragma unroll 1
  for (int i = begin; i < tiles; i++) {
    cp_async_wait<0>();
    __syncthreads();
    const int query = i * QUERIES;
    // A warp without keys, or whose keys these queries may not see, only copies.
    const bool works = first < p.keys && !(p.causal && query + QUERIES - 1 < first);
    const Act* const tile = stages + i % 2 * STAGE;
    const Act* const tile_dy = tile + QUERIES * STRIDE;
    float s[M][N][4];
    // Rows are keys, columns queries.
    if (works) {
      if constexpr (Keys<D>::HELD)
        by_channels<D, M, N>(s, ka, tile + lane_by_channels<D>());
      else
        by_channels<D, M, N>(s, k, tile + lane_by_channels<D>());
    }
    // Behind the first products, so that the tensor cores have work while addresses are found.
    float next = 0;
    if (i + 1 < tiles) {
      load(i + 1);
      next = number(i + 1);
    }
    if (works) {
      const float* const of = numbers + i % 2 * 2 * QUERIES + 4 * (lane % 4);
      float dp[M][N][4];
      if constexpr (Keys<D>::HELD)
        by_channels<D, M, N>(dp, va, tile_dy + lane_by_channels<D>());
      else
        by_channels<D, M, N>(dp, v, tile_dy + lane_by_channels<D>());
      const bool edge = p.causal && query < first + 16 * M;
#pragma unroll
      for (int n = 0; n < N; n++) {
        // Two queries.
        const Words two = load_words(of + 16 * n);
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const float shift = __uint_as_float(two.w[2 * j]), mean = __uint_as_float(two.w[2 * j + 1]);
#pragma unroll
          for (int m = 0; m < M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
              const int at = 2 * half + j, key = first + 16 * m + 8 * half + lane / 4;
              float w = exp2_fast(fmaf(s[m][n][at], c, -shift));
              if (edge && query + 8 * n + 2 * (lane % 4) + j < key) w = 0;
              s[m][n][at] = w;
              dp[m][n][at] = w * (dp[m][n][at] - mean);
            }
        }
      }
      uint32_t a[M][N / 2][4];
      as_left<M, N>(a, s);
      by_rows<D, M, N / 2>(dv, a, tile_dy + lane_by_rows<D>());
      as_left<M, N>(a, dp);
      by_rows<D, M, N / 2>(dk, a, tile + lane_by_rows<D>());
    }
    if (i + 1 < tiles) keep(i + 1, next);
  }

  if (first >= p.keys) return;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) dk[m][n][i] *= p.scale;
  const int64_t at = (int64_t)first * p.kv_row;
  store_rows<D, M>(dqkv + h.k + at, p.kv_row, p.keys - first, p.d, dk, shared + 16 * M * warp * STRIDE);
  store_rows<D, M>(dqkv + h.v + at, p.kv_row, p.keys - first, p.d, dv, shared + 16 * M * warp * STRIDE);
}

// ---- queries

template <int D>
struct Queries {
  static constexpr int M = D <= 64 ? 2 : 1;
  static constexpr int QUERIES = 16 * M * WARPS;
  static constexpr int KEYS = M == 1 && D <= 96 ? 64 : 32;
};

// With lse null, both numbers of a query are found first.
template <int D>
DEVICE void queries_vjp(const Act* q, const Act* kv, const uint32_t* kv_of, const Act* dy, const float* lse,
                        const float* dot, Act* dq, AttentionParams p) {
  constexpr int M = Queries<D>::M, KEYS = Queries<D>::KEYS, QUERIES = Queries<D>::QUERIES, N = KEYS / 8;
  constexpr int STRIDE = Rows<D>::STRIDE, TILES = Rows<D>::TILES, STEPS = Rows<D>::STEPS,
                STAGE = 2 * KEYS * STRIDE;
  DYNAMIC_SHARED(Act, shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int block = blockIdx.x * QUERIES, first = block + 16 * M * warp;
  const Head h = head_at(p, kv_of, blockIdx.z, blockIdx.y);
  const Act* const k = kv + h.k;
  const float c = p.scale * LOG2_E;
  const int seen = p.causal ? min(p.keys, block + QUERIES) : p.keys;
  const int tiles = (seen + KEYS - 1) / KEYS, before = lse ? 0 : tiles;

  auto load = [&](int i) {
    if (i >= before + tiles) return;
    Act* const to = shared + i % 2 * STAGE;
    const int key = (i >= tiles ? i - tiles : i) * KEYS;
    const Act* const from = k + (int64_t)key * p.kv_row;
    load_rows<D, KEYS, 2>(to, {from, from + (p.v_at - p.k_at)}, {p.kv_row, p.kv_row}, p.keys - key, p.d);
    cp_async_commit();
  };

  // q and dy stand where the second tile will, and behind it.
  Act* const left = shared + STAGE;
  load_rows<D, QUERIES>(left, q + h.q + (int64_t)block * p.q_row, p.q_row, p.queries - block, p.d);
  load_rows<D, QUERIES>(left + QUERIES * STRIDE, dy + h.y + (int64_t)block * p.y_row, p.y_row,
                        p.queries - block, p.d);
  load(0);
  cp_async_wait<0>();
  __syncthreads();
  uint32_t qa[M][STEPS][4], dya[M][STEPS][4];
  load_left<D, M>(qa, left + 16 * M * warp * STRIDE + lane_by_rows<D>());
  load_left<D, M>(dya, left + (QUERIES + 16 * M * warp) * STRIDE + lane_by_rows<D>());

  // Of each row: the exponent's shift, its mean dp; before they are known, the largest score, and the sums of
  // the weights relative to it and of their products with dp.
  float shift[M][2], mean[M][2], sum[M][2];
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = first + 16 * m + 8 * half + lane / 4;
      const bool saved = lse && row < p.queries;
      shift[m][half] = saved ? lse[h.rows + row] * LOG2_E : lse ? 0.0f : -DAS_INFINITY;
      mean[m][half] = saved ? dot[h.rows + row] : 0.0f;
      sum[m][half] = 0;
    }
  float out[M][TILES][4];
  clear(out);

#pragma unroll 1
  for (int i = 0; i < before + tiles; i++) {
    cp_async_wait<0>();
    __syncthreads();
    const int key = (i >= tiles ? i - tiles : i) * KEYS;
    if (first >= p.queries || (p.causal && key > first + 16 * M - 1)) {
      load(i + 1);
      continue;
    }
    const Act* const tile = shared + i % 2 * STAGE;
    float s[M][N][4], dp[M][N][4];
    by_channels<D, M, N>(s, qa, tile + lane_by_channels<D>());
    load(i + 1);
    by_channels<D, M, N>(dp, dya, tile + KEYS * STRIDE + lane_by_channels<D>());
    if (key + KEYS > p.keys || (p.causal && key + KEYS - 1 > first)) hide(s, key, first, p);
    if (i < before) {
#pragma unroll
      for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float now = shift[m][half];
#pragma unroll
          for (int n = 0; n < N; n++) now = fmaxf(now, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
          now = row_max(now);
          const float top = now * c, factor = exp2_fast(fmaf(shift[m][half], c, -top));
          float all = 0, product = 0;
#pragma unroll
          for (int n = 0; n < N; n++)
#pragma unroll
            for (int j = 2 * half; j < 2 * half + 2; j++) {
              const float w = exp2_fast(fmaf(s[m][n][j], c, -top));
              all += w;
              product = fmaf(w, dp[m][n][j], product);
            }
          sum[m][half] = fmaf(sum[m][half], factor, all);
          mean[m][half] = fmaf(mean[m][half], factor, product);
          shift[m][half] = now;
          if (i + 1 == before) {
            const float total = row_sum(sum[m][half]);
            shift[m][half] = top + log2f(total);
            mean[m][half] = row_sum(mean[m][half]) / total;
          }
        }
      continue;
    }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int n = 0; n < N; n++)
#pragma unroll
        for (int j = 0; j < 4; j++)
          dp[m][n][j] = exp2_fast(fmaf(s[m][n][j], c, -shift[m][j / 2])) * (dp[m][n][j] - mean[m][j / 2]);
    uint32_t a[M][N / 2][4];
    as_left<M, N>(a, dp);
    by_rows<D, M, N / 2>(out, a, tile + lane_by_rows<D>());
  }

  __syncthreads();
  if (first >= p.queries) return;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < TILES; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) out[m][n][i] *= p.scale;
  store_rows<D, M>(dq + h.q + (int64_t)first * p.q_row, p.q_row, p.queries - first, p.d, out,
                   shared + 16 * M * warp * STRIDE);
}

KERNEL(flash_keys_vjp_32, (THREADS, 2),
       (const Act* __restrict__ qkv, const Act* __restrict__ dy, const float* __restrict__ lse,
        const float* __restrict__ dot, Act* __restrict__ dqkv, AttentionParams p)) {
  keys_vjp<32>(qkv, dy, lse, dot, dqkv, p);
}
KERNEL(flash_keys_vjp_40, (THREADS, 2),
       (const Act* __restrict__ qkv, const Act* __restrict__ dy, const float* __restrict__ lse,
        const float* __restrict__ dot, Act* __restrict__ dqkv, AttentionParams p)) {
  keys_vjp<40>(qkv, dy, lse, dot, dqkv, p);
}
KERNEL(flash_keys_vjp_64, (THREADS, 2),
       (const Act* __restrict__ qkv, const Act* __restrict__ dy, const float* __restrict__ lse,
        const float* __restrict__ dot, Act* __restrict__ dqkv, AttentionParams p)) {
  keys_vjp<64>(qkv, dy, lse, dot, dqkv, p);
}
KERNEL(flash_keys_vjp_80, (THREADS, 2),
       (const Act* __restrict__ qkv, const Act* __restrict__ dy, const float* __restrict__ lse,
        const float* __restrict__ dot, Act* __restrict__ dqkv, AttentionParams p)) {
  keys_vjp<80>(qkv, dy, lse, dot, dqkv, p);
}
KERNEL(flash_keys_vjp_96, (THREADS, 2),
       (const Act* __restrict__ qkv, const Act* __restrict__ dy, const float* __restrict__ lse,
        const float* __restrict__ dot, Act* __restrict__ dqkv, AttentionParams p)) {
  keys_vjp<96>(qkv, dy, lse, dot, dqkv, p);
}
KERNEL(flash_keys_vjp_128, (THREADS, 2),
       (const Act* __restrict__ qkv, const Act* __restrict__ dy, const float* __restrict__ lse,
        const float* __restrict__ dot, Act* __restrict__ dqkv, AttentionParams p)) {
  keys_vjp<128>(qkv, dy, lse, dot, dqkv, p);
}
KERNEL(flash_keys_vjp_160, (THREADS, 2),
       (const Act* __restrict__ qkv, const Act* __restrict__ dy, const float* __restrict__ lse,
        const float* __restrict__ dot, Act* __restrict__ dqkv, AttentionParams p)) {
  keys_vjp<160>(qkv, dy, lse, dot, dqkv, p);
}

KERNEL(flash_queries_vjp_32, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        const Act* __restrict__ dy, const float* __restrict__ lse, const float* __restrict__ dot,
        Act* __restrict__ dq, AttentionParams p)) {
  queries_vjp<32>(q, kv, kv_of, dy, lse, dot, dq, p);
}
KERNEL(flash_queries_vjp_40, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        const Act* __restrict__ dy, const float* __restrict__ lse, const float* __restrict__ dot,
        Act* __restrict__ dq, AttentionParams p)) {
  queries_vjp<40>(q, kv, kv_of, dy, lse, dot, dq, p);
}
KERNEL(flash_queries_vjp_64, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        const Act* __restrict__ dy, const float* __restrict__ lse, const float* __restrict__ dot,
        Act* __restrict__ dq, AttentionParams p)) {
  queries_vjp<64>(q, kv, kv_of, dy, lse, dot, dq, p);
}
KERNEL(flash_queries_vjp_80, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        const Act* __restrict__ dy, const float* __restrict__ lse, const float* __restrict__ dot,
        Act* __restrict__ dq, AttentionParams p)) {
  queries_vjp<80>(q, kv, kv_of, dy, lse, dot, dq, p);
}
KERNEL(flash_queries_vjp_96, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        const Act* __restrict__ dy, const float* __restrict__ lse, const float* __restrict__ dot,
        Act* __restrict__ dq, AttentionParams p)) {
  queries_vjp<96>(q, kv, kv_of, dy, lse, dot, dq, p);
}
KERNEL(flash_queries_vjp_128, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        const Act* __restrict__ dy, const float* __restrict__ lse, const float* __restrict__ dot,
        Act* __restrict__ dq, AttentionParams p)) {
  queries_vjp<128>(q, kv, kv_of, dy, lse, dot, dq, p);
}
KERNEL(flash_queries_vjp_160, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        const Act* __restrict__ dy, const float* __restrict__ lse, const float* __restrict__ dot,
        Act* __restrict__ dq, AttentionParams p)) {
  queries_vjp<160>(q, kv, kv_of, dy, lse, dot, dq, p);
}
#endif
