//! What a draw was like, in one line on stderr.

use std::path::Path;
use std::time::Duration;

use crate::sampler::{Population, PromptStep};

/// Mean and largest of the rewards that are finite.
type Rewards = Option<(f64, f64)>;

/// What is remembered of the steps.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Of the first step whose rewards were computed, of its predicted images; and of the last, of the final
    /// images.
    first: Rewards,
    last: Rewards,
    /// Steps whose rewards were computed.
    rewarded: usize,
    roots: usize,
}

impl Summary {
    /// One more step.
    pub fn step(&mut self, step: &PromptStep) {
        self.roots = step.roots_alive;
        self.last = rewards(&step.reward);
        self.first = self.first.or(self.last);
        self.rewarded += usize::from(self.last.is_some());
    }

    /// `out/0000-a-star: reward 6.913 -> 7.850 (best 7.402 -> 8.024), returned 7.981, log Z 4.31 +- 0.42,
    /// distinct roots 3 of 16, 12.3 s`. `returned`: the reward of the particle in best.png, if one is.
    pub fn text(
        &self,
        folder: &Path,
        population: &Population,
        returned: Option<f64>,
        time: Duration,
    ) -> String {
        let in_short = |x: f64| compact(x, 3);
        let reward = match (self.first, self.last) {
            (Some((mean, best)), Some((last_mean, last_best))) if self.rewarded > 1 => format!(
                "reward {} -> {} (best {} -> {})",
                in_short(mean),
                in_short(last_mean),
                in_short(best),
                in_short(last_best)
            ),
            (_, Some((mean, best))) => format!("reward {} (best {})", in_short(mean), in_short(best)),
            (_, None) => "no reward".into(),
        };
        let returned = returned.map_or(String::new(), |reward| format!(", returned {}", in_short(reward)));
        let error =
            population.log_z_error.map_or("(unreliable)".into(), |error| format!("+- {}", compact(error, 2)));
        format!(
            "{}: {reward}{returned}, log Z {} {error}, distinct roots {} of {}, {:.1} s",
            folder.display(),
            compact(population.log_z, 2),
            self.roots,
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
