//! Pointwise maps on the GPU: launchers of kernels/pointwise.cu.

#![allow(unused_variables)]

use super::buffer::{Buffer, Elem};
use super::kernels::{Act, In, Launch, Out, kernels, params};
use super::{Cuda, PACKET};
use crate::backend::{Activation, AffineClamp};
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

/// Threads per block.
const BLOCK: u32 = 256;
/// Words that one launch of `put` carries: a kernel's parameters end at 4 KiB.
const WORDS: usize = 960;

params! {
    /// Words to write from `at` on.
    pub struct PutParams {
        pub words: [u32; 960],
        pub at: i32,
        pub n: i32,
    }
}

kernels! {
    /// The kernels of pointwise.cu.
    pub struct Table from "pointwise" {
        /// Act to f32, `n` elements.
        fn widen(x: In<Act>, y: Out<f32>, n: i64);
        /// f32 to Act.
        fn narrow(x: In<f32>, y: Out<Act>, n: i64);
        fn put(y: Out<u32>, p: PutParams);
    }
}

/// `x` as elements of type `elem`.
pub fn convert(cuda: &Cuda, x: &Tensor, elem: Elem) -> Result<Tensor> {
    let (from, n) = (cuda.buffer(x), x.shape().len());
    let mut y = cuda.alloc(elem, x.shape())?;
    let (kernels, launch) = (cuda.act(), Launch::cover(n.div_ceil(PACKET), BLOCK));
    let table = &kernels.pointwise;
    if elem == Elem::F32 {
        table.widen(&cuda.device, launch, kernels.read(from), y.f32_mut(), n as i64)?;
    } else {
        table.narrow(&cuda.device, launch, from.f32(), kernels.write(&mut y), n as i64)?;
    }
    Ok(cuda.wrap(x.shape(), y))
}

/// Copies bytes of the host. A few travel as parameters of a kernel, which needs no memory of the host to stay in place
/// and may be part of a graph.
pub fn put(cuda: &Cuda, bytes: &[u8], y: &mut Buffer) -> Result<()> {
    const FEW: usize = 4 * WORDS;
    if bytes.len() > 4 * FEW {
        return cuda.device.copy_in(bytes, y);
    }
    for (i, part) in bytes.chunks(FEW).enumerate() {
        let mut words = [0; WORDS];
        bytemuck::cast_slice_mut(&mut words)[..part.len()].copy_from_slice(part);
        // A buffer is whole words long, or its last word is half used.
        let n = part.len().div_ceil(4);
        let p = PutParams { words, at: (i * WORDS) as i32, n: n as i32 };
        cuda.wide.pointwise.put(&cuda.device, Launch::cover(n, BLOCK), y.words_mut(), p)?;
    }
    Ok(())
}

pub fn zeros(cuda: &Cuda, shape: Shape) -> Result<Tensor> {
    let mut y = cuda.alloc(cuda.elem_of(shape), shape)?;
    cuda.device.clear(&mut y)?;
    Ok(cuda.wrap(shape, y))
}

pub fn activate(cuda: &Cuda, x: &Tensor, f: Activation) -> Result<Tensor> {
    todo!()
}
pub fn activate_vjp(cuda: &Cuda, x: &Tensor, dy: &Tensor, f: Activation) -> Result<Tensor> {
    todo!()
}
pub fn geglu(cuda: &Cuda, x: &Tensor) -> Result<Tensor> {
    todo!()
}
pub fn geglu_vjp(cuda: &Cuda, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    todo!()
}
pub fn axpby(cuda: &Cuda, a: f32, x: &Tensor, b: f32, y: &Tensor) -> Result<Tensor> {
    todo!()
}
pub fn scale(cuda: &Cuda, a: f32, x: &Tensor) -> Result<Tensor> {
    todo!()
}
pub fn affine_clamp(cuda: &Cuda, x: &Tensor, map: AffineClamp) -> Result<Tensor> {
    todo!()
}
pub fn affine_clamp_vjp(cuda: &Cuda, x: &Tensor, dy: &Tensor, map: AffineClamp) -> Result<Tensor> {
    todo!()
}
pub fn channel_affine(cuda: &Cuda, x: &Tensor, gain: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
    todo!()
}
pub fn guide(cuda: &Cuda, x: &Tensor, s: f32) -> Result<Tensor> {
    todo!()
}
pub fn guide_vjp(cuda: &Cuda, dy: &Tensor, s: f32) -> Result<Tensor> {
    todo!()
}
