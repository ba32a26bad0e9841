//! `pickscore`: which image people would pick for a prompt (Kirstain et al. 2023).

use super::cosine::Cosine;
use super::kind::{Needs, RewardKind};
use super::preprocess::Fit;

pub(super) static REWARD: RewardKind = RewardKind {
    name: "pickscore",
    about: "cosine of image and prompt",
    needs: Needs {
        files: Some("the folder of PickScore_v1, or FOLDER,PROCESSOR"),
        prompt: true,
        gradient: true,
    },
    default_alpha: 1e-4,
    source: "docs/spec.md 7.3",
    open: |towers, name, path| {
        let tower = towers.named(path)?;
        Ok(Box::new(Cosine::new(name, 1.0, Fit::Centre, REWARD.default_alpha, tower)))
    },
};
