// Which particles go on, in exact integer arithmetic (src/smc/resample.rs: the rules, and the same
// ancestors). Offspring are where points fall among the cumulative weights: point n of m lies in the stratum
// [n, n + 1) total, and weights count m times.
#pragma once
#include "exact.cuh"
#include "philox.cuh"

// As in src/smc/resample.rs.
enum Resampler { SSP, SYSTEMATIC, STRATIFIED, RESIDUAL, MULTINOMIAL };

// Whose uniforms.
struct Draws {
  Stream stream;
  uint32_t prompt;
  uint32_t particle;
};
DEVICE double draw(Draws d, uint32_t index) { return uniform(d.stream, d.prompt, d.particle, index); }

// floor(u total), at most total - 1.
DEVICE uint64_t part(double u, uint64_t total) {
  const uint64_t x = __double2ull_rz(mul(u, __ull2double_rn(total)));
  return x < total ? x : total - 1;
}

// Integers of 128 bits.
struct Wide {
  uint64_t high;
  uint64_t low;
};
DEVICE Wide times(uint64_t a, uint64_t b) { return {__umul64hi(a, b), a * b}; }
DEVICE Wide minus(Wide a, Wide b) { return {a.high - b.high - (a.low < b.low), a.low - b.low}; }
DEVICE bool less(Wide a, Wide b) { return a.high < b.high || (a.high == b.high && a.low < b.low); }
// Rounded to nearest, ties to even.
DEVICE double to_double(Wide x) {
  if (x.high == 0) return __ull2double_rn(x.low);
  // The upper 64 bits from the first that is set on; what is below them only matters where it is not nothing.
  const int n = __clzll((long long)x.high);
  const uint64_t upper = n ? x.high << n | x.low >> (64 - n) : x.high;
  const double d = __ull2double_rn(upper | ((x.low << n) != 0));
  return mul(d, bits((uint64_t)(1023 + 64 - n) << 52));
}
// floor(u total), at most total - 1, for total < 2^116.
DEVICE Wide part(double u, Wide total) {
  const double x = mul(u, to_double(total)), high = __ull2double_rn(__double2ull_rz(mul(x, 0x1p-64)));
  const Wide y = {__double2ull_rz(high), __double2ull_rz(sub(x, mul(high, 0x1p64)))};
  return less(y, total) ? y : minus(total, {0, 1});
}

// floor(m weight / total) and what is left, for total <= 2^63 and a quotient of at most m < 2^32.
DEVICE uint32_t share(uint32_t m, uint64_t weight, uint64_t total, uint64_t& left) {
  const uint64_t high = __umul64hi(m, weight), low = m * weight;
  // Within one of the quotient: 53 bits are more than enough for a number of 32.
  const double estimate = (__ull2double_rn(high) * 0x1p64 + __ull2double_rn(low)) / __ull2double_rn(total);
  uint32_t q = (uint32_t)__double2ull_rz(estimate);
  const uint64_t q_high = __umul64hi(q, total), q_low = q * total;
  if (q_high > high || (q_high == high && q_low > low)) q--;
  // Less than 2 total, whatever the high words.
  left = low - q * total;
  if (left >= total) {
    left -= total;
    q++;
  }
  return q;
}

// How many of the m points, one in each stratum, lie below m times the cumulative weight: where the offspring
// of a particle end. Systematic resampling has the same u in every stratum.
DEVICE uint32_t offspring_end(uint64_t cumulative, uint32_t m, uint64_t total, bool systematic, Draws d) {
  uint64_t left;
  const uint32_t whole = share(m, cumulative, total, left);
  // Nothing is left at the end of the last stratum.
  if (left == 0) return whole;
  return whole + (part(draw(d, systematic ? 0 : whole), total) < left ? 1 : 0);
}

// Step k >= 1 of SSP (src/smc/resample.rs), in which the particle that has rests to trade, whichever it is,
// meets particle k. Whoever it is, what it has is what the sums of rests leave over of a whole: `after` = m
// times the cumulative weight modulo the total, up to particle k; `before` up to k - 1, `last` up to k - 2 (0
// before the first). So steps do not wait for each other. `whole`: the two have a whole between them, which
// goes to the one that trades no more. The result: it is particle k that goes on trading.
//
// The end of the offspring of particle p is then floor(m cumulative / total), and one more if the first step
// after p in which the one that trades changes has a whole: it is for the one that has traded so far, p or
// one before it.
DEVICE bool trade(uint64_t after, uint64_t before, uint64_t last, uint64_t total, double u, bool& whole) {
  whole = after < before;
  const uint64_t mine = after - before + (whole ? total : 0);
  // After a whole the two have changed places.
  const bool turned = before < last;
  const uint64_t i = turned ? mine : before, j = turned ? before : mine;
  const uint64_t up = j < total - i ? j : total - i, down = i < total - j ? i : total - j;
  const bool below = mul(u, __ull2double_rn(up + down)) < __ull2double_rn(up);
  const bool swap = up > 0 && (below || down == 0);
  return swap != (whole != turned);
}

// First of `n` never decreasing numbers that exceeds `x`, which the last does.
template <class T>
DEVICE int first_above(const T* numbers, int n, T x) {
  int low = 0, high = n - 1;
  while (low < high) {
    const int middle = (low + high) >> 1;
    if (numbers[middle] > x)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}
