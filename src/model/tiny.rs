//! The decoder of a tiny autoencoder (TAESD): diffusers' AutoencoderTiny. Its pictures are approximations of
//! those of the autoencoder that it was distilled from, at a small part of the cost. It takes latents as the
//! diffusion has them.

use super::block::{Conv2d, Loader};
use super::checkpoint::Checkpoint;
use super::config::TinyConfig;
use super::vae::{affine, from_unit};
use crate::backend::{AffineClamp, Backend, Conv};
use crate::error::Result;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Latents are bounded softly by this before anything else; not configurable.
const LIMIT: f32 = 3.0;

/// The half of a tiny autoencoder that makes images.
pub struct TinyDecoder {
    config: TinyConfig,
    /// `latent / scale + shift` per channel, where that is not the identity.
    unscale: Option<(Tensor, Tensor)>,
    conv_in: Conv2d,
    stages: Vec<Stage>,
}

/// Residual blocks, and the convolution that leads to the next stage or to the image.
struct Stage {
    blocks: Vec<Block>,
    out: Conv2d,
}

/// `relu(x + conv(relu(conv(relu(conv(x))))))`
struct Block([Conv2d; 3]);

impl Block {
    fn load(from: &Loader<'_>, c: usize) -> Result<Block> {
        let at = from.at("conv");
        // The activations between them have numbers too.
        Ok(Block([at.conv("0", c, c, 3)?, at.conv("2", c, c, 3)?, at.conv("4", c, c, 3)?]))
    }

    fn run(&self, tape: &Tape<'_>, x: Var) -> Result<Var> {
        let [first, second, third] = &self.0;
        let h = relu(tape, first.run(tape, &x, Conv::SAME3)?)?;
        let h = relu(tape, second.run(tape, &h, Conv::SAME3)?)?;
        let h = tape.conv(&h, &third.w, third.b.as_ref(), Some(&x), Conv::SAME3)?;
        relu(tape, h)
    }
}

fn relu(tape: &Tape<'_>, x: Var) -> Result<Var> {
    tape.affine_clamp(&x, AffineClamp::RELU)
}

impl TinyDecoder {
    /// Reads the decoder's weights.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming file and tensor: missing, misshapen or surplus
    /// tensors.
    pub fn load(backend: &dyn Backend, checkpoint: &Checkpoint, config: &TinyConfig) -> Result<TinyDecoder> {
        let root = Loader::new(backend, checkpoint);
        let from = root.at("decoder").at("layers");
        let (c, latent) = (config.channels, config.latent_channels);
        let conv_in = from.conv("0", c, latent, 3)?;
        // Activations and enlargements have numbers too.
        let mut next = 2;
        let mut stages = Vec::new();
        for (i, &count) in config.blocks.iter().enumerate() {
            let blocks =
                (next..next + count).map(|at| Block::load(&from.at(at), c)).collect::<Result<_>>()?;
            next += count;
            let out = if i + 1 < config.blocks.len() {
                next += 1;
                Conv2d { w: from.at(next).kernel(c, c, 3)?, b: None }
            } else {
                from.conv(&next.to_string(), config.out_channels, c, 3)?
            };
            next += 1;
            stages.push(Stage { blocks, out });
        }
        let per_channel = |x: f32| vec![x; latent];
        let unscale =
            affine(backend, &per_channel(1.0 / config.scaling_factor), &per_channel(config.shift_factor))?;
        checkpoint.finish(&["encoder.*"])?;
        Ok(TinyDecoder { config: config.clone(), unscale, conv_in, stages })
    }

    /// Of the autoencoder.
    pub fn config(&self) -> &TinyConfig {
        &self.config
    }

    /// Images `(n, s h, s w, 3)`, about -1 to 1, of latents `(n, h, w, c)`; `s` is [`TinyConfig::scale`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn decode(&self, tape: &Tape<'_>, latents: &Var) -> Result<Var> {
        let mut h = match &self.unscale {
            Some((gain, shift)) => tape.channel_affine(latents, gain, Some(shift))?,
            None => latents.clone(),
        };
        h = tape.soft_clamp(&h, LIMIT)?;
        h = relu(tape, self.conv_in.run(tape, &h, Conv::SAME3)?)?;
        for (i, stage) in self.stages.iter().enumerate() {
            let _range = tape.range(format_args!("up {i}"));
            for block in &stage.blocks {
                h = block.run(tape, h)?;
            }
            let last = i + 1 == self.stages.len();
            h = stage.out.run(tape, &h, if last { Conv::SAME3 } else { Conv::UP3 })?;
        }
        // The network makes intensities.
        from_unit(tape, &h)
    }
}
