//! FK steering: Feynman-Kac steering (Singhal, Horvitz, Teehan, Ren, Yu, McKeown, Ranganath 2025, "A general
//! framework for inference-time scaling and steering of diffusion models", arXiv:2501.06848; docs/spec.md
//! 10.2), with the settings that its program has for images: the potential `max`, events at 20, 40, 60 and 80
//! of 100 steps and at the end, multinomial resampling below half of the particles, no tempering.

use super::vocabulary::{Drift, Method, Potential};
use crate::smc::{Potentials, Resampler, Rules, Tempering};

/// The bootstrap particle filter that looks at the rewards a few times, by one of three potentials. Needs no
/// gradients.
#[derive(Clone, Copy, Debug)]
pub struct Fk;

/// Events along the chain, and one at its end.
const PARTS: usize = 5;

impl Method for Fk {
    fn name(&self) -> &'static str {
        "fk"
    }
    fn about(&self) -> &'static str {
        "FK steering: resampling at a few steps, for any reward"
    }
    fn potential(&self) -> Potential {
        Potential::Twisted
    }
    fn drift(&self) -> Drift {
        Drift::None
    }
    fn rules(&self, _guided: usize) -> Rules {
        Rules {
            tempering: Tempering::None,
            resampler: Resampler::Multinomial,
            ess_threshold: 0.5,
            max_shift: None,
            potentials: Potentials::Max,
        }
    }
    fn start(&self) -> f64 {
        1.0 / PARTS as f64
    }
    fn weigh_every(&self, steps: usize) -> usize {
        (steps / PARTS).max(1)
    }
}
