// Ancestors of one population of any size, from its weights relative to the largest.
//
//   relative weights --cumulate--> cumulative integer weights, then
//   systematic, stratified   --place--> ancestor of each slot
//   SSP                      --trades--> where each particle's offspring end --merge--> ancestors
//   multinomial              --draws--> offspring of each particle --tally--> ends --merge--> ancestors
//   residual                 --wholes--> whole copies --rest_draws--> the rest, then as multinomial
//
// Weights are integers (exact.cuh): their sums have no order, and every choice is the host's. No offspring
// can be counted before the total is known, so systematic resampling moves 28 bytes per particle: 8 + 8 to
// add up in one pass (lookback.cuh), 8 + 4 to place.
//
// SSP goes over the particles once. The rest of a particle is the fraction of its expected number of copies.
// In step k the particle whose rest is still open meets particle k: one of the two is settled, with one copy
// more or none for its rest, and the other goes on to step k + 1 with what is left of both rests. That looks
// serial. But what is left after step k is the fractional part of the sum of the first rests, no matter which
// particle has it, so it is known for all steps at once from the cumulative weights. Which particle gets the
// copy that a step completes depends on the next step in which the particle that goes on changes; a look-back
// from the last tile to the first finds that step.
#include "lookback.cuh"
#include "offspring.cuh"

// Words of 64 bits that are zero before the first kernel, counters and statuses of three scans among them.
enum Control { TOTAL, WHOLES, HITS, COUNTERS, STATUSES = COUNTERS + 3 };

struct ResampleParams {
  uint64_t seed;
  int32_t particles;
  // Of TILE particles.
  int32_t tiles;
  // Fraction bits of integer weights.
  int32_t fraction;
  uint32_t step;
  uint32_t purpose;
  uint32_t prompt;
  uint32_t particle;
  int32_t systematic;
};

// The ticket counter of scan 0, 1 or 2.
DEVICE uint32_t* counter(uint64_t* control, int scan) {
  return reinterpret_cast<uint32_t*>(control + COUNTERS + scan);
}
DEVICE uint64_t* statuses(uint64_t* control, int scan, const ResampleParams& p) {
  return control + STATUSES + (int64_t)scan * p.tiles;
}
DEVICE Draws draws_of(const ResampleParams& p) { return {{p.seed, p.step, p.purpose}, p.prompt, p.particle}; }

// EACH weights from `at`, a multiple of EACH; 0 beyond the last.
DEVICE void load_four(const double* weights, int64_t at, int32_t particles, double (&w)[EACH]) {
  if (at + EACH <= particles) {
#pragma unroll
    for (int i = 0; i < EACH; i += 2) {
      const Words two = load_words(weights + at + i);
      w[i] = bits((uint64_t)two.w[1] << 32 | two.w[0]);
      w[i + 1] = bits((uint64_t)two.w[3] << 32 | two.w[2]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < EACH; i++) w[i] = at + i < particles ? weights[at + i] : 0.0;
  }
}
DEVICE void store_four(uint32_t* y, int64_t at, int32_t particles, const uint32_t (&x)[EACH]) {
  if (at + EACH <= particles) {
    store_words(y + at, Words{{x[0], x[1], x[2], x[3]}});
  } else {
#pragma unroll
    for (int i = 0; i < EACH; i++)
      if (at + i < particles) y[at + i] = x[i];
  }
}
// EACH cumulative weights; beyond the last particle, that of the last.
DEVICE void load_four(const uint64_t* cumulative, int64_t at, int32_t particles, uint64_t (&c)[EACH]) {
#pragma unroll
  for (int i = 0; i < EACH; i++) c[i] = cumulative[at + i < particles ? at + i : particles - 1];
}
// The first item of this thread in a row of a tile.
DEVICE int64_t item(int32_t tile, int row) {
  return (int64_t)tile * TILE + row * ROW + (int)threadIdx.x * EACH;
}
DEVICE void store_counts(uint32_t* y, int32_t tile, int32_t particles, const uint64_t (&x)[ROWS][EACH]) {
#pragma unroll
  for (int r = 0; r < ROWS; r++)
    store_four(y, item(tile, r), particles,
               {(uint32_t)x[r][0], (uint32_t)x[r][1], (uint32_t)x[r][2], (uint32_t)x[r][3]});
}

// Cumulative integer weights and their total, of weights in [0, 1]. A block per tile. Reads 8 bytes per
// particle and writes 8.
KERNEL(cumulate, (256),
       (const double* __restrict__ relative, uint64_t* control, uint64_t* __restrict__ cumulative,
        ResampleParams p)) {
  SHARED(int32_t, place, 1);
  SHARED(uint64_t, scratch, 32);
  const int32_t tile = ticket(counter(control, 0), place);
  uint64_t x[ROWS][EACH];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    double w[EACH];
    load_four(relative, item(tile, r), p.particles, w);
#pragma unroll
    for (int i = 0; i < EACH; i++) x[r][i] = fixed_point(w[i], p.fraction);
  }
  running_sums(x, tile, p.tiles, statuses(control, 0, p), control + TOTAL, scratch);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const int64_t at = item(tile, r);
    if (at + EACH <= p.particles) {
#pragma unroll
      for (int i = 0; i < EACH; i += 2) {
        const uint64_t a = x[r][i], b = x[r][i + 1];
        store_words(cumulative + at + i,
                    Words{{(uint32_t)a, (uint32_t)(a >> 32), (uint32_t)b, (uint32_t)(b >> 32)}});
      }
    } else {
#pragma unroll
      for (int i = 0; i < EACH; i++)
        if (at + i < p.particles) cumulative[at + i] = x[r][i];
    }
  }
}

// ---- SSP

// m times the cumulative weight up to particle k, modulo the total; 0 before the first particle.
DEVICE uint64_t left_over(const uint64_t* cumulative, int64_t k, uint32_t m, uint64_t total) {
  if (k < 0) return 0;
  uint64_t left;
  share(m, cumulative[k], total, left);
  return left;
}

// What a tile publishes about its first step in which the trading particle changes (`trade` of
// offspring.cuh): that there is no such step, or whether a whole offspring is handed over in it.
enum First { NO_CHANGE = 1, NO_WHOLE, WHOLE };

// The same for the four steps of a thread.
DEVICE uint32_t first_of(uint32_t changes, uint32_t wholes) {
  if (!changes) return NO_CHANGE;
  return wholes & changes & (0u - changes) ? WHOLE : NO_WHOLE;
}

// SSP: where the offspring of each particle end (`trade` of offspring.cuh). That depends on the next change
// of the trading particle, which is mostly a few particles later; otherwise it is found by a look-back
// through the tiles from the last to the first. Reads 8 bytes per particle and writes 4; about 200 operations
// for each.
KERNEL(trades, (256),
       (const uint64_t* __restrict__ cumulative, uint64_t* control, uint32_t* __restrict__ end,
        ResampleParams p)) {
  SHARED(int32_t, place, 1);
  // For each warp in each row, in order: its own first change as for a tile, and the first change after it.
  SHARED(uint32_t, own, 32);
  SHARED(uint32_t, later, 32);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int32_t order = ticket(counter(control, 1), place), tile = p.tiles - 1 - order;
  uint64_t* const status = statuses(control, 1, p);
  const uint64_t total = control[TOTAL];
  const uint32_t m = p.particles;
  const Draws d = draws_of(p);
  uint32_t e[ROWS][EACH];
  // Bit masks over this thread's steps (is there a change, is there a whole), and masks of the lanes that
  // have a change.
  uint32_t changes = 0, wholes = 0, lanes[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const int64_t at = item(tile, r);
    uint64_t c[EACH], left[EACH];
    load_four(cumulative, at, p.particles, c);
#pragma unroll
    for (int i = 0; i < EACH; i++) e[r][i] = share(m, c[i], total, left[i]);
    uint64_t before = __shfl_up_sync(FULL_WARP, left[EACH - 1], 1);
    uint64_t last = __shfl_up_sync(FULL_WARP, left[EACH - 2], 1);
    if (lane == 0 && at < p.particles) {
      before = left_over(cumulative, at - 1, m, total);
      last = left_over(cumulative, at - 2, m, total);
    }
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      bool whole = false, change = false;
      if (at + i > 0 && at + i < p.particles)
        change = trade(left[i], before, last, total, draw(d, (uint32_t)(at + i - 1)), whole);
      changes |= (uint32_t)change << (r * EACH + i);
      wholes |= (uint32_t)whole << (r * EACH + i);
      last = before;
      before = left[i];
    }
    const uint32_t mine = first_of(changes >> (r * EACH) & 0xFu, wholes >> (r * EACH));
    lanes[r] = __ballot_sync(FULL_WARP, mine != NO_CHANGE);
    const uint32_t first = __shfl_sync(FULL_WARP, mine, lanes[r] ? __ffs((int)lanes[r]) - 1 : 0);
    if (lane == 0) own[r * WARPS + warp] = first;
  }
  __syncthreads();
  if (warp == 0) {
    const uint32_t mine = own[lane], some = __ballot_sync(FULL_WARP, mine != NO_CHANGE);
    const uint32_t first = __shfl_sync(FULL_WARP, mine, some ? __ffs((int)some) - 1 : 0);
    if (lane == 0) publish(status + order, first);
    uint64_t word = NO_WHOLE;
    bool ended = false;
    uint32_t found = NO_WHOLE;
    for (int32_t at = order - 1 - lane; !ended; at -= 32) {
      const auto ends = [](uint64_t w) { return w > NO_CHANGE; };
      const uint32_t known = inspect_predecessors(status, at, NO_WHOLE, ends, word, ended);
      found = __shfl_sync(FULL_WARP, (uint32_t)word, 31 - __clz((int)known));
    }
    if (lane == 0 && first == NO_CHANGE) publish(status + order, found);
    const uint32_t above = some & ~((2u << lane) - 1);
    const uint32_t next = __shfl_sync(FULL_WARP, mine, above ? __ffs((int)above) - 1 : 0);
    later[lane] = above ? next : found;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const uint32_t change = changes >> (r * EACH) & 0xFu, whole = wholes >> (r * EACH);
    const uint32_t above = lanes[r] & ~((2u << lane) - 1);
    const uint32_t near = __shfl_sync(FULL_WARP, first_of(change, whole), above ? __ffs((int)above) - 1 : 0);
    uint32_t next = above ? near : later[r * WARPS + warp];
#pragma unroll
    for (int i = EACH - 1; i >= 0; i--) {
      e[r][i] += next == WHOLE;
      if (change >> i & 1) next = whole >> i & 1 ? WHOLE : NO_WHOLE;
    }
    store_four(end, item(tile, r), p.particles, e[r]);
  }
}

// ---- independent draws. Each draw searches for its particle, and the draws of each particle are counted.
// Counts are integers, so the order of the atomic additions does not matter.

KERNEL(draws, (256),
       (const uint64_t* __restrict__ cumulative, const uint64_t* __restrict__ control, uint32_t* hits,
        ResampleParams p)) {
  const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
  if (i >= p.particles) return;
  const uint64_t point = part(draw(draws_of(p), (uint32_t)i), control[TOTAL]);
  atomicAdd(hits + first_above(cumulative, p.particles, point), 1u);
}

// Residual resampling: running sums of the whole copies of each particle. Reads 8 bytes per particle and
// writes 4.
KERNEL(wholes, (256),
       (const uint64_t* __restrict__ cumulative, uint64_t* control, uint32_t* __restrict__ whole,
        ResampleParams p)) {
  SHARED(int32_t, place, 1);
  SHARED(uint64_t, scratch, 32);
  const int32_t tile = ticket(counter(control, 1), place);
  const uint64_t total = control[TOTAL];
  uint64_t x[ROWS][EACH];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const int64_t at = item(tile, r);
    uint64_t c[EACH], left;
    load_four(cumulative, at, p.particles, c);
    uint64_t before = at > 0 ? cumulative[at - 1 < p.particles ? at - 1 : p.particles - 1] : 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      x[r][i] = share(p.particles, c[i] - before, total, left);
      before = c[i];
    }
  }
  running_sums(x, tile, p.tiles, statuses(control, 1, p), control + WHOLES, scratch);
  store_counts(whole, tile, p.particles, x);
}

// The cumulative rests up to particle k in units of 1 / total: m times the cumulative weight, less the whole
// copies.
struct Rests {
  const uint64_t* cumulative;
  const uint32_t* whole;
  uint64_t total;
  uint32_t m;
  DEVICE Uint128 operator()(int32_t k) const {
    return minus(times(cumulative[k], m), times(total, whole[k]));
  }
};
KERNEL(rest_draws, (256),
       (const uint64_t* __restrict__ cumulative, const uint32_t* __restrict__ whole,
        const uint64_t* __restrict__ control, uint32_t* hits, ResampleParams p)) {
  const int64_t i = (int64_t)blockIdx.x * BLOCK + threadIdx.x;
  const uint32_t left = (uint32_t)(p.particles - control[WHOLES]);
  if (i >= left) return;
  const Rests rest = {cumulative, whole, control[TOTAL], (uint32_t)p.particles};
  const Uint128 point = part(draw(draws_of(p), (uint32_t)i), times(control[TOTAL], left));
  int32_t low = 0, high = p.particles - 1;
  while (low < high) {
    const int32_t middle = (low + high) >> 1;
    if (less(point, rest(middle)))
      high = middle;
    else
      low = middle + 1;
  }
  atomicAdd(hits + low, 1u);
}

// Where the offspring of each particle end: running sums of the hits, plus those of the whole copies if there
// are any. Reads 4 or 8 bytes per particle and writes 4.
KERNEL(tally, (256),
       (const uint32_t* __restrict__ hits, const uint32_t* __restrict__ whole, uint64_t* control,
        uint32_t* __restrict__ end, ResampleParams p)) {
  SHARED(int32_t, place, 1);
  SHARED(uint64_t, scratch, 32);
  const int32_t tile = ticket(counter(control, 2), place);
  uint64_t x[ROWS][EACH];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const int64_t at = item(tile, r);
#pragma unroll
    for (int i = 0; i < EACH; i++) x[r][i] = at + i < p.particles ? hits[at + i] : 0;
  }
  running_sums(x, tile, p.tiles, statuses(control, 2, p), control + HITS, scratch);
  if (whole) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const int64_t at = item(tile, r);
#pragma unroll
      for (int i = 0; i < EACH; i++) x[r][i] += at + i < p.particles ? whole[at + i] : 0;
    }
  }
  store_counts(end, tile, p.particles, x);
}

// ---- ancestors from where offspring end

// Steps of the merge path that a block takes.
constexpr int ITEMS = 32 * BLOCK;

// The number of particles b with b + end(b) < `diagonal`, searched for by one warp: 32 probes at a time
// divide the range into 33 pieces.
template <class End>
DEVICE int32_t before_diagonal(const End& end, int32_t particles, uint32_t diagonal) {
  const int lane = threadIdx.x & 31;
  int32_t low = diagonal > (uint32_t)particles ? (int32_t)(diagonal - particles) : 0;
  int32_t high = diagonal < (uint32_t)particles ? (int32_t)diagonal : particles;
  while (low < high) {
    const int32_t step = (high - low + 32) / 33, b = low + (lane + 1) * step - 1;
    const bool fewer = b < high && (uint32_t)b + end(b) < diagonal;
    const int32_t pieces = __popc(__ballot_sync(FULL_WARP, fewer));
    // The first probe that is not below the diagonal bounds the answer from above.
    const int32_t bound = low + (pieces + 1) * step - 1;
    if (pieces < 32 && bound < high) high = bound;
    low += pieces * step;
  }
  return low;
}

// Ancestors from the ends of offspring, by a merge path over particles and slots (Green et al. 2012). At each
// step the current slot either lies below the end of the current particle b, and then b is its ancestor; or
// the path moves on to particle b + 1, which is step number b + end(b). Every block takes ITEMS steps, so its
// work does not depend on the weights.
template <class End>
DEVICE void merge_path(const End& end, uint32_t* ancestors, int32_t particles) {
  SHARED(uint8_t, passed, ITEMS);
  SHARED(uint32_t, mask, BLOCK);
  SHARED(int32_t, count, BLOCK);
  SHARED(int32_t, scratch, 32);
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
  for (int32_t b = from + (int32_t)threadIdx.x; b < to; b += BLOCK) passed[(uint32_t)b + end(b) - first] = 1;
  __syncthreads();
  for (int word = warp; word < BLOCK; word += WARPS) {
    const uint32_t m = __ballot_sync(FULL_WARP, passed[word * 32 + lane]);
    if (lane == 0) mask[word] = m;
  }
  __syncthreads();
  int32_t all;
  const int32_t mine = __popc(mask[threadIdx.x]);
  count[threadIdx.x] = block_scan(mine, all, scratch) - mine;
  __syncthreads();
  for (int word = warp; word < BLOCK; word += WARPS) {
    const uint32_t step = first + (uint32_t)(word * 32 + lane), m = mask[word];
    if (m >> lane & 1 || step >= last) continue;
    const int32_t b = from + count[word] + __popc(m & ((1u << lane) - 1));
    ancestors[step - (uint32_t)b] = (uint32_t)b;
  }
}

struct Ends {
  const uint32_t* end;
  DEVICE uint32_t operator()(int32_t b) const { return end[b]; }
};
// Reads 4 bytes per particle and writes 4.
KERNEL(merge, (256),
       (const uint32_t* __restrict__ end, uint32_t* __restrict__ ancestors, int32_t particles)) {
  merge_path(Ends{end}, ancestors, particles);
}

struct Points {
  const uint64_t* cumulative;
  uint64_t total;
  uint32_t m;
  bool systematic;
  Draws draws;
  DEVICE uint32_t operator()(int32_t b) const {
    return offspring_end(cumulative[b], m, total, systematic, draws);
  }
};
// The same with the ends computed from cumulative weights, for one point in each stratum. Reads 8 bytes per
// particle and writes 4.
KERNEL(place, (256),
       (const uint64_t* __restrict__ cumulative, const uint64_t* __restrict__ control,
        uint32_t* __restrict__ ancestors, ResampleParams p)) {
  const uint32_t m = p.particles;
  merge_path(Points{cumulative, control[TOTAL], m, p.systematic != 0, draws_of(p)}, ancestors, p.particles);
}
