// Which particles go on, in exact integer arithmetic (src/smc/resample.rs: the rules, and the same ancestors). Offspring
// are where points fall among the cumulative weights: point n of m lies in the stratum [n, n + 1) total, and weights count
// m times.
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

// How many of the m points, one in each stratum, lie below m times the cumulative weight: where the offspring of a particle
// end. Systematic resampling has the same u in every stratum.
DEVICE uint32_t offspring_end(uint64_t cumulative, uint32_t m, uint64_t total, bool systematic, Draws d) {
  uint64_t left;
  const uint32_t whole = share(m, cumulative, total, left);
  // Nothing is left at the end of the last stratum.
  if (left == 0) return whole;
  return whole + (part(draw(d, systematic ? 0 : whole), total) < left ? 1 : 0);
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
