//! Matrix products on the GPU: launchers of kernels/gemm.cu.

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
    /// The kernels of gemm.cu.
    pub struct Table from "gemm" {
    }
}

pub fn linear(
    cuda: &Cuda,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    add: Option<&Tensor>,
) -> Result<Tensor> {
    todo!()
}

pub fn linear_vjp(cuda: &Cuda, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    todo!()
}
