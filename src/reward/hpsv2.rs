//! `hpsv2` and `hpsv2.1`: which image people would prefer for a prompt (Wu et al. 2023), by the two published
//! files of one model.

use super::cosine::Cosine;
use super::kind::{Needs, RewardKind};
use super::preprocess::Fit;
use super::towers::HPS;

pub(super) static V2: RewardKind = RewardKind {
    name: "hpsv2",
    about: "cosine of image and prompt",
    needs: Needs {
        files: Some("HPS_v2_compressed.pt (or .safetensors), or its folder"),
        prompt: true,
        gradient: true,
    },
    default_alpha: ALPHA,
    source: "docs/spec.md 7.4",
    open: |towers, name, path| {
        Ok(Box::new(Cosine::new(name, 1.0, Fit::CubicWhole, ALPHA, towers.hps(path, HPS[0].1)?)))
    },
};

pub(super) static V2_1: RewardKind = RewardKind {
    name: "hpsv2.1",
    needs: Needs { files: Some("HPS_v2.1_compressed.pt (or .safetensors), or its folder"), ..V2.needs },
    open: |towers, name, path| {
        Ok(Box::new(Cosine::new(name, 1.0, Fit::CubicWhole, ALPHA, towers.hps(path, HPS[1].1)?)))
    },
    ..V2
};

/// The scale of PickScore, which is the cosine of the same kind of model.
const ALPHA: f64 = 1e-4;
