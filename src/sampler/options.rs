//! Everything a run depends on, besides model, reward and chain.

use std::fmt;
use std::str::FromStr;

use crate::ddim::Schedule;
use crate::error::{Error, Result};
use crate::proposal::Proposal;
use crate::smc::{self, Rules};

/// What to do about values that are not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum OnNan {
    /// Weight 0 for the particle (no guidance, if only its gradient is concerned), and a line in the record.
    #[default]
    Drop,
    /// An error that names the first of them.
    Abort,
}

impl fmt::Display for OnNan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnNan::Drop => "drop",
            OnNan::Abort => "abort",
        })
    }
}

impl FromStr for OnNan {
    type Err = Error;
    fn from_str(s: &str) -> Result<OnNan> {
        named("policy for values that are not finite", s, [OnNan::Drop, OnNan::Abort])
    }
}

/// Whose bookkeeping after a resampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Compat {
    /// The paper's: everything a particle has travels with it.
    #[default]
    Paper,
    /// That of the authors' program (docs/spec.md 5.1, 5.2): twist and gradient stay in their slots. Biased;
    /// for comparison.
    Reference,
}

impl fmt::Display for Compat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compat::Paper => "paper",
            Compat::Reference => "reference",
        })
    }
}

impl FromStr for Compat {
    type Err = Error;
    fn from_str(s: &str) -> Result<Compat> {
        named("bookkeeping", s, [Compat::Paper, Compat::Reference])
    }
}

/// The choice of this name.
fn named<T: fmt::Display, const N: usize>(what: &str, name: &str, choices: [T; N]) -> Result<T> {
    let names = choices.each_ref().map(ToString::to_string).join(", ");
    choices.into_iter().find(|choice| choice.to_string() == name).ok_or_else(|| {
        Error::usage(format!("unknown {what} \"{name}\"")).fix(format!("give one of: {names}"))
    })
}

/// Everything a run depends on, besides model, reward and chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub seed: u64,
    /// Numbers of the prompts to run together, each below 2^28. They key the noise.
    pub prompts: Vec<u32>,
    /// Per prompt.
    pub particles: usize,
    /// Alpha of the target `p(x) exp(r(x) / alpha)`.
    pub alpha: f64,
    pub proposal: Proposal,
    pub rules: Rules,
    /// Fraction of the steps before the first look at a reward, in [0, 1).
    pub tempering_start: f64,
    pub on_nan: OnNan,
    pub compat: Compat,
}

impl Options {
    /// The repository's defaults for `steps` steps: one prompt, 4 particles, DAS.
    pub fn new(seed: u64, steps: usize) -> Options {
        Options {
            seed,
            prompts: vec![0],
            particles: 4,
            alpha: 1.0,
            proposal: Proposal::Das,
            rules: Proposal::Das.rules(steps),
            tempering_start: 0.0,
            on_nan: OnNan::Drop,
            compat: Compat::Paper,
        }
    }

    /// Refuses what cannot work, alone or together.
    pub(super) fn check(&self, schedule: &Schedule) -> Result<()> {
        assert!(!schedule.is_empty(), "a chain without steps");
        assert!(!self.prompts.is_empty(), "no prompts");
        let mut prompts = self.prompts.clone();
        prompts.sort_unstable();
        prompts.dedup();
        assert_eq!(prompts.len(), self.prompts.len(), "prompts share a number, and so their noise");
        if self.particles == 0 {
            return Err(Error::usage("no particles to sample")
                .option("particles")
                .advice("give `particles` at least 1"));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(Error::usage(format!("`alpha` {} is not a positive number", self.alpha))
                .option("alpha")
                .advice("give `alpha` a positive number; smaller follows the reward more"));
        }
        if !(0.0..1.0).contains(&self.tempering_start) {
            return Err(Error::usage(format!(
                "tempering starts at {}, outside [0, 1)",
                self.tempering_start
            ))
            .option("tempering_start")
            .advice("give `tempering_start` a fraction of the steps below 1"));
        }
        if self.proposal.weighs() {
            self.rules.tempering.validate(self.rules.ess_threshold)?;
        }
        if self.proposal == Proposal::Tds && self.rules.tempering != smc::Tempering::None {
            return Err(Error::usage(format!("`method` tds with `tempering` {}", self.rules.tempering))
                .option("tempering")
                .advice("leave out `tempering`, or use `method` das"));
        }
        Ok(())
    }
}
