// Implicit GEMM for fprop and dgrad, split-K, multistage: products with gathered rows (product.cuh) on tensor
// cores, for 16-bit elements. Linear maps, convolutions and their transposes are all products of this kind.
//
// A block makes a BM x BN tile of y, a warp WM x WN of it in f32 registers (mma m16n8k16). The sum runs over
// the channels in steps of 32 and, within a step, over all taps, so that neighbouring taps find their pixels
// in the cache. cp.async copies each step into one of the STAGES stages of shared memory, which are used in
// turn. Taps outside the image, and channels, rows and columns beyond the end, are filled with zeros. The
// 16-byte chunks of a stage are swizzled so that neither the copies nor ldmatrix have bank conflicts. If
// there are too few tiles for the GPU, blockIdx.y splits the sum (split-K), and the kernel `finish` of
// gemm.cu adds the parts in a fixed order.
//
// grid: x tiles, y splits, z classes. Bytes moved at least: x, w, bias, add and y once; FLOPs: 2 rows columns
// taps channels. Results: y = epilogue(product + bias + add) in Act, and the pre-activation product + bias +
// add if `pre_activation` is not null; or, if z is not null, only the product (or its parts), in f32.
#include "mma.cuh"
#include "product.cuh"

#if !defined(ACT_F32)

// Channels per step: a row of a stage is 64 bytes.
constexpr int BK = 32;
// Stages of shared memory.
constexpr int STAGES = 4;

// Place of the 16-byte chunk (row, chunk) in a stage of the left factor, and of the right factor unless it is
// transposed. Two rows of four chunks span all banks. The chunks of each pair of rows are permuted
// differently, so that eight rows of one chunk span all banks too.
DEVICE int narrow_chunk(int row, int chunk) { return row * 4 + (chunk ^ (row >> 1 & 3)); }

// The same for a stage of the transposed right factor, whose rows are channels and BN / 8 chunks long.
// Neighbouring rows are moved apart by half of the banks (a row of 20 chunks is so already), and pairs of
// rows by the other bits.
template <int BN>
DEVICE int transposed_chunk(int row, int chunk) {
  const int half = BN / 8 % 8 == 4 ? 0 : (row & 1) << 2;
  return row * (BN / 8) + (chunk ^ (half | (row >> 1 & 3)));
}

// A mask with bit t set if first + step t is inside [0, size), for each of the taps t.
DEVICE uint32_t inside(int first, int step, int taps, int size) {
  uint32_t bits = 0;
  for (int t = 0; t < taps; t++) bits |= (uint32_t)((unsigned)(first + step * t) < (unsigned)size) << t;
  return bits;
}

template <int BM, int BN, int WM, int WN, bool TRANSPOSED>
DEVICE void product(const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,
                    const Act* __restrict__ add, Act* __restrict__ y, Act* __restrict__ pre_activation,
                    float* __restrict__ z, const ProductParams& p) {
  constexpr int WARPS_N = BN / WN, THREADS = BM / WM * WARPS_N * 32;
  constexpr int LEFT = BM * 64, STAGE = LEFT + BN * 64;
  // Copies of each thread per step. LANES threads copy one row of a transposed right factor.
  constexpr int LEFTS = BM * 4 / THREADS, RIGHTS = BN * 4 / THREADS, LANES = THREADS / BK;
  constexpr int COPY_ROWS = THREADS / 4;
  static_assert(BM * 4 % THREADS == 0 && BN * 4 % THREADS == 0 && BN / 8 % LANES == 0, "whole copies");
  static_assert(COPY_ROWS % 8 == 0, "all rows of a thread are swizzled alike");
  DYNAMIC_SHARED(unsigned char, shared);
  // Target and sample of each row of the tile, behind the stages. The first pixel and the mask of taps of
  // each row are kept in the last stage, which is not filled before every thread has read them.
  int* const targets = reinterpret_cast<int*>(shared + STAGES * STAGE);
  int* const reads = reinterpret_cast<int*>(shared + (STAGES - 1) * STAGE);

  const int which = blockIdx.z, split = blockIdx.y, thread = threadIdx.x, lane = thread & 31,
            warp = thread >> 5;
  const int rows = rows_of(p, which);
  int m0, n0;
  tile_of(p, m0, n0);
  m0 *= BM;
  n0 *= BN;
  if (m0 >= rows) return;

  const int taps_y = p.taps_y[which], taps_x = p.taps_x[which], taps = taps_y * taps_x;
  for (int r = thread; r < BM; r += THREADS) {
    const Pixel at = pixel_of(p, which, min(m0 + r, rows - 1));
    const bool valid = m0 + r < rows;
    const uint32_t down = inside(at.y, p.dstep, taps_y, p.in_h);
    const uint32_t across = inside(at.x, p.dstep, taps_x, p.in_w);
    targets[2 * r] = valid ? at.target : -1;
    targets[2 * r + 1] = at.sample;
    reads[2 * r] = (at.sample * p.in_h + at.y) * p.in_w + at.x;
    reads[2 * r + 1] = valid ? (int)(down | across << 16) : 0;
  }
  __syncthreads();

  // This thread copies the chunk `chunk` of rows that are COPY_ROWS apart; of a transposed right factor,
  // chunks of one row that are LANES apart. Rows and columns beyond the end of the right factor repeat its
  // last; their results are not stored.
  const int chunk = thread & 3, row = thread >> 2;
  const int transposed_row = thread / LANES, transposed_col = thread % LANES;
  int pixel[LEFTS];
  uint32_t mask[LEFTS], weight_from[RIGHTS];
#pragma unroll
  for (int i = 0; i < LEFTS; i++) {
    pixel[i] = reads[2 * (row + i * COPY_ROWS)];
    mask[i] = (uint32_t)reads[2 * (row + i * COPY_ROWS) + 1];
  }
#pragma unroll
  for (int i = 0; i < RIGHTS; i++)
    weight_from[i] =
        TRANSPOSED ? min(n0 + 8 * (transposed_col + i * LANES), (p.columns - 1) / 8 * 8)
                   : weight_row_of(min(n0 + row + i * COPY_ROWS, p.columns - 1), p.columns, p.epilogue) *
                         p.weight_row;
  const int left_to = 16 * narrow_chunk(row, chunk);

  // The steps of the sum that this block computes, and the position (channel, tap) of the next one to copy.
  const int steps = (p.channels + BK - 1) / BK * taps;
  const int begin = (int)((int64_t)steps * split / p.splits);
  const int count = (int)((int64_t)steps * (split + 1) / p.splits) - begin;
  const int block0 = taps ? begin / taps : 0, tap0 = begin - block0 * taps;
  int c = block0 * BK, ty = taps ? tap0 / taps_x : 0, tx = tap0 - ty * taps_x;
  const int weight_at = p.weight_at[which];

  auto copy_step = [&](unsigned char* stage) {
    const uint32_t select = 1u << ty | 0x10000u << tx;
    const int shift = p.dstep * (ty * p.in_w + tx);
    const int tap = weight_at + ty * p.weight_y + tx * p.weight_x;
    const int channel = c + chunk * 8;
    const bool wanted = channel < p.channels;
    const Act* const left = x + channel;
#pragma unroll
    for (int i = 0; i < LEFTS; i++) {
      const bool some = wanted && (mask[i] & select) == select;
      const uint32_t from = some ? pixel[i] + shift : 0;
      cp_async16(stage + left_to + i * COPY_ROWS * 64, left + (uint64_t)from * (uint32_t)p.channels,
                 some ? 16 : 0);
    }
    const int deep = TRANSPOSED ? c + transposed_row : channel;
    const Act* const right = w + (deep < p.depth ? (TRANSPOSED ? deep * p.weight_row : deep) + tap : 0);
#pragma unroll
    for (int i = 0; i < RIGHTS; i++) {
      const int to = TRANSPOSED ? 16 * transposed_chunk<BN>(transposed_row, transposed_col + i * LANES)
                                : left_to + i * COPY_ROWS * 64;
      cp_async16(stage + LEFT + to, right + weight_from[i], deep < p.depth ? 16 : 0);
    }
    if (++tx == taps_x) {
      tx = 0;
      if (++ty == taps_y) {
        ty = 0;
        c += BK;
      }
    }
  };

  // Addresses in a stage that this lane passes to ldmatrix: rows of the left factor for both halves of a
  // step, and of the right factor.
  const int warp_m = warp / WARPS_N * WM, warp_n = warp % WARPS_N * WN;
  int left_address[BK / 16], right_address[TRANSPOSED ? WN / 16 : BK / 16];
#pragma unroll
  for (int k = 0; k < BK / 16; k++)
    left_address[k] = 64 * warp_m + 16 * narrow_chunk(lane & 15, 2 * k + (lane >> 4));
  if (TRANSPOSED) {
#pragma unroll
    for (int j = 0; j < WN / 16; j++)
      right_address[j] = LEFT + 16 * transposed_chunk<BN>(lane & 15, warp_n / 8 + 2 * j + (lane >> 4));
  } else {
#pragma unroll
    for (int k = 0; k < BK / 16; k++)
      right_address[k] =
          LEFT + 64 * warp_n + 16 * narrow_chunk((lane & 7) + (lane >> 4) * 8, 2 * k + (lane >> 3 & 1));
  }
  float sum[WM / 16][WN / 8][4] = {};
  auto multiply = [&](const unsigned char* stage, int k) {
    uint32_t a[WM / 16][4];
#pragma unroll
    for (int i = 0; i < WM / 16; i++) ldmatrix_x4(a[i], stage + left_address[k] + 16 * 64 * i);
#pragma unroll
    for (int j = 0; j < WN / 16; j++) {
      uint32_t b[4];
      if (TRANSPOSED)
        ldmatrix_x4_trans(b, stage + right_address[j] + 16 * k * (BN * 2));
      else
        ldmatrix_x4(b, stage + right_address[k] + 16 * 64 * j);
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
      for (int i = 0; i < WM / 16; i++) {
        mma_16816<Act>(sum[i][2 * j], a[i], first);
        mma_16816<Act>(sum[i][2 * j + 1], a[i], second);
      }
    }
  };

  // The copies of STAGES - 1 steps are in flight when the first is needed. After the barrier of a step, every
  // thread sees all copies of that step's stage, and the stage of the step before may be overwritten. The
  // copies are issued between the two halves of the products, so that the tensor cores are busy while
  // addresses are computed.
#pragma unroll
  for (int s = 0; s < STAGES - 1; s++) {
    if (s < count) copy_step(shared + s * STAGE);
    cp_async_commit();
  }
  int use = 0, fill = STAGES - 1;
  for (int s = 0; s < count; s++) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    static_assert(BK == 32, "two halves of a step");
    multiply(shared + use * STAGE, 0);
    if (s + STAGES - 1 < count) copy_step(shared + fill * STAGE);
    cp_async_commit();
    multiply(shared + use * STAGE, 1);
    use = use + 1 == STAGES ? 0 : use + 1;
    fill = fill + 1 == STAGES ? 0 : fill + 1;
  }
  __syncthreads();

  // The epilogue. Each warp moves its sums through shared memory, sixteen rows at a time, so that results are
  // stored in whole packets. Rows have a pitch of 8 or 24 banks modulo 32, so that the halves of a warp use
  // different banks.
  constexpr int PITCH = WN + 8, PACKETS = WN / 8;
  static_assert(PITCH % 32 == 8 || PITCH % 32 == 24, "rows of a quarter apart");
  float* const mine = reinterpret_cast<float*>(shared) + warp * 16 * PITCH;
#pragma unroll
  for (int i = 0; i < WM / 16; i++) {
#pragma unroll
    for (int j = 0; j < WN / 8; j++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float* const to = mine + ((lane >> 2) + 8 * h) * PITCH + 8 * j + 2 * (lane & 3);
        to[0] = sum[i][j][2 * h];
        to[1] = sum[i][j][2 * h + 1];
      }
    __syncwarp();
#pragma unroll
    for (int q = 0; q < 16 * PACKETS / 32; q++) {
      const int r = (lane + 32 * q) / PACKETS, packet = (lane + 32 * q) % PACKETS;
      const int at = warp_m + 16 * i + r, column = n0 + warp_n + 8 * packet, target = targets[2 * at];
      if (target < 0 || column >= p.columns) continue;
      float v[8];
      load8(mine + r * PITCH + 8 * packet, v);
      if (z) {
        const int64_t pixels = (int64_t)p.samples * p.out_h * p.out_w;
        float* const to = z + (split * pixels + target) * p.columns + column;
        if (p.columns % PACKET == 0)
          store8(to, v);
        else
#pragma unroll
          for (int e = 0; e < 8; e++)
            if (column + e < p.columns) to[e] = v[e];
      } else {
        const int64_t to = (int64_t)target * p.columns + column;
        float more[8];
        const int epilogue = TRANSPOSED ? 0 : p.epilogue;
        if (bias) {
          const int each = p.bias_each ? targets[2 * at + 1] * p.columns : 0;
          load_bias(bias + each, column, p.columns, epilogue, more);
#pragma unroll
          for (int e = 0; e < 8; e++) v[e] += more[e];
        }
        if (add) {
          load8(add + to, more);
#pragma unroll
          for (int e = 0; e < 8; e++) v[e] += more[e];
        }
        if (epilogue)
          apply_epilogue(v, target, column, p.columns, epilogue, y, pre_activation);
        else
          store8(y + to, v);
      }
    }
    __syncwarp();
  }
}

// PRODUCT(name, (bounds), template arguments): a kernel. Tiles come largest first, as in
// src/cuda/matmul/tile.rs. Two blocks of 128 threads with tiles of 64 x 64 or 64 x 80 per warp fill the
// registers of a multiprocessor, as does one block of 256 threads.
#define PRODUCT(name, bounds, ...)                                                                      \
  KERNEL(name, bounds,                                                                                  \
         (const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,           \
          const Act* __restrict__ add, Act* __restrict__ y, Act* __restrict__ pre_activation,           \
          float* __restrict__ z, ProductParams p)) {                                                    \
    product<__VA_ARGS__>(x, w, bias, add, y, pre_activation, z, p);                                     \
  }
PRODUCT(product_256x128, (256, 1), 256, 128, 64, 64, false)
PRODUCT(product_128x160, (128, 2), 128, 160, 64, 80, false)
PRODUCT(product_128x128, (128, 2), 128, 128, 64, 64, false)
PRODUCT(product_128x64, (128, 3), 128, 64, 64, 32, false)
PRODUCT(product_64x64, (128, 4), 64, 64, 32, 32, false)
PRODUCT(transposed_256x128, (256, 1), 256, 128, 64, 64, true)
PRODUCT(transposed_128x160, (128, 2), 128, 160, 64, 80, true)
PRODUCT(transposed_128x128, (128, 2), 128, 128, 64, 64, true)
PRODUCT(transposed_128x64, (128, 3), 128, 64, 64, 32, true)
PRODUCT(transposed_64x64, (128, 4), 64, 64, 32, 32, true)

#endif
