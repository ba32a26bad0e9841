//! Best-of-n: independent samples, of which the one with the largest reward is kept.

use super::vocabulary::{Conclusion, Drift, Method, Potential};

/// Plain chains, with all weight on the one of largest reward.
#[derive(Clone, Copy, Debug)]
pub struct BestOfN;

impl Method for BestOfN {
    fn name(&self) -> &'static str {
        "best-of-n"
    }
    fn about(&self) -> &'static str {
        "independent samples at the network cost of das, the best of which is kept"
    }
    fn potential(&self) -> Potential {
        Potential::None
    }
    fn drift(&self) -> Drift {
        Drift::None
    }
    fn conclusion(&self) -> Conclusion {
        Conclusion::Best
    }
}

/// Plain chains that cost at least as much as `particles` guided ones: `ratio` is the cost of one guided
/// chain over that of one plain chain with its final reward, as counted by the meter. Rounded up, in favour
/// of the baseline.
///
/// # Panics
/// If `ratio` is not a positive number.
#[track_caller]
pub fn at_equal_cost(particles: usize, ratio: f64) -> usize {
    assert!(ratio.is_finite() && ratio > 0.0, "a cost ratio of {ratio}");
    // A ratio that is whole up to rounding is whole.
    (particles as f64 * ratio * (1.0 - 1e-12)).ceil().max(1.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_cost_rounds_in_favour_of_the_baseline() {
        assert_eq!(at_equal_cost(16, 3.0), 48);
        assert_eq!(at_equal_cost(10, 0.3 / 0.1), 30, "0.3 / 0.1 is a little less or more than 3");
        assert_eq!(at_equal_cost(16, 3.01), 49);
        assert_eq!(at_equal_cost(1, 0.2), 1);
    }
}
