//! What a draw was like, in one line on stderr.

use std::path::Path;
use std::time::Duration;

use crate::sampler::PromptStep;
use crate::session::{NOT_ESTIMATED, Samples};

/// Mean and largest of the rewards that are finite.
type Rewards = Option<(f64, f64)>;

/// What is remembered of the steps.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Rewards of the first step of each population in which any is finite, of its predicted images.
    first: Vec<f64>,
    /// Populations whose rewards are among them.
    populations: usize,
    /// Steps whose rewards were computed.
    rewarded: usize,
}

impl Summary {
    /// One more step, of this population.
    pub fn step(&mut self, population: usize, step: &PromptStep) {
        if rewards(&step.reward).is_none() {
            return;
        }
        self.rewarded += 1;
        if self.populations <= population {
            self.populations = population + 1;
            self.first.extend(&step.reward);
        }
    }

    /// `out/0000-a-star: reward 6.913 -> 7.850 (best 7.402 -> 8.024), returned 7.981, log Z 4.31 +- 0.42,
    /// distinct roots 3 of 16, 12.3 s`. `returned`: the reward of the particle in best.png, if one is.
    /// `approximate`: whether the pictures are those of an approximate decoder, which the line says.
    pub fn text(
        &self,
        folder: &Path,
        samples: &Samples,
        returned: Option<f64>,
        approximate: bool,
        time: Duration,
    ) -> String {
        let population = &samples.population;
        let in_short = |x: f64| compact(x, 3);
        let reward = match (rewards(&self.first), rewards(&population.rewards)) {
            (Some((mean, best)), Some((last_mean, last_best))) if self.rewarded > self.populations => {
                format!(
                    "reward {} -> {} (best {} -> {})",
                    in_short(mean),
                    in_short(last_mean),
                    in_short(best),
                    in_short(last_best)
                )
            }
            (_, Some((mean, best))) => format!("reward {} (best {})", in_short(mean), in_short(best)),
            (_, None) => "no reward".into(),
        };
        let returned = returned.map_or(String::new(), |reward| format!(", returned {}", in_short(reward)));
        let decoder = if approximate { ", approximate decoder" } else { "" };
        let log_z = compact(population.log_z, 2);
        let log_z = match (population.log_z_error, samples.unreliable()) {
            (Some(error), _) => format!("log Z {log_z} +- {}", compact(error, 2)),
            (None, Some(NOT_ESTIMATED)) => "no log Z".into(),
            (None, why) => format!("log Z {log_z} (unreliable: {})", why.unwrap_or_default()),
        };
        format!(
            "{}: {reward}{returned}, {log_z}, distinct roots {} of {}{decoder}, {:.1} s",
            folder.display(),
            population.roots_alive(),
            population.rewards.len(),
            time.as_secs_f64()
        )
    }
}

/// A number with so many decimals, or in powers of ten from a million on.
pub fn compact(x: f64, decimals: usize) -> String {
    const LARGE: f64 = 1e6;
    if x.is_finite() && x.abs() >= LARGE { format!("{x:.3e}") } else { format!("{x:.decimals$}") }
}

fn rewards(rewards: &[f64]) -> Rewards {
    let finite: Vec<f64> = rewards.iter().copied().filter(|r| r.is_finite()).collect();
    let mean = finite.iter().sum::<f64>() / finite.len() as f64;
    (!finite.is_empty()).then(|| (mean, finite.iter().copied().fold(f64::NEG_INFINITY, f64::max)))
}

#[cfg(test)]
mod tests {
    use super::compact;

    #[test]
    fn numbers_are_short_whatever_their_size() {
        assert_eq!([6.9134, -0.0004, 999_999.25].map(|x| compact(x, 3)), ["6.913", "-0.000", "999999.250"]);
        assert_eq!([1e6, -2.5e300].map(|x| compact(x, 3)), ["1.000e6", "-2.500e300"]);
        assert_eq!([f64::NEG_INFINITY, f64::NAN].map(|x| compact(x, 2)), ["-inf", "NaN"]);
    }
}
