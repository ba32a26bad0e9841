//! Pre-norm transformer layers, as both towers of CLIP and the image encoder of BLIP have them, under the
//! names that three programs give to the same weights.

use super::block::{Linear, Loader, Norm};
use super::config;
use crate::backend::{Activation, Attention, Epilogue};
use crate::error::Result;
use crate::tape::{Tape, Var};

/// Who named the tensors of a stack.
#[derive(Clone, Copy, Debug)]
pub(super) enum Names {
    /// `encoder.layers.0.self_attn.q_proj`, of transformers.
    Transformers,
    /// `transformer.resblocks.0.attn.in_proj_weight`, of OpenCLIP: the three projections in one tensor.
    OpenClip,
    /// `blocks.0.attn.qkv`, of timm: the three projections in one tensor.
    Timm,
}

/// Sizes of a stack.
pub(super) struct Sizes {
    pub layers: usize,
    /// Channels of a token.
    pub width: usize,
    /// Channels between the two layers of the feed-forward part.
    pub inner: usize,
    pub heads: usize,
    pub activation: Activation,
    pub eps: f32,
    pub causal: bool,
}

impl From<config::Activation> for Activation {
    fn from(of_file: config::Activation) -> Activation {
        match of_file {
            config::Activation::Gelu => Activation::Gelu,
            config::Activation::QuickGelu => Activation::QuickGelu,
        }
    }
}

/// A pre-norm transformer layer.
struct Layer {
    norm1: Norm,
    qkv: Linear,
    out: Linear,
    norm2: Norm,
    fc1: Linear,
    fc2: Linear,
}

impl Layer {
    fn load(from: &Loader<'_>, names: Names, i: usize, c: usize, inner: usize) -> Result<Layer> {
        match names {
            Names::Transformers => {
                let at = from.at("encoder").at("layers").at(i);
                let own = at.at("self_attn");
                Ok(Layer {
                    norm1: at.norm("layer_norm1", c)?,
                    qkv: own.stacked(&["q_proj", "k_proj", "v_proj"], c, c, true)?,
                    out: own.linear("out_proj", c, c)?,
                    norm2: at.norm("layer_norm2", c)?,
                    fc1: at.at("mlp").linear("fc1", inner, c)?,
                    fc2: at.at("mlp").linear("fc2", c, inner)?,
                })
            }
            Names::OpenClip => {
                let at = from.at("transformer").at("resblocks").at(i);
                let own = at.at("attn");
                Ok(Layer {
                    norm1: at.norm("ln_1", c)?,
                    qkv: Linear {
                        w: own.matrix("in_proj_weight", 3 * c, c)?,
                        b: Some(own.vector("in_proj_bias", 3 * c)?),
                    },
                    out: own.linear("out_proj", c, c)?,
                    norm2: at.norm("ln_2", c)?,
                    fc1: at.at("mlp").linear("c_fc", inner, c)?,
                    fc2: at.at("mlp").linear("c_proj", c, inner)?,
                })
            }
            Names::Timm => {
                let at = from.at("blocks").at(i);
                Ok(Layer {
                    norm1: at.norm("norm1", c)?,
                    qkv: at.at("attn").linear("qkv", 3 * c, c)?,
                    out: at.at("attn").linear("proj", c, c)?,
                    norm2: at.norm("norm2", c)?,
                    fc1: at.at("mlp").linear("fc1", inner, c)?,
                    fc2: at.at("mlp").linear("fc2", c, inner)?,
                })
            }
        }
    }
}

/// A stack of layers.
pub(super) struct Layers {
    layers: Vec<Layer>,
    attention: Attention,
    activation: Activation,
    eps: f32,
}

impl Layers {
    pub fn load(from: &Loader<'_>, names: Names, sizes: &Sizes) -> Result<Layers> {
        let &Sizes { layers, width, inner, heads, activation, eps, causal } = sizes;
        Ok(Layers {
            layers: (0..layers).map(|i| Layer::load(from, names, i, width, inner)).collect::<Result<_>>()?,
            attention: Attention { heads, scale: ((width / heads) as f32).sqrt().recip(), causal },
            activation,
            eps,
        })
    }

    /// All layers, all tokens.
    pub fn run(&self, tape: &Tape<'_>, x: Var) -> Result<Var> {
        self.run_from(tape, &self.layers, x)
    }

    /// The tokens before the last layer, and behind it.
    pub fn run_all_but_last_and_all(&self, tape: &Tape<'_>, x: Var) -> Result<(Var, Var)> {
        let Some((last, before)) = self.layers.split_last() else { return Ok((x.clone(), x)) };
        let x = self.run_from(tape, before, x)?;
        let y = self.run_from(tape, std::slice::from_ref(last), x.clone())?;
        Ok((x, y))
    }

    fn run_from(&self, tape: &Tape<'_>, layers: &[Layer], mut x: Var) -> Result<Var> {
        for (i, layer) in layers.iter().enumerate() {
            let _range = tape.range(format_args!("layer {i}"));
            let h = self.attend(tape, layer, &x)?;
            x = self.finish(tape, layer, h, x)?;
        }
        Ok(x)
    }

    /// All layers, but of the last one only the first token, which is all that is read of it: `(n, 1, 1, c)`.
    pub fn run_to_first_token(&self, tape: &Tape<'_>, x: Var) -> Result<Var> {
        let at = vec![0; x.shape().n];
        let Some((last, before)) = self.layers.split_last() else { return tape.take_token(&x, &at) };
        let x = self.run_from(tape, before, x)?;
        let h = self.attend(tape, last, &x)?;
        let (h, x) = (tape.take_token(&h, &at)?, tape.take_token(&x, &at)?);
        self.finish(tape, last, h, x)
    }

    /// The heads' outputs.
    fn attend(&self, tape: &Tape<'_>, layer: &Layer, x: &Var) -> Result<Var> {
        let mut h = layer.norm1.layer(tape, x, self.eps)?;
        h = layer.qkv.run(tape, &h, None)?;
        tape.self_attention(&h, self.attention)
    }

    /// What a layer does behind its attention, token by token.
    fn finish(&self, tape: &Tape<'_>, layer: &Layer, h: Var, x: Var) -> Result<Var> {
        let x = layer.out.run(tape, &h, Some(&x))?;
        let mut h = layer.norm2.layer(tape, &x, self.eps)?;
        h = layer.fc1.run_with(tape, &h, Epilogue::Activate(self.activation))?;
        layer.fc2.run(tape, &h, Some(&x))
    }
}
