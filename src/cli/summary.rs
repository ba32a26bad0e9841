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

    /// `out/0000-a-star: reward 6.913 -> 7.850 (best 7.402 -> 8.024), log Z 4.31 +- 0.42, distinct roots 3 of
    /// 16, 12.3 s`
    pub fn text(&self, folder: &Path, population: &Population, time: Duration) -> String {
        let reward = match (self.first, self.last) {
            (Some((mean, best)), Some((last_mean, last_best))) if self.rewarded > 1 => {
                format!("reward {mean:.3} -> {last_mean:.3} (best {best:.3} -> {last_best:.3})")
            }
            (_, Some((mean, best))) => format!("reward {mean:.3} (best {best:.3})"),
            (_, None) => "no reward".into(),
        };
        let error = population.log_z_error.map_or("(unreliable)".into(), |error| format!("+- {error:.2}"));
        format!(
            "{}: {reward}, log Z {:.2} {error}, distinct roots {} of {}, {:.1} s",
            folder.display(),
            population.log_z,
            self.roots,
            population.rewards.len(),
            time.as_secs_f64()
        )
    }
}

fn rewards(rewards: &[f64]) -> Rewards {
    let finite: Vec<f64> = rewards.iter().copied().filter(|r| r.is_finite()).collect();
    let mean = finite.iter().sum::<f64>() / finite.len() as f64;
    (!finite.is_empty()).then(|| (mean, finite.iter().copied().fold(f64::NEG_INFINITY, f64::max)))
}
