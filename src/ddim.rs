//! The chain: from a checkpoint's scheduler_config.json to the timesteps and, for each of them, three affine
//! maps and a variance. Whatever sampler the file names, its noise schedule is run as DDIM (Song, Meng, Ermon
//! 2021), as the reference does by converting it; a file that names LCM is run as a latent consistency model
//! (docs/spec.md 2.1, 6.2).
//!
//! ```text
//! x0   = x0.0 x + x0.1 out            out: what the network predicts
//! eps  = eps.0 x + eps.1 out
//! x'   = mean.0 x0 + mean.1 eps + kappa v g + sqrt(v) z
//! ```
//!
//! Tables are rounded to f32 as diffusers rounds them; everything after that is f64.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// A thousand times what models are trained with. The tables are made before anything else is looked at, so a damaged
/// number must not decide how large they are.
const MOST_TRAINING_STEPS: usize = 1_000_000;

/// What to do about an entry of the file.
const CORRECT: &str = "correct this entry, or take the file from the model's own scheduler folder";

/// What the network's output means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The clean sample.
    Sample,
    /// `sqrt(abar) eps - sqrt(1 - abar) x0` (Salimans, Ho 2022).
    VPrediction,
}

/// How beta grows over the training steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    Linear,
    /// Linear in the square root.
    ScaledLinear,
    /// `abar(t) ~ cos^2`, beta at most 0.999 (Nichol, Dhariwal 2021).
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
}

/// Which training steps are visited (Lin et al. 2024, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    Leading,
    Trailing,
    Linspace,
}

/// Which transition kernel the chain has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// Variance `eta^2 sigma^2`, guidance strength 1.
    Ddim,
    /// Consistency model: jump to the clean sample and back to noise level `1 - abar'`; guidance strength `eta^2`.
    /// `original_steps` is the grid of its distillation, `scaling` multiplies t in the boundary conditions.
    Lcm { original_steps: usize, scaling: f64 },
}

/// A noise schedule as its file gives it, missing entries filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerConfig {
    /// `_class_name`, for messages.
    pub class: String,
    pub method: Method,
    pub num_train_timesteps: usize,
    pub beta_start: f64,
    pub beta_end: f64,
    pub beta_schedule: BetaSchedule,
    /// Overrides the beta schedule.
    pub trained_betas: Option<Vec<f32>>,
    /// Clamps x0 to +- this.
    pub clip_sample: Option<f64>,
    /// Whether alpha-bar after the last step is 1 rather than alpha-bar(0).
    pub set_alpha_to_one: bool,
    pub steps_offset: usize,
    pub prediction_type: Prediction,
    pub timestep_spacing: Spacing,
    pub rescale_betas_zero_snr: bool,
}

/// The file, as far as it matters here. Unknown entries are ignored; `null` counts as missing.
#[derive(Deserialize)]
struct File {
    #[serde(rename = "_class_name")]
    class: Option<String>,
    num_train_timesteps: Option<usize>,
    beta_start: Option<f64>,
    beta_end: Option<f64>,
    beta_schedule: Option<BetaSchedule>,
    trained_betas: Option<Vec<f32>>,
    clip_sample: Option<bool>,
    clip_sample_range: Option<f64>,
    set_alpha_to_one: Option<bool>,
    steps_offset: Option<usize>,
    prediction_type: Option<Prediction>,
    thresholding: Option<bool>,
    timestep_spacing: Option<Spacing>,
    rescale_betas_zero_snr: Option<bool>,
    original_inference_steps: Option<usize>,
    timestep_scaling: Option<f64>,
}

impl SchedulerConfig {
    /// Stable Diffusion 1.5 and XL.
    pub fn stable_diffusion() -> SchedulerConfig {
        SchedulerConfig {
            class: "DDIMScheduler".into(),
            method: Method::Ddim,
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            trained_betas: None,
            clip_sample: None,
            set_alpha_to_one: false,
            steps_offset: 1,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: Spacing::Leading,
            rescale_betas_zero_snr: false,
        }
    }

    /// Reads `scheduler_config.json`. Errors name the file.
    pub fn read(path: &Path) -> Result<SchedulerConfig> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::model(format!("{}: cannot be read", path.display()))
                .because(e)
                .fix("fetch the file scheduler/scheduler_config.json of the model")
        })?;
        SchedulerConfig::from_json(&text).map_err(|e| e.context(path.display()))
    }

    /// Parses the text of a `scheduler_config.json`. Missing entries get the defaults of diffusers' DDIMScheduler (of
    /// LCMScheduler where the file names that), with one exception: clipping x0 to [-1, 1] is DDIM's and DDPM's own
    /// default for pixels and is not put upon a file that names another class, which would ruin latents.
    ///
    /// Errors: JSON that does not parse, an unknown beta schedule, prediction type or spacing, dynamic thresholding,
    /// flow matching, numbers that make no schedule.
    pub fn from_json(text: &str) -> Result<SchedulerConfig> {
        let file: File = serde_json::from_str(text).map_err(|e| {
            Error::model("not a scheduler configuration this program knows").because(e).fix(CORRECT)
        })?;
        let class = file.class.unwrap_or_else(|| "DDIMScheduler".into());
        if class.contains("FlowMatch") {
            return Err(Error::model(format!("{class}: flow matching models are not supported"))
                .fix("use a Stable Diffusion 1.x, 2.x, XL or LCM checkpoint"));
        }
        if file.thresholding == Some(true) {
            return Err(Error::model("`thresholding` (dynamic thresholding) is not supported")
                .fix("it is for pixel models; set it to false in this file"));
        }
        let lcm = class.starts_with("LCM");
        let clips = matches!(class.as_str(), "DDIMScheduler" | "DDPMScheduler");
        let method = if lcm {
            Method::Lcm {
                original_steps: file.original_inference_steps.unwrap_or(50),
                scaling: file.timestep_scaling.unwrap_or(10.0),
            }
        } else {
            Method::Ddim
        };
        let config = SchedulerConfig {
            method,
            num_train_timesteps: file.num_train_timesteps.unwrap_or(1000),
            beta_start: file.beta_start.unwrap_or(if lcm { 0.00085 } else { 0.0001 }),
            beta_end: file.beta_end.unwrap_or(if lcm { 0.012 } else { 0.02 }),
            beta_schedule: file.beta_schedule.unwrap_or(if lcm {
                BetaSchedule::ScaledLinear
            } else {
                BetaSchedule::Linear
            }),
            trained_betas: file.trained_betas,
            clip_sample: file.clip_sample.unwrap_or(clips).then_some(file.clip_sample_range.unwrap_or(1.0)),
            set_alpha_to_one: file.set_alpha_to_one.unwrap_or(true),
            steps_offset: file.steps_offset.unwrap_or(0),
            prediction_type: file.prediction_type.unwrap_or(Prediction::Epsilon),
            timestep_spacing: file.timestep_spacing.unwrap_or(Spacing::Leading),
            rescale_betas_zero_snr: file.rescale_betas_zero_snr.unwrap_or(false),
            class,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<()> {
        let n = self.num_train_timesteps;
        let wrong = |what: String| Err(Error::model(what).fix(CORRECT));
        if !(1..=MOST_TRAINING_STEPS).contains(&n) {
            return wrong(format!("`num_train_timesteps` is {n}, expected 1 to {MOST_TRAINING_STEPS}"));
        }
        if self.steps_offset >= n {
            let offset = self.steps_offset;
            return wrong(format!(
                "`steps_offset` is {offset}, expected less than `num_train_timesteps` {n}"
            ));
        }
        if let Some(range) = self.clip_sample.filter(|range| *range <= 0.0) {
            return wrong(format!("`clip_sample_range` is {range}, expected a number above 0"));
        }
        if let Method::Lcm { original_steps, scaling } = self.method {
            if self.clip_sample.is_some() {
                return Err(Error::model("`clip_sample` is not supported for consistency models")
                    .fix("set it to false in this file"));
            }
            if !(1..=n).contains(&original_steps) {
                return wrong(format!("`original_inference_steps` is {original_steps}, expected 1 to {n}"));
            }
            // Its square times that of a timestep stays finite.
            if !(scaling > 0.0 && scaling <= 1e6) {
                return wrong(format!("`timestep_scaling` is {scaling}, expected above 0 and at most 1e6"));
            }
        }
        self.check_betas()
    }

    fn check_betas(&self) -> Result<()> {
        let (n, start, end) = (self.num_train_timesteps, self.beta_start, self.beta_end);
        let wrong = |what: String| Err(Error::model(what).fix(CORRECT));
        match &self.trained_betas {
            Some(betas) if betas.len() != n => {
                let len = betas.len();
                return wrong(format!("`trained_betas` has {len} entries, `num_train_timesteps` is {n}"));
            }
            Some(betas) => {
                if let Some(bad) = betas.iter().find(|b| !(0.0..1.0).contains(*b)) {
                    return wrong(format!("`trained_betas` has {bad}: betas lie in [0, 1)"));
                }
            }
            None if self.beta_schedule == BetaSchedule::SquaredCosine => {}
            None => {
                if !(0.0 < start && start <= end && end < 1.0) {
                    return wrong(format!(
                        "`beta_start` {start} and `beta_end` {end}, expected 0 < beta_start <= beta_end < 1"
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
            .fix(
                "correct `trained_betas`, or `beta_schedule`, `beta_start`, `beta_end` and `num_train_timesteps`, or \
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

/// Shifts and scales sqrt(abar) so that the last is 0 and the first is kept (Lin et al. 2024, algorithm 1). Returns
/// the alphas, rounded through betas as diffusers does.
fn zero_terminal_snr(alphas_bar: &[f32]) -> Vec<f32> {
    let (first, last) = (alphas_bar[0].sqrt(), alphas_bar[alphas_bar.len() - 1].sqrt());
    let scale = first / (first - last);
    let bar: Vec<f32> = alphas_bar.iter().map(|a| ((a.sqrt() - last) * scale).powi(2)).collect();
    let ratio = |i: usize| if i == 0 { bar[0] } else { bar[i] / bar[i - 1] };
    (0..bar.len()).map(|i| 1.0 - (1.0 - ratio(i))).collect()
}

/// `first * a + second * b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    pub first: f64,
    pub second: f64,
}

impl Affine {
    pub const fn new(first: f64, second: f64) -> Affine {
        Affine { first, second }
    }
    pub fn apply(self, a: f64, b: f64) -> f64 {
        self.first * a + self.second * b
    }
}

/// One transition of the chain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Training step the network is told.
    pub t: i64,
    /// Training step reached; negative means the final alpha-bar.
    pub t_prev: i64,
    /// Alpha-bar at `t`.
    pub alpha_bar: f64,
    /// Alpha-bar at `t_prev`.
    pub alpha_bar_prev: f64,
    /// Variance v of the transition: `eta^2 sigma^2` for DDIM, `1 - alpha_bar_prev` for LCM. 0: no noise, no shift.
    pub variance: f64,
    /// Guidance strength kappa: the mean is shifted by `kappa v g`.
    pub kappa: f64,
    /// Clean sample from `(x, out)`; for LCM with the boundary conditions.
    pub x0: Affine,
    /// Noise from `(x, out)`.
    pub eps: Affine,
    /// Mean of the next state from `(x0, eps)`.
    pub mean: Affine,
    /// x0 is clamped to +- this before the mean; eps is not derived again.
    pub clip: Option<f64>,
}

impl Step {
    /// The transition on one element: `(x0, x')` for state `x`, output `out`, guidance `g` and noise `z`.
    pub fn apply(&self, x: f64, out: f64, g: f64, z: f64) -> (f64, f64) {
        let x0 = self.x0.apply(x, out);
        let x0 = self.clip.map_or(x0, |range| x0.clamp(-range, range));
        let mean = self.mean.apply(x0, self.eps.apply(x, out));
        (x0, mean + self.kappa * self.variance * g + self.variance.sqrt() * z)
    }

    /// [`log_ratio`] of this step.
    pub fn log_ratio(&self, g_dot_g: f64, g_dot_z: f64) -> f64 {
        log_ratio(self.variance, self.kappa, g_dot_g, g_dot_z)
    }
}

/// `log p - log m` of a move `x' = mean + kappa v g + sqrt(v) z` from prior `p = N(mean, v I)` by proposal
/// `m = N(mean + kappa v g, v I)`: `-1/2 kappa^2 v |g|^2 - kappa sqrt(v) <g, z>` (docs/spec.md 1.4), 0
/// without noise. `g` is the tempered gradient, `lambda_next` included.
pub fn log_ratio(v: f64, kappa: f64, g_dot_g: f64, g_dot_z: f64) -> f64 {
    if v == 0.0 { 0.0 } else { -0.5 * kappa * kappa * v * g_dot_g - kappa * v.sqrt() * g_dot_z }
}

/// All transitions of a run, first to last.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    pub steps: Vec<Step>,
    pub method: Method,
    pub prediction: Prediction,
}

impl Schedule {
    /// The chain of `steps` transitions with noise `eta` in [0, 1] (DDIM: 0 deterministic, 1 as DDPM; LCM: guidance
    /// strength `eta^2`). Timesteps, their rounding and `t_prev = t - num_train / steps` are diffusers' own.
    ///
    /// Errors: no steps, more than the training or distillation steps, an offset past the table, eta outside [0, 1],
    /// noise prediction where alpha-bar is 0.
    pub fn new(config: &SchedulerConfig, steps: usize, eta: f64) -> Result<Schedule> {
        if steps == 0 {
            return Err(Error::usage("a chain needs at least one step").fix("give --steps a positive number"));
        }
        if !(0.0..=1.0).contains(&eta) {
            return Err(Error::usage(format!("eta {eta} is outside [0, 1]"))
                .fix("--eta 1 is the method's own setting"));
        }
        let table: Vec<f64> = config.alphas_cumprod().iter().map(|&a| f64::from(a)).collect();
        let timesteps = timesteps(config, steps)?;
        let last = if config.set_alpha_to_one { 1.0 } else { table[0] };
        let at = |t: i64| if t < 0 { last } else { table[t as usize] };
        let ratio = (config.num_train_timesteps / steps) as i64;
        let mut chain = Vec::with_capacity(steps);
        for (k, &t) in timesteps.iter().enumerate() {
            chain.push(match config.method {
                Method::Ddim => ddim_step(config, eta, t, t - ratio, at)?,
                Method::Lcm { scaling, .. } => {
                    let next = timesteps.get(k + 1).copied();
                    lcm_step(config, eta, scaling, t, next, at)?
                }
            });
        }
        Ok(Schedule { steps: chain, method: config.method, prediction: config.prediction_type })
    }

    pub fn len(&self) -> usize {
        self.steps.len()
    }
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }
    /// The network's timesteps, descending.
    pub fn timesteps(&self) -> Vec<i64> {
        self.steps.iter().map(|s| s.t).collect()
    }
}

fn timesteps(config: &SchedulerConfig, steps: usize) -> Result<Vec<i64>> {
    let train = config.num_train_timesteps;
    let too_many = |most: usize, what: &str| {
        Error::usage(format!("{steps} steps, but this model has {most} {what}"))
            .fix(format!("give --steps at most {most}"))
    };
    if steps > train {
        return Err(too_many(train, "training steps"));
    }
    if let Method::Lcm { original_steps, .. } = config.method {
        if steps > original_steps {
            return Err(too_many(original_steps, "distillation steps"));
        }
        let stride = original_steps as f64 / steps as f64;
        let grid = |i: usize| ((original_steps - i) * (train / original_steps)) as i64 - 1;
        return Ok((0..steps).map(|k| grid((k as f64 * stride).floor() as usize)).collect());
    }
    let descending: Vec<i64> = match config.timestep_spacing {
        Spacing::Leading => {
            let ratio = train / steps;
            (0..steps).rev().map(|k| (k * ratio + config.steps_offset) as i64).collect()
        }
        Spacing::Linspace => {
            let step = (train - 1) as f64 / (steps.max(2) - 1) as f64;
            (0..steps).rev().map(|k| (k as f64 * step).round_ties_even() as i64).collect()
        }
        Spacing::Trailing => {
            // As numpy.arange does it; where rounding gives diffusers one step more, at -1, it is left out.
            let next = train as f64 - train as f64 / steps as f64;
            let delta = next - train as f64;
            (0..steps).map(|k| (train as f64 + k as f64 * delta).round_ties_even() as i64 - 1).collect()
        }
    };
    if descending[0] >= train as i64 {
        return Err(Error::usage(format!(
            "{steps} steps with an offset of {} begin at {}, past the last training step {}",
            config.steps_offset,
            descending[0],
            train - 1
        ))
        .fix("choose --steps so that it leaves room, such as 100"));
    }
    Ok(descending)
}

/// `(x0, eps)` from `(x, out)`.
fn predictions(config: &SchedulerConfig, t: i64, alpha_bar: f64) -> Result<(Affine, Affine)> {
    let (a, s) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
    match config.prediction_type {
        Prediction::Epsilon if alpha_bar == 0.0 => Err(Error::model(format!(
            "step {t} is pure noise (zero terminal SNR), from which predicted noise gives no clean sample"
        ))
        .fix("set `timestep_spacing` to \"leading\" in scheduler_config.json, or use a model with v_prediction")),
        Prediction::Epsilon => Ok((Affine::new(1.0 / a, -s / a), Affine::new(0.0, 1.0))),
        Prediction::Sample if s == 0.0 => {
            Err(Error::model(format!("step {t} has no noise to be derived from the predicted sample"))
                .fix("correct the betas in scheduler_config.json: they begin with no noise"))
        }
        Prediction::Sample => Ok((Affine::new(0.0, 1.0), Affine::new(1.0 / s, -a / s))),
        Prediction::VPrediction => Ok((Affine::new(a, -s), Affine::new(s, a))),
    }
}

fn ddim_step(
    config: &SchedulerConfig,
    eta: f64,
    t: i64,
    t_prev: i64,
    at: impl Fn(i64) -> f64,
) -> Result<Step> {
    let (alpha_bar, alpha_bar_prev) = (at(t), at(t_prev));
    let (x0, eps) = predictions(config, t, alpha_bar)?;
    let sigma2 = (1.0 - alpha_bar_prev) / (1.0 - alpha_bar) * (1.0 - alpha_bar / alpha_bar_prev);
    let variance = eta * eta * sigma2;
    let mean = Affine::new(alpha_bar_prev.sqrt(), (1.0 - alpha_bar_prev - variance).max(0.0).sqrt());
    let clip = config.clip_sample;
    Ok(Step { t, t_prev, alpha_bar, alpha_bar_prev, variance, kappa: 1.0, x0, eps, mean, clip })
}

/// `x0 = c_out x0 + c_skip x`, then noise of the next level; the last step stays there (docs/spec.md 6.2).
fn lcm_step(
    config: &SchedulerConfig,
    eta: f64,
    scaling: f64,
    t: i64,
    next: Option<i64>,
    at: impl Fn(i64) -> f64,
) -> Result<Step> {
    let alpha_bar = at(t);
    let (clean, eps) = predictions(config, t, alpha_bar)?;
    // Boundary conditions of Luo et al. 2023 with sigma_data = 1/2.
    let scaled = scaling * t as f64;
    let (skip, out) = (0.25 / (scaled * scaled + 0.25), scaled / (scaled * scaled + 0.25).sqrt());
    let x0 = Affine::new(out * clean.first + skip, out * clean.second);
    let (t_prev, alpha_bar_prev) = next.map_or((-1, 1.0), |next| (next, at(next)));
    let mean = Affine::new(alpha_bar_prev.sqrt(), 0.0);
    let variance = 1.0 - alpha_bar_prev;
    let kappa = eta * eta;
    Ok(Step { t, t_prev, alpha_bar, alpha_bar_prev, variance, kappa, x0, eps, mean, clip: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Key, Purpose, fill_normals};

    #[derive(Deserialize)]
    struct Case {
        config: serde_json::Value,
        steps: usize,
        eta: f64,
        timesteps: Vec<i64>,
        alphas_cumprod: Vec<(usize, f64)>,
        moves: Vec<Move>,
    }

    #[derive(Deserialize)]
    struct Move {
        k: usize,
        x: Vec<f64>,
        out: Vec<f64>,
        z: Vec<f64>,
        x0: Vec<f64>,
        prev: Vec<f64>,
    }

    fn goldens() -> Vec<Case> {
        serde_json::from_str(include_str!("../tests/golden/ddim.json")).expect("the golden file")
    }

    /// Tables: the same f32 bits. Moves: f64 on both sides from the same table; the largest coefficient is
    /// 1 / sqrt(1 - abar(0)), 156 for the cosine schedule predicting samples, so 1e-12 is a few dozen roundings (measured: 1.1e-14).
    ///
    /// With zero terminal SNR the table goes through square roots, which torch leaves to a vector library that rounds
    /// otherwise in a fifth of all cases; 2000 factors then wander by sqrt(2000) 6e-8 = 2.7e-6 (measured:
    /// 1.8e-7, moves 6.9e-7).
    #[test]
    fn chains_are_those_of_diffusers() {
        let mut worst = [[0.0_f64; 2]; 2];
        for case in goldens() {
            let config = SchedulerConfig::from_json(&case.config.to_string()).expect("a known configuration");
            let schedule = Schedule::new(&config, case.steps, case.eta).expect("a chain");
            let what = format!("{} steps of {}", case.steps, case.config);
            // Where rounding gives diffusers an extra step at -1, ours ends before it.
            let theirs: Vec<i64> = case.timesteps.iter().copied().filter(|t| *t >= 0).collect();
            assert_eq!(schedule.timesteps(), theirs, "{what}");
            let rescaled = usize::from(config.rescale_betas_zero_snr);
            let (table_tolerance, move_tolerance) = [(0.0, 1e-12), (3e-6, 1e-5)][rescaled];
            let errors = &mut worst[rescaled];
            let table = config.alphas_cumprod();
            for (i, theirs) in case.alphas_cumprod {
                let error = f64::from((table[i] - theirs as f32).abs());
                errors[0] = errors[0].max(error);
                assert!(error <= table_tolerance, "{what}: abar({i}) {} against {theirs}", table[i]);
            }
            for m in case.moves {
                let step = &schedule.steps[m.k];
                for i in 0..m.x.len() {
                    let (x0, prev) = step.apply(m.x[i], m.out[i], 0.0, m.z[i]);
                    let error = (x0 - m.x0[i]).abs().max((prev - m.prev[i]).abs());
                    errors[1] = errors[1].max(error);
                    assert!(error < move_tolerance, "{what}: step {} differs by {error}", m.k);
                }
            }
        }
        println!("[table, moves] differ by {:?}, with zero terminal SNR by {:?}", worst[0], worst[1]);
    }

    /// docs/spec.md 2.1, to the digits printed there.
    #[test]
    fn the_check_values_of_stable_diffusion_hold() {
        let config = SchedulerConfig::stable_diffusion();
        let table = config.alphas_cumprod();
        for (t, value) in [(0, 0.999150), (1, 0.998296), (991, 0.005130), (999, 0.004660)] {
            assert!((table[t] - value).abs() < 5e-7, "abar({t}) = {}", table[t]);
        }
        let schedule = Schedule::new(&config, 100, 1.0).expect("a chain");
        assert_eq!(schedule.timesteps()[..2], [991, 981]);
        assert_eq!((schedule.steps[99].t, schedule.steps[99].t_prev), (1, -9));
        for (k, v, digit) in
            [(0, 0.111681, 1e-6), (50, 0.0448, 1e-6), (98, 1.42889e-3, 1e-8), (99, 4.26353e-4, 1e-9)]
        {
            let found = schedule.steps[k].variance;
            // Half the last digit, and what an f32 rounding of abar does to 1 - abar/abar'.
            let rounding =
                1.2e-7 * found / (1.0 - schedule.steps[k].alpha_bar / schedule.steps[k].alpha_bar_prev);
            assert!((found - v).abs() < 0.5 * digit + rounding, "v({k}) = {found}");
        }
        assert_eq!(schedule.steps[99].alpha_bar_prev, f64::from(table[0]));
    }

    #[test]
    fn lcm_visits_the_published_steps_and_ends_without_noise() {
        let config = SchedulerConfig::from_json(r#"{"_class_name": "LCMScheduler"}"#).expect("lcm");
        let schedule = Schedule::new(&config, 8, 0.5).expect("a chain");
        assert_eq!(schedule.timesteps(), [999, 879, 759, 639, 499, 379, 259, 139]);
        let last = schedule.steps[7];
        assert_eq!((last.variance, last.mean, last.kappa), (0.0, Affine::new(1.0, 0.0), 0.25));
        assert_eq!(last.log_ratio(3.0, 1.0), 0.0);
        assert!(schedule.steps[..7].iter().all(|s| s.variance == 1.0 - s.alpha_bar_prev && s.variance > 0.0));
    }

    /// The maps of each prediction type agree with each other: an output that means the same noise gives the same
    /// x0 and eps. f64 throughout; coefficients up to 14, measured 4e-15.
    #[test]
    fn prediction_types_agree_on_the_same_noise() {
        for t in [0, 500, 999] {
            let config = SchedulerConfig::stable_diffusion();
            let abar = f64::from(config.alphas_cumprod()[t as usize]);
            let (clean, noise) = (0.7, -1.3);
            let x = abar.sqrt() * clean + (1.0 - abar).sqrt() * noise;
            let outputs = [
                (Prediction::Epsilon, noise),
                (Prediction::Sample, clean),
                (Prediction::VPrediction, abar.sqrt() * noise - (1.0 - abar).sqrt() * clean),
            ];
            for (prediction_type, out) in outputs {
                let config = SchedulerConfig { prediction_type, ..config.clone() };
                let (x0, eps) = predictions(&config, t, abar).expect("two maps");
                assert!((x0.apply(x, out) - clean).abs() < 1e-13, "{prediction_type:?} at {t}");
                assert!((eps.apply(x, out) - noise).abs() < 1e-13 / (1.0 - abar).sqrt());
            }
        }
    }

    /// Closed form against the difference of two Gaussian log-densities, for DDIM and LCM (kappa = eta^2), D = 64. The
    /// densities are sums of 64 terms of size 1, so 1e-11 is ample (measured: 7e-15).
    #[test]
    fn the_density_ratio_has_its_closed_form() {
        let mut worst = 0.0_f64;
        for (case, (v, kappa)) in
            [(0.111, 1.0), (4.3e-4, 1.0), (0.9, 0.25), (0.2, 0.25)].into_iter().enumerate()
        {
            let mut numbers = [0.0_f32; 192];
            let key = Key { seed: 7, prompt: 0, particle: case as u32, step: 0, purpose: Purpose::Data };
            fill_normals(&key, &mut numbers);
            let at = |i: usize| f64::from(numbers[i]);
            let (mut log_p, mut log_m, mut gg, mut gz, mut expanded) = (0.0, 0.0, 0.0, 0.0, 0.0);
            for i in 0..64 {
                let (mean, g, z) = (at(i), at(64 + i), at(128 + i));
                let x = mean + kappa * v * g + v.sqrt() * z;
                log_p -= (x - mean).powi(2) / (2.0 * v);
                log_m -= (x - mean - kappa * v * g).powi(2) / (2.0 * v);
                gg += g * g;
                gz += g * z;
                expanded += -kappa * g * (x - mean) + 0.5 * kappa * kappa * v * g * g;
            }
            let closed = log_ratio(v, kappa, gg, gz);
            worst = worst.max((closed - (log_p - log_m)).abs()).max((closed - expanded).abs());
            // The authors' LCM density uses eta^2 times the variance: it must not pass.
            if kappa < 1.0 {
                assert!((closed - (log_p - log_m) / kappa).abs() > 1e-3);
            }
        }
        println!("worst difference {worst:e}");
        assert!(worst < 1e-11);
        assert_eq!(log_ratio(0.0, 1.0, f64::INFINITY, 0.0), 0.0);
        assert_eq!(log_ratio(0.3, 1.0, 0.0, 0.0), 0.0);
    }

    #[test]
    fn what_cannot_be_sampled_is_refused_and_named() {
        let refusal = |json: &str| SchedulerConfig::from_json(json).expect_err(json).to_string();
        assert!(refusal(r#"{"beta_schedule": "sigmoid"}"#).contains("sigmoid"));
        assert!(refusal(r#"{"prediction_type": "flow_prediction"}"#).contains("expected one of `epsilon`"));
        assert!(refusal(r#"{"timestep_spacing": "karras"}"#).contains("karras"));
        assert!(refusal(r#"{"thresholding": true}"#).contains("thresholding"));
        assert!(refusal(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#).contains("flow matching"));
        assert!(refusal(r#"{"num_train_timesteps": 0}"#).contains("num_train_timesteps"));
        assert!(refusal(r#"{"trained_betas": [0.1]}"#).contains("betas"));
        assert!(refusal("{").contains("not a scheduler configuration"));
        let missing = SchedulerConfig::read(Path::new("no/such/scheduler_config.json")).expect_err("no file");
        assert!(missing.to_string().contains("no/such/scheduler_config.json"));

        let sd = SchedulerConfig::stable_diffusion();
        let refusal = |steps, eta| Schedule::new(&sd, steps, eta).expect_err("refused").to_string();
        assert!(refusal(0, 1.0).contains("--steps"));
        assert!(refusal(1001, 1.0).contains("1000 training steps"));
        assert!(refusal(1000, 1.0).contains("past the last training step"));
        assert!(refusal(50, 1.5).contains("--eta"));
        assert!(refusal(50, f64::NAN).contains("--eta"));
        let lcm = SchedulerConfig::from_json(r#"{"_class_name": "LCMScheduler"}"#).expect("lcm");
        assert!(Schedule::new(&lcm, 51, 0.5).expect_err("refused").to_string().contains("distillation"));
        let zero = SchedulerConfig {
            rescale_betas_zero_snr: true,
            timestep_spacing: Spacing::Trailing,
            ..SchedulerConfig::stable_diffusion()
        };
        assert!(Schedule::new(&zero, 10, 1.0).expect_err("refused").to_string().contains("zero terminal"));
    }

    #[test]
    fn numbers_that_make_no_chain_are_refused_with_the_fix() {
        for (json, says) in [
            (r#"{"num_train_timesteps": 0}"#, "`num_train_timesteps` is 0, expected 1 to 1000000"),
            (r#"{"num_train_timesteps": 1000000000000000}"#, "`num_train_timesteps` is 1000000000000000"),
            (r#"{"num_train_timesteps": 1e15}"#, "expected usize"),
            (r#"{"num_train_timesteps": -5}"#, "expected usize"),
            (r#"{"num_train_timesteps": 1000000}"#, "the betas make alpha-bar 0"),
            (r#"{"steps_offset": 1000}"#, "`steps_offset` is 1000"),
            (r#"{"steps_offset": 18446744073709551615}"#, "`steps_offset` is 18446744073709551615"),
            (r#"{"beta_start": 0.02, "beta_end": 0.01}"#, "`beta_start` 0.02 and `beta_end` 0.01"),
            (r#"{"beta_start": -0.01}"#, "`beta_start` -0.01"),
            (r#"{"beta_start": -0.01, "beta_schedule": "scaled_linear"}"#, "`beta_start` -0.01"),
            (r#"{"beta_start": 0}"#, "`beta_start` 0"),
            (r#"{"beta_end": 1}"#, "`beta_end` 1"),
            (r#"{"beta_end": 1e300}"#, "`beta_end` 1000"),
            (r#"{"beta_start": 1e-12}"#, "the betas make alpha-bar 1 at training step 0"),
            (r#"{"beta_start": 0.9, "beta_end": 0.9}"#, "the betas make alpha-bar 0"),
            (r#"{"num_train_timesteps": 1, "rescale_betas_zero_snr": true}"#, "the betas make alpha-bar NaN"),
            (r#"{"num_train_timesteps": 2, "trained_betas": [0.1]}"#, "`trained_betas` has 1 entries"),
            (r#"{"num_train_timesteps": 2, "trained_betas": [0.1, -0.1]}"#, "`trained_betas` has -0.1"),
            (r#"{"num_train_timesteps": 2, "trained_betas": [0.1, 1e39]}"#, "trained_betas"),
            (r#"{"num_train_timesteps": 2, "trained_betas": [0, 0.1]}"#, "the betas make alpha-bar 1"),
            (r#"{"clip_sample_range": -1}"#, "`clip_sample_range` is -1"),
            (r#"{"clip_sample_range": 0}"#, "`clip_sample_range` is 0"),
            (
                r#"{"_class_name": "LCMScheduler", "original_inference_steps": 0}"#,
                "`original_inference_steps` is 0",
            ),
            (r#"{"_class_name": "LCMScheduler", "original_inference_steps": 1001}"#, "expected 1 to 1000"),
            (r#"{"_class_name": "LCMScheduler", "timestep_scaling": 0}"#, "`timestep_scaling` is 0"),
            (r#"{"_class_name": "LCMScheduler", "timestep_scaling": 1e200}"#, "`timestep_scaling` is 1000"),
            (r#"{"_class_name": "LCMScheduler", "clip_sample": true}"#, "`clip_sample`"),
        ] {
            let text = SchedulerConfig::from_json(json).expect_err(json).to_string();
            assert!(text.contains(says) && text.contains("fix:"), "{json}: {text}");
        }
    }

    #[test]
    fn a_chain_of_every_length_has_finite_coefficients() {
        for json in [
            "{}",
            r#"{"timestep_spacing": "trailing", "steps_offset": 999}"#,
            r#"{"timestep_spacing": "linspace", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}"#,
            r#"{"prediction_type": "v_prediction", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}"#,
            r#"{"num_train_timesteps": 1}"#,
            r#"{"num_train_timesteps": 7, "set_alpha_to_one": false}"#,
            r#"{"_class_name": "LCMScheduler", "original_inference_steps": 37, "num_train_timesteps": 40}"#,
        ] {
            let config = SchedulerConfig::from_json(json).expect(json);
            let longest = match config.method {
                Method::Lcm { original_steps, .. } => original_steps,
                Method::Ddim => config.num_train_timesteps,
            };
            for steps in 1..=longest {
                let chain = Schedule::new(&config, steps, 1.0).expect(json);
                let finite = |a: Affine| a.first.is_finite() && a.second.is_finite();
                for s in chain.steps {
                    let right =
                        finite(s.x0) && finite(s.eps) && finite(s.mean) && (0.0..=1.0).contains(&s.variance);
                    assert!(right, "{json}: {steps} steps: {s:?}");
                }
            }
        }
    }

    #[test]
    fn missing_and_unknown_entries_are_no_obstacle() {
        let euler = SchedulerConfig::from_json(
            r#"{"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": false, "clip_sample": null}"#,
        )
        .expect("a known configuration");
        assert_eq!((euler.clip_sample, euler.timestep_spacing), (None, Spacing::Leading));
        let ddim = SchedulerConfig::from_json("{}").expect("defaults");
        assert_eq!((ddim.clip_sample, ddim.beta_schedule), (Some(1.0), BetaSchedule::Linear));
    }
}
