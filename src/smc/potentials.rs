//! Which potentials weigh the particles between the first event and the end (docs/spec.md 10.2; Singhal et
//! al. 2025, "A general framework for inference-time scaling and steering of diffusion models", section 3).

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// What an event multiplies a particle's weight by, of the tempered rewards `l_j = lambda_j r_j / alpha` that
/// the particle and its ancestors have had at the events `j = 0 .. k`. The final event multiplies by what is
/// left of `exp(r / alpha)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Potentials {
    /// `exp(l_k - l_{k-1})`: the weight follows the reward that the particle has now.
    #[default]
    Difference,
    /// `exp(max_j l_j)`: the best that the particle has promised, at every event.
    Max,
    /// `exp(sum_j l_j)`: all that it has promised, at every event.
    Sum,
}

impl Potentials {
    /// Every choice.
    pub const ALL: [Potentials; 3] = [Potentials::Difference, Potentials::Max, Potentials::Sum];

    /// As typed.
    pub fn name(self) -> &'static str {
        match self {
            Potentials::Difference => "diff",
            Potentials::Max => "max",
            Potentials::Sum => "sum",
        }
    }

    /// What is kept of the rewards, and the log twist: the sum of the logarithms of all potentials up to this
    /// event. `l` are the tempered rewards, `psi` the ancestors' twists and `kept` what was kept of theirs. A
    /// reward that is not finite leaves a twist that is not.
    pub fn twist(self, l: Vec<f64>, psi: &[f64], kept: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let first = |kept: f64| kept == f64::NEG_INFINITY;
        let keep = |(&l, &kept): (&f64, &f64)| match self {
            Potentials::Difference => f64::NEG_INFINITY,
            _ if !l.is_finite() || first(kept) => l,
            Potentials::Max => kept.max(l),
            Potentials::Sum => kept + l,
        };
        let now: Vec<f64> = l.iter().zip(kept).map(keep).collect();
        match self {
            Potentials::Difference => (now, l),
            Potentials::Max | Potentials::Sum => {
                let twist = now.iter().zip(psi).map(|(now, psi)| psi + now).collect();
                (now, twist)
            }
        }
    }
}

impl fmt::Display for Potentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Potentials {
    type Err = Error;
    fn from_str(s: &str) -> Result<Potentials, Error> {
        Potentials::ALL.into_iter().find(|potentials| potentials.name() == s).ok_or_else(|| {
            Error::usage(format!("unknown potential \"{s}\""))
                .option("potential")
                .advice("give `potential` one of: diff, max, sum")
        })
    }
}
