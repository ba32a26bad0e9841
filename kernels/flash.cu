// Attention forward without a score matrix (Dao 2023), heads of at most 160 channels, 16-bit types.
//
//   y = softmax(scale q k^T) v,   lse = log sum_j exp(scale <q, k_j>)
//
// A block takes 16 M x 4 queries of one head of one sample (grid: blocks of queries, heads, samples), a warp
// 16 M of them, held as left factors in registers. Tiles of KEYS keys and values come by asynchronous copies,
// the next while one is used. Each thread holds two rows of every 16: scores, results, running maximum and
// sum are f32; probabilities are rounded for the product with v. FLOPs: 4 d queries keys; bytes: q, k, v and
// y once from memory, k and v again per block from the second-level cache.
#include "attention.cuh"

#if !defined(ACT_F32)

template <int D>
struct Forward {
  // Two blocks of 16 rows share each matrix load where registers allow: fewer would wait for shared memory.
  static constexpr int M = D <= 80 ? 2 : 1;
  // As registers allow.
  static constexpr int KEYS = D == 80 || D > 96 ? 32 : 64;
  static constexpr int QUERIES = 16 * M * WARPS;
};

template <int D>
DEVICE void forward(const Act* q, const Act* kv, const uint32_t* kv_of, Act* y, float* lse,
                    AttentionParams p) {
  constexpr int M = Forward<D>::M, KEYS = Forward<D>::KEYS, N = KEYS / 8;
  constexpr int STRIDE = Rows<D>::STRIDE, STAGE = 2 * KEYS * STRIDE;
  DYNAMIC_SHARED(Act, shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int block = blockIdx.x * Forward<D>::QUERIES, first = block + 16 * M * warp;
  const Head h = head_at(p, kv_of, blockIdx.z, blockIdx.y);
  const Act* const k = kv + h.k;
  const int seen = p.causal ? min(p.keys, block + Forward<D>::QUERIES) : p.keys;
  const int tiles = (seen + KEYS - 1) / KEYS;

  auto load = [&](int i) {
    if (i >= tiles) return;
    Act* const to = shared + i % 2 * STAGE;
    const Act* const from = k + (int64_t)i * KEYS * p.kv_row;
    load_rows<D, KEYS, 2>(to, {from, from + (p.v_at - p.k_at)}, {p.kv_row, p.kv_row}, p.keys - i * KEYS, p.d);
    cp_async_commit();
  };

  // The queries stand where the second tile will.
  Act* const queries = shared + STAGE;
  load_rows<D, Forward<D>::QUERIES>(queries, q + h.q + (int64_t)block * p.q_row, p.q_row, p.queries - block,
                                    p.d);
  load(0);
  cp_async_wait<0>();
  __syncthreads();
  uint32_t a[M][Rows<D>::STEPS][4];
  load_left<D, M>(a, queries + 16 * M * warp * STRIDE + lane_by_rows<D>());

  const float c = p.scale * LOG2_E;
  float out[M][Rows<D>::TILES][4], top[M][2], sum[M][2];
  clear(out);
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) top[m][half] = -DAS_INFINITY, sum[m][half] = 0;

#pragma unroll 1
  for (int i = 0; i < tiles; i++) {
    cp_async_wait<0>();
    __syncthreads();
    const int key = i * KEYS;
    // A warp without queries, or whose queries all come before this tile.
    if (first >= p.queries || (p.causal && key > first + 16 * M - 1)) {
      load(i + 1);
      continue;
    }
    const Act* const tile = shared + i % 2 * STAGE;
    float s[M][N][4];
    by_channels<D, M, N>(s, a, tile + lane_by_channels<D>());
    // Behind the first products, so that the tensor cores have work while addresses are found.
    load(i + 1);
    if (key + KEYS > p.keys || (p.causal && key + KEYS - 1 > first)) hide(s, key, first, p);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float now = top[m][half];
#pragma unroll
        for (int n = 0; n < N; n++) now = fmaxf(now, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
        now = row_max(now);
        const float shift = now * c, factor = exp2_fast(fmaf(top[m][half], c, -shift));
        float all = 0;
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
          for (int j = 2 * half; j < 2 * half + 2; j++)
            all += s[m][n][j] = exp2_fast(fmaf(s[m][n][j], c, -shift));
        sum[m][half] = fmaf(sum[m][half], factor, all);
        top[m][half] = now;
#pragma unroll
        for (int n = 0; n < Rows<D>::TILES; n++)
          out[m][n][2 * half] *= factor, out[m][n][2 * half + 1] *= factor;
      }
    uint32_t weights[M][N / 2][4];
    as_left<M, N>(weights, s);
    by_rows<D, M, N / 2>(out, weights, tile + KEYS * STRIDE + lane_by_rows<D>());
  }

  __syncthreads();
  if (first >= p.queries) return;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float total = row_sum(sum[m][half]), inverse = 1.0f / total;
#pragma unroll
      for (int n = 0; n < Rows<D>::TILES; n++)
        out[m][n][2 * half] *= inverse, out[m][n][2 * half + 1] *= inverse;
      const int row = first + 16 * m + 8 * half + lane / 4;
      if (lse && lane % 4 == 0 && row < p.queries)
        lse[h.rows + row] = fmaf(top[m][half], p.scale, logf(total));
    }
  store_rows<D, M>(y + h.y + (int64_t)first * p.y_row, p.y_row, p.queries - first, p.d, out,
                   shared + 16 * M * warp * STRIDE);
}

KERNEL(flash_32, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        Act* __restrict__ y, float* __restrict__ lse, AttentionParams p)) {
  forward<32>(q, kv, kv_of, y, lse, p);
}
KERNEL(flash_40, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        Act* __restrict__ y, float* __restrict__ lse, AttentionParams p)) {
  forward<40>(q, kv, kv_of, y, lse, p);
}
KERNEL(flash_64, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        Act* __restrict__ y, float* __restrict__ lse, AttentionParams p)) {
  forward<64>(q, kv, kv_of, y, lse, p);
}
KERNEL(flash_80, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        Act* __restrict__ y, float* __restrict__ lse, AttentionParams p)) {
  forward<80>(q, kv, kv_of, y, lse, p);
}
KERNEL(flash_96, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        Act* __restrict__ y, float* __restrict__ lse, AttentionParams p)) {
  forward<96>(q, kv, kv_of, y, lse, p);
}
KERNEL(flash_128, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        Act* __restrict__ y, float* __restrict__ lse, AttentionParams p)) {
  forward<128>(q, kv, kv_of, y, lse, p);
}
KERNEL(flash_160, (THREADS, 2),
       (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,
        Act* __restrict__ y, float* __restrict__ lse, AttentionParams p)) {
  forward<160>(q, kv, kv_of, y, lse, p);
}
#endif
