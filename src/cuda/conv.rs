//! Convolutions and their transposes on the GPU: launchers of kernels/conv.cu.

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
    /// The kernels of conv.cu.
    pub struct Table from "conv" {
    }
}

pub fn conv(
    cuda: &Cuda,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    add: Option<&Tensor>,
    conv: Conv,
) -> Result<Tensor> {
    todo!()
}

pub fn conv_vjp(cuda: &Cuda, dy: &Tensor, w: &Tensor, x: Shape, conv: Conv) -> Result<Tensor> {
    todo!()
}
