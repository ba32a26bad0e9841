// Products with gathered rows (product.cuh) on tensor cores, for 16-bit elements: linear maps, convolutions
// and their transposes.
//
// A block makes a BM x BN tile of y, a warp WM x WN of it in f32 registers (mma m16n8k16). The sum runs over
// channels in steps of 32, all taps of one step after the other (so that neighbouring taps meet in the
// cache), through a ring of STAGES stages in shared memory that cp.async fills; a tap outside the image, a
// channel, row or column too many comes as zeros. Rows of a stage are swizzled in 16-byte chunks so that
// neither copies nor ldmatrix meet a bank twice. Where the tiles are too few for the GPU, blockIdx.y splits
// the sum and `finish` (gemm.cu) adds the parts in order.
//
// grid: x tiles, y splits, z classes. Bytes moved at least: x, w, bias, add and y once; FLOPs: 2 rows columns
// taps channels. Results: y = epilogue(product + bias + add) in Act, and product + bias as `given` where that
// is wanted; or where z is given the bare product (or its parts) in f32.
#include "mma.cuh"
#include "product.cuh"

#if !defined(ACT_F32)

// Channels per step: rows of 64 bytes.
constexpr int BK = 32;

// 16-byte chunk of (row, chunk) in the left stage, and in the right one where its rows are columns of y. Two
// rows of four chunks fill all banks; the shift by pairs of rows makes any eight rows of one chunk do so too.
DEVICE int narrow_chunk(int row, int chunk) { return row * 4 + (chunk ^ (row >> 1 & 3)); }

// The same for the turned right stage: rows are channels, BN / 8 chunks long. Neighbouring rows differ by
// half the banks (a row of 20 chunks does by itself), pairs by the rest.
template <int BN>
DEVICE int turned_chunk(int row, int chunk) {
  const int half = BN / 8 % 8 == 4 ? 0 : (row & 1) << 2;
  return row * (BN / 8) + (chunk ^ (half | (row >> 1 & 3)));
}

// Bits t of the taps first + step t that are inside [0, size).
DEVICE uint32_t inside(int first, int step, int taps, int size) {
  uint32_t bits = 0;
  for (int t = 0; t < taps; t++) bits |= (uint32_t)((unsigned)(first + step * t) < (unsigned)size) << t;
  return bits;
}

template <int BM, int BN, int WM, int WN, int STAGES, bool TURNED>
DEVICE void product(const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,
                    const Act* __restrict__ add, Act* __restrict__ y, Act* __restrict__ given,
                    float* __restrict__ z, const ProductParams& p) {
  constexpr int WARPS_N = BN / WN, THREADS = BM / WM * WARPS_N * 32;
  constexpr int LEFT = BM * 64, STAGE = LEFT + BN * 64;
  // Copies per thread and step; where the right factor is turned, LANES threads copy one of its rows.
  constexpr int LEFTS = BM * 4 / THREADS, RIGHTS = BN * 4 / THREADS, LANES = THREADS / BK;
  constexpr int COPY_ROWS = THREADS / 4;
  static_assert(BM * 4 % THREADS == 0 && BN * 4 % THREADS == 0 && BN / 8 % LANES == 0, "whole copies");
  static_assert(COPY_ROWS % 8 == 0, "all rows of a thread are swizzled alike");
  DYNAMIC_SHARED(unsigned char, shared);
  // Target and sample of each row; until the last stage is needed, what each row reads stands there.
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

  // This thread's copies: chunk `chunk` of rows COPY_ROWS apart, or LANES chunks apart of one turned row.
  // Rows and columns of the right factor beyond its end repeat its last: what they make is written nowhere.
  const int chunk = thread & 3, row = thread >> 2, turned_row = thread / LANES, turned_col = thread % LANES;
  int pixel[LEFTS];
  uint32_t mask[LEFTS], right_from[RIGHTS];
#pragma unroll
  for (int i = 0; i < LEFTS; i++) {
    pixel[i] = reads[2 * (row + i * COPY_ROWS)];
    mask[i] = (uint32_t)reads[2 * (row + i * COPY_ROWS) + 1];
  }
#pragma unroll
  for (int i = 0; i < RIGHTS; i++)
    right_from[i] = TURNED ? min(n0 + 8 * (turned_col + i * LANES), (p.columns - 1) / 8 * 8)
                           : right_row_of(min(n0 + row + i * COPY_ROWS, p.columns - 1), p.columns, p.epilogue) *
                                 p.right_row;
  const int left_to = 16 * narrow_chunk(row, chunk);

  // The part of the sum that is this block's, and where it stands.
  const int steps = (p.channels + BK - 1) / BK * taps;
  const int begin = (int)((int64_t)steps * split / p.splits);
  const int count = (int)((int64_t)steps * (split + 1) / p.splits) - begin;
  const int block0 = taps ? begin / taps : 0, tap0 = begin - block0 * taps;
  int c = block0 * BK, ty = taps ? tap0 / taps_x : 0, tx = tap0 - ty * taps_x;
  const int right_at = p.right_at[which];

  auto copy_step = [&](unsigned char* stage) {
    const uint32_t select = 1u << ty | 0x10000u << tx;
    const int shift = p.dstep * (ty * p.in_w + tx);
    const int tap = right_at + ty * p.right_y + tx * p.right_x;
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
    const int deep = TURNED ? c + turned_row : channel;
    const Act* const right = w + (deep < p.depth ? (TURNED ? deep * p.right_row : deep) + tap : 0);
#pragma unroll
    for (int i = 0; i < RIGHTS; i++) {
      const int to =
          TURNED ? 16 * turned_chunk<BN>(turned_row, turned_col + i * LANES) : left_to + i * COPY_ROWS * 64;
      cp_async16(stage + LEFT + to, right + right_from[i], deep < p.depth ? 16 : 0);
    }
    if (++tx == taps_x) {
      tx = 0;
      if (++ty == taps_y) {
        ty = 0;
        c += BK;
      }
    }
  };

  // This lane's rows for ldmatrix, in the stage: of the left factor for both halves of a step, and of the
  // right one.
  const int warp_m = warp / WARPS_N * WM, warp_n = warp % WARPS_N * WN;
  int left_row[BK / 16], right_row[TURNED ? WN / 16 : BK / 16];
#pragma unroll
  for (int k = 0; k < BK / 16; k++)
    left_row[k] = 64 * warp_m + 16 * narrow_chunk(lane & 15, 2 * k + (lane >> 4));
  if (TURNED) {
#pragma unroll
    for (int j = 0; j < WN / 16; j++)
      right_row[j] = LEFT + 16 * turned_chunk<BN>(lane & 15, warp_n / 8 + 2 * j + (lane >> 4));
  } else {
#pragma unroll
    for (int k = 0; k < BK / 16; k++)
      right_row[k] =
          LEFT + 64 * warp_n + 16 * narrow_chunk((lane & 7) + (lane >> 4) * 8, 2 * k + (lane >> 3 & 1));
  }
  float sum[WM / 16][WN / 8][4] = {};
  auto multiply = [&](const unsigned char* stage, int k) {
    uint32_t a[WM / 16][4];
#pragma unroll
    for (int i = 0; i < WM / 16; i++) ldmatrix_x4(a[i], stage + left_row[k] + 16 * 64 * i);
#pragma unroll
    for (int j = 0; j < WN / 16; j++) {
      uint32_t b[4];
      if (TURNED)
        ldmatrix_x4_trans(b, stage + right_row[j] + 16 * k * (BN * 2));
      else
        ldmatrix_x4(b, stage + right_row[k] + 16 * 64 * j);
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
#pragma unroll
      for (int i = 0; i < WM / 16; i++) {
        mma_16816<Act>(sum[i][2 * j], a[i], first);
        mma_16816<Act>(sum[i][2 * j + 1], a[i], second);
      }
    }
  };

  // All stages but the last are under way when the first is needed. The barrier of a step shows everybody's
  // copies of its stage, and that the stage before is free. Copies stand between the products, so that the tensor
  // cores have work while addresses are found.
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

  // Sixteen rows of the warp at a time through shared memory, to be written in whole packets. A pitch of 8
  // banks more than whole lines of 32 (or 16 less) keeps the halves of a warp apart.
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
        const int epilogue = TURNED ? 0 : p.epilogue;
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
          end(v, target, column, p.columns, epilogue, y, given);
        else
          store8(y + to, v);
      }
    }
    __syncwarp();
  }
}

// Tiles, largest first; `turned` where w has the sum's channels as rows. Two blocks of 128 threads with tiles
// of 64 x 64 or 64 x 80 per warp fill the registers of an SM, as does one of 256.
KERNEL(product_256x128, (256, 1),
       (const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,
        const Act* __restrict__ add, Act* __restrict__ y, Act* __restrict__ given, float* __restrict__ z,
        ProductParams p)) {
  product<256, 128, 64, 64, 4, false>(x, w, bias, add, y, given, z, p);
}
KERNEL(product_128x160, (128, 2),
       (const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,
        const Act* __restrict__ add, Act* __restrict__ y, Act* __restrict__ given, float* __restrict__ z,
        ProductParams p)) {
  product<128, 160, 64, 80, 4, false>(x, w, bias, add, y, given, z, p);
}
KERNEL(product_128x128, (128, 2),
       (const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,
        const Act* __restrict__ add, Act* __restrict__ y, Act* __restrict__ given, float* __restrict__ z,
        ProductParams p)) {
  product<128, 128, 64, 64, 4, false>(x, w, bias, add, y, given, z, p);
}
KERNEL(product_128x64, (128, 3),
       (const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,
        const Act* __restrict__ add, Act* __restrict__ y, Act* __restrict__ given, float* __restrict__ z,
        ProductParams p)) {
  product<128, 64, 64, 32, 4, false>(x, w, bias, add, y, given, z, p);
}
KERNEL(product_64x64, (128, 4),
       (const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,
        const Act* __restrict__ add, Act* __restrict__ y, Act* __restrict__ given, float* __restrict__ z,
        ProductParams p)) {
  product<64, 64, 32, 32, 4, false>(x, w, bias, add, y, given, z, p);
}
KERNEL(turned_256x128, (256, 1),
       (const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,
        const Act* __restrict__ add, Act* __restrict__ y, Act* __restrict__ given, float* __restrict__ z,
        ProductParams p)) {
  product<256, 128, 64, 64, 4, true>(x, w, bias, add, y, given, z, p);
}
KERNEL(turned_128x160, (128, 2),
       (const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,
        const Act* __restrict__ add, Act* __restrict__ y, Act* __restrict__ given, float* __restrict__ z,
        ProductParams p)) {
  product<128, 160, 64, 80, 4, true>(x, w, bias, add, y, given, z, p);
}
KERNEL(turned_128x128, (128, 2),
       (const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,
        const Act* __restrict__ add, Act* __restrict__ y, Act* __restrict__ given, float* __restrict__ z,
        ProductParams p)) {
  product<128, 128, 64, 64, 4, true>(x, w, bias, add, y, given, z, p);
}
KERNEL(turned_128x64, (128, 3),
       (const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,
        const Act* __restrict__ add, Act* __restrict__ y, Act* __restrict__ given, float* __restrict__ z,
        ProductParams p)) {
  product<128, 64, 64, 32, 4, true>(x, w, bias, add, y, given, z, p);
}
KERNEL(turned_64x64, (128, 4),
       (const Act* __restrict__ x, const Act* __restrict__ w, const Act* __restrict__ bias,
        const Act* __restrict__ add, Act* __restrict__ y, Act* __restrict__ given, float* __restrict__ z,
        ProductParams p)) {
  product<64, 64, 32, 32, 4, true>(x, w, bias, add, y, given, z, p);
}

#endif
