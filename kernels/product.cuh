// What a product with gathered rows is, for the kernels of tensor.cu (tensor cores, 16 bits) and gemm.cu
// (SIMT, any element type).
//
// Convolutions, their transposes and linear maps are all
//   y[target(m), n] = sum over taps and channels c of x[pixel(m) + tap, c] w(n, tap, c)
// with an affine gather: the output pixel (step_out g + out) of a class, with g on the class's own grid,
// reads the input pixels (step_in g + in + dstep tap). The right factor is a weight as it lies in memory:
// w[n][tap][c] with `columns` rows or, transposed, w[c][tap][n] with `depth` rows.
#pragma once
#include "math.cuh"

// Most classes of one launch: there are 4 for an upsampling convolution and stride^2 for a transpose.
constexpr int CLASSES = 16;

struct ProductParams {
  int32_t samples;
  int32_t out_h;
  int32_t out_w;
  int32_t columns;
  int32_t step_out;
  int32_t in_h;
  int32_t in_w;
  int32_t channels;    // of x
  int32_t step_in;
  int32_t dstep;        // 1 or -1
  int32_t depth;        // channels of w; x has zeros beyond them
  int32_t weight_row;   // elements of w from one row to the next,
  int32_t weight_y;     // from one tap to the next, down
  int32_t weight_x;     // and across
  int32_t bias_each;    // one bias for each sample, not one for all
  int32_t splits;       // parts of the sum; each is written to its own part of z
  int32_t tiles_m;      // of the largest class
  int32_t tiles_n;
  int32_t epilogue;     // 0, or one of SILU, GELU, QUICK_GELU, GEGLU below
  // Per class.
  int32_t grid_h[16];
  int32_t grid_w[16];
  int32_t out_y[16];
  int32_t out_x[16];
  int32_t in_y[16];
  int32_t in_x[16];
  int32_t taps_y[16];
  int32_t taps_x[16];
  int32_t weight_at[16];    // element of a row of w where the first tap begins
};

// One output pixel, and the first input pixel that it reads.
struct Pixel {
  int target;    // its index among all output pixels
  int sample;
  int y, x;    // input pixel of tap 0, which may be outside the image
};

DEVICE Pixel pixel_of(const ProductParams& p, int which, int m) {
  const int gw = p.grid_w[which], gh = p.grid_h[which];
  const int line = m / gw, gx = m - line * gw;
  const int sample = line / gh, gy = line - sample * gh;
  Pixel r;
  r.sample = sample;
  r.target =
      (sample * p.out_h + gy * p.step_out + p.out_y[which]) * p.out_w + gx * p.step_out + p.out_x[which];
  r.y = gy * p.step_in + p.in_y[which];
  r.x = gx * p.step_in + p.in_x[which];
  return r;
}

DEVICE int rows_of(const ProductParams& p, int which) {
  return p.samples * p.grid_h[which] * p.grid_w[which];
}

// The tile of this block. Tiles are numbered in groups of GROUP rows of tiles, column by column within a
// group, so that blocks that run at the same time share rows and columns in the cache.
DEVICE void tile_of(const ProductParams& p, int& tile_m, int& tile_n) {
  constexpr int GROUP = 8;
  const int whole = GROUP * p.tiles_n, group = blockIdx.x / whole, at = blockIdx.x - group * whole;
  const int height = min(p.tiles_m - group * GROUP, GROUP);
  tile_n = at / height;
  tile_m = group * GROUP + at - tile_n * height;
}

// Epilogues, applied to f32 sums. GEGLU makes a gelu(g) from [a, g], so d columns from 2 d. For it the
// columns of a tile are ordered in packets of four values followed by their four gates, so that one thread
// has both.
constexpr int SILU = 1, GELU = 2, QUICK_GELU = 3, GEGLU = 4;

// The row of w that belongs to a column of the tiles.
DEVICE int weight_row_of(int column, int columns, int epilogue) {
  if (epilogue != GEGLU) return column;
  const int value = column / 8 * 4 + column % 4;
  return column & 4 ? columns / 2 + value : value;
}

// The bias of eight consecutive columns of a tile.
DEVICE void load_bias(const Act* bias, int column, int columns, int epilogue, float (&x)[8]) {
  if (epilogue == GEGLU) {
    load4(bias + column / 2, x);
    load4(bias + columns / 2 + column / 2, x + 4);
  } else {
    load8(bias + column, x);
  }
}

// Stores y = epilogue(v) for eight consecutive columns of a row, and v itself to `pre_activation` if that is
// not null; for GEGLU in the layout [a, g].
DEVICE void apply_epilogue(float (&v)[8], int64_t row, int column, int columns, int epilogue, Act* y,
                           Act* pre_activation) {
  if (epilogue == GEGLU) {
    if (pre_activation) {
      Act* const to = pre_activation + row * columns + column / 2;
      store4(to, v);
      store4(to + columns / 2, v + 4);
    }
#pragma unroll
    for (int e = 0; e < 4; e++) v[e] *= gelu(v[4 + e]);
    store4(y + row * (columns / 2) + column / 2, v);
    return;
  }
  const int64_t to = row * columns + column;
  if (pre_activation) store8(pre_activation + to, v);
#pragma unroll
  for (int e = 0; e < 8; e++) {
    if (epilogue == SILU) v[e] = silu(v[e]);
    if (epilogue == GELU) v[e] = gelu(v[e]);
    if (epilogue == QUICK_GELU) v[e] = quick_gelu(v[e]);
  }
  store8(y + to, v);
}
