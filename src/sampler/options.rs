//! Everything a run depends on, besides model, reward and chain.

use std::fmt;
use std::str::FromStr;

use crate::ddim::Schedule;
use crate::error::{Error, Result};
use crate::method::{Circumstances, Das, Guidance, Method, Need, StepIndex};
use crate::smc::{Potentials, Rules, Tempering};

/// Most next states of a particle: their noise has keys for this many (`choose.rs`).
const MOST_DUPLICATES: usize = 1 << 12;

/// Most passes through a transition: their noise has keys for this many (`travel.rs`).
const MOST_PASSES: u32 = 1 << 10;

/// What to do about values that are not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
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
        named("on_nan", "policy for values that are not finite", s, [OnNan::Drop, OnNan::Abort])
    }
}

/// Whose bookkeeping after a resampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
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
        named("compat", "bookkeeping", s, [Compat::Paper, Compat::Reference])
    }
}

/// The choice of this name.
fn named<T: fmt::Display, const N: usize>(
    option: &'static str,
    what: &str,
    name: &str,
    choices: [T; N],
) -> Result<T> {
    let names = choices.each_ref().map(ToString::to_string).join(", ");
    choices.into_iter().find(|choice| choice.to_string() == name).ok_or_else(|| {
        Error::usage(format!("unknown {what} \"{name}\""))
            .option(option)
            .advice(format!("give `{option}` one of: {names}"))
    })
}

/// Many particles at first, of which few go on: candidates move unguided and unweighed until one step looks
/// at the rewards of their predicted clean images and keeps as many as the run has particles
/// ([`thin`](fn@crate::smc::thin)). That step is not guided; those after it are what the method makes of
/// them, with the full reward: [`Tempering::None`](crate::smc::Tempering::None) is the only tempering that
/// goes with candidates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidates {
    /// Of each prompt, more than particles.
    pub count: usize,
    /// Fraction of the steps before the one that thins, in [0, 1).
    pub until: f64,
}

impl Candidates {
    /// The step that thins, of a chain of `steps`.
    pub fn step(&self, steps: usize) -> usize {
        (steps as f64 * self.until).floor() as usize
    }
}

/// Everything a run depends on, besides model, reward and chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Keys every random number.
    pub seed: u64,
    /// Numbers of the prompts to run together, each below 2^28. They key the noise.
    pub prompts: Vec<u32>,
    /// Particles of each prompt; those that go on, where there are candidates.
    pub particles: usize,
    /// More particles at first.
    pub candidates: Option<Candidates>,
    /// Alpha of the target `p(x) exp(r(x) / alpha)`, above 0; 0 too for a method that chooses among next
    /// states, and then takes the one of the largest reward.
    pub alpha: f64,
    /// How particles move and are weighed: one of [`METHODS`](crate::method::METHODS) or your own. One that
    /// is made at run time can be had with `Box::leak`.
    pub method: &'static dyn Method,
    /// Tempering, resampling and its threshold.
    pub rules: Rules,
    /// Guided steps from one gradient to the next, at least 1. Between them a particle is guided by the
    /// gradient that it has, and is neither weighed nor resampled: what the moves owe to the weights adds up
    /// until the next gradient. More than 1 leaves the weighing to the host.
    pub gradient_every: usize,
    /// Steps from one event to the next, at least 1, of a method that weighs without gradients. Between them
    /// particles move by the model alone, and are neither weighed nor resampled.
    pub weigh_every: usize,
    /// Next states that are drawn for each particle at every step of a method that chooses among them, at
    /// least 1; others do not read it.
    pub duplicates: usize,
    /// How far and when a method shifts particles whose shift is not weighed; others do not read it.
    pub guidance: Guidance,
    /// Fraction of the steps before the first evaluation of a reward, in [0, 1).
    pub tempering_start: f64,
    /// What to do about values that are not finite.
    pub on_nan: OnNan,
    /// Whose bookkeeping after a resampling.
    pub compat: Compat,
}

impl Options {
    /// The authors' settings (docs/spec.md 13), with gamma scaled to the number of steps (docs/spec.md 4):
    /// one prompt, four particles, DAS.
    pub fn new(seed: u64, steps: usize) -> Options {
        Options {
            seed,
            prompts: vec![0],
            particles: 4,
            candidates: None,
            alpha: 1.0,
            method: &Das,
            rules: Das.rules(steps),
            gradient_every: 1,
            weigh_every: 1,
            duplicates: 1,
            guidance: Das.guidance(),
            tempering_start: 0.0,
            on_nan: OnNan::Drop,
            compat: Compat::Paper,
        }
    }

    /// The same by another method, with its own settings for a chain of `steps`.
    #[must_use]
    pub fn by_method(self, method: &'static dyn Method, steps: usize) -> Options {
        Options {
            method,
            alpha: method.alpha().unwrap_or(self.alpha),
            rules: method.rules(steps),
            weigh_every: method.weigh_every(steps),
            duplicates: method.duplicates().unwrap_or(1),
            guidance: method.guidance(),
            tempering_start: method.start(),
            ..self
        }
    }

    /// The first step that evaluates rewards, of a chain of `steps`.
    pub(super) fn start(&self, steps: usize) -> usize {
        (steps as f64 * self.tempering_start).floor() as usize
    }

    /// The step that thins the candidates, of a chain of `steps`.
    pub(super) fn thins(&self, steps: usize) -> Option<usize> {
        self.candidates.map(|candidates| candidates.step(steps))
    }

    /// The first step that may be guided, of a chain of `steps`.
    fn guided_from(&self, steps: usize) -> usize {
        self.thins(steps).map_or(0, |thins| thins + 1).max(self.start(steps))
    }

    /// Whether step `k` of a chain of `steps` is guided by a gradient that is held.
    pub(super) fn holds(&self, k: usize, steps: usize) -> bool {
        self.method.proposes() && self.between(k, steps, self.gradient_every)
    }

    /// Whether step `k` of a chain of `steps` lies between two events of a method without gradients.
    fn rests(&self, k: usize, steps: usize) -> bool {
        !self.method.proposes() && self.between(k, steps, self.weigh_every)
    }

    /// Whether step `k` of a chain of `steps` is none of those that come `every` so many guided ones.
    fn between(&self, k: usize, steps: usize, every: usize) -> bool {
        let after = k.checked_sub(self.guided_from(steps));
        after.is_some_and(|after| !after.is_multiple_of(every))
    }

    /// Whether an engine of a device, which knows no gradients that are held, no shifts, no
    /// choice among next states and no potential but the difference, can do the run.
    pub(super) fn on_any_engine(&self) -> bool {
        let known = self.method.weighs() || self.method.has_plain_chains();
        self.gradient_every == 1 && known && self.rules.potentials == Potentials::Difference
    }

    /// Next states that a step evaluates for each particle to choose among, `left` steps before the end,
    /// itself counted.
    pub(crate) fn choices(&self, left: usize) -> usize {
        if self.method.chooses() && self.duplicates > 1 && left > 1 { self.duplicates } else { 0 }
    }

    /// What each transition of a chain of `steps` needs.
    pub(super) fn needs(&self, steps: usize) -> Vec<Need> {
        let (start, thins) = (self.start(steps), self.thins(steps));
        let need = |k: usize| match (k.checked_sub(start), thins) {
            (_, Some(thins)) if k == thins => Need::Reward,
            (_, Some(thins)) if k < thins => Need::Noise,
            _ if self.holds(k, steps) || self.rests(k, steps) => Need::Noise,
            _ if self.method.shifts() && !self.guidance.guides(k, steps) => Need::Noise,
            (Some(step), _) => self.method.need(StepIndex { step, steps: steps - start }),
            (None, _) => Need::Noise,
        };
        (0..steps).map(need).collect()
    }

    /// Refuses what cannot work along `schedule`, alone or together.
    pub(super) fn check_all(
        &self,
        schedule: &Schedule,
        without_gradient: Option<&str>,
        without_correction: Option<&str>,
    ) -> Result<()> {
        assert!(!schedule.is_empty(), "a chain without steps");
        self.check()?;
        let noisy = schedule.steps.iter().any(|s| s.variance > 0.0);
        self.method.check_all(&Circumstances {
            without_gradient,
            without_correction,
            noisy,
            rules: &self.rules,
        })?;
        self.check_method(schedule.len())
    }

    /// Refuses what cannot work with any chain and target.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming the option.
    ///
    /// # Panics
    /// Without prompts, and where two share a number.
    #[track_caller]
    pub fn check(&self) -> Result<()> {
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
        if let Some(Candidates { count, until }) = self.candidates {
            if !self.method.weighs() {
                return Err(Error::usage(format!("the method {} does not weigh candidates", self.method))
                    .option("candidates")
                    .advice(
                        "leave out `candidates`, or choose a method that weighs, such as `method` bootstrap",
                    ));
            }
            if self.compat == Compat::Reference {
                return Err(Error::usage("the authors' bookkeeping knows no candidates")
                    .option("candidates")
                    .advice("leave out `candidates`, or give `compat` paper"));
            }
            if count <= self.particles {
                return Err(Error::usage(format!(
                    "{count} candidates for {} particles leave nobody out",
                    self.particles
                ))
                .option("candidates")
                .advice("give `candidates` a larger number, or leave it out"));
            }
            if !(0.0..1.0).contains(&until) {
                return Err(Error::usage(format!("candidates are thinned at {until}, outside [0, 1)"))
                    .option("thin_at")
                    .advice("give `thin_at` a fraction of the steps below 1"));
            }
            if self.rules.tempering != Tempering::None {
                return Err(Error::usage(format!(
                    "tempering {} with candidates: they are thinned by the full reward, and to count less of it \
                     afterwards would undo the choice",
                    self.rules.tempering
                ))
                .option("tempering")
                .advice("give `tempering` none, or leave out `candidates`"));
            }
        }
        if self.gradient_every == 0 {
            return Err(Error::usage("`gradient_every` 0 would never ask for a gradient")
                .option("gradient_every")
                .advice("give `gradient_every` at least 1, or use `method` bootstrap"));
        }
        if self.gradient_every > 1 && self.compat == Compat::Reference {
            return Err(Error::usage("the authors' bookkeeping takes a gradient at every step")
                .option("gradient_every")
                .advice("leave out `gradient_every`, or give `compat` paper"));
        }
        if self.weigh_every == 0 {
            return Err(Error::usage("`weigh_every` 0 would never weigh")
                .option("weigh_every")
                .advice("give `weigh_every` at least 1, or use `method` none"));
        }
        if self.method.chooses() && !(1..=MOST_DUPLICATES).contains(&self.duplicates) {
            return Err(Error::usage(format!("`duplicates` {} is out of range", self.duplicates))
                .option("duplicates")
                .advice(format!("give `duplicates` a number from 1 to {MOST_DUPLICATES}")));
        }
        let potentials = self.rules.potentials;
        if potentials != Potentials::Difference && self.method.weighs() {
            if let Tempering::Adaptive { .. } = self.rules.tempering {
                return Err(Error::usage(format!(
                    "adaptive tempering looks for the weights of `potential` diff, not of {potentials}"
                ))
                .option("potential")
                .advice("give `tempering` none or exp, or leave out `potential`"));
            }
            if self.compat == Compat::Reference {
                return Err(Error::usage(format!(
                    "the authors' bookkeeping knows no `potential` {potentials}"
                ))
                .option("potential")
                .advice("leave out `potential`, or give `compat` paper"));
            }
        }
        let least = if self.method.chooses() { 0.0 } else { f64::MIN_POSITIVE };
        if !(self.alpha.is_finite() && self.alpha >= least) {
            let or_none = if self.method.chooses() { ", nor 0" } else { "" };
            return Err(Error::usage(format!("`alpha` {} is not a positive number{or_none}", self.alpha))
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
        self.check_guidance()?;
        if self.method.weighs() {
            self.rules.tempering.validate(self.rules.ess_threshold)?;
        }
        Ok(())
    }

    /// Refuses a guidance that would do nothing, or is no number.
    fn check_guidance(&self) -> Result<()> {
        let Guidance { strength, window: (from, until), passes, travel: _ } = self.guidance;
        if !(strength.is_finite() && strength > 0.0) {
            return Err(Error::usage(format!("`guidance_strength` {strength} is not a positive number"))
                .option("guidance_strength")
                .advice("give `guidance_strength` a number above 0, or use `method` none"));
        }
        if !(1..=MOST_PASSES).contains(&passes) {
            return Err(Error::usage(format!("`time_travel` {passes} is out of range"))
                .option("time_travel")
                .advice(format!(
                    "give `time_travel` a number of passes from 1, for none, to {MOST_PASSES}"
                )));
        }
        if !(0.0 <= from && from < until && until <= 1.0) {
            return Err(Error::usage(format!("`guidance_window` {from}..{until} is no part of the steps"))
                .option("guidance_window")
                .advice("give `guidance_window` two fractions of the steps from 0 to 1, such as 0.3..0.7"));
        }
        Ok(())
    }

    /// Refuses a method whose answers do not fit together.
    fn check_method(&self, steps: usize) -> Result<()> {
        let method = self.method;
        let needs = self.needs(steps);
        let weighs = |need: &Need| *need != Need::Noise;
        let asks = needs.iter().any(weighs);
        if method.shifts() && !asks && !method.weighs() {
            let (from, until) = self.guidance.window;
            return Err(Error::usage(format!(
                "none of {steps} steps is in `guidance_window` {from}..{until}"
            ))
            .option("guidance_window")
            .advice("give more `steps`, or a wider `guidance_window`"));
        }
        // A chain of one step has no state to choose but the last.
        let looks = method.weighs() || method.shifts() || (method.chooses() && steps > 1);
        let ways = [method.weighs(), method.shifts(), method.chooses()];
        if asks != looks || ways.iter().filter(|way| **way).count() > 1 {
            return Err(Error::usage(format!(
                "the method {method} needs rewards exactly if it weighs by them, is shifted by their gradient or \
                 chooses by them, and cannot do two of these"
            ))
            .option("method")
            .advice("mend the method's answers, or use one of those that ship with the program"));
        }
        // The density ratio of a guided move is part of the next event, so no event may be left out: but for
        // steps that hold a gradient or move by the model alone, and for the thinning, after which the move
        // is not guided.
        let after = self.thins(steps).map_or(0, |k| k + 1);
        let asked: Vec<Need> = (after..steps)
            .filter(|&k| !self.holds(k, steps) && !self.rests(k, steps))
            .map(|k| needs[k])
            .collect();
        if method.weighs() && asked.windows(2).any(|pair| weighs(&pair[0]) && !weighs(&pair[1])) {
            return Err(Error::usage(format!(
                "the method {method} weighs at one step and not at the next; once it weighs it must go on"
            ))
            .option("method")
            .advice("mend the method's answers, or use one of those that ship with the program"));
        }
        Ok(())
    }
}
