//! The chain: from a model's noise schedule to the timesteps and, for each of them, three linear combinations
//! and a variance. Whatever sampler a model's files name, its noise schedule is run as DDIM (Song, Meng,
//! Ermon 2021), as the authors' program does by converting it; a latent consistency model is run as one
//! (docs/spec.md 2.1, 6.2).
//!
//! ```text
//! x0   = x0.first x + x0.second out            out: what the network predicts
//! eps  = eps.first x + eps.second out
//! x'   = mean.first x0 + mean.second eps + kappa v g + sqrt(v) z
//! ```
//!
//! Tables are rounded to f32 as diffusers rounds them; everything after that is f64.

mod config;

pub use config::{BetaSchedule, Chain, ChainKind, Prediction, SchedulerConfig, Spacing};

use crate::error::{Error, Result};

/// `first * a + second * b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// Factor of the first argument.
    pub first: f64,
    /// Factor of the second.
    pub second: f64,
}

impl Affine {
    /// With these factors.
    pub const fn new(first: f64, second: f64) -> Affine {
        Affine { first, second }
    }
    /// `first * a + second * b`.
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
    /// Variance v of the transition: `eta^2 sigma^2` for DDIM, `1 - alpha_bar_prev` for LCM. 0: no noise, no
    /// shift.
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

/// `log p - log m` of a move `x' = mean + kappa v g + sqrt(v) z` from prior `p = N(mean, v I)` by proposal `m
/// = N(mean + kappa v g, v I)`: `-1/2 kappa^2 v |g|^2 - kappa sqrt(v) <g, z>` (docs/spec.md 1.4), 0 without
/// noise. `g` is the tempered gradient, `lambda_next` included.
pub fn log_ratio(v: f64, kappa: f64, g_dot_g: f64, g_dot_z: f64) -> f64 {
    if v == 0.0 { 0.0 } else { -0.5 * kappa * kappa * v * g_dot_g - kappa * v.sqrt() * g_dot_z }
}

/// All transitions of a run, first to last.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// In the order in which they run.
    pub steps: Vec<Step>,
}

impl Schedule {
    /// The chain of `steps` transitions with noise `eta` in [0, 1] (DDIM: 0 deterministic, 1 as DDPM; LCM:
    /// guidance strength `eta^2`). Timesteps, their rounding and `t_prev = t - num_train / steps` are
    /// diffusers' own.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage): no steps, more than the training or distillation steps,
    /// an offset past the table, `eta` outside [0, 1]. [`ErrorKind::Model`](crate::ErrorKind::Model):
    /// predicted noise where alpha-bar is 0, or a consistency model that clips x0.
    pub fn new(config: &SchedulerConfig, steps: usize, eta: f64) -> Result<Schedule> {
        check(steps, eta)?;
        if config.clip_sample.is_some() && config.kind != ChainKind::Ddim {
            return Err(Error::model("clip_sample is not supported for consistency models")
                .advice("set it to false in scheduler_config.json"));
        }
        Schedule::along(config, &timesteps(config, steps)?, eta)
    }

    /// The chain through these training steps, descending, each transition of which reaches `num_train` over
    /// their number lower: [`Schedule::new`] with timesteps that no spacing gives.
    ///
    /// # Errors
    /// As [`Schedule::new`], of predictions and `eta`.
    ///
    /// # Panics
    /// Where a training step is not in the table.
    pub fn through(config: &SchedulerConfig, timesteps: &[i64], eta: f64) -> Result<Schedule> {
        check(timesteps.len(), eta)?;
        Schedule::along(config, timesteps, eta)
    }

    fn along(config: &SchedulerConfig, timesteps: &[i64], eta: f64) -> Result<Schedule> {
        let table: Vec<f64> = config.alphas_cumprod().iter().map(|&a| f64::from(a)).collect();
        let steps = timesteps.len();
        let last = if config.set_alpha_to_one { 1.0 } else { table[0] };
        let at = |t: i64| if t < 0 { last } else { table[t as usize] };
        let ratio = (config.num_train_timesteps / steps) as i64;
        let mut chain = Vec::with_capacity(steps);
        for (k, &t) in timesteps.iter().enumerate() {
            chain.push(match config.kind {
                ChainKind::Ddim => ddim_step(config, eta, t, t - ratio, at)?,
                ChainKind::Lcm { scaling, .. } => {
                    let next = timesteps.get(k + 1).copied();
                    lcm_step(config, eta, scaling, t, next, at)?
                }
            });
        }
        Ok(Schedule { steps: chain })
    }

    /// Transitions of the chain.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there are none; [`Schedule::new`] makes no such chain.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The network's timesteps, descending.
    pub fn timesteps(&self) -> Vec<i64> {
        self.steps.iter().map(|s| s.t).collect()
    }
}

/// Refuses a number of steps or a noise that no chain has.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming the option.
pub fn check(steps: usize, eta: f64) -> Result<()> {
    if steps == 0 {
        return Err(Error::usage("a chain needs at least one step")
            .option("steps")
            .advice("give `steps` a positive number"));
    }
    if !(0.0..=1.0).contains(&eta) {
        return Err(Error::usage(format!("`eta` {eta} is outside [0, 1]"))
            .option("eta")
            .advice("`eta` 1 is the method's own setting"));
    }
    Ok(())
}

fn timesteps(config: &SchedulerConfig, steps: usize) -> Result<Vec<i64>> {
    let train = config.num_train_timesteps;
    let too_many = |most: usize, what: &str| {
        Error::usage(format!("{steps} steps, but this model has {most} {what}"))
            .option("steps")
            .advice(format!("give `steps` at most {most}"))
    };
    if steps > train {
        return Err(too_many(train, "training steps"));
    }
    if let ChainKind::Lcm { original_steps, .. } = config.kind {
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
        .option("steps")
        .advice("choose `steps` so that it leaves room, such as 100"));
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
        .advice(
            "set timestep_spacing to \"leading\" in scheduler_config.json, or use a model with v_prediction",
        )),
        Prediction::Epsilon => Ok((Affine::new(1.0 / a, -s / a), Affine::new(0.0, 1.0))),
        Prediction::Sample if s == 0.0 => {
            Err(Error::model(format!("step {t} has no noise to be derived from the predicted sample"))
                .advice("correct the betas in scheduler_config.json: they begin with no noise"))
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
mod tests;
