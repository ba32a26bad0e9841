// Device functions of the group norms: the layout of threads over a sample, sums of channels and groups, and
// the statistics of each channel.
//
// The channels of a group may begin and end within an access of 16 bytes. A thread therefore sums each of its
// W channels separately, and the block adds up the channels of a group at the end. Sums are of x - shift,
// where the shift of a group is one of its elements (the first channel of the pixel in the middle), so that a
// mean of many standard deviations costs no precision. The order of all additions depends on the shape only.
#pragma once
#include "math.cuh"
#include "reduce.cuh"
#include "access.cuh"

struct GroupParams {
  int32_t samples;
  int32_t rows;          // pixels of a sample
  int32_t c;
  int32_t groups;
  int32_t width;         // channels of a group
  int32_t columns;       // accesses of a row that the threads of a block cover at once
  int32_t lanes;         // rows that they cover at once
  int32_t blocks;        // per sample, each with some of its rows, or with some of its groups (norm_whole)
  int32_t block_rows;
  int32_t block_groups;
  int32_t spread;        // threads that add up the channels of one group, a power of two
  int32_t silu;
  int32_t vectorized;          // accesses are of 16 bytes
  float eps;
  double share;          // one over the elements of a group
};

// Statistics saved for each group: the mean, what its rounding to f32 lost, and 1 / std.
constexpr int SAVED = 3;

DEVICE float centred(float x, float mean, float lost) {
  // For 16-bit types, what rounding the mean lost is far below one unit in the last place.
  return EXACT ? (x - mean) - lost : x - mean;
}

// Column (in accesses) and row of the first access of this thread, and whether it has one.
struct Lane {
  int column, row;
  bool inside;
};
DEVICE Lane lane(const GroupParams& p) {
  const int row = threadIdx.x / p.columns;
  return {(int)threadIdx.x % p.columns, row, row < p.lanes};
}

// Calls f(k, group) for each of the W channels from `channel` on, with one division in all.
template <int W, class F>
DEVICE void each_group(int channel, int width, F f) {
  int group = channel / width, left = (group + 1) * width - channel;
#pragma unroll
  for (int k = 0; k < W; k++) {
    f(k, group);
    if (--left == 0) {
      left = width;
      group++;
    }
  }
}

// Statistics and weights of the W channels from `channel` on. The pointers are to those of channel 0.
template <int W>
struct Channels {
  float mean[W], lost[W], rstd[W], gamma[W], beta[W], slope[W];
  DEVICE Channels(const float* statistics, const Act* gamma_at, const Act* beta_at, int channel, int width) {
    unpack(fetch<W>(gamma_at + channel), gamma);
    unpack(fetch<W>(beta_at + channel), beta);
    each_group<W>(channel, width, [&](int k, int group) {
      const float* s = statistics + group * SAVED;
      mean[k] = s[0];
      lost[k] = s[1];
      rstd[k] = s[2];
      slope[k] = s[2] * gamma[k];
    });
  }
};

// The cotangent of z: dy, or dy times the slope of the SiLU.
template <bool SILU>
DEVICE float silu_vjp(float z, float dy) {
  return SILU ? dy * silu_slope(z) : dy;
}

// Calls use(offset, access) for the accesses at x + row c, for rows from `row` to before `last` that are
// `step` apart. EACH loads are issued before the first is used. stream2 does the same with two tensors.
template <int W, int EACH, class F>
DEVICE void stream(const Act* x, int c, int row, int last, int step, F use) {
#pragma unroll 1
  for (; row < last; row += EACH * step) {
    Raw<W> loaded[EACH];
#pragma unroll
    for (int u = 0; u < EACH; u++)
      if (row + u * step < last) loaded[u] = fetch<W>(x + (int64_t)(row + u * step) * c);
#pragma unroll
    for (int u = 0; u < EACH; u++)
      if (row + u * step < last) use((int64_t)(row + u * step) * c, loaded[u]);
  }
}
template <int W, int EACH, class F>
DEVICE void stream2(const Act* x, const Act* dy, int c, int row, int last, int step, F use) {
#pragma unroll 1
  for (; row < last; row += EACH * step) {
    Raw<W> loaded_x[EACH], loaded_dy[EACH];
#pragma unroll
    for (int u = 0; u < EACH; u++) {
      if (row + u * step < last) {
        const int64_t at = (int64_t)(row + u * step) * c;
        loaded_x[u] = fetch<W>(x + at);
        loaded_dy[u] = fetch<W>(dy + at);
      }
    }
#pragma unroll
    for (int u = 0; u < EACH; u++)
      if (row + u * step < last) use((int64_t)(row + u * step) * c, loaded_x[u], loaded_dy[u]);
  }
}

// to[i] = the sum over the rows of the block of channel i, for the channels of `columns` accesses. `mine` are
// the sums of this thread; `red` is shared memory for W floats per thread.
template <int W>
DEVICE void channel_sums(const float (&mine)[W], float* red, float* to, int columns, const GroupParams& p) {
#pragma unroll
  for (int k = 0; k < W; k++) red[k * blockDim.x + threadIdx.x] = mine[k];
  __syncthreads();
  for (int i = threadIdx.x; i < W * columns; i += blockDim.x) {
    const int k = i / columns, q = i - k * columns;
    const float* from = red + k * blockDim.x + q;
    float sum = 0.0f;
#pragma unroll 8
    for (int r = 0; r < p.lanes; r++) sum += from[r * p.columns];
    to[q * W + k] = sum;
  }
  __syncthreads();
}

// Calls f(group, sum of a, sum of b), with sums over the channels of a group, for each of `groups` groups;
// one thread per group calls.
template <class F>
DEVICE void groups_of(const float* a, const float* b, int groups, const GroupParams& p, F f) {
  const int width = p.width, spread = p.spread;
  const int part = threadIdx.x & (spread - 1), at_once = blockDim.x / spread;
  for (int first = 0; first < groups; first += at_once) {
    const int group = first + threadIdx.x / spread;
    float sum_a = 0.0f, sum_b = 0.0f;
    if (group < groups) {
      for (int i = part; i < width; i += spread) {
        sum_a += a[group * width + i];
        sum_b += b[group * width + i];
      }
    }
    for (int o = spread / 2; o; o >>= 1) {
      sum_a += __shfl_xor_sync(FULL_WARP, sum_a, o);
      sum_b += __shfl_xor_sync(FULL_WARP, sum_b, o);
    }
    if (group < groups && part == 0) f(group, sum_a, sum_b);
  }
}

// The element that is subtracted from all elements of a group before they are summed.
DEVICE float shift_of(const Act* sample, const GroupParams& p, int group) {
  return to_f32(sample[(int64_t)(p.rows / 2) * p.c + group * p.width]);
}

// The statistics to save, from the sums over a group of x - shift and of its square.
DEVICE void statistics(float* saved, double sum, double squares, float shift, const GroupParams& p) {
  const double rest = sum * p.share, mean = (double)shift + rest;
  const double variance = squares * p.share - rest * rest;
  saved[0] = (float)mean;
  saved[1] = (float)(mean - (double)(float)mean);
  saved[2] = (float)rsqrt((variance > 0.0 ? variance : 0.0) + (double)p.eps);
}

// ---- the transpose. g is gamma times the cotangent of z = xhat gamma + beta.

// Adds one access to the sums of g / gamma and of (x - mean) g / gamma.
template <int W, bool SILU>
DEVICE void vjp_sums_of(const Raw<W>& raw_x, const Raw<W>& raw_dy, const Channels<W>& of, float (&sum)[W],
                        float (&product)[W]) {
  float v[W], d[W];
  unpack(raw_x, v);
  unpack(raw_dy, d);
#pragma unroll
  for (int k = 0; k < W; k++) {
    const float xc = centred(v[k], of.mean[k], of.lost[k]);
    const float dz = silu_vjp<SILU>(fmaf(xc, of.slope[k], of.beta[k]), d[k]);
    sum[k] += dz;
    product[k] = fmaf(dz, xc, product[k]);
  }
}

// Multiplies both sums by gamma, which is read once more: keeping it through the whole loop would cost
// registers.
template <int W>
DEVICE void times(const Act* gamma, float (&sum)[W], float (&product)[W]) {
  float g[W];
  unpack(fetch<W>(gamma), g);
#pragma unroll
  for (int k = 0; k < W; k++) {
    sum[k] *= g[k];
    product[k] *= g[k];
  }
}

// mean(g) and rstd mean(g xhat) from the sums of g and of g (x - mean).
DEVICE void means_of(float* means, double sum, double product, float rstd, const GroupParams& p) {
  means[0] = (float)(sum * p.share);
  means[1] = (float)((double)rstd * rstd * product * p.share);
}
template <int W>
struct Means {
  float g[W], gx[W];
  DEVICE Means(const float* means, int channel, int width) {
    each_group<W>(channel, width, [&](int k, int group) {
      g[k] = means[group * 2];
      gx[k] = means[group * 2 + 1];
    });
  }
};

// v = rstd (g - mean(g) - xhat mean(g xhat)).
template <int W, bool SILU>
DEVICE void vjp_of(const Raw<W>& raw_x, const Raw<W>& raw_dy, const Channels<W>& of, const Means<W>& mean,
                   float (&v)[W]) {
  float d[W];
  unpack(raw_x, v);
  unpack(raw_dy, d);
#pragma unroll
  for (int k = 0; k < W; k++) {
    const float xc = centred(v[k], of.mean[k], of.lost[k]);
    const float dz = silu_vjp<SILU>(fmaf(xc * of.rstd[k], of.gamma[k], of.beta[k]), d[k]);
    // Rounded on its own, not fused into the sum, so that a group of one element gets exactly zero.
    const float g = __fmul_rn(dz, of.gamma[k]);
    v[k] = of.rstd[k] * fmaf(-xc, mean.gx[k], g - mean.g[k]);
  }
}

// ---- large samples. A block has block_rows rows of a sample, and a thread W channels of every lanes-th of
// these rows.

// partial[block][group] = the sums over the block's rows of x - shift and of its square; reads n elements.
template <int W>
DEVICE void sums_of_rows(const Act* x, float* partial, const GroupParams& p, float* shared) {
  float *red = shared, *sums = red + W * blockDim.x, *squares = sums + p.c;
  const int sample = blockIdx.x / p.blocks, first = (blockIdx.x - sample * p.blocks) * p.block_rows;
  const int last = min(first + p.block_rows, p.rows);
  const Lane at = lane(p);
  x += (int64_t)sample * p.rows * p.c;
  for (int from = 0; from < p.c / W; from += p.columns) {
    const int channel = (from + at.column) * W;
    float sum[W], square[W];
#pragma unroll
    for (int k = 0; k < W; k++) sum[k] = square[k] = 0.0f;
    if (at.inside && channel < p.c) {
      float shift[W];
      each_group<W>(channel, p.width, [&](int k, int group) { shift[k] = shift_of(x, p, group); });
      stream<W, IN_FLIGHT>(x + channel, p.c, first + at.row, last, p.lanes, [&](int64_t, const Raw<W>& raw) {
        float v[W];
        unpack(raw, v);
#pragma unroll
        for (int k = 0; k < W; k++) {
          const float d = v[k] - shift[k];
          sum[k] += d;
          square[k] = fmaf(d, d, square[k]);
        }
      });
    }
    const int columns = min(p.columns, p.c / W - from);
    channel_sums<W>(sum, red, sums + from * W, columns, p);
    channel_sums<W>(square, red, squares + from * W, columns, p);
  }
  groups_of(sums, squares, p.groups, p, [&](int group, float a, float b) {
    float* to = partial + ((int64_t)blockIdx.x * p.groups + group) * 2;
    to[0] = a;
    to[1] = b;
  });
}

// Sums a group over the blocks of its sample, with one warp; returns false if this warp has no group.
struct Group {
  int sample, group;
  double a, b;
};
DEVICE bool combine(Group& g, const float* partial, const GroupParams& p) {
  const int index = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
  g.sample = index / p.groups;
  g.group = index - g.sample * p.groups;
  if (g.sample >= p.samples) return false;
  g.a = g.b = 0.0;
  for (int i = threadIdx.x & 31; i < p.blocks; i += 32) {
    const float* from = partial + (((int64_t)g.sample * p.blocks + i) * p.groups + g.group) * 2;
    g.a += (double)from[0];
    g.b += (double)from[1];
  }
  g.a = warp_sum(g.a);
  g.b = warp_sum(g.b);
  return true;
}

// y = f((x - mean) rstd gamma + beta); bytes moved: 2 n.
template <int W, bool SILU>
DEVICE void apply_rows(const Act* x, const Act* gamma, const Act* beta, const float* saved, Act* y,
                       const GroupParams& p) {
  const int index = gridDim.x - 1 - blockIdx.x;
  const int sample = index / p.blocks, first = (index - sample * p.blocks) * p.block_rows;
  const int last = min(first + p.block_rows, p.rows);
  const Lane at = lane(p);
  if (!at.inside) return;
  for (int channel = at.column * W; channel < p.c; channel += p.columns * W) {
    const Channels<W> of(saved + (int64_t)sample * p.groups * SAVED, gamma, beta, channel, p.width);
    const int64_t base = (int64_t)sample * p.rows * p.c + channel;
    stream<W, IN_FLIGHT>(x + base, p.c, first + at.row, last, p.lanes, [&](int64_t i, const Raw<W>& raw) {
      float v[W];
      unpack(raw, v);
#pragma unroll
      for (int k = 0; k < W; k++) {
        const float z = fmaf(centred(v[k], of.mean[k], of.lost[k]), of.slope[k], of.beta[k]);
        v[k] = SILU ? silu(z) : z;
      }
      store(y + base + i, v);
    });
  }
}

// partial[block][group] = the sums over the block's rows of g and of g (x - mean), reads 2 n elements.
template <int W, bool SILU>
DEVICE void vjp_sums_of_rows(const Act* x, const Act* gamma, const Act* beta, const float* saved,
                             const Act* dy, float* partial, const GroupParams& p, float* shared) {
  float *red = shared, *sums = red + W * blockDim.x, *products = sums + p.c;
  const int sample = blockIdx.x / p.blocks, first = (blockIdx.x - sample * p.blocks) * p.block_rows;
  const int last = min(first + p.block_rows, p.rows);
  const Lane at = lane(p);
  for (int from = 0; from < p.c / W; from += p.columns) {
    const int channel = (from + at.column) * W;
    float sum[W], product[W];
#pragma unroll
    for (int k = 0; k < W; k++) sum[k] = product[k] = 0.0f;
    if (at.inside && channel < p.c) {
      const Channels<W> of(saved + (int64_t)sample * p.groups * SAVED, gamma, beta, channel, p.width);
      const int64_t base = (int64_t)sample * p.rows * p.c + channel;
      stream2<W, IN_FLIGHT / 2>(x + base, dy + base, p.c, first + at.row, last, p.lanes,
                            [&](int64_t, const Raw<W>& raw_x, const Raw<W>& raw_dy) {
                              vjp_sums_of<W, SILU>(raw_x, raw_dy, of, sum, product);
                            });
      times<W>(gamma + channel, sum, product);
    }
    const int columns = min(p.columns, p.c / W - from);
    channel_sums<W>(sum, red, sums + from * W, columns, p);
    channel_sums<W>(product, red, products + from * W, columns, p);
  }
  groups_of(sums, products, p.groups, p, [&](int group, float a, float b) {
    float* to = partial + ((int64_t)blockIdx.x * p.groups + group) * 2;
    to[0] = a;
    to[1] = b;
  });
}

// dx = rstd (g - mean(g) - xhat mean(g xhat)), g as above; means[sample][group] holds mean(g) and rstd mean(g
// xhat). Moves 3 n elements.
template <int W, bool SILU>
DEVICE void vjp_rows(const Act* x, const Act* gamma, const Act* beta, const float* saved, const Act* dy,
                     const float* means, Act* dx, const GroupParams& p) {
  const int index = gridDim.x - 1 - blockIdx.x;
  const int sample = index / p.blocks, first = (index - sample * p.blocks) * p.block_rows;
  const int last = min(first + p.block_rows, p.rows);
  const Lane at = lane(p);
  if (!at.inside) return;
  for (int channel = at.column * W; channel < p.c; channel += p.columns * W) {
    const int64_t groups = (int64_t)sample * p.groups, base = (int64_t)sample * p.rows * p.c + channel;
    const Channels<W> of(saved + groups * SAVED, gamma, beta, channel, p.width);
    const Means<W> mean(means + groups * 2, channel, p.width);
    stream2<W, IN_FLIGHT / 2>(x + base, dy + base, p.c, first + at.row, last, p.lanes,
                          [&](int64_t i, const Raw<W>& raw_x, const Raw<W>& raw_dy) {
                            float v[W];
                            vjp_of<W, SILU>(raw_x, raw_dy, of, mean, v);
                            store(dx + base + i, v);
                          });
  }
}

// ---- samples of which a block holds some whole groups in shared memory, so that x is read once. Every
// thread reads back only what it has written itself, so no barrier is needed for that.

template <int W, bool SILU>
DEVICE void norm_whole(const Act* x, const Act* gamma, const Act* beta, Act* y, float* saved,
                       const GroupParams& p, unsigned char* shared) {
  const int slots = (p.rows + p.lanes - 1) / p.lanes, channels = p.block_groups * p.width;
  Raw<W>* const held = reinterpret_cast<Raw<W>*>(shared);
  float* const red = reinterpret_cast<float*>(held + slots * blockDim.x);
  float *const sums = red + W * blockDim.x, *const squares = sums + channels;
  float* const stats = squares + channels;
  const int sample = blockIdx.x / p.blocks, group = (blockIdx.x - sample * p.blocks) * p.block_groups;
  const int64_t base = (int64_t)sample * p.rows * p.c;
  const Lane at = lane(p);
  const int channel = group * p.width + at.column * W;

  float sum[W], square[W];
#pragma unroll
  for (int k = 0; k < W; k++) sum[k] = square[k] = 0.0f;
  if (at.inside) {
    float shift[W];
    each_group<W>(channel, p.width, [&](int k, int g) { shift[k] = shift_of(x + base, p, g); });
    Raw<W>* to = held + threadIdx.x;
    stream<W, IN_FLIGHT>(x + base + channel, p.c, at.row, p.rows, p.lanes, [&](int64_t, const Raw<W>& raw) {
      float v[W];
      unpack(raw, v);
      *to = raw;
      to += blockDim.x;
#pragma unroll
      for (int k = 0; k < W; k++) {
        const float d = v[k] - shift[k];
        sum[k] += d;
        square[k] = fmaf(d, d, square[k]);
      }
    });
  }
  channel_sums<W>(sum, red, sums, p.columns, p);
  channel_sums<W>(square, red, squares, p.columns, p);
  groups_of(sums, squares, p.block_groups, p, [&](int g, float a, float b) {
    float* const of = stats + g * SAVED;
    statistics(of, a, b, shift_of(x + base, p, group + g), p);
    for (int i = 0; i < SAVED; i++) saved[((int64_t)sample * p.groups + group + g) * SAVED + i] = of[i];
  });
  __syncthreads();

  if (!at.inside) return;
  const Channels<W> of(stats, gamma + group * p.width, beta + group * p.width, at.column * W, p.width);
  const Raw<W>* from = held + threadIdx.x;
  for (int row = at.row; row < p.rows; row += p.lanes, from += blockDim.x) {
    float v[W];
    unpack(*from, v);
#pragma unroll
    for (int k = 0; k < W; k++) {
      const float z = fmaf(centred(v[k], of.mean[k], of.lost[k]), of.slope[k], of.beta[k]);
      v[k] = SILU ? silu(z) : z;
    }
    store(y + base + channel + (int64_t)row * p.c, v);
  }
}

template <int W, bool SILU>
DEVICE void vjp_whole(const Act* x, const Act* gamma, const Act* beta, const float* saved, const Act* dy,
                      Act* dx, const GroupParams& p, unsigned char* shared) {
  const int slots = (p.rows + p.lanes - 1) / p.lanes, channels = p.block_groups * p.width;
  Raw<W>* const held = reinterpret_cast<Raw<W>*>(shared);
  float* const red = reinterpret_cast<float*>(held + 2 * slots * blockDim.x);
  float *const sums = red + W * blockDim.x, *const products = sums + channels;
  float* const means = products + channels;
  const int sample = blockIdx.x / p.blocks, group = (blockIdx.x - sample * p.blocks) * p.block_groups;
  const Lane at = lane(p);
  const int channel = group * p.width + at.column * W;
  const int64_t base = (int64_t)sample * p.rows * p.c + channel;
  const float* const stats = saved + (int64_t)sample * p.groups * SAVED;

  float sum[W], product[W];
#pragma unroll
  for (int k = 0; k < W; k++) sum[k] = product[k] = 0.0f;
  if (at.inside) {
    const Channels<W> of(stats, gamma, beta, channel, p.width);
    Raw<W>* to = held + threadIdx.x;
    stream2<W, IN_FLIGHT / 2>(x + base, dy + base, p.c, at.row, p.rows, p.lanes,
                          [&](int64_t, const Raw<W>& raw_x, const Raw<W>& raw_dy) {
                            *to = raw_x;
                            to[blockDim.x] = raw_dy;
                            to += 2 * blockDim.x;
                            vjp_sums_of<W, SILU>(raw_x, raw_dy, of, sum, product);
                          });
    times<W>(gamma + channel, sum, product);
  }
  channel_sums<W>(sum, red, sums, p.columns, p);
  channel_sums<W>(product, red, products, p.columns, p);
  groups_of(sums, products, p.block_groups, p, [&](int g, float a, float b) {
    means_of(means + 2 * g, a, b, stats[(group + g) * SAVED + 2], p);
  });
  __syncthreads();

  if (!at.inside) return;
  const Channels<W> of(stats, gamma, beta, channel, p.width);
  const Means<W> mean(means, at.column * W, p.width);
  const Raw<W>* from = held + threadIdx.x;
  for (int row = at.row; row < p.rows; row += p.lanes, from += 2 * blockDim.x) {
    float v[W];
    vjp_of<W, SILU>(from[0], from[blockDim.x], of, mean, v);
    store(dx + base + (int64_t)row * p.c, v);
  }
}
