//! What makes images of latents: the decoder of either class of autoencoder.

use super::checkpoint::Checkpoint;
use super::config::{AUTOENCODER_KL, AUTOENCODER_TINY, DecoderConfig};
use super::tiny::TinyDecoder;
use super::vae::Decoder;
use crate::backend::Backend;
use crate::error::Result;
use crate::tape::{Tape, Var};

/// The decoder of a pipeline.
pub enum ImageDecoder {
    /// Of an AutoencoderKL.
    Kl(Box<Decoder>),
    /// Of an AutoencoderTiny: an approximation.
    Tiny(Box<TinyDecoder>),
}

impl ImageDecoder {
    /// Reads the decoder's weights.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn load(
        backend: &dyn Backend,
        checkpoint: &Checkpoint,
        config: &DecoderConfig,
    ) -> Result<ImageDecoder> {
        match config {
            DecoderConfig::Kl(config) => {
                Decoder::load(backend, checkpoint, config).map(Box::new).map(ImageDecoder::Kl)
            }
            DecoderConfig::Tiny(config) => {
                TinyDecoder::load(backend, checkpoint, config).map(Box::new).map(ImageDecoder::Tiny)
            }
        }
    }

    /// Images `(n, s h, s w, 3)`, about -1 to 1, of latents `(n, h, w, c)`; `s` is [`ImageDecoder::scale`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn decode<'t>(&'t self, tape: &Tape<'t>, latents: &Var) -> Result<Var> {
        match self {
            ImageDecoder::Kl(decoder) => decoder.decode(tape, latents),
            ImageDecoder::Tiny(decoder) => decoder.decode(tape, latents),
        }
    }

    /// Pixels per latent, along one side.
    pub fn scale(&self) -> usize {
        match self {
            ImageDecoder::Kl(decoder) => decoder.config().scale(),
            ImageDecoder::Tiny(decoder) => decoder.config().scale(),
        }
    }

    /// Name of the autoencoder's Python class.
    pub fn class(&self) -> &'static str {
        match self {
            ImageDecoder::Kl(_) => AUTOENCODER_KL,
            ImageDecoder::Tiny(_) => AUTOENCODER_TINY,
        }
    }

    /// Whether its pictures, and so all rewards of them, are approximations of those of the autoencoder that
    /// the model was trained with.
    pub fn approximates(&self) -> bool {
        matches!(self, ImageDecoder::Tiny(_))
    }
}
