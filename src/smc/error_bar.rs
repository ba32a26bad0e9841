//! Error bars from few values.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// Fewer particles, as counted by their weight, say nothing about the error of log Z.
pub const FEWEST: f64 = 3.0;

/// By how much a 95 % error bar is wider where its standard error comes from `freedom` + 1 values: the 97.5 %
/// quantile of Student's t over that of the normal distribution. Not a number for `freedom` 0 or less.
pub fn student(freedom: f64) -> f64 {
    const QUANTILE: f64 = 0.975;
    let t = StudentsT::new(0.0, 1.0, freedom).map_or(f64::NAN, |t| t.inverse_cdf(QUANTILE));
    t / Normal::standard().inverse_cdf(QUANTILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quantiles from tables, of four digits.
    #[test]
    fn few_values_widen_the_error_bar_as_students_t_does() {
        for (freedom, quantile) in [(1.0, 12.71), (2.0, 4.303), (3.0, 3.182), (10.0, 2.228), (60.0, 2.000)] {
            let (factor, exact) = (student(freedom), quantile / 1.959_964);
            assert!((factor / exact - 1.0).abs() < 3e-4, "{freedom} degrees: {factor} against {exact}");
        }
        assert!(student(0.0).is_nan());
    }
}
