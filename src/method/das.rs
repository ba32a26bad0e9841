//! DAS: twisted and tempered (Sunwoo Kim, Minkyu Kim, Dongmin Park, "Test-time Alignment of Diffusion Models
//! without Reward Over-optimization", ICLR 2025; docs/spec.md 1.3 and 4).

use super::vocabulary::{Drift, Method, Potential};

/// Particles are guided by the reward's gradient, weighed by the tempered reward of the predicted clean
/// image, and resampled.
#[derive(Clone, Copy, Debug)]
pub struct Das;

impl Method for Das {
    fn name(&self) -> &'static str {
        "das"
    }
    /// What the authors' program calls the proposal.
    fn aliases(&self) -> &'static [&'static str] {
        &["twisted"]
    }
    fn about(&self) -> &'static str {
        "gradients, tempering and resampling: the paper's method"
    }
    fn potential(&self) -> Potential {
        Potential::Twisted
    }
    fn drift(&self) -> Drift {
        Drift::Gradient
    }
}
