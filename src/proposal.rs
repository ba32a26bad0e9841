//! The seam for methods: what a way of proposing particles needs from the target, how it weighs, and which rules suit
//! it. The sampler asks these questions and knows no method by name; a new method is a new variant and its answers.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::smc::{Resampler, Rules, Tempering};

/// How particles are proposed and weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Proposal {
    /// Twisted and tempered: the DAS paper.
    #[default]
    Das,
    /// Twisted, full reward from the first step on (Wu et al. 2023).
    Tds,
    /// Moves by the prior, weights `exp(psi - psi of the ancestor)`: no gradients.
    Bootstrap,
    /// Plain chains, equal weights.
    None,
    /// Plain chains, all weight on the one of largest reward.
    BestOfN,
}

/// What the sampler wants to know of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// Noise and clean latent.
    Noise,
    /// Also the reward of the clean latent.
    Reward,
    /// Also its gradient with respect to the state.
    Gradient,
}

/// What the last rewards do to the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conclusion {
    /// The last event of the chain of weights.
    Weigh,
    /// Weights stay equal; the rewards are only reported.
    Keep,
    /// All weight goes to the largest reward, the first of equals.
    Best,
}

impl Proposal {
    pub const ALL: [Proposal; 5] =
        [Proposal::Das, Proposal::Tds, Proposal::Bootstrap, Proposal::None, Proposal::BestOfN];

    /// As typed.
    pub const fn name(self) -> &'static str {
        match self {
            Proposal::Das => "das",
            Proposal::Tds => "tds",
            Proposal::Bootstrap => "bootstrap",
            Proposal::None => "none",
            Proposal::BestOfN => "best-of-n",
        }
    }

    /// What each guided step needs. `Noise` means that no step is guided.
    pub const fn need(self) -> Need {
        match self {
            Proposal::Das | Proposal::Tds => Need::Gradient,
            Proposal::Bootstrap => Need::Reward,
            Proposal::None | Proposal::BestOfN => Need::Noise,
        }
    }

    /// Whether steps are weighed and resampled.
    pub const fn weighs(self) -> bool {
        !matches!(self.need(), Need::Noise)
    }

    pub const fn conclusion(self) -> Conclusion {
        match self {
            Proposal::Das | Proposal::Tds | Proposal::Bootstrap => Conclusion::Weigh,
            Proposal::None => Conclusion::Keep,
            Proposal::BestOfN => Conclusion::Best,
        }
    }

    /// The method's own rules for `guided` steps (docs/spec.md 10, 13).
    pub fn rules(self, guided: usize) -> Rules {
        let (tempering, resampler) = match self {
            Proposal::Tds => (Tempering::None, Resampler::Systematic),
            _ => (Tempering::Exp { gamma: crate::smc::temper::default_gamma(guided.max(1)) }, Resampler::Ssp),
        };
        Rules { tempering, resampler, ess_threshold: 0.5 }
    }

    /// Refuses what the method cannot do: gradients of a reward that has none (`without_gradient` names it), and
    /// guidance along a chain that is not `noisy`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming the flag.
    pub fn check(self, without_gradient: Option<&str>, noisy: bool) -> Result<()> {
        if let (Need::Gradient, Some(reward)) = (self.need(), without_gradient) {
            return Err(Error::usage(format!(
                "`method` {self} follows the reward's gradient, and {reward} has none"
            ))
            .option("method")
            .advice("use `method` bootstrap (resampling only) or `method` best-of-n"));
        }
        if self.weighs() && !noisy {
            return Err(Error::usage(format!(
                "`method` {self} chooses among random continuations, and this chain has no noise"
            ))
            .option("eta")
            .advice("give `eta` above 0 (1 is the default), or use `method` none or best-of-n"));
        }
        Ok(())
    }
}

/// Plain chains that cost at least as much as `particles` guided ones: `ratio` is the cost of one guided chain over
/// that of one plain chain with its final reward, as counted by the meter. Rounded up, in favour of the baseline.
#[track_caller]
pub fn best_of_n_at_equal_cost(particles: usize, ratio: f64) -> usize {
    assert!(ratio.is_finite() && ratio > 0.0, "a cost ratio of {ratio}");
    // A ratio that is whole up to rounding is whole.
    (particles as f64 * ratio * (1.0 - 1e-12)).ceil().max(1.0) as usize
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Proposal {
    type Err = Error;
    fn from_str(s: &str) -> Result<Proposal> {
        Proposal::ALL.into_iter().find(|p| p.name() == s).ok_or_else(|| {
            let names = Proposal::ALL.map(Proposal::name).join(", ");
            Error::usage(format!("unknown method \"{s}\""))
                .option("method")
                .advice(format!("`method` takes one of: {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for proposal in Proposal::ALL {
            assert_eq!(proposal.name().parse::<Proposal>().unwrap(), proposal);
        }
        let error = "dps".parse::<Proposal>().unwrap_err().to_string();
        assert!(error.contains("dps") && error.contains("best-of-n"), "{error}");
    }

    #[test]
    fn a_reward_without_gradient_is_refused_where_one_is_followed() {
        for proposal in Proposal::ALL {
            let gradient = matches!(proposal, Proposal::Das | Proposal::Tds);
            let refused = proposal.check(Some("jpeg"), true);
            assert_eq!(refused.is_err(), gradient, "{proposal}");
            if let Err(error) = refused {
                let text = error.to_string();
                assert!(text.contains("jpeg") && text.contains("`method` bootstrap"), "{text}");
            }
            assert!(proposal.check(None, true).is_ok());
            assert_eq!(proposal.check(None, false).is_err(), proposal.weighs(), "{proposal}");
        }
    }

    #[test]
    fn equal_cost_rounds_in_favour_of_the_baseline() {
        assert_eq!(best_of_n_at_equal_cost(16, 3.0), 48);
        assert_eq!(best_of_n_at_equal_cost(10, 0.3 / 0.1), 30, "0.3 / 0.1 is a little less or more than 3");
        assert_eq!(best_of_n_at_equal_cost(16, 3.01), 49);
        assert_eq!(best_of_n_at_equal_cost(1, 0.2), 1);
    }
}
