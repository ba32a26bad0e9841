// How many offspring each particle has, in exact integer arithmetic. src/smc/resample.rs has the rules and
// finds the same ancestors. Particle k has the points that fall between its cumulative weight and that of the
// particle before, where weights are multiplied by the number of points m and point n lies in the stratum [n,
// n + 1) total.
#pragma once
#include "exact.cuh"
#include "philox.cuh"

// As in src/smc/resample.rs.
enum Resampler { SSP, SYSTEMATIC, STRATIFIED, RESIDUAL, MULTINOMIAL };

// The stream of uniform random numbers of one resampling.
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

// Unsigned integers of 128 bits.
struct Uint128 {
  uint64_t high;
  uint64_t low;
};
DEVICE Uint128 times(uint64_t a, uint64_t b) { return {__umul64hi(a, b), a * b}; }
DEVICE Uint128 minus(Uint128 a, Uint128 b) { return {a.high - b.high - (a.low < b.low), a.low - b.low}; }
DEVICE bool less(Uint128 a, Uint128 b) { return a.high < b.high || (a.high == b.high && a.low < b.low); }
// Rounded to nearest, ties to even.
DEVICE double to_double(Uint128 x) {
  if (x.high == 0) return __ull2double_rn(x.low);
  // The upper 64 bits from the first that is set on. Of the bits below only whether any is set matters for
  // rounding.
  const int n = __clzll((long long)x.high);
  const uint64_t upper = n ? x.high << n | x.low >> (64 - n) : x.high;
  const double d = __ull2double_rn(upper | ((x.low << n) != 0));
  return mul(d, bits((uint64_t)(1023 + 64 - n) << 52));
}
// floor(u total), at most total - 1, for total < 2^116.
DEVICE Uint128 part(double u, Uint128 total) {
  const double x = mul(u, to_double(total)), high = __ull2double_rn(__double2ull_rz(mul(x, 0x1p-64)));
  const Uint128 y = {__double2ull_rz(high), __double2ull_rz(sub(x, mul(high, 0x1p64)))};
  return less(y, total) ? y : minus(total, {0, 1});
}

// floor(m weight / total), and the remainder in `left`, for total <= 2^63 and a quotient of at most m < 2^32.
DEVICE uint32_t share(uint32_t m, uint64_t weight, uint64_t total, uint64_t& left) {
  const uint64_t high = __umul64hi(m, weight), low = m * weight;
  // Within one of the quotient, because a double has 53 bits and the quotient 32.
  const double estimate = (__ull2double_rn(high) * 0x1p64 + __ull2double_rn(low)) / __ull2double_rn(total);
  uint32_t q = (uint32_t)__double2ull_rz(estimate);
  const uint64_t q_high = __umul64hi(q, total), q_low = q * total;
  if (q_high > high || (q_high == high && q_low > low)) q--;
  // The true remainder is less than 2 total, so the low words are enough.
  left = low - q * total;
  if (left >= total) {
    left -= total;
    q++;
  }
  return q;
}

// Where the offspring of a particle end: the number of points, one in each of m strata, below m times the
// cumulative weight. Systematic resampling uses the same uniform in every stratum.
DEVICE uint32_t offspring_end(uint64_t cumulative, uint32_t m, uint64_t total, bool systematic, Draws d) {
  uint64_t left;
  const uint32_t whole = share(m, cumulative, total, left);
  // Nothing is left at the end of the last stratum.
  if (left == 0) return whole;
  return whole + (part(draw(d, systematic ? 0 : whole), total) < left ? 1 : 0);
}

// Step k >= 1 of SSP (src/smc/resample.rs). In it, the particle that is trading exchanges fractions of
// offspring with particle k. The fraction that the trading particle holds does not depend on which particle
// it is: it is the remainder of m times the cumulative weight modulo the total, `after` up to particle k,
// `before` up to k - 1 and `last` up to k - 2 (0 before the first). All steps can therefore be computed
// independently. `whole` says that the two fractions together make at least one whole offspring, which goes
// to the particle that stops trading. Returns whether particle k goes on trading.
//
// The offspring of particle p then end at floor(m cumulative / total), plus one if a whole is handed over in
// the first step after p in which the trading particle changes: it goes to the particle that has traded so
// far, which is p or an earlier one.
DEVICE bool trade(uint64_t after, uint64_t before, uint64_t last, uint64_t total, double u, bool& whole) {
  whole = after < before;
  const uint64_t mine = after - before + (whole ? total : 0);
  // If the step before made a whole, the two fractions have changed places.
  const bool exchanged = before < last;
  const uint64_t i = exchanged ? mine : before, j = exchanged ? before : mine;
  const uint64_t up = j < total - i ? j : total - i, down = i < total - j ? i : total - j;
  const bool below = mul(u, __ull2double_rn(up + down)) < __ull2double_rn(up);
  const bool swap = up > 0 && (below || down == 0);
  return swap != (whole != exchanged);
}

// The index of the first of `n` sorted numbers that is greater than `x`; the last one is.
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
