//! A run: the particles of some prompts on their way.

use std::collections::BTreeSet;

use crate::backend::Memory;
use crate::engine::EngineBackend;
use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::sampler::{Population, Sampler, Step};
use crate::tensor::Tensor;

/// The particles of some prompts on their way: an iterator over steps, which can be concluded.
#[must_use = "a run computes nothing until its steps are asked for"]
pub struct Run<'s> {
    backend: &'s dyn EngineBackend,
    sampler: Sampler<'s>,
    warnings: Vec<String>,
}

/// The particles of one prompt at the end.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Samples {
    /// Latents, images, rewards and weights.
    pub population: Population,
    /// The images as 8-bit pictures.
    pub pictures: Vec<Picture>,
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
    pub(super) fn new(
        backend: &'s dyn EngineBackend,
        sampler: Sampler<'s>,
        warnings: Vec<String>,
    ) -> Run<'s> {
        Run { backend, sampler, warnings }
    }

    /// What the user should know before the first step, such as words of the prompt that no encoder reads.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Steps that the whole run yields: one per transition of the chain, and the final event.
    pub fn steps(&self) -> usize {
        self.sampler.steps()
    }

    /// The latents of all particles after the step yielded last, `(prompts x particles, h, w, c)`.
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
    /// every particle to values that are not finite.
    pub fn conclude(mut self) -> Result<Vec<Samples>> {
        for step in &mut self.sampler {
            step?;
        }
        let samples = |population: Population| {
            if !population.rewards.iter().any(|reward| reward.is_finite()) {
                return Err(lost(population.prompt));
            }
            let shape = population.images.shape();
            let values = self.backend.download(&population.images)?;
            let pictures = values.chunks(shape.sample());
            let pictures = pictures.map(|pixels| Picture::from_floats(shape.w, shape.h, pixels)).collect();
            Ok(Samples { population, pictures })
        };
        self.sampler.populations()?.into_iter().map(samples).collect()
    }
}

fn lost(prompt: u32) -> Error {
    Error::numerical(format!("prompt {prompt}: every particle was lost to values that are not finite"))
        .option("alpha")
        .advice("give `alpha` a larger number (the guidance is divided by it); `dtype` fp32 has more range")
}

impl Iterator for Run<'_> {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Result<Step>> {
        self.sampler.next()
    }
}
