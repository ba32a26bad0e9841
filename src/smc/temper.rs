//! Inverse temperatures: how much of the reward counts at each step. `lambda` multiplies the potential of the
//! current state inside its weight, `lambda_next` the guidance of the move out of it (docs/spec.md 1.3, 4).
//! The final event always uses factor 1, so that tempering changes the variance and never the limit.

use std::fmt;

use super::math::{exp, sum};
use crate::error::{Error, Result};

/// How lambda rises from 0 to 1. Steps `j` are counted from the first guided one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Tempering {
    /// Lambda is 1 throughout: the twisted diffusion sampler.
    None,
    /// `min((1 + gamma)^j - 1, 1)`.
    Exp {
        /// Rate, above 0.
        gamma: f64,
    },
    /// `min((gamma j)^power, 1)`.
    Poly {
        /// Rate, above 0.
        gamma: f64,
        /// Exponent, above 0.
        power: f64,
    },
    /// The largest lambda that keeps the effective sample size at the threshold, never below the last lambda
    /// nor below `floor`.
    Adaptive {
        /// The least that lambda may be.
        floor: Floor,
    },
}

/// A fixed schedule under an adaptive one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Floor {
    /// Only the last lambda.
    Last,
    /// As [`Tempering::Exp`].
    Exp {
        /// Rate, above 0.
        gamma: f64,
    },
    /// As [`Tempering::Poly`].
    Poly {
        /// Rate, above 0.
        gamma: f64,
        /// Exponent, above 0.
        power: f64,
    },
}

impl Tempering {
    /// Reads `none`, `exp`, `poly:POWER`, `adaptive`, `adaptive:exp` or `adaptive:poly:POWER`. `gamma` is the
    /// rate of the fixed schedules; without one, [`default_gamma`]`(steps)` for exp and
    /// [`default_poly_gamma`] for poly. `steps` is the number of guided steps.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for another word, a rate or power that is not positive,
    /// or a rate where there is no fixed schedule.
    pub fn parse(text: &str, gamma: Option<f64>, steps: usize) -> Result<Tempering> {
        let unknown = || {
            Error::usage(format!("unknown tempering \"{text}\""))
                .option("tempering")
                .advice("`tempering` takes one of: exp, poly:POWER, adaptive, adaptive:exp, adaptive:poly:POWER, none")
        };
        let rate = |default: f64| {
            match gamma {
            Some(gamma) if !gamma.is_finite() => {
                Err(Error::usage(format!("`gamma` {gamma} is no finite number")).option("gamma").advice(
                    "give `gamma` a positive number; `tempering` none has the whole reward from the first step on",
                ))
            }
            Some(gamma) if gamma <= 0.0 => {
                Err(Error::usage(format!("`gamma` {gamma} would leave lambda at 0")).option("gamma").advice(
                    "give `gamma` a positive number, or use `method` bootstrap to sample without guidance",
                ))
            }
            _ => Ok(gamma.unwrap_or(default)),
        }
        };
        let power = |text: &str| match text.parse::<f64>() {
            Ok(power) if power.is_finite() && power > 0.0 => Ok(power),
            _ => Err(Error::usage(format!("poly needs a positive power, not \"{text}\""))
                .option("tempering")
                .advice("write `tempering` poly:2")),
        };
        let no_gamma = || match gamma {
            None => Ok(()),
            Some(_) => Err(Error::usage(format!("`gamma` has no meaning with `tempering` {text}"))
                .option("gamma")
                .advice("leave out `gamma`, or choose exp, poly:POWER or adaptive:exp")),
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

    /// Refuses what cannot work together with the rest: an adaptive schedule solves for an effective sample
    /// size of `ess_threshold` times P, so the threshold must lie inside (0, 1).
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming what to change.
    pub fn validate(self, ess_threshold: f64) -> Result<()> {
        let rates = match self {
            Tempering::None | Tempering::Adaptive { floor: Floor::Last } => [1.0, 1.0],
            Tempering::Exp { gamma } | Tempering::Adaptive { floor: Floor::Exp { gamma } } => [gamma, 1.0],
            Tempering::Poly { gamma, power }
            | Tempering::Adaptive { floor: Floor::Poly { gamma, power } } => [gamma, power],
        };
        if !rates.iter().all(|r| r.is_finite() && *r > 0.0) {
            return Err(Error::usage(format!("`tempering` {self} never rises"))
                .option("gamma")
                .advice("give `gamma` a positive number"));
        }
        if matches!(self, Tempering::Adaptive { .. }) && !(ess_threshold > 0.0 && ess_threshold < 1.0) {
            return Err(Error::usage(format!(
                "adaptive tempering aims at the ESS threshold, and {ess_threshold} leaves it nothing to aim at"
            ))
            .option("ess_threshold")
            .advice("give `ess_threshold` a number between 0 and 1, or use `tempering` exp"));
        }
        Ok(())
    }

    /// `(lambda, lambda_next)` of step `j` of the fixed schedule; for an adaptive one the floor under each (0
    /// without a floor).
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

    /// The first step whose lambda is 1, if one of `steps` guided steps is: otherwise the reward jumps to
    /// full strength at the end, which is right but has a large variance. `None` also for adaptive without a
    /// floor.
    pub fn reaches_one(self, steps: usize) -> Option<usize> {
        (0..steps).find(|&j| self.fixed(j) >= 1.0)
    }
}

/// The exponential rate that gives every number of steps the same curve in relative time as 0.008 gives 100
/// (the paper's setting; docs/spec.md 4): `1.008^(100 / steps) - 1`. Lambda reaches 1 after 87 % of the
/// chain.
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

/// Adaptive tempering (paper, algorithm 3; docs/spec.md 4.1): the largest lambda in `[lambda_min, 1]` whose
/// log-weights `base + lambda * potential` keep `ESS >= threshold * P`, by 50 halvings. `base` holds
/// everything but the new twist; -inf for dead particles, whose potential is not looked at.
///
/// Returns `lambda_min` when even that is below the threshold (a resampling follows) and 1 when that still is
/// not.
#[track_caller]
pub fn adapt(base: &[f64], potential: &[f64], threshold: f64, lambda_min: f64) -> f64 {
    assert_eq!(base.len(), potential.len(), "particles differ in number");
    let target = threshold * base.len() as f64;
    let mut scratch = vec![0.0; base.len()];
    // NaN if every particle is dead.
    let mut ess = |lambda: f64| {
        for (s, (a, l)) in scratch.iter_mut().zip(base.iter().zip(potential)) {
            let v = if *a == f64::NEG_INFINITY { *a } else { a + lambda * l };
            *s = if v.is_finite() { v } else { f64::NEG_INFINITY };
        }
        let max = scratch.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let relative = |s: &f64| if max == f64::NEG_INFINITY { 0.0 } else { exp(s - max) };
        scratch.iter_mut().for_each(|s| *s = relative(s));
        let total = sum(scratch.iter().copied());
        total * total / sum(scratch.iter().map(|w| w * w))
    };
    // NaN: stay.
    if ess(lambda_min).partial_cmp(&target) != Some(std::cmp::Ordering::Greater) {
        return lambda_min;
    }
    if ess(1.0) >= target {
        return 1.0;
    }
    let (mut low, mut high) = (lambda_min, 1.0);
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        if ess(middle) > target {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Key, Purpose, uniforms};

    #[test]
    fn exponential_lambda_has_the_published_values() {
        let lcm = Tempering::Exp { gamma: 0.1 };
        let values = [0.0, 0.1, 0.21, 0.331, 0.4641, 0.61051, 0.771561, 0.9487171, 1.0];
        for j in 0..8 {
            let (now, next) = lcm.schedule(j);
            assert!((now - values[j]).abs() < 1e-12 && (next - values[j + 1]).abs() < 1e-12);
        }
        let paper = Tempering::Exp { gamma: 0.008 };
        assert_eq!(paper.reaches_one(100), Some(87));
        assert_eq!(paper.schedule(86).1, 1.0);
        assert_eq!(paper.schedule(99), (1.0, 1.0));
    }

    #[test]
    fn polynomial_guidance_has_its_exponent_too() {
        let square = Tempering::Poly { gamma: 0.1, power: 2.0 };
        let (now, next) = square.schedule(3);
        assert!((now - 0.09).abs() < 1e-15 && (next - 0.16).abs() < 1e-15);
        assert_eq!(square.schedule(9), (0.81, 1.0));
        // What the authors' program uses for the guidance is not it.
        assert!((next - 0.4).abs() > 0.1);
    }

    #[test]
    fn without_tempering_lambda_is_one() {
        assert_eq!(Tempering::None.schedule(0), (1.0, 1.0));
    }

    #[test]
    fn default_rates_reach_one_at_the_same_fraction_of_any_chain() {
        assert_eq!(default_gamma(100), 0.008);
        for steps in [8, 20, 50, 100, 250] {
            let at = Tempering::Exp { gamma: default_gamma(steps) }.reaches_one(steps).expect("reached");
            assert_eq!(at, (0.86988 * steps as f64).ceil() as usize, "{steps} steps");
            let at = Tempering::Poly { gamma: default_poly_gamma(steps), power: 2.0 }.reaches_one(steps);
            assert_eq!(at, Some((0.87 * steps as f64 - 1e-9).ceil() as usize));
            let gamma = gamma_reaching_one(steps, 0.87);
            assert!(((1.0 + gamma).powf(0.87 * steps as f64) - 2.0).abs() < 1e-12);
        }
        assert!((gamma_reaching_one(100, 0.87) - 0.008).abs() < 2e-6);
    }

    #[test]
    fn names_are_read_with_their_rates() {
        let read = |text: &str, gamma| Tempering::parse(text, gamma, 100).expect(text);
        assert_eq!(read("exp", None), Tempering::Exp { gamma: 0.008 });
        assert_eq!(read("exp", Some(0.1)), Tempering::Exp { gamma: 0.1 });
        assert_eq!(read("poly:2", Some(0.01)), Tempering::Poly { gamma: 0.01, power: 2.0 });
        assert_eq!(read("none", None), Tempering::None);
        assert_eq!(read("adaptive", None), Tempering::Adaptive { floor: Floor::Last });
        for text in ["none", "exp", "poly:2", "poly:0.5", "adaptive", "adaptive:exp", "adaptive:poly:3"] {
            assert_eq!(read(text, None).to_string(), text);
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_a_way_out() {
        for (text, gamma, part) in [
            ("cosine", None, "`tempering` takes one of"),
            ("exp", Some(0.0), "`gamma`"),
            ("exp", Some(f64::NAN), "`gamma`"),
            ("exp", Some(f64::INFINITY), "no finite number"),
            ("poly:2", Some(-1.0), "would leave lambda at 0"),
            ("poly:x", None, "poly:2"),
            ("poly:-1", None, "poly:2"),
            ("none", Some(0.1), "leave out `gamma`"),
            ("adaptive", Some(0.1), "leave out `gamma`"),
        ] {
            let error = Tempering::parse(text, gamma, 100).expect_err(text);
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.kind(), crate::ErrorKind::Usage);
        }
        let adaptive = Tempering::Adaptive { floor: Floor::Last };
        for threshold in [0.0, 1.0, f64::NAN] {
            assert!(
                adaptive.validate(threshold).expect_err("refused").to_string().contains("`ess_threshold`")
            );
        }
        assert!(adaptive.validate(0.5).is_ok() && Tempering::None.validate(0.0).is_ok());
        assert!(Tempering::Exp { gamma: 0.0 }.validate(0.5).is_err());
    }

    fn ess(base: &[f64], potential: &[f64], lambda: f64) -> f64 {
        let lw: Vec<f64> = base.iter().zip(potential).map(|(a, l)| a + lambda * l).collect();
        super::super::Weights::new(&lw).ess()
    }

    /// 50 halvings leave 1e-15 of lambda; d ESS / d lambda is at most about P times the potentials' spread of
    /// 100, so 1e-6 P is reached with room (measured: 9e-15 P).
    #[test]
    fn the_adaptive_lambda_meets_the_threshold() {
        let mut worst = 0.0_f64;
        let (mut inside, mut at_floor, mut at_one) = (0, 0, 0);
        for case in 0..200 {
            let key = Key { seed: 3, prompt: 0, particle: case, step: 0, purpose: Purpose::Data };
            let mut u = uniforms(key);
            let particles = 2 + (u.draw() * 60.0) as usize;
            let mut spread = |width: f64| -> Vec<f64> { (0..particles).map(|_| width * u.draw()).collect() };
            let width = 10_f64.powf(f64::from(case % 5) - 2.0);
            let (base, potential) = (spread(0.2 * f64::from(case % 7)), spread(width));
            let floor = 0.1 * f64::from(case % 3);
            let tau = 0.5;
            let lambda = adapt(&base, &potential, tau, floor);
            assert!((floor..=1.0).contains(&lambda));
            let target = tau * particles as f64;
            if lambda == floor {
                at_floor += 1;
                assert!(ess(&base, &potential, floor) <= target * (1.0 + 1e-12));
            } else if lambda == 1.0 {
                at_one += 1;
                assert!(ess(&base, &potential, 1.0) >= target * (1.0 - 1e-12));
            } else {
                inside += 1;
                let off = (ess(&base, &potential, lambda) - target).abs() / particles as f64;
                worst = worst.max(off);
                assert!(off < 1e-6, "off by {off} P");
            }
        }
        println!("{inside} inside, {at_floor} at the floor, {at_one} at 1; off by {worst:e} P");
        assert!(inside > 20 && at_floor > 5 && at_one > 20);
    }

    #[test]
    fn dead_particles_do_not_steer_the_adaptive_lambda() {
        let dead = f64::NEG_INFINITY;
        let alone = adapt(&[0.0, 0.0, 0.0], &[0.0, 5.0, 9.0], 0.5, 0.0);
        let joined =
            adapt(&[0.0, dead, 0.0, 0.0, dead, dead], &[0.0, f64::NAN, 5.0, 9.0, 1e9, dead], 0.25, 0.0);
        assert_eq!(alone, joined);
        assert_eq!(adapt(&[dead, dead], &[1.0, 2.0], 0.5, 0.3), 0.3);
        // Equal potentials never lower the sample size.
        assert_eq!(adapt(&[0.0; 4], &[7.0; 4], 0.5, 0.0), 1.0);
    }
}
