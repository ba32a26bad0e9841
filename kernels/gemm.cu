// Products with gathered rows (product.cuh) of any shape and element type by ordinary multiply-adds (SIMT),
// and the epilogue of those products of tensor.cu that are split (split-K) or have f32 results.
#include "product.cuh"

// Adds to 8 x 4 sums of a thread the products of a step: of each of its STEP rows, PITCH apart, 8 values of
// the left tile with 4 of the right one.
template <int STEP, int PITCH>
DEVICE void add_products(const float* left, const float* right, float (&sum)[8][4]) {
#pragma unroll
  for (int j = 0; j < STEP; j++) {
    float a[8], b[4];
    load8(left + j * PITCH, a);
#pragma unroll
    for (int n = 0; n < 4; n++) b[n] = right[j * PITCH + n];
#pragma unroll
    for (int m = 0; m < 8; m++)
#pragma unroll
      for (int n = 0; n < 4; n++) sum[m][n] += a[m] * b[n];
  }
}

// y = product + bias + add for any number of channels, columns, taps and classes. Used for f32, and for
// convolutions with more taps than tensor.cu's masks have bits. A block of 128 threads makes a 64 x 64 tile,
// a thread 8 x 4 of it, in steps of 16 of the sum over taps and channels. Everything inside is f32.
//
// grid: x tiles, z classes. FLOPs: 2 rows columns taps channels.
KERNEL(simt, (128, 4),
       (const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,
        const Act* __restrict__ add, Act* __restrict__ y, int32_t transposed, ProductParams p)) {
  constexpr int TILE = 64, STEP = 16, PITCH = TILE + 4;
  SHARED(float, left, STEP * PITCH);
  SHARED(float, right, STEP * PITCH);
  SHARED(int, at, 4 * TILE);
  const int which = blockIdx.z, thread = threadIdx.x, rows = rows_of(p, which);
  int m0, n0;
  tile_of(p, m0, n0);
  m0 *= TILE;
  n0 *= TILE;
  if (m0 >= rows) return;
  if (thread < TILE) {
    const Pixel pixel = pixel_of(p, which, min(m0 + thread, rows - 1));
    at[4 * thread] = m0 + thread < rows ? pixel.target : -1;
    at[4 * thread + 1] = pixel.sample;
    at[4 * thread + 2] = pixel.y;
    at[4 * thread + 3] = pixel.x;
  }
  __syncthreads();

  const int taps_x = p.taps_x[which], depth = p.taps_y[which] * taps_x * p.channels;
  const int to_m = thread / 16 * 8, to_n = thread % 16 * 4;
  float sum[8][4] = {};
  for (int k0 = 0; k0 < depth; k0 += STEP) {
    // Neighbouring threads load neighbouring elements: along the sum or, of a transposed weight, along the
    // columns.
    const int k = k0 + thread % STEP, tap = k / p.channels, c = k - tap * p.channels;
    const int ty = tap / taps_x, tx = tap - ty * taps_x;
    const int right_tap = p.weight_at[which] + ty * p.weight_y + tx * p.weight_x;
#pragma unroll
    for (int i = 0; i < TILE / 8; i++) {
      const int r = thread / STEP + 8 * i;
      const int iy = at[4 * r + 2] + p.dstep * ty, ix = at[4 * r + 3] + p.dstep * tx;
      const bool some = k < depth && (unsigned)iy < (unsigned)p.in_h && (unsigned)ix < (unsigned)p.in_w;
      const int64_t pixel = (int64_t)(at[4 * r + 1] * p.in_h + iy) * p.in_w + ix;
      left[thread % STEP * PITCH + r] = some ? to_f32(x[pixel * p.channels + c]) : 0.0f;
    }
    if (transposed) {
      const int n = n0 + thread % TILE;
#pragma unroll
      for (int i = 0; i < TILE / 8; i++) {
        const int j = thread / TILE + 2 * i, deep = k0 + j, at_tap = deep / p.channels;
        const int sy = at_tap / taps_x, sx = at_tap - sy * taps_x;
        const int64_t from = (int64_t)(deep - at_tap * p.channels) * p.weight_row + p.weight_at[which] +
                             sy * p.weight_y + sx * p.weight_x + n;
        right[j * PITCH + thread % TILE] = deep < depth && n < p.columns ? to_f32(w[from]) : 0.0f;
      }
    } else {
#pragma unroll
      for (int i = 0; i < TILE / 8; i++) {
        const int r = thread / STEP + 8 * i;
        const int64_t from = (int64_t)(n0 + r) * p.weight_row + right_tap + c;
        right[thread % STEP * PITCH + r] = k < depth && n0 + r < p.columns ? to_f32(w[from]) : 0.0f;
      }
    }
    __syncthreads();
    add_products<STEP, PITCH>(left + to_m, right + to_n, sum);
    __syncthreads();
  }

#pragma unroll
  for (int m = 0; m < 8; m++) {
    const int target = at[4 * (to_m + m)], sample = at[4 * (to_m + m) + 1];
    if (target < 0) continue;
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const int column = n0 + to_n + n;
      if (column >= p.columns) continue;
      const int64_t to = (int64_t)target * p.columns + column;
      float v = sum[m][n];
      if (bias) v += to_f32(bias[(p.bias_each ? (int64_t)sample * p.columns : 0) + column]);
      if (add) v += to_f32(add[to]);
      y[to] = from_f32<Act>(v);
    }
  }
}

struct WeightParams {
  int64_t rows;
  int64_t each;    // rows of a part, a multiple of 16
  int32_t out;
  int32_t width;    // of x
};

// Parts of dw = dy^T x, for weights that learn: part blockIdx.z of z, (out, width), is the sum over `each`
// rows of dy (rows, out) and x (rows, width), in their order. Blocks, tiles and steps are those of `simt`.
//
// grid: x tiles along out, y tiles along the width, z parts. FLOPs: 2 rows out width.
KERNEL(linear_weight_vjp, (128, 4),
       (const Act* __restrict__ dy, const Act* __restrict__ x, float* __restrict__ z, WeightParams p)) {
  constexpr int TILE = 64, STEP = 16, PITCH = TILE + 4;
  SHARED(float, left, STEP * PITCH);
  SHARED(float, right, STEP * PITCH);
  const int thread = threadIdx.x, m0 = blockIdx.x * TILE, n0 = blockIdx.y * TILE;
  const int64_t first = blockIdx.z * p.each, end = min(first + p.each, p.rows);
  const int to_m = thread / 16 * 8, to_n = thread % 16 * 4, column = thread % TILE;
  float sum[8][4] = {};
  for (int64_t r0 = first; r0 < end; r0 += STEP) {
#pragma unroll
    for (int i = 0; i < TILE / 8; i++) {
      const int j = thread / TILE + 2 * i;
      const int64_t row = r0 + j;
      left[j * PITCH + column] = row < end && m0 + column < p.out ? to_f32(dy[row * p.out + m0 + column]) : 0.0f;
      right[j * PITCH + column] = row < end && n0 + column < p.width ? to_f32(x[row * p.width + n0 + column]) : 0.0f;
    }
    __syncthreads();
    add_products<STEP, PITCH>(left + to_m, right + to_n, sum);
    __syncthreads();
  }
#pragma unroll
  for (int m = 0; m < 8; m++) {
    if (m0 + to_m + m >= p.out) continue;
#pragma unroll
    for (int n = 0; n < 4; n++) {
      if (n0 + to_n + n >= p.width) continue;
      z[((int64_t)blockIdx.z * p.out + m0 + to_m + m) * p.width + n0 + to_n + n] = sum[m][n];
    }
  }
}

struct FinishParams {
  int64_t len;    // elements of y, and of each part
  int32_t columns;
  int32_t splits;
  int32_t per_sample;    // rows of y that share a bias, or 0 if all do
  int32_t epilogue;      // as in ProductParams
};

// y = epilogue(sum of the parts of z in order + bias + add), and the pre-activation if that is not null. A
// thread reads 8 elements of each part. Bytes moved: 4 len splits, and bias, add, y and pre_activation.
KERNEL(finish, (256, 4),
       (const float* __restrict__ z, const Act* __restrict__ bias, const Act* __restrict__ add,
        Act* __restrict__ y, Act* __restrict__ pre_activation, FinishParams p)) {
  const int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * PACKET;
  if (i >= p.len) return;
  if (p.columns % PACKET == 0) {
    float v[8] = {}, more[8];
    for (int s = 0; s < p.splits; s++) {
      load8(z + s * p.len + i, more);
#pragma unroll
      for (int e = 0; e < 8; e++) v[e] += more[e];
    }
    const int64_t row = i / p.columns;
    const int column = (int)(i - row * p.columns);
    if (bias) {
      const int64_t each = p.per_sample ? row / p.per_sample * p.columns : 0;
      load_bias(bias + each, column, p.columns, p.epilogue, more);
#pragma unroll
      for (int e = 0; e < 8; e++) v[e] += more[e];
    }
    if (add) {
      load8(add + i, more);
#pragma unroll
      for (int e = 0; e < 8; e++) v[e] += more[e];
    }
    if (p.epilogue)
      apply_epilogue(v, row, column, p.columns, p.epilogue, y, pre_activation);
    else
      store8(y + i, v);
    return;
  }
  for (int64_t j = i; j < min(i + PACKET, p.len); j++) {
    const int64_t row = j / p.columns, column = j - row * p.columns;
    float v = 0.0f;
    for (int s = 0; s < p.splits; s++) v += z[s * p.len + j];
    if (bias) v += to_f32(bias[(p.per_sample ? row / p.per_sample * p.columns : 0) + column]);
    if (add) v += to_f32(add[j]);
    y[j] = from_f32<Act>(v);
  }
}
