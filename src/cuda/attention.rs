//! Attention on the GPU: launchers of kernels/attention.cu.

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
    /// The kernels of attention.cu.
    pub struct Table from "attention" {
    }
}

pub fn self_attention(cuda: &Cuda, qkv: &Tensor, attention: Attention) -> Result<(Tensor, Saved)> {
    todo!()
}

pub fn self_attention_vjp(
    cuda: &Cuda,
    qkv: &Tensor,
    y: &Tensor,
    saved: &Saved,
    dy: &Tensor,
    attention: Attention,
) -> Result<Tensor> {
    todo!()
}

pub fn cross_attention(
    cuda: &Cuda,
    q: &Tensor,
    kv: &Tensor,
    kv_of: &[u32],
    attention: Attention,
) -> Result<Tensor> {
    todo!()
}

pub fn cross_attention_vjp(
    cuda: &Cuda,
    q: &Tensor,
    kv: &Tensor,
    kv_of: &[u32],
    dy: &Tensor,
    attention: Attention,
) -> Result<Tensor> {
    todo!()
}
