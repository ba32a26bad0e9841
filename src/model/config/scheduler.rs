//! `scheduler/scheduler_config.json`: the noise schedule of a model, from the file of any of diffusers'
//! samplers that work on the discrete training steps of Ho et al. 2020.
//!
//! Whatever sampler the file names, its schedule is run as DDIM, as the authors' program does with
//! `DDIMScheduler.from_config` (docs/spec.md 2.1); a file of `LCMScheduler` is run as a latent consistency
//! model. So an absent key has the default of these two classes, and keys that only tell another sampler how
//! to integrate have no effect. What other samplers understand and DDIM cannot do (flow matching, the
//! continuous time of EDM) is refused.

use serde_json::Value;

use super::Keys;
use crate::ddim::{BetaSchedule, ChainKind, Prediction, SchedulerConfig, Spacing};
use crate::error::{Error, Result};
use crate::model::files::Source;

/// A scheduler's file.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerFile {
    /// `_class_name`.
    pub class: String,
    /// The schedule as this file alone says it. What a pipeline changes in it on loading is the pipeline's
    /// matter.
    pub config: SchedulerConfig,
    /// Whether the file states `clip_sample`.
    pub states_clip_sample: bool,
    /// Whether the scheduler has a `steps_offset`: its class has one, or the file states it.
    pub has_steps_offset: bool,
    /// Where the file says nothing of its betas, as no published file does: what is assumed in the place of
    /// these and other absent keys, as diffusers assumes it, such as `beta_start 0.0001`. Else empty.
    pub assumed: Vec<String>,
    /// Keys without a meaning to any sampler, with their values.
    pub unknown_keys: Vec<String>,
}

/// The samplers whose noise schedule DDIM can run.
const CLASSES: [&str; 19] = [
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDIMInverseScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverSinglestepScheduler",
    "DPMSolverSDEScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
];

/// Samplers of distilled models. `TCDScheduler` is run as DDIM, of which it is a variant.
const DISTILLED: [&str; 2] = ["LCMScheduler", "TCDScheduler"];

/// Of these only `DPMSolverSinglestepScheduler` has no `steps_offset`.
const WITHOUT_OFFSET: &str = "DPMSolverSinglestepScheduler";

/// Keys that say how another sampler integrates, in how many stages, on which grid of noise levels; or that
/// another key switches on which is refused. DDIM has none of them.
const WITHOUT_EFFECT: [&str; 29] = [
    "algorithm_type",
    "corrector_order",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "lambda_min_clipped",
    "lower_order_final",
    "original_inference_steps",
    "predict_x0",
    "predictor_order",
    "sample_max_value",
    "shift_terminal",
    "sigma_max",
    "sigma_min",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "tau_func",
    "time_shift_type",
    "timestep_scaling",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
];

impl SchedulerFile {
    /// Reads `component/scheduler_config.json`. `class` is the sampler where the file names none, as in
    /// `model_index.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming file and key: JSON that does not parse, a
    /// sampler whose noise schedule DDIM cannot run, an unknown beta schedule, prediction type or spacing,
    /// dynamic thresholding, numbers that make no schedule.
    pub fn open(source: &Source, component: &str, class: &str) -> Result<SchedulerFile> {
        super::open(source, component, "scheduler_config.json", |keys| parse(keys, class))
    }

    /// As [`SchedulerFile::open`], from the content of the file; `file` names it in errors. A file that names
    /// no class is one of `DDIMScheduler`.
    ///
    /// # Errors
    /// As [`SchedulerFile::open`].
    pub fn parse(file: &str, bytes: &[u8]) -> Result<SchedulerFile> {
        super::parse_bytes(file, bytes, |keys| parse(keys, CLASSES[0]))
    }
}

/// Refuses the samplers of other kinds of model; `place` names the file.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the class.
pub(crate) fn check_class(place: &str, class: &str) -> Result<()> {
    if CLASSES.contains(&class) || DISTILLED.contains(&class) {
        return Ok(());
    }
    let what = if class.contains("FlowM") {
        "flow matching models are not supported"
    } else if class.starts_with("EDM") || class == "CosineDPMSolverMultistepScheduler" {
        "models of continuous noise levels (EDM) are not supported"
    } else {
        "this sampler is not one whose noise schedule can be run"
    };
    Err(Error::model(format!("{place}: {class}: {what}")).advice(
        "use a Stable Diffusion 1.x, 2.x, XL or LCM checkpoint, with the scheduler folder it was published with",
    ))
}

fn parse(keys: &Keys<'_>, class: &str) -> Result<SchedulerFile> {
    let class = keys.opt_text("_class_name")?.unwrap_or(class).to_string();
    check_class(&keys.file, &class)?;
    refuse_what_ddim_cannot_do(keys)?;
    let lcm = class == "LCMScheduler";
    let default = if lcm { SchedulerConfig::lcm() } else { SchedulerConfig::ddim() };
    let kind = match default.kind {
        ChainKind::Ddim => ChainKind::Ddim,
        ChainKind::Lcm { original_steps, scaling } => ChainKind::Lcm {
            original_steps: keys.whole("original_inference_steps", original_steps)?,
            scaling: keys.double("timestep_scaling", scaling)?,
        },
    };
    // Clipping to [-1, 1] is what DDIM and DDPM do to pixels where their file is silent. It is not put upon
    // the file of another class, which never clips: it would ruin latents.
    let clips = matches!(class.as_str(), "DDIMScheduler" | "DDIMParallelScheduler" | "DDIMInverseScheduler")
        || matches!(class.as_str(), "DDPMScheduler" | "DDPMParallelScheduler");
    let range = keys.double("clip_sample_range", 1.0)?;
    let states_clip_sample = keys.value("clip_sample").is_some();
    let config = SchedulerConfig {
        kind,
        num_train_timesteps: keys.whole("num_train_timesteps", default.num_train_timesteps)?,
        beta_start: keys.double("beta_start", default.beta_start)?,
        beta_end: keys.double("beta_end", default.beta_end)?,
        beta_schedule: keys.choice(
            "beta_schedule",
            default.beta_schedule,
            &[
                ("linear", BetaSchedule::Linear),
                ("scaled_linear", BetaSchedule::ScaledLinear),
                ("squaredcos_cap_v2", BetaSchedule::SquaredCosine),
            ],
        )?,
        trained_betas: trained_betas(keys)?,
        clip_sample: keys.flag("clip_sample", clips)?.then_some(range),
        set_alpha_to_one: keys.flag("set_alpha_to_one", default.set_alpha_to_one)?,
        steps_offset: keys.whole("steps_offset", default.steps_offset)?,
        prediction_type: keys.choice(
            "prediction_type",
            default.prediction_type,
            &[
                ("epsilon", Prediction::Epsilon),
                ("sample", Prediction::Sample),
                ("v_prediction", Prediction::VPrediction),
            ],
        )?,
        timestep_spacing: keys.choice(
            "timestep_spacing",
            default.timestep_spacing,
            &[
                ("leading", Spacing::Leading),
                ("trailing", Spacing::Trailing),
                ("linspace", Spacing::Linspace),
            ],
        )?,
        rescale_betas_zero_snr: keys.flag("rescale_betas_zero_snr", default.rescale_betas_zero_snr)?,
    };
    config.check().map_err(|e| e.context(&keys.file))?;
    Ok(SchedulerFile {
        has_steps_offset: class != WITHOUT_OFFSET || keys.get("steps_offset").is_some(),
        states_clip_sample,
        assumed: assumed(keys, &config),
        unknown_keys: keys.unknown(&WITHOUT_EFFECT),
        class,
        config,
    })
}

/// See [`SchedulerFile::assumed`].
fn assumed(keys: &Keys<'_>, config: &SchedulerConfig) -> Vec<String> {
    let stated = |key: &&str| keys.get(key).is_some();
    if ["beta_start", "beta_end", "beta_schedule", "trained_betas"].iter().any(stated) {
        return Vec::new();
    }
    let schedule = match config.beta_schedule {
        BetaSchedule::Linear => "linear",
        BetaSchedule::ScaledLinear => "scaled_linear",
        BetaSchedule::SquaredCosine => "squaredcos_cap_v2",
    };
    let prediction = match config.prediction_type {
        Prediction::Epsilon => "epsilon",
        Prediction::Sample => "sample",
        Prediction::VPrediction => "v_prediction",
    };
    let spacing = match config.timestep_spacing {
        Spacing::Leading => "leading",
        Spacing::Trailing => "trailing",
        Spacing::Linspace => "linspace",
    };
    let values = [
        ("beta_start", config.beta_start.to_string()),
        ("beta_end", config.beta_end.to_string()),
        ("beta_schedule", schedule.to_string()),
        ("num_train_timesteps", config.num_train_timesteps.to_string()),
        ("prediction_type", prediction.to_string()),
        ("timestep_spacing", spacing.to_string()),
    ];
    let absent = values.into_iter().filter(|(key, _)| !stated(key));
    absent.map(|(key, value)| format!("{key} {value}")).collect()
}

/// Keys of other samplers that change what the network's output means, whatever class the file names.
fn refuse_what_ddim_cannot_do(keys: &Keys<'_>) -> Result<()> {
    if keys.flag("thresholding", false)? {
        return Err(Error::model(format!(
            "{}: thresholding (dynamic thresholding) is not supported",
            keys.file
        ))
        .advice("it is for pixel models; set it to false in this file"));
    }
    if keys.flag("use_flow_sigmas", false)? {
        return Err(Error::model(format!(
            "{}: use_flow_sigmas is true: flow matching models are not supported",
            keys.file
        ))
        .advice("use a Stable Diffusion 1.x, 2.x, XL or LCM checkpoint"));
    }
    // With learned variances the network has twice the outputs; with continuous time it is told a noise
    // level.
    keys.only("timestep_type", &["discrete".into()])?;
    if let Some(v) = keys.get("variance_type").filter(|v| v.as_str().is_none_or(|t| t.starts_with("learned")))
    {
        return Err(keys.unsupported("variance_type", v, "a fixed variance, such as \"fixed_small\""));
    }
    for key in ["snr_shift_scale", "shift"] {
        keys.only(key, &[1.into()])?;
    }
    Ok(())
}

fn trained_betas(keys: &Keys<'_>) -> Result<Option<Vec<f32>>> {
    let Some(v) = keys.get("trained_betas") else { return Ok(None) };
    let beta = |v: &Value| v.as_f64().map(|b| b as f32).filter(|b| b.is_finite());
    let betas: Option<Vec<f32>> = v.as_array().and_then(|list| list.iter().map(beta).collect());
    betas.map(Some).ok_or_else(|| keys.wrong("trained_betas", v, "a list of numbers"))
}

#[cfg(test)]
mod tests;
