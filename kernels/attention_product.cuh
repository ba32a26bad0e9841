// One block's tile of a matrix product, for attention whose heads are too wide for flash.cu: on tensor cores
// for 16-bit types, by multiply-adds for f32. A matrix is rows of Act at any stride, and zero outside its
// rows and columns. 16-bit matrices have whole packets of columns.
//
// A left factor is "by rows" if its rows are the rows of the result, a right factor if its rows are the
// columns of the result (both K-major). Otherwise the rows are summed over.
#pragma once
#include "act.cuh"

struct Matrix {
  const Act* x;
  int stride;
  int rows;
  int columns;
};

#if defined(ACT_F32)

// A tile of 64 x 64, in steps of 16 of the sum. 256 threads compute 4 x 4 elements each.
struct Product {
  static constexpr int THREADS = 256, ROWS = 64, COLUMNS = 64;
  static constexpr int DEEP = 16, STRIDE = 64 + 4;
  static constexpr int SHARED_ELEMENTS = 2 * DEEP * STRIDE;
  float sum[4][4];

  DEVICE Product() {
#pragma unroll
    for (int i = 0; i < 16; i++) sum[i / 4][i % 4] = 0;
  }

  // Loads what 64 rows or columns of the result, from `at` on, need for DEEP steps of the sum, from `k` on,
  // as [k][64].
  template <bool BY_ROWS>
  static DEVICE void load(float* to, const Matrix& m, int at, int k) {
#pragma unroll
    for (int n = 0; n < 64 * DEEP; n += THREADS) {
      const int i = n + threadIdx.x;
      // Neighbouring threads load neighbouring elements.
      const int e = BY_ROWS ? i / DEEP : i % 64, d = BY_ROWS ? i % DEEP : i / 64;
      const int row = BY_ROWS ? at + e : k + d, column = BY_ROWS ? k + d : at + e;
      const bool there = row < m.rows && column < m.columns;
      to[d * STRIDE + e] = there ? m.x[(int64_t)row * m.stride + column] : 0.0f;
    }
  }

  // += left right, over `depth` steps.
  template <bool LEFT_BY_ROWS, bool RIGHT_BY_ROWS>
  DEVICE void add(const Matrix& left, const Matrix& right, int row, int column, int depth, float* shared) {
    float *const a = shared, *const b = shared + DEEP * STRIDE;
    const int y = threadIdx.x / 16 * 4, x = threadIdx.x % 16 * 4;
#pragma unroll 1
    for (int k = 0; k < depth; k += DEEP) {
      __syncthreads();
      load<LEFT_BY_ROWS>(a, left, row, k);
      load<RIGHT_BY_ROWS>(b, right, column, k);
      __syncthreads();
#pragma unroll
      for (int d = 0; d < DEEP; d++) {
        const Words u = load_words(a + d * STRIDE + y), v = load_words(b + d * STRIDE + x);
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
          for (int j = 0; j < 4; j++)
            sum[i][j] = fmaf(__uint_as_float(u.w[i]), __uint_as_float(v.w[j]), sum[i][j]);
      }
    }
  }

  // Calls f(row, column, i) for every pair of neighbours in a row that this thread has: get(i) is the element
  // at (row, column) of the tile, get(i + 1) the one to its right.
  template <class F>
  static DEVICE void each(const F& f) {
#pragma unroll
    for (int i = 0; i < 16; i += 2) f(threadIdx.x / 16 * 4 + i / 4, threadIdx.x % 16 * 4 + i % 4, i);
  }
  DEVICE float get(int i) const { return sum[i / 4][i % 4]; }
};

#else
#include "mma.cuh"

// A tile of 128 x 64, in steps of 32 of the sum and with three stages. 8 warps compute 32 x 32 elements each.
struct Product {
  static constexpr int THREADS = 256, ROWS = 128, COLUMNS = 64;
  static constexpr int DEEP = 32, STAGES = 3;
  // Rows in shared memory begin an odd number of packets apart, so that the rows of one ldmatrix use all
  // banks.
  template <int SIDE, bool BY_ROWS>
  struct Tile {
    static constexpr int ROWS = BY_ROWS ? SIDE : DEEP, COLUMNS = BY_ROWS ? DEEP : SIDE, STRIDE = COLUMNS + 8;
  };
  // Elements of a stage: enough for both layouts.
  static constexpr int LEFT = ROWS * (DEEP + 8), RIGHT = COLUMNS * (DEEP + 8), STAGE = LEFT + RIGHT;
  static_assert(LEFT >= DEEP * (ROWS + 8) && RIGHT >= DEEP * (COLUMNS + 8), "a tile by columns is no larger");
  static constexpr int SHARED_ELEMENTS = STAGES * STAGE;
  float sum[2][4][4];

  DEVICE Product() {
#pragma unroll
    for (int i = 0; i < 32; i++) sum[i / 16][i / 4 % 4][i % 4] = 0;
  }

  template <int SIDE, bool BY_ROWS>
  static DEVICE void load(Act* to, const Matrix& m, int at, int k) {
    typedef Tile<SIDE, BY_ROWS> T;
    constexpr int PACKETS = T::COLUMNS / PACKET;
    static_assert(T::ROWS * PACKETS % THREADS == 0, "every thread copies as often");
    const int first = BY_ROWS ? at : k, from = BY_ROWS ? k : at;
#pragma unroll
    for (int n = 0; n < T::ROWS * PACKETS; n += THREADS) {
      const int i = n + threadIdx.x, r = i / PACKETS, c = i % PACKETS * PACKET;
      const bool there = first + r < m.rows && from + c < m.columns;
      const Act* const x = there ? m.x + (int64_t)(first + r) * m.stride + from + c : m.x;
      cp_async16(to + r * T::STRIDE + c, x, there ? 16 : 0);
    }
  }

  template <bool LEFT_BY_ROWS, bool RIGHT_BY_ROWS>
  DEVICE void add(const Matrix& left, const Matrix& right, int row, int column, int depth, Act* shared) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, y = warp / 2 * 32, x = warp % 2 * 32;
    constexpr int A = Tile<ROWS, LEFT_BY_ROWS>::STRIDE, B = Tile<COLUMNS, RIGHT_BY_ROWS>::STRIDE;
    const int steps = (depth + DEEP - 1) / DEEP;
    auto start = [&](int i) {
      if (i < steps) {
        load<ROWS, LEFT_BY_ROWS>(shared + i % STAGES * STAGE, left, row, i * DEEP);
        load<COLUMNS, RIGHT_BY_ROWS>(shared + i % STAGES * STAGE + LEFT, right, column, i * DEEP);
      }
      cp_async_commit();
    };
    // The product before may still be reading the stages.
    __syncthreads();
    start(0);
    start(1);
#pragma unroll 1
    for (int i = 0; i < steps; i++) {
      cp_async_wait<1>();
      __syncthreads();
      start(i + 2);
      const Act* const a = shared + i % STAGES * STAGE;
      const Act* const b = a + LEFT;
#pragma unroll
      for (int k = 0; k < DEEP; k += 16) {
        uint32_t u[2][4], v[2][4];
#pragma unroll
        for (int m = 0; m < 2; m++) {
          // Not by rows, the 8 x 8 matrices are loaded transposed, and the two in the middle are swapped.
          const int e = y + 16 * m;
          if (LEFT_BY_ROWS)
            ldmatrix_x4(u[m], a + (e + lane % 16) * A + k + lane / 16 * 8);
          else
            ldmatrix_x4_trans(u[m], a + (k + lane / 16 * 8 + lane % 8) * A + e + lane / 8 % 2 * 8);
        }
#pragma unroll
        for (int n = 0; n < 2; n++) {
          const int e = x + 16 * n;
          if (RIGHT_BY_ROWS)
            ldmatrix_x4(v[n], b + (e + lane / 16 * 8 + lane % 8) * B + k + lane / 8 % 2 * 8);
          else
            ldmatrix_x4_trans(v[n], b + (k + lane % 16) * B + e + lane / 16 * 8);
        }
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
          for (int n = 0; n < 4; n++) {
            const uint32_t w[2] = {v[n / 2][n % 2 * 2], v[n / 2][n % 2 * 2 + 1]};
            mma_16816<Act>(sum[m][n], u[m], w);
          }
      }
    }
    // Leaves no group of copies open, so that the next product counts only its own.
    cp_async_wait<0>();
  }

  template <class F>
  static DEVICE void each(const F& f) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, y = warp / 2 * 32, x = warp % 2 * 32;
#pragma unroll
    for (int i = 0; i < 32; i += 2)
      f(y + i / 16 * 16 + i / 2 % 2 * 8 + lane / 4, x + i / 4 % 4 * 8 + 2 * (lane % 4), i);
  }
  DEVICE float get(int i) const { return sum[i / 16][i / 4 % 4][i % 4]; }
};
#endif
