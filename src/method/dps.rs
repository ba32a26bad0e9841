//! DPS: diffusion posterior sampling (Chung, Kim, Mccann, Klasky, Ye, "Diffusion Posterior Sampling for
//! General Noisy Inverse Problems", ICLR 2023; docs/spec.md 10), with a reward in the place of the
//! likelihood.

use super::vocabulary::{Conclusion, Drift, Guidance, Method, Potential, Shift};

/// Each step of the model's chain, plus `zeta` times the gradient of the reward of the predicted clean image
/// with respect to the state. No weights, no resampling.
///
/// The published step size divides by the residual of a measurement, which a reward has not; zeta is constant
/// here. Its default is that of the authors' toys (docs/spec.md 9). What suits a reward depends on its scale.
#[derive(Clone, Copy, Debug)]
pub struct Dps;

impl Method for Dps {
    fn name(&self) -> &'static str {
        "dps"
    }
    fn about(&self) -> &'static str {
        "every step shifted by the reward's gradient, without weights"
    }
    fn potential(&self) -> Potential {
        Potential::None
    }
    fn drift(&self) -> Drift {
        Drift::Shift(Shift::Constant)
    }
    fn guidance(&self) -> Guidance {
        Guidance { strength: 1.0, window: (0.0, 1.0), passes: 1, travel: (0.0, 0.0) }
    }
    fn conclusion(&self) -> Conclusion {
        Conclusion::Keep
    }
}
