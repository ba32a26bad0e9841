//! Whether the error bars of log Z hold what they promise: how often the truth, as the other seeds know it,
//! lies within them.

use std::collections::BTreeMap;

use super::result::RunResult;
use crate::cli::statistics::mean;

/// Fewest other seeds that know the truth. The spread of fewer says too little about their mean.
pub const FEWEST_SEEDS: usize = 8;
/// Largest error of the reference, as a part of the error that is judged: it then takes less than one point
/// off a coverage of 95 %.
const MOST_OF_ERROR: f64 = 1.0 / 3.0;
/// Largest relative error of the reference, above which its logarithm is no longer normal.
const MOST_RELATIVE: f64 = 0.25;

/// Estimates of one Z: of one prompt and one law.
#[derive(Default)]
struct Estimates {
    /// By seed: particles and log Z of every run. Runs of one seed share their noise.
    by_seed: BTreeMap<u64, Vec<(f64, f64)>>,
}

/// What all runs say of each Z.
pub struct References(BTreeMap<(String, usize), Estimates>);

/// How often error bars hold the reference.
pub struct Coverage {
    /// Of the runs that could be judged, the share.
    pub share: f64,
    pub judged: usize,
}

impl References {
    /// Of runs with the law that each estimates Z under; those without one are biased and left out.
    pub fn new<'a>(runs: impl Iterator<Item = (&'a RunResult, Option<&'a str>)>) -> References {
        let mut all: BTreeMap<(String, usize), Estimates> = BTreeMap::new();
        for (run, law) in runs {
            let Some(law) = law else { continue };
            let estimates = all.entry((law.to_string(), run.index)).or_default();
            let log_z = run.log_z.unwrap_or(f64::NEG_INFINITY);
            estimates.by_seed.entry(run.seed).or_default().push((run.particles as f64, log_z));
        }
        References(all)
    }

    /// How many of `runs`, which estimate Z under `law` and know their error, hold the reference of the other
    /// seeds within twice that error. `None` where not one has a reference that is good enough to judge it.
    pub fn coverage(&self, law: &str, runs: &[&RunResult]) -> Option<Coverage> {
        let judge = |run: &&RunResult| {
            let (log_z, error) = run.log_z.zip(run.log_z_error)?;
            let (reference, own) = self.without(law, run.index, run.seed)?;
            (own <= MOST_OF_ERROR * error).then_some((log_z - reference).abs() <= 2.0 * error)
        };
        let held: Vec<bool> = runs.iter().filter_map(judge).collect();
        let share = held.iter().filter(|held| **held).count() as f64 / held.len() as f64;
        (!held.is_empty()).then_some(Coverage { share, judged: held.len() })
    }

    /// Log of the mean of Z over all seeds but one, and its standard error; `None` where they know it too
    /// badly. Estimates of Z are unbiased, so it is Z that is averaged: within a seed by particles, over
    /// seeds equally.
    fn without(&self, law: &str, prompt: usize, seed: u64) -> Option<(f64, f64)> {
        let estimates = &self.0.get(&(law.to_string(), prompt))?.by_seed;
        let others = || estimates.iter().filter(|(other, _)| **other != seed).map(|(_, runs)| runs);
        let largest = others().flatten().map(|(_, log_z)| *log_z).fold(f64::NEG_INFINITY, f64::max);
        let z: Vec<f64> = others()
            .map(|runs| {
                let particles: f64 = runs.iter().map(|(n, _)| n).sum();
                runs.iter().map(|(n, log_z)| n * (log_z - largest).exp()).sum::<f64>() / particles
            })
            .collect();
        let (n, center) = (z.len() as f64, mean(&z));
        if z.len() < FEWEST_SEEDS || !largest.is_finite() {
            return None;
        }
        let variance = z.iter().map(|z| (z - center).powi(2)).sum::<f64>() / (n - 1.0);
        let relative = (variance / n).sqrt() / center;
        (relative <= MOST_RELATIVE).then_some((largest + center.ln(), relative))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Key, Purpose, uniforms};

    fn run(seed: u64, log_z: f64, log_z_error: Option<f64>) -> RunResult {
        RunResult { seed, log_z: Some(log_z), log_z_error, particles: 4, ..RunResult::default() }
    }

    fn coverage(runs: &[RunResult]) -> Option<Coverage> {
        let references = References::new(runs.iter().map(|run| (run, Some("law"))));
        references.coverage("law", &runs.iter().collect::<Vec<_>>())
    }

    /// Normal errors whose bars are right are covered as often as promised, and bars of half the size less.
    #[test]
    fn bars_that_are_right_are_covered_as_promised() {
        let mut u = uniforms(Key { seed: 3, prompt: 0, particle: 0, step: 0, purpose: Purpose::Data });
        // The sum of twelve uniform numbers is normal enough.
        let mut normal = || (0..12).map(|_| u.draw()).sum::<f64>() - 6.0;
        let runs: Vec<RunResult> = (0..400).map(|seed| run(seed, 70.0 + 0.1 * normal(), Some(0.1))).collect();
        let found = coverage(&runs).expect("a coverage");
        // 95.4 %, give or take three standard deviations of 400 runs.
        assert!(found.judged == 400 && (found.share - 0.954).abs() < 0.032, "{}", found.share);
        let halved: Vec<RunResult> =
            runs.iter().map(|r| run(r.seed, r.log_z.unwrap_or(0.0), Some(0.05))).collect();
        // One standard deviation: 68 %.
        let found = coverage(&halved).expect("a coverage").share;
        assert!((found - 0.683).abs() < 0.07, "{found}");
    }

    #[test]
    fn what_the_other_seeds_do_not_know_is_not_judged() {
        let even: Vec<RunResult> = (0..9).map(|seed| run(seed, 1.0, Some(0.1))).collect();
        assert_eq!(coverage(&even).map(|c| (c.share, c.judged)), Some((1.0, 9)));
        assert!(coverage(&even[..8]).is_none(), "seven others");
        // The same seeds once more are no further seeds.
        let twice: Vec<RunResult> = even[..8].iter().chain(&even[..8]).cloned().collect();
        assert!(coverage(&twice).is_none());
        // One estimate that outweighs all others: only without it they agree.
        let mut heavy = even.clone();
        heavy.push(run(9, 9.0, Some(0.1)));
        let found = coverage(&heavy).expect("the heavy one");
        assert_eq!((found.share, found.judged), (0.0, 1));
        // Bars that are smaller than what the reference knows.
        let wide = |i: u64| 1.0 + 0.1 * (i % 2) as f64;
        let scattered: Vec<RunResult> = (0..12).map(|seed| run(seed, wide(seed), Some(0.01))).collect();
        assert!(coverage(&scattered).is_none());
        let unknown: Vec<RunResult> = even.iter().map(|r| run(r.seed, 1.0, None)).collect();
        assert!(coverage(&unknown).is_none());
    }
}
