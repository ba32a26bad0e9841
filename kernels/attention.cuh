// Shared by the attention kernels: the layout of heads in memory and, for 16-bit types, tiles of a head in
// shared memory and the products of tiles.
//
// A head is a slice of d channels. Rows hold several tensors side by side: q, k and v of self-attention are
// rows of 3c, k and v of cross-attention rows of 2c, results rows of c. Sample n of q attends to sample
// kv_of[n] of kv or, if kv_of is null, to sample n.
#pragma once
#include "act.cuh"

struct AttentionParams {
  int32_t queries;
  int32_t keys;
  int32_t heads;
  int32_t d;       // channels of a head
  int32_t q_row;   // elements from one token to the next, of q and dq,
  int32_t kv_row;  // of k, v, dk and dv,
  int32_t y_row;   // of y and dy
  int32_t k_at;    // element of a row where k and v of the first head begin
  int32_t v_at;
  int32_t causal;
  float scale;
};

// One head of one sample.
struct Head {
  int64_t q;     // offset of its first token in q,
  int64_t k;     // of its keys in kv,
  int64_t v;     // of its values in kv,
  int64_t y;     // in y and dy,
  int64_t rows;  // and in tensors (n, heads, queries) of one f32 per query, such as the log-sum-exp
};

DEVICE Head head_at(const AttentionParams& p, const uint32_t* kv_of, int n, int head) {
  const int64_t at = (int64_t)head * p.d;
  const int64_t kv = (int64_t)(kv_of ? (int)kv_of[n] : n) * p.keys * p.kv_row + at;
  Head h;
  h.q = (int64_t)n * p.queries * p.q_row + at;
  h.k = kv + p.k_at;
  h.v = kv + p.v_at;
  h.y = (int64_t)n * p.queries * p.y_row + at;
  h.rows = ((int64_t)n * p.heads + head) * p.queries;
  return h;
}

constexpr float LOG2_E = 1.4426950408889634f;

#if !defined(ACT_F32)
#include "mma.cuh"
#include "reduce.cuh"

// 2^x by the special function unit, with a relative error of 2^-22; 0 for -infinity and for subnormal
// results. exp2f spends three more instructions on subnormal results, which are nothing beside the largest
// weight of a row.
DEVICE float exp2_fast(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

constexpr int WARPS = 4;
constexpr int THREADS = 32 * WARPS;

// A head of at most D channels, as rows in shared memory.
template <int D>
struct Rows {
  static_assert(D % 8 == 0, "whole packets");
  // Blocks of 16 channels, for products that sum over channels; half of the last block may be zeros.
  static constexpr int STEPS = (D + 15) / 16;
  // Blocks of 8 channels, for products whose columns are channels.
  static constexpr int TILES = D / 8;
  // Elements per row, an odd number of packets: the eight rows that one ldmatrix reads begin in different
  // banks.
  static constexpr int STRIDE = 16 * STEPS + 8;
};

// Starts asynchronous copies of ROWS rows from each of the tensors `from`, one tile behind the other. `row`
// are the strides in global memory. Rows from `left` on, and channels from d on, are filled with zeros; for
// them no byte of global memory is read, so their addresses may point anywhere. A thread copies one column of
// rows that are STEP apart.
template <int D, int ROWS, int COUNT>
DEVICE void load_rows(Act* to, const Act* const (&from)[COUNT], const int (&row)[COUNT], int left, int d) {
  constexpr int PACKETS = 2 * Rows<D>::STEPS, STRIDE = Rows<D>::STRIDE;
  // As few steps as there are threads for, and then as few threads as that number of steps needs.
  constexpr int MOST = THREADS / PACKETS, TIMES = (ROWS + MOST - 1) / MOST, STEP = (ROWS + TIMES - 1) / TIMES;
  const int r = threadIdx.x / PACKETS, c = threadIdx.x % PACKETS * PACKET;
  if (STEP * PACKETS < THREADS && r >= STEP) return;
  const Act* at[COUNT];
#pragma unroll
  for (int j = 0; j < COUNT; j++) at[j] = from[j] + (r * row[j] + c);
  to += r * STRIDE + c;
  auto copy = [&](int i, bool there) {
    if (i + STEP > ROWS && r >= ROWS - i) return;
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
      cp_async16(to + (j * ROWS + i) * STRIDE, at[j], there ? 16 : 0);
      at[j] += STEP * row[j];
    }
  };
  if (left >= ROWS) {
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP) copy(i, c < d);
  } else {
    left = c < d ? left - r : 0;
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP) copy(i, i < left);
  }
}
template <int D, int ROWS>
DEVICE void load_rows(Act* to, const Act* from, int row, int left, int d) {
  load_rows<D, ROWS, 1>(to, {from}, {row}, left, d);
}

// Offset in a tile that a lane passes to ldmatrix, for a left factor and for a right factor whose rows are
// summed over.
template <int D>
DEVICE int lane_by_rows() {
  const int lane = threadIdx.x % 32;
  return lane % 16 * Rows<D>::STRIDE + lane / 16 * 8;
}
// The same for a right factor whose channels are summed over.
template <int D>
DEVICE int lane_by_channels() {
  const int lane = threadIdx.x % 32;
  return (lane / 16 * 8 + lane % 8) * Rows<D>::STRIDE + lane / 8 % 2 * 8;
}

// The 16 M rows of a warp as left factors in registers; `tile` includes lane_by_rows.
template <int D, int M>
DEVICE void load_left(uint32_t (&a)[M][Rows<D>::STEPS][4], const Act* tile) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int k = 0; k < Rows<D>::STEPS; k++) ldmatrix_x4(a[m][k], tile + 16 * m * Rows<D>::STRIDE + 16 * k);
}

template <int M, int N>
DEVICE void clear(float (&x)[M][N][4]) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) x[m][n][i] = 0;
}

// Two products with 8 columns each, whose right factors come from one ldmatrix.
DEVICE void multiply2(float (&x)[4], float (&y)[4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
  mma_16816<Act>(x, a, first);
  mma_16816<Act>(y, a, second);
}

// s = a tile^T: 16 M rows times 8 N rows of a tile, summed over channels. `tile` includes lane_by_channels.
template <int D, int M, int N>
DEVICE void by_channels(float (&s)[M][N][4], const uint32_t (&a)[M][Rows<D>::STEPS][4], const Act* tile) {
  static_assert(N % 2 == 0, "matrices are loaded in pairs");
  clear(s);
#pragma unroll
  for (int k = 0; k < Rows<D>::STEPS; k++)
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, tile + 8 * n * Rows<D>::STRIDE + 16 * k);
#pragma unroll
      for (int m = 0; m < M; m++) multiply2(s[m][n], s[m][n + 1], a[m][k], b);
    }
}
// The same with the left factor in shared memory, for kernels that are short of registers. `left` includes
// lane_by_rows.
template <int D, int M, int N>
DEVICE void by_channels(float (&s)[M][N][4], const Act* left, const Act* tile) {
  clear(s);
#pragma unroll
  for (int k = 0; k < Rows<D>::STEPS; k++) {
    uint32_t a[M][4];
#pragma unroll
    for (int m = 0; m < M; m++) ldmatrix_x4(a[m], left + 16 * m * Rows<D>::STRIDE + 16 * k);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, tile + 8 * n * Rows<D>::STRIDE + 16 * k);
#pragma unroll
      for (int m = 0; m < M; m++) multiply2(s[m][n], s[m][n + 1], a[m], b);
    }
  }
}

// Rounds accumulators to the left factor of the next product. Their layout over the lanes is the same, so no
// data moves.
template <int M, int N>
DEVICE void as_left(uint32_t (&a)[M][N / 2][4], const float (&s)[M][N][4]) {
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < N; n++) {
      a[m][n / 2][n % 2 * 2] = pack2<Act>(s[m][n][0], s[m][n][1]);
      a[m][n / 2][n % 2 * 2 + 1] = pack2<Act>(s[m][n][2], s[m][n][3]);
    }
}

// y += a tile, summed over the 16 K rows of the tile. `tile` includes lane_by_rows.
template <int D, int M, int K>
DEVICE void by_rows(float (&y)[M][Rows<D>::TILES][4], const uint32_t (&a)[M][K][4], const Act* tile) {
#pragma unroll
  for (int k = 0; k < K; k++)
#pragma unroll
    for (int n = 0; n < Rows<D>::TILES; n += 2) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, tile + 16 * k * Rows<D>::STRIDE + 8 * n);
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < M; m++) {
        mma_16816<Act>(y[m][n], a[m][k], first);
        if (n + 1 < Rows<D>::TILES) mma_16816<Act>(y[m][n + 1], a[m][k], second);
      }
    }
}

// Rounds the 16 M rows of a warp and stores the first `left` of them in whole packets. `own` is shared memory
// for 16 M rows that no other warp uses.
template <int D, int M>
DEVICE void store_rows(Act* to, int row, int left, int d, const float (&x)[M][Rows<D>::TILES][4], Act* own) {
  const int lane = threadIdx.x % 32;
  uint32_t* const words = reinterpret_cast<uint32_t*>(own);
  constexpr int WORDS = Rows<D>::STRIDE / 2;
  __syncwarp();
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < Rows<D>::TILES; n++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int r = 16 * m + 8 * half + lane / 4;
        words[r * WORDS + 4 * n + lane % 4] = pack2<Act>(x[m][n][2 * half], x[m][n][2 * half + 1]);
      }
  __syncwarp();
#pragma unroll 1
  for (int i = lane; i < 16 * M * Rows<D>::TILES; i += 32) {
    const int r = i / Rows<D>::TILES, c = i % Rows<D>::TILES * PACKET;
    if (r < left && c < d) store_words(to + (int64_t)r * row + c, load_words(words + r * WORDS + c / 2));
  }
}

// Sum and maximum over the four lanes that share a row of accumulators.
DEVICE float row_sum(float x) {
  x += __shfl_xor_sync(FULL_WARP, x, 1);
  return x + __shfl_xor_sync(FULL_WARP, x, 2);
}
DEVICE float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 1));
  return fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 2));
}

// Sets the scores of keys beyond the last, and of keys that a query may not see, to -infinity. `key` is the
// first key of the tile and `row` the first query of the warp.
template <int M, int N>
DEVICE void hide(float (&s)[M][N][4], int key, int row, const AttentionParams& p) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < M; m++)
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int k = key + 8 * n + 2 * (lane % 4) + i % 2, q = row + 16 * m + 8 * (i / 2) + lane / 4;
        if (k >= p.keys || (p.causal && k > q)) s[m][n][i] = -DAS_INFINITY;
      }
}
#endif
