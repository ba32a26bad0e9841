//! Exponential, logarithm and sums of weighing, from `+`, `-`, `*`, `/` and rounding to an integer alone,
//! each rounded to nearest and never contracted: every device that keeps to the order written here finds the
//! same bits, so that the same log-weights have the same ancestors everywhere. kernels/exact.cuh is the same
//! text for the GPU.

/// `ln 2` in two parts, the first with so few bits that its product with an exponent is exact.
const LN_2_HIGH: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
/// Bits of `sqrt(1/2)`.
const SQRT_HALF: u64 = 0x3FE6_A09E_667F_3BCD;

/// `e^x` of `x <= 0`, within 1.5 units in the last place; 0 below -708, where it would leave the normal
/// numbers.
///
/// `x = n ln 2 + r`, and a Taylor polynomial of degree 13 for `e^r - 1`: `|r| <= 0.35` leaves 5e-18.
pub fn exp(x: f64) -> f64 {
    if x < -708.0 {
        return 0.0;
    }
    let n = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    let mut q = 1.0 / 6_227_020_800.0;
    q = q * r + 1.0 / 479_001_600.0;
    q = q * r + 1.0 / 39_916_800.0;
    q = q * r + 1.0 / 3_628_800.0;
    q = q * r + 1.0 / 362_880.0;
    q = q * r + 1.0 / 40_320.0;
    q = q * r + 1.0 / 5_040.0;
    q = q * r + 1.0 / 720.0;
    q = q * r + 1.0 / 120.0;
    q = q * r + 1.0 / 24.0;
    q = q * r + 1.0 / 6.0;
    q = q * r + 0.5;
    let y = 1.0 + (r + (r * r) * q);
    y * f64::from_bits(((1023 + n as i64) as u64) << 52)
}

/// Natural logarithm of a positive normal number, within 1 unit in the last place.
///
/// `x = 2^e (1 + f)` with `1 + f` in `[sqrt 1/2, sqrt 2)`, and with `s = f / (2 + f)`, `z = s^2`:
/// `ln(1 + f) = 2 s + s R`, `R = 2 z / 3 + 2 z^2 / 5 + ...`, where `2 s = f - s f`. `z <= 0.03` leaves 5e-19.
pub fn ln(x: f64) -> f64 {
    // Subtracting the bits of sqrt(1/2) puts the exponent's carry where the mantissa passes it.
    let shifted = x.to_bits().wrapping_sub(SQRT_HALF);
    let e = (shifted as i64 >> 52) as f64;
    let f = f64::from_bits((shifted & 0x000F_FFFF_FFFF_FFFF).wrapping_add(SQRT_HALF)) - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let mut q = 2.0 / 23.0;
    q = q * z + 2.0 / 21.0;
    q = q * z + 2.0 / 19.0;
    q = q * z + 2.0 / 17.0;
    q = q * z + 2.0 / 15.0;
    q = q * z + 2.0 / 13.0;
    q = q * z + 2.0 / 11.0;
    q = q * z + 2.0 / 9.0;
    q = q * z + 2.0 / 7.0;
    q = q * z + 2.0 / 5.0;
    q = q * z + 2.0 / 3.0;
    e * LN_2_HIGH + ((f - s * (f - z * q)) + e * LN_2_LOW)
}

/// The sum, in the order in which a block of a GPU adds: within groups of 32 the upper half onto the lower
/// until one number is left, then group after group.
pub fn sum(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values = values.into_iter();
    let mut sum = 0.0;
    loop {
        let mut group = [0.0; 32];
        let mut len = 0;
        for (place, value) in group.iter_mut().zip(&mut values) {
            *place = value;
            len += 1;
        }
        for half in [16, 8, 4, 2, 1] {
            for i in 0..half {
                group[i] += group[i + half];
            }
        }
        sum += group[0];
        if len < group.len() {
            return sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Key, Purpose, uniforms};

    /// Units in the last place of `exact` that `x` is off.
    fn off(x: f64, exact: f64) -> f64 {
        (x - exact).abs() / (f64::from_bits(exact.abs().to_bits() + 1) - exact.abs())
    }

    /// Against the library's functions, which are within one unit themselves. Measured: 1 for both.
    #[test]
    fn exponential_and_logarithm_are_accurate_to_the_last_place() {
        let mut u = uniforms(Key { seed: 1, prompt: 0, particle: 0, step: 0, purpose: Purpose::Data });
        let (mut worst_exp, mut worst_ln) = (0.0_f64, 0.0_f64);
        for i in 0..200_000 {
            let scale = [1e-9, 1e-3, 1.0, 40.0, 708.0][i % 5];
            let x = -scale * u.draw();
            worst_exp = worst_exp.max(off(exp(x), x.exp()));
            let y = (scale * (u.draw() - 0.5)).exp();
            worst_ln = worst_ln.max(off(ln(y), y.ln()));
        }
        println!("exp {worst_exp} ulp, ln {worst_ln} ulp");
        assert!(worst_exp <= 2.0 && worst_ln <= 2.0);
    }

    #[test]
    fn the_ends_are_exact() {
        assert_eq!([exp(0.0), exp(-0.0), exp(f64::NEG_INFINITY), exp(-1e300)], [1.0, 1.0, 0.0, 0.0]);
        assert!(exp(-708.0) > 0.0);
        assert_eq!([ln(1.0), ln(2.0), ln(f64::MIN_POSITIVE)], [0.0, 2_f64.ln(), f64::MIN_POSITIVE.ln()]);
    }

    #[test]
    fn sums_are_those_of_a_block() {
        assert_eq!(sum([]), 0.0);
        for n in [1, 31, 32, 33, 64, 1000] {
            assert_eq!(sum((1..=n).map(f64::from)), f64::from(n * (n + 1) / 2));
        }
        // The order shows: 1 is lost beside 1e16, in whichever group of 32 they meet.
        let mut x = [0.0; 64];
        (x[0], x[16], x[1], x[32]) = (1e16, 1.0, -1e16, 1.0);
        assert_eq!(sum(x), 1.0);
    }
}
