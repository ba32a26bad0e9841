//! What a method is: its questions ([`Method`]) and the words it answers with.

use std::fmt;

use crate::error::{Error, Result};
use crate::smc::temper::default_gamma;
use crate::smc::{Potentials, Resampler, Rules, Tempering, Weights};

/// A way of aligning samples to a reward.
pub trait Method: Send + Sync {
    /// As typed and recorded: lower case, words joined by `-`.
    fn name(&self) -> &'static str;

    /// Other names that are understood when typed.
    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }

    /// What it does, in a few words, for help.
    fn about(&self) -> &'static str;

    /// What weighs the particles along the chain.
    fn potential(&self) -> Potential;

    /// What pushes the particles, beside the model.
    fn drift(&self) -> Drift;

    /// What the final rewards do to the weights.
    fn conclusion(&self) -> Conclusion {
        Conclusion::Weigh
    }

    /// What the target must answer at a guided step. Once a step has asked for a reward, every later one
    /// must.
    fn need(&self, at: StepIndex) -> Need {
        match (self.potential(), self.drift()) {
            (_, Drift::Gradient | Drift::Shift(Shift::Constant)) => Need::Gradient,
            (_, Drift::Shift(Shift::Relative | Shift::Clean)) => Need::Correction,
            (Potential::Twisted, Drift::None) => Need::Reward,
            (Potential::None, Drift::None) if self.duplicates().is_some() && at.step > 0 => Need::Reward,
            (Potential::None, Drift::None) => Need::Noise,
        }
    }

    /// The rules that suit the method where the user gives no others, for a chain of `guided` guided steps:
    /// the authors' (docs/spec.md 13), with gamma scaled to the number of steps (docs/spec.md 4).
    fn rules(&self, guided: usize) -> Rules {
        Rules {
            tempering: Tempering::Exp { gamma: default_gamma(guided.max(1)) },
            resampler: Resampler::Ssp,
            ess_threshold: 0.5,
            max_shift: None,
            potentials: Potentials::Difference,
        }
    }

    /// Fraction of the steps before the first evaluation of a reward, in [0, 1), where the user gives no
    /// other; for a method that weighs.
    fn start(&self) -> f64 {
        0.0
    }

    /// Steps from one event to the next of a chain of `steps`, at least 1, where the user gives no other; for
    /// a method that weighs and whose proposal is the model's own move.
    fn weigh_every(&self, _steps: usize) -> usize {
        1
    }

    /// Next states that are drawn for each particle at every step where the user says nothing else, at least
    /// 1; one of them goes on, by the softmax of their rewards over alpha. `None` for a method that does not
    /// choose. One that does has [`Potential::None`].
    fn duplicates(&self) -> Option<usize> {
        None
    }

    /// Alpha where the user gives no other; `None`: that of the reward. 0, for a method that chooses: the
    /// largest reward is chosen.
    fn alpha(&self) -> Option<f64> {
        None
    }

    /// How far and when particles are shifted where the user says nothing else; for a method with
    /// [`Drift::Shift`].
    fn guidance(&self) -> Guidance {
        Guidance { strength: 1.0, window: (0.0, 1.0), passes: 1, travel: (0.0, 0.0) }
    }

    /// Whether the chain must add noise. A method that resamples or chooses needs it: without noise the
    /// copies of a particle stay alike for ever.
    fn needs_noise(&self) -> bool {
        self.potential() != Potential::None || self.duplicates().is_some()
    }

    /// Refuses what else the method cannot do. That a drift by gradients needs a reward with gradients, and
    /// that [`needs_noise`](Method::needs_noise) holds, is checked for every method.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming the option.
    fn check(&self, _run: &Circumstances<'_>) -> Result<()> {
        Ok(())
    }
}

/// A guided step of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepIndex {
    /// From 0, the first guided step.
    pub step: usize,
    /// Number of guided steps.
    pub steps: usize,
}

/// What a method is asked to work with.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Circumstances<'a> {
    /// Name of a reward that has no gradient, if there is one.
    pub without_gradient: Option<&'a str>,
    /// Why classifier-free guidance corrects no noise, if it does not.
    pub without_correction: Option<&'a str>,
    /// Whether any transition of the chain adds noise.
    pub noisy: bool,
    /// How the particles are to be weighed.
    pub rules: &'a Rules,
}

/// What weighs the particles between the first guided step and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Potential {
    /// Nothing: steps are neither weighed nor resampled.
    None,
    /// The tempered reward of the predicted clean image as the log twist, `psi = lambda r / alpha`, or what
    /// other [`Potentials`] make of it. A step weighs by `psi` minus the ancestor's `psi` plus `log p - log
    /// m` of the move between (docs/spec.md 1.4, 10.2).
    Twisted,
}

/// What is added to the mean of the model's transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Drift {
    /// Nothing: particles move by the model's transition.
    None,
    /// `kappa v lambda_next / alpha` times the reward's gradient with respect to the noisy latent
    /// (docs/spec.md 1.3). Its density ratio is part of the weights.
    Gradient,
    /// A multiple of the reward's gradient that depends on no variance. The move has no density that could be
    /// weighed: such a method has [`Potential::None`], its particles are samples of no stated law, and they
    /// say nothing of Z.
    Shift(Shift),
}

/// What the reward's gradient `g` is multiplied with and added to the next state, of each particle by itself.
/// The strength is that of [`Guidance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shift {
    /// `strength`; `g` with respect to the noisy latent.
    Constant,
    /// `strength rms(s (eps_c - eps_u)) / rms(g)`, `s` the scale of classifier-free guidance; `g` with
    /// respect to the noisy latent.
    Relative,
    /// `a strength rms(s (eps_c - eps_u)) / rms(g)`; `g` with respect to the predicted clean latent. `a` is
    /// how far the next state's mean follows the clean latent at the same state, with the noise derived
    /// again.
    Clean,
}

/// How far and when particles are shifted by gradients ([`Drift::Shift`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// Above 0, in the units of the method's [`Shift`].
    pub strength: f64,
    /// Fractions of the steps, in [0, 1], between which particles are shifted: from step
    /// `floor(window.0 T)` of T up to, and without, step `floor(window.1 T)`. The other steps are the
    /// model's own.
    pub window: (f64, f64),
    /// How often each step of the time travel is taken, at least 1: after each pass but the last, the state
    /// gets the noise of the step again.
    pub passes: u32,
    /// Fractions of the steps, as those of the window, between which steps are taken so often; both 0 for a
    /// method without time travel.
    pub travel: (f64, f64),
}

impl Guidance {
    /// How often step `k` of a chain of `steps` is taken.
    pub fn passes_of(&self, k: usize, steps: usize) -> u32 {
        if within(self.travel, k, steps) { self.passes } else { 1 }
    }

    /// Whether step `k` of a chain of `steps` is guided.
    pub fn guides(&self, k: usize, steps: usize) -> bool {
        within(self.window, k, steps)
    }
}

/// Whether step `k` of a chain of `steps` lies between two fractions of the steps.
fn within((from, until): (f64, f64), k: usize, steps: usize) -> bool {
    // 0.3 times 10 must not be 2.
    let first = |fraction: f64| (steps as f64 * fraction * (1.0 + 1e-12)).floor() as usize;
    (first(from)..first(until)).contains(&k)
}

/// What the target must answer about a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// Noise and clean latent.
    Noise,
    /// Also the reward of the clean latent.
    Reward,
    /// Also its gradient with respect to the state.
    Gradient,
    /// Also what classifier-free guidance adds to the noise, `s (eps_c - eps_u)`.
    Correction,
}

/// What the final rewards do to the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Conclusion {
    /// They are weighed like those of every step, with factor 1.
    Weigh,
    /// Weights are equal, except that dead particles have none; the rewards are only reported.
    Keep,
    /// All weight goes to the largest reward, the first of equals.
    Best,
}

impl Conclusion {
    /// The final weights, from the plain `rewards` (NaN for dead particles) and the `chain`'s weights after
    /// the final event.
    pub fn weights(self, rewards: &[f64], chain: &Weights) -> Weights {
        match self {
            Conclusion::Weigh => chain.clone(),
            Conclusion::Keep => {
                let alive: Vec<f64> =
                    rewards.iter().map(|r| if r.is_finite() { 0.0 } else { f64::NAN }).collect();
                Weights::new(&alive)
            }
            Conclusion::Best => {
                let best = Weights::new(rewards).argmax();
                let alone = |p: usize| if p == best { 0.0 } else { f64::NEG_INFINITY };
                Weights::new(&(0..rewards.len()).map(alone).collect::<Vec<f64>>())
            }
        }
    }
}

impl dyn Method {
    /// Whether steps are weighed and resampled.
    pub fn weighs(&self) -> bool {
        self.potential() != Potential::None
    }

    /// Whether the networks are differentiated.
    pub fn differentiates(&self) -> bool {
        self.drift() != Drift::None
    }

    /// Whether the gradient shifts a proposal, whose density ratio is weighed.
    pub fn proposes(&self) -> bool {
        self.drift() == Drift::Gradient
    }

    /// Whether it measures its shift by what classifier-free guidance adds to the noise.
    pub fn corrects(&self) -> bool {
        matches!(self.drift(), Drift::Shift(Shift::Relative | Shift::Clean))
    }

    /// Whether particles are shifted by gradients without a weight for it.
    pub fn shifts(&self) -> bool {
        matches!(self.drift(), Drift::Shift(_))
    }

    /// Whether it takes steps several times, by itself or where that is asked for.
    pub fn travels(&self) -> bool {
        self.shifts() && self.guidance().travel != (0.0, 0.0)
    }

    /// How often it takes step `k` of a chain of `steps`, by this guidance.
    pub fn passes(&self, guidance: &Guidance, k: usize, steps: usize) -> u32 {
        if self.travels() { guidance.passes_of(k, steps) } else { 1 }
    }

    /// Whether it chooses among several next states of a particle.
    pub fn chooses(&self) -> bool {
        self.duplicates().is_some()
    }

    /// Whether its chains are the model's own: nothing weighs, pushes or chooses the particles on the way.
    pub fn has_plain_chains(&self) -> bool {
        !self.weighs() && !self.differentiates() && !self.chooses()
    }

    /// Whether it returns the model's own samples.
    pub fn is_plain(&self) -> bool {
        self.has_plain_chains() && self.conclusion() == Conclusion::Keep
    }

    /// Whether alpha changes its particles, their weights or which of them is kept.
    pub fn reads_alpha(&self) -> bool {
        self.conclusion() != Conclusion::Keep || self.chooses()
    }

    /// Whether the run estimates Z: its particles are weighed, or are plain samples.
    pub fn estimates_z(&self) -> bool {
        self.weighs() || self.has_plain_chains()
    }

    /// Refuses a run that the method cannot do: for what every method is asked, and by [`Method::check`].
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming the option.
    pub fn check_all(&self, run: &Circumstances<'_>) -> Result<()> {
        if let (true, Some(reward)) = (self.differentiates(), run.without_gradient) {
            return Err(Error::usage(format!(
                "`method` {self} follows the reward's gradient, and {reward} has none"
            ))
            .option("method")
            .advice("use `method` bootstrap (resampling only) or `method` best-of-n"));
        }
        if let (true, Some(why)) = (self.corrects(), run.without_correction) {
            return Err(Error::usage(format!(
                "`method` {self} measures its shift by classifier-free guidance, and there is none: {why}"
            ))
            .option("method")
            .advice("give `cfg_scale` above 1 with a model that has both branches, or use `method` dps"));
        }
        if self.needs_noise() && !run.noisy {
            return Err(Error::usage(format!(
                "`method` {self} chooses among random continuations, and this chain has no noise"
            ))
            .option("eta")
            .advice("give `eta` above 0 (1 is the default), or use `method` none or best-of-n"));
        }
        self.check(run)
    }
}

/// Methods are told apart by their names.
impl PartialEq for dyn Method {
    fn eq(&self, other: &dyn Method) -> bool {
        self.name() == other.name()
    }
}

impl fmt::Debug for dyn Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for dyn Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
