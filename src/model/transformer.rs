//! The transformer between residual blocks of the UNet: an image as its token sequence through blocks of
//! self-attention, attention to the text, and a gated feed-forward layer, each behind a layer norm and added
//! to its input. Keys and values of the text are constants, computed beforehand.

use super::block::{Linear, Loader, Norm};
use crate::backend::{Attention, Backend, Epilogue, GroupNorm};
use crate::error::Result;
use crate::tape::{Recompute, Tape, Var};
use crate::tensor::Tensor;

/// Of the layer norms; not configurable.
const LAYER_NORM_EPS: f32 = 1e-5;
/// Of the group norm at the entrance, whatever the rest of the UNet has.
const GROUP_NORM_EPS: f32 = 1e-6;

/// A transformer with its projections.
pub(super) struct Transformer {
    norm: Norm,
    group_norm: GroupNorm,
    proj_in: Linear,
    pub blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

/// What the transformers of a UNet are run with.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    /// Keys and values of every block, `(m, 1, tokens, 2c)`, in the order in which the blocks were loaded.
    pub kv: &'a [Tensor],
    /// The text of each sample. A multiple of the samples that are there: see [`widen`].
    pub rows: &'a [u32],
}

/// `x` for all of `n` samples: copied where it is still shared by samples that differ only in their text.
pub(super) fn widen(tape: &Tape<'_>, x: Var, n: usize) -> Result<Var> {
    if x.shape().n == n { Ok(x) } else { tape.repeat(&x, n / x.shape().n) }
}

impl Transformer {
    /// `first` is the number of blocks loaded before these, in the whole UNet.
    pub fn load(
        from: &Loader<'_>,
        c: usize,
        heads: usize,
        context: usize,
        depth: usize,
        groups: usize,
        first: usize,
    ) -> Result<Transformer> {
        let blocks = from.at("transformer_blocks");
        Ok(Transformer {
            norm: from.norm("norm", c)?,
            group_norm: GroupNorm { groups, eps: GROUP_NORM_EPS, silu: false },
            proj_in: from.linear("proj_in", c, c)?,
            blocks: (0..depth)
                .map(|i| TransformerBlock::load(&blocks.at(i), c, heads, context, first + i))
                .collect::<Result<_>>()?,
            proj_out: from.linear("proj_out", c, c)?,
        })
    }

    /// `x` `(k, h, w, c)` with `k` dividing the number of texts; `(n, h, w, c)` for `n` texts.
    pub fn run<'t>(&'t self, tape: &Tape<'t>, x: Var, text: Text<'t>) -> Result<Var> {
        let mut h = self.norm.group(tape, &x, self.group_norm)?;
        h = self.proj_in.run(tape, &h, None)?;
        for block in &self.blocks {
            h = tape.section(Recompute::Blocks, h, move |tape, h| block.run(tape, h, text))?;
        }
        let x = widen(tape, x, h.shape().n)?;
        self.proj_out.run(tape, &h, Some(&x))
    }
}

/// One block.
pub(super) struct TransformerBlock {
    norm1: Norm,
    qkv: Linear,
    out1: Linear,
    norm2: Norm,
    q: Linear,
    kv: Linear,
    out2: Linear,
    norm3: Norm,
    gated: Linear,
    down: Linear,
    attention: Attention,
    index: usize,
}

impl TransformerBlock {
    fn load(
        from: &Loader<'_>,
        c: usize,
        heads: usize,
        context: usize,
        index: usize,
    ) -> Result<TransformerBlock> {
        let (own, cross, ff) = (from.at("attn1"), from.at("attn2"), from.at("ff").at("net"));
        let inner = 4 * c;
        Ok(TransformerBlock {
            norm1: from.norm("norm1", c)?,
            qkv: own.stacked(&["to_q", "to_k", "to_v"], c, c, false)?,
            out1: own.linear("to_out.0", c, c)?,
            norm2: from.norm("norm2", c)?,
            q: cross.plain_linear("to_q", c, c)?,
            kv: cross.stacked(&["to_k", "to_v"], c, context, false)?,
            out2: cross.linear("to_out.0", c, c)?,
            norm3: from.norm("norm3", c)?,
            gated: ff.linear("0.proj", 2 * inner, c)?,
            down: ff.linear("2", c, inner)?,
            attention: Attention { heads, scale: ((c / heads) as f32).sqrt().recip(), causal: false },
            index,
        })
    }

    /// Its place among the blocks of the UNet.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Keys and values of `text` `(m, 1, tokens, context)`: `(m, 1, tokens, 2c)`.
    pub fn keys_and_values(&self, backend: &dyn Backend, text: &Tensor) -> Result<Tensor> {
        self.kv.apply(backend, text, None)
    }

    fn run<'t>(&'t self, tape: &Tape<'t>, mut x: Var, text: Text<'t>) -> Result<Var> {
        let n = text.rows.len();
        let mut h = tape.self_attention_of(&x, self.attention, |tape, x| {
            let h = self.norm1.layer(tape, x, LAYER_NORM_EPS)?;
            self.qkv.run(tape, &h, None)
        })?;
        x = self.out1.run(tape, &h, Some(&x))?;

        let kv = &text.kv[self.index];
        h = tape.cross_attention_of(&x, kv, text.rows, self.attention, move |tape, x| {
            let h = self.norm2.layer(tape, x, LAYER_NORM_EPS)?;
            let h = self.q.run(tape, &h, None)?;
            widen(tape, h, n)
        })?;
        x = widen(tape, x, n)?;
        x = self.out2.run(tape, &h, Some(&x))?;

        h = tape.section(Recompute::FeedForward, x.clone(), move |tape, x| {
            let h = self.norm3.layer(tape, &x, LAYER_NORM_EPS)?;
            self.gated.run_with(tape, &h, Epilogue::Geglu)
        })?;
        self.down.run(tape, &h, Some(&x))
    }
}
