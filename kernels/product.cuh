// What a product with gathered rows is, for the kernels of tensor.cu (tensor cores, 16 bits) and gemm.cu (anything).
//
// Convolutions, their transposes and linear maps are all
//   y[target(m), n] = sum over taps and channels c of x[pixel(m) + tap, c] w(n, tap, c)
// with an affine gather: output pixel (step_out g + out) of a class, g on a grid of its own, reads the input pixels
// (step_in g + in + dstep tap). The right factor is a weight in place: `columns` rows of whole samples (w[n][tap][c]),
// or turned: `depth` rows (w[c][tap][n]).
#pragma once
#include "act.cuh"

// Classes that one launch holds: 4 for an enlarged image, stride^2 for a transpose.
constexpr int CLASSES = 16;

struct ProductParams {
  int32_t samples;
  int32_t out_h;
  int32_t out_w;
  int32_t columns;
  int32_t step_out;
  int32_t in_h;
  int32_t in_w;
  int32_t channels;   // of x
  int32_t step_in;
  int32_t dstep;      // 1 or -1
  int32_t depth;      // channels that w has; x is zero beyond
  int32_t right_row;  // elements of w from row to row,
  int32_t right_y;    // from tap to tap down
  int32_t right_x;    // and across
  int32_t bias_each;  // a bias for every sample, not one for all
  int32_t splits;     // of the sum, each to its own part of z
  int32_t tiles_m;    // of the largest class
  int32_t tiles_n;
  // Per class.
  int32_t grid_h[16];
  int32_t grid_w[16];
  int32_t out_y[16];
  int32_t out_x[16];
  int32_t in_y[16];
  int32_t in_x[16];
  int32_t taps_y[16];
  int32_t taps_x[16];
  int32_t right_at[16];  // element of a row of w where the first tap begins
};

// An output pixel: where it goes, and what it reads.
struct Pixel {
  int target;  // among all output pixels
  int sample;
  int y, x;    // of tap 0; may be outside
};

DEVICE Pixel pixel_of(const ProductParams& p, int which, int m) {
  const int gw = p.grid_w[which], gh = p.grid_h[which];
  const int line = m / gw, gx = m - line * gw;
  const int sample = line / gh, gy = line - sample * gh;
  Pixel r;
  r.sample = sample;
  r.target = (sample * p.out_h + gy * p.step_out + p.out_y[which]) * p.out_w + gx * p.step_out + p.out_x[which];
  r.y = gy * p.step_in + p.in_y[which];
  r.x = gx * p.step_in + p.in_x[which];
  return r;
}

DEVICE int rows_of(const ProductParams& p, int which) { return p.samples * p.grid_h[which] * p.grid_w[which]; }

// Which tile a block makes. Blocks that run at the same time share rows and columns as far as they can: tiles go in
// groups of GROUP rows of tiles, column by column.
DEVICE void tile_of(const ProductParams& p, int& tile_m, int& tile_n) {
  constexpr int GROUP = 8;
  const int whole = GROUP * p.tiles_n, group = blockIdx.x / whole, at = blockIdx.x - group * whole;
  const int height = min(p.tiles_m - group * GROUP, GROUP);
  tile_n = at / height;
  tile_m = group * GROUP + at - tile_n * height;
}
