//! Step engines: what weighs, resamples and moves the particles of a run. An engine is the only owner of
//! their populations.
//!
//! A [`StepEngine`] takes one [`StepInput`] after another and answers each with the latents after the step
//! and, when asked, a [`StepReport`]. The sampler submits, reads reports and keeps no weights of its own. The
//! host engine (`sampler/host.rs`) runs on any backend; a backend that can weigh on its device brings its own
//! through [`EngineBackend`]. Both give the same bits.

use crate::backend::{Advance, Backend, ParticleId, Particles};
use crate::error::Result;
use crate::smc::{Event, Population, Rules, Weighed};
use crate::tensor::Tensor;

/// A backend that particles can be sampled on. Most leave the weighing to the host and need no more than
/// `impl EngineBackend for X {}`.
pub trait EngineBackend: Backend {
    /// An engine that weighs and moves the particles of a run on the device and waits for nothing. `None`
    /// leaves the run to the host engine.
    ///
    /// # Errors
    /// [`ErrorKind::Memory`](crate::ErrorKind::Memory) and [`ErrorKind::Device`](crate::ErrorKind::Device),
    /// from making room for the populations.
    fn step_engine<'a>(&'a self, _setup: EngineSetup<'_>) -> Result<Option<Box<dyn StepEngine + 'a>>> {
        Ok(None)
    }
}

/// The particles of a run, and how to weigh them. Slots are counted prompt after prompt: slot `b P + p` is
/// slot `p` of prompt `b`.
#[derive(Clone, Copy, Debug)]
pub struct EngineSetup<'a> {
    /// The same for all prompts and steps.
    pub rules: &'a Rules,
    /// Potentials are `reward / alpha`, strengths of the guidance `lambda_next / alpha`.
    pub alpha: f64,
    /// Keys the uniforms of resampling, with the number of the prompt and the step.
    pub seed: u64,
    /// The number of each prompt, B.
    pub prompts: &'a [u32],
    /// Who is in each slot, B P.
    pub ids: &'a [ParticleId],
    /// Elements of one latent.
    pub sample: usize,
}

/// Rewards of the particles, where they were computed.
#[derive(Clone, Debug)]
pub enum Scores {
    /// One per slot.
    Host(Vec<f64>),
    /// `(n, 1, 1, 1)`.
    Device(Tensor),
}

impl Scores {
    /// The scores on the host. Waits for a device.
    ///
    /// # Errors
    /// From the backend's download.
    pub fn download(&self, backend: &dyn Backend) -> Result<Vec<f64>> {
        match self {
            Scores::Host(scores) => Ok(scores.clone()),
            Scores::Device(scores) => Ok(backend.download(scores)?.into_iter().map(f64::from).collect()),
        }
    }
}

/// One step of all particles, for [`StepEngine::submit`].
#[derive(Clone, Copy, Debug)]
pub struct StepInput<'a> {
    /// The states that were evaluated, `(B P, h, w, c)`.
    pub x: &'a Tensor,
    /// What the evaluation found, one sample per slot; its gradient may be held from an earlier step.
    pub particles: Particles<'a>,
    /// How to weigh, and the plain rewards to weigh by. `None` weighs nothing; every particle then moves
    /// by the prior, or as `held` says. Only the host engine is given [`Event::Thin`].
    pub event: Option<(Event, &'a Scores)>,
    /// Without an event: lambda of the guidance of each prompt, B, by a gradient that is held. Empty for
    /// none. Only the host engine is given any.
    pub held: &'a [f64],
    /// What the gradient of each slot is multiplied with and then added to the state after the move, which
    /// has no density ratio; empty for none. Not together with an event. Only the host engine is given any.
    pub shift: &'a [f64],
    /// Plain rewards that weigh nothing, to be reported. Only the host engine is given any.
    pub look: Option<&'a Scores>,
    /// The move, with the identities of the slots after it.
    pub advance: Advance<'a>,
}

/// The end of the chain, for [`StepEngine::finish`].
#[derive(Clone, Copy, Debug)]
pub struct FinalInput<'a> {
    /// The final latents, `(B P, h, w, c)`.
    pub x: &'a Tensor,
    /// Their plain rewards, B P.
    pub rewards: &'a [f64],
    /// Number of transitions of the chain.
    pub step: u32,
}

/// What a step saw and decided.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct StepReport {
    /// Squared length of the state in each slot, B P; not finite where an element is not.
    pub states: Vec<f64>,
    /// The same of the predicted noise; empty at the end of the chain.
    pub noises: Vec<f64>,
    /// The same of the gradient; empty without gradients.
    pub grads: Vec<f64>,
    /// Plain rewards, B P; NaN where reward, state or noise is not finite. Empty where none were given.
    pub rewards: Vec<f64>,
    /// What was decided for each prompt, B; empty where nothing was weighed.
    pub weighed: Vec<Weighed>,
}

impl StepReport {
    /// Where in the batch of `slots` states each particle that goes on was; its own slot where nothing was
    /// weighed.
    pub fn ancestors(&self, slots: usize) -> Vec<u32> {
        if self.weighed.is_empty() {
            return (0..slots as u32).collect();
        }
        let firsts = (0..).step_by(slots / self.weighed.len());
        let of_prompt =
            |(w, first): (&Weighed, u32)| w.ancestors.iter().map(|a| first + a).collect::<Vec<u32>>();
        self.weighed.iter().zip(firsts).flat_map(of_prompt).collect()
    }
}

/// Everything that the next step depends on, besides the latents.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineState {
    /// Of each prompt, B.
    pub populations: Vec<Population>,
    /// `log p - log m` of the moves since the last event that made the state in each slot, B P; 0 before the
    /// first move.
    pub log_ratio: Vec<f64>,
}

impl EngineState {
    /// The particles before any step.
    pub fn new(prompts: usize, particles: usize) -> EngineState {
        EngineState {
            populations: vec![Population::new(particles); prompts],
            log_ratio: vec![0.0; prompts * particles],
        }
    }

    /// The state after a step that decided `weighed` (empty: nothing was weighed) and whose move gave
    /// `log_ratio`. What is not weighed yet adds up.
    pub fn advance(&mut self, weighed: &[Weighed], mut log_ratio: Vec<f64>) {
        if weighed.is_empty() {
            log_ratio.iter_mut().zip(&self.log_ratio).for_each(|(new, old)| *new += old);
        }
        for (population, weighed) in self.populations.iter_mut().zip(weighed) {
            *population = population.after(weighed);
        }
        self.log_ratio = log_ratio;
    }
}

/// Weighs, resamples and moves, step after step: [`smc::weigh`](crate::smc::weigh) and [`Backend::advance`].
/// A particle whose reward, state or noise is not finite is dead; a gradient that is not finite counts as 0.
pub trait StepEngine: Send {
    /// Queues one step and returns the latents after it. At most `lookahead() + 1` steps may wait to be
    /// collected.
    ///
    /// # Errors
    /// From the device.
    fn submit(&mut self, input: StepInput<'_>) -> Result<Tensor>;

    /// The report of the oldest step that has not been collected. Waits for that step, not for later ones.
    ///
    /// # Errors
    /// From the device.
    ///
    /// # Panics
    /// If no step is under way.
    fn collect(&mut self) -> Result<StepReport>;

    /// Steps worth queueing before the oldest is collected, so that the device never waits for the host.
    fn lookahead(&self) -> usize;

    /// The final event: weighs by the rewards of the final latents
    /// ([`Event::Final`]). Every step must have been collected.
    ///
    /// # Errors
    /// From the device.
    fn finish(&mut self, input: FinalInput<'_>) -> Result<StepReport>;

    /// The state after the step collected last.
    fn state(&self) -> &EngineState;

    /// Goes on from `state`, as an engine of the same setup gave it. What is under way is forgotten.
    ///
    /// # Errors
    /// From the device.
    fn restore(&mut self, state: EngineState) -> Result<()>;
}

/// The rewards an event weighs by: NaN where the reward, or a length in one of `lengths`, is not finite. A
/// clamp may have hidden from the reward that the state was not finite.
pub fn sound_rewards(mut rewards: Vec<f64>, lengths: &[&[f64]]) -> Vec<f64> {
    for (slot, reward) in rewards.iter_mut().enumerate() {
        if !(reward.is_finite() && lengths.iter().all(|length| length[slot].is_finite())) {
            *reward = f64::NAN;
        }
    }
    rewards
}
