//! The layers that the networks are made of, and how they come out of a checkpoint: linear maps,
//! convolutions, norms and the residual block that UNet and autoencoder share. Every fetch states the shape
//! it expects.

use std::fmt::Display;

use super::checkpoint::{Checkpoint, TensorView, Weights};
use crate::backend::{self, Backend, Epilogue, GroupNorm};
use crate::error::Result;
use crate::tape::{Tape, Var};
use crate::tensor::{Shape, Tensor};

/// A place in a checkpoint and the backend that its tensors go to.
pub(super) struct Loader<'a> {
    pub backend: &'a dyn Backend,
    weights: Weights<'a>,
}

impl<'a> Loader<'a> {
    pub fn new(backend: &'a dyn Backend, checkpoint: &'a Checkpoint) -> Loader<'a> {
        Loader { backend, weights: checkpoint.root() }
    }

    pub fn at(&self, part: impl Display) -> Loader<'a> {
        Loader { backend: self.backend, weights: self.weights.at(part) }
    }

    /// One level down where the file has that level.
    pub fn at_if_any(&self, part: impl Display) -> Loader<'a> {
        Loader { backend: self.backend, weights: self.weights.at_if_any(part) }
    }

    /// The tensor `name` of these sizes on the host; where nothing is computed, its values are not checked.
    pub fn view(&self, name: &str, dims: &[usize]) -> Result<TensorView<'a>> {
        match self.backend.computes() {
            true => self.weights.tensor(name, dims),
            false => self.weights.unseen(name, dims),
        }
    }

    /// The tensor `name` of these sizes as one of `shape`.
    fn put(&self, name: &str, dims: &[usize], shape: Shape) -> Result<Tensor> {
        self.view(name, dims)?.upload(self.backend, shape)
    }

    /// `(1, 1, 1, c)`.
    pub fn vector(&self, name: &str, c: usize) -> Result<Tensor> {
        self.put(name, &[c], Shape::vector(c))
    }

    /// `(rows, 1, 1, c)`.
    pub fn matrix(&self, name: &str, rows: usize, c: usize) -> Result<Tensor> {
        self.put(name, &[rows, c], Shape::rows(rows, c))
    }

    /// A linear layer with bias; a 1x1 convolution is one too.
    pub fn linear(&self, name: &str, out: usize, input: usize) -> Result<Linear> {
        let part = self.at(name);
        Ok(Linear { w: part.matrix("weight", out, input)?, b: Some(part.vector("bias", out)?) })
    }

    /// A linear layer without bias.
    pub fn plain_linear(&self, name: &str, out: usize, input: usize) -> Result<Linear> {
        Ok(Linear { w: self.at(name).matrix("weight", out, input)?, b: None })
    }

    /// Several linear layers of the same input as one: their outputs side by side.
    pub fn stacked(&self, names: &[&str], out: usize, input: usize, bias: bool) -> Result<Linear> {
        let parts = |name: &str, dims: &[usize]| -> Result<Vec<TensorView<'a>>> {
            names.iter().map(|layer| self.at(layer).view(name, dims)).collect()
        };
        let rows = names.len() * out;
        let w = upload_parts(self.backend, Shape::rows(rows, input), &parts("weight", &[out, input])?)?;
        let b = bias.then(|| upload_parts(self.backend, Shape::vector(rows), &parts("bias", &[out])?));
        Ok(Linear { w, b: b.transpose()? })
    }

    /// A convolution of side `k` with bias.
    pub fn conv(&self, name: &str, out: usize, input: usize, k: usize) -> Result<Conv2d> {
        let part = self.at(name);
        Ok(Conv2d { w: part.kernel(out, input, k)?, b: Some(part.vector("bias", out)?) })
    }

    /// The kernel `weight` here, `(out, k, k, in)`.
    pub fn kernel(&self, out: usize, input: usize, k: usize) -> Result<Tensor> {
        let (dims, shape) = ([out, input, k, k], Shape::new(out, k, k, input));
        match self.backend.computes() {
            true => self.weights.conv_weight("weight", dims)?.upload(self.backend, shape),
            false => self.put("weight", &dims, shape),
        }
    }

    pub fn norm(&self, name: &str, c: usize) -> Result<Norm> {
        let part = self.at(name);
        Ok(Norm { gamma: part.vector("weight", c)?, beta: part.vector("bias", c)? })
    }
}

/// Tensors of a checkpoint as one, each behind the last, in the element type of the file if they agree on it.
pub(super) fn upload_parts(backend: &dyn Backend, shape: Shape, parts: &[TensorView<'_>]) -> Result<Tensor> {
    backend.upload_parts(shape, &parts.iter().map(TensorView::data).collect::<Vec<_>>())
}

/// `y = x w^T + b`.
pub(super) struct Linear {
    pub w: Tensor,
    pub b: Option<Tensor>,
}

impl Linear {
    /// `x w^T + b + add`.
    pub fn run(&self, tape: &Tape<'_>, x: &Var, add: Option<&Var>) -> Result<Var> {
        tape.linear(x, &self.w, self.b.as_ref(), add)
    }

    /// `epilogue(x w^T + b)`.
    pub fn run_with(&self, tape: &Tape<'_>, x: &Var, epilogue: Epilogue) -> Result<Var> {
        tape.linear_epilogue(x, &self.w, self.b.as_ref(), epilogue)
    }

    /// `x w^T + b + add` of a constant, off the tape.
    pub fn apply(&self, backend: &dyn Backend, x: &Tensor, add: Option<&Tensor>) -> Result<Tensor> {
        backend.linear(x, &self.w, self.b.as_ref(), add)
    }

    /// `epilogue(x w^T + b)` of a constant, off the tape.
    pub fn apply_with(&self, backend: &dyn Backend, x: &Tensor, epilogue: Epilogue) -> Result<Tensor> {
        backend.linear_epilogue(x, &self.w, self.b.as_ref(), epilogue, false).map(|(y, _)| y)
    }
}

/// A convolution with its bias.
pub(super) struct Conv2d {
    pub w: Tensor,
    pub b: Option<Tensor>,
}

impl Conv2d {
    pub fn run(&self, tape: &Tape<'_>, x: &Var, conv: backend::Conv) -> Result<Var> {
        tape.conv(x, &self.w, self.b.as_ref(), None, conv)
    }
}

/// Scale and shift behind a normalisation.
pub(super) struct Norm {
    pub gamma: Tensor,
    pub beta: Tensor,
}

impl Norm {
    pub fn group(&self, tape: &Tape<'_>, x: &Var, norm: GroupNorm) -> Result<Var> {
        tape.group_norm(x, &self.gamma, &self.beta, norm)
    }

    pub fn layer(&self, tape: &Tape<'_>, x: &Var, eps: f32) -> Result<Var> {
        tape.layer_norm(x, &self.gamma, &self.beta, eps)
    }
}

/// Two convolutions, each behind a group norm and SiLU, beside a shortcut:
/// `y = shortcut(x) + conv2(act(conv1(act(x)) + bias))`.
pub(super) struct ResBlock {
    norm1: Norm,
    /// Without bias: the caller gives it, for it may contain the time embedding.
    conv1: Tensor,
    norm2: Norm,
    conv2: Conv2d,
    /// Where the number of channels changes.
    shortcut: Option<Linear>,
    norm: GroupNorm,
}

impl ResBlock {
    /// Everything but the bias of the first convolution, which `conv1.bias` holds.
    pub fn load(from: &Loader<'_>, input: usize, out: usize, groups: usize, eps: f32) -> Result<ResBlock> {
        let shortcut = (input != out).then(|| from.linear("conv_shortcut", out, input));
        Ok(ResBlock {
            norm1: from.norm("norm1", input)?,
            conv1: from.at("conv1").kernel(out, input, 3)?,
            norm2: from.norm("norm2", out)?,
            conv2: from.conv("conv2", out, out, 3)?,
            shortcut: shortcut.transpose()?,
            norm: GroupNorm { groups, eps, silu: true },
        })
    }

    /// `x` `(n, h, w, in)`; `bias` `(1|n, 1, 1, out)` is added behind the first convolution.
    pub fn run(&self, tape: &Tape<'_>, x: Var, bias: &Tensor) -> Result<Var> {
        let mut h = self.norm1.group(tape, &x, self.norm)?;
        h = tape.conv(&h, &self.conv1, Some(bias), None, backend::Conv::SAME3)?;
        h = self.norm2.group(tape, &h, self.norm)?;
        let x = match &self.shortcut {
            Some(shortcut) => shortcut.run(tape, &x, None)?,
            None => x,
        };
        tape.conv(&h, &self.conv2.w, self.conv2.b.as_ref(), Some(&x), backend::Conv::SAME3)
    }
}
