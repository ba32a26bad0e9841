//! The algorithm: Sequential Monte Carlo along the reverse chain of a diffusion model, as an iterator of
//! steps: evaluate, weigh, resample, move (docs/spec.md 2.3, corrected). It knows neither networks nor files:
//! a [`Target`] evaluates states, a [`StepEngine`] owns the populations, and the consumer of the iterator
//! records, prints and stops.
//!
//! A particle is one thing: latent, noise, clean latent, gradient, twist and root travel together when an
//! ancestor is chosen. Every random number is keyed by (seed, prompt, particle, step, purpose), so a prompt's
//! particles do not depend on which other prompts run beside it.

mod choose;
mod genealogy;
mod host;
mod options;
mod record;
mod report;
mod shift;
mod snapshot;
mod target;
mod travel;

use std::collections::VecDeque;
use std::time::Instant;

pub use crate::engine::{EngineBackend, Scores};
pub use crate::method::Need;
pub use options::{Candidates, Compat, OnNan, Options};
pub use record::{NonFinite, Population, PromptStep, Quantity, Step};
pub use snapshot::Snapshot;
pub use target::{Evaluation, FinalScores, Target};

use crate::backend::{Advance, ParticleId, Particles, range};
use crate::ddim::Schedule;
use crate::engine::{EngineSetup, FinalInput, StepEngine, StepInput, StepReport, sound_rewards};
use crate::error::{Error, Result};
use crate::method::Conclusion;
use crate::noise::Purpose;
use crate::smc::{Event, Weights};
use crate::tensor::Tensor;
use genealogy::Genealogy;
use host::Host;
use travel::Pass;

/// A run: yields one [`Step`] per transition and one for the final event, then [`Sampler::populations`].
pub struct Sampler<'a> {
    backend: &'a dyn EngineBackend,
    target: Box<dyn Target + 'a>,
    schedule: Schedule,
    options: Options,
    /// Who is in each slot; prompt after prompt.
    ids: Vec<ParticleId>,
    engine: Box<dyn StepEngine + 'a>,
    /// Leave all weighing to the host.
    on_host: bool,
    /// What each pass through a transition asks of the target.
    needs: Vec<Need>,
    /// In order.
    passes: Vec<Pass>,
    /// First step of the tempering.
    start: usize,
    /// The step that thins the candidates.
    thins: Option<usize>,
    /// The step to yield.
    next: usize,
    /// Latents before the step to yield, and after each step that the engine has been given ahead of it.
    /// Never empty.
    latents: VecDeque<Tensor>,
    /// What ended the submitting, kept until the steps before it have been yielded.
    failed: Option<Error>,
    stopped: bool,
    /// The engine has taken the step to yield, and its record is not complete.
    torn: bool,
    /// Slots whose death has been reported.
    dead: Vec<bool>,
    /// What is known of the latest latents, where they were chosen among several; else they are evaluated.
    seen: Option<Evaluation>,
    /// Which of several next states each slot took in the step to yield; empty where there was one.
    chosen: Vec<u32>,
    /// Of the move of each slot in the step to yield; empty where it is not told.
    divergence: Vec<f64>,
    /// What guides the steps until the next gradient, where there are any.
    held: Option<Held>,
    /// Of each prompt.
    families: Vec<Genealogy>,
    end: Option<FinalScores>,
    /// When the last step was yielded.
    yielded: Option<Instant>,
}

/// A gradient that guides further steps.
#[derive(Clone, Debug)]
struct Held {
    /// Of each slot, `(B P, h, w, c)`.
    grad: Tensor,
    /// Of the guidance of each prompt, B.
    lambdas: Vec<f64>,
}

impl<'a> Sampler<'a> {
    /// A run from latents drawn from N(0, I).
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for options that cannot work, alone or together; from
    /// the device.
    pub fn new(
        backend: &'a dyn EngineBackend,
        target: impl Target + 'a,
        schedule: &Schedule,
        options: Options,
    ) -> Result<Sampler<'a>> {
        let (gradient, correction) = (target.without_gradient(), target.without_correction());
        options.check_all(schedule, gradient.as_deref(), correction.as_deref())?;
        let first = options.candidates.map_or(options.particles, |candidates| candidates.count);
        let ids = identities(&options.prompts, first);
        let (passes, needs) = (Pass::all(&options, schedule.len()), options.needs(schedule.len()));
        let shape = target.latent().with_n(ids.len());
        let x = backend.normals(shape, options.seed, 0, Purpose::Initial, &ids)?;
        Ok(Sampler {
            engine: step_engine(backend, &options, &ids, shape.sample(), false)?,
            on_host: false,
            backend,
            target: Box::new(target),
            schedule: schedule.clone(),
            needs: passes.iter().map(|pass| needs[pass.step]).collect(),
            passes,
            start: options.start(schedule.len()),
            thins: options.thins(schedule.len()),
            next: 0,
            latents: VecDeque::from([x]),
            failed: None,
            stopped: false,
            torn: false,
            dead: vec![false; ids.len()],
            seen: None,
            chosen: Vec::new(),
            divergence: Vec::new(),
            held: None,
            families: vec![Genealogy::new(first); options.prompts.len()],
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
    ///
    /// # Panics
    /// After the first step.
    pub fn with_latents(mut self, x: &Tensor) -> Result<Sampler<'a>> {
        assert_eq!(self.next, 0, "the run has begun");
        let (found, wanted) = (x.shape(), self.latents().shape());
        let times = match found.n {
            n if n == wanted.n => 1,
            n if n == self.particles() => self.options.prompts.len(),
            _ => 0,
        };
        if found.with_n(1) != wanted.with_n(1) || times == 0 {
            return Err(Error::usage(format!(
                "the given latents are {found}, this run needs {} of {}",
                self.particles(),
                wanted.with_n(1)
            ))
            .option("latents")
            .advice(
                "give `latents` of the model's latent size, one for each particle that the run begins with",
            ));
        }
        self.latents[0] = if times == 1 { x.clone() } else { self.backend.repeat(x, times)? };
        Ok(self)
    }

    /// Renames the particles of every prompt: slot `p` has the noise of particle `names[p]`. For tests.
    #[doc(hidden)]
    pub fn renamed(mut self, names: &[u32]) -> Result<Sampler<'a>> {
        assert_eq!((self.next, names.len()), (0, self.particles()), "one name per particle, at the start");
        self.ids.iter_mut().zip(names.iter().cycle()).for_each(|(id, &name)| id.particle = name);
        let shape = self.latents().shape();
        self.latents[0] = self.backend.normals(shape, self.options.seed, 0, Purpose::Initial, &self.ids)?;
        self.engine = step_engine(self.backend, &self.options, &self.ids, shape.sample(), self.on_host)?;
        Ok(self)
    }

    /// Weighs on the host, whatever the backend can do. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn on_host(mut self) -> Sampler<'a> {
        assert_eq!((self.next, self.latents.len()), (0, 1), "the run has begun");
        self.engine = Box::new(Host::new(self.backend, &self.options, self.particles()));
        self.on_host = true;
        self
    }

    /// Particles of each prompt after the step yielded last.
    fn particles(&self) -> usize {
        self.ids.len() / self.options.prompts.len()
    }

    /// Steps that this run yields: one per pass through a transition, and the final event.
    pub fn steps(&self) -> usize {
        self.passes.len() + 1
    }

    /// States that the next step has the networks evaluate, without the scores of the end.
    pub fn next_states(&self) -> usize {
        let left = self.passes.len().saturating_sub(self.next);
        let own = if left == 0 || self.seen.is_some() { 0 } else { self.ids.len() };
        own + self.options.choices(left) * self.ids.len()
    }

    /// The latents of all slots after the step yielded last, `(B P, h, w, c)`.
    pub fn latents(&self) -> &Tensor {
        &self.latents[0]
    }

    /// Runs what is left, without looking at the records.
    ///
    /// # Errors
    /// The first error of a step.
    pub fn run(mut self) -> Result<Vec<Population>> {
        for step in &mut self {
            step?;
        }
        self.populations()
    }

    /// The particles at the end, one population per prompt.
    ///
    /// # Errors
    /// From the device.
    ///
    /// # Panics
    /// Before the last step has been yielded.
    #[track_caller]
    pub fn populations(&self) -> Result<Vec<Population>> {
        let Some(end) = &self.end else { panic!("the run has not ended") };
        self.populations_of(self.latents(), end)
    }

    /// The particles after the step yielded last as the model foresees their end: their predicted clean
    /// latents with the images and rewards of these, and the weights that they have now.
    ///
    /// # Errors
    /// From the device.
    pub fn foreseen(&self) -> Result<Vec<Population>> {
        if self.end.is_some() {
            return self.populations();
        }
        let x = self.predicted()?;
        self.populations_of(&x, &self.target.finish(&x, &self.ids)?)
    }

    /// The predicted clean latents of the particles after the step yielded last, by one more evaluation of
    /// the network, which changes nothing; after the last step their latents.
    ///
    /// # Errors
    /// From the device.
    pub fn predicted(&self) -> Result<Tensor> {
        match self.passes.get(self.next).map(|pass| &self.schedule.steps[pass.step]) {
            Some(step) => Ok(self.target.evaluate(self.latents(), &self.ids, step, Need::Noise)?.x0),
            None => Ok(self.latents().clone()),
        }
    }

    /// One population per prompt, with these latents and scores.
    fn populations_of(&self, x: &Tensor, end: &FinalScores) -> Result<Vec<Population>> {
        let particles = self.particles();
        let conclusion = self.options.method.conclusion();
        let prompts = self.families.iter().zip(&self.engine.state().populations).enumerate();
        prompts
            .map(|(b, (family, population))| {
                let slots = b * particles..(b + 1) * particles;
                let rows: Vec<u32> = slots.clone().map(|slot| slot as u32).collect();
                let rewards = end.reward[slots.clone()].to_vec();
                let chain = Weights::new(&population.log_weights);
                let weights = match conclusion {
                    Conclusion::Weigh => chain.clone(),
                    _ => Weights::new(conclusion.weights(&rewards, &chain).log_weights()),
                };
                let parts = end.parts.iter().map(|(name, v)| (name.clone(), v[slots.clone()].to_vec()));
                let sound = population.log_z.is_finite();
                let known = self.options.method.estimates_z();
                Ok(Population {
                    seed: self.options.seed,
                    prompt: self.options.prompts[b],
                    initial: family.initial,
                    x: self.backend.gather(x, &rows)?,
                    images: self.backend.gather(&end.images, &rows)?,
                    rewards,
                    parts: parts.collect(),
                    log_weights: weights.log_weights().to_vec(),
                    weights: weights.weights().to_vec(),
                    log_z: if known { population.log_z } else { f64::NAN },
                    log_z_error: if sound && known { family.log_z_error(chain.weights()) } else { None },
                    lineage: family.lineages(),
                })
            })
            .collect()
    }

    /// One transition, and the submitting of those that the step engine takes ahead of time.
    fn transition(&mut self) -> Result<Step> {
        let began = self.yielded.unwrap_or_else(Instant::now);
        let thins = self.thins == Some(self.next);
        if thins {
            // That step is taken alone, by the host engine, which takes none ahead.
            let mut host = Box::new(Host::new(self.backend, &self.options, self.particles()));
            host.restore(self.engine.state().clone())?;
            self.engine = host;
        }
        // Until that step is due, no step beyond it is taken ahead.
        let until = self.thins.filter(|&k| k > self.next).unwrap_or(self.passes.len());
        let ahead = (self.engine.lookahead() + 1).min(until - self.next);
        // As many steps are under way as there are latents after the first.
        while self.latents.len() - 1 < ahead && self.failed.is_none() {
            match self.submit() {
                Ok(x) => self.latents.push_back(x),
                Err(e) => self.failed = Some(e),
            }
        }
        if self.latents.len() == 1
            && let Some(e) = self.failed.take()
        {
            return Err(e);
        }
        self.torn = true;
        let report = self.engine.collect()?;
        self.latents.pop_front();
        self.hold(&report)?;
        let (prompts, non_finite) = self.absorb(&report)?;
        if thins {
            let state = self.engine.state().clone();
            self.use_fewer()?;
            self.engine.restore(state)?;
        }
        let (step, pass) = (self.next, self.passes[self.next]);
        let (t, pass) = (self.schedule.steps[pass.step].t, pass.number);
        (self.next, self.torn) = (self.next + 1, false);
        Ok(Step { step, t, pass, prompts, non_finite, notes: self.target.notes(), ms: self.lap(began) })
    }

    /// Keeps the gradient of a step for those that it guides too, as the particles go on with it.
    fn hold(&mut self, report: &StepReport) -> Result<()> {
        if let Some(held) = &mut self.held
            && !report.weighed.is_empty()
        {
            if report.weighed.iter().any(|weighed| weighed.resampled) {
                held.grad = self.backend.gather(&held.grad, &report.ancestors(self.ids.len()))?;
            }
            held.lambdas = report.weighed.iter().map(|weighed| weighed.lambda_next).collect();
        }
        Ok(())
    }

    /// Once the candidates are thinned: slots and an engine for those that are left.
    fn use_fewer(&mut self) -> Result<()> {
        self.ids = identities(&self.options.prompts, self.options.particles);
        let sample = self.latents().shape().sample();
        self.engine = step_engine(self.backend, &self.options, &self.ids, sample, self.on_host)?;
        Ok(())
    }

    /// Evaluates the latest latents, and has them weighed and moved. Returns the latents after that.
    fn submit(&mut self) -> Result<Tensor> {
        let at = self.next + self.latents.len() - 1;
        let (pass, need, x) = (self.passes[at], self.needs[at], &self.latents[self.latents.len() - 1]);
        let k = pass.step;
        let step = &self.schedule.steps[k];
        let _range = range(self.backend, &format!("step {k}"));
        let evaluation = match self.seen.take() {
            Some(seen) => seen,
            None => self.target.evaluate(x, &self.ids, step, need)?,
        };
        let shape = x.shape();
        assert_eq!(
            (evaluation.x0.shape(), evaluation.eps.shape()),
            (shape, shape),
            "what the target evaluated"
        );
        let method = self.options.method;
        let (shift, divergence) = self.shift(step, &evaluation)?;
        self.divergence = divergence;
        let scores = evaluation.reward.as_ref();
        let new = evaluation.grad.as_ref().filter(|_| method.differentiates());
        if let (Some(grad), true) = (new, self.options.gradient_every > 1) {
            self.held = Some(Held { grad: grad.clone(), lambdas: Vec::new() });
        }
        let held = self.held.as_ref().filter(|_| self.options.holds(k, self.schedule.len()));
        let grad = new.or(held.map(|held| &held.grad));
        assert!(grad.is_none_or(|g| g.shape() == shape), "one gradient per particle");
        let thins = self.thins == Some(k);
        let event = if thins {
            Event::Thin(self.options.particles)
        } else {
            Event::Step(k.saturating_sub(self.start))
        };
        let fewer = thins.then(|| identities(&self.options.prompts, self.options.particles));
        let advance = Advance {
            mean_x0: step.mean.first as f32,
            mean_eps: step.mean.second as f32,
            variance: step.variance as f32,
            kappa: step.kappa as f32,
            seed: self.options.seed,
            step: pass.key(),
            purpose: Purpose::Move,
            ids: fewer.as_ref().unwrap_or(&self.ids),
        };
        let next = self.engine.submit(StepInput {
            x,
            particles: Particles { x0: &evaluation.x0, eps: &evaluation.eps, grad },
            event: scores.filter(|_| method.weighs()).map(|scores| (event, scores)),
            held: held.map_or(&[], |held| &held.lambdas),
            shift: &shift,
            look: scores.filter(|_| !method.weighs()),
            advance,
        })?;
        if pass.again {
            return self.again(pass, &next);
        }
        if !method.chooses() {
            return Ok(next);
        }
        // Without noise all next states are one.
        if step.variance == 0.0 || self.options.duplicates == 1 {
            self.chosen = vec![0; self.ids.len()];
            self.divergence = vec![0.0; self.ids.len()];
            return Ok(next);
        }
        let choice = self.choose(k, &next, &evaluation, advance)?;
        (self.chosen, self.seen, self.divergence) = (choice.which, choice.seen, choice.divergence);
        Ok(choice.states)
    }

    /// `sqrt(abar_t / abar_s) x + sqrt(1 - abar_t / abar_s) z`: the states `x` at the noise level `s` after
    /// the pass, with the noise of the level `t` before it.
    fn again(&self, pass: Pass, x: &Tensor) -> Result<Tensor> {
        let step = &self.schedule.steps[pass.step];
        let ratio = step.alpha_bar / step.alpha_bar_prev;
        let z = self.backend.normals(x.shape(), self.options.seed, pass.key(), Purpose::Again, &self.ids)?;
        self.backend.axpby(ratio.sqrt() as f32, x, (1.0 - ratio).max(0.0).sqrt() as f32, &z)
    }

    /// The final event.
    fn final_event(&mut self) -> Result<Step> {
        let began = self.yielded.unwrap_or_else(Instant::now);
        let k = self.next;
        let end = self.target.finish(self.latents(), &self.ids)?;
        assert_eq!(end.reward.len(), self.ids.len(), "one reward per particle");
        let input = FinalInput { x: &self.latents[0], rewards: &end.reward, step: k as u32 };
        self.torn = true;
        let report = self.engine.finish(input)?;
        let (prompts, non_finite) = self.absorb(&report)?;
        self.end = Some(FinalScores { reward: report.rewards, ..end });
        (self.next, self.torn) = (self.next + 1, false);
        Ok(Step {
            step: k,
            t: 0,
            pass: 0,
            prompts,
            non_finite,
            notes: self.target.notes(),
            ms: self.lap(began),
        })
    }

    /// Images and rewards of the final latents; NaN for dead particles, as after the final event.
    fn final_scores(&self) -> Result<FinalScores> {
        let end = self.target.finish(self.latents(), &self.ids)?;
        let lengths = self.backend.squared_norms(self.latents())?;
        Ok(FinalScores { reward: sound_rewards(end.reward, &[&lengths]), ..end })
    }

    /// Milliseconds since `began`; the next step begins now.
    fn lap(&mut self, began: Instant) -> f64 {
        let now = Instant::now();
        self.yielded = Some(now);
        (now - began).as_secs_f64() * 1e3
    }
}

impl Iterator for Sampler<'_> {
    type Item = Result<Step>;

    /// Evaluates, weighs, resamples and moves. After an error there are no more steps.
    fn next(&mut self) -> Option<Result<Step>> {
        if self.stopped || self.end.is_some() {
            return None;
        }
        let step = if self.next < self.passes.len() { self.transition() } else { self.final_event() };
        self.stopped = step.is_err();
        Some(step)
    }
}

/// `particles` of each prompt.
fn identities(prompts: &[u32], particles: usize) -> Vec<ParticleId> {
    let of_prompt = |&prompt| (0..particles as u32).map(move |particle| ParticleId { prompt, particle });
    prompts.iter().flat_map(of_prompt).collect()
}

/// The device's own step engine, where it has one that keeps the books as the options say; else, and if
/// `on_host`, the host's.
fn step_engine<'a>(
    backend: &'a dyn EngineBackend,
    options: &Options,
    ids: &[ParticleId],
    sample: usize,
    on_host: bool,
) -> Result<Box<dyn StepEngine + 'a>> {
    let Options { rules, alpha, seed, prompts, .. } = options;
    let setup = EngineSetup { rules, alpha: *alpha, seed: *seed, prompts, ids, sample };
    let own = match options.compat {
        Compat::Paper if !on_host && options.on_any_engine() => backend.step_engine(setup)?,
        _ => None,
    };
    Ok(own.unwrap_or_else(|| Box::new(Host::new(backend, options, ids.len() / options.prompts.len()))))
}
