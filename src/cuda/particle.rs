//! Moving particles on the GPU: launchers of kernels/particle.cu.

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
    /// The kernels of particle.cu.
    pub struct Table from "particle" {
    }
}

pub fn normals(
    cuda: &Cuda,
    shape: Shape,
    seed: u64,
    step: u32,
    purpose: Purpose,
    ids: &[ParticleId],
) -> Result<Tensor> {
    todo!()
}

pub fn advance(
    cuda: &Cuda,
    particles: Particles<'_>,
    ancestors: &[u32],
    strength: &[f32],
    advance: Advance<'_>,
) -> Result<(Tensor, Vec<f64>)> {
    todo!()
}

pub fn squared_norms(cuda: &Cuda, x: &Tensor) -> Result<Vec<f64>> {
    todo!()
}
