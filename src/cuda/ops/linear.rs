//! Linear maps on the GPU: convolutions of single pixels.

use super::{conv, image};
use crate::backend::Epilogue;
use crate::cuda::ctx::Cuda;
use crate::cuda::matmul::gather::{POINT, point};
use crate::cuda::matmul::{Output, Product, simt};
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

pub fn linear(
    cuda: &Cuda,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    add: Option<&Tensor>,
) -> Result<Tensor> {
    conv::conv(cuda, x, w, b, add, POINT)
}

/// With an epilogue; see [`Backend::linear_epilogue`](crate::backend::Backend::linear_epilogue).
#[track_caller]
pub fn linear_epilogue(
    cuda: &Cuda,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
    keep: bool,
) -> Result<Output> {
    let out = x.shape().with_c(w.shape().n);
    let gather = point(out);
    let product =
        Product { gather: &gather, x, w, transposed: false, bias, add: None, out, f32_output: false };
    product.run_epilogue(cuda, epilogue, keep)
}

pub fn linear_vjp(cuda: &Cuda, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    conv::conv_vjp(cuda, dy, w, dy.shape().with_c(w.shape().c), POINT)
}

/// In f32. The parts are added up by the sum over copies.
pub fn linear_weight_vjp(cuda: &Cuda, dy: &Tensor, x: &Tensor) -> Result<Tensor> {
    let shape = Shape::rows(dy.shape().c, x.shape().c);
    let parts = simt::linear_weight_vjp(cuda, dy, x)?;
    match parts.shape().n {
        1 => Ok(parts.reshape(shape)),
        n => Ok(image::repeat_vjp(cuda, &parts, n)?.reshape(shape)),
    }
}
