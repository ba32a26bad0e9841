// Accesses of memory-bound kernels: 16 bytes where rows and addresses allow it, else single elements, behind
// one name; and how the threads of a block lie over rows.
#pragma once
#include "act.cuh"

// Elements of one 16-byte access.
constexpr int WIDE = 16 / sizeof(Act);
// Accesses a thread has under way at once: with 1000 threads on a multiprocessor this covers the memory's
// latency.
constexpr int AHEAD = 4;

// W elements (WIDE or 1) as they lie in memory.
template <int W>
struct Raw {
  Words words;
};
template <>
struct Raw<1> {
  Act element;
};

template <int W>
DEVICE Raw<W> fetch(const Act* p) {
  return {load_words(p)};
}
template <>
DEVICE Raw<1> fetch<1>(const Act* p) {
  return {*p};
}

template <int W>
DEVICE Raw<W> zero() {
  return {{{0, 0, 0, 0}}};
}
template <>
DEVICE Raw<1> zero<1>() {
  return {from_f32<Act>(0.0f)};
}
DEVICE void put_raw(Act* p, const Raw<1>& r) { *p = r.element; }
DEVICE void put_raw(Act* p, const Raw<WIDE>& r) { store_words(p, r.words); }

DEVICE void unpack(const Raw<1>& r, float (&x)[1]) { x[0] = to_f32(r.element); }
DEVICE void unpack(const Raw<WIDE>& r, float (&x)[WIDE]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
#if defined(ACT_F32)
    x[i] = __uint_as_float(r.words.w[i]);
#else
    unpack2<Act>(r.words.w[i], x[2 * i], x[2 * i + 1]);
#endif
  }
}

DEVICE void store(Act* p, const float (&x)[1]) { *p = from_f32<Act>(x[0]); }
DEVICE void store(Act* p, const float (&x)[WIDE]) {
  Words v;
#pragma unroll
  for (int i = 0; i < 4; i++) {
#if defined(ACT_F32)
    v.w[i] = __float_as_uint(x[i]);
#else
    v.w[i] = pack2<Act>(x[2 * i], x[2 * i + 1]);
#endif
  }
  store_words(p, v);
}

// The threads of a block cover `lanes` rows of `columns` accesses at once; blockIdx.x counts runs of AHEAD
// times as many rows, blockIdx.y the runs of columns of rows that are longer.
struct Spot {
  int64_t row;    // the first; the next is `lanes` on
  int column;     // in accesses
  bool inside;    // of the columns
};
DEVICE Spot spot(int columns, int lanes, int all_columns) {
  const int lane = threadIdx.x / columns, column = blockIdx.y * columns + threadIdx.x % columns;
  return {(int64_t)blockIdx.x * lanes * AHEAD + lane, column, lane < lanes && column < all_columns};
}
