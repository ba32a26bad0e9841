//! The lines of `particles.jsonl`, the status of a run, and the version of all files.
//!
//! JSON knows no NaN and no infinity: serde_json writes `null`. Each field that can be `null` has one meaning
//! of it: minus infinity in a log-weight (the particle is lost), "not a finite number" in a reward.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Version of the layout of every file and JSON line, `schema` in each: raised when a field goes, or changes
/// its type, unit or meaning; new fields alone leave it. `docs/formats.md` describes it.
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
#[non_exhaustive]
pub enum Status {
    /// Started and not ended, or killed.
    Running,
    /// Everything is there.
    Finished,
    /// Ended early, by the user; what is there is valid.
    Interrupted,
    /// Ended by an error; there are no pictures.
    Failed,
}

/// One final particle.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ParticleLine {
    /// Slot, from 0, of all populations one after another.
    pub index: usize,
    /// Its population, from 0.
    pub population: usize,
    /// Path of the picture, relative to the run's folder; `null` if not saved.
    pub path: Option<String>,
    /// Seed of the run.
    pub seed: u64,
    /// Natural logarithm of `weight`; minus infinity for a lost particle.
    pub log_weight: f64,
    /// Normalised: the weights of all particles sum to 1.
    pub weight: f64,
    /// The reward that was aligned to: the weighted sum.
    pub target: f64,
    /// Its terms, by name, unweighted.
    pub rewards: Map<String, Value>,
    /// Held-out rewards.
    pub eval_rewards: Map<String, Value>,
    /// All of them again, on the 8-bit picture.
    pub reward_png: Map<String, Value>,
    /// Whether it is the one that was chosen.
    pub is_best: bool,
    /// Index of the particle's ancestor at each step, first step first.
    pub lineage: Vec<u32>,
    /// SHA-256 of the PNG file; `None` if no picture was saved.
    pub sha256: Option<String>,
}
