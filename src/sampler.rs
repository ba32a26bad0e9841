//! The algorithm: Sequential Monte Carlo along the reverse chain of a diffusion model, as an iterator of
//! steps: evaluate, weigh, resample, move (docs/spec.md 2.3). It knows neither networks nor files: a
//! [`Target`] evaluates states; the consumer of the iterator records, prints and stops.
//!
//! A particle is one thing: latent, noise, clean latent, gradient, twist and root travel together when an ancestor is
//! chosen. Every random number is keyed by (seed, prompt, particle, step, purpose), so a prompt's particles do not
//! depend on which other prompts run beside it.

mod host;
mod options;
mod record;

use std::time::Instant;

pub use crate::proposal::Need;
pub use options::{Compat, OnNan, Options};
pub use record::{NonFinite, Population, PromptStep, Quantity, Step};

pub use crate::backend::Scores;
use crate::backend::{
    Advance, Backend, EngineSetup, ParticleId, Particles, StepEngine, StepInput, StepReport, range,
};
use crate::ddim::{self, Schedule};
use crate::error::{Error, Result};
use crate::noise::Purpose;
use crate::proposal::Conclusion;
use crate::smc::{self, Event, Weighed, Weights};
use crate::tensor::{Shape, Tensor};
use host::Host;
use record::Genealogy;

/// What a state looks like. Rewards and gradients are of the plain reward r, not of r / alpha.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Predicted noise `(n, h, w, c)`, guided.
    pub eps: Tensor,
    /// Predicted clean latent, clamped where the scheduler says so.
    pub x0: Tensor,
    /// Of each decoded clean latent; `Some` if wanted.
    pub reward: Option<Scores>,
    /// With respect to the state; `Some` if wanted.
    pub grad: Option<Tensor>,
}

/// What the final latents are worth.
#[derive(Clone, Debug)]
pub struct FinalScores {
    /// `(n, height, width, 3)` in [0, 1].
    pub images: Tensor,
    pub reward: Vec<f64>,
    /// Terms of the reward by name, unweighted.
    pub parts: Vec<(String, Vec<f64>)>,
}

/// What the sampler knows of models and rewards. Each particle's answer must depend on that particle alone.
pub trait Target {
    /// Shape of one latent, `n = 1`.
    fn latent(&self) -> Shape;

    /// Looks at the states `x` `(n, h, w, c)` before the transition `step`; sample `i` is particle `ids[i]`.
    fn evaluate(&self, x: &Tensor, ids: &[ParticleId], step: &ddim::Step, need: Need) -> Result<Evaluation>;

    /// Decodes and judges the final latents.
    fn finish(&self, x: &Tensor, ids: &[ParticleId]) -> Result<FinalScores>;

    /// What the user should know of the last looks; said once.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Name of a reward that has no gradient, if there is one.
    fn without_gradient(&self) -> Option<String> {
        None
    }
}

/// One prompt's side of the run.
struct Prompt {
    population: smc::Population,
    genealogy: Genealogy,
    /// Every particle was dead after some step.
    collapsed: bool,
    /// Once the run has ended.
    log_z_error: Option<f64>,
}

/// A run: yields one [`Step`] per transition and one for the final event, then [`Sampler::populations`].
pub struct Sampler<'a> {
    backend: &'a dyn Backend,
    target: &'a dyn Target,
    schedule: &'a Schedule,
    options: Options,
    /// Of every slot; prompt after prompt.
    ids: Vec<ParticleId>,
    engine: Box<dyn StepEngine + 'a>,
    /// First step that looks at rewards.
    start: usize,
    /// The step to yield.
    next: usize,
    /// Transitions that the step engine has been given: `next`, and those it takes ahead of it.
    queued: usize,
    /// What ended the queueing, kept until the steps before it have been yielded.
    failed: Option<Error>,
    stopped: bool,
    /// After all that is queued.
    x: Tensor,
    /// `log p - log m` of the move that made each state of the step to yield.
    log_ratio: Vec<f64>,
    /// Slots whose death has been reported.
    dead: Vec<bool>,
    prompts: Vec<Prompt>,
    end: Option<FinalScores>,
    /// When the last step was yielded.
    yielded: Option<Instant>,
}

impl<'a> Sampler<'a> {
    /// A run from latents drawn from N(0, I).
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for options that cannot work, alone or together.
    pub fn new(
        backend: &'a dyn Backend,
        target: &'a dyn Target,
        schedule: &'a Schedule,
        options: Options,
    ) -> Result<Sampler<'a>> {
        options.check(schedule)?;
        let noisy = schedule.steps.iter().any(|s| s.variance > 0.0);
        options.proposal.check(target.without_gradient().as_deref(), noisy)?;
        let particles = options.particles;
        let ids: Vec<ParticleId> = options
            .prompts
            .iter()
            .flat_map(|&prompt| (0..particles as u32).map(move |particle| ParticleId { prompt, particle }))
            .collect();
        let shape = target.latent().with_n(ids.len());
        let x = backend.normals(shape, options.seed, 0, Purpose::Initial, &ids)?;
        let prompt = |_: &u32| Prompt {
            population: smc::Population::new(particles),
            genealogy: Genealogy::new(particles),
            collapsed: false,
            log_z_error: None,
        };
        Ok(Sampler {
            engine: step_engine(backend, &options, &ids, shape.sample())?,
            backend,
            target,
            schedule,
            start: (schedule.len() as f64 * options.tempering_start).floor() as usize,
            next: 0,
            queued: 0,
            failed: None,
            stopped: false,
            x,
            log_ratio: vec![0.0; ids.len()],
            dead: vec![false; ids.len()],
            prompts: options.prompts.iter().map(prompt).collect(),
            end: None,
            yielded: None,
            ids,
            options,
        })
    }

    /// Starts from `x` instead: one latent per slot, or one per particle, the same for every prompt.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where the shape is another.
    pub fn with_latents(mut self, x: &Tensor) -> Result<Sampler<'a>> {
        assert_eq!(self.next, 0, "the run has begun");
        let (found, wanted) = (x.shape(), self.x.shape());
        let times = match found.n {
            n if n == wanted.n => 1,
            n if n == self.options.particles => self.options.prompts.len(),
            _ => 0,
        };
        if found.with_n(1) != wanted.with_n(1) || times == 0 {
            return Err(Error::usage(format!(
                "the given latents are {found}, this run needs {} of {}",
                self.options.particles,
                wanted.with_n(1)
            ))
            .option("latents")
            .advice("give `latents` of the model's latent size, one for each of `particles`"));
        }
        self.x = if times == 1 { x.clone() } else { self.backend.repeat(x, times)? };
        Ok(self)
    }

    /// Renames the particles of every prompt: slot `p` has the noise of particle `names[p]`. For tests.
    #[doc(hidden)]
    pub fn renamed(mut self, names: &[u32]) -> Result<Sampler<'a>> {
        assert_eq!(
            (self.next, names.len()),
            (0, self.options.particles),
            "one name per particle, at the start"
        );
        self.ids.iter_mut().zip(names.iter().cycle()).for_each(|(id, &name)| id.particle = name);
        self.x = self.backend.normals(self.x.shape(), self.options.seed, 0, Purpose::Initial, &self.ids)?;
        self.engine = step_engine(self.backend, &self.options, &self.ids, self.x.shape().sample())?;
        Ok(self)
    }

    /// Weighs on the host, whatever the backend can do. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn on_host(mut self) -> Sampler<'a> {
        assert_eq!(self.queued, 0, "the run has begun");
        self.engine = Box::new(Host::new(self.backend, &self.options));
        self
    }

    /// Steps that this run yields: one per transition, and the final event.
    pub fn steps(&self) -> usize {
        self.schedule.len() + 1
    }

    /// The latents of all slots, `(B P, h, w, c)`, after all that has been queued: on a device that weighs by itself one
    /// step more than have been yielded.
    pub fn latents(&self) -> &Tensor {
        &self.x
    }

    /// Runs what is left, without looking at the records.
    pub fn run(mut self) -> Result<Vec<Population>> {
        for step in &mut self {
            step?;
        }
        self.populations()
    }

    /// The particles at the end, one population per prompt.
    ///
    /// # Panics
    /// Before the last step has been yielded.
    #[track_caller]
    pub fn populations(&self) -> Result<Vec<Population>> {
        let Some(end) = &self.end else { panic!("the run has not ended") };
        let particles = self.options.particles;
        self.prompts
            .iter()
            .enumerate()
            .map(|(b, prompt)| {
                let slots = b * particles..(b + 1) * particles;
                let rows: Vec<u32> = slots.clone().map(|slot| slot as u32).collect();
                let weights = Weights::new(&prompt.population.log_weights);
                let parts = end.parts.iter().map(|(name, v)| (name.clone(), v[slots.clone()].to_vec()));
                Ok(Population {
                    seed: self.options.seed,
                    prompt: self.options.prompts[b],
                    x: self.backend.gather(&self.x, &rows)?,
                    images: self.backend.gather(&end.images, &rows)?,
                    rewards: end.reward[slots.clone()].to_vec(),
                    parts: parts.collect(),
                    log_weights: weights.log_weights().to_vec(),
                    weights: weights.weights().to_vec(),
                    log_z: prompt.population.log_z,
                    log_z_error: prompt.log_z_error,
                    lineage: prompt.genealogy.lineages(),
                })
            })
            .collect()
    }

    /// One transition, and those after it that the step engine takes ahead of time.
    fn transition(&mut self) -> Result<Step> {
        let began = self.yielded.unwrap_or_else(Instant::now);
        let last = (self.next + self.engine.lookahead()).min(self.schedule.len() - 1);
        while self.queued <= last && self.failed.is_none() {
            match self.submit_next() {
                Ok(x) => (self.x, self.queued) = (x, self.queued + 1),
                Err(e) => self.failed = Some(e),
            }
        }
        if self.queued == self.next
            && let Some(e) = self.failed.take()
        {
            return Err(e);
        }
        let report = self.engine.collect()?;
        let (prompts, non_finite) = self.absorb(&report)?;
        let (step, t) = (self.next, self.schedule.steps[self.next].t);
        self.next += 1;
        Ok(Step { step, t, prompts, non_finite, notes: self.target.notes(), ms: self.lap(began) })
    }

    /// Looks at the latest latents, and has them weighed and moved.
    fn submit_next(&mut self) -> Result<Tensor> {
        let (k, step) = (self.queued, &self.schedule.steps[self.queued]);
        let _range = range(self.backend, &format!("step {k}"));
        let guided = k >= self.start && self.options.proposal.weighs();
        let need = if guided { self.options.proposal.need() } else { Need::Noise };
        let evaluation = self.target.evaluate(&self.x, &self.ids, step, need)?;
        let shape = self.x.shape();
        assert_eq!(
            (evaluation.x0.shape(), evaluation.eps.shape()),
            (shape, shape),
            "what the target evaluated"
        );
        assert!(evaluation.grad.as_ref().is_none_or(|g| g.shape() == shape), "one gradient per particle");
        self.engine.submit(StepInput {
            x: &self.x,
            particles: Particles { x0: &evaluation.x0, eps: &evaluation.eps, grad: evaluation.grad.as_ref() },
            event: evaluation.reward.as_ref().map(|scores| (Event::Step(k - self.start), scores)),
            advance: Advance {
                mean_x0: step.mean.first as f32,
                mean_eps: step.mean.second as f32,
                variance: step.variance as f32,
                kappa: step.kappa as f32,
                seed: self.options.seed,
                step: k as u32,
                purpose: Purpose::Move,
                ids: &self.ids,
            },
        })
    }

    /// Reads a report: what was not finite, and the record of each prompt.
    fn absorb(&mut self, report: &StepReport) -> Result<(Vec<PromptStep>, Vec<NonFinite>)> {
        let non_finite = self.find_non_finite(report)?;
        let particles = self.options.particles;
        let (mut records, mut dead) = (Vec::with_capacity(self.prompts.len()), Vec::new());
        for b in 0..self.prompts.len() {
            let slots = b * particles..(b + 1) * particles;
            let of = |list: &[f64]| list.get(slots.clone()).unwrap_or_default().to_vec();
            let record = match report.weighed.get(b) {
                Some(weighed) => self.record_weighed(b, weighed.clone(), of(&report.rewards)),
                None => self.record_unweighed(b),
            };
            dead.extend(record.ancestors.iter().map(|&a| self.dead[slots.start + a as usize]));
            let grad_norm = of(&report.grads).into_iter().map(f64::sqrt).collect();
            records.push(PromptStep { grad_norm, ..record });
        }
        self.dead = dead;
        self.log_ratio.clone_from(&report.log_ratio);
        Ok((records, non_finite))
    }

    /// The final event.
    fn final_event(&mut self) -> Result<Step> {
        let began = self.yielded.unwrap_or_else(Instant::now);
        let k = self.next;
        let mut end = self.target.finish(&self.x, &self.ids)?;
        assert_eq!(end.reward.len(), self.ids.len(), "one reward per particle");
        let mut non_finite = Vec::new();
        let norms = self.backend.squared_norms(&self.x)?;
        for (slot, reward) in end.reward.iter_mut().enumerate() {
            let quantity = if norms[slot].is_finite() { Quantity::Reward } else { Quantity::Latent };
            if quantity == Quantity::Latent {
                *reward = f64::NAN;
            }
            if !reward.is_finite() {
                self.mark_dead(k, slot, quantity, &mut non_finite);
            }
        }
        self.abort_on(&non_finite)?;
        let prompts = (0..self.prompts.len())
            .map(|b| {
                let record = self.weigh_final(b, &end.reward);
                self.conclude(b, record)
            })
            .collect();
        self.end = Some(end);
        self.next += 1;
        Ok(Step { step: k, t: 0, prompts, non_finite, notes: self.target.notes(), ms: self.lap(began) })
    }

    /// The weights a method ends with, where they are not those of the chain.
    fn conclude(&mut self, b: usize, mut record: PromptStep) -> PromptStep {
        let side = &mut self.prompts[b];
        // Of the weights that log Z comes from, which are the chain's.
        if self.options.proposal.conclusion() != Conclusion::Best && !side.collapsed {
            side.log_z_error = side.genealogy.log_z_error(Weights::new(&record.log_weights).weights());
        }
        let weights = match self.options.proposal.conclusion() {
            Conclusion::Weigh => return record,
            // Dead particles have no weight, all others the same.
            Conclusion::Keep => {
                record.reward.iter().map(|r| if r.is_finite() { 0.0 } else { f64::NAN }).collect()
            }
            Conclusion::Best => {
                let best = Weights::new(&record.reward).argmax();
                let alone = |p: usize| if p == best { 0.0 } else { f64::NEG_INFINITY };
                (0..record.reward.len()).map(alone).collect::<Vec<f64>>()
            }
        };
        let weights = Weights::new(&weights);
        record.log_weights = weights.log_weights().to_vec();
        record.ess = weights.ess();
        self.prompts[b].population.log_weights.clone_from(&record.log_weights);
        record
    }

    /// What was not finite in a step.
    fn find_non_finite(&mut self, report: &StepReport) -> Result<Vec<NonFinite>> {
        let k = self.next;
        let mut non_finite = Vec::new();
        for slot in 0..self.ids.len() {
            let quantity = match (report.states[slot].is_finite(), report.noises[slot].is_finite()) {
                (false, _) => Quantity::Latent,
                (true, false) => Quantity::Noise,
                (true, true) => Quantity::Reward,
            };
            if quantity != Quantity::Reward || report.rewards.get(slot).is_some_and(|r| !r.is_finite()) {
                self.mark_dead(k, slot, quantity, &mut non_finite);
            }
        }
        for (slot, norm) in report.grads.iter().enumerate() {
            if !norm.is_finite() && !self.dead[slot] {
                non_finite.push(self.non_finite_at(k, slot, Quantity::Gradient));
            }
        }
        self.abort_on(&non_finite)?;
        Ok(non_finite)
    }

    /// Milliseconds since `began`; the next step begins now.
    fn lap(&mut self, began: Instant) -> f64 {
        let now = Instant::now();
        self.yielded = Some(now);
        (now - began).as_secs_f64() * 1e3
    }

    fn non_finite_at(&self, step: usize, slot: usize, quantity: Quantity) -> NonFinite {
        let ParticleId { prompt, particle } = self.ids[slot];
        NonFinite { step, prompt, particle, quantity }
    }

    /// Reports a death once.
    fn mark_dead(&mut self, step: usize, slot: usize, quantity: Quantity, non_finite: &mut Vec<NonFinite>) {
        if !std::mem::replace(&mut self.dead[slot], true) {
            non_finite.push(self.non_finite_at(step, slot, quantity));
        }
    }

    fn abort_on(&self, non_finite: &[NonFinite]) -> Result<()> {
        match (self.options.on_nan, non_finite) {
            (OnNan::Abort, [first, ..]) => {
                let more = non_finite.len() - 1;
                let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
                Err(Error::numerical(format!("{first}{more}")).option("on_nan").advice(
                    "`on_nan` drop goes on without the particles concerned; `dtype` fp32 has more range",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Weighs prompt `b` by its final rewards, out of those of all slots.
    fn weigh_final(&mut self, b: usize, reward: &[f64]) -> PromptStep {
        let particles = self.options.particles;
        let slots = b * particles..(b + 1) * particles;
        let reward = &reward[slots.clone()];
        let event = host::Weighing {
            rules: &self.options.rules,
            event: Event::Final,
            alpha: self.options.alpha,
            seed: self.options.seed,
            prompt: self.options.prompts[b],
            step: self.next as u32,
        };
        let weighed = event.weigh(&self.prompts[b].population, &self.log_ratio[slots], reward);
        self.record_weighed(b, weighed, reward.to_vec())
    }

    /// What became of prompt `b`.
    fn record_weighed(&mut self, b: usize, weighed: Weighed, reward: Vec<f64>) -> PromptStep {
        let side = &mut self.prompts[b];
        side.population = side.population.after(&weighed);
        side.collapsed |= weighed.collapsed;
        if self.next < self.schedule.len() {
            side.genealogy.push(&weighed.ancestors, weighed.resampled);
        }
        PromptStep {
            prompt: self.options.prompts[b],
            lambda: weighed.lambda,
            lambda_next: weighed.lambda_next,
            log_weights: weighed.log_weights,
            log_w_increment: weighed.increment,
            ess: weighed.ess,
            resampled: weighed.resampled,
            ancestors: weighed.ancestors,
            reward,
            grad_norm: Vec::new(),
            log_z_increment: weighed.log_z_increment,
            log_z: side.population.log_z,
            roots_alive: side.genealogy.roots_alive(),
            collapsed: weighed.collapsed,
        }
    }

    /// A step that weighs nothing.
    fn record_unweighed(&mut self, b: usize) -> PromptStep {
        let side = &mut self.prompts[b];
        let particles = self.options.particles;
        let ancestors: Vec<u32> = (0..particles as u32).collect();
        side.genealogy.push(&ancestors, false);
        PromptStep {
            prompt: self.options.prompts[b],
            lambda: 0.0,
            lambda_next: 0.0,
            log_weights: side.population.log_weights.clone(),
            log_w_increment: vec![0.0; particles],
            ess: particles as f64,
            resampled: false,
            ancestors,
            reward: Vec::new(),
            grad_norm: Vec::new(),
            log_z_increment: 0.0,
            log_z: side.population.log_z,
            roots_alive: side.genealogy.roots_alive(),
            collapsed: false,
        }
    }
}

impl Iterator for Sampler<'_> {
    type Item = Result<Step>;

    /// Looks, weighs, resamples and moves. After an error there are no more steps.
    fn next(&mut self) -> Option<Result<Step>> {
        if self.stopped || self.end.is_some() {
            return None;
        }
        let step = if self.next < self.schedule.len() { self.transition() } else { self.final_event() };
        self.stopped = step.is_err();
        Some(step)
    }
}

/// The device's own weighing, where it has one that keeps the books as the options say.
fn step_engine<'a>(
    backend: &'a dyn Backend,
    options: &Options,
    ids: &[ParticleId],
    sample: usize,
) -> Result<Box<dyn StepEngine + 'a>> {
    let setup =
        EngineSetup { rules: &options.rules, alpha: options.alpha, prompts: &options.prompts, ids, sample };
    let own = match options.compat {
        Compat::Paper => backend.step_engine(setup)?,
        Compat::Reference => None,
    };
    Ok(own.unwrap_or_else(|| Box::new(Host::new(backend, options))))
}
