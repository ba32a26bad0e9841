//! The noise schedule of a checkpoint in a single file, which holds none: that of its family, and what its
//! UNet predicts.

use serde_json::{Value, json};

use super::kind::{Texts, UNET};
use crate::ddim::{Chain, Prediction};
use crate::error::{Error, Result};
use crate::model::checkpoint::Checkpoint;

/// What the UNet predicts, and how that is known.
pub struct Predicts {
    /// What.
    pub prediction: Prediction,
    /// Whether the schedule ends in pure noise.
    pub zero_snr: bool,
    /// Where the file says what it predicts; `None` where the user says it or nobody does.
    pub stated: Option<&'static str>,
    /// What the user should know of it.
    pub note: Option<String>,
}

/// Empty tensors that trainers put into a file to say what it is.
const V_PRED: &str = "v_pred";
const ZERO_SNR: &str = "ztsnr";

/// Entries of the file's header.
const PREDICTION_TYPE: &str = "modelspec.prediction_type";
const ARCHITECTURE: &str = "modelspec.architecture";

impl Predicts {
    /// Puts what `file`, the checkpoint, says of itself into `config`, an object: the scheduler's file
    /// `place` of a folder that was given for its configurations. Returns a warning for each value that was
    /// another there.
    pub fn settle(&self, config: &mut Value, file: &str, place: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        let theirs = config["prediction_type"].as_str().unwrap_or("epsilon").to_string();
        let ours = prediction_name(self.prediction);
        if let Some(by) = self.stated.filter(|_| theirs != ours) {
            warnings.push(format!(
                "{file}: {by} in this file says that its UNet predicts {ours}, {place} says {theirs}; {ours} is \
                 taken (give `prediction` {theirs} for the other)"
            ));
            config["prediction_type"] = json!(ours);
        }
        if self.zero_snr && config["rescale_betas_zero_snr"] != json!(true) {
            warnings.push(format!(
                "{file}: {ZERO_SNR} in this file says that its noise schedule ends in pure noise, {place} that it does \
                 not; rescale_betas_zero_snr true and timestep_spacing trailing are taken"
            ));
            config["rescale_betas_zero_snr"] = json!(true);
            config["timestep_spacing"] = json!("trailing");
        }
        warnings
    }
}

/// Standard deviation of [`norm_of_last_block`] above which a UNet of Stable Diffusion 2.x predicts
/// velocities: a rule of thumb, which the user is told of.
const SPREAD_OF_VELOCITY: f64 = 0.09;

/// What the UNet of `file` predicts: what the user says; else what the file says; else, for 2.x, what its
/// weights suggest.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model) for a prediction that cannot be computed, and of the weights
/// that are looked at.
pub fn predicts(file: &Checkpoint, texts: Texts, asked: Option<Prediction>) -> Result<Predicts> {
    let has = |name: &str| file.root().has(name);
    let zero_snr = has(ZERO_SNR);
    let known = |prediction| Predicts { prediction, zero_snr, stated: None, note: None };
    let stated = |prediction, by| Ok(Predicts { stated: Some(by), ..known(prediction) });
    if let Some(prediction) = asked {
        return Ok(known(prediction));
    }
    if has(V_PRED) {
        return stated(Prediction::VPrediction, V_PRED);
    }
    let said = |key: &str| file.metadata().get(key).map(String::as_str);
    match said(PREDICTION_TYPE) {
        Some("v" | "v_prediction" | "v-prediction") => {
            return stated(Prediction::VPrediction, PREDICTION_TYPE);
        }
        Some("epsilon") => return stated(Prediction::Epsilon, PREDICTION_TYPE),
        Some(other) => {
            return Err(Error::model(format!(
                "{}: {PREDICTION_TYPE} is {other:?}, expected \"epsilon\" or \"v\"",
                file.label()
            ))
            .option("prediction")
            .advice("say by `prediction` what the UNet predicts"));
        }
        None => {}
    }
    if texts != Texts::OpenClip {
        return Ok(known(Prediction::Epsilon));
    }
    match said(ARCHITECTURE) {
        Some("stable-diffusion-v2-768-v") => return stated(Prediction::VPrediction, ARCHITECTURE),
        Some("stable-diffusion-v2-512") => return stated(Prediction::Epsilon, ARCHITECTURE),
        _ => {}
    }
    let velocity = norm_of_last_block(file)?.is_none_or(|spread| spread > SPREAD_OF_VELOCITY);
    let (prediction, found, other) = match velocity {
        true => (Prediction::VPrediction, "v_prediction", "epsilon"),
        false => (Prediction::Epsilon, "epsilon", "v_prediction"),
    };
    let note = format!(
        "{}: the file does not say what its UNet predicts; its weights suggest {found} (give `prediction` {other} if \
         the pictures are noise)",
        file.label()
    );
    Ok(Predicts { note: Some(note), ..known(prediction) })
}

/// The standard deviation of the bias of the first norm in the last transformer of the UNet.
fn norm_of_last_block(file: &Checkpoint) -> Result<Option<f64>> {
    let name = |i: usize| format!("{UNET}output_blocks.{i}.1.transformer_blocks.0.norm1.bias");
    let blocks =
        (0..).take_while(|i| file.root().has(&format!("{UNET}output_blocks.{i}.0.in_layers.0.weight")));
    let Some(name) = blocks.map(name).filter(|name| file.root().has(name)).last() else { return Ok(None) };
    let root = file.root();
    let dims = root.dims(&name).unwrap_or_default();
    let bias = root.tensor(&name, dims)?;
    let bias: Vec<f64> = bias.data().to_f32().iter().map(|&b| f64::from(b)).collect();
    let n = bias.len().max(1) as f64;
    let mean = bias.iter().sum::<f64>() / n;
    Ok(Some((bias.iter().map(|b| (b - mean) * (b - mean)).sum::<f64>() / n).sqrt()))
}

/// Changes a `scheduler_config.json`, an object, as diffusers' `from_config` with other arguments does.
pub fn choose(config: &mut Value, prediction: Option<Prediction>, chain: Option<Chain>) {
    if let Some(prediction) = prediction {
        config["prediction_type"] = json!(prediction_name(prediction));
    }
    match chain {
        None => {}
        Some(Chain::Lcm) => config["_class_name"] = json!("LCMScheduler"),
        Some(Chain::DdimTrailing) => {
            config["_class_name"] = json!("DDIMScheduler");
            config["timestep_spacing"] = json!("trailing");
            // A file that is silent does not clip latents because it is read as one of this class.
            if config.get("clip_sample").is_none_or(Value::is_null) {
                config["clip_sample"] = json!(false);
            }
        }
    }
}

/// A prediction as `scheduler_config.json` writes it.
fn prediction_name(prediction: Prediction) -> &'static str {
    match prediction {
        Prediction::Epsilon => "epsilon",
        Prediction::Sample => "sample",
        Prediction::VPrediction => "v_prediction",
    }
}

/// `scheduler/scheduler_config.json` as the family was published with, which is what diffusers'
/// `from_single_file` takes.
pub fn config(texts: Texts, predicts: &Predicts) -> Value {
    let class = match texts {
        Texts::Clip => "PNDMScheduler",
        Texts::OpenClip => "DDIMScheduler",
        Texts::Both => "EulerDiscreteScheduler",
    };
    json!({
        "_class_name": class,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "clip_sample": false,
        "set_alpha_to_one": false,
        "steps_offset": 1,
        "prediction_type": prediction_name(predicts.prediction),
        // A schedule that ends in pure noise must begin there.
        "timestep_spacing": if predicts.zero_snr { "trailing" } else { "leading" },
        "rescale_betas_zero_snr": predicts.zero_snr,
    })
}
