//! From what the user typed to what will be done: defaults filled in, combinations that make no sense refused
//! with the flag that fixes them.

use std::path::PathBuf;

use super::args::{Machine, Sample};
use super::shard::{self, Shard};
use super::values::{Auto, Bytes, Devices, Save, Scales, Seed, Select, Window};
use super::{downloads, flags, meaning, prompts};
use crate::ddim::{Chain, Prediction};
use crate::error::{Error, Result};
use crate::method::{Conclusion, Method};
use crate::model::lora;
use crate::reward::Spec;
use crate::sampler::{Compat, OnNan};
use crate::session::{Dtype, LongPrompts, Normalise, Preset, Prompt, SampleOptions, Session, SessionBuilder};
use crate::smc::{Rules, Tempering};

/// A validated `sample`.
#[derive(Clone, Debug)]
pub struct Options {
    pub prompts: Vec<Prompt>,
    /// Draws of each prompt, with the seeds from `seed` on.
    pub count: usize,
    /// Index of the first prompt.
    pub first_index: usize,
    /// `None`: the embedded model.
    pub model: Option<PathBuf>,
    pub vae: Option<PathBuf>,
    pub model_config: Option<PathBuf>,
    pub prediction: Option<Prediction>,
    pub scheduler: Option<Chain>,
    pub seed: u64,
    /// The seed was drawn, by another command it is another.
    pub seed_drawn: bool,
    pub latents: Option<PathBuf>,
    pub steps: usize,
    pub cfg_scale: f64,
    pub long_prompts: LongPrompts,
    pub eta: f64,
    pub rewards: Vec<Spec>,
    pub eval_rewards: Vec<Spec>,
    pub normalise: Option<Normalise>,
    pub proposal: &'static dyn Method,
    /// As asked for.
    pub particles: usize,
    /// Of each prompt.
    pub populations: usize,
    pub rules: Rules,
    pub on_nan: OnNan,
    pub compat: Compat,
    /// Directory for the prompts' folders.
    pub output: PathBuf,
    /// File that gets the selected image too.
    pub image: Option<PathBuf>,
    pub select: Select,
    pub save: Save,
    pub save_latents: bool,
    pub grid: bool,
    pub metadata: bool,
    pub overwrite: bool,
    pub skip_finished: bool,
    pub resume: bool,
    /// The part of the draws that is made.
    pub shard: Option<Shard>,
    /// `None`: by the clock.
    pub checkpoint_every: Option<usize>,
    /// Steps from one preview to the next.
    pub preview: Option<usize>,
    pub preview_decoder: bool,
    pub max_seconds: Option<f64>,
    pub max_nfe: Option<u64>,
    pub json: bool,
    pub quiet: bool,
    /// Never [`Device::Auto`].
    pub devices: Devices,
    pub dtype: Dtype,
    pub machine: Machine,
    pub offline: bool,
    /// Device, model and rewards.
    pub builder: SessionBuilder,
    /// How each draw is made, but for its number and seed.
    pub sample: SampleOptions,
    /// What the user should know of how the options were understood.
    pub notes: Vec<String>,
}

/// Prompts' indices are below this: they key the noise.
const MOST_PROMPTS: usize = 1 << 28;

impl Options {
    /// # Errors
    /// Usage errors, each with the flag that would fix it.
    pub fn resolve(args: &Sample) -> Result<Options> {
        let (prompts, note) =
            prompts::collect(&args.prompts, args.prompt_file.as_deref(), args.negative_prompt.as_deref())?;
        let seed = args.seed.resolve();
        let mut notes: Vec<String> = note.into_iter().collect();
        if args.count == 0 {
            return Err(Error::usage("--count 0: nothing to draw").advice("give --count at least 1"));
        }
        let numbers = prompts.len().checked_mul(args.count).filter(|all| *all <= MOST_PROMPTS);
        if numbers.is_none() || args.first_index > MOST_PROMPTS - prompts.len() {
            let noun = if prompts.len() == 1 { "prompt" } else { "prompts" };
            return Err(Error::usage(format!(
                "{} {noun} from index {} with --count {} are more than {MOST_PROMPTS} draws",
                prompts.len(),
                args.first_index,
                args.count
            ))
            .advice("give --first-index or --count a smaller number, or draw the prompts in parts"));
        }
        let eval_rewards = Spec::parse_all("eval_reward", &args.eval_rewards)?;
        let rewards = Spec::parse_all("reward", &args.rewards)?;
        meaning::check(args, &eval_rewards)?;
        let normalise = normalise(args)?;
        let loras = lora::Spec::parse_all(&args.loras)?;
        let embeddings = args.embeddings.iter().map(|text| text.parse()).collect::<Result<Vec<_>>>()?;
        let builder = builder(args, &loras, &rewards, &eval_rewards);
        let builder = embeddings.into_iter().fold(builder, SessionBuilder::embedding);
        let builder = normalise.iter().cloned().fold(builder, SessionBuilder::normalise);
        builder.check_normalise()?;
        let (builder, note) = builder.resolve_device();
        let device = builder.device_choice();
        let mut devices = args.device.clone();
        devices.0[0] = device;
        let sample = sample(args, &builder)?;
        sample.check()?;
        sample.check_prompts(&prompts)?;
        notes.extend(note.map(|note| flags::named(&note)));
        meaning::of_device(args, device)?;
        notes.extend(meaning::micro_batch(args, sample.first_chains()));
        let (output, image) = meaning::destination(args, &prompts)?;
        notes.extend(meaning::no_preview(args, sample.step_count()));
        let (shard, note) = shard_of(args.shard, prompts.len() * args.count)?;
        notes.extend(note);
        Ok(Options {
            prompts,
            count: args.count,
            first_index: args.first_index,
            model: args.model.clone(),
            vae: args.vae.clone(),
            model_config: args.model_config.clone(),
            prediction: args.prediction,
            scheduler: args.scheduler,
            seed,
            seed_drawn: args.seed == Seed::Drawn,
            latents: args.latents.clone(),
            steps: sample.step_count(),
            cfg_scale: args.cfg_scale,
            long_prompts: args.long_prompts,
            eta: args.eta,
            rewards: builder.reward_specs()?,
            eval_rewards,
            normalise,
            proposal: args.proposal,
            particles: sample.particle_count(),
            populations: sample.population_count(),
            rules: sample.rules(),
            on_nan: args.on_nan,
            compat: args.compat,
            output,
            image,
            // Of the model's own samples the best is no longer one.
            select: args.select.unwrap_or(match (args.preset, args.proposal.conclusion()) {
                (Preset::Paper | Preset::Reference, _) | (_, Conclusion::Keep) => Select::Argmax,
                _ => Select::Reward,
            }),
            save: args.save,
            save_latents: args.save_latents,
            grid: !args.no_grid,
            metadata: !args.no_metadata,
            overwrite: args.overwrite,
            skip_finished: args.skip_finished,
            resume: args.resume || shard.is_some(),
            shard,
            checkpoint_every: args.checkpoint_every,
            preview: args.preview,
            preview_decoder: args.preview_decoder,
            max_seconds: args.max_seconds,
            max_nfe: args.max_nfe,
            json: args.json,
            quiet: args.quiet,
            devices,
            dtype: args.dtype.unwrap_or(device.default_dtype()),
            machine: args.machine.clone(),
            offline: args.offline,
            builder,
            sample,
            notes,
        })
    }

    /// The same on these of the devices.
    pub fn on(&self, devices: Devices) -> Options {
        Options { builder: devices.spread(self.builder.clone()), devices, ..self.clone() }
    }

    /// The prompt that takes the most memory: one that is cut takes what all others do.
    pub fn longest(&self) -> &Prompt {
        let bytes = |prompt: &&Prompt| prompt.text.len().max(prompt.negative.as_ref().map_or(0, String::len));
        self.prompts.iter().max_by_key(bytes).unwrap_or(&self.prompts[0])
    }
}

/// The part of `draws` that is made, and what there is to say of it.
fn shard_of(choice: Option<shard::Choice>, draws: usize) -> Result<(Option<Shard>, Option<String>)> {
    let of_launcher = || shard::of_launcher(|name| std::env::var(name).ok());
    match choice {
        Some(shard::Choice::This(shard)) => Ok((Some(shard), None)),
        Some(shard::Choice::Auto) => match of_launcher()? {
            Some((shard, launcher)) => {
                Ok((Some(shard), Some(format!("note: part {shard} of {draws} draws, as {launcher} numbers it"))))
            }
            None => Err(Error::usage("--shard auto: no variables of Slurm, Kubernetes, torchrun or MPI are set")
                .advice("say the part, --shard I/N, or leave out --shard to draw everything")),
        },
        // Variables that cannot be read are no reason to refuse what does not ask for them.
        None => Ok((None, of_launcher().ok().flatten().filter(|(shard, _)| shard.of > 1 && draws > 1).map(
            |(_, launcher)| {
                format!(
                    "note: this process is one of several ({launcher}) and draws all {draws}; with --shard auto it draws \
                     its part"
                )
            },
        ))),
    }
}

/// Plain pictures on which scales are measured, where nothing else is said.
const PICTURES: usize = 32;

/// Where the scales of the rewards are from.
fn normalise(args: &Sample) -> Result<Option<Normalise>> {
    let Some(Scales(given)) = &args.normalise else { return Ok(None) };
    match (given, args.normalise_pictures) {
        (None, pictures) => Ok(Some(Normalise::Measured(pictures.unwrap_or(PICTURES)))),
        (Some(scales), None) => Ok(Some(Normalise::Given(scales.clone()))),
        (Some(_), Some(_)) => {
            Err(Error::usage("--normalise-pictures: --normalise gives scales, and none are measured")
                .advice("leave out --normalise-pictures, or write --normalise std"))
        }
    }
}

/// Device, model with its LoRA files, and rewards.
fn builder(args: &Sample, loras: &[lora::Spec], rewards: &[Spec], eval_rewards: &[Spec]) -> SessionBuilder {
    let hub = downloads::hub(args.offline, args.quiet);
    let mut builder = args.device.spread(Session::builder()).hub(hub);
    if let Some(dtype) = args.dtype {
        builder = builder.dtype(dtype);
    }
    if let Some(Bytes(most)) = args.machine.max_vram {
        builder = builder.max_memory(most);
    }
    if args.machine.no_graph {
        builder = builder.no_graph();
    }
    if args.machine.no_cublas {
        builder = builder.no_cublas();
    }
    if let Some(path) = &args.model {
        builder = builder.model(path);
    }
    if let Some(path) = &args.vae {
        builder = builder.vae(path);
    }
    if let Some(folder) = &args.model_config {
        builder = builder.model_config(folder);
    }
    if let Some(prediction) = args.prediction {
        builder = builder.prediction(prediction);
    }
    if let Some(chain) = args.scheduler {
        builder = builder.scheduler(chain);
    }
    builder = loras.iter().fold(builder, |builder, lora| builder.lora(&lora.path, lora.weight));
    builder = rewards.iter().cloned().fold(builder, SessionBuilder::reward);
    eval_rewards.iter().cloned().fold(builder, SessionBuilder::eval_reward)
}

/// What each draw is told: what suits the model, changed by what the user gave.
fn sample(args: &Sample, builder: &SessionBuilder) -> Result<SampleOptions> {
    let mut options = builder
        .preset(args.preset)
        .cfg_scale(args.cfg_scale)
        .eta(args.eta)
        .long_prompts(args.long_prompts)
        .method(args.proposal)
        .populations(args.populations)
        .on_nan(args.on_nan)
        .compat(args.compat)
        .checkpointing(args.checkpointing);
    if let Some(steps) = args.steps {
        options = options.steps(steps);
    }
    if let Some(particles) = args.particles {
        options = options.particles(particles);
    }
    if let Some(candidates) = args.candidates {
        options = options.candidates(candidates);
    }
    if let Some(fraction) = args.thin_at {
        options = options.thin_at(fraction);
    }
    if let Some(width) = args.width {
        options = options.width(width);
    }
    if let Some(height) = args.height {
        options = options.height(height);
    }
    if let Some(alpha) = args.kl {
        options = options.alpha(alpha);
    }
    if let Auto::Exactly(n) = args.micro_batch {
        options = options.micro_batch(n);
    }
    if let Some(name) = &args.resample {
        options = options.resampler(name.parse()?);
    }
    if let Some(threshold) = args.ess_threshold {
        options = options.ess_threshold(threshold);
    }
    if let Some(most) = args.max_shift {
        options = options.max_shift(most);
    }
    if let Some(gradient) = args.gradient {
        options = options.gradient(gradient);
    }
    if let Some(steps) = args.gradient_every {
        options = options.gradient_every(steps);
    }
    if let Some(fraction) = args.tempering_start {
        options = options.tempering_start(fraction);
    }
    if let Some(potential) = args.potential {
        options = options.potential(potential);
    }
    if let Some(steps) = args.weigh_every {
        options = options.weigh_every(steps);
    }
    if let Some(duplicates) = args.duplicates {
        options = options.duplicates(duplicates);
    }
    if let Some(strength) = args.guidance_strength {
        options = options.guidance_strength(strength);
    }
    if let Some(Window(from, until)) = args.guidance_window {
        options = options.guidance_window((from, until));
    }
    if let Some(passes) = args.time_travel {
        options = options.time_travel(passes);
    }
    // Rates of the fixed schedules depend on the number of guided steps.
    options.check()?;
    let guided = options.guided_steps();
    let own = args.proposal.rules(guided).tempering;
    Ok(match (&args.tempering, args.gamma) {
        (Some(text), gamma) => options.tempering(Tempering::parse(text, gamma, guided)?),
        (None, Some(_)) if own == Tempering::None => {
            options.tempering(Tempering::parse("none", args.gamma, guided)?)
        }
        (None, Some(_)) => options.tempering(Tempering::parse("exp", args.gamma, guided)?),
        (None, None) => options,
    })
}
