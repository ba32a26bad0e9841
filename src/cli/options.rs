//! From what the user typed to what will be done: defaults filled in, combinations that make no sense refused
//! with the flag that fixes them.

use std::path::PathBuf;

use super::args::{Machine, Sample};
use super::prompts::{self, Prompt};
use super::values::{Auto, Device, Dtype, Save, Select, Switch};
use super::{device, meaning};
use crate::error::{Error, Result};
use crate::method::Method;
use crate::reward::Spec;
use crate::sampler::{Compat, OnNan};
use crate::smc::{Resampler, Rules, Tempering};

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
    pub width: Option<usize>,
    pub height: Option<usize>,
    pub seed: u64,
    pub latents: Option<PathBuf>,
    pub steps: usize,
    pub cfg_scale: f64,
    pub eta: f64,
    pub rewards: Vec<Spec>,
    pub eval_rewards: Vec<Spec>,
    /// `None`: the reward's own default.
    pub kl: Option<f64>,
    pub proposal: &'static dyn Method,
    /// As asked for.
    pub particles: usize,
    /// Chains that run: one per particle, or as many as cost the same for `best-of-n`.
    pub chains: usize,
    pub rules: Rules,
    pub tempering_start: f64,
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
    pub json: bool,
    pub quiet: bool,
    pub device: Device,
    pub dtype: Dtype,
    pub machine: Machine,
    pub micro_batch: Auto,
    pub checkpointing: Switch,
    /// What the user should know of how the options were understood.
    pub notes: Vec<String>,
}

/// Alpha for the aesthetic head of the embedded model, whose ratings spread wider than those of the head that the
/// reward's own default was made for. `tools/shapes/compare.py` measured it; the table is in the README.
const SHAPES_KL: f64 = 0.2;

/// Most particles per prompt: ancestors and file names are made for this many.
const MOST_PARTICLES: usize = 1 << 20;

/// Prompts' indices are below this: they key the noise.
const MOST_PROMPTS: usize = 1 << 28;

impl Options {
    /// # Errors
    /// Usage errors, each with the flag that would fix it.
    pub fn resolve(args: &Sample) -> Result<Options> {
        let (prompts, note) =
            prompts::collect(&args.prompts, args.prompt_file.as_deref(), &args.negative_prompt)?;
        let mut notes: Vec<String> = note.into_iter().collect();
        if args.count == 0 {
            return Err(Error::usage("--count 0: nothing to draw").fix("give --count at least 1"));
        }
        let numbers = prompts.len().checked_mul(args.count).filter(|all| *all <= MOST_PROMPTS);
        if numbers.is_none() || args.first_index > MOST_PROMPTS - prompts.len() {
            return Err(Error::usage(format!(
                "{} prompts from index {}, each {} times, are more than {MOST_PROMPTS}",
                prompts.len(),
                args.first_index,
                args.count
            ))
            .fix("give --first-index or --count a smaller number, or draw the prompts in parts"));
        }
        // The embedded model's defaults fit a minute on two cores; elsewhere those of the DAS program hold.
        let embedded = args.model.is_none();
        let steps = args.steps.unwrap_or(if embedded { 50 } else { 100 });
        let particles = args.particles.unwrap_or(if embedded { 16 } else { 4 });
        if steps == 0 {
            return Err(Error::usage("--steps 0: nothing to do").fix("give --steps at least 1"));
        }
        if particles == 0 {
            return Err(Error::usage("--particles 0: nothing to sample").fix("give --particles at least 1"));
        }
        if particles > MOST_PARTICLES {
            return Err(Error::usage(format!("--particles {particles}: more than {MOST_PARTICLES}"))
                .fix("run several seeds instead"));
        }
        finite("--cfg-scale", args.cfg_scale, 0.0, 1e4)?;
        finite("--eta", args.eta, 0.0, 1.0)?;
        finite("--ess-threshold", args.ess_threshold.unwrap_or_default(), 0.0, 1.0)?;
        if !(0.0..1.0).contains(&args.tempering_start) {
            return Err(Error::usage(format!("--tempering-start {}: not a fraction", args.tempering_start))
                .fix("give a number from 0 to below 1"));
        }
        if let Some(kl) = args.kl
            && !(kl.is_finite() && kl > 0.0)
        {
            return Err(Error::usage(format!("--kl {kl}: not a positive number"))
                .fix("smaller follows the reward more, larger the model more; try 0.01"));
        }
        let default_reward = vec!["aesthetic".to_string()];
        let rewards =
            Spec::parse_all("reward", if args.rewards.is_empty() { &default_reward } else { &args.rewards })?;
        let eval_rewards = Spec::parse_all("eval_reward", &args.eval_rewards)?;
        meaning::check(args, &prompts, &eval_rewards)?;
        let (device, note) = device::choose(args.device);
        notes.extend(note);
        meaning::of_device(args, device)?;
        let (output, image) = meaning::destination(args, &prompts)?;
        let own_head = embedded && rewards.iter().any(|r| r.kind.name == "aesthetic" && r.path.is_none());
        Ok(Options {
            prompts,
            count: args.count,
            first_index: args.first_index,
            model: args.model.clone(),
            width: args.width,
            height: args.height,
            seed: args.seed.resolve(),
            latents: args.latents.clone(),
            steps,
            cfg_scale: args.cfg_scale,
            eta: args.eta,
            rewards,
            eval_rewards,
            kl: args.kl.or(own_head.then_some(SHAPES_KL)),
            proposal: args.proposal,
            particles,
            chains: particles,
            rules: rules(args, steps)?,
            tempering_start: args.tempering_start,
            on_nan: args.on_nan,
            compat: args.compat,
            output,
            image,
            select: args.select,
            save: args.save,
            save_latents: args.save_latents,
            grid: !args.no_grid,
            metadata: !args.no_metadata,
            overwrite: args.overwrite,
            skip_finished: args.skip_finished,
            json: args.json,
            quiet: args.quiet,
            device,
            dtype: args.dtype.unwrap_or(device.default_dtype()),
            machine: args.machine.clone(),
            micro_batch: args.micro_batch,
            checkpointing: args.checkpointing,
            notes,
        })
    }
}

/// Tempering, resampling and threshold: the proposal's own rules, changed by what the user gave.
fn rules(args: &Sample, steps: usize) -> Result<Rules> {
    let guided = steps - (steps as f64 * args.tempering_start).floor() as usize;
    let own = args.proposal.rules(guided);
    let tempering = match (&args.tempering, args.gamma) {
        (Some(text), gamma) => Tempering::parse(text, gamma, guided)?,
        (None, Some(_)) if own.tempering == Tempering::None => Tempering::parse("none", args.gamma, guided)?,
        (None, Some(_)) => Tempering::parse("exp", args.gamma, guided)?,
        (None, None) => own.tempering,
    };
    let ess_threshold = args.ess_threshold.unwrap_or(own.ess_threshold);
    tempering.validate(ess_threshold)?;
    let resampler: Resampler = match &args.resample {
        Some(name) => name.parse()?,
        None => own.resampler,
    };
    Ok(Rules { tempering, resampler, ess_threshold })
}

fn finite(flag: &str, value: f64, lo: f64, hi: f64) -> Result<()> {
    if value.is_finite() && (lo..=hi).contains(&value) {
        return Ok(());
    }
    Err(Error::usage(format!("{flag} {value}: out of range")).fix(format!("give a number from {lo} to {hi}")))
}
