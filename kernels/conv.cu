// What convolutions need around their products: rows of patches, and the other forms that weights are kept in.
#include "act.cuh"

struct PatchesParams {
  int64_t rows;
  int32_t out_h;     // rows are samples of out_h x out_w
  int32_t out_w;
  int32_t in_h;
  int32_t in_w;
  int32_t channels;
  int32_t width;     // of a row of y, whole packets
  int32_t step;      // output pixel g reads (step g + in + dstep tap) / unit,
  int32_t in_y;
  int32_t in_x;
  int32_t dstep;
  int32_t unit;
  int32_t exact;     // where that is whole; else rounded down
  int32_t taps_y;
  int32_t taps_x;
  int32_t by_channel;  // columns are (channel, tap), not (tap, channel)
};

// y[row] = all that an output pixel of a convolution of x reads, and zeros up to `width`. For x of few channels, whose
// rows are no packets. A thread makes 8 columns. Bytes: rows width sizeof(Act), and x about once.
KERNEL(patches, (256), (const float* __restrict__ x, Act* __restrict__ y, PatchesParams p)) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  const int packets = p.width / PACKET;
  if (i >= p.rows * packets) return;
  const int64_t row = i / packets, line = row / p.out_w, sample = line / p.out_h;
  const int first = (int)(i - row * packets) * PACKET, taps = p.taps_y * p.taps_x;
  const int y0 = (int)(line - sample * p.out_h) * p.step + p.in_y;
  const int x0 = (int)(row - line * p.out_w) * p.step + p.in_x;
  int tap = p.by_channel ? first % taps : first / p.channels;
  int c = p.by_channel ? first / taps : first % p.channels;
  float v[8];
#pragma unroll
  for (int e = 0; e < 8; e++) {
    const int ty = tap / p.taps_x, iy = y0 + p.dstep * ty, ix = x0 + p.dstep * (tap - ty * p.taps_x);
    const int sy = iy / p.unit, sx = ix / p.unit;
    const bool whole = !p.exact || (sy * p.unit == iy && sx * p.unit == ix);
    const bool some = tap < taps && c < p.channels && iy >= 0 && ix >= 0 && sy < p.in_h && sx < p.in_w && whole;
    v[e] = some ? x[((sample * p.in_h + sy) * p.in_w + sx) * p.channels + c] : 0.0f;
    if (p.by_channel) {
      if (++tap == taps) tap = 0, c++;
    } else {
      if (++c == p.channels) c = 0, tap++;
    }
  }
  store8(y + i * PACKET, v);
}

struct ScatterParams {
  int64_t len;  // elements of y
  int32_t h;    // of y
  int32_t w;
  int32_t channels;
  int32_t grid_h;  // patches down
  int32_t grid_w;  // and across
  int32_t side_y;  // of a patch
  int32_t side_x;
};

// y = patches that do not overlap, put in their places: z (patch, (y, x, c)) f32, zero where no patch is. A thread per
// element. Bytes: 8 len.
KERNEL(scatter, (256), (const float* __restrict__ z, float* __restrict__ y, ScatterParams p)) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.len) return;
  const int64_t pixel = i / p.channels, line = pixel / p.w, sample = line / p.h;
  const int c = (int)(i - pixel * p.channels), iy = (int)(line - sample * p.h), ix = (int)(pixel - line * p.w);
  const int gy = iy / p.side_y, gx = ix / p.side_x;
  const int64_t patch = (sample * p.grid_h + gy) * p.grid_w + gx;
  const int64_t at = ((patch * p.side_y + (iy - gy * p.side_y)) * p.side_x + (ix - gx * p.side_x)) * p.channels + c;
  y[i] = gy < p.grid_h && gx < p.grid_w ? z[at] : 0.0f;
}

// y = rows of x filled up with zeros to whole packets: (rows, len) f32 to (rows, len up to a multiple of 8) Act. A
// thread makes 8 elements. Once per weight.
KERNEL(pad, (256), (const float* __restrict__ x, Act* __restrict__ y, int64_t rows, int64_t len)) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, packets = (len + PACKET - 1) / PACKET;
  if (i >= rows * packets) return;
  const int64_t row = i / packets, first = (i - row * packets) * PACKET;
  float v[8];
#pragma unroll
  for (int e = 0; e < 8; e++) v[e] = first + e < len ? x[row * len + first + e] : 0.0f;
  store8(y + i * PACKET, v);
}

struct FoldParams {
  int64_t len;  // elements of y
  int32_t kernel_y;
  int32_t kernel_x;
  int32_t channels;
};

// Sums of neighbouring kernel positions: on an image enlarged twice, a convolution meets every pixel with two of them
// along each axis, or one at its ends. y (out, kh + 1, kw + 1, in), y[i, j] = w[i, j] + w[i-1, j] + w[i, j-1] +
// w[i-1, j-1], absent ones zero, summed in f32. A thread per element. Once per weight.
KERNEL(fold, (256), (const Act* __restrict__ w, Act* __restrict__ y, FoldParams p)) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.len) return;
  const int64_t spot = i / p.channels, line = spot / (p.kernel_x + 1), out = line / (p.kernel_y + 1);
  const int c = (int)(i - spot * p.channels), ky = (int)(line - out * (p.kernel_y + 1));
  const int kx = (int)(spot - line * (p.kernel_x + 1));
  float sum = 0.0f;
  for (int dy = 0; dy < 2; dy++)
    for (int dx = 0; dx < 2; dx++) {
      const int sy = ky - dy, sx = kx - dx;
      if (sy >= 0 && sy < p.kernel_y && sx >= 0 && sx < p.kernel_x)
        sum += to_f32(w[((out * p.kernel_y + sy) * p.kernel_x + sx) * p.channels + c]);
    }
  y[i] = from_f32<Act>(sum);
}
