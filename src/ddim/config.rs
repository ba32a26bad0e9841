//! The noise schedule that a model was trained with and the rules of its chain, as plain data. Files are read
//! by `model::config`; [`Schedule`](super::Schedule) makes a chain of it.

use crate::error::{Error, Result};

/// A thousand times what models are trained with. Tables have this length before anything else is checked, so
/// a damaged number must not decide how large they are.
const MOST_TRAINING_STEPS: usize = 1_000_000;

/// What to do about a number that makes no schedule.
const CORRECT: &str = "correct this entry, or take the file from the model's own scheduler folder";

/// What the network's output means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The clean sample.
    Sample,
    /// `sqrt(abar) eps - sqrt(1 - abar) x0` (Salimans, Ho 2022).
    #[cfg_attr(feature = "cli", value(name = "v_prediction"))]
    VPrediction,
}

/// How beta grows over the training steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BetaSchedule {
    /// Linear.
    Linear,
    /// Linear in the square root.
    ScaledLinear,
    /// `abar(t) ~ cos^2`, beta at most 0.999 (Nichol, Dhariwal 2021).
    SquaredCosine,
}

/// Which training steps are visited (Lin et al. 2024, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Spacing {
    /// `k T/N + offset`, from the first training step on.
    Leading,
    /// `T - k T/N - 1`, from the last training step on.
    Trailing,
    /// From the first to the last training step, evenly.
    Linspace,
}

/// A chain in the place of the one that a model's files stand for: what a distillation is sampled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum Chain {
    /// A latent consistency model, by the defaults of diffusers' `LCMScheduler`: LCM-LoRA.
    Lcm,
    /// DDIM from the last training step on (`trailing`): Hyper-SD, SDXL-Lightning, SD-Turbo, SDXL-Turbo.
    DdimTrailing,
}

/// Which transition kernel the chain has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ChainKind {
    /// DDIM (docs/spec.md 2.1): variance `eta^2 sigma^2`, guidance strength 1.
    Ddim,
    /// Latent consistency model (docs/spec.md 6.2): jump to the clean sample and back to noise level `1 -
    /// abar'`; guidance strength `eta^2`.
    Lcm {
        /// Timesteps of the grid that the model was distilled on.
        original_steps: usize,
        /// Factor of `t` in the boundary conditions.
        scaling: f64,
    },
}

/// A noise schedule and the rules of its chain. Fields are named as in diffusers' `scheduler_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// The transition kernel.
    pub kind: ChainKind,
    /// Training steps, at least 1.
    pub num_train_timesteps: usize,
    /// Beta of the first training step, in (0, 1).
    pub beta_start: f64,
    /// Beta of the last training step, in [beta_start, 1).
    pub beta_end: f64,
    /// How beta grows between them.
    pub beta_schedule: BetaSchedule,
    /// Beta of every training step, in place of the three fields above.
    pub trained_betas: Option<Vec<f32>>,
    /// Clamps x0 to +- this; `None` leaves it as it is.
    pub clip_sample: Option<f64>,
    /// Whether alpha-bar after the last step is 1 rather than alpha-bar(0).
    pub set_alpha_to_one: bool,
    /// Added to every timestep of [`Spacing::Leading`].
    pub steps_offset: usize,
    /// What the network's output means.
    pub prediction_type: Prediction,
    /// Which training steps are visited.
    pub timestep_spacing: Spacing,
    /// Whether the betas are rescaled so that the last step has no signal (Lin et al. 2024, algorithm 1).
    pub rescale_betas_zero_snr: bool,
}

impl SchedulerConfig {
    /// The defaults of diffusers' `DDIMScheduler`: those of pixel models, which clip x0 to [-1, 1].
    pub fn ddim() -> SchedulerConfig {
        SchedulerConfig {
            kind: ChainKind::Ddim,
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            clip_sample: Some(1.0),
            set_alpha_to_one: true,
            steps_offset: 0,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: Spacing::Leading,
            rescale_betas_zero_snr: false,
        }
    }

    /// The defaults of diffusers' `LCMScheduler`.
    pub fn lcm() -> SchedulerConfig {
        SchedulerConfig {
            kind: ChainKind::Lcm { original_steps: 50, scaling: 10.0 },
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            clip_sample: None,
            ..SchedulerConfig::ddim()
        }
    }

    /// Stable Diffusion 1.5 and XL.
    pub fn stable_diffusion() -> SchedulerConfig {
        SchedulerConfig {
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            clip_sample: None,
            set_alpha_to_one: false,
            steps_offset: 1,
            ..SchedulerConfig::ddim()
        }
    }

    /// Whether these numbers make a schedule.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the field: a number out of its range, or betas
    /// whose alpha-bar is 0 or 1 where the formulas divide by it.
    pub fn check(&self) -> Result<()> {
        let n = self.num_train_timesteps;
        let wrong = |what: String| Err(Error::model(what).advice(CORRECT));
        if !(1..=MOST_TRAINING_STEPS).contains(&n) {
            return wrong(format!("num_train_timesteps is {n}, expected 1 to {MOST_TRAINING_STEPS}"));
        }
        if self.steps_offset >= n {
            let offset = self.steps_offset;
            return wrong(format!("steps_offset is {offset}, expected less than num_train_timesteps {n}"));
        }
        if let Some(range) = self.clip_sample.filter(|range| *range <= 0.0) {
            return wrong(format!("clip_sample_range is {range}, expected a number above 0"));
        }
        if let ChainKind::Lcm { original_steps, scaling } = self.kind {
            if !(1..=n).contains(&original_steps) {
                return wrong(format!("original_inference_steps is {original_steps}, expected 1 to {n}"));
            }
            // Its square times that of a timestep stays finite.
            if !(scaling > 0.0 && scaling <= 1e6) {
                return wrong(format!("timestep_scaling is {scaling}, expected above 0 and at most 1e6"));
            }
        }
        self.check_betas()
    }

    fn check_betas(&self) -> Result<()> {
        let (n, start, end) = (self.num_train_timesteps, self.beta_start, self.beta_end);
        let wrong = |what: String| Err(Error::model(what).advice(CORRECT));
        match &self.trained_betas {
            Some(betas) if betas.len() != n => {
                let len = betas.len();
                return wrong(format!("trained_betas has {len} entries, num_train_timesteps is {n}"));
            }
            Some(betas) => {
                if let Some(bad) = betas.iter().find(|b| !(0.0..1.0).contains(*b)) {
                    return wrong(format!("trained_betas has {bad}: betas lie in [0, 1)"));
                }
            }
            None if self.beta_schedule == BetaSchedule::SquaredCosine => {}
            None => {
                if !(0.0 < start && start <= end && end < 1.0) {
                    return wrong(format!(
                        "beta_start {start} and beta_end {end}, expected 0 < beta_start <= beta_end < 1"
                    ));
                }
            }
        }
        // The formulas divide by the signal and by the noise of a step. Only the last may be without signal.
        let table = self.alphas_cumprod();
        let divides = |t: usize| table[t] < 1.0 && (table[t] > 0.0 || (t + 1 == n && table[t] == 0.0));
        match (0..n).find(|t| !divides(*t)) {
            None => Ok(()),
            Some(t) => Err(Error::model(format!(
                "the betas make alpha-bar {} at training step {t} of {n}, expected between 0 and 1",
                table[t]
            ))
            .advice(
                "correct trained_betas, or beta_schedule, beta_start, beta_end and num_train_timesteps, or \
                 take the file from the model's own scheduler folder",
            )),
        }
    }

    fn betas(&self) -> Vec<f32> {
        let n = self.num_train_timesteps;
        if let Some(betas) = &self.trained_betas {
            return betas.clone();
        }
        match self.beta_schedule {
            BetaSchedule::Linear => linspace(self.beta_start as f32, self.beta_end as f32, n),
            BetaSchedule::ScaledLinear => {
                linspace(self.beta_start.sqrt() as f32, self.beta_end.sqrt() as f32, n)
                    .into_iter()
                    .map(|root| root * root)
                    .collect()
            }
            BetaSchedule::SquaredCosine => {
                let abar = |i: usize| {
                    ((i as f64 / n as f64 + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)
                };
                (0..n).map(|i| (1.0 - abar(i + 1) / abar(i)).min(0.999) as f32).collect()
            }
        }
    }

    /// Alpha-bar of every training step: the running product of `1 - beta` in f64, each rounded to f32.
    pub fn alphas_cumprod(&self) -> Vec<f32> {
        let mut alphas: Vec<f32> = self.betas().iter().map(|b| 1.0 - b).collect();
        if self.rescale_betas_zero_snr {
            alphas = zero_terminal_snr(&cumulative_product(&alphas));
        }
        cumulative_product(&alphas)
    }
}

/// torch.linspace in f32: counted from the nearer end, with a fused multiply-add.
fn linspace(start: f32, end: f32, n: usize) -> Vec<f32> {
    let step = (end - start) / (n.max(2) - 1) as f32;
    let from_start = |i: usize| step.mul_add(i as f32, start);
    let from_end = |i: usize| (-step).mul_add((n - 1 - i) as f32, end);
    (0..n).map(|i| if i < n / 2 || n == 1 { from_start(i) } else { from_end(i) }).collect()
}

fn cumulative_product(alphas: &[f32]) -> Vec<f32> {
    let product = alphas.iter().scan(1.0_f64, |product, &a| {
        *product *= f64::from(a);
        Some(*product as f32)
    });
    product.collect()
}

/// Shifts and scales sqrt(abar) so that the last is 0 and the first is kept (Lin et al. 2024, algorithm 1).
/// Returns the alphas, rounded through betas as diffusers does.
fn zero_terminal_snr(alphas_bar: &[f32]) -> Vec<f32> {
    let (first, last) = (alphas_bar[0].sqrt(), alphas_bar[alphas_bar.len() - 1].sqrt());
    let scale = first / (first - last);
    let bar: Vec<f32> = alphas_bar.iter().map(|a| ((a.sqrt() - last) * scale).powi(2)).collect();
    let ratio = |i: usize| if i == 0 { bar[0] } else { bar[i] / bar[i - 1] };
    (0..bar.len()).map(|i| 1.0 - (1.0 - ratio(i))).collect()
}
