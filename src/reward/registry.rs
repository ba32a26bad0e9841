//! The rewards there are: a line for each file.

use super::kind::RewardKind;
use super::{aesthetic, checker, clip, exec, gold, http, incompressibility, jpeg, pickscore};

/// All rewards, in the order of lists.
pub static REWARDS: &[&RewardKind] = &[
    &aesthetic::REWARD,
    &clip::REWARD,
    &pickscore::REWARD,
    &jpeg::REWARD,
    &incompressibility::REWARD,
    &gold::REWARD,
    &checker::REWARD,
    &exec::REWARD,
    &http::REWARD,
];
