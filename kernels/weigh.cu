// One weighing event (src/smc/mod.rs: the formulas, and the same bits) of all prompts: increment, tempering,
// normalisation, log Z, effective sample size, the decision to resample, ancestors. One block per prompt; f64
// and 64-bit integers throughout.
//
// Up to 1024 particles, `weigh` does all of it with one thread per particle; latency is all that counts: a
// few microseconds, about 100 bytes per particle. Of larger populations `weigh_rows` does everything but the
// ancestors, row after row of 1024 particles: sums have the order of src/smc/math.rs, which is serial over
// groups of 32. Then resample.cu chooses ancestors for every prompt, whether they are wanted or not, and
// `settle` takes them where the event resamples. So nothing waits for the host.
#include "offspring.cuh"

constexpr int MOST = 1024;
// Fraction bits of integer weights: a total times the number of particles has 40 + 10 + 10.
constexpr int FRACTION = 40;

struct WeighParams {
  uint64_t seed;
  // Lambda and the next one, or for an adaptive schedule what is under them.
  double floor;
  double floor_next;
  // Effective sample size at which an adaptive lambda aims: threshold P.
  double target;
  // Effective sample size below which to resample.
  double below;
  double alpha;
  // -log P.
  double uniform;
  // Largest product of strength and length of the gradient.
  double bound;
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

// Numbers of a record before its lists: lambda, lambda_next, increment of log Z, ESS, log Z, resampled,
// collapsed.
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

// The log-weight base + lambda l of a particle; dead where it is not finite.
DEVICE double tempered(double lambda, double base, double l) {
  const double v = is_finite(base) ? mul_add(lambda, l, base) : DAS_DEAD;
  return is_finite(v) ? v : DAS_DEAD;
}

// The largest lambda in [lowest, 1] that keeps the effective sample size at the target, by 50 halvings.
// `size` gives the effective sample size of a lambda to all threads, NaN if all are dead. All threads
// call.
template <class Size>
DEVICE double adapt(const Size& size, double target, double lowest) {
  // NaN: stay.
  if (!(size(lowest) > target)) return lowest;
  if (size(1.0) >= target) return 1.0;
  double low = lowest, high = 1.0;
  for (int i = 0; i < 50; i++) {
    const double middle = mul(0.5, add(low, high));
    if (size(middle) > target)
      low = middle;
    else
      high = middle;
  }
  return low;
}

// Effective sample size with one particle per thread.
struct SizeOfBlock {
  double base;
  double l;
  Scratch& shared;
  DEVICE double operator()(double lambda) const {
    const double v = tempered(lambda, base, l);
    const double top = block_max(v, shared.sums);
    const double w = top == DAS_DEAD ? 0.0 : exact_exp(sub(v, top));
    const double total = exact_sum(w, shared.sums), squares = exact_sum(mul(w, w), shared.more);
    return ratio(mul(total, total), squares);
  }
};

// Inverse temperatures of this event and of the move that follows.
struct Lambdas {
  double now;
  double next;
};
template <class Size>
DEVICE Lambdas lambdas_of(const WeighParams& p, double last, const Size& size) {
  if (p.last) return {1.0, 1.0};
  if (!p.adaptive) return {p.floor, p.floor_next};
  double now = p.floor;
  if (!p.first) {
    const double lowest = last > p.floor ? last : p.floor;
    now = adapt(size, p.target, lowest < 1.0 ? lowest : 1.0);
  }
  // Look ahead by as much as lambda has just risen, or as the floor is about to rise.
  const double risen = sub(now, last), rises = sub(p.floor_next, p.floor);
  const double next = add(now, risen > rises ? risen : rises);
  return {now, next < 1.0 ? next : 1.0};
}

// What a particle brings to an event.
struct Particle {
  double previous;
  double psi;
  double move;
  // Potential.
  double l;

  // The log-weight without the new twist; dead if anything is not finite.
  DEVICE double base() const {
    const bool known = is_finite(previous) && is_finite(move) && is_finite(psi) && is_finite(l);
    const double step = known ? sub(add(move, 0.0), psi) : DAS_DEAD;
    return is_finite(step) ? add(previous, step) : DAS_DEAD;
  }
  // Lambda = 0 must not turn an infinite potential into a finite twist.
  DEVICE double twist(double lambda) const { return is_finite(l) ? mul(lambda, l) : l; }
  DEVICE double increment(double raw) const {
    const bool known = is_finite(previous) && is_finite(move) && is_finite(raw) && is_finite(psi);
    return known ? sub(add(move, raw), psi) : DAS_DEAD;
  }
  // The log-weight after the event, not normalised.
  DEVICE double weighed(double increment) const {
    const double v = is_finite(increment) ? add(previous, increment) : increment;
    return is_finite(v) ? v : DAS_DEAD;
  }
};

// The reward of a slot, of `narrow` or where that is 0 of `wide`; NaN where it or a length is not finite.
// `rewards` are told.
DEVICE double reward_of(int64_t slot, const float* narrow, const double* wide, const double* states,
                        const double* noises, double* rewards) {
  double reward = narrow ? (double)narrow[slot] : wide[slot];
  if (states && !(is_finite(reward) && is_finite(states[slot]) && is_finite(noises[slot])))
    reward = bits(0x7FF8000000000000ull);
  if (rewards) rewards[slot] = reward;
  return reward;
}

// Strength of the guidance of a slot that continues particle `from`: next / alpha, or as much less as keeps
// its product with the length of the gradient within the bound. `grads` are squared lengths, 0 without
// gradients.
DEVICE float strength_of(const WeighParams& p, double next, const double* grads, int64_t from) {
  const double full = ratio(next, p.alpha), length = grads ? __dsqrt_rn(grads[from]) : 0.0;
  return __double2float_rn(is_finite(length) && mul(full, length) > p.bound ? ratio(p.bound, length) : full);
}

// The head of a prompt's record, and what the prompt carries on. One thread calls.
DEVICE void conclude(double* row, double* lambda, double* log_z, Lambdas lambdas, double log_sum, double size,
                     bool resampled, bool collapsed) {
  const double z = add(*log_z, log_sum);
  *lambda = lambdas.now;
  *log_z = z;
  row[0] = lambdas.now;
  row[1] = lambdas.next;
  row[2] = log_sum;
  row[3] = size;
  row[4] = z;
  row[5] = resampled ? 1.0 : 0.0;
  row[6] = collapsed ? 1.0 : 0.0;
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

// Ancestor of this thread's slot, given the weight of its particle. All threads call; those of no particle
// with weight 0.
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

// Reads of each slot `log_ratio`, the reward (`narrow`, or where that is 0 `wide`), and where they are given
// the squared lengths of state and noise: where one is not finite the reward is NaN, which `rewards` are
// told. `grads` are squared lengths of gradients, or 0. Updates the state of each prompt: log_weights, psi,
// lambda, log_z. Writes for the move that follows `ancestors` (index into the batch) and `strength`
// (lambda_next / alpha), and everything the event decided to `record`: HEAD numbers, then log_weights,
// increment, twist and ancestors (within the prompt) of each slot.
KERNEL(weigh, (1024),
       (const double* __restrict__ log_ratio, const float* __restrict__ narrow,
        const double* __restrict__ wide, const double* __restrict__ states, const double* __restrict__ noises,
        const double* __restrict__ grads, const uint32_t* __restrict__ prompts, double* __restrict__ rewards,
        double* __restrict__ log_weights, double* __restrict__ psi, double* __restrict__ lambdas, double* __restrict__ log_z,
        uint32_t* __restrict__ ancestors, float* __restrict__ strength, double* __restrict__ record,
        WeighParams p)) {
  SHARED(Scratch, memory, 1);
  Scratch& shared = *memory;
  const int b = blockIdx.x, me = threadIdx.x, n = p.particles;
  const bool live = me < n;
  const int64_t slot = (int64_t)b * n + me;
  const double reward = live ? reward_of(slot, narrow, wide, states, noises, rewards) : 0.0;
  const Particle particle = {live ? log_weights[slot] : DAS_DEAD, live ? psi[slot] : 0.0,
                             live ? log_ratio[slot] : 0.0, ratio(reward, p.alpha)};
  const Lambdas lambda = lambdas_of(p, lambdas[b], SizeOfBlock{particle.base(), particle.l, shared});

  const double raw = particle.twist(lambda.now), increment = particle.increment(raw);
  const double v = live ? particle.weighed(increment) : DAS_DEAD;
  const double top = block_max(v, shared.sums);
  const bool collapsed = top == DAS_DEAD;
  const double w = !live ? 0.0 : collapsed ? 1.0 : exact_exp(sub(v, top));
  const double total = exact_sum(w, shared.sums), squares = exact_sum(mul(w, w), shared.more);
  const double log_sum = collapsed ? DAS_DEAD : add(top, exact_ln(total));
  const double log_weight = collapsed ? p.uniform : sub(v, log_sum);
  const double size = ratio(mul(total, total), squares);
  const double twist = is_finite(increment) ? raw : 0.0;

  // The same for all threads of the block.
  const bool resampled = !p.last && size < p.below;
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
    strength[slot] = strength_of(p, lambda.next, grads, (int64_t)b * n + from);
    double* const list = row + HEAD + me;
    list[0] = log_weight;
    list[n] = increment;
    list[2 * n] = twist;
    list[3 * n] = __int2double_rn(from);
  }
  if (me == 0) conclude(row, lambdas + b, log_z + b, lambda, log_sum, size, resampled, collapsed);
}

// ---- more than 1024 particles

// Adds the numbers of a row to two sums, in the order of src/smc/math.rs. All threads of a block of 1024
// call, and have the same sums.
DEVICE void add_row(double x, double y, double& sum, double& more, Scratch& shared) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  x = warp_sum(x);
  y = warp_sum(y);
  __syncthreads();
  if (lane == 0) {
    shared.sums[warp] = x;
    shared.more[warp] = y;
  }
  __syncthreads();
  for (int i = 0; i < MOST / 32; i++) {
    sum = add(sum, shared.sums[i]);
    more = add(more, shared.more[i]);
  }
}

// Effective sample size of rows of particles, whose log-weights without the new twist and potentials are in
// memory.
struct SizeOfRows {
  const double* base;
  const double* l;
  int n;
  Scratch& shared;
  DEVICE double operator()(double lambda) const {
    double top = DAS_DEAD;
    for (int i = threadIdx.x; i < n; i += MOST) {
      const double v = tempered(lambda, base[i], l[i]);
      top = v > top ? v : top;
    }
    top = block_max(top, shared.sums);
    double total = 0.0, squares = 0.0;
    for (int first = 0; first < n; first += MOST) {
      const int i = first + (int)threadIdx.x;
      const bool counts = i < n && top != DAS_DEAD;
      const double w = counts ? exact_exp(sub(tempered(lambda, base[i], l[i]), top)) : 0.0;
      add_row(w, mul(w, w), total, squares, shared);
    }
    return ratio(mul(total, total), squares);
  }
};

// As `weigh`, without what follows from ancestors, for any number of particles: log_weights and psi are only
// read, and `settle` writes what is left. `relative` has the weights relative to the largest, of each prompt
// from an even place on. Reads and writes about 150 bytes per particle, and for an adaptive lambda 32 more in
// each of up to 52 tries.
KERNEL(weigh_rows, (1024),
       (const double* __restrict__ log_ratio, const float* __restrict__ narrow,
        const double* __restrict__ wide, const double* __restrict__ states, const double* __restrict__ noises,
        double* __restrict__ rewards, const double* __restrict__ log_weights, const double* __restrict__ psi,
        double* __restrict__ lambdas, double* __restrict__ log_z, double* __restrict__ relative,
        double* __restrict__ record, WeighParams p)) {
  SHARED(Scratch, memory, 1);
  Scratch& shared = *memory;
  const int b = blockIdx.x, me = threadIdx.x, n = p.particles;
  const int64_t from = (int64_t)b * n;
  double* const row = record + b * (int64_t)(HEAD + 4 * (int64_t)n);
  // Until the twists are known, the third list has potentials; the first has log-weights that are not
  // normalised, and before that those without the new twist. Each thread reads what it has written.
  double *const weights = row + HEAD, *const increments = weights + n, *const twists = increments + n;
  for (int i = me; i < n; i += MOST) {
    const double reward = reward_of(from + i, narrow, wide, states, noises, rewards);
    const double l = ratio(reward, p.alpha);
    const Particle particle = {log_weights[from + i], psi[from + i], log_ratio[from + i], l};
    weights[i] = particle.base();
    twists[i] = particle.l;
  }
  const Lambdas lambda = lambdas_of(p, lambdas[b], SizeOfRows{weights, twists, n, shared});

  double top = DAS_DEAD;
  for (int i = me; i < n; i += MOST) {
    const Particle particle = {log_weights[from + i], psi[from + i], log_ratio[from + i], twists[i]};
    const double raw = particle.twist(lambda.now), increment = particle.increment(raw);
    const double v = particle.weighed(increment);
    weights[i] = v;
    increments[i] = increment;
    twists[i] = is_finite(increment) ? raw : 0.0;
    top = v > top ? v : top;
  }
  top = block_max(top, shared.sums);
  const bool collapsed = top == DAS_DEAD;
  double* const share = relative + b * (int64_t)((n + 1) & ~1);
  double total = 0.0, squares = 0.0;
  for (int first = 0; first < n; first += MOST) {
    const int i = first + me;
    const double w = i >= n ? 0.0 : collapsed ? 1.0 : exact_exp(sub(weights[i], top));
    if (i < n) share[i] = w;
    add_row(w, mul(w, w), total, squares, shared);
  }
  const double log_sum = collapsed ? DAS_DEAD : add(top, exact_ln(total));
  const double size = ratio(mul(total, total), squares);
  for (int i = me; i < n; i += MOST) weights[i] = collapsed ? p.uniform : sub(weights[i], log_sum);
  const bool resampled = !p.last && size < p.below;
  if (me == 0) conclude(row, lambdas + b, log_z + b, lambda, log_sum, size, resampled, collapsed);
}

// What follows from ancestors, after `weigh_rows`: those that resample.cu has `chosen` (within the prompt)
// where the event resamples, else every slot its own. Reads and writes about 50 bytes per slot.
KERNEL(settle, (256),
       (const uint32_t* __restrict__ chosen, const double* __restrict__ grads, double* __restrict__ log_weights, double* __restrict__ psi,
        uint32_t* __restrict__ ancestors, float* __restrict__ strength, double* __restrict__ record,
        int32_t slots, WeighParams p)) {
  const int32_t slot = (int32_t)(blockIdx.x * 256 + threadIdx.x), n = p.particles;
  if (slot >= slots) return;
  const int32_t b = slot / n, i = slot - b * n;
  double* const row = record + b * (int64_t)(HEAD + 4 * (int64_t)n);
  const double *const weights = row + HEAD, *const twists = weights + 2 * (int64_t)n;
  const bool resampled = row[5] != 0.0;
  const int32_t from = resampled ? (int32_t)chosen[slot] : i;
  log_weights[slot] = resampled ? p.uniform : weights[i];
  psi[slot] = twists[p.gather ? from : i];
  ancestors[slot] = (uint32_t)(b * n + from);
  strength[slot] = strength_of(p, row[1], grads, (int64_t)b * n + from);
  row[HEAD + 3 * (int64_t)n + i] = __int2double_rn(from);
}
