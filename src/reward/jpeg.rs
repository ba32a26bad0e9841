//! `jpeg`: images that compress well.

use super::host::HostReward;
use super::jpeg_size::kilobytes;
use super::kind::{Needs, RewardKind};

pub(super) static REWARD: RewardKind = RewardKind {
    name: "jpeg",
    about: "minus the kB of a JPEG",
    needs: Needs { files: None, prompt: false, gradient: false },
    default_alpha: 0.1,
    source: "docs/spec.md 7.5",
    open: |_, name, _| {
        let judge = |picture: &_| kilobytes(picture).map(|size| -size);
        Ok(Box::new(HostReward::new(name, REWARD.default_alpha, judge)))
    },
};
