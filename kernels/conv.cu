// What convolutions need besides their products: patches as rows (im2col), sums over taps, and weights in
// other layouts.
#include "act.cuh"

struct PatchesParams {
  int64_t rows;
  int32_t out_h;     // rows are samples of out_h x out_w
  int32_t out_w;
  int32_t in_h;
  int32_t in_w;
  int32_t channels;
  int32_t width;     // of a row of y, whole packets
  int32_t step;      // output pixel g reads input pixel (step g + in + dstep tap) / unit,
  int32_t in_y;
  int32_t in_x;
  int32_t dstep;
  int32_t unit;
  int32_t exact;     // and only if that is whole; otherwise it is rounded down
  int32_t taps_y;
  int32_t taps_x;
  int32_t by_channel;  // columns are (channel, tap), not (tap, channel)
};

// y[row] = everything that one output pixel of a convolution reads from x (im2col), padded with zeros to
// `width`. For x with few channels, whose rows are not whole packets. A thread makes 8 columns. Bytes moved:
// rows width sizeof(Act), and x about once.
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
    const bool some =
        tap < taps && c < p.channels && iy >= 0 && ix >= 0 && sy < p.in_h && sx < p.in_w && whole;
    v[e] = some ? x[((sample * p.in_h + sy) * p.in_w + sx) * p.channels + c] : 0.0f;
    if (p.by_channel) {
      if (++tap == taps) tap = 0, c++;
    } else {
      if (++c == p.channels) c = 0, tap++;
    }
  }
  store8(y + i * PACKET, v);
}

struct TapSumParams {
  int64_t len;         // elements of y
  int32_t out_h;       // of y
  int32_t out_w;
  int32_t channels;
  int32_t in_h;        // of z
  int32_t in_w;
  int32_t in_y;        // output pixel g adds row (g + in + dstep tap) / unit, where that is whole
  int32_t in_x;
  int32_t dstep;
  int32_t unit;        // 1 where dstep is 1
  int32_t taps_y;
  int32_t taps_x;
  int32_t by_channel;  // columns of z are (channel, tap), not (tap, channel)
  int32_t bias_each;
};

// The second half of a convolution (or its transpose) with few output channels. The first half, a product,
// has computed for each input pixel and each tap what the pixel contributes through that tap: the rows of z.
// Here each output pixel adds up, over all taps, the contributions of the pixels that it reads; then bias and
// add. A thread per element. Bytes moved: about 4 taps len / unit^2 of z, in cache lines that neighbours
// share.
KERNEL(tap_sum, (256),
       (const float* __restrict__ z, const float* __restrict__ bias, const float* __restrict__ add,
        float* __restrict__ y, TapSumParams p)) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.len) return;
  const int64_t pixel = i / p.channels, line = pixel / p.out_w, sample = line / p.out_h;
  const int c = (int)(i - pixel * p.channels), taps = p.taps_y * p.taps_x;
  const int y0 = (int)(line - sample * p.out_h) + p.in_y, x0 = (int)(pixel - line * p.out_w) + p.in_x;
  const int first_y = p.unit == 1 ? 0 : y0 % p.unit, first_x = p.unit == 1 ? 0 : x0 % p.unit;
  float sum = 0.0f;
  for (int ty = first_y; ty < p.taps_y; ty += p.unit) {
    const int at_y = y0 + p.dstep * ty, zy = at_y / p.unit;
    if (at_y < 0 || zy >= p.in_h) continue;
    for (int tx = first_x; tx < p.taps_x; tx += p.unit) {
      const int at_x = x0 + p.dstep * tx, zx = at_x / p.unit, tap = ty * p.taps_x + tx;
      if (at_x < 0 || zx >= p.in_w) continue;
      const int64_t row = (sample * p.in_h + zy) * p.in_w + zx;
      sum += z[row * (taps * p.channels) + (p.by_channel ? c * taps + tap : tap * p.channels + c)];
    }
  }
  if (bias) sum += bias[(p.bias_each ? sample * p.channels : 0) + c];
  if (add) sum += add[i];
  y[i] = sum;
}

// y = the rows of x padded with zeros to whole packets: (rows, len) f32 to (rows, len rounded up to a
// multiple of 8) Act. A thread makes 8 elements. Runs once per weight.
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

// The weight of a convolution of an image upsampled by two, applied to the image itself. An output pixel
// reads each input pixel through two neighbouring kernel positions along each axis (one at the ends), so
// their weights are summed in f32: y (out, kh + 1, kw + 1, in), y[i, j] = w[i, j] + w[i-1, j] + w[i, j-1] +
// w[i-1, j-1], absent ones zero. A thread per element. Runs once per weight.
KERNEL(fold, (256), (const Act* __restrict__ w, Act* __restrict__ y, FoldParams p)) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= p.len) return;
  const int64_t position = i / p.channels, line = position / (p.kernel_x + 1), out = line / (p.kernel_y + 1);
  const int c = (int)(i - position * p.channels), ky = (int)(line - out * (p.kernel_y + 1));
  const int kx = (int)(position - line * (p.kernel_x + 1));
  float sum = 0.0f;
  for (int dy = 0; dy < 2; dy++)
    for (int dx = 0; dx < 2; dx++) {
      const int sy = ky - dy, sx = kx - dx;
      if (sy >= 0 && sy < p.kernel_y && sx >= 0 && sx < p.kernel_x)
        sum += to_f32(w[((out * p.kernel_y + sy) * p.kernel_x + sx) * p.channels + c]);
    }
  y[i] = from_f32<Act>(sum);
}
