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
use crate::sampler::{self, Population, Sampler, Step};
use crate::target::Diffusion;
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
    /// After an error there are no more steps.
    stopped: bool,
    warnings: Vec<String>,
}

/// What every population of a run is drawn with.
pub(super) struct Setup<'s> {
    pub target: Arc<Diffusion<'s>>,
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
             little. More survive with a larger `alpha` or more `particles`, with a smaller `ess_threshold` or a \
             bound on the guidance (`max_shift`)",
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
        Run { backend, setup, sampler, yielded: 0, ended: Vec::new(), stopped: false, warnings }
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
        let samples = self.whatever_is_left()?;
        let has_reward = |of: &Samples| of.population.rewards.iter().any(|reward| reward.is_finite());
        match samples.iter().find(|of| !has_reward(of)) {
            Some(of) => Err(lost(of.population.prompt)),
            None => Ok(samples),
        }
    }

    /// As [`Run::conclude`], also where a prompt has no finite reward.
    pub(super) fn whatever_is_left(mut self) -> Result<Vec<Samples>> {
        for step in &mut self {
            step?;
        }
        self.ended.push(self.sampler.populations()?);
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
        let ended = self.sampler.populations()?;
        let Setup { target, schedule, options, .. } = &self.setup;
        let seed = population_seed(options.seed, self.ended.len() as u32 + 1);
        let options = sampler::Options { seed, ..options.clone() };
        self.sampler = Sampler::new(self.backend, target.clone(), schedule, options)?;
        self.ended.push(ended);
        self.yielded = 0;
        Ok(())
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
