// Running sums over all tiles of a launch in one pass, by decoupled look-back (Merrill and Garland 2016): a
// block publishes the sum of its tile, adds up what earlier tiles have published, back to the nearest tile
// that has published the sum of everything up to itself, and then publishes that sum for its own tile too.
//
// Blocks take their tiles from a counter (`ticket`). A block therefore waits only for blocks that have
// already begun, so the wait always ends, whatever the order of blocks and however many run at once. A status
// is one 64-bit word that is read and written whole, and blocks exchange nothing else within a launch, so no
// fence is needed and no order of memory is relied on. Status words and counters must be zero before the
// launch.
#pragma once
#include "reduce.cuh"

constexpr int BLOCK = 256;
constexpr int WARPS = BLOCK / 32;
// A tile is ROWS rows of EACH consecutive items per thread.
constexpr int EACH = 4;
constexpr int ROW = BLOCK * EACH;
constexpr int ROWS = 32 / WARPS;
constexpr int TILE = ROWS * ROW;

// A status is 0 (nothing published), the tile's own sum plus one, or this bit and the sum of everything up to
// the tile. Sums are below 2^63, except perhaps that of the last tile, whose status no tile reads.
constexpr uint64_t ALL = 1ull << 63;

DEVICE uint64_t peek(const uint64_t* p) {
#if defined(__CUDACC__)
  unsigned long long x;
  asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];" : "=l"(x) : "l"(__cvta_generic_to_global(p)) : "memory");
  return x;
#else
  return emu::peek(p);
#endif
}
DEVICE void publish(uint64_t* p, uint64_t x) {
#if defined(__CUDACC__)
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(__cvta_generic_to_global(p)),
               "l"((unsigned long long)x)
               : "memory");
#else
  emu::publish(p, x);
#endif
}

// The next tile for this block. All threads call; `place` is shared memory.
DEVICE int32_t ticket(uint32_t* counter, int32_t* place) {
  if (threadIdx.x == 0) *place = (int32_t)atomicAdd(counter, 1u);
  __syncthreads();
  return *place;
}

// Reads the statuses of 32 predecessors, of tile `at` in each lane and the nearest in lane 0. Repeats until
// every status is published up to the first one for which `ends` holds; `beyond` stands for the status of a
// tile before the first. Returns a mask of the lanes up to that status, or of all lanes if `ends` holds for
// none (then `ended` is false). One warp calls.
template <class Ends>
DEVICE uint32_t inspect_predecessors(const uint64_t* status, int32_t at, uint64_t beyond, Ends ends,
                                     uint64_t& word, bool& ended) {
  for (;;) {
    word = at < 0 ? beyond : peek(status + at);
    const uint32_t unknown = __ballot_sync(FULL_WARP, word == 0), end = __ballot_sync(FULL_WARP, ends(word));
    const uint32_t first = end & (0u - end);
    ended = end != 0;
    if (!(unknown & (first - 1))) return first | (first - 1);
    __nanosleep(32);
  }
}

// The sum of all tiles before this one, whose own sum is `sum`. One warp calls.
DEVICE uint64_t look_back(uint64_t sum, int32_t tile, uint64_t* status) {
  const int lane = threadIdx.x & 31;
  if (lane == 0) publish(status + tile, tile ? sum + 1 : ALL | sum);
  if (tile == 0) return 0;
  uint64_t before = 0, word;
  bool ended = false;
  for (int32_t at = tile - 1 - lane; !ended; at -= 32) {
    const auto ends = [](uint64_t w) { return (w & ALL) != 0; };
    const uint32_t lanes = inspect_predecessors(status, at, ALL, ends, word, ended);
    before += warp_sum(lanes >> lane & 1 ? (word & ALL ? word ^ ALL : word - 1) : 0);
  }
  if (lane == 0) publish(status + tile, ALL | (before + sum));
  return before;
}

// Replaces items by their inclusive running sums over all tiles; x[r] holds this thread's items of row r of
// the tile. All threads call; `scratch` is shared memory for 32 sums. The block of the last tile writes the
// sum of everything to `total`.
DEVICE void running_sums(uint64_t (&x)[ROWS][EACH], int32_t tile, int32_t tiles, uint64_t* status,
                         uint64_t* total, uint64_t* scratch) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  uint64_t upto[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
#pragma unroll
    for (int i = 1; i < EACH; i++) x[r][i] += x[r][i - 1];
    upto[r] = warp_scan(x[r][EACH - 1]);
    if (lane == 31) scratch[r * WARPS + warp] = upto[r];
  }
  __syncthreads();
  if (warp == 0) {
    const uint64_t sum = scratch[lane], sums = warp_scan(sum), all = __shfl_sync(FULL_WARP, sums, 31);
    const uint64_t before = look_back(all, tile, status);
    scratch[lane] = before + sums - sum;
    if (lane == 0 && tile == tiles - 1) *total = before + all;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const uint64_t before = scratch[r * WARPS + warp] + upto[r] - x[r][EACH - 1];
#pragma unroll
    for (int i = 0; i < EACH; i++) x[r][i] += before;
  }
}
