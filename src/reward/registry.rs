//! The rewards there are: a line for each file.

use super::kind::RewardKind;
use super::{
    aesthetic, checker, clip, exec, gold, hpsv2, http, imagereward, incompressibility, jpeg, jpeg_proxy,
    pickscore,
};

/// All rewards, in the order of lists.
pub static REWARDS: &[&RewardKind] = &[
    &aesthetic::REWARD,
    &clip::REWARD,
    &pickscore::REWARD,
    &hpsv2::V2,
    &hpsv2::V2_1,
    &imagereward::REWARD,
    &jpeg::REWARD,
    &incompressibility::REWARD,
    &jpeg_proxy::REWARD,
    &gold::REWARD,
    &checker::REWARD,
    &exec::REWARD,
    &http::REWARD,
];
