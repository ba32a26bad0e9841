//! Everything a run needs, opened on one backend: model, rewards, size, chain. The same code opens it for
//! computing and, on the meter, for counting.

use std::path::Path;

use super::meaning;
use super::options::Options;
use super::prompts::Prompt;
use super::values::{Auto, Switch};
use crate::assets::{SHAPES, SHAPES_FILES};
use crate::backend::Backend;
use crate::ddim::Schedule;
use crate::engine::EngineBackend;
use crate::error::Result;
use crate::method::Circumstances;
use crate::model::files::Source;
use crate::model::folder::ModelFolder;
use crate::model::pipeline::{self, Pipeline, Size};
use crate::pixels::Picture;
use crate::reward::{self, Reward, Spec, Sum};
use crate::sampler::{self, Sampler};
use crate::target::{self, Diffusion};
use crate::tensor::Tensor;

/// Latent elements per network call when the user leaves the micro-batch open: small latents together give the
/// processor's threads enough rows, and a latent of this size or more, whose activations take gigabytes, goes alone.
const MICRO_BATCH_ELEMENTS: usize = 4096;

/// A model with its rewards on a backend.
pub struct Session<'b> {
    pub backend: &'b dyn EngineBackend,
    pub folder: ModelFolder,
    pub pipeline: Pipeline,
    pub schedule: Schedule,
    pub size: Size,
    pub reward: Sum,
    pub eval: Option<Sum>,
    /// Alpha of the target.
    pub kl: f64,
}

/// The model's folder, or the embedded one.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model) for a folder that is none.
pub fn open_folder(model: Option<&Path>) -> Result<ModelFolder> {
    match model {
        Some(path) => ModelFolder::open(path, None),
        None => ModelFolder::from_source(Source::Embedded(SHAPES_FILES), None),
    }
}

impl<'b> Session<'b> {
    /// Loads everything.
    ///
    /// # Errors
    /// Of the files concerned, and for options the model or the rewards cannot serve.
    pub fn open(backend: &'b dyn EngineBackend, options: &Options) -> Result<Session<'b>> {
        let folder = open_folder(options.model.as_deref())?;
        let pipeline = Pipeline::load(backend, &folder)?;
        if pipeline.embeds_guidance() {
            let why = "this model, which takes the guidance scale as an input";
            meaning::no_negative(&options.prompts, why, "leave out the negative prompt")?;
        }
        let schedule = Schedule::new(&pipeline.scheduler, options.steps, options.eta)?;
        let size = pipeline.size(options.height, options.width)?;
        let reward = reward::open(&options.rewards, folder.source(), backend)?;
        let without_gradient = (!reward.differentiable()).then(|| reward.name());
        let noisy = schedule.steps.iter().any(|s| s.variance > 0.0);
        let without_gradient = without_gradient.as_deref();
        options.proposal.check_all(&Circumstances { without_gradient, noisy, rules: &options.rules })?;
        let eval = open_eval(&options.eval_rewards, folder.source(), backend)?;
        let kl = options.kl.unwrap_or_else(|| reward.default_alpha());
        Ok(Session { backend, folder, pipeline, schedule, size, reward, eval, kl })
    }

    /// For records: `shapes`, or the folder's path.
    pub fn model_name(&self, options: &Options) -> String {
        options.model.as_deref().map_or(SHAPES.to_string(), |p| p.display().to_string())
    }

    /// Particles per network call.
    pub fn micro_batch(&self, options: &Options) -> usize {
        match options.micro_batch {
            Auto::Auto => (MICRO_BATCH_ELEMENTS / self.size.latent.len()).clamp(1, options.chains),
            Auto::Exactly(n) => n.min(options.chains),
        }
    }

    /// Prepares the rewards for a prompt and joins the networks into a target. What did not fit into a text
    /// encoder is said in the second part.
    ///
    /// # Errors
    /// Of the encoders.
    pub fn target<'s>(
        &'s mut self,
        options: &Options,
        prompt: &Prompt,
        index: usize,
    ) -> Result<(Diffusion<'s>, Vec<String>)> {
        let texts = [prompt.text.clone()];
        self.reward.prepare(self.backend, &texts)?;
        let mut warnings = self.reward.warnings();
        if let Some(eval) = &mut self.eval {
            eval.prepare(self.backend, &texts)?;
            let new: Vec<String> = eval.warnings().into_iter().filter(|w| !warnings.contains(w)).collect();
            warnings.extend(new);
        }
        let negative = (!prompt.negative.is_empty()).then_some(prompt.negative.as_str());
        let prompts = [pipeline::Prompt { text: &prompt.text, negative }];
        let encoded = self.pipeline.encode(self.backend, &prompts, self.size, options.cfg_scale as f32)?;
        warnings.extend(encoded.dropped.iter().flatten().map(|d| {
            format!(
                "the prompt is longer than the text encoder reads: {} tokens from \"{}\" on are ignored",
                d.tokens,
                head(&d.text)
            )
        }));
        let settings = target::Settings {
            cfg_scale: options.cfg_scale as f32,
            micro_batch: self.micro_batch(options),
            checkpointing: options.checkpointing == Switch::On,
        };
        let target = Diffusion::new(
            self.backend,
            &self.pipeline,
            &self.reward,
            encoded,
            vec![index as u32],
            self.size,
            settings,
        );
        Ok((target, warnings))
    }

    /// Judges final images, a micro-batch at a time: beside the sampler's own batches it takes no more memory.
    ///
    /// # Errors
    /// Of the rewards.
    pub fn judge(&self, options: &Options, images: &Tensor, pictures: &[Picture]) -> Result<Judgement> {
        let mut all = Judgement::default();
        let (backend, slots) = (self.backend, (0..pictures.len() as u32).collect::<Vec<_>>());
        let most = self.micro_batch(options);
        for (slots, pictures) in slots.chunks(most).zip(pictures.chunks(most)) {
            let prompt_of = vec![0; slots.len()];
            let mut quantised = self.reward.picture_scores(backend, pictures, &prompt_of)?;
            if let Some(eval) = &self.eval {
                let images = backend.gather(images, slots)?;
                append(&mut all.held_out, eval.part_scores(backend, &images, &prompt_of)?);
                quantised.extend(eval.picture_scores(backend, pictures, &prompt_of)?);
            }
            append(&mut all.quantised, quantised);
        }
        Ok(all)
    }
}

/// What final images are worth, by name of the reward, one number per image; the target's own rewards of the exact
/// images are known from the sampler.
#[derive(Default)]
pub struct Judgement {
    /// Held-out rewards.
    pub held_out: Vec<(String, Vec<f32>)>,
    /// All rewards, of the 8-bit pictures.
    pub quantised: Vec<(String, Vec<f32>)>,
}

/// Adds the scores of further images.
fn append(all: &mut Vec<(String, Vec<f32>)>, more: Vec<(String, Vec<f32>)>) {
    if all.is_empty() {
        *all = more;
    } else {
        all.iter_mut().zip(more).for_each(|((_, all), (_, more))| all.extend(more));
    }
}

/// The images `(n, h, w, 3)` as 8-bit pictures.
///
/// # Errors
/// Of the backend.
pub fn pictures(backend: &dyn Backend, images: &Tensor) -> Result<Vec<Picture>> {
    let shape = images.shape();
    let values = backend.download(images)?;
    Ok(values.chunks(shape.sample()).map(|pixels| Picture::from_floats(shape.w, shape.h, pixels)).collect())
}

/// The first characters of a text, for messages.
fn head(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        None => text.to_string(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

/// Held-out rewards, if there are any.
fn open_eval(specs: &[Spec], model: &Source, backend: &dyn Backend) -> Result<Option<Sum>> {
    if specs.is_empty() { Ok(None) } else { reward::open(specs, model, backend).map(Some) }
}

/// What keys the random numbers of one draw of a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// The prompt's.
    pub index: usize,
    pub seed: u64,
}

/// The sampler of one draw.
///
/// # Errors
/// For options that cannot work.
pub fn sampler<'a>(
    backend: &'a dyn EngineBackend,
    target: &'a Diffusion<'a>,
    schedule: &'a Schedule,
    options: &Options,
    kl: f64,
    draw: Draw,
    latents: Option<&Tensor>,
) -> Result<Sampler<'a>> {
    // Without `..`: an option that is forgotten does not compile.
    let run = sampler::Options {
        seed: draw.seed,
        prompts: vec![draw.index as u32],
        particles: options.chains,
        alpha: kl,
        method: options.proposal,
        rules: options.rules,
        tempering_start: options.tempering_start,
        on_nan: options.on_nan,
        compat: options.compat,
    };
    let sampler = Sampler::new(backend, target, schedule, run)?;
    match latents {
        Some(x) => sampler.with_latents(x),
        None => Ok(sampler),
    }
}

/// Evaluations of the UNet for one prompt: particles, steps and branches of the guidance.
pub fn evaluations(options: &Options, pipeline: &Pipeline) -> u64 {
    let branches = if options.cfg_scale > 1.0 && !pipeline.embeds_guidance() { 2 } else { 1 };
    (options.chains * options.steps * branches) as u64
}
