// Systematic and stratified resampling of one population of any size, and moving rows by ancestors.
//
// log-weights --peaks--> largest of each chunk --totals--> integer weight and sums of each chunk --ends--> where each
// particle's offspring end --merge--> ancestor of each slot.
//
// No offspring can be counted before the total is known, so one pass with a look-back would have to store the cumulative
// weights and read them again: computing the weights twice from the log-weights moves fewer bytes (24 per particle in all),
// waits for no other block, and orders the sums of f64. Chunks are whole tiles, at most 1024 of them, so that a block adds
// up what is before it by itself. Weights are integers (exact.cuh): their sums have no order.
#include "offspring.cuh"

constexpr int BLOCK = 256;
constexpr int EACH = 4;
constexpr int TILE = BLOCK * EACH;

struct ChunksParams {
  int32_t particles;
  // Tiles in a chunk, and chunks.
  int32_t tiles;
  int32_t chunks;
  // Fraction bits of integer weights.
  int32_t fraction;
};

DEVICE bool is_alive(float v) { return (__float_as_uint(v) >> 23 & 0xFF) != 0xFF; }

// This thread's log-weights of the tile at `first`; -inf for what is dead or beyond the last. A chunk starts at a multiple of
// 16 bytes.
DEVICE void load_tile(const float* log_weights, int64_t first, int32_t particles, float (&v)[EACH]) {
  const int64_t at = first + threadIdx.x * EACH;
  if (at + EACH <= particles) {
    const Words w = load_words(log_weights + at);
#pragma unroll
    for (int i = 0; i < EACH; i++) v[i] = __uint_as_float(w.w[i]);
  } else {
#pragma unroll
    for (int i = 0; i < EACH; i++) v[i] = at + i < particles ? log_weights[at + i] : -DAS_INFINITY;
  }
#pragma unroll
  for (int i = 0; i < EACH; i++)
    if (!is_alive(v[i])) v[i] = -DAS_INFINITY;
}

// The largest log-weight of all chunks; -inf where everything is dead.
DEVICE float peak_of(const float* peak, int chunks, float* scratch) {
  float top = -DAS_INFINITY;
  for (int i = threadIdx.x; i < chunks; i += BLOCK) top = fmaxf(top, peak[i]);
  return block_max(top, scratch);
}

// Weight relative to the largest: where everything is dead, all are alike.
DEVICE double relative(float v, float top, bool exists) {
  if (top == -DAS_INFINITY) return exists ? 1.0 : 0.0;
  return exponential(sub(v, top));
}

// Largest log-weight of each chunk, one block each. Reads 4 bytes per particle.
KERNEL(peaks, (256), (const float* __restrict__ log_weights, float* __restrict__ peak, ChunksParams p)) {
  SHARED(float, scratch, 32);
  float top = -DAS_INFINITY;
  int64_t first = (int64_t)blockIdx.x * p.tiles * TILE;
  for (int tile = 0; tile < p.tiles; tile++, first += TILE) {
    float v[EACH];
    load_tile(log_weights, first, p.particles, v);
#pragma unroll
    for (int i = 0; i < EACH; i++) top = fmaxf(top, v[i]);
  }
  top = block_max(top, scratch);
  if (threadIdx.x == 0) peak[blockIdx.x] = top;
}

// Of each chunk the integer weight, and the sums of relative weights and of their squares; one block each. Reads 4 bytes
// per particle; about 40 operations of f64 each.
KERNEL(totals, (256),
       (const float* __restrict__ log_weights, const float* __restrict__ peak, uint64_t* __restrict__ weight,
        double* __restrict__ sums, ChunksParams p)) {
  SHARED(float, tops, 32);
  SHARED(uint64_t, integers, 32);
  SHARED(double, numbers, 32);
  const float top = peak_of(peak, p.chunks, tops);
  uint64_t total = 0;
  double sum = 0.0, squares = 0.0;
  int64_t first = (int64_t)blockIdx.x * p.tiles * TILE;
  for (int tile = 0; tile < p.tiles; tile++, first += TILE) {
    float v[EACH];
    load_tile(log_weights, first, p.particles, v);
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const double w = relative(v[i], top, first + threadIdx.x * EACH + i < p.particles);
      total += fixed_point(w, p.fraction);
      sum += w;
      squares += w * w;
    }
  }
  total = block_sum(total, integers);
  sum = block_sum(sum, numbers);
  squares = block_sum(squares, numbers);
  if (threadIdx.x == 0) {
    weight[blockIdx.x] = total;
    sums[2 * blockIdx.x] = sum;
    sums[2 * blockIdx.x + 1] = squares;
  }
}

struct EndsParams {
  uint64_t seed;
  // As in ChunksParams.
  int32_t particles;
  int32_t tiles;
  int32_t chunks;
  int32_t fraction;
  uint32_t step;
  uint32_t purpose;
  uint32_t prompt;
  uint32_t particle;
  int32_t systematic;
};
// Where the offspring of each particle end: a never decreasing list whose last number is that of the particles. One block
// per chunk. Block 0 also writes log sum exp of the log-weights and the effective sample size. Reads 4 bytes per particle
// and writes 4; about 60 operations of f64 each.
KERNEL(ends, (256),
       (const float* __restrict__ log_weights, const float* __restrict__ peak, const uint64_t* __restrict__ weight,
        const double* __restrict__ sums, uint32_t* __restrict__ end, double* __restrict__ summary, EndsParams p)) {
  SHARED(float, tops, 32);
  SHARED(uint64_t, integers, 32);
  SHARED(double, numbers, 32);
  const float top = peak_of(peak, p.chunks, tops);
  uint64_t before = 0, total = 0;
  for (int i = threadIdx.x; i < p.chunks; i += BLOCK) {
    total += weight[i];
    before += i < (int)blockIdx.x ? weight[i] : 0;
  }
  total = block_sum(total, integers);
  before = block_sum(before, integers);
  const Draws d = {{p.seed, p.step, p.purpose}, p.prompt, p.particle};
  int64_t first = (int64_t)blockIdx.x * p.tiles * TILE;
  for (int tile = 0; tile < p.tiles && first < p.particles; tile++, first += TILE) {
    float v[EACH];
    load_tile(log_weights, first, p.particles, v);
    const int64_t at = first + threadIdx.x * EACH;
    uint64_t w[EACH], mine = 0, all;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      w[i] = fixed_point(relative(v[i], top, at + i < p.particles), p.fraction);
      mine += w[i];
    }
    uint64_t cumulative = before + block_scan(mine, all, integers) - mine;
    before += all;
    uint32_t e[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      cumulative += w[i];
      e[i] = offspring_end(cumulative, p.particles, total, p.systematic, d);
    }
    if (at + EACH <= p.particles) {
      store_words(end + at, Words{{e[0], e[1], e[2], e[3]}});
    } else {
#pragma unroll
      for (int i = 0; i < EACH; i++)
        if (at + i < p.particles) end[at + i] = e[i];
    }
  }
  if (blockIdx.x) return;
  double sum = 0.0, squares = 0.0;
  for (int i = threadIdx.x; i < p.chunks; i += BLOCK) {
    sum += sums[2 * i];
    squares += sums[2 * i + 1];
  }
  sum = block_sum(sum, numbers);
  squares = block_sum(squares, numbers);
  if (threadIdx.x == 0) {
    summary[0] = top == -DAS_INFINITY ? DAS_DEAD : add(top, logarithm(sum));
    summary[1] = sum * sum / squares;
  }
}

// Items of a block of `merge`.
constexpr int ITEMS = 2048;

// How many of the particles b with b + end[b] < `diagonal` there are, by one warp: 33 pieces at a time.
DEVICE int32_t before_diagonal(const uint32_t* end, int32_t particles, uint32_t diagonal) {
  const int lane = threadIdx.x & 31;
  int32_t low = diagonal > (uint32_t)particles ? (int32_t)(diagonal - particles) : 0;
  int32_t high = diagonal < (uint32_t)particles ? (int32_t)diagonal : particles;
  while (low < high) {
    const int32_t step = (high - low + 32) / 33, b = low + (lane + 1) * step - 1;
    const bool less = b < high && (uint32_t)b + end[b] < diagonal;
    const int32_t pieces = __popc(__ballot_sync(FULL_WARP, less));
    // The first that is not less bounds from above, if one was looked at.
    const int32_t bound = low + (pieces + 1) * step - 1;
    if (pieces < 32 && bound < high) high = bound;
    low += pieces * step;
  }
  return low;
}

// Ancestors from the ends of offspring: a walk along both lists at once, in which a slot below the end of particle b is b's,
// and else the walk goes on to particle b + 1, which is step b + end[b]. Every block takes ITEMS steps, whatever the
// weights: particles without offspring, or with all of them, make no block slower. Reads 4 bytes per particle and writes 4.
KERNEL(merge, (256), (const uint32_t* __restrict__ end, uint32_t* __restrict__ ancestors, int32_t particles)) {
  SHARED(uint8_t, passed, ITEMS);
  SHARED(uint32_t, mask, ITEMS / 32);
  SHARED(int32_t, count, ITEMS / 32);
  SHARED(int32_t, range, 2);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const uint32_t first = blockIdx.x * (uint32_t)ITEMS, steps = 2 * (uint32_t)particles;
  const uint32_t last = steps - first < ITEMS ? steps : first + ITEMS;
  if (warp < 2) {
    const int32_t at = before_diagonal(end, particles, warp ? last : first);
    if (lane == 0) range[warp] = at;
  }
  for (int i = threadIdx.x; i < ITEMS / 4; i += BLOCK) reinterpret_cast<uint32_t*>(passed)[i] = 0;
  __syncthreads();
  const int32_t from = range[0], to = range[1];
  for (int32_t b = from + (int32_t)threadIdx.x; b < to; b += BLOCK) passed[(uint32_t)b + end[b] - first] = 1;
  __syncthreads();
  bool particle[ITEMS / BLOCK];
#pragma unroll
  for (int k = 0; k < ITEMS / BLOCK; k++) {
    particle[k] = passed[k * BLOCK + threadIdx.x];
    const uint32_t m = __ballot_sync(FULL_WARP, particle[k]);
    if (lane == 0) mask[k * (BLOCK / 32) + warp] = m;
  }
  __syncthreads();
  if (warp == 0) {
    // 64 words by 32 lanes, two each.
    const int32_t a = __popc(mask[2 * lane]), b = __popc(mask[2 * lane + 1]);
    int32_t sum = a + b;
#pragma unroll
    for (int o = 1; o < 32; o <<= 1) {
      const int32_t x = __shfl_up_sync(FULL_WARP, sum, o);
      if (lane >= o) sum += x;
    }
    count[2 * lane] = sum - a - b;
    count[2 * lane + 1] = sum - b;
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < ITEMS / BLOCK; k++) {
    const int word = k * (BLOCK / 32) + warp;
    const uint32_t step = first + (uint32_t)(word * 32 + lane);
    if (particle[k] || step >= last) continue;
    const int32_t b = from + count[word] + __popc(mask[word] & ((1u << lane) - 1));
    ancestors[step - (uint32_t)b] = (uint32_t)b;
  }
}

struct RowsParams {
  // Rows of the result, and units of a row; fewer than 2^31 units in all.
  int32_t rows;
  int32_t units;
};
DEVICE void put(Words* p, Words v) { store_words(p, v); }
template <class T>
DEVICE void put(T* p, T v) {
  *p = v;
}
template <class T>
DEVICE void move_row(const T* x, const uint32_t* ancestors, T* y, RowsParams p) {
  const uint32_t i = blockIdx.x * BLOCK + threadIdx.x, units = p.units;
  if (i >= (uint32_t)p.rows * units) return;
  const uint32_t row = i / units;
  put(y + i, x[(int64_t)ancestors[row] * units + (i - row * units)]);
}
// y[i] = x[ancestors[i]], a row at a time; a thread per unit of 16, 8 or 4 bytes. Bytes moved: twice those of the rows, and
// 4 for each ancestor.
KERNEL(rows16, (256),
       (const uint32_t* __restrict__ x, const uint32_t* __restrict__ ancestors, uint32_t* __restrict__ y, RowsParams p)) {
  move_row(reinterpret_cast<const Words*>(x), ancestors, reinterpret_cast<Words*>(y), p);
}
KERNEL(rows8, (256),
       (const uint32_t* __restrict__ x, const uint32_t* __restrict__ ancestors, uint32_t* __restrict__ y, RowsParams p)) {
  move_row(reinterpret_cast<const uint64_t*>(x), ancestors, reinterpret_cast<uint64_t*>(y), p);
}
KERNEL(rows4, (256),
       (const uint32_t* __restrict__ x, const uint32_t* __restrict__ ancestors, uint32_t* __restrict__ y, RowsParams p)) {
  move_row(x, ancestors, y, p);
}
