//! Transcendental functions as straight-line arithmetic, so that loops over them vectorise. Each is inlined
//! into its caller's loop, which must run inside [`simd`](super::parallel::simd). Polynomials are minimax
//! fits; their errors and those measured over all inputs stand beside them.

use std::f32::consts::LOG2_E;

/// Adding it rounds to an integer, which then stands in the low bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts, the first short enough that its multiples are exact.
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;

/// `e^x`, within 1.1 units in the last place where the result is normal; 0 below -104, infinite above 88.73,
/// NaN of NaN.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Written so that NaN passes through.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x.mul_add(LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    // (e^r - 1 - r) / r^2 on |r| <= ln(2)/2, relative error of the whole 3.2e-9.
    let p = 1.381_422e-3f32;
    let p = p.mul_add(r, 8.368_899e-3);
    let p = p.mul_add(r, 4.166_840_8e-2);
    let p = p.mul_add(r, 1.666_652e-1);
    let p = p.mul_add(r, 4.999_999_4e-1);
    let p = (r * r).mul_add(p, r) + 1.0;
    // 2^n in two factors, so that subnormal results and 2^128 come out right.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) << 23) as u32)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh(x)`, absolute error below 1.2e-7; NaN of NaN.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    ((1.0 - e) / (1.0 + e)).copysign(x)
}

/// Derivative of [`tanh`]: `1 - tanh(x)^2`, absolute error below 2e-7.
#[inline(always)]
pub fn tanh_slope(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    4.0 * e / ((1.0 + e) * (1.0 + e))
}

/// Distribution function and density of the standard normal, absolute error below 1e-7.
#[inline(always)]
fn normal(x: f32) -> (f32, f32) {
    let e = exp(-0.5 * x * x);
    // Phi(-|x|) = e^(-x^2/2) t P(t), t = 1 / (1 + 0.35 |x|); relative error of the fit 3.3e-8.
    let t = 1.0 / x.abs().mul_add(0.35, 1.0);
    let p = -2.914_442_9e-2f32;
    let p = p.mul_add(t, 1.439_648_6e-1);
    let p = p.mul_add(t, -2.557_009_8e-1);
    let p = p.mul_add(t, 1.591_599_1e-1);
    let p = p.mul_add(t, -2.310_058_3e-2);
    let p = p.mul_add(t, 1.055_043e-1);
    let p = p.mul_add(t, 1.198_337_6e-1);
    let p = p.mul_add(t, 1.398_617_6e-1);
    let p = p.mul_add(t, 1.396_214e-1);
    let tail = e * t * p;
    let cdf = if x > 0.0 { 1.0 - tail } else { tail };
    // 1/sqrt(2 pi)
    (cdf, e * 0.398_942_3)
}

/// `x Phi(x)`.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    x * normal(x).0
}

/// Derivative of [`gelu`]: `Phi(x) + x phi(x)`.
#[inline(always)]
pub fn gelu_slope(x: f32) -> f32 {
    gelu_and_slope(x).1
}

/// [`gelu`] and its derivative for the price of one.
#[inline(always)]
pub fn gelu_and_slope(x: f32) -> (f32, f32) {
    let (cdf, pdf) = normal(x);
    (x * cdf, x.mul_add(pdf, cdf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tanh_and_its_slope_have_the_stated_errors() {
        let (mut worst, mut worst_slope) = (0.0f64, 0.0f64);
        for x in floats(1009) {
            let truth = f64::from(x).tanh();
            worst = worst.max((f64::from(tanh(x)) - truth).abs());
            worst_slope = worst_slope.max((f64::from(tanh_slope(x)) - f64::from(x).cosh().powi(-2)).abs());
        }
        // Measured 8.9e-8 and 1.6e-7.
        assert!(worst <= 1.2e-7 && worst_slope <= 2e-7, "{worst:.2e} {worst_slope:.2e}");
        assert_eq!([tanh(f32::INFINITY), tanh(f32::NEG_INFINITY), tanh(0.0)], [1.0, -1.0, 0.0]);
        assert!(tanh(f32::NAN).is_nan() && tanh_slope(f32::NAN).is_nan());
        assert_eq!(tanh_slope(f32::INFINITY), 0.0);
    }

    /// Every `step`-th finite float.
    fn floats(step: usize) -> impl Iterator<Item = f32> {
        (0..=u32::MAX).step_by(step).map(f32::from_bits).filter(|x| x.is_finite())
    }

    /// Distribution function of the standard normal in f64.
    fn phi(x: f64) -> f64 {
        0.5 * statrs::function::erf::erfc(-x / 2f64.sqrt())
    }

    #[test]
    fn exp_is_within_the_stated_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for x in floats(1009) {
            let (found, truth) = (exp(x), f64::from(x).exp());
            if truth > f64::from(f32::MAX) {
                assert!(found >= f32::MAX, "exp({x}) = {found}");
            } else if truth >= f64::from(f32::MIN_POSITIVE) {
                let unit = f64::from(f32::EPSILON) * 2f64.powi(truth.log2().floor() as i32);
                worst = worst.max((f64::from(found) - truth).abs() / unit);
            } else {
                // Subnormal results: the last place is 2^-149, and two roundings happen.
                assert!((f64::from(found) - truth).abs() <= 2.0 * 2f64.powi(-149), "exp({x}) = {found}");
            }
        }
        // Measured 1.02.
        assert!(worst <= 1.1, "{worst} units");
    }

    #[test]
    fn exp_has_the_right_ends() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sigmoid_is_exact_to_rounding() {
        for x in floats(10_007) {
            let truth = 1.0 / (1.0 + (-f64::from(x)).exp());
            // One rounding each of exp, sum and quotient: measured 1.5e-7 relative to the larger of value and
            // 1e-30.
            let error = (f64::from(sigmoid(x)) - truth).abs() / truth.max(1e-30);
            assert!(error < 3e-7, "sigmoid({x}): {error}");
        }
    }

    #[test]
    fn gelu_and_its_slope_are_exact_to_rounding() {
        let mut worst = 0.0f64;
        for x in floats(10_007).filter(|x| x.abs() < 30.0) {
            let v = f64::from(x);
            let pdf = (-0.5 * v * v).exp() / std::f64::consts::TAU.sqrt();
            let (value, slope) = gelu_and_slope(x);
            assert_eq!((value, slope), (gelu(x), gelu_slope(x)));
            worst = worst.max((f64::from(value) - v * phi(v)).abs() / v.abs().max(1.0));
            worst = worst.max((f64::from(slope) - (phi(v) + v * pdf)).abs());
        }
        // Measured 1.3e-7; f32 near 1 has steps of 1.2e-7.
        assert!(worst < 2.5e-7, "{worst}");
    }
}
