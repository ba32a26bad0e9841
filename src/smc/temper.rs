//! Inverse temperatures: how much of the reward counts at each step. `lambda` multiplies the potential of the
//! current state inside its weight, `lambda_next` the guidance of the move out of it (das-spec 1.3, 4). The final
//! event always uses factor 1, so that tempering changes the variance and never the limit.

use std::fmt;

use super::weights::log_sum_exp;
use crate::error::{Error, Result};

/// How lambda rises from 0 to 1. Steps `j` are counted from the first guided one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tempering {
    /// Lambda is 1 throughout: the twisted diffusion sampler.
    None,
    /// `min((1 + gamma)^j - 1, 1)`.
    Exp { gamma: f64 },
    /// `min((gamma j)^power, 1)`.
    Poly { gamma: f64, power: f64 },
    /// The largest lambda that keeps the effective sample size at the threshold, never below the last lambda nor
    /// below `floor`.
    Adaptive { floor: Floor },
}

/// A fixed schedule under an adaptive one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Floor {
    /// Only the last lambda.
    Last,
    Exp {
        gamma: f64,
    },
    Poly {
        gamma: f64,
        power: f64,
    },
}

impl Tempering {
    /// Reads `none`, `exp`, `poly:POWER`, `adaptive`, `adaptive:exp` or `adaptive:poly:POWER`. `gamma` is the rate
    /// of the fixed schedules; without one, [`default_gamma`]`(steps)` for exp and [`default_poly_gamma`] for poly.
    /// `steps` is the number of guided steps.
    pub fn parse(text: &str, gamma: Option<f64>, steps: usize) -> Result<Tempering> {
        let unknown = || {
            Error::usage(format!("unknown tempering `{text}`"))
                .fix("--tempering takes one of: exp, poly:POWER, adaptive, adaptive:exp, adaptive:poly:POWER, none")
        };
        let rate = |default: f64| match gamma {
            Some(gamma) if !(gamma.is_finite() && gamma > 0.0) => Err(Error::usage(format!(
                "gamma {gamma} would leave lambda at 0"
            ))
            .fix("give --gamma a positive number, or use --proposal bootstrap to sample without guidance")),
            _ => Ok(gamma.unwrap_or(default)),
        };
        let power = |text: &str| match text.parse::<f64>() {
            Ok(power) if power.is_finite() && power > 0.0 => Ok(power),
            _ => Err(Error::usage(format!("poly needs a positive power, not `{text}`"))
                .fix("write --tempering poly:2")),
        };
        let no_gamma = || match gamma {
            None => Ok(()),
            Some(_) => Err(Error::usage(format!("--gamma has no meaning with --tempering {text}"))
                .fix("leave out --gamma, or choose exp, poly:POWER or adaptive:exp")),
        };
        let exp_gamma = default_gamma(steps);
        let poly_gamma = default_poly_gamma(steps);
        Ok(match text {
            "none" => no_gamma().map(|()| Tempering::None)?,
            "exp" => Tempering::Exp { gamma: rate(exp_gamma)? },
            "adaptive" => no_gamma().map(|()| Tempering::Adaptive { floor: Floor::Last })?,
            "adaptive:exp" => Tempering::Adaptive { floor: Floor::Exp { gamma: rate(exp_gamma)? } },
            _ => match (text.strip_prefix("poly:"), text.strip_prefix("adaptive:poly:")) {
                (Some(p), _) => Tempering::Poly { gamma: rate(poly_gamma)?, power: power(p)? },
                (_, Some(p)) => {
                    Tempering::Adaptive { floor: Floor::Poly { gamma: rate(poly_gamma)?, power: power(p)? } }
                }
                _ => return Err(unknown()),
            },
        })
    }

    /// Refuses what cannot work together with the rest: an adaptive schedule solves for an effective sample size of
    /// `ess_threshold` times P, so the threshold must lie inside (0, 1).
    pub fn validate(self, ess_threshold: f64) -> Result<()> {
        let rates = match self {
            Tempering::None | Tempering::Adaptive { floor: Floor::Last } => [1.0, 1.0],
            Tempering::Exp { gamma } | Tempering::Adaptive { floor: Floor::Exp { gamma } } => [gamma, 1.0],
            Tempering::Poly { gamma, power }
            | Tempering::Adaptive { floor: Floor::Poly { gamma, power } } => [gamma, power],
        };
        if !rates.iter().all(|r| r.is_finite() && *r > 0.0) {
            return Err(
                Error::usage(format!("tempering `{self}` never rises")).fix("give --gamma a positive number")
            );
        }
        if matches!(self, Tempering::Adaptive { .. }) && !(ess_threshold > 0.0 && ess_threshold < 1.0) {
            return Err(Error::usage(format!(
                "adaptive tempering aims at the ESS threshold, and {ess_threshold} leaves it nothing to aim at"
            ))
            .fix("give --ess-threshold a number between 0 and 1, or use --tempering exp"));
        }
        Ok(())
    }

    /// `(lambda, lambda_next)` of step `j` of the fixed schedule; for an adaptive one the floor under each (0 without
    /// a floor).
    pub fn schedule(self, j: usize) -> (f64, f64) {
        (self.fixed(j), self.fixed(j + 1))
    }

    fn fixed(self, j: usize) -> f64 {
        match self {
            Tempering::None => 1.0,
            Tempering::Exp { gamma } | Tempering::Adaptive { floor: Floor::Exp { gamma } } => {
                ((1.0 + gamma).powi(j as i32) - 1.0).min(1.0)
            }
            Tempering::Poly { gamma, power }
            | Tempering::Adaptive { floor: Floor::Poly { gamma, power } } => {
                (gamma * j as f64).powf(power).min(1.0)
            }
            Tempering::Adaptive { floor: Floor::Last } => 0.0,
        }
    }

    /// The first step whose lambda is 1, if one of `steps` guided steps is: otherwise the reward jumps to full
    /// strength at the end, which is right but has a large variance. `None` also for adaptive without a floor.
    pub fn reaches_one(self, steps: usize) -> Option<usize> {
        (0..steps).find(|&j| self.fixed(j) >= 1.0)
    }
}

/// The exponential rate that gives every number of steps the same curve in relative time as 0.008 gives 100
/// (the paper's setting): `1.008^(100 / steps) - 1`. Lambda reaches 1 after 87 % of the chain.
#[track_caller]
pub fn default_gamma(steps: usize) -> f64 {
    assert!(steps > 0, "a chain without steps");
    if steps == 100 { 0.008 } else { 1.008_f64.powf(100.0 / steps as f64) - 1.0 }
}

/// The polynomial rate that reaches 1 where the default exponential one does: after 87 % of the chain.
#[track_caller]
pub fn default_poly_gamma(steps: usize) -> f64 {
    assert!(steps > 0, "a chain without steps");
    1.0 / (0.87 * steps as f64)
}

/// The exponential rate whose lambda is 1 after `fraction` of `steps` steps: `2^(1 / (fraction steps)) - 1`.
#[track_caller]
pub fn gamma_reaching_one(steps: usize, fraction: f64) -> f64 {
    assert!(steps > 0 && fraction > 0.0, "a chain without steps");
    2_f64.powf(1.0 / (fraction * steps as f64)) - 1.0
}

/// Adaptive tempering (paper, algorithm 3; das-spec 4.1): the largest lambda in `[lambda_min, 1]` whose log-weights
/// `base + lambda * potential` keep `ESS >= threshold * P`, by 50 halvings. `base` holds everything but the new twist;
/// -inf for dead particles, whose potential is not looked at.
///
/// Returns `lambda_min` when even that is below the threshold (a resampling follows) and 1 when that still is not.
#[track_caller]
pub fn adapt(base: &[f64], potential: &[f64], threshold: f64, lambda_min: f64) -> f64 {
    assert_eq!(base.len(), potential.len(), "particles differ in number");
    let target = (threshold * base.len() as f64).ln();
    let mut scratch = vec![0.0; base.len()];
    let mut excess = |lambda: f64| {
        for (s, (a, l)) in scratch.iter_mut().zip(base.iter().zip(potential)) {
            *s = if *a == f64::NEG_INFINITY { *a } else { a + lambda * l };
        }
        let first = log_sum_exp(&scratch);
        scratch.iter_mut().for_each(|s| *s *= 2.0);
        2.0 * first - log_sum_exp(&scratch) - target
    };
    // Nobody alive gives NaN: stay.
    if excess(lambda_min).partial_cmp(&0.0) != Some(std::cmp::Ordering::Greater) {
        return lambda_min;
    }
    if excess(1.0) >= 0.0 {
        return 1.0;
    }
    let (mut low, mut high) = (lambda_min, 1.0);
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        if excess(middle) > 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

impl fmt::Display for Tempering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tempering::None => f.write_str("none"),
            Tempering::Exp { .. } => f.write_str("exp"),
            Tempering::Poly { power, .. } => write!(f, "poly:{power}"),
            Tempering::Adaptive { floor: Floor::Last } => f.write_str("adaptive"),
            Tempering::Adaptive { floor: Floor::Exp { .. } } => f.write_str("adaptive:exp"),
            Tempering::Adaptive { floor: Floor::Poly { power, .. } } => write!(f, "adaptive:poly:{power}"),
        }
    }
}
