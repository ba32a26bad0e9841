//! How far the reward's gradient shifts each particle, where the shift is not weighed (docs/spec.md 10).

use super::{Evaluation, Sampler};
use crate::error::Result;
use crate::method::{Drift, Shift};

impl Sampler<'_> {
    /// What the gradient of each slot is multiplied with; empty without one. A gradient that is not finite
    /// shifts nothing.
    pub(super) fn shift(&self, seen: &Evaluation) -> Result<Vec<f64>> {
        let (Drift::Shift(shift), Some(grad)) = (self.options.method.drift(), &seen.grad) else {
            return Ok(Vec::new());
        };
        let strength = self.options.guidance.strength;
        let grads = self.backend.squared_norms(grad)?;
        let factor = |square: f64| match shift {
            _ if !square.is_finite() => 0.0,
            Shift::Constant => strength,
        };
        Ok(grads.into_iter().map(factor).collect())
    }
}
