//! The autoencoder between images and latents: AutoencoderKL, whose decoder every guided step runs and whose
//! encoder starts from given images. Latents here are those of the diffusion; the scaling is done inside.

use super::block::{Conv2d, Linear, Loader, Norm, ResBlock};
use super::checkpoint::Checkpoint;
use super::config::AutoencoderConfig;
use crate::backend::{AffineClamp, Attention, Backend, Conv, GroupNorm};
use crate::error::Result;
use crate::tape::{Recompute, Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// Of all group norms; not configurable.
const EPS: f32 = 1e-6;

/// Log-variances of the posterior outside of this range are taken to be at its ends, as in training.
const LOG_VARIANCE: (f32, f32) = (-30.0, 20.0);

/// The half of an autoencoder that makes images.
pub struct Decoder {
    config: AutoencoderConfig,
    /// `latent / scale + shift` per channel, where that is not the identity.
    unscale: Option<(Tensor, Tensor)>,
    post_quant: Option<Linear>,
    conv_in: Conv2d,
    mid: Mid,
    levels: Vec<Level>,
    norm_out: Norm,
    conv_out: Conv2d,
}

/// The half that makes latents.
pub struct Encoder {
    config: AutoencoderConfig,
    /// `(encoded - shift) * scale` per channel, where that is not the identity.
    scale: Option<(Tensor, Tensor)>,
    quant: Option<Linear>,
    conv_in: Conv2d,
    levels: Vec<Level>,
    mid: Mid,
    norm_out: Norm,
    conv_out: Conv2d,
}

struct Level {
    blocks: Vec<Block>,
    resample: Option<Conv2d>,
}

/// A residual block with the bias of its first convolution.
struct Block {
    res: ResBlock,
    bias: Tensor,
}

impl Block {
    fn load(from: &Loader<'_>, input: usize, out: usize, groups: usize) -> Result<Block> {
        Ok(Block {
            res: ResBlock::load(from, input, out, groups, EPS)?,
            bias: from.vector("conv1.bias", out)?,
        })
    }
    fn run<'t>(&'t self, tape: &Tape<'t>, x: Var) -> Result<Var> {
        tape.section(Recompute::Blocks, x, |tape, x| self.res.run(tape, x, &self.bias))
    }
}

/// Two residual blocks around self-attention with one head.
struct Mid {
    first: Block,
    attention: Option<MidAttention>,
    second: Block,
}

struct MidAttention {
    norm: Norm,
    group_norm: GroupNorm,
    qkv: Linear,
    out: Linear,
    attention: Attention,
}

impl Mid {
    fn load(from: &Loader<'_>, c: usize, config: &AutoencoderConfig) -> Result<Mid> {
        let groups = config.norm_groups;
        let attention = || -> Result<MidAttention> {
            let at = from.at("attentions").at(0);
            Ok(MidAttention {
                norm: at.norm("group_norm", c)?,
                group_norm: GroupNorm { groups, eps: EPS, silu: false },
                qkv: at.stacked(&["to_q", "to_k", "to_v"], c, c, true)?,
                out: at.linear("to_out.0", c, c)?,
                attention: Attention { heads: 1, scale: (c as f32).sqrt().recip(), causal: false },
            })
        };
        Ok(Mid {
            first: Block::load(&from.at("resnets").at(0), c, c, groups)?,
            attention: config.mid_attention.then(attention).transpose()?,
            second: Block::load(&from.at("resnets").at(1), c, c, groups)?,
        })
    }

    fn run<'t>(&'t self, tape: &Tape<'t>, x: Var) -> Result<Var> {
        let mut x = self.first.run(tape, x)?;
        if let Some(a) = &self.attention {
            let mut h = a.norm.group(tape, &x, a.group_norm)?;
            h = a.qkv.run(tape, &h, None)?;
            h = tape.self_attention(&h, a.attention)?;
            x = a.out.run(tape, &h, Some(&x))?;
        }
        self.second.run(tape, x)
    }
}

/// Names of tensors in an autoencoder's file that belong to one half only.
const ENCODER: [&str; 2] = ["encoder.*", "quant_conv.*"];
const DECODER: [&str; 2] = ["decoder.*", "post_quant_conv.*"];

/// Gain and shift of each channel as tensors, unless they change nothing.
pub(super) fn affine(backend: &dyn Backend, gain: &[f32], shift: &[f32]) -> Result<Option<(Tensor, Tensor)>> {
    if gain.iter().all(|g| *g == 1.0) && shift.iter().all(|s| *s == 0.0) {
        return Ok(None);
    }
    let vector = |x: &[f32]| backend.upload(Shape::vector(x.len()), HostSlice::F32(x));
    Ok(Some((vector(gain)?, vector(shift)?)))
}

/// Gain and shift of each channel that make of latents what the decoder takes.
fn unscale(config: &AutoencoderConfig) -> (Vec<f32>, Vec<f32>) {
    let (c, gain) = (config.latent_channels, 1.0 / config.scaling_factor);
    match &config.statistics {
        Some((mean, deviation)) => (deviation.iter().map(|d| d * gain).collect(), mean.clone()),
        None => (vec![gain; c], vec![config.shift_factor; c]),
    }
}

/// Gain and shift of each channel that make latents of what the encoder gives.
fn scale(config: &AutoencoderConfig) -> (Vec<f32>, Vec<f32>) {
    let (c, gain) = (config.latent_channels, config.scaling_factor);
    match &config.statistics {
        Some((mean, deviation)) => {
            let shift = mean.iter().zip(deviation).map(|(m, d)| -m / d * gain);
            (deviation.iter().map(|d| gain / d).collect(), shift.collect())
        }
        None => (vec![gain; c], vec![-config.shift_factor * gain; c]),
    }
}

impl Decoder {
    /// Reads the decoder's weights.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming file and tensor: missing, misshapen or surplus
    /// tensors.
    pub fn load(
        backend: &dyn Backend,
        checkpoint: &Checkpoint,
        config: &AutoencoderConfig,
    ) -> Result<Decoder> {
        let root = Loader::new(backend, checkpoint);
        let from = root.at("decoder");
        let latent = config.latent_channels;
        let sizes: Vec<usize> = config.block_out_channels.iter().rev().copied().collect();
        let mut channels = sizes[0];
        let (conv_in, mid) =
            (from.conv("conv_in", channels, latent, 3)?, Mid::load(&from.at("mid_block"), channels, config)?);
        let mut levels = Vec::new();
        for (i, &out) in sizes.iter().enumerate() {
            let at = from.at("up_blocks").at(i);
            let mut blocks = Vec::new();
            for j in 0..config.layers_per_block + 1 {
                blocks.push(Block::load(&at.at("resnets").at(j), channels, out, config.norm_groups)?);
                channels = out;
            }
            let resample = (i + 1 < sizes.len()).then(|| at.at("upsamplers").at(0).conv("conv", out, out, 3));
            levels.push(Level { blocks, resample: resample.transpose()? });
        }
        let (gain, shift) = unscale(config);
        let decoder = Decoder {
            unscale: affine(backend, &gain, &shift)?,
            post_quant: config
                .post_quant_conv
                .then(|| root.linear("post_quant_conv", latent, latent))
                .transpose()?,
            conv_in,
            mid,
            levels,
            norm_out: from.norm("conv_norm_out", channels)?,
            conv_out: from.conv("conv_out", config.out_channels, channels, 3)?,
            config: config.clone(),
        };
        checkpoint.finish(&ENCODER)?;
        Ok(decoder)
    }

    /// Of the autoencoder.
    pub fn config(&self) -> &AutoencoderConfig {
        &self.config
    }

    /// Images `(n, s h, s w, 3)`, about -1 to 1, of latents `(n, h, w, c)`; `s` is
    /// [`AutoencoderConfig::scale`].
    ///
    /// # Errors
    /// Of the backend.
    pub fn decode<'t>(&'t self, tape: &Tape<'t>, latents: &Var) -> Result<Var> {
        let mut h = match &self.unscale {
            Some((gain, shift)) => tape.channel_affine(latents, gain, Some(shift))?,
            None => latents.clone(),
        };
        if let Some(linear) = &self.post_quant {
            h = linear.run(tape, &h, None)?;
        }
        h = self.conv_in.run(tape, &h, Conv::SAME3)?;
        h = {
            let _range = tape.range("mid");
            self.mid.run(tape, h)?
        };
        for (i, level) in self.levels.iter().enumerate() {
            let _range = tape.range(format_args!("up {i}"));
            for block in &level.blocks {
                h = block.run(tape, h)?;
            }
            if let Some(conv) = &level.resample {
                h = conv.run(tape, &h, Conv::UP3)?;
            }
        }
        let norm = GroupNorm { groups: self.config.norm_groups, eps: EPS, silu: true };
        h = self.norm_out.group(tape, &h, norm)?;
        self.conv_out.run(tape, &h, Conv::SAME3)
    }
}

/// Decoded images as intensities: `clamp(x / 2 + 0.5, 0, 1)` (docs/spec.md 2.1).
///
/// # Errors
/// Of the backend.
pub fn to_unit(tape: &Tape<'_>, x: &Var) -> Result<Var> {
    tape.affine_clamp(x, AffineClamp { a: 0.5, b: 0.5, lo: 0.0, hi: 1.0 })
}

/// Intensities as the encoder wants them: `2 x - 1`.
///
/// # Errors
/// Of the backend.
pub fn from_unit(tape: &Tape<'_>, x: &Var) -> Result<Var> {
    tape.affine_clamp(x, AffineClamp { a: 2.0, b: -1.0, lo: f32::NEG_INFINITY, hi: f32::INFINITY })
}

impl Encoder {
    /// Reads the encoder's weights.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn load(
        backend: &dyn Backend,
        checkpoint: &Checkpoint,
        config: &AutoencoderConfig,
    ) -> Result<Encoder> {
        let root = Loader::new(backend, checkpoint);
        let from = root.at("encoder");
        let (latent, sizes) = (config.latent_channels, &config.block_out_channels);
        let mut channels = sizes[0];
        let conv_in = from.conv("conv_in", channels, config.in_channels, 3)?;
        let mut levels = Vec::new();
        for (i, &out) in sizes.iter().enumerate() {
            let at = from.at("down_blocks").at(i);
            let mut blocks = Vec::new();
            for j in 0..config.layers_per_block {
                blocks.push(Block::load(&at.at("resnets").at(j), channels, out, config.norm_groups)?);
                channels = out;
            }
            let resample =
                (i + 1 < sizes.len()).then(|| at.at("downsamplers").at(0).conv("conv", out, out, 3));
            levels.push(Level { blocks, resample: resample.transpose()? });
        }
        let (gain, shift) = scale(config);
        let encoder = Encoder {
            scale: affine(backend, &gain, &shift)?,
            quant: config
                .quant_conv
                .then(|| root.linear("quant_conv", 2 * latent, 2 * latent))
                .transpose()?,
            conv_in,
            levels,
            mid: Mid::load(&from.at("mid_block"), channels, config)?,
            norm_out: from.norm("conv_norm_out", channels)?,
            conv_out: from.conv("conv_out", 2 * latent, channels, 3)?,
            config: config.clone(),
        };
        checkpoint.finish(&DECODER)?;
        Ok(encoder)
    }

    /// Of the autoencoder.
    pub fn config(&self) -> &AutoencoderConfig {
        &self.config
    }

    /// Mean of the posterior, as latents `(n, h, w, c)`, of images `(n, s h, s w, 3)` between -1 and 1.
    ///
    /// # Errors
    /// Of the backend.
    pub fn mean<'t>(&'t self, tape: &Tape<'t>, images: &Var) -> Result<Var> {
        let mean = tape.slice(&self.moments(tape, images)?, 0, self.config.latent_channels)?;
        self.scaled(tape, mean)
    }

    /// A draw from the posterior, as latents, for standard normal `noise` `(n, h, w, c)`. Not differentiable.
    ///
    /// # Errors
    /// Of the backend.
    pub fn sample(&self, backend: &dyn Backend, images: &Tensor, noise: &Tensor) -> Result<Tensor> {
        let (tape, c) = (Tape::off(backend), self.config.latent_channels);
        let moments = self.moments(&tape, &images.clone().into())?.into_value();
        // There is no exponential among the operations; this runs once per image, so the host may do it.
        let moments_host = backend.download(&moments)?;
        let mut z = backend.download(noise)?;
        assert_eq!(moments_host.len(), 2 * z.len(), "noise {} for {}", noise.shape(), moments.shape());
        for (z, m) in z.chunks_exact_mut(c).zip(moments_host.chunks_exact(2 * c)) {
            for i in 0..c {
                let log_variance = m[c + i].clamp(LOG_VARIANCE.0, LOG_VARIANCE.1);
                z[i] = m[i] + (0.5 * log_variance).exp() * z[i];
            }
        }
        let z = backend.upload(moments.shape().with_c(c), HostSlice::F32(&z))?;
        Ok(self.scaled(&tape, z.into())?.into_value())
    }

    fn scaled(&self, tape: &Tape<'_>, x: Var) -> Result<Var> {
        match &self.scale {
            Some((gain, shift)) => tape.channel_affine(&x, gain, Some(shift)),
            None => Ok(x),
        }
    }

    /// Means and log-variances, side by side.
    fn moments<'t>(&'t self, tape: &Tape<'t>, images: &Var) -> Result<Var> {
        let mut h = self.conv_in.run(tape, images, Conv::SAME3)?;
        for level in &self.levels {
            for block in &level.blocks {
                h = block.run(tape, h)?;
            }
            if let Some(conv) = &level.resample {
                h = conv.run(tape, &h, Conv::DOWN3_ASYM)?;
            }
        }
        h = self.mid.run(tape, h)?;
        let norm = GroupNorm { groups: self.config.norm_groups, eps: EPS, silu: true };
        h = self.norm_out.group(tape, &h, norm)?;
        h = self.conv_out.run(tape, &h, Conv::SAME3)?;
        match &self.quant {
            Some(linear) => linear.run(tape, &h, None),
            None => Ok(h),
        }
    }
}
