//! `vae/config.json` of a tiny autoencoder: diffusers' AutoencoderTiny, of which only the decoder is run.

use super::{Keys, MOST_LEVELS, as_count};
use crate::error::Result;

/// The decoder of a tiny autoencoder (TAESD). Its activation is ReLU, and it enlarges twice by nearest
/// neighbour after every stage but the last.
#[derive(Clone, Debug, PartialEq)]
pub struct TinyConfig {
    /// Channels of the images that are decoded.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of all stages.
    pub channels: usize,
    /// Residual blocks of each stage, at the lowest resolution first.
    pub blocks: Vec<usize>,
    /// What the latents of the diffusion are divided by first; 1 in all that were published.
    pub scaling_factor: f32,
    /// What is added to them then.
    pub shift_factor: f32,
    /// Keys without a meaning to the Python class, with their values.
    pub unknown_keys: Vec<String>,
}

impl TinyConfig {
    /// Pixels per latent, along one side.
    pub fn scale(&self) -> usize {
        1 << (self.blocks.len() - 1)
    }
}

/// Keys of the encoder, and of the bytes that latents can be stored as: nothing of them matters here.
const UNUSED: [&str; 8] = [
    "in_channels",
    "encoder_block_out_channels",
    "num_encoder_blocks",
    "block_out_channels",
    "latent_magnitude",
    "latent_shift",
    "force_upcast",
    "model_type",
];

/// Of a file whose class is known.
pub(super) fn parse(keys: &Keys<'_>) -> Result<TinyConfig> {
    keys.only("act_fn", &["relu".into()])?;
    keys.only("upsample_fn", &["nearest".into()])?;
    keys.only("upsampling_scaling_factor", &[2.into()])?;
    let stages = keys.sizes("decoder_block_out_channels", &[64; 4])?;
    let blocks = blocks(keys)?;
    if blocks.len() != stages.len() || stages.len() > MOST_LEVELS {
        return Err(keys.contradiction(&format!(
            "decoder_block_out_channels has {} entries and num_decoder_blocks {}, expected as many of both and at \
             most {MOST_LEVELS}",
            stages.len(),
            blocks.len()
        )));
    }
    let channels = stages[0];
    if let Some(other) = stages.iter().find(|c| **c != channels) {
        return Err(keys.contradiction(&format!(
            "decoder_block_out_channels has {channels} and {other}: no layer leads from one to the other"
        )));
    }
    Ok(TinyConfig {
        out_channels: keys.size("out_channels", 3)?,
        latent_channels: keys.size("latent_channels", 4)?,
        channels,
        blocks,
        scaling_factor: keys.positive("scaling_factor", 1.0)?,
        shift_factor: keys.float("shift_factor", 0.0)?,
        unknown_keys: keys.unknown(&UNUSED),
    })
}

/// A stage may have no block at all.
fn blocks(keys: &Keys<'_>) -> Result<Vec<usize>> {
    let Some(v) = keys.get("num_decoder_blocks") else { return Ok(vec![3, 3, 3, 1]) };
    let list = v.as_array().and_then(|list| list.iter().map(|v| as_count(v, 0)).collect());
    list.filter(|list: &Vec<usize>| !list.is_empty())
        .ok_or_else(|| keys.wrong("num_decoder_blocks", v, "a list of integers from 0 to 1024"))
}
