//! A model and rewards on a backend. The same code loads them for computing and, on the meter, for counting.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread;

use super::builder::SessionBuilder;
use super::normalise::Normalise;
use super::options::{Prompt, SampleOptions, no_negative};
use super::run::{Run, Samples, Setup};
use crate::backend::Backend;
use crate::ddim::Schedule;
use crate::engine::EngineBackend;
use crate::error::{Error, Result};
use crate::model::folder::ModelFolder;
use crate::model::pipeline::{self, Pipeline, Size};
use crate::reward::{self, Reward, Sum};
use crate::sampler::Sampler;
use crate::spread::{Part, Spread};
use crate::tape::Tape;
use crate::target::{self, Diffusion};
use crate::tensor::HostSlice;

/// A further device, with a copy of all that the first has.
pub(super) struct Peer {
    // Tensors go before the device that they are on.
    pub loaded: Loaded,
    pub backend: Box<dyn EngineBackend>,
}

/// A model with its rewards.
pub(super) struct Loaded {
    pub folder: ModelFolder,
    pub pipeline: Pipeline,
    pub reward: Sum,
    pub eval: Option<Sum>,
}

/// What final images are worth, by name of the reward, one number per image; the target's own rewards of the
/// exact images are known from the sampler.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Judgement {
    /// Held-out rewards.
    pub held_out: Vec<(String, Vec<f32>)>,
    /// All rewards, of the 8-bit pictures.
    pub quantised: Vec<(String, Vec<f32>)>,
}

impl Loaded {
    pub fn open(backend: &dyn Backend, builder: &SessionBuilder) -> Result<Loaded> {
        let folder = builder.folder()?;
        let mut reward = builder.open_rewards(folder.source(), backend)?;
        if let Some(Normalise::Given(scales)) = &builder.normalise {
            builder.check_normalise()?;
            reward.normalise(scales);
        }
        let eval = match builder.eval_rewards.as_slice() {
            [] => None,
            specs => Some(reward::open_named(specs, folder.source(), backend, &builder.hub)?),
        };
        let pipeline = thread::scope(|scope| {
            if builder.hash_files && backend.computes() {
                // An error is told where the hashes are read.
                scope.spawn(|| folder.hashes().map(drop));
                [Some(&reward), eval.as_ref()].into_iter().flatten().for_each(|sum| {
                    scope.spawn(|| sum.hashes().map(drop));
                });
            }
            Pipeline::load(backend, &folder)
        })?;
        Ok(Loaded { folder, pipeline, reward, eval })
    }

    pub fn schedule(&self, options: &SampleOptions) -> Result<Schedule> {
        Schedule::new(&self.pipeline.scheduler, options.steps, options.eta)
    }

    pub fn size(&self, options: &SampleOptions) -> Result<Size> {
        self.pipeline.size(options.height, options.width)
    }

    pub fn alpha(&self, options: &SampleOptions) -> f64 {
        options.alpha_choice().unwrap_or_else(|| self.reward.default_alpha())
    }

    /// Evaluations of the UNet for one prompt, and how many of them are differentiated.
    pub fn evaluations(&self, options: &SampleOptions) -> (u64, u64) {
        let branches = if options.cfg_scale > 1.0 && !self.pipeline.embeds_guidance() { 2 } else { 1 };
        let (all, graded) = options.evaluations();
        let times = options.populations * branches;
        ((all * times) as u64, (graded * times) as u64)
    }

    /// Refuses prompts that this model cannot serve.
    pub fn check_prompts(&self, prompts: &[Prompt], options: &SampleOptions) -> Result<()> {
        if self.pipeline.embeds_guidance() {
            let why = "this model, which takes the guidance scale as an input";
            no_negative(prompts, why, "leave out the negative prompt")?;
        }
        options.check_prompts(prompts)
    }

    /// Begins a run of settled options, whose particles are spread over this device and the `peers`.
    pub fn start<'s>(
        &'s mut self,
        backend: &'s dyn EngineBackend,
        peers: &'s mut [Peer],
        prompts: &[Prompt],
        options: &SampleOptions,
        notes: Vec<String>,
    ) -> Result<Run<'s>> {
        let schedule = self.schedule(options)?;
        self.start_chain(backend, peers, prompts, options, &schedule, notes)
    }

    /// The same along a chain of the caller's.
    pub fn start_chain<'s>(
        &'s mut self,
        backend: &'s dyn EngineBackend,
        peers: &'s mut [Peer],
        prompts: &[Prompt],
        options: &SampleOptions,
        schedule: &Schedule,
        mut warnings: Vec<String>,
    ) -> Result<Run<'s>> {
        options.check()?;
        self.check_prompts(prompts, options)?;
        let size = self.size(options)?;
        let mut others = Vec::new();
        for Peer { loaded, backend } in peers {
            others.push(loaded.part(&**backend, prompts, options, &mut Vec::new())?);
        }
        let (numbers, alpha) = (numbers(prompts, options), self.alpha(options));
        let home = self.part(backend, prompts, options, &mut warnings)?;
        let target = Arc::new(Spread::new(home, others));
        let settings = options.sampler(numbers, alpha);
        let mut sampler = Sampler::new(backend, target.clone(), schedule, settings.clone())?;
        if let Some(values) = &options.latents {
            let shape = size.latent.with_n(options.first_chains());
            if values.len() != shape.len() {
                return Err(Error::usage(format!("{} numbers do not make latents of {shape}", values.len()))
                    .option("latents")
                    .advice("give `latents` of the model's latent size, one for each of the `particles`, or of the `candidates` asked for"));
            }
            sampler = sampler.with_latents(&backend.upload(shape, HostSlice::F32(values))?)?;
        }
        let populations = options.populations;
        let setup = Setup { target, schedule: schedule.clone(), options: settings, populations };
        Ok(Run::new(backend, setup, sampler, warnings))
    }

    /// The prompts read, and what evaluates particles of them on this device. Warnings that are new are added
    /// to `warnings`.
    fn part<'s>(
        &'s mut self,
        backend: &'s dyn EngineBackend,
        prompts: &[Prompt],
        options: &SampleOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Part<'s>> {
        let size = self.size(options)?;
        let texts: Vec<String> = prompts.iter().map(|p| p.text.clone()).collect();
        self.reward.prepare(backend, &texts)?;
        let mut add = |new: Vec<String>| {
            let new: Vec<String> = new.into_iter().filter(|w| !warnings.contains(w)).collect();
            warnings.extend(new);
        };
        add(self.reward.warnings());
        if let Some(eval) = &mut self.eval {
            eval.prepare(backend, &texts)?;
            add(eval.warnings());
        }
        add(self.pipeline.notes.clone());
        let inputs: Vec<_> = prompts
            .iter()
            .map(|p| pipeline::Prompt { text: &p.text, negative: p.negative.as_deref() })
            .collect();
        let (scale, long) = (options.cfg_scale as f32, options.long_prompts);
        let encoded = self.pipeline.encode(backend, &inputs, size, scale, long)?;
        warnings.extend(encoded.warnings(&inputs));
        warnings.extend(self.unlearned(prompts));
        let settings = target::Settings {
            cfg_scale: options.cfg_scale as f32,
            micro_batch: options.micro_batch_for(size),
            recompute: options.recompute(),
            gradient: options.gradient_path(),
        };
        let numbers = numbers(prompts, options);
        let target = Diffusion::new(backend, &self.pipeline, &self.reward, encoded, numbers, size, settings);
        Ok(Part { backend, target })
    }

    /// A warning for each reward and embedding where the prompt that the reward reads has the embedding's
    /// word: rewards read it as typed.
    fn unlearned(&self, prompts: &[Prompt]) -> Vec<String> {
        let used: BTreeSet<usize> =
            prompts.iter().flat_map(|prompt| self.pipeline.embeddings_in(&prompt.text)).collect();
        let parts = self.reward.parts().chain(self.eval.iter().flat_map(Sum::parts));
        let readers: BTreeSet<String> =
            parts.filter(|(_, reward)| reward.reads_prompt()).map(|(_, reward)| reward.name()).collect();
        let named = |at: usize| self.folder.embeddings()[at].name();
        let warning = |reader: &String, at: usize| {
            format!(
                "reward {reader} has not learned the embedding {:?}: it reads the name as plain text",
                named(at)
            )
        };
        readers.iter().flat_map(|reader| used.iter().map(move |at| warning(reader, *at))).collect()
    }

    /// Names of the embeddings that stand in none of the prompts, negative ones included.
    pub fn unused_embeddings(&self, prompts: &[Prompt]) -> Vec<String> {
        let texts = prompts.iter().flat_map(|p| [Some(&p.text), p.negative.as_ref()]).flatten();
        let used: BTreeSet<usize> = texts.flat_map(|text| self.pipeline.embeddings_in(text)).collect();
        let all = self.folder.embeddings().iter().enumerate();
        all.filter(|(at, _)| !used.contains(at)).map(|(_, embedding)| embedding.name().to_string()).collect()
    }

    pub fn judge(
        &self,
        backend: &dyn Backend,
        samples: &Samples,
        prompt: u32,
        options: &SampleOptions,
    ) -> Result<Judgement> {
        let mut all = Judgement::default();
        let pictures = &samples.pictures;
        let slots: Vec<u32> = (0..pictures.len() as u32).collect();
        let most = options.micro_batch_for(self.size(options)?);
        for (slots, pictures) in slots.chunks(most).zip(pictures.chunks(most)) {
            let prompt_of = vec![prompt; slots.len()];
            let mut quantised = self.reward.picture_scores(backend, pictures, &prompt_of)?;
            if let Some(eval) = &self.eval {
                let images = backend.gather(&samples.population.images, slots)?;
                append(&mut all.held_out, eval.part_scores(backend, &images, &prompt_of)?);
                quantised.extend(eval.picture_scores(backend, pictures, &prompt_of)?);
            }
            append(&mut all.quantised, quantised);
        }
        Ok(all)
    }

    /// See [`Session::embed`](super::Session::embed).
    pub fn embed(
        &self,
        backend: &dyn Backend,
        samples: &Samples,
        most: usize,
        options: &SampleOptions,
    ) -> Result<Option<Vec<Vec<f32>>>> {
        let slots: Vec<u32> = (0..samples.pictures.len().min(most) as u32).collect();
        let micro_batch = options.micro_batch_for(self.size(options)?);
        'sums: for sum in self.eval.iter().chain([&self.reward]) {
            let mut vectors = Vec::new();
            for slots in slots.chunks(micro_batch) {
                let images = backend.gather(&samples.population.images, slots)?;
                let Some(batch) = sum.embed(&Tape::off(backend), &images.into())? else { continue 'sums };
                let values = backend.download(batch.value())?;
                vectors.extend(values.chunks(batch.shape().sample()).map(<[f32]>::to_vec));
            }
            return Ok(Some(vectors));
        }
        Ok(None)
    }
}

/// The number of each prompt in the run.
fn numbers(prompts: &[Prompt], options: &SampleOptions) -> Vec<u32> {
    (options.first_index..).take(prompts.len()).collect()
}

/// Adds the scores of further images.
fn append(all: &mut Vec<(String, Vec<f32>)>, more: Vec<(String, Vec<f32>)>) {
    if all.is_empty() {
        *all = more;
    } else {
        all.iter_mut().zip(more).for_each(|((_, all), (_, more))| all.extend(more));
    }
}
