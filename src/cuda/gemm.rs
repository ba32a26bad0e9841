//! Linear maps on the GPU: convolutions of single pixels. The kernels of gemm.cu are launched by product.rs.

use super::Cuda;
use super::conv;
use super::gather::POINT;
use super::kernels::{Act, In, Out, kernels, params};
use super::product::{Ended, Product, ProductParams};
use crate::backend::Epilogue;
use crate::error::Result;
use crate::tensor::Tensor;

params! {
    /// How parts of a product become a result.
    pub struct FinishParams {
        pub len: i64,
        pub columns: i32,
        pub splits: i32,
        pub per_sample: i32,
        pub epilogue: i32,
    }
}

kernels! {
    /// The kernels of gemm.cu.
    pub struct Table from "gemm" {
        fn plain(
            x: In<Act>,
            w: In<Act>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            turned: i32,
            p: ProductParams,
        );
        fn finish(
            z: In<f32>,
            bias: In<Act>,
            add: In<Act>,
            y: Out<Act>,
            given: Out<Act>,
            p: FinishParams,
        );
    }
}

pub fn linear(
    cuda: &Cuda,
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    add: Option<&Tensor>,
) -> Result<Tensor> {
    conv::conv(cuda, x, w, b, add, POINT)
}

/// With what follows; see [`Backend::linear_epilogue`](crate::backend::Backend::linear_epilogue).
#[track_caller]
pub fn linear_epilogue(
    cuda: &Cuda,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
    keep: bool,
) -> Result<Ended> {
    let out = x.shape().with_c(w.shape().n);
    let gather = conv::point(out);
    let product = Product { gather: &gather, x, w, turned: false, bias, add: None, out, wide: false };
    product.run_then(cuda, epilogue, keep)
}

pub fn linear_vjp(cuda: &Cuda, dy: &Tensor, w: &Tensor) -> Result<Tensor> {
    conv::conv_vjp(cuda, dy, w, dy.shape().with_c(w.shape().c), POINT)
}
