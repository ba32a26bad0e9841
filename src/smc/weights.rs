//! Importance weights of one prompt's particles, in logarithms and in f64. A dead particle has log-weight
//! -inf; what is not a number is dead too, never silently something else.

use super::math::{exp, ln, sum};

/// `log sum exp` of `values`; -inf for an empty slice or when all are -inf.
pub fn log_sum_exp(values: &[f64]) -> f64 {
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return max;
    }
    if max == f64::INFINITY {
        return max;
    }
    max + ln(sum(values.iter().map(|v| exp(v - max))))
}

/// Normalised weights of P particles, fixed once made: they know their sum and their effective sample size.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    log_weights: Vec<f64>,
    relative: Vec<f64>,
    weights: Vec<f64>,
    log_sum: f64,
    ess: f64,
    collapsed: bool,
}

impl Weights {
    /// Normalises `log_weights` (natural logarithms, any constant added). NaN and +inf count as dead, like
    /// -inf. If every particle is dead, the weights become uniform, `collapsed` is true and `log_sum` is
    /// -inf.
    #[track_caller]
    pub fn new(log_weights: &[f64]) -> Weights {
        assert!(!log_weights.is_empty(), "no particles to weigh");
        let alive = |v: f64| if v.is_finite() { v } else { f64::NEG_INFINITY };
        let given: Vec<f64> = log_weights.iter().map(|&v| alive(v)).collect();
        let max = given.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let collapsed = max == f64::NEG_INFINITY;
        let relative: Vec<f64> = given.iter().map(|v| if collapsed { 1.0 } else { exp(v - max) }).collect();
        let total = sum(relative.iter().copied());
        let log_sum = if collapsed { max } else { max + ln(total) };
        let log_weights =
            if collapsed { uniform(given.len()) } else { given.iter().map(|v| v - log_sum).collect() };
        let ess = total * total / sum(relative.iter().map(|w| w * w));
        let weights = relative.iter().map(|w| w / total).collect();
        Weights { log_weights, relative, weights, log_sum, ess, collapsed }
    }

    /// Normalised log-weights: their `log_sum_exp` is 0.
    pub fn log_weights(&self) -> &[f64] {
        &self.log_weights
    }
    /// Weights relative to the largest, which has 1.
    pub fn relative(&self) -> &[f64] {
        &self.relative
    }
    /// Linear weights, summing to 1.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }
    /// `log_sum_exp` of what was given: the increment of log Z when the weights were normalised before.
    pub fn log_sum(&self) -> f64 {
        self.log_sum
    }
    /// Effective sample size `(sum w)^2 / sum w^2`, in [1, P].
    pub fn ess(&self) -> f64 {
        self.ess
    }
    /// Whether every particle was dead.
    pub fn collapsed(&self) -> bool {
        self.collapsed
    }
    /// Index of the largest weight, the first of equals.
    pub fn argmax(&self) -> usize {
        (1..self.weights.len())
            .fold(0, |best, i| if self.log_weights[i] > self.log_weights[best] { i } else { best })
    }
}

/// Uniform log-weights, `-log P` each.
pub fn uniform(particles: usize) -> Vec<f64> {
    vec![-ln(particles as f64); particles]
}

/// The incremental log-weights `log_ratio + psi - psi_prev` of each slot (docs/spec.md 1.4): the move's
/// density ratio and the change of log twist from the *ancestor's* to the particle's own. -inf for a dead
/// particle: one whose previous log-weight, ratio or twist is not finite. Nothing is ever subtracted from an
/// infinity.
#[track_caller]
pub fn increment(previous: &[f64], log_ratio: &[f64], psi: &[f64], psi_prev: &[f64]) -> Vec<f64> {
    let n = previous.len();
    assert!(log_ratio.len() == n && psi.len() == n && psi_prev.len() == n, "particles differ in number");
    (0..n)
        .map(|p| {
            let parts = [previous[p], log_ratio[p], psi[p], psi_prev[p]];
            let finite = parts.iter().all(|v| v.is_finite());
            if finite { log_ratio[p] + psi[p] - psi_prev[p] } else { f64::NEG_INFINITY }
        })
        .collect()
}

/// Log-weights after the increment, not normalised; -inf for dead particles (see [`increment`]).
#[track_caller]
pub fn reweigh(previous: &[f64], log_ratio: &[f64], psi: &[f64], psi_prev: &[f64]) -> Vec<f64> {
    let increments = increment(previous, log_ratio, psi, psi_prev);
    previous.iter().zip(&increments).map(|(w, d)| if d.is_finite() { w + d } else { *d }).collect()
}

/// Linear weights as integers, `w / w_max 2^s` rounded to nearest even, with `s` of [`fixed_bits`]; what is
/// negative or not a number counts as 0. Integer sums do not depend on their order, so ancestors chosen from
/// them are the same on any grid of any device. A particle below `2^-(s + 1)` of the largest weight rounds to
/// 0.
///
/// Panics when no weight is positive: [`Weights`] never gives that.
#[track_caller]
pub fn fixed_point(weights: &[f64]) -> Vec<u64> {
    let positive = |w: f64| if w.is_finite() && w > 0.0 { w } else { 0.0 };
    let max = weights.iter().fold(0.0, |max, &w| positive(w).max(max));
    assert!(max > 0.0, "no particle has a positive weight");
    let scale = (1_u64 << fixed_bits(weights.len())) as f64;
    weights.iter().map(|&w| (positive(w) / max * scale).round_ties_even() as u64).collect()
}

/// Fraction bits of integer weights: 40, or as many as let the total of `particles` stay within 2^63.
#[track_caller]
pub fn fixed_bits(particles: usize) -> u32 {
    assert!((1..=1 << 32).contains(&particles), "{particles} particles");
    40.min(63 - particles.next_power_of_two().trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_weights_sum_to_one_and_report_the_sum() {
        let given = [-1000.0, -1001.5, -999.2, -1003.0];
        let w = Weights::new(&given);
        assert!((w.weights().iter().sum::<f64>() - 1.0).abs() < 1e-15);
        assert!(log_sum_exp(w.log_weights()).abs() < 1e-12); // measured 1e-13: one ulp of 1000
        let shifted: Vec<f64> = given.iter().map(|v| v + 1000.0).collect();
        assert!((w.log_sum() + 1000.0 - log_sum_exp(&shifted)).abs() < 1e-12);
        assert_eq!(w.argmax(), 2);
        assert!(!w.collapsed());
    }

    #[test]
    fn ess_is_the_number_of_equal_weights() {
        for n in [1, 2, 3, 7, 16, 100] {
            assert_eq!(Weights::new(&vec![-3.7; n]).ess(), n as f64);
        }
        let one_hot = Weights::new(&[f64::NEG_INFINITY, 0.0, f64::NEG_INFINITY]);
        assert_eq!((one_hot.ess(), one_hot.weights()), (1.0, &[0.0, 1.0, 0.0][..]));
    }

    #[test]
    fn what_is_not_a_number_is_dead() {
        let w = Weights::new(&[f64::NAN, 1.0, f64::INFINITY, 1.0]);
        assert_eq!(w.weights(), [0.0, 0.5, 0.0, 0.5]);
        assert_eq!(w.log_weights()[0], f64::NEG_INFINITY);
        assert_eq!(w.ess(), 2.0);
    }

    #[test]
    fn when_all_are_dead_the_weights_are_uniform_and_say_so() {
        let w = Weights::new(&[f64::NEG_INFINITY, f64::NAN]);
        assert!(w.collapsed());
        assert_eq!((w.log_sum(), w.ess()), (f64::NEG_INFINITY, 2.0));
        assert_eq!(w.weights(), [0.5, 0.5]);
    }

    #[test]
    fn a_dead_particle_stays_dead_and_infinities_never_meet() {
        let dead = f64::NEG_INFINITY;
        let lw = reweigh(
            &[dead, 0.0, 0.0, 0.0, 0.0, -1.0],
            &[1.0, f64::NAN, 1.0, 1.0, 1.0, 0.25],
            &[1.0, 1.0, dead, f64::INFINITY, 1.0, 2.0],
            &[0.0, 1.0, 1.0, 1.0, dead, 0.5],
        );
        assert_eq!(lw, [dead, dead, dead, dead, dead, 0.75]);
    }

    #[test]
    fn fixed_point_weights_keep_proportions_and_zeros() {
        assert_eq!(fixed_point(&[0.0, 0.5, 0.25, f64::NAN, -1.0]), [0, 1 << 40, 1 << 39, 0, 0]);
        assert_eq!(fixed_point(&[1e-300]), [1 << 40]);
        let bits = [1, 1024, 1 << 23, (1 << 23) + 1, 1 << 26, 1 << 32].map(fixed_bits);
        assert_eq!(bits, [40, 40, 40, 39, 37, 31]);
    }
}
