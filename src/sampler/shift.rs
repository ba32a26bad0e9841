//! How far the reward's gradient shifts each particle, where the shift is not weighed (docs/spec.md 10).

use super::{Evaluation, Sampler};
use crate::ddim::Step;
use crate::error::Result;
use crate::method::{Drift, Shift};

impl Sampler<'_> {
    /// What the gradient of each slot is multiplied with, and how far its move then diverges from the
    /// model's; both empty without a gradient. A gradient that is not finite, or is 0, shifts nothing.
    pub(super) fn shift(&self, step: &Step, seen: &Evaluation) -> Result<(Vec<f64>, Vec<f64>)> {
        let (Drift::Shift(shift), Some(grad)) = (self.options.method.drift(), &seen.grad) else {
            return Ok(Default::default());
        };
        let strength = self.options.guidance.strength;
        let grads = self.backend.squared_norms(grad)?;
        // Of each particle. Both have as many elements, so that the ratio of their lengths is that of their
        // root mean squares.
        let corrections = match &seen.correction {
            Some(correction) => self.backend.squared_norms(correction)?,
            None => vec![0.0; grads.len()],
        };
        let factor = |(square, correction): (f64, f64)| {
            let relative = strength * (correction / square).sqrt();
            let factor = match shift {
                Shift::Constant => strength,
                Shift::Relative => relative,
                Shift::Clean => follows_clean(step) * relative,
            };
            if square.is_finite() && square > 0.0 && factor.is_finite() { factor } else { 0.0 }
        };
        let factors: Vec<f64> = grads.iter().copied().zip(corrections).map(factor).collect();
        // Of two normal laws of one variance whose means are the shift apart.
        let divergence = |(&factor, &square): (&f64, &f64)| match factor {
            0.0 => 0.0,
            _ => factor * factor * square / (2.0 * step.variance),
        };
        let divergences = factors.iter().zip(&grads).map(divergence).collect();
        Ok((factors, divergences))
    }
}

/// How far the mean of the next state follows the clean latent where the state stays what it is and the noise
/// is derived from both, `eps = (x - sqrt(abar) x0) / sqrt(1 - abar)`. With full noise that is the first
/// coefficient of the DDPM posterior.
fn follows_clean(step: &Step) -> f64 {
    step.mean.first - step.mean.second * (step.alpha_bar / (1.0 - step.alpha_bar)).sqrt()
}
