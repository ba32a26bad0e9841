//! The bootstrap particle filter with the reward of the predicted clean image as its potential (docs/spec.md
//! 10). [`Fk`](super::Fk) has the same weights, without tempering and at fewer steps, under the name of
//! difference potential.

use super::vocabulary::{Drift, Method, Potential};

/// Particles move by the model alone, are weighed by the tempered reward, and resampled. Needs no gradients.
#[derive(Clone, Copy, Debug)]
pub struct Bootstrap;

impl Method for Bootstrap {
    fn name(&self) -> &'static str {
        "bootstrap"
    }
    fn about(&self) -> &'static str {
        "resampling only, for any reward"
    }
    fn potential(&self) -> Potential {
        Potential::Twisted
    }
    fn drift(&self) -> Drift {
        Drift::None
    }
}
