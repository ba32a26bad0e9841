//! `clip`: how well an image shows its prompt.

use super::cosine::Cosine;
use super::kind::{Needs, RewardKind};
use super::preprocess::Fit;

pub(super) static REWARD: RewardKind = RewardKind {
    name: "clip",
    about: "20 x cosine of image and prompt",
    needs: Needs {
        files: Some("the folder of a CLIP model, or an OpenCLIP file with its configuration"),
        prompt: true,
        gradient: true,
    },
    default_alpha: 0.01,
    source: "docs/spec.md 7.2",
    open: |towers, name, path| {
        let tower = towers.clip(path)?;
        Ok(Box::new(Cosine::new(name, FACTOR, Fit::Centre, REWARD.default_alpha, tower)))
    },
};

/// Brings the cosine to the scale of the aesthetic score, as in the authors' weighted sums.
const FACTOR: f32 = 20.0;
