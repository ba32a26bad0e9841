//! `vae/config.json` for whoever wants images of latents, and takes any decoder that can be run.

use serde_json::Value;

use super::{AutoencoderConfig, Keys, TinyConfig, tiny, vae};
use crate::error::Result;
use crate::model::files::Source;

/// The decoder of an autoencoder, of either class.
#[derive(Clone, Debug, PartialEq)]
pub enum DecoderConfig {
    /// `AutoencoderKL`, which the model was trained with or one like it.
    Kl(AutoencoderConfig),
    /// `AutoencoderTiny`, an approximation of it.
    Tiny(TinyConfig),
}

/// Name of the class of autoencoders that models are trained with; that of a file that states none.
pub const AUTOENCODER_KL: &str = "AutoencoderKL";
/// Name of the class of tiny autoencoders.
pub const AUTOENCODER_TINY: &str = "AutoencoderTiny";
/// Autoencoders whose decoders can be run.
pub const AUTOENCODERS: &[&str] = &[AUTOENCODER_KL, AUTOENCODER_TINY];

impl DecoderConfig {
    /// Reads `component/config.json`; `_class_name` in it decides.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model): as of [`AutoencoderConfig::open`], and for any other
    /// class.
    pub fn open(source: &Source, component: &str) -> Result<DecoderConfig> {
        super::open(source, component, "config.json", parse)
    }

    /// As [`DecoderConfig::open`], from the content of the file; `file` names it in errors.
    ///
    /// # Errors
    /// As [`DecoderConfig::open`].
    pub fn parse(file: &str, bytes: &[u8]) -> Result<DecoderConfig> {
        super::parse_bytes(file, bytes, parse)
    }

    /// Channels of the latents.
    pub fn latent_channels(&self) -> usize {
        match self {
            DecoderConfig::Kl(config) => config.latent_channels,
            DecoderConfig::Tiny(config) => config.latent_channels,
        }
    }

    /// Channels of the images.
    pub fn out_channels(&self) -> usize {
        match self {
            DecoderConfig::Kl(config) => config.out_channels,
            DecoderConfig::Tiny(config) => config.out_channels,
        }
    }

    /// What is added to latents behind the division by the scaling factor.
    pub fn shift_factor_mut(&mut self) -> &mut f32 {
        match self {
            DecoderConfig::Kl(config) => &mut config.shift_factor,
            DecoderConfig::Tiny(config) => &mut config.shift_factor,
        }
    }

    /// Keys without a meaning to the Python class, with their values.
    pub fn unknown_keys(&self) -> &[String] {
        match self {
            DecoderConfig::Kl(config) => &config.unknown_keys,
            DecoderConfig::Tiny(config) => &config.unknown_keys,
        }
    }
}

fn parse(keys: &Keys<'_>) -> Result<DecoderConfig> {
    let known: Vec<Value> = AUTOENCODERS.iter().map(|class| Value::from(*class)).collect();
    keys.only("_class_name", &known)?;
    match keys.opt_text("_class_name")? {
        Some(AUTOENCODER_TINY) => tiny::parse(keys).map(DecoderConfig::Tiny),
        _ => vae::parse(keys).map(DecoderConfig::Kl),
    }
}
