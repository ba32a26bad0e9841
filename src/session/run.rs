//! A run: the particles of some prompts on their way.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::populations::{Estimate, merge, unreliable};
use crate::backend::Memory;
use crate::ddim::Schedule;
use crate::engine::EngineBackend;
use crate::error::{Error, Result};
use crate::noise::population_seed;
use crate::pixels::Picture;
use crate::sampler::{self, Population, Sampler, Snapshot, Step};
use crate::spread::Spread;
use crate::tensor::Tensor;

/// The particles of some prompts on their way: an iterator over steps, which can be concluded. Where several
/// populations were asked for, they run one after another.
#[must_use = "a run computes nothing until its steps are asked for"]
pub struct Run<'s> {
    backend: &'s dyn EngineBackend,
    setup: Setup<'s>,
    /// Of the population under way.
    sampler: Sampler<'s>,
    /// Steps of it that have been yielded.
    yielded: usize,
    /// The populations before it, and in each those of the prompts.
    ended: Vec<Vec<Population>>,
    /// Their samplers at the end.
    ends: Vec<Snapshot>,
    /// After an error there are no more steps.
    stopped: bool,
    warnings: Vec<String>,
}

/// A run between two steps: a snapshot of each population that has begun, the last of them under way.
/// [`Run::snapshot`] takes it; [`Run::restore`] goes on from it.
#[derive(Clone, Debug)]
pub struct RunSnapshot {
    populations: Vec<Snapshot>,
}

impl RunSnapshot {
    /// Of these populations, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where there are none.
    pub fn new(populations: Vec<Snapshot>) -> Result<RunSnapshot> {
        match populations.is_empty() {
            true => Err(damaged("no population")),
            false => Ok(RunSnapshot { populations }),
        }
    }
    /// Of each population that has begun, in order.
    pub fn populations(&self) -> &[Snapshot] {
        &self.populations
    }
    /// The population under way, from 0.
    pub fn population(&self) -> usize {
        self.populations.len() - 1
    }
    /// Steps that it has taken: the number of the one that follows.
    pub fn step(&self) -> usize {
        self.populations[self.population()].step()
    }
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::io(format!("the snapshot of a run is damaged: {what}"))
        .advice("go on from another snapshot, or begin the run anew")
}

/// What every population of a run is drawn with.
pub(super) struct Setup<'s> {
    pub target: Arc<Spread<'s>>,
    pub schedule: Schedule,
    /// Of the first population.
    pub options: sampler::Options,
    pub populations: usize,
}

/// The particles of one prompt at the end, of all its populations.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Samples {
    /// Latents, images, rewards and weights. Of several populations one after another: particle `p` of
    /// population `m` is in slot `m P + p`; its ancestors are counted on from those of the populations
    /// before, of as many particles as they began with.
    pub population: Population,
    /// The images as 8-bit pictures.
    pub pictures: Vec<Picture>,
    /// What each population says of Z.
    pub estimates: Vec<Estimate>,
}

/// With fewer initial particles that have descendants a population has collapsed.
const FEW_ROOTS: usize = 4;

impl Samples {
    /// The particle of largest weight.
    pub fn best(&self) -> usize {
        self.population.best()
    }
    /// What the user should know of the population at its end: that few initial particles have descendants.
    pub fn warnings(&self) -> Vec<String> {
        let (particles, roots) = (self.population.rewards.len(), self.population.roots_alive());
        if roots >= FEW_ROOTS.min(particles) {
            return Vec::new();
        }
        vec![format!(
            "the {particles} particles descend from {roots} initial one{}: the pictures are alike, and weights and log Z say \
             little. More survive with a larger `alpha` or more `particles`, with a smaller `ess_threshold`, or, \
             where gradients guide, with a bound on that (`max_shift`)",
            if roots == 1 { "" } else { "s" }
        )]
    }
    /// Why the error of log Z is unknown, where it is.
    pub fn unreliable(&self) -> Option<&'static str> {
        unreliable(&self.population, &self.estimates)
    }
    /// How many of the pictures differ from all others before them, pixel by pixel.
    pub fn distinct_pictures(&self) -> usize {
        self.pictures.iter().map(|picture| &picture.rgb).collect::<BTreeSet<_>>().len()
    }
    /// The picture of the particle of largest weight.
    pub fn best_picture(&self) -> &Picture {
        &self.pictures[self.best()]
    }
}

impl<'s> Run<'s> {
    /// Begins with `sampler`, of the first population.
    pub(super) fn new(
        backend: &'s dyn EngineBackend,
        setup: Setup<'s>,
        sampler: Sampler<'s>,
        warnings: Vec<String>,
    ) -> Run<'s> {
        let (ended, ends) = (Vec::new(), Vec::new());
        Run { backend, setup, sampler, yielded: 0, ended, ends, stopped: false, warnings }
    }

    /// Everything that the run is after the step yielded last. Waits for the device.
    ///
    /// # Errors
    /// As [`Sampler::snapshot`].
    pub fn snapshot(&self) -> Result<RunSnapshot> {
        let mut populations = self.ends.clone();
        populations.push(self.sampler.snapshot()?);
        Ok(RunSnapshot { populations })
    }

    /// Goes on from `snapshot`, of a run of the same prompts, options, model and rewards: the next step is
    /// that which would have followed, and all results are those of the run that was not stopped.
    ///
    /// # Errors
    /// As [`Sampler::restore`]; [`ErrorKind::Io`](crate::ErrorKind::Io) where the snapshot contradicts
    /// itself.
    ///
    /// # Panics
    /// After the first step.
    pub fn restore(mut self, snapshot: &RunSnapshot) -> Result<Run<'s>> {
        assert!(self.yielded == 0 && self.ended.is_empty(), "the run has begun");
        if snapshot.populations.len() > self.setup.populations {
            return Err(Error::usage(format!(
                "the snapshot is of another run: population {} is under way there, and there are {} here",
                snapshot.populations.len(),
                self.setup.populations
            ))
            .advice("give the options that the run began with"));
        }
        for (number, population) in snapshot.populations.iter().enumerate() {
            if number > 0 {
                if self.yielded < self.sampler.steps() {
                    return Err(damaged(format!("population {number} has not ended, and another has begun")));
                }
                self.begin_next()?;
            }
            self.sampler = self.sampler.restore(population)?;
            self.yielded = population.step();
        }
        Ok(self)
    }

    /// What the user should know before the first step, such as words of the prompt that no encoder reads.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Steps that each population yields: one per transition of the chain, and the final event.
    pub fn steps(&self) -> usize {
        self.sampler.steps()
    }

    /// Populations of each prompt.
    pub fn populations(&self) -> usize {
        self.setup.populations
    }

    /// The population whose step was yielded last, from 0.
    pub fn population(&self) -> usize {
        self.ended.len()
    }

    /// Evaluations of the UNet, of each particle and branch, that the next step takes.
    pub fn next_evaluations(&self) -> u64 {
        let sampler::Options { prompts, particles, candidates, .. } = &self.setup.options;
        match self.sampler.steps() - self.yielded {
            0 if self.ended.len() + 1 < self.setup.populations => {
                let slots = prompts.len() * candidates.map_or(*particles, |candidates| candidates.count);
                let choices = self.setup.options.choices(self.sampler.steps() - 1);
                (slots * (1 + choices)) as u64 * self.branches()
            }
            // The final event evaluates none.
            0 | 1 => 0,
            _ => self.sampler.next_states() as u64 * self.branches(),
        }
    }

    /// Evaluations of [`Run::so_far`] behind the next step.
    pub fn evaluations_to_end_early(&self) -> u64 {
        let transitions = (self.sampler.steps() - self.yielded).saturating_sub(1);
        if self.ended.is_empty() && transitions > 1 { self.each_evaluates() } else { 0 }
    }

    /// Evaluations of all slots, once.
    fn each_evaluates(&self) -> u64 {
        self.latents().shape().n as u64 * self.branches()
    }

    fn branches(&self) -> u64 {
        if self.setup.target.two_branches() { 2 } else { 1 }
    }

    /// The latents of that population after that step, `(prompts x particles, h, w, c)`.
    pub fn latents(&self) -> &Tensor {
        self.sampler.latents()
    }

    /// Bytes of tensors alive on the device, now and at most.
    pub fn memory(&self) -> Memory {
        self.backend.memory()
    }

    /// Runs what is left and returns the samples of each prompt.
    ///
    /// # Errors
    /// Of the remaining steps; [`ErrorKind::Numerical`](crate::ErrorKind::Numerical) where a prompt lost
    /// every particle of every population to values that are not finite.
    pub fn conclude(self) -> Result<Vec<Samples>> {
        self.whatever_is_left().and_then(with_rewards)
    }

    /// As [`Run::conclude`], also where a prompt has no finite reward.
    pub(super) fn whatever_is_left(mut self) -> Result<Vec<Samples>> {
        for step in &mut self {
            step?;
        }
        self.ended.push(self.sampler.populations()?);
        self.merged()
    }

    /// What there is after the step yielded last: the populations that have ended; where none has, the
    /// particles under way as the model foresees their end. That takes an evaluation of the UNet.
    ///
    /// # Errors
    /// From the device; [`ErrorKind::Numerical`](crate::ErrorKind::Numerical) where no reward is finite.
    pub fn so_far(mut self) -> Result<Vec<Samples>> {
        if self.ended.is_empty() {
            self.ended.push(self.sampler.foreseen()?);
        }
        self.merged().and_then(with_rewards)
    }

    /// The predicted clean latents `(n, h, w, c)` of the particles under way, after the step yielded last.
    /// That takes an evaluation of the UNet, and changes nothing.
    ///
    /// # Errors
    /// From the device.
    pub fn predicted(&self) -> Result<Tensor> {
        self.sampler.predicted()
    }

    /// Pictures of latents, such as those of [`Run::predicted`], by the model's decoder.
    ///
    /// # Errors
    /// From the device.
    pub fn decode(&self, latents: &Tensor) -> Result<Vec<Picture>> {
        let picture = |image: Tensor| {
            let shape = image.shape();
            Ok(Picture::from_floats(shape.w, shape.h, &self.backend.download(&image)?))
        };
        self.setup.target.images(latents)?.into_iter().map(picture).collect()
    }

    /// Values of a tensor of the run, such as those of [`Run::predicted`], on the host.
    ///
    /// # Errors
    /// From the device.
    pub fn download(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        self.backend.download(tensor)
    }

    /// The samples of each prompt, of the populations that have ended.
    fn merged(self) -> Result<Vec<Samples>> {
        let (conclusion, alpha) = (self.setup.options.method.conclusion(), self.setup.options.alpha);
        let samples = |populations: Vec<Population>| {
            let (population, estimates) = merge(self.backend, populations, conclusion, alpha)?;
            let shape = population.images.shape();
            let pictures = if self.backend.computes() {
                let values = self.backend.download(&population.images)?;
                let pictures = values.chunks(shape.sample());
                pictures.map(|pixels| Picture::from_floats(shape.w, shape.h, pixels)).collect()
            } else {
                (0..shape.n).map(|_| Picture::unseen(shape.w, shape.h)).collect()
            };
            Ok(Samples { population, pictures, estimates })
        };
        let mut of_prompt: Vec<Vec<Population>> =
            self.setup.options.prompts.iter().map(|_| Vec::new()).collect();
        for population in self.ended {
            of_prompt.iter_mut().zip(population).for_each(|(all, one)| all.push(one));
        }
        of_prompt.into_iter().map(samples).collect()
    }

    /// Goes over to the next population.
    fn begin_next(&mut self) -> Result<()> {
        let (ended, end) = (self.sampler.populations()?, self.sampler.snapshot()?);
        let Setup { target, schedule, options, .. } = &self.setup;
        let seed = population_seed(options.seed, self.ended.len() as u32 + 1);
        let options = sampler::Options { seed, ..options.clone() };
        self.sampler = Sampler::new(self.backend, target.clone(), schedule, options)?;
        self.ended.push(ended);
        self.ends.push(end);
        self.yielded = 0;
        Ok(())
    }
}

/// Refuses samples of a prompt that has no finite reward.
fn with_rewards(samples: Vec<Samples>) -> Result<Vec<Samples>> {
    let has_reward = |of: &Samples| of.population.rewards.iter().any(|reward| reward.is_finite());
    match samples.iter().find(|of| !has_reward(of)) {
        Some(of) => Err(lost(of.population.prompt)),
        None => Ok(samples),
    }
}

fn lost(prompt: u32) -> Error {
    Error::numerical(format!("prompt {prompt}: every particle was lost to values that are not finite"))
        .option("alpha")
        .advice(
            "where a reward gave no number, see why; where the latent was lost first, give `alpha` a larger number \
             (the guidance is divided by it); `dtype` fp32 has more range",
        )
}

impl Iterator for Run<'_> {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Result<Step>> {
        if self.stopped {
            return None;
        }
        let whole = self.yielded == self.sampler.steps();
        if whole
            && self.ended.len() + 1 < self.setup.populations
            && let Err(e) = self.begin_next()
        {
            self.stopped = true;
            return Some(Err(e));
        }
        let step = self.sampler.next();
        self.yielded += usize::from(matches!(step, Some(Ok(_))));
        step
    }
}
