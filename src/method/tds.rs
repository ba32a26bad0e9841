//! TDS: the twisted diffusion sampler (Wu, Trippe, Naesseth, Blei, Cunningham 2023, "Practical and
//! asymptotically exact conditional sampling in diffusion models").

use super::vocabulary::{Circumstances, Drift, Method, Potential};
use crate::error::{Error, Result};
use crate::smc::{Potentials, Resampler, Rules, Tempering};

/// As [`Das`](super::Das), with the full reward from the first guided step on.
#[derive(Clone, Copy, Debug)]
pub struct Tds;

impl Method for Tds {
    fn name(&self) -> &'static str {
        "tds"
    }
    fn about(&self) -> &'static str {
        "das without tempering"
    }
    fn potential(&self) -> Potential {
        Potential::Twisted
    }
    fn drift(&self) -> Drift {
        Drift::Gradient
    }
    fn rules(&self, _guided: usize) -> Rules {
        Rules {
            tempering: Tempering::None,
            resampler: Resampler::Systematic,
            ess_threshold: 0.5,
            max_shift: None,
            potentials: Potentials::Difference,
        }
    }
    fn check(&self, run: &Circumstances<'_>) -> Result<()> {
        if run.rules.tempering != Tempering::None {
            return Err(Error::usage(format!("`method` tds with `tempering` {}", run.rules.tempering))
                .option("tempering")
                .advice("leave out `tempering`, or use `method` das"));
        }
        Ok(())
    }
}
