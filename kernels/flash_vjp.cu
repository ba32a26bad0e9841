// The transpose (backward) of flash.cu, in two passes. In both, each block owns its results, so nothing is
// accumulated between blocks:
//
//   p = exp(scale <q_i, k_j> - lse_i),   dp = <dy_i, v_j>,   ds = p (dp - dot_i)
//   dot_i = <dy_i, y_i> = sum_j p dp
//   dv_j = sum_i p dy_i,   dk_j = scale sum_i ds q_i:   a block owns keys and loops over queries
//   dq_i = scale sum_j ds k_j:                          a block owns queries and loops over keys
//
// FLOPs: 8 d queries keys and 6 d queries keys. Bytes moved: what a block owns once from memory, the other
// side once more per block from the L2, and each result once.
//
// Scores, dp and all sums are f32; p and ds are rounded to Act for the products. The tiles of the other side
// come by asynchronous copies that run while the tile before is used. The forward of cross-attention, whose
// keys are constant, saves neither lse nor y; there the second pass loops over the keys twice, first to find
// lse and dot.
#include "attention.cuh"

#if !defined(ACT_F32)

// ---- keys

// M row blocks of 16 keys per warp, QUERIES queries per tile. If HELD, k and v stay in registers as left
// factors; otherwise they are read from shared memory for every tile.
template <int D, int M, int QUERIES, bool HELD>
DEVICE void keys_vjp(const Act* qkv, const Act* dy, const float* lse, const float* dot, Act* dqkv,
                     AttentionParams p) {
  constexpr int KEYS = 16 * M * WARPS, N = QUERIES / 8;
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
  // Each query has two numbers: its lse as an exponent of 2, and dot. Thread j loads one of those of query j
  // / 2. Beyond the last query they are zero; q and dy are zero there too, so such queries add nothing.
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
  if constexpr (HELD) {
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
    // A warp that has no keys, or only keys that these queries may not see, only copies.
    const bool works = first < p.keys && !(p.causal && query + QUERIES - 1 < first);
    const Act* const tile = stages + i % 2 * STAGE;
    const Act* const tile_dy = tile + QUERIES * STRIDE;
    float s[M][N][4];
    // Rows are keys, columns queries.
    if (works) {
      if constexpr (HELD)
        by_channels<D, M, N>(s, ka, tile + lane_by_channels<D>());
      else
        by_channels<D, M, N>(s, k, tile + lane_by_channels<D>());
    }
    // Issued after the first products, so that the tensor cores are busy while addresses are computed.
    float next = 0;
    if (i + 1 < tiles) {
      load(i + 1);
      next = number(i + 1);
    }
    if (works) {
      const float* const of = numbers + i % 2 * 2 * QUERIES + 4 * (lane % 4);
      float dp[M][N][4];
      if constexpr (HELD)
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

// M row blocks of 16 queries per warp, KEYS keys per tile.
//
// If lse is null, a first loop over the tiles finds lse and dot of each query; `before` is the number of its
// tiles.
template <int D, int M, int KEYS>
DEVICE void queries_vjp(const Act* q, const Act* kv, const uint32_t* kv_of, const Act* dy, const float* lse,
                        const float* dot, Act* dq, AttentionParams p) {
  constexpr int QUERIES = 16 * M * WARPS, N = KEYS / 8;
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

  // q and dy are loaded into the stage of the second tile and behind it. That stage is not needed before they
  // are in registers.
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

  // For each row of the main loop: `shift` is lse as an exponent of 2, and `mean` is dot = sum_j p dp. During
  // the first loop (i < before) they are running values instead: `shift` the largest score so far, `sum` the
  // sum of the weights relative to it, and `mean` the sum of these weights times dp.
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

// FLASH_KEYS_VJP(name, D, M, QUERIES, HELD), FLASH_QUERIES_VJP(name, D, M, KEYS): the kernels for heads of at
// most D channels. src/cuda/attention/flash.rs has the same tables.
#define FLASH_KEYS_VJP(name, D, M, QUERIES, HELD)                                                       \
  KERNEL(name, (THREADS, 2),                                                                            \
         (const Act* __restrict__ qkv, const Act* __restrict__ dy, const float* __restrict__ lse,       \
          const float* __restrict__ dot, Act* __restrict__ dqkv, AttentionParams p)) {                  \
    keys_vjp<D, M, QUERIES, HELD>(qkv, dy, lse, dot, dqkv, p);                                          \
  }
#define FLASH_QUERIES_VJP(name, D, M, KEYS)                                                             \
  KERNEL(name, (THREADS, 2),                                                                            \
         (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,    \
          const Act* __restrict__ dy, const float* __restrict__ lse, const float* __restrict__ dot,     \
          Act* __restrict__ dq, AttentionParams p)) {                                                   \
    queries_vjp<D, M, KEYS>(q, kv, kv_of, dy, lse, dot, dq, p);                                         \
  }
FLASH_KEYS_VJP(flash_keys_vjp_32, 32, 2, 32, true)
FLASH_KEYS_VJP(flash_keys_vjp_40, 40, 2, 32, false)
FLASH_KEYS_VJP(flash_keys_vjp_64, 64, 2, 32, false)
FLASH_KEYS_VJP(flash_keys_vjp_80, 80, 1, 32, true)
FLASH_KEYS_VJP(flash_keys_vjp_96, 96, 1, 32, true)
FLASH_KEYS_VJP(flash_keys_vjp_128, 128, 1, 32, false)
FLASH_KEYS_VJP(flash_keys_vjp_160, 160, 1, 32, false)
FLASH_QUERIES_VJP(flash_queries_vjp_32, 32, 2, 32)
FLASH_QUERIES_VJP(flash_queries_vjp_40, 40, 2, 32)
FLASH_QUERIES_VJP(flash_queries_vjp_64, 64, 2, 32)
FLASH_QUERIES_VJP(flash_queries_vjp_80, 80, 1, 64)
FLASH_QUERIES_VJP(flash_queries_vjp_96, 96, 1, 64)
FLASH_QUERIES_VJP(flash_queries_vjp_128, 128, 1, 32)
FLASH_QUERIES_VJP(flash_queries_vjp_160, 160, 1, 32)
#endif
