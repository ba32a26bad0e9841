// Attention forward without a score matrix (Dao 2023), heads of at most 160 channels, 16-bit types.
//
//   y = softmax(scale q k^T) v,   lse = log sum_j exp(scale <q, k_j>)
//
// A block computes 16 M x 4 queries of one head of one sample (grid: blocks of queries, heads, samples), and
// each of its four warps 16 M of them, which it holds in registers as left factors. Keys and values come in
// tiles of KEYS, by asynchronous copies that run while the tile before is used. Each thread holds two of
// every 16 rows. Scores, results, running maxima and running sums are f32; probabilities are rounded to Act
// for the product with v. FLOPs: 4 d queries keys. Bytes moved: q, k, v and y once from memory, and k and v
// once more per block from the L2.
#include "attention.cuh"

#if !defined(ACT_F32)

// M row blocks of 16 queries per warp. Two of them share each ldmatrix, which halves the traffic of shared
// memory; wider heads have registers for one only. KEYS keys per tile, as many as registers allow.
template <int D, int M, int KEYS>
DEVICE void forward(const Act* q, const Act* kv, const uint32_t* kv_of, Act* y, float* lse,
                    AttentionParams p) {
  constexpr int QUERIES = 16 * M * WARPS, N = KEYS / 8;
  constexpr int STRIDE = Rows<D>::STRIDE, STAGE = 2 * KEYS * STRIDE;
  DYNAMIC_SHARED(Act, shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int block = blockIdx.x * QUERIES, first = block + 16 * M * warp;
  const Head h = head_at(p, kv_of, blockIdx.z, blockIdx.y);
  const Act* const k = kv + h.k;
  const int seen = p.causal ? min(p.keys, block + QUERIES) : p.keys;
  const int tiles = (seen + KEYS - 1) / KEYS;

  auto load = [&](int i) {
    if (i >= tiles) return;
    Act* const to = shared + i % 2 * STAGE;
    const Act* const from = k + (int64_t)i * KEYS * p.kv_row;
    load_rows<D, KEYS, 2>(to, {from, from + (p.v_at - p.k_at)}, {p.kv_row, p.kv_row}, p.keys - i * KEYS, p.d);
    cp_async_commit();
  };

  // The queries are loaded into the stage of the second tile, which is not needed before they are in
  // registers.
  Act* const queries = shared + STAGE;
  load_rows<D, QUERIES>(queries, q + h.q + (int64_t)block * p.q_row, p.q_row, p.queries - block,
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
    // A warp that has no queries, or only queries that may not see this tile, only copies.
    if (first >= p.queries || (p.causal && key > first + 16 * M - 1)) {
      load(i + 1);
      continue;
    }
    const Act* const tile = shared + i % 2 * STAGE;
    float s[M][N][4];
    by_channels<D, M, N>(s, a, tile + lane_by_channels<D>());
    // Issued after the first products, so that the tensor cores are busy while addresses are computed.
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

// FLASH(name, D, M, KEYS): the kernel for heads of at most D channels. src/cuda/attention/flash.rs has the
// same table.
#define FLASH(name, D, M, KEYS)                                                                         \
  KERNEL(name, (THREADS, 2),                                                                            \
         (const Act* __restrict__ q, const Act* __restrict__ kv, const uint32_t* __restrict__ kv_of,    \
          Act* __restrict__ y, float* __restrict__ lse, AttentionParams p)) {                           \
    forward<D, M, KEYS>(q, kv, kv_of, y, lse, p);                                                       \
  }
FLASH(flash_32, 32, 2, 64)
FLASH(flash_40, 40, 2, 64)
FLASH(flash_64, 64, 2, 64)
FLASH(flash_80, 80, 2, 32)
FLASH(flash_96, 96, 1, 64)
FLASH(flash_128, 128, 1, 32)
FLASH(flash_160, 160, 1, 32)
#endif
