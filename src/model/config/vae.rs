//! `vae/config.json`: the AutoencoderKL between images and latents.

use serde_json::Value;

use super::Keys;
use crate::error::Result;
use crate::model::files::Source;

/// An autoencoder. All its norms have eps 1e-6, its attention has one head, and its activation is SiLU.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderConfig {
    /// Channels of the images that are encoded.
    pub in_channels: usize,
    /// Channels of the images that are decoded.
    pub out_channels: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels per level, at full resolution first. The encoder halves the resolution after all but the
    /// last.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Groups of all group norms.
    pub norm_groups: usize,
    /// `latent = (encoded - shift) * scale`.
    pub scaling_factor: f32,
    /// See `scaling_factor`.
    pub shift_factor: f32,
    /// Mean and deviation of each latent channel: `latent = (encoded - mean) / deviation * scale`. Never
    /// together with a shift.
    pub statistics: Option<(Vec<f32>, Vec<f32>)>,
    /// Whether f16 overflows in this autoencoder, so that it must run in f32 (or bf16).
    pub force_upcast: bool,
    /// Whether there is a 1x1 convolution behind the encoder.
    pub quant_conv: bool,
    /// Whether there is a 1x1 convolution before the decoder.
    pub post_quant_conv: bool,
    /// Whether the block at the lowest resolution has self-attention.
    pub mid_attention: bool,
    /// Side of the images that it was trained on.
    pub sample_size: Option<(usize, usize)>,
    /// Keys without a meaning to the Python class, with their values.
    pub unknown_keys: Vec<String>,
}

impl AutoencoderConfig {
    /// Reads `component/config.json`.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming file and key: wrong types, contradictions, and
    /// values that would change the result and are not supported.
    pub fn open(source: &Source, component: &str) -> Result<AutoencoderConfig> {
        super::open(source, component, "config.json", parse)
    }

    /// As [`AutoencoderConfig::open`], from the content of the file; `file` names it in errors.
    ///
    /// # Errors
    /// As [`AutoencoderConfig::open`].
    pub fn parse(file: &str, bytes: &[u8]) -> Result<AutoencoderConfig> {
        super::parse_bytes(file, bytes, parse)
    }

    /// Pixels per latent, along one side.
    pub fn scale(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

pub(super) fn parse(keys: &Keys<'_>) -> Result<AutoencoderConfig> {
    keys.class("AutoencoderKL")?;
    keys.only("act_fn", &["silu".into(), "swish".into()])?;
    let (channels, norm_groups) = keys.levels(&[64])?;
    let n = channels.len();
    for (key, known) in [("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")] {
        let types = keys.texts(key, &[known])?;
        if let Some(other) = types.iter().find(|t| **t != known) {
            return Err(keys.unsupported(key, &Value::from(*other), known));
        }
        if types.len() != n {
            return Err(
                keys.contradiction(&format!("{key} has {} entries, block_out_channels has {n}", types.len()))
            );
        }
    }
    let latent_channels = keys.size("latent_channels", 4)?;
    Ok(AutoencoderConfig {
        in_channels: keys.size("in_channels", 3)?,
        out_channels: keys.size("out_channels", 3)?,
        latent_channels,
        block_out_channels: channels,
        layers_per_block: keys.count("layers_per_block", 1)?,
        norm_groups,
        scaling_factor: keys.positive("scaling_factor", 0.18215)?,
        shift_factor: keys.float("shift_factor", 0.0)?,
        statistics: statistics(keys, latent_channels)?,
        force_upcast: keys.flag("force_upcast", true)?,
        quant_conv: keys.flag("use_quant_conv", true)?,
        post_quant_conv: keys.flag("use_post_quant_conv", true)?,
        mid_attention: keys.flag("mid_block_add_attention", true)?,
        sample_size: keys.square_or_pair("sample_size")?,
        unknown_keys: keys.unknown(&["model_type"]),
    })
}

/// `latents_mean` and `latents_std`; one without the other is not read, as in the pipelines.
fn statistics(keys: &Keys<'_>, channels: usize) -> Result<Option<(Vec<f32>, Vec<f32>)>> {
    let per_channel = |key: &str, ok: fn(f32) -> bool| -> Result<Option<Vec<f32>>> {
        let Some(v) = keys.get(key) else { return Ok(None) };
        let number = |v: &Value| v.as_f64().map(|x| x as f32).filter(|x| ok(*x));
        let list: Option<Vec<f32>> = v.as_array().and_then(|list| list.iter().map(number).collect());
        list.filter(|list| list.len() == channels)
            .map(Some)
            .ok_or_else(|| keys.wrong(key, v, &format!("a number for each of {channels} latent channels")))
    };
    let (mean, deviation) = (
        per_channel("latents_mean", f32::is_finite)?,
        per_channel("latents_std", |x| x > 0.0 && x.is_normal())?,
    );
    Ok(mean.zip(deviation))
}
