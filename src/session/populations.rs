//! Several independent populations of a prompt: what they say of Z together, and their particles as one
//! (docs/spec.md 1.5).

use crate::backend::Backend;
use crate::error::Result;
use crate::method::Conclusion;
use crate::sampler::Population;
use crate::smc::Weights;
use crate::smc::error_bar::{FEWEST, student};
use crate::tensor::Tensor;

/// What one of a prompt's populations says of Z.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// Keys its noise: with this seed it can be drawn alone.
    pub seed: u64,
    /// Log of its estimate of Z.
    pub log_z: f64,
    /// What it knows of its error by itself; see [`Population::log_z_error`].
    pub log_z_error: Option<f64>,
}

/// What several populations say of Z together.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Combined {
    /// Log of the mean of their estimates, which is unbiased where they are: not with adaptive tempering.
    pub log_z: f64,
    /// Half of a 95 % error bar of it, from how they scatter; `None` for one alone, where one lost every
    /// particle, and where all say the same, as where all rewards are equal.
    pub log_z_error: Option<f64>,
    /// Log of each one's share of the weight, in proportion to its estimate of Z.
    pub log_weights: Vec<f64>,
}

/// Combines the log Z of independent populations of one prompt (docs/spec.md 1.5). The logarithm of an
/// estimate of Z is nearly normal (Berard, Del Moral, Doucet 2014), so what is wanted is the logarithm of the
/// mean of log-normal values, whose standard error from M of them is `sqrt(s^2 / M + s^4 / (2 (M - 1)))` with
/// s^2 the variance of their logarithms (Cox; with Student's t: Olsson 2005).
///
/// # Panics
/// Without populations.
#[track_caller]
pub fn combine(log_z: &[f64]) -> Combined {
    let n = log_z.len() as f64;
    let shares = Weights::new(log_z);
    let known = log_z.len() > 1 && log_z.iter().all(|z| z.is_finite());
    let error = known.then(|| {
        let mean = log_z.iter().sum::<f64>() / n;
        let variance = log_z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / (n - 1.0);
        (variance / n + variance * variance / (2.0 * (n - 1.0))).sqrt() * student(n - 1.0)
    });
    Combined {
        log_z: shares.log_sum() - n.ln(),
        log_z_error: error.filter(|error| error.is_finite() && *error > 0.0),
        log_weights: shares.log_weights().to_vec(),
    }
}

/// The populations of one prompt as one, and what each says of Z. One alone stays what it is. `alpha` is that
/// of the target.
pub(super) fn merge(
    backend: &dyn Backend,
    mut populations: Vec<Population>,
    conclusion: Conclusion,
    alpha: f64,
) -> Result<(Population, Vec<Estimate>)> {
    let estimate = |p: &Population| Estimate { seed: p.seed, log_z: p.log_z, log_z_error: p.log_z_error };
    let estimates: Vec<Estimate> = populations.iter().map(estimate).collect();
    if populations.len() == 1 {
        return Ok((populations.swap_remove(0), estimates));
    }
    let log_z: Vec<f64> = populations.iter().map(|p| p.log_z).collect();
    let together = combine(&log_z);
    let few = populations.iter().filter(|population| few_draws(population, conclusion, alpha)).count();
    let rewards = joined(&populations, |p| &p.rewards);
    let shared = populations.iter().zip(&together.log_weights);
    let log_weights: Vec<f64> =
        shared.flat_map(|(p, share)| p.log_weights.iter().map(move |w| w + share)).collect();
    let weights = conclusion.weights(&rewards, &Weights::new(&log_weights));
    let stacked =
        |of: fn(&Population) -> &Tensor| backend.stack(&populations.iter().map(of).collect::<Vec<_>>());
    let part = |i: usize| joined(&populations, |p| &p.parts[i].1);
    let (mut before, mut lineage) = (0, Vec::with_capacity(rewards.len()));
    for population in &populations {
        lineage.extend(population.lineage.iter().map(|line| line.iter().map(|a| a + before).collect()));
        before += population.initial as u32;
    }
    let merged = Population {
        x: stacked(|p| &p.x)?,
        images: stacked(|p| &p.images)?,
        parts: populations[0]
            .parts
            .iter()
            .enumerate()
            .map(|(i, (name, _))| (name.clone(), part(i)))
            .collect(),
        log_weights: weights.log_weights().to_vec(),
        weights: weights.weights().to_vec(),
        log_z: if log_z.iter().any(|z| z.is_nan()) { f64::NAN } else { together.log_z },
        log_z_error: together.log_z_error.filter(|_| 2 * few <= populations.len()),
        initial: before as usize,
        lineage,
        rewards,
        ..populations.swap_remove(0)
    };
    Ok((merged, estimates))
}

fn joined(populations: &[Population], of: impl Fn(&Population) -> &Vec<f64>) -> Vec<f64> {
    populations.iter().flat_map(|p| of(p).iter().copied()).collect()
}

/// Whether fewer than [`FEWEST`] particles of a population carry its weight (of four or five: fewer than half
/// of them, and of fewer than four: fewer than two): weights that no population has met do not show in how
/// log Z scatters. Where a method does not weigh its particles, their weights are those of the final rewards.
fn few_draws(population: &Population, conclusion: Conclusion, alpha: f64) -> bool {
    let carry = match conclusion {
        Conclusion::Weigh => population.ess(),
        Conclusion::Keep | Conclusion::Best => {
            Weights::new(&population.rewards.iter().map(|reward| reward / alpha).collect::<Vec<f64>>()).ess()
        }
    };
    carry < (population.rewards.len() as f64 / 2.0).clamp(2.0, FEWEST)
}

/// Why there is no log Z where the moves of a method have no density that is weighed.
pub const NOT_ESTIMATED: &str = "the method does not weigh its moves, and estimates no Z";

/// Why the error of log Z is unknown, where it is.
pub(super) fn unreliable(population: &Population, estimates: &[Estimate]) -> Option<&'static str> {
    if population.log_z_error.is_some() {
        return None;
    }
    let lost = estimates.iter().any(|estimate| !estimate.log_z.is_finite());
    if population.log_z.is_nan() {
        return Some(NOT_ESTIMATED);
    }
    let mut rewards = population.rewards.iter().filter(|reward| reward.is_finite());
    let first = rewards.next();
    if first.is_some() && rewards.all(|reward| Some(reward) == first) && !lost {
        return Some("all rewards are equal, which does not show how weights scatter");
    }
    Some(match (lost, estimates.len()) {
        (true, 1) => "every particle was lost at a step",
        (true, _) => "a population lost every particle at a step",
        (false, 1) if (population.rewards.len() as f64) < FEWEST => "fewer than three particles",
        (false, 1) if (population.roots_alive() as f64) < FEWEST => {
            "fewer than three initial particles have descendants"
        }
        (false, 1) => "fewer than three particles carry the weight",
        (false, _) => "too few particles carry the weight of most populations",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_of_z_are_averaged_and_weigh_by_their_size() {
        let z = [2.0_f64, 1.0, 1.0, 4.0];
        let together = combine(&z.map(f64::ln));
        assert!((together.log_z - 2.0_f64.ln()).abs() < 1e-14);
        for (share, z) in together.log_weights.iter().zip(z) {
            assert!((share.exp() - z / 8.0).abs() < 1e-14);
        }
        // By hand: logarithms 1, 0, 0 and 2 times ln 2, of mean 3/4 and variance 11/12.
        let variance = 11.0 / 12.0 * 2.0_f64.ln().powi(2);
        let error = (variance / 4.0 + variance * variance / 6.0).sqrt() * 3.182_446 / 1.959_964;
        assert!((together.log_z_error.expect("an error") - error).abs() < 1e-6);
    }

    #[test]
    fn an_error_that_is_not_known_is_not_told() {
        assert_eq!(combine(&[1.5]), Combined { log_z: 1.5, log_z_error: None, log_weights: vec![0.0] });
        let lost = combine(&[0.0, f64::NEG_INFINITY]);
        assert_eq!((lost.log_z, lost.log_z_error), (-2.0_f64.ln(), None));
        assert_eq!(lost.log_weights, [0.0, f64::NEG_INFINITY]);
        let all_lost = combine(&[f64::NEG_INFINITY; 2]);
        assert_eq!((all_lost.log_z, all_lost.log_z_error), (f64::NEG_INFINITY, None));
        assert_eq!(combine(&[0.5; 3]).log_z_error, None, "estimates that do not scatter");
    }
}
