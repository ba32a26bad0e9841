//! Normalisations on the GPU: launchers of kernels/norm.cu.

#![allow(unused_variables, dead_code, unused_imports)]

use super::Cuda;
use super::kernels::{Act, In, Launch, Out, kernels, params};
use crate::backend::{
    Activation, Advance, AffineClamp, Attention, Conv, Filter, GroupNorm, ParticleId, Particles, Saved,
};
use crate::error::Result;
use crate::noise::Purpose;
use crate::tensor::{Shape, Tensor};

kernels! {
    /// The kernels of norm.cu.
    pub struct Table from "norm" {
    }
}

pub fn group_norm(
    cuda: &Cuda,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    norm: GroupNorm,
) -> Result<(Tensor, Saved)> {
    todo!()
}

pub fn group_norm_vjp(
    cuda: &Cuda,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    saved: &Saved,
    dy: &Tensor,
    norm: GroupNorm,
) -> Result<Tensor> {
    todo!()
}

pub fn layer_norm(
    cuda: &Cuda,
    x: &Tensor,
    gamma: &Tensor,
    beta: &Tensor,
    eps: f32,
) -> Result<(Tensor, Saved)> {
    todo!()
}

pub fn layer_norm_vjp(cuda: &Cuda, x: &Tensor, gamma: &Tensor, saved: &Saved, dy: &Tensor) -> Result<Tensor> {
    todo!()
}

pub fn l2_norm(cuda: &Cuda, x: &Tensor) -> Result<Tensor> {
    todo!()
}

pub fn l2_norm_vjp(cuda: &Cuda, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    todo!()
}
