//! The chain of the toys.

use crate::ddim::{Schedule, SchedulerConfig};
use crate::error::Result;

/// Steps of the chain.
const STEPS: usize = 100;

/// The chain of docs/spec.md 9: betas from 1e-4 to 0.02 over 1000 training steps; 100 transitions of eta = 1
/// from the integer parts of 999 to 0 in equal steps, each to ten training steps lower, and at the end to
/// alpha-bar(0). The last one, from step 0 to alpha-bar(0), has variance 0: nothing moves, no noise is added,
/// and its density ratio is 1 (the authors' program divides by the variance there; docs/spec.md 5.4).
///
/// # Errors
/// None in practice.
pub fn chain() -> Result<Schedule> {
    let config = config();
    let last = config.num_train_timesteps - 1;
    let timesteps: Vec<i64> = (0..STEPS).rev().map(|k| (k * last / (STEPS - 1)) as i64).collect();
    Schedule::through(&config, &timesteps, 1.0)
}

fn config() -> SchedulerConfig {
    SchedulerConfig { clip_sample: None, set_alpha_to_one: false, ..SchedulerConfig::ddim() }
}

/// Alpha-bar of every training step.
pub fn training_alpha_bars() -> Vec<f32> {
    config().alphas_cumprod()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_that_of_the_toys() {
        let chain = chain().expect("a chain");
        let steps = chain.timesteps();
        assert_eq!(
            (steps.len(), &steps[..4], &steps[97..]),
            (100, &[999, 988, 978, 968][..], &[20, 10, 0][..])
        );
        assert!(chain.steps.iter().all(|step| step.t - step.t_prev == 10));
        assert!(chain.steps[..99].iter().all(|step| step.variance > 0.0));
        let last = chain.steps[99];
        assert_eq!((last.variance, last.alpha_bar), (0.0, last.alpha_bar_prev));
        // alpha-bar(0) = 1 - 1e-4, and at 999 the product of all: 4.04e-5 (diffusers' DDIMScheduler).
        assert!((last.alpha_bar - 0.9999).abs() < 1e-7);
        assert!((chain.steps[0].alpha_bar - 4.035_83e-5).abs() < 1e-9, "{}", chain.steps[0].alpha_bar);
    }
}
