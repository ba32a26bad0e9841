//! The lines of `trace.jsonl` and `particles.jsonl`. Names are those of the SMC literature; logarithms are natural.
//!
//! JSON knows no NaN and no infinity: serde_json writes `null`. Each field that can be `null` has one meaning of it:
//! minus infinity in a log-weight, its increment and `log_z` (a particle, or all of them, lost); "not a finite number"
//! in a reward or a norm; "not computed" for a whole list; "unknown" in `log_z_error`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Version of the layout of every file and JSON line, `schema` in each: raised when a field goes, or changes its type,
/// unit or meaning; new fields alone leave it. `docs/formats.md` describes it.
pub const SCHEMA: u32 = 1;

/// An object with its `schema` in front.
#[derive(Clone, Debug, Serialize)]
pub struct Versioned<T> {
    schema: u32,
    #[serde(flatten)]
    content: T,
}

impl<T: Serialize> Versioned<T> {
    /// `content` must serialise as an object.
    pub fn new(content: T) -> Versioned<T> {
        Versioned { schema: SCHEMA, content }
    }
}

/// How a run stands, field `status` of `run.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Started and not ended, or killed.
    Running,
    Finished,
    /// Ended early, by the user; what is there is valid.
    Interrupted,
    /// Ended by an error; there are no pictures.
    Failed,
}

/// One step of one prompt; lists have one entry per particle.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TraceLine {
    pub step: usize,
    /// Training timestep of the latents looked at.
    pub t: i64,
    /// Inverse temperature of the weights, and of the move that follows.
    pub lambda: f64,
    pub lambda_next: f64,
    /// Normalised, before any resampling.
    pub log_weights: Vec<f64>,
    pub log_w_increment: Vec<f64>,
    pub ess: f64,
    pub resampled: bool,
    pub ancestors: Vec<u32>,
    /// `None` where no rewards were computed.
    pub reward: Option<Vec<f64>>,
    /// Length of the reward's gradient; `None` where no gradients were computed.
    pub grad_norm: Option<Vec<f64>>,
    pub log_z_increment: f64,
    /// Of the estimate so far; minus infinity once every particle is lost.
    pub log_z: f64,
    /// Distinct particles of the first step that still have descendants.
    pub roots_alive: usize,
    /// Every particle was lost and the weights were made equal again.
    pub collapsed: bool,
    /// Values that were not finite.
    pub non_finite: Vec<NonFiniteEntry>,
    /// Wall-clock time since the line before, milliseconds.
    pub ms: f64,
    /// Most bytes of tensors alive at once so far.
    pub peak_bytes: u64,
}

/// A value that was not finite.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NonFiniteEntry {
    pub step: usize,
    pub particle: u32,
    /// `latent`, `noise prediction`, `reward` or `gradient`.
    pub quantity: &'static str,
}

/// One final particle.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ParticleLine {
    pub index: usize,
    /// Of the picture, relative to the run's folder; `null` if not saved.
    pub path: Option<String>,
    pub seed: u64,
    pub log_weight: f64,
    /// Normalised.
    pub weight: f64,
    /// The reward that was aligned to: the weighted sum.
    pub target: f64,
    /// Its terms, by name, unweighted.
    pub rewards: Map<String, Value>,
    /// Held-out rewards.
    pub eval_rewards: Map<String, Value>,
    /// All of them again, on the 8-bit picture.
    pub reward_png: Map<String, Value>,
    pub is_best: bool,
    /// Index of the particle's ancestor at each step, first step first.
    pub lineage: Vec<u32>,
    /// Of the PNG file.
    pub sha256: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_not_finite_are_null_and_the_line_stays_json() {
        let line = TraceLine {
            log_weights: vec![0.5, f64::NEG_INFINITY, f64::NAN, f64::INFINITY],
            log_z: f64::NEG_INFINITY,
            ..TraceLine::default()
        };
        let text = serde_json::to_string(&line).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["log_weights"], serde_json::json!([0.5, null, null, null]));
        assert_eq!(value["log_z"], Value::Null);
        let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "step",
                "t",
                "lambda",
                "lambda_next",
                "log_weights",
                "log_w_increment",
                "ess",
                "resampled",
                "ancestors",
                "reward",
                "grad_norm",
                "log_z_increment",
                "log_z",
                "roots_alive",
                "collapsed",
                "non_finite",
                "ms",
                "peak_bytes"
            ]
        );
    }

    #[test]
    fn floats_survive_the_file() {
        let x = 0.1 + 0.2;
        let text = serde_json::to_string(&TraceLine { ess: x, ..TraceLine::default() }).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["ess"].as_f64(), Some(x));
    }
}
