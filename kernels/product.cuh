// What a product with gathered rows is, for the kernels of tensor.cu (tensor cores, 16 bits) and gemm.cu
// (anything).
//
// Convolutions, their transposes and linear maps are all
//   y[target(m), n] = sum over taps and channels c of x[pixel(m) + tap, c] w(n, tap, c)
// with an affine gather: output pixel (step_out g + out) of a class, g on a grid of its own, reads the input
// pixels (step_in g + in + dstep tap). The right factor is a weight in place: `columns` rows of whole samples
// (w[n][tap][c]), or turned: `depth` rows (w[c][tap][n]).
#pragma once
#include "math.cuh"

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
  int32_t channels;    // of x
  int32_t step_in;
  int32_t dstep;        // 1 or -1
  int32_t depth;        // channels that w has; x is zero beyond
  int32_t right_row;    // elements of w from row to row,
  int32_t right_y;      // from tap to tap down
  int32_t right_x;      // and across
  int32_t bias_each;    // a bias for every sample, not one for all
  int32_t splits;       // of the sum, each to its own part of z
  int32_t tiles_m;      // of the largest class
  int32_t tiles_n;
  int32_t epilogue;    // what follows product and bias, below
  // Per class.
  int32_t grid_h[16];
  int32_t grid_w[16];
  int32_t out_y[16];
  int32_t out_x[16];
  int32_t in_y[16];
  int32_t in_x[16];
  int32_t taps_y[16];
  int32_t taps_x[16];
  int32_t right_at[16];    // element of a row of w where the first tap begins
};

// An output pixel: where it goes, and what it reads.
struct Pixel {
  int target;    // among all output pixels
  int sample;
  int y, x;    // of tap 0; may be outside
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

// Which tile a block makes. Blocks that run at the same time share rows and columns as far as they can: tiles
// go in groups of GROUP rows of tiles, column by column.
DEVICE void tile_of(const ProductParams& p, int& tile_m, int& tile_n) {
  constexpr int GROUP = 8;
  const int whole = GROUP * p.tiles_n, group = blockIdx.x / whole, at = blockIdx.x - group * whole;
  const int height = min(p.tiles_m - group * GROUP, GROUP);
  tile_n = at / height;
  tile_m = group * GROUP + at - tile_n * height;
}

// What may follow a product and its bias, before anything is rounded. GEGLU makes d columns of 2 d, a gelu(g)
// of [a, g]: there the columns of tiles come in packets of four values and their four gates.
constexpr int SILU = 1, GELU = 2, QUICK_GELU = 3, GEGLU = 4;

// The row of w behind a column of the tiles.
DEVICE int right_row_of(int column, int columns, int epilogue) {
  if (epilogue != GEGLU) return column;
  const int value = column / 8 * 4 + column % 4;
  return column & 4 ? columns / 2 + value : value;
}

// Four neighbouring elements, at a multiple of four.
#if defined(ACT_F32)
DEVICE void load4(const Act* p, float* x) {
  const Words v = load_words(p);
#pragma unroll
  for (int i = 0; i < 4; i++) x[i] = __uint_as_float(v.w[i]);
}
DEVICE void store4(Act* p, const float* x) {
  Words v;
#pragma unroll
  for (int i = 0; i < 4; i++) v.w[i] = __float_as_uint(x[i]);
  store_words(p, v);
}
#else
struct alignas(8) HalfPacket {
  uint32_t w[2];
};
DEVICE void load4(const Act* p, float* x) {
  const HalfPacket v = *reinterpret_cast<const HalfPacket*>(p);
  unpack2<Act>(v.w[0], x[0], x[1]);
  unpack2<Act>(v.w[1], x[2], x[3]);
}
DEVICE void store4(Act* p, const float* x) {
  const uint32_t lo = pack2<Act>(x[0], x[1]), hi = pack2<Act>(x[2], x[3]);
#if defined(__CUDACC__)
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "r"(lo), "r"(hi)
               : "memory");
#else
  *reinterpret_cast<HalfPacket*>(p) = {{lo, hi}};
#endif
}
#endif

// The bias of a packet of the tiles' columns.
DEVICE void load_bias(const Act* bias, int column, int columns, int epilogue, float (&x)[8]) {
  if (epilogue == GEGLU) {
    load4(bias + column / 2, x);
    load4(bias + columns / 2 + column / 2, x + 4);
  } else {
    load8(bias + column, x);
  }
}

// Ends a packet of a row: y = epilogue(v), and where it is wanted given = v, as [a, g] for GEGLU.
DEVICE void end(float (&v)[8], int64_t row, int column, int columns, int epilogue, Act* y, Act* given) {
  if (epilogue == GEGLU) {
    if (given) {
      Act* const to = given + row * columns + column / 2;
      store4(to, v);
      store4(to + columns / 2, v + 4);
    }
#pragma unroll
    for (int e = 0; e < 4; e++) v[e] *= gelu(v[4 + e]);
    store4(y + row * (columns / 2) + column / 2, v);
    return;
  }
  const int64_t to = row * columns + column;
  if (given) store8(given + to, v);
#pragma unroll
  for (int e = 0; e < 8; e++) {
    if (epilogue == SILU) v[e] = silu(v[e]);
    if (epilogue == GELU) v[e] = gelu(v[e]);
    if (epilogue == QUICK_GELU) v[e] = quick_gelu(v[e]);
  }
  store8(y + to, v);
}
