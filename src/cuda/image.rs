//! Moving data on the GPU: launchers of kernels/image.cu.

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
    /// The kernels of image.cu.
    pub struct Table from "image" {
    }
}

pub fn concat(cuda: &Cuda, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    todo!()
}

pub fn slice(cuda: &Cuda, x: &Tensor, from: usize, c: usize) -> Result<Tensor> {
    todo!()
}

pub fn slice_vjp(cuda: &Cuda, dy: &Tensor, from: usize, c: usize) -> Result<Tensor> {
    todo!()
}

pub fn repeat(cuda: &Cuda, x: &Tensor, times: usize) -> Result<Tensor> {
    todo!()
}

pub fn repeat_vjp(cuda: &Cuda, dy: &Tensor, times: usize) -> Result<Tensor> {
    todo!()
}

pub fn gather(cuda: &Cuda, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    todo!()
}

pub fn stack(cuda: &Cuda, parts: &[&Tensor]) -> Result<Tensor> {
    todo!()
}

pub fn embed(cuda: &Cuda, x: &Tensor, token: Option<&Tensor>, position: &Tensor) -> Result<Tensor> {
    todo!()
}

pub fn embed_vjp(cuda: &Cuda, dy: &Tensor, x: Shape) -> Result<Tensor> {
    todo!()
}

pub fn take_token(cuda: &Cuda, x: &Tensor, at: &[u32]) -> Result<Tensor> {
    todo!()
}

pub fn take_token_vjp(cuda: &Cuda, dy: &Tensor, at: &[u32], x: Shape) -> Result<Tensor> {
    todo!()
}

pub fn resize(cuda: &Cuda, x: &Tensor, h: usize, w: usize, filter: Filter) -> Result<Tensor> {
    todo!()
}

pub fn resize_vjp(cuda: &Cuda, dy: &Tensor, x: Shape, filter: Filter) -> Result<Tensor> {
    todo!()
}
