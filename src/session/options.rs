//! How samples are drawn: everything that may differ from prompt to prompt while device, model and rewards
//! stay.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::method::{Das, Drift, Guidance, Method, Shift};
use crate::model::pipeline::{LongPrompts, Size};
use crate::sampler::{self, Candidates, Compat, OnNan};
use crate::smc::{Potentials, Resampler, Rules, Tempering};
use crate::target::{Gradient, Recompute};

/// Most particles per prompt: ancestors and file names are made for this many.
const MOST_PARTICLES: usize = 1 << 20;

/// Most candidates for each particle.
const MOST_CANDIDATES: f64 = 1024.0;

/// Numbers of prompts are below this: they key the noise.
const MOST_PROMPTS: u32 = 1 << 28;

/// Latent elements per network call where the micro-batch is left open: small latents together give the
/// processor's threads enough rows, and a latent of this size or more, whose activations take gigabytes, goes
/// alone.
const MICRO_BATCH_ELEMENTS: usize = 4096;

/// One thing to draw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prompt {
    /// What the image should show.
    pub text: String,
    /// What it should not: the other branch of classifier-free guidance. `None` is the model's own: the empty
    /// text, or for some models of XL no text at all.
    pub negative: Option<String>,
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Prompt {
        Prompt { text: text.into(), negative: None }
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Prompt {
        Prompt { text, negative: None }
    }
}

impl From<&Prompt> for Prompt {
    fn from(prompt: &Prompt) -> Prompt {
        prompt.clone()
    }
}

impl Prompt {
    /// The same with `text` as what the image should not show.
    #[must_use]
    pub fn negative(mut self, text: impl Into<String>) -> Prompt {
        self.negative = Some(text.into());
        self
    }
}

/// Which activations are computed again in the backward pass instead of being kept: less memory, more time,
/// the same bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum Checkpointing {
    /// None
    #[default]
    Off,
    /// The widest of the UNet's, inside the feed-forward parts of its transformers: little more time
    FeedForward,
    /// These, and queries, keys and values of the attention in them: a little more time again
    Projections,
    /// All inside the blocks of UNet and decoder: a third more time
    On,
    /// The least that lets the predicted peak fit into the memory that is free
    Auto,
}

/// Which settings the options begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum Preset {
    /// What suits the model
    #[default]
    Model,
    /// The paper's: 100 steps, 16 particles, its alpha, resampling below half of them, no bound on the shift
    Paper,
    /// Those of the authors' program: 100 steps, 4 particles, its alphas (0.005 for aesthetic), otherwise as
    /// the paper. Its bookkeeping is another option (compat); for LCM see docs/spec.md 13
    Reference,
}

/// Where the candidates are thinned if nothing else is said: by then the picture is mostly decided
/// (docs/what-was-tried.md).
const THIN_AT: f64 = 0.3;

/// How `das` resamples and is guided where the model has settings of its own. The reward then counts in full
/// from the first step, unless another tempering is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tuned {
    pub ess_threshold: f64,
    pub max_shift: f64,
    pub gradient: Gradient,
    pub gradient_every: usize,
}

/// What each method has its own of, where it was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct OfMethod {
    /// For each particle.
    pub(super) candidates: Option<f64>,
    pub(super) thin_at: Option<f64>,
    pub(super) tempering: Option<Tempering>,
    pub(super) resampler: Option<Resampler>,
    pub(super) ess_threshold: Option<f64>,
    pub(super) max_shift: Option<f64>,
    pub(super) gradient: Option<Gradient>,
    pub(super) gradient_every: Option<usize>,
    pub(super) potential: Option<Potentials>,
    pub(super) weigh_every: Option<usize>,
    pub(super) duplicates: Option<usize>,
    pub(super) guidance_strength: Option<f64>,
    pub(super) guidance_window: Option<(f64, f64)>,
    pub(super) time_travel: Option<u32>,
    pub(super) tempering_start: Option<f64>,
}

/// How samples are drawn. [`Session::defaults`](super::Session::defaults) are those that suit the model.
///
/// ```
/// use das_cuda::SampleOptions;
///
/// let options = SampleOptions::new().particles(8).steps(20).alpha(0.1).seed(7);
/// assert!(options.check().is_ok());
/// assert_eq!(SampleOptions::new().particles(0).check().unwrap_err().option_name(), Some("particles"));
/// assert!(SampleOptions::new().tempering_start(1.5).check().is_err());
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SampleOptions {
    pub(super) seed: u64,
    pub(super) first_index: u32,
    pub(super) width: Option<usize>,
    pub(super) height: Option<usize>,
    pub(super) steps: usize,
    pub(super) eta: f64,
    pub(super) cfg_scale: f64,
    pub(super) long_prompts: LongPrompts,
    pub(super) latents: Option<Arc<[f32]>>,
    pub(super) alpha: Option<f64>,
    /// What suits the model's reward.
    pub(super) suited_alpha: Option<f64>,
    pub(super) method: &'static dyn Method,
    pub(super) of_method: OfMethod,
    pub(super) particles: usize,
    pub(super) populations: usize,
    /// Chains that run, once it is known.
    pub(super) chains: Option<usize>,
    /// For the method `das`, where nothing else was asked for.
    pub(super) tuned: Option<Tuned>,
    pub(super) on_nan: OnNan,
    pub(super) compat: Compat,
    pub(super) micro_batch: Option<usize>,
    pub(super) checkpointing: Checkpointing,
}

impl Default for SampleOptions {
    fn default() -> SampleOptions {
        SampleOptions::new()
    }
}

macro_rules! setters {
    ($($(#[doc = $doc:literal])+ $name:ident $(in $part:ident)?: $type:ty => $value:expr;)+) => {
        $($(#[doc = $doc])+
        pub fn $name(mut self, $name: $type) -> SampleOptions {
            self.$($part.)?$name = $value;
            self
        })+
    };
}

impl SampleOptions {
    /// The authors' settings for Stable Diffusion (docs/spec.md 13): DAS with four particles in 100 steps,
    /// guidance 5, seed 42.
    pub fn new() -> SampleOptions {
        SampleOptions {
            seed: 42,
            first_index: 0,
            width: None,
            height: None,
            steps: 100,
            eta: 1.0,
            cfg_scale: 5.0,
            long_prompts: LongPrompts::Cut,
            latents: None,
            alpha: None,
            suited_alpha: None,
            method: &Das,
            of_method: OfMethod::default(),
            particles: 4,
            populations: 1,
            chains: None,
            tuned: None,
            on_nan: OnNan::Drop,
            compat: Compat::Paper,
            micro_batch: None,
            checkpointing: Checkpointing::Off,
        }
    }

    setters! {
        /// Keys all randomness, resampling included.
        seed: u64 => seed;
        /// Number of the first prompt, which keys its noise: any prompt of a list can be drawn alone. Below
        /// 2^28.
        first_index: u32 => first_index;
        /// Image width in pixels; else the model's own.
        width: usize => Some(width);
        /// Image height in pixels; else the model's own.
        height: usize => Some(height);
        /// Denoising steps, at least 1.
        steps: usize => steps;
        /// Noise of each step, in [0, 1]: 1 is the full DDIM variance. Alignment needs more than 0.
        eta: f64 => eta;
        /// Classifier-free guidance scale; 1 or less turns guidance off.
        cfg_scale: f64 => cfg_scale;
        /// Strength of the prior, alpha in `p(x) exp(r(x) / alpha)`; else the method's own, if it has one, or
        /// the reward's.
        alpha: f64 => Some(alpha);
        /// How particles are proposed and weighted.
        method: &'static dyn Method => method;
        /// Particles per prompt and population, at least 1.
        particles: usize => particles;
        /// Unguided particles to begin with, for each particle that goes on ([`Candidates`]): at least 1,
        /// which is none but the particles.
        candidates in of_method: f64 => Some(candidates);
        /// Fraction of the steps before the candidates are thinned, in [0, 1).
        thin_at in of_method: f64 => Some(thin_at);
        /// Independent populations of each prompt, one after another, at least 1. Together they tell log Z
        /// and its error from how they scatter ([`combine`](super::combine)); the first is what a run without
        /// others draws.
        populations: usize => populations;
        /// How the reward is switched on along the chain; else the method's own way.
        tempering in of_method: Tempering => Some(tempering);
        /// How ancestors are drawn; else the method's own way.
        resampler in of_method: Resampler => Some(resampler);
        /// Resample when the effective sample size falls below this fraction of the particles; else the
        /// method's own.
        ess_threshold in of_method: f64 => Some(ess_threshold);
        /// Bound on the guided shift of a move, in standard deviations of its noise, above 0; infinite for
        /// none; else the method's own.
        max_shift in of_method: f64 => Some(max_shift);
        /// Which gradient of the reward guides the particles; else the method's own.
        gradient in of_method: Gradient => Some(gradient);
        /// Guided steps from one gradient to the next, at least 1: between them a particle is guided by the
        /// gradient that it has, and is neither weighed nor resampled; else the method's own.
        gradient_every in of_method: usize => Some(gradient_every);
        /// Which potentials weigh the particles along the chain; else the method's own.
        potential in of_method: Potentials => Some(potential);
        /// Steps from one event to the next, at least 1, of a method that weighs without gradients; else the
        /// method's own.
        weigh_every in of_method: usize => Some(weigh_every);
        /// Next states that are drawn for each particle at every step, at least 1, by a method that chooses
        /// among them; else the method's own.
        duplicates in of_method: usize => Some(duplicates);
        /// How far the reward's gradient shifts a particle, above 0, for the methods whose shift is not
        /// weighed and in the units of the method; else the method's own.
        guidance_strength in of_method: f64 => Some(guidance_strength);
        /// Fractions of the steps, in [0, 1], between which these methods shift; else the method's own.
        guidance_window in of_method: (f64, f64) => Some(guidance_window);
        /// How often they take each step of their time travel, at least 1, for none; else the method's own.
        time_travel in of_method: u32 => Some(time_travel);
        /// Fraction of the steps before any reward is computed, in [0, 1); else the method's own.
        tempering_start in of_method: f64 => Some(tempering_start);
        /// What to do about values that are not finite.
        on_nan: OnNan => on_nan;
        /// Whose bookkeeping after a resampling.
        compat: Compat => compat;
        /// What is done with texts that are longer than a text encoder reads.
        long_prompts: LongPrompts => long_prompts;
        /// Particles per network call, at least 1; else decided by size and memory. Changes memory and speed,
        /// and results by no more than rounding.
        micro_batch: usize => Some(micro_batch);
        /// Whether activations are computed again instead of being kept.
        checkpointing: Checkpointing => checkpointing;
    }

    /// The same from the particles alone.
    pub fn without_candidates(self) -> SampleOptions {
        let of_method = OfMethod { candidates: Some(1.0), thin_at: None, ..self.of_method };
        SampleOptions { of_method, ..self }
    }

    /// Starts from these latents, `(particles, h, w, c)` in this order, instead of from noise; the same for
    /// every prompt. One for each candidate where [`candidates`](SampleOptions::candidates) are asked for;
    /// else there are none.
    pub fn latents(mut self, latents: Vec<f32>) -> SampleOptions {
        self.latents = Some(latents.into());
        self
    }

    /// Plain chains of best-of-n, instead of as many as cost what the particles would with guidance.
    pub fn chain_count(self, chains: usize) -> SampleOptions {
        SampleOptions { chains: Some(chains), ..self }
    }

    /// Denoising steps.
    pub fn step_count(&self) -> usize {
        self.steps
    }

    /// Steps whose states are weighed by rewards, if the method weighs.
    pub fn guided_steps(&self) -> usize {
        self.steps.saturating_sub((self.steps as f64 * self.starts_at()).floor() as usize)
    }

    /// Particles per prompt and population, as asked for.
    pub fn particle_count(&self) -> usize {
        self.particles
    }

    /// The same by another method, with that method's own settings.
    pub(super) fn by_method(self, method: &'static dyn Method) -> SampleOptions {
        SampleOptions { method, of_method: OfMethod::default(), ..self }
    }

    /// Alpha as it was given, is the method's own or suits the model; `None`: the reward's own holds.
    pub fn alpha_choice(&self) -> Option<f64> {
        self.alpha.or(self.method.alpha()).or(self.suited_alpha)
    }

    /// Next states that are drawn for each particle, if the method chooses among them.
    pub fn duplicate_count(&self) -> usize {
        self.of_method.duplicates.or(self.method.duplicates()).unwrap_or(1)
    }

    /// Populations of each prompt.
    pub fn population_count(&self) -> usize {
        self.populations
    }

    /// Chains of a population: one per particle, or once [`Session::settle`](super::Session::settle) knows it
    /// as many as cost the same.
    pub fn chains(&self) -> usize {
        self.chains.unwrap_or(self.particles)
    }

    /// Chains of each prompt at the start of the run.
    pub fn first_chains(&self) -> usize {
        self.candidates_in_all().map_or(self.chains(), |candidates| candidates.count)
    }

    /// Evaluations of the UNet for each prompt and branch, and how many of them are differentiated.
    pub(super) fn evaluations(&self) -> (usize, usize) {
        let early = match self.candidates_in_all() {
            Some(candidates) => candidates.step(self.steps) + 1,
            None => 0,
        };
        let later = self.steps.saturating_sub(early);
        let through_unet = self.differentiates() && self.gradient_path() == Gradient::State;
        let guidance = self.guidance();
        let passes = |k: usize| self.method.passes(&guidance, k, self.steps) as usize;
        let guided = match self.method.shifts() {
            true => (0..self.steps).filter(|&k| guidance.guides(k, self.steps)).map(passes).sum(),
            false => self.guided_steps().min(later).div_ceil(self.gradient_steps().max(1)),
        };
        let guided = guided * usize::from(through_unet);
        // The first state is evaluated alone, all others as several that are chosen among.
        let later = if self.method.chooses() && self.duplicate_count() > 1 {
            1 + later.saturating_sub(1) * self.duplicate_count()
        } else {
            (self.steps - later..self.steps).map(passes).sum()
        };
        (self.first_chains() * early.min(self.steps) + self.chains() * later, self.chains() * guided)
    }

    /// The settings of the model for this method.
    fn own_settings(&self) -> Option<Tuned> {
        let das: &dyn Method = &Das;
        self.tuned.filter(|_| self.method == das)
    }

    /// The same, as far as they are about weights: another tempering may need the threshold.
    fn own_weighing(&self) -> Option<Tuned> {
        self.own_settings().filter(|_| self.of_method.tempering.is_none())
    }

    /// Candidates per particle, 1 for none.
    pub fn candidates_per_particle(&self) -> f64 {
        self.of_method.candidates.unwrap_or(1.0)
    }

    /// Which gradient guides the particles, if the method is guided by any.
    pub fn gradient_path(&self) -> Gradient {
        match self.method.drift() {
            Drift::Shift(Shift::Clean) => return Gradient::Clean,
            Drift::Shift(_) => return Gradient::State,
            Drift::None | Drift::Gradient => (),
        }
        self.of_method.gradient.or(self.own_settings().map(|tuned| tuned.gradient)).unwrap_or_default()
    }

    /// Guided steps from one gradient to the next.
    pub fn gradient_steps(&self) -> usize {
        let own = self.own_settings().filter(|_| self.compat == Compat::Paper);
        self.of_method.gradient_every.or(own.map(|tuned| tuned.gradient_every)).unwrap_or(1)
    }

    /// Fraction of the steps before any reward is computed.
    pub fn starts_at(&self) -> f64 {
        self.of_method.tempering_start.unwrap_or(match self.candidates_in_all() {
            Some(_) => 0.0,
            None => self.method.start(),
        })
    }

    /// Steps from one event to the next, if the method weighs without gradients.
    pub fn weighing_steps(&self) -> usize {
        self.of_method.weigh_every.unwrap_or(self.method.weigh_every(self.steps))
    }

    /// How far and when the method shifts particles, if it does and does not weigh it.
    pub fn guidance(&self) -> Guidance {
        let own = self.method.guidance();
        Guidance {
            strength: self.of_method.guidance_strength.unwrap_or(own.strength),
            window: self.of_method.guidance_window.unwrap_or(own.window),
            passes: self.of_method.time_travel.unwrap_or(own.passes),
            travel: own.travel,
        }
    }

    /// Fraction of the steps before the candidates are thinned.
    pub fn thinned_at(&self) -> f64 {
        self.of_method.thin_at.unwrap_or(THIN_AT)
    }

    fn candidates_in_all(&self) -> Option<Candidates> {
        let factor = self.candidates_per_particle();
        let count = (self.chains() as f64 * factor).round() as usize;
        (factor != 1.0).then_some(Candidates { count, until: self.thinned_at() })
    }

    /// Which activations will be computed again, as far as that is settled.
    pub fn recompute(&self) -> Recompute {
        match self.checkpointing {
            Checkpointing::Off | Checkpointing::Auto => Recompute::Nothing,
            Checkpointing::FeedForward => Recompute::FeedForward,
            Checkpointing::Projections => Recompute::Projections,
            Checkpointing::On => Recompute::Blocks,
        }
    }

    /// The same, as it is asked for: never [`Checkpointing::Auto`].
    pub fn checkpointing_settled(&self) -> Checkpointing {
        match self.recompute() {
            Recompute::Nothing => Checkpointing::Off,
            Recompute::FeedForward => Checkpointing::FeedForward,
            Recompute::Projections => Checkpointing::Projections,
            Recompute::Blocks => Checkpointing::On,
        }
    }

    /// Tempering, resampling and threshold: the method's own, changed by what was given.
    pub fn rules(&self) -> Rules {
        let own = self.method.rules(self.guided_steps());
        let tuned = self.own_settings();
        let own_threshold = self.own_weighing().map_or(own.ess_threshold, |tuned| tuned.ess_threshold);
        let full = self.candidates_in_all().is_some() || self.own_weighing().is_some();
        let tempering = if full { Tempering::None } else { own.tempering };
        Rules {
            tempering: self.of_method.tempering.unwrap_or(tempering),
            resampler: self.of_method.resampler.unwrap_or(own.resampler),
            ess_threshold: self.of_method.ess_threshold.unwrap_or(own_threshold),
            max_shift: match self.of_method.max_shift.or(tuned.map(|tuned| tuned.max_shift)) {
                Some(most) => Some(most).filter(|most| most.is_finite()),
                None => own.max_shift,
            },
            potentials: self.of_method.potential.unwrap_or(own.potentials),
        }
    }

    /// Particles per network call, for images of `size`.
    pub(super) fn micro_batch_for(&self, size: Size) -> usize {
        let open = MICRO_BATCH_ELEMENTS / size.latent.len();
        self.micro_batch.unwrap_or(open).clamp(1, self.first_chains().max(1))
    }

    /// What the sampler is told, for prompts of these numbers.
    pub(super) fn sampler(&self, prompts: Vec<u32>, alpha: f64) -> sampler::Options {
        // Without `..`: an option that is forgotten does not compile.
        sampler::Options {
            seed: self.seed,
            prompts,
            particles: self.chains(),
            candidates: self.candidates_in_all(),
            alpha,
            method: self.method,
            rules: self.rules(),
            gradient_every: self.gradient_steps(),
            weigh_every: self.weighing_steps(),
            duplicates: self.duplicate_count(),
            guidance: self.guidance(),
            tempering_start: self.starts_at(),
            on_nan: self.on_nan,
            compat: self.compat,
        }
    }

    /// Refuses what cannot work with any model. Whatever begins with these options checks them by itself;
    /// this finds mistakes before a model is loaded.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming the option.
    pub fn check(&self) -> Result<()> {
        crate::ddim::check(self.steps, self.eta)?;
        if self.particles > MOST_PARTICLES {
            return Err(Error::usage(format!(
                "`particles` {} is more than {MOST_PARTICLES}",
                self.particles
            ))
            .option("particles")
            .advice("run several seeds instead"));
        }
        let factor = self.candidates_per_particle();
        if !(1.0..=MOST_CANDIDATES).contains(&factor) {
            return Err(Error::usage(format!("`candidates` {factor} is out of range"))
                .option("candidates")
                .advice(format!(
                    "give `candidates` a number from 1 to {MOST_CANDIDATES}: so many for each particle"
                )));
        }
        if self.first_chains() > MOST_PARTICLES {
            let first = self.first_chains();
            return Err(Error::usage(format!("{first} candidates are more than {MOST_PARTICLES}"))
                .option("candidates")
                .advice("give `candidates` or `particles` a smaller number"));
        }
        if factor != 1.0 && self.starts_at() > 0.0 && self.starts_at() <= self.thinned_at() {
            return Err(Error::usage(format!(
                "`tempering_start` {} is not after the candidates are thinned, at {}",
                self.starts_at(),
                self.thinned_at()
            ))
            .option("tempering_start")
            .advice("leave it out, as guidance begins after the thinning, or give a larger number"));
        }
        if factor == 1.0 && self.of_method.thin_at.is_some() {
            return Err(Error::usage("`thin_at` says when candidates are thinned, and there are none")
                .option("thin_at")
                .advice("give `candidates` a number above 1, or leave out `thin_at`"));
        }
        self.check_populations()?;
        in_range("cfg_scale", self.cfg_scale, 1e4)?;
        in_range("ess_threshold", self.of_method.ess_threshold.unwrap_or_default(), 1.0)?;
        if let Some(most) = self.of_method.max_shift.filter(|most| most.is_nan() || *most <= 0.0) {
            let why = if most.is_nan() { "is no number" } else { "leaves no guidance" };
            return Err(Error::usage(format!("`max_shift` {most} {why}"))
                .option("max_shift")
                .advice("give `max_shift` a number above 0, such as 1, or use `method` bootstrap"));
        }
        if self.micro_batch == Some(0) {
            return Err(Error::usage("`micro_batch` 0 would compute nothing")
                .option("micro_batch")
                .advice("give `micro_batch` at least 1"));
        }
        if self.first_index >= MOST_PROMPTS {
            let index = self.first_index;
            return Err(Error::usage(format!("`first_index` {index} is not below {MOST_PROMPTS}"))
                .option("first_index")
                .advice("give `first_index` a smaller number"));
        }
        self.sampler(vec![self.first_index], self.alpha.unwrap_or(1.0)).check()
    }
}

impl SampleOptions {
    /// Refuses no populations, too many, and several that would begin alike.
    fn check_populations(&self) -> Result<()> {
        let populations = self.populations;
        if populations == 0 {
            return Err(Error::usage("`populations` 0: nothing to draw")
                .option("populations")
                .advice("give `populations` at least 1"));
        }
        if populations.checked_mul(self.chains()).is_none_or(|all| all > MOST_PARTICLES) {
            let chains = self.chains();
            return Err(Error::usage(format!(
                "{populations} populations of {chains} particles are more than {MOST_PARTICLES} particles"
            ))
            .option("populations")
            .advice("give `populations` or `particles` a smaller number"));
        }
        if populations > 1 && self.latents.is_some() {
            return Err(Error::usage(format!(
                "{populations} populations that begin with the same latents are not independent"
            ))
            .option("latents")
            .advice("leave out `latents`, or draw one population"));
        }
        Ok(())
    }

    /// Refuses no prompts, too many, and a negative prompt where the guidance that would read it is turned
    /// off.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming the option.
    pub fn check_prompts(&self, prompts: &[Prompt]) -> Result<()> {
        if prompts.is_empty() {
            return Err(Error::usage("no prompt").option("prompt").advice("say what to draw with `prompt`"));
        }
        if prompts.len() > (MOST_PROMPTS - self.first_index.min(MOST_PROMPTS)) as usize {
            let (count, index) = (prompts.len(), self.first_index);
            return Err(Error::usage(format!(
                "{count} prompts from index {index} are more than {MOST_PROMPTS}"
            ))
            .option("first_index")
            .advice("give `first_index` a smaller number, or draw the prompts in parts"));
        }
        if self.cfg_scale > 1.0 {
            return Ok(());
        }
        let why = format!("`cfg_scale` {}, which runs without guidance", self.cfg_scale);
        no_negative(prompts, &why, "leave out the negative prompt, or give `cfg_scale` above 1")
    }
}

/// Refuses negative prompts where nothing reads them, because of `why`.
pub(super) fn no_negative(prompts: &[Prompt], why: &str, advice: &str) -> Result<()> {
    let mut negatives = prompts.iter().filter_map(|p| p.negative.as_deref());
    let Some(negative) = negatives.find(|negative| !negative.is_empty()) else { return Ok(()) };
    let short: String = negative.chars().take(40).collect();
    Err(Error::usage(format!("the negative prompt \"{short}\" has no meaning with {why}"))
        .option("negative_prompt")
        .advice(advice))
}

/// Refuses a number outside of [0, `most`].
fn in_range(option: &'static str, value: f64, most: f64) -> Result<()> {
    if (0.0..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::usage(format!("`{option}` {value} is out of range"))
        .option(option)
        .advice(format!("give `{option}` a number from 0 to {most}")))
}
