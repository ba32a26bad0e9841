// Moving data: channels, batches, tokens; and the antialiased resize. Everything but the resize is a copy, in
// accesses of 16 bytes if channels and offsets are multiples of that, else of single elements. The order of
// additions depends on shapes only.
#include "access.cuh"

struct PartParams {
  int64_t rows;
  int32_t c;          // channels of y
  int32_t from;       // first channel of the second part, or of the slice
  int32_t other;      // channels of the tensor on the other side of the slice
  int32_t columns;    // accesses of a row of y that a block covers
  int32_t lanes;      // rows it covers at once
  int32_t vectorized;       // all of these are whole accesses of 16 bytes
};

// y = f(row, channel) for each access of this thread; all are loaded before the first is stored.
template <int W, class F>
DEVICE void rows_of(Act* y, const PartParams& p, F f) {
  const ThreadPosition at = thread_position(p.columns, p.lanes, p.c / W);
  if (!at.inside) return;
  const int c = at.column * W;
  Raw<W> loaded[IN_FLIGHT];
#pragma unroll
  for (int u = 0; u < IN_FLIGHT; u++) {
    const int64_t row = at.row + u * p.lanes;
    if (row < p.rows) loaded[u] = f(row, c);
  }
#pragma unroll
  for (int u = 0; u < IN_FLIGHT; u++) {
    const int64_t row = at.row + u * p.lanes;
    if (row < p.rows) put_raw(y + row * p.c + c, loaded[u]);
  }
}

// y = [a, b] along the channels, b from channel `from` on. Moves 2 n elements.
template <int W>
DEVICE void concat(const Act* a, const Act* b, Act* y, const PartParams& p) {
  const int second = p.c - p.from;
  rows_of<W>(y, p, [&](int64_t row, int c) {
    return c < p.from ? fetch<W>(a + row * p.from + c) : fetch<W>(b + row * second + c - p.from);
  });
}
KERNEL(concat, (384),
       (const Act* __restrict__ a, const Act* __restrict__ b, Act* __restrict__ y, PartParams p)) {
  if (sizeof(Act) == 2 || p.vectorized) return concat<VECTOR>(a, b, y, p);
  concat<1>(a, b, y, p);
}
// y = channels from `from` on of rows of `other`. Moves 2 n elements.
template <int W>
DEVICE void slice(const Act* x, Act* y, const PartParams& p) {
  rows_of<W>(y, p, [&](int64_t row, int c) { return fetch<W>(x + row * p.other + p.from + c); });
}
KERNEL(slice, (384), (const Act* __restrict__ x, Act* __restrict__ y, PartParams p)) {
  if (sizeof(Act) == 2 || p.vectorized) return slice<VECTOR>(x, y, p);
  slice<1>(x, y, p);
}
// dx = zeros, with the rows of dy (`other` channels) from channel `from` on. Moves n elements and `other` of
// every row.
template <int W>
DEVICE void slice_vjp(const Act* dy, Act* dx, const PartParams& p) {
  rows_of<W>(dx, p, [&](int64_t row, int c) {
    const int at = c - p.from;
    return at >= 0 && at < p.other ? fetch<W>(dy + row * p.other + at) : zero<W>();
  });
}
KERNEL(slice_vjp, (384), (const Act* __restrict__ dy, Act* __restrict__ dx, PartParams p)) {
  if (sizeof(Act) == 2 || p.vectorized) return slice_vjp<VECTOR>(dy, dx, p);
  slice_vjp<1>(dy, dx, p);
}

struct CopyParams {
  int64_t len;            // elements of a run
  int64_t from;           // run i is read at from + i from_stride + rows[i] row_stride
  int64_t from_stride;
  int64_t row_stride;
  int64_t to;             // and written at to + i to_stride
  int64_t to_stride;
  int32_t runs;
  int32_t vectorized;           // all of these are whole accesses of 16 bytes
};
// Runs of elements: batches, samples, tokens. blockIdx.y counts runs. Moves 2 n elements.
template <int W>
DEVICE void copy(const Act* x, const uint32_t* rows, Act* y, const CopyParams& p) {
  const int64_t first = ((int64_t)blockIdx.x * IN_FLIGHT * blockDim.x + threadIdx.x) * W;
  const int step = blockDim.x * W;
  for (int run = blockIdx.y; run < p.runs; run += gridDim.y) {
    const Act* from = x + p.from + run * p.from_stride + (rows ? rows[run] * p.row_stride : 0);
    Act* to = y + p.to + run * p.to_stride;
    Raw<W> loaded[IN_FLIGHT];
#pragma unroll
    for (int u = 0; u < IN_FLIGHT; u++)
      if (first + u * step < p.len) loaded[u] = fetch<W>(from + first + u * step);
#pragma unroll
    for (int u = 0; u < IN_FLIGHT; u++)
      if (first + u * step < p.len) put_raw(to + first + u * step, loaded[u]);
  }
}
KERNEL(copy, (256),
       (const Act* __restrict__ x, const uint32_t* __restrict__ rows, Act* __restrict__ y, CopyParams p)) {
  if (p.vectorized) return copy<VECTOR>(x, rows, y, p);
  copy<1>(x, rows, y, p);
}

struct TokenParams {
  int64_t len;       // elements of a sample
  int32_t samples;
  int32_t c;
  int32_t vectorized;
};
// dx = zeros, with row i of dy as token at[i] of sample i. Moves n elements.
template <int W>
DEVICE void take_token_vjp(const Act* dy, const uint32_t* at, Act* dx, const TokenParams& p) {
  const int64_t first = ((int64_t)blockIdx.x * IN_FLIGHT * blockDim.x + threadIdx.x) * W;
  const int step = blockDim.x * W;
  for (int sample = blockIdx.y; sample < p.samples; sample += gridDim.y) {
    const int64_t token = (int64_t)at[sample] * p.c;
#pragma unroll
    for (int u = 0; u < IN_FLIGHT; u++) {
      const int64_t i = first + u * step;
      if (i >= p.len) break;
      const int64_t c = i - token;
      const bool here = c >= 0 && c < p.c;
      put_raw(dx + sample * p.len + i, here ? fetch<W>(dy + (int64_t)sample * p.c + c) : zero<W>());
    }
  }
}
KERNEL(take_token_vjp, (256),
       (const Act* __restrict__ dy, const uint32_t* __restrict__ at, Act* __restrict__ dx, TokenParams p)) {
  if (p.vectorized) return take_token_vjp<VECTOR>(dy, at, dx, p);
  take_token_vjp<1>(dy, at, dx, p);
}

struct RepeatParams {
  int64_t n;         // elements of a copy
  int32_t times;
  int32_t vectorized;
};
// dx = the sum of the copies, in their order. Moves (times + 1) n elements.
template <int W>
DEVICE void repeat_vjp(const Act* dy, Act* dx, const RepeatParams& p) {
  constexpr int EACH = IN_FLIGHT / 2;
  const int64_t first = ((int64_t)blockIdx.x * EACH * blockDim.x + threadIdx.x) * W;
  const int step = blockDim.x * W;
  float sum[EACH][W];
#pragma unroll
  for (int u = 0; u < EACH; u++)
#pragma unroll
    for (int k = 0; k < W; k++) sum[u][k] = 0.0f;
#pragma unroll 2
  for (int t = 0; t < p.times; t++, dy += p.n) {
    Raw<W> loaded[EACH];
#pragma unroll
    for (int u = 0; u < EACH; u++)
      if (first + u * step < p.n) loaded[u] = fetch<W>(dy + first + u * step);
#pragma unroll
    for (int u = 0; u < EACH; u++) {
      if (first + u * step < p.n) {
        float v[W];
        unpack(loaded[u], v);
#pragma unroll
        for (int k = 0; k < W; k++) sum[u][k] += v[k];
      }
    }
  }
#pragma unroll
  for (int u = 0; u < EACH; u++)
    if (first + u * step < p.n) store(dx + first + u * step, sum[u]);
}
KERNEL(repeat_vjp, (256), (const Act* __restrict__ dy, Act* __restrict__ dx, RepeatParams p)) {
  if (p.vectorized) return repeat_vjp<VECTOR>(dy, dx, p);
  repeat_vjp<1>(dy, dx, p);
}

struct EmbedParams {
  int32_t samples;
  int32_t tokens;     // of y
  int32_t head;       // 1 if the first of them is the class token, else 0
  int32_t c;
  int32_t columns;
  int32_t lanes;
  int32_t vectorized;
};
DEVICE void store_f32(float* p, const float (&x)[1]) { *p = x[0]; }
DEVICE void store_f32(float* p, const float (&x)[VECTOR]) {
#if defined(ACT_F32)
  store(p, x);
#else
  store8(p, x);
#endif
}
// y = [token, x] + position, in f32; blockIdx.z counts samples. Moves n elements of each type, and reads the
// positions from the cache.
template <int W>
DEVICE void embed(const Act* x, const Act* token, const Act* position, float* y, const EmbedParams& p) {
  constexpr int EACH = IN_FLIGHT / 2;
  const ThreadPosition at = thread_position(p.columns, p.lanes, p.c / W);
  if (!at.inside) return;
  const int c = at.column * W;
  for (int sample = blockIdx.z; sample < p.samples; sample += gridDim.z) {
    const Act* from = x + (int64_t)sample * (p.tokens - p.head) * p.c + c;
    float* to = y + (int64_t)sample * p.tokens * p.c + c;
#pragma unroll 1
    for (int half = 0; half < 2; half++) {
      const int first = (int)at.row + half * EACH * p.lanes;
      Raw<W> loaded[EACH], positions[EACH];
#pragma unroll
      for (int u = 0; u < EACH; u++) {
        const int t = first + u * p.lanes;
        if (t < p.tokens) {
          loaded[u] = fetch<W>(t < p.head ? token + c : from + (int64_t)(t - p.head) * p.c);
          positions[u] = fetch<W>(position + (int64_t)t * p.c + c);
        }
      }
#pragma unroll
      for (int u = 0; u < EACH; u++) {
        const int t = first + u * p.lanes;
        if (t >= p.tokens) break;
        float v[W], w[W];
        unpack(loaded[u], v);
        unpack(positions[u], w);
#pragma unroll
        for (int k = 0; k < W; k++) v[k] += w[k];
        store_f32(to + (int64_t)t * p.c, v);
      }
    }
  }
}
KERNEL(embed, (384),
       (const Act* __restrict__ x, const Act* __restrict__ token, const Act* __restrict__ position,
        float* __restrict__ y, EmbedParams p)) {
  if (sizeof(Act) == 2 || p.vectorized) return embed<VECTOR>(x, token, position, y, p);
  embed<1>(x, token, position, y, p);
}

struct ResizeParams {
  int32_t x_h;
  int32_t x_w;
  int32_t c;
  int32_t y_h;
  int32_t y_w;
  int32_t row_taps;       // most weights of a row of the matrix along the height, and along the width
  int32_t column_taps;
  int32_t tile;           // columns of y per block
  int32_t channels;       // of c, per block
};
// One axis of the resize: a banded matrix made on the host. The table has, for every output, the first input
// and the number of inputs; then the weights of every output, padded to the largest number.
struct Band {
  const uint32_t* table;
  const float* weights;
  DEVICE Band(const uint32_t* axis, int outputs, int taps, int i)
      : table(axis + 2 * i),
        weights(reinterpret_cast<const float*>(axis + 2 * outputs) + (int64_t)i * taps) {}
  DEVICE int first() const { return table[0]; }
  DEVICE int count() const { return table[1]; }
};
// sum + w x, rounded twice as on the host, for equal bits.
DEVICE float plus(float sum, float w, float x) { return __fadd_rn(sum, __fmul_rn(w, x)); }

// y = rows x columns^T for every channel; the transpose is the same with the transposed matrices. A block
// makes a piece of one row of y: it combines rows of x into one row in shared memory (f32), as long as the
// piece needs, and then combines columns of that row. x is read about row_taps / scale times, all but the
// first time from the cache.
KERNEL(resize, (256),
       (const Act* __restrict__ x, const uint32_t* __restrict__ rows, const uint32_t* __restrict__ columns,
        Act* __restrict__ y, ResizeParams p)) {
  DYNAMIC_SHARED(float, mixed);
  const int sample = blockIdx.x / p.y_h, row = blockIdx.x - sample * p.y_h;
  const int tile = blockIdx.y * p.tile, tile_end = min(tile + p.tile, p.y_w);
  const int channel = blockIdx.z * p.channels, channels = min(p.channels, p.c - channel);
  // Bands of later outputs never begin earlier, so the first and the last column of the piece bound what it
  // reads.
  const Band head(columns, p.y_w, p.column_taps, tile), tail(columns, p.y_w, p.column_taps, tile_end - 1);
  const int from = head.first(), span = tail.first() + tail.count() - from;

  const Band band(rows, p.y_h, p.row_taps, row);
  const int count = band.count(), line = p.x_w * p.c;
  x += (((int64_t)sample * p.x_h + band.first()) * p.x_w + from) * p.c + channel;
  for (int i = threadIdx.x; i < span * channels; i += blockDim.x) {
    const Act* at = x + (channels == p.c ? i : i / channels * p.c + i % channels);
    float sum = 0.0f;
#pragma unroll 4
    for (int k = 0; k < count; k++) sum = plus(sum, band.weights[k], to_f32(at[(int64_t)k * line]));
    mixed[i] = sum;
  }
  __syncthreads();

  y += (((int64_t)sample * p.y_h + row) * p.y_w + tile) * p.c + channel;
  for (int i = threadIdx.x; i < (tile_end - tile) * channels; i += blockDim.x) {
    const int column = i / channels, c = i - column * channels;
    const Band of(columns, p.y_w, p.column_taps, tile + column);
    const float* at = mixed + (of.first() - from) * channels + c;
    const int taps = of.count();
    float sum = 0.0f;
#pragma unroll 4
    for (int k = 0; k < taps; k++) sum = plus(sum, of.weights[k], at[k * channels]);
    y[(int64_t)column * p.c + c] = from_f32<Act>(sum);
  }
}
