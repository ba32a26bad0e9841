// One weighing event (src/smc/mod.rs: the formulas, and the same bits) of all prompts: increment, tempering,
// normalisation, log Z, effective sample size, the decision to resample, ancestors. One block per prompt, one thread per
// particle, at most 1024 of them; f64 and 64-bit integers throughout. Latency is all that counts: a few microseconds, about
// 100 bytes per particle.
#include "offspring.cuh"

constexpr int MOST = 1024;
// Fraction bits of integer weights: a total times the number of particles has 40 + 10 + 10.
constexpr int FRACTION = 40;

struct WeighParams {
  uint64_t seed;
  // Lambda and the next one, or for an adaptive schedule what is under them.
  double floor;
  double floor_next;
  // Effective sample size below which to resample, and at which an adaptive lambda aims: threshold P.
  double target;
  double alpha;
  // -log P.
  double uniform;
  uint32_t step;
  uint32_t purpose;
  int32_t particles;
  int32_t resampler;
  // Solve for lambda.
  int32_t adaptive;
  // The first event of the chain, where an adaptive lambda is its floor.
  int32_t first;
  // The final event, which does not resample.
  int32_t last;
  // Twists travel with their particles; else they stay in their slots.
  int32_t gather;
};

// Numbers of a record before its lists: lambda, lambda_next, increment of log Z, ESS, log Z, resampled, collapsed.
constexpr int HEAD = 7;

struct Scratch {
  double number[MOST];
  uint64_t cumulative[MOST];
  uint64_t rest[MOST];
  int32_t count[MOST];
  double sums[32];
  double more[32];
  uint64_t totals[32];
};

// Effective sample size of the log-weights base + lambda l; NaN if nobody is alive. All threads call.
DEVICE double size_at(double lambda, double base, double l, Scratch& shared) {
  double v = is_finite(base) ? mul_add(lambda, l, base) : DAS_DEAD;
  if (!is_finite(v)) v = DAS_DEAD;
  const double top = block_max(v, shared.sums);
  const double w = top == DAS_DEAD ? 0.0 : exponential(sub(v, top));
  const double total = exact_sum(w, shared.sums), squares = exact_sum(mul(w, w), shared.more);
  return ratio(mul(total, total), squares);
}

// The largest lambda in [lowest, 1] that keeps the effective sample size at the target, by 50 halvings.
DEVICE double adapt(double base, double l, double target, double lowest, Scratch& shared) {
  // NaN: stay.
  if (!(size_at(lowest, base, l, shared) > target)) return lowest;
  if (size_at(1.0, base, l, shared) >= target) return 1.0;
  double low = lowest, high = 1.0;
  for (int i = 0; i < 50; i++) {
    const double middle = mul(0.5, add(low, high));
    if (size_at(middle, base, l, shared) > target)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// Where the offspring of this thread's particle end by SSP (`trade` of offspring.cuh). All threads call.
DEVICE uint32_t ssp_end(uint64_t cumulative, uint32_t n, uint64_t total, Draws d, Scratch& shared) {
  const uint32_t me = threadIdx.x, lane = me & 31, warp = me >> 5, warps = blockDim.x >> 5;
  uint64_t left;
  const uint32_t end = share(n, cumulative, total, left);
  shared.rest[me] = left;
  __syncthreads();
  const uint64_t before = me > 0 ? shared.rest[me - 1] : 0, last = me > 1 ? shared.rest[me - 2] : 0;
  bool whole = false;
  const bool change = me > 0 && me < n && trade(left, before, last, total, draw(d, me - 1), whole);
  // The first change after this particle is in its own warp, or in the nearest later one that has any.
  const uint32_t changes = __ballot_sync(FULL_WARP, change), wholes = __ballot_sync(FULL_WARP, whole);
  if (lane == 0) shared.count[warp] = !changes ? 0 : wholes & changes & (0u - changes) ? 2 : 1;
  __syncthreads();
  const uint32_t later = changes & ~((2u << lane) - 1);
  if (later) return end + (wholes & later & (0u - later) ? 1 : 0);
  for (uint32_t i = warp + 1; i < warps; i++)
    if (shared.count[i]) return end + (shared.count[i] == 2 ? 1 : 0);
  return end;
}

// Ancestor of this thread's slot, given the weight of its particle. All threads call; those of no particle with weight 0.
DEVICE int choose(uint64_t weight, int n, int resampler, Draws d, Scratch& shared) {
  const int me = threadIdx.x;
  const bool live = me < n;
  uint64_t total, cumulative = block_scan(weight, total, shared.totals);
  int32_t end = 0, all;
  if (resampler == SYSTEMATIC || resampler == STRATIFIED) {
    if (live) end = (int32_t)offspring_end(cumulative, n, total, resampler == SYSTEMATIC, d);
  } else if (resampler == SSP) {
    end = (int32_t)ssp_end(cumulative, n, total, d, shared);
  } else {
    // Whole copies, and what is left of each in units of 1 / total.
    const bool copies = resampler != MULTINOMIAL;
    uint64_t rest = weight;
    const uint32_t whole = copies ? share(n, weight, total, rest) : 0;
    if (live) shared.count[me] = (int32_t)whole;
    // Independent draws from the rests: those of each particle are counted, and integers may be in any order.
    uint64_t sum;
    const uint64_t below = block_scan(rest, sum, shared.totals);
    if (live) shared.cumulative[me] = below;
    __syncthreads();
    const uint64_t draws = copies ? sum / total : (uint64_t)n;
    if ((uint64_t)me < draws) {
      const uint64_t point = part(draw(d, me), sum);
      atomicAdd(&shared.count[first_above(shared.cumulative, n, point)], 1);
    }
    __syncthreads();
    const int32_t mine = live ? shared.count[me] : 0;
    end = block_scan(mine, all, reinterpret_cast<int32_t*>(shared.totals));
  }
  __syncthreads();
  if (live) shared.count[me] = end;
  __syncthreads();
  return live ? first_above(shared.count, n, (int32_t)me) : 0;
}

// Reads of each slot `log_ratio`, the reward (`narrow`, or where that is 0 `wide`), and where they are given the squared
// lengths of state and noise: where one is not finite the reward is NaN, which `rewards` are told. Updates the state of
// each prompt: log_weights, psi, lambda, log_z. Writes for the move that follows `ancestors` (index into the batch) and
// `strength` (lambda_next / alpha), and everything the event decided to `record`: HEAD numbers, then log_weights, increment, twist and ancestors (within the
// prompt) of each slot.
KERNEL(weigh, (1024),
       (const double* __restrict__ log_ratio, const float* __restrict__ narrow, const double* __restrict__ wide,
        const double* __restrict__ states, const double* __restrict__ noises, const uint32_t* __restrict__ prompts,
        double* __restrict__ rewards, double* __restrict__ log_weights, double* __restrict__ psi,
        double* __restrict__ lambdas, double* __restrict__ log_z, uint32_t* __restrict__ ancestors, float* __restrict__ strength,
        double* __restrict__ record, WeighParams p)) {
  SHARED(Scratch, memory, 1);
  Scratch& shared = *memory;
  const int b = blockIdx.x, me = threadIdx.x, n = p.particles;
  const bool live = me < n;
  const int64_t slot = (int64_t)b * n + me;
  const double previous = live ? log_weights[slot] : DAS_DEAD, psi_before = live ? psi[slot] : 0.0;
  const double move = live ? log_ratio[slot] : 0.0;
  double reward = !live ? 0.0 : narrow ? (double)narrow[slot] : wide[slot];
  if (live && states && !(is_finite(reward) && is_finite(states[slot]) && is_finite(noises[slot])))
    reward = bits(0x7FF8000000000000ull);
  if (live && rewards) rewards[slot] = reward;
  const double l = ratio(reward, p.alpha);
  const double last = lambdas[b], z = log_z[b];

  double lambda = p.last ? 1.0 : p.floor, lambda_next = p.last ? 1.0 : p.floor_next;
  if (p.adaptive && !p.last) {
    if (!p.first) {
      // Everything but the new twist.
      const bool known = is_finite(previous) && is_finite(move) && is_finite(psi_before) && is_finite(l);
      const double step = known ? sub(add(move, 0.0), psi_before) : DAS_DEAD;
      const double base = is_finite(step) ? add(previous, step) : DAS_DEAD;
      const double lowest = last > p.floor ? last : p.floor;
      lambda = adapt(base, l, p.target, lowest < 1.0 ? lowest : 1.0, shared);
    }
    // Look ahead by as much as lambda has just risen, or as the floor is about to rise.
    const double risen = sub(lambda, last), rises = sub(p.floor_next, p.floor);
    const double next = add(lambda, risen > rises ? risen : rises);
    lambda_next = next < 1.0 ? next : 1.0;
  }

  // lambda = 0 must not turn an infinite potential into a finite twist.
  const double raw = is_finite(l) ? mul(lambda, l) : l;
  const bool known = is_finite(previous) && is_finite(move) && is_finite(raw) && is_finite(psi_before);
  const double increment = known ? sub(add(move, raw), psi_before) : DAS_DEAD;
  double v = is_finite(increment) ? add(previous, increment) : increment;
  if (!live || !is_finite(v)) v = DAS_DEAD;
  const double top = block_max(v, shared.sums);
  const bool collapsed = top == DAS_DEAD;
  const double w = !live ? 0.0 : collapsed ? 1.0 : exponential(sub(v, top));
  const double total = exact_sum(w, shared.sums), squares = exact_sum(mul(w, w), shared.more);
  const double log_sum = collapsed ? DAS_DEAD : add(top, logarithm(total));
  const double log_weight = collapsed ? p.uniform : sub(v, log_sum);
  const double size = ratio(mul(total, total), squares);
  const double twist = is_finite(increment) ? raw : 0.0;

  // The same for all threads of the block.
  const bool resampled = !p.last && size < p.target;
  int from = me;
  if (resampled) {
    const Draws d = {{p.seed, p.step, p.purpose}, prompts[b], 0};
    from = choose(live ? fixed_point(w, FRACTION) : 0, n, p.resampler, d, shared);
  }
  __syncthreads();
  shared.number[me] = twist;
  __syncthreads();
  double* const row = record + b * (int64_t)(HEAD + 4 * n);
  if (live) {
    log_weights[slot] = resampled ? p.uniform : log_weight;
    psi[slot] = p.gather ? shared.number[from] : twist;
    ancestors[slot] = (uint32_t)(b * n + from);
    strength[slot] = __double2float_rn(ratio(lambda_next, p.alpha));
    double* const list = row + HEAD + me;
    list[0] = log_weight;
    list[n] = increment;
    list[2 * n] = twist;
    list[3 * n] = __int2double_rn(from);
  }
  if (me == 0) {
    lambdas[b] = lambda;
    log_z[b] = add(z, log_sum);
    row[0] = lambda;
    row[1] = lambda_next;
    row[2] = log_sum;
    row[3] = size;
    row[4] = add(z, log_sum);
    row[5] = resampled ? 1.0 : 0.0;
    row[6] = collapsed ? 1.0 : 0.0;
  }
}
