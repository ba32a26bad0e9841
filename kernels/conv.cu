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

struct CollectParams {
  int64_t len;         // elements of y
  int32_t out_h;       // of y
  int32_t out_w;
  int32_t channels;
  int32_t in_h;        // of z
  int32_t in_w;
  int32_t in_y;        // output pixel g meets row (g + in + dstep tap) / unit where that is whole
  int32_t in_x;
  int32_t dstep;
  int32_t unit;        // 1 where dstep is 1
  int32_t taps_y;
  int32_t taps_x;
  int32_t by_channel;  // columns of z are (channel, tap), not (tap, channel)
  int32_t bias_each;
};

// y = for each output pixel of few channels the sum over taps of the rows of z that it meets, each at its tap, + bias +
// add: a convolution (or a transpose) whose products are made pixel by pixel before they meet. A thread per element.
// Bytes: about 4 taps len / unit^2 of z, in lines that neighbours share.
KERNEL(collect, (256),
       (const float* __restrict__ z, const float* __restrict__ bias, const float* __restrict__ add,
        float* __restrict__ y, CollectParams p)) {
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
