//! SVDD: soft value-based decoding in diffusion models (Li, Zhao, Wang, Scalia, Eraslan, Nair, Biancalani,
//! Ji, Regev, Levine, Uehara 2024, "Derivative-free guidance in continuous and discrete diffusion models with
//! soft value-based decoding", arXiv:2408.08252, algorithm 1; docs/spec.md 10.3), with the posterior mean as
//! the value (SVDD-PM) and the settings that its program has for images: 20 next states, alpha 0.

use super::vocabulary::{Conclusion, Drift, Method, Potential};

/// At every step several next states are drawn for each particle, and one of them is chosen by the softmax of
/// the rewards of their predicted clean images over alpha. Needs no gradients.
#[derive(Clone, Copy, Debug)]
pub struct Svdd;

impl Method for Svdd {
    fn name(&self) -> &'static str {
        "svdd"
    }
    fn about(&self) -> &'static str {
        "the best of several next states at every step, for any reward"
    }
    fn potential(&self) -> Potential {
        Potential::None
    }
    fn drift(&self) -> Drift {
        Drift::None
    }
    fn duplicates(&self) -> Option<usize> {
        Some(20)
    }
    fn alpha(&self) -> Option<f64> {
        Some(0.0)
    }
    fn conclusion(&self) -> Conclusion {
        Conclusion::Keep
    }
}
