// Memory accesses of memory-bound kernels, of 16 bytes where sizes and addresses allow it and of single
// elements otherwise, under one name; and the layout of threads over rows.
#pragma once
#include "act.cuh"

// Elements of a 16-byte access.
constexpr int VECTOR = 16 / sizeof(Act);
// Loads that a thread issues before it uses the first. With 1000 threads on a multiprocessor this hides the
// latency of memory.
constexpr int IN_FLIGHT = 4;

// W elements (VECTOR or 1) as stored in memory.
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
DEVICE void put_raw(Act* p, const Raw<VECTOR>& r) { store_words(p, r.words); }

DEVICE void unpack(const Raw<1>& r, float (&x)[1]) { x[0] = to_f32(r.element); }
DEVICE void unpack(const Raw<VECTOR>& r, float (&x)[VECTOR]) {
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
DEVICE void store(Act* p, const float (&x)[VECTOR]) {
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

// The threads of a block cover `lanes` rows of `columns` accesses each. A block works on IN_FLIGHT times as
// many rows, which blockIdx.x counts; blockIdx.y counts blocks side by side where a row has more columns.
struct ThreadPosition {
  int64_t row;    // of the first access; that of the next is `lanes` more
  int column;     // in accesses
  bool inside;    // whether this thread has a column
};
DEVICE ThreadPosition thread_position(int columns, int lanes, int all_columns) {
  const int lane = threadIdx.x / columns, column = blockIdx.y * columns + threadIdx.x % columns;
  return {(int64_t)blockIdx.x * lanes * IN_FLIGHT + lane, column, lane < lanes && column < all_columns};
}
