//! Time travel: steps that are taken several times (docs/spec.md 10.1). A run is a list of passes, each
//! through one transition of the chain; after every pass but the last of a transition the state goes back to
//! the noise level before it.

use super::options::Options;

/// One pass through a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pass {
    /// The transition.
    pub step: usize,
    /// From 0, the first pass through it.
    pub number: u32,
    /// Whether another one follows.
    pub again: bool,
}

/// Bits of the number of the step in a key; those above have the number of the pass.
const STEP_BITS: u32 = 20;

impl Pass {
    /// All passes of a run along a chain of `steps`.
    pub fn all(options: &Options, steps: usize) -> Vec<Pass> {
        let of = |step: usize| {
            let passes = options.method.passes(&options.guidance, step, steps);
            (0..passes).map(move |number| Pass { step, number, again: number + 1 < passes })
        };
        (0..steps).flat_map(of).collect()
    }

    /// The step of the keys of random numbers: every pass has its own, and the first those of a chain without
    /// time travel.
    pub fn key(self) -> u32 {
        self.step as u32 | self.number << STEP_BITS
    }
}
