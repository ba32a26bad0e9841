//! `incompressibility`: images that compress badly.

use super::host::HostReward;
use super::jpeg_size::kilobytes;
use super::kind::{Needs, RewardKind};

pub(super) static REWARD: RewardKind = RewardKind {
    name: "incompressibility",
    about: "the kB of a JPEG",
    needs: Needs { files: None, prompt: false, gradient: false },
    default_alpha: 0.1,
    source: "docs/spec.md 7.5",
    open: |_, name, _| Ok(Box::new(HostReward::new(name, REWARD.default_alpha, kilobytes))),
};
