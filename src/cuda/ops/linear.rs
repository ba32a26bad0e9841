//! Linear maps on the GPU: convolutions of single pixels.

use super::conv;
use crate::backend::Epilogue;
use crate::cuda::ctx::Cuda;
use crate::cuda::matmul::gather::{POINT, point};
use crate::cuda::matmul::{Output, Product};
use crate::error::Result;
use crate::tensor::Tensor;

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
