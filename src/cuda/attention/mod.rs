//! Attention on the GPU. 16-bit heads of at most 160 channels go without a score matrix (flash.rs); wider
//! ones, f32 and heads that are not whole packets through matrix products, some scores at a time
//! (by_products.rs).

pub mod by_products;
pub mod flash;
mod params;

use by_products::{dot, per_query};
use params::{AttentionParams, Operands};

use crate::backend::{Attention, Saved};
use crate::cuda::ctx::{Cuda, Kernels};
use crate::cuda::device::{Buffer, Elem};
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

/// The kernels for these tensors, and whether those without a score matrix.
fn choose<'a>(cuda: &'a Cuda, tensors: &[&Tensor], p: &AttentionParams) -> (&'a Kernels, bool) {
    // Heads that are not whole packets are f32 work, whatever the rows are.
    let elem = cuda.common(tensors, &[p.d as usize]);
    (cuda.kernels(elem), elem != Elem::F32 && flash::width(p.d as usize).is_some())
}

/// The result as narrow as `like`, which was perhaps widened to make it.
fn as_narrow(cuda: &Cuda, shape: Shape, y: Buffer, like: &Tensor) -> Result<Tensor> {
    cuda.cast(&cuda.wrap(shape, y), cuda.buffer(like).elem())
}

pub fn self_attention(cuda: &Cuda, qkv: &Tensor, attention: Attention) -> Result<(Tensor, Saved)> {
    let shape = qkv.shape();
    let p = AttentionParams::own(shape, attention);
    let out = shape.with_c(shape.c / 3);
    let saved = Shape::new(shape.n, 1, attention.heads, shape.tokens());
    let (kernels, flash) = choose(cuda, &[qkv], &p);
    let wide = cuda.cast(qkv, kernels.elem)?;
    let x = cuda.buffer(&wide);
    let x = Operands { q: x, kv: x, kv_of: None, samples: shape.n, p };
    let (mut y, mut lse) = (cuda.alloc(kernels.elem, out)?, cuda.alloc(Elem::F32, saved)?);
    if flash {
        flash::forward(cuda, kernels, &x, &mut y, Some(&mut lse))?;
    } else {
        by_products::forward(cuda, kernels, &x, &mut y, &mut lse)?;
    }
    Ok((as_narrow(cuda, out, y, qkv)?, cuda.wrap(saved, lse)))
}

pub fn self_attention_vjp(
    cuda: &Cuda,
    qkv: &Tensor,
    y: &Tensor,
    saved: &Saved,
    dy: &Tensor,
    attention: Attention,
) -> Result<Tensor> {
    let shape = qkv.shape();
    let p = AttentionParams::own(shape, attention);
    let (kernels, flash) = choose(cuda, &[qkv, y, dy], &p);
    let [qkv_, y, dy] = [qkv, y, dy].map(|x| cuda.cast(x, kernels.elem));
    let (qkv_, y, dy) = (qkv_?, y?, dy?);
    let (x, y, dy) = (cuda.buffer(&qkv_), cuda.buffer(&y), cuda.buffer(&dy));
    let x = Operands { q: x, kv: x, kv_of: None, samples: shape.n, p };
    let dot = dot(cuda, kernels, &x, y, dy)?;
    let numbers = [cuda.buffer(saved), &dot];
    let mut dx = cuda.alloc(kernels.elem, shape)?;
    if flash {
        flash::keys_vjp(cuda, kernels, &x, dy, numbers, &mut dx)?;
        flash::queries_vjp(cuda, kernels, &x, dy, Some(numbers), &mut dx)?;
    } else {
        by_products::vjp(cuda, kernels, &x, dy, numbers, &mut dx)?;
    }
    as_narrow(cuda, shape, dx, qkv)
}

pub fn cross_attention(
    cuda: &Cuda,
    q: &Tensor,
    kv: &Tensor,
    kv_of: &[u32],
    attention: Attention,
) -> Result<Tensor> {
    let shape = q.shape();
    let p = AttentionParams::cross(shape, kv.shape(), attention);
    let (kernels, flash) = choose(cuda, &[q, kv], &p);
    let (wide, kv) = (cuda.cast(q, kernels.elem)?, cuda.cast_weight(kv, kernels.elem)?);
    let rows = cuda.indices(kv_of)?;
    let x = Operands { q: cuda.buffer(&wide), kv: cuda.buffer(&kv), kv_of: Some(&rows), samples: shape.n, p };
    let mut y = cuda.alloc(kernels.elem, shape)?;
    if flash {
        flash::forward(cuda, kernels, &x, &mut y, None)?;
    } else {
        by_products::forward(cuda, kernels, &x, &mut y, &mut per_query(cuda, &x)?)?;
    }
    as_narrow(cuda, shape, y, q)
}

pub fn cross_attention_vjp(
    cuda: &Cuda,
    q: &Tensor,
    kv: &Tensor,
    kv_of: &[u32],
    dy: &Tensor,
    attention: Attention,
) -> Result<Tensor> {
    let shape = q.shape();
    let p = AttentionParams::cross(shape, kv.shape(), attention);
    let (kernels, flash) = choose(cuda, &[q, kv, dy], &p);
    let (wide, dy) = (cuda.cast(q, kernels.elem)?, cuda.cast(dy, kernels.elem)?);
    let kv = cuda.cast_weight(kv, kernels.elem)?;
    let (rows, dy) = (cuda.indices(kv_of)?, cuda.buffer(&dy));
    let x = Operands { q: cuda.buffer(&wide), kv: cuda.buffer(&kv), kv_of: Some(&rows), samples: shape.n, p };
    let mut dq = cuda.alloc(kernels.elem, shape)?;
    if flash {
        flash::queries_vjp(cuda, kernels, &x, dy, None, &mut dq)?;
    } else {
        // Nothing was saved: the forward once more.
        let (mut y, mut lse) = (cuda.alloc(kernels.elem, shape)?, per_query(cuda, &x)?);
        by_products::forward(cuda, kernels, &x, &mut y, &mut lse)?;
        let dot = dot(cuda, kernels, &x, &y, dy)?;
        by_products::vjp(cuda, kernels, &x, dy, [&lse, &dot], &mut dq)?;
    }
    as_narrow(cuda, shape, dq, q)
}
