//! Pointwise maps on the GPU: launchers of kernels/pointwise.cu.

use super::layout::{BLOCK, IN_FLIGHT, RowLayout, access, flat};
use crate::backend::{Activation, AffineClamp};
use crate::cuda::ctx::{Cuda, Kernels};
use crate::cuda::device::{Act, Buffer, Elem, In, Out};
use crate::cuda::launch::{Launch, kernels, params};
use crate::error::Result;
use crate::tensor::{PACKET, Shape, Tensor};

/// Words that one launch of `put` carries: a kernel's parameters end at 4 KiB.
const WORDS: usize = 960;

params! {
    /// Words to write from `at` on.
    pub struct PutParams {
        pub words: [u32; 960],
        pub at: i32,
        pub n: i32,
    }
    /// 0 silu, 1 gelu, 2 quick-gelu.
    pub struct ActivateParams {
        pub n: i64,
        pub f: i32,
    }
    pub struct AxpbyParams {
        pub n: i64,
        pub a: f32,
        pub b: f32,
    }
    pub struct BlendParams {
        pub n: i64,
        pub which: i32,
    }
    pub struct ClampParams {
        pub n: i64,
        pub a: f32,
        pub b: f32,
        pub lo: f32,
        pub hi: f32,
    }
    pub struct SoftClampParams {
        pub n: i64,
        pub limit: f32,
    }
    /// `n` elements of the guided half.
    pub struct CfgCombineParams {
        pub n: i64,
        pub s: f32,
        pub vectorized: i32,
    }
    /// `c` channels of the narrower side.
    pub struct RowMapParams {
        pub rows: i64,
        pub c: i32,
        pub columns: i32,
        pub lanes: i32,
        pub vectorized: i32,
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
        fn activate(x: In<Act>, y: Out<Act>, p: ActivateParams);
        fn activate_vjp(x: In<Act>, dy: In<Act>, dx: Out<Act>, p: ActivateParams);
        fn axpby(x: In<Act>, y: In<Act>, out: Out<Act>, p: AxpbyParams);
        fn scale(x: In<Act>, y: Out<Act>, p: AxpbyParams);
        fn blend(k: In<f32>, x: In<Act>, y: In<Act>, out: Out<Act>, p: BlendParams);
        fn blend_vjp(k: In<f32>, dy: In<Act>, dx: Out<Act>, p: BlendParams);
        fn affine_clamp(x: In<Act>, y: Out<Act>, p: ClampParams);
        fn affine_clamp_vjp(x: In<Act>, dy: In<Act>, dx: Out<Act>, p: ClampParams);
        fn soft_clamp(x: In<Act>, y: Out<Act>, p: SoftClampParams);
        fn soft_clamp_vjp(x: In<Act>, dy: In<Act>, dx: Out<Act>, p: SoftClampParams);
        fn cfg_combine(x: In<Act>, y: Out<Act>, p: CfgCombineParams);
        fn cfg_combine_vjp(dy: In<Act>, dx: Out<Act>, p: CfgCombineParams);
        fn channel_affine(x: In<Act>, gain: In<Act>, shift: In<Act>, y: Out<Act>, p: RowMapParams);
        fn geglu(x: In<Act>, y: Out<Act>, p: RowMapParams);
        fn geglu_vjp(x: In<Act>, dy: In<Act>, dx: Out<Act>, p: RowMapParams);
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

/// Copies bytes of the host. A few travel as parameters of kernels, which needs no memory of the host to stay
/// in place and may be part of a graph.
pub fn put(cuda: &Cuda, bytes: &[u8], y: &mut Buffer) -> Result<()> {
    const FEW: usize = 4 * WORDS;
    // Sixteen launches carry the weights of a resize of any picture.
    if bytes.len() > 16 * FEW {
        return cuda.device.copy_in(bytes, y);
    }
    for (i, part) in bytes.chunks(FEW).enumerate() {
        let mut words = [0; WORDS];
        bytemuck::cast_slice_mut(&mut words)[..part.len()].copy_from_slice(part);
        // A buffer is whole words long, or its last word is half used.
        let n = part.len().div_ceil(4);
        let p = PutParams { words, at: (i * WORDS) as i32, n: n as i32 };
        cuda.f32.pointwise.put(&cuda.device, Launch::cover(n, BLOCK), y.words_mut(), p)?;
    }
    Ok(())
}

pub fn zeros(cuda: &Cuda, shape: Shape) -> Result<Tensor> {
    let mut y = cuda.alloc(cuda.elem_of(shape), shape)?;
    cuda.device.clear(&mut y)?;
    Ok(cuda.wrap(shape, y))
}

/// A result shaped like `x`, made by `launch(kernels, x, y, elements)`.
fn map(
    cuda: &Cuda,
    x: &Tensor,
    launch: impl FnOnce(&Kernels, In<'_, Act>, Out<'_, Act>, Launch) -> Result<()>,
) -> Result<Tensor> {
    let (elem, n) = (cuda.buffer(x).elem(), x.shape().len());
    let kernels = cuda.kernels(elem);
    let mut y = cuda.alloc(elem, x.shape())?;
    let grid = flat(n, 16 / elem.size(), IN_FLIGHT);
    launch(kernels, kernels.read(cuda.buffer(x)), kernels.write(&mut y), grid)?;
    Ok(cuda.wrap(x.shape(), y))
}

/// The same from two tensors of one shape.
#[track_caller]
fn map2(
    cuda: &Cuda,
    a: &Tensor,
    b: &Tensor,
    launch: impl FnOnce(&Kernels, In<'_, Act>, In<'_, Act>, Out<'_, Act>, Launch) -> Result<()>,
) -> Result<Tensor> {
    let elem = cuda.common(&[a, b], &[]);
    let (a, b) = (cuda.cast(a, elem)?, cuda.cast(b, elem)?);
    let kernels = cuda.kernels(elem);
    let mut y = cuda.alloc(elem, a.shape())?;
    let grid = flat(a.shape().len(), 16 / elem.size(), IN_FLIGHT / 2);
    let (from_a, from_b) = (kernels.read(cuda.buffer(&a)), kernels.read(cuda.buffer(&b)));
    launch(kernels, from_a, from_b, kernels.write(&mut y), grid)?;
    Ok(cuda.wrap(a.shape(), y))
}

fn activation(n: usize, f: Activation) -> ActivateParams {
    let f = match f {
        Activation::Silu => 0,
        Activation::Gelu => 1,
        Activation::QuickGelu => 2,
    };
    ActivateParams { n: n as i64, f }
}

pub fn activate(cuda: &Cuda, x: &Tensor, f: Activation) -> Result<Tensor> {
    let p = activation(x.shape().len(), f);
    map(cuda, x, |kernels, x, y, grid| kernels.pointwise.activate(&cuda.device, grid, x, y, p))
}
pub fn activate_vjp(cuda: &Cuda, x: &Tensor, dy: &Tensor, f: Activation) -> Result<Tensor> {
    let p = activation(x.shape().len(), f);
    map2(cuda, x, dy, |kernels, x, dy, dx, grid| {
        kernels.pointwise.activate_vjp(&cuda.device, grid, x, dy, dx, p)
    })
}

pub fn axpby(cuda: &Cuda, a: f32, x: &Tensor, b: f32, y: &Tensor) -> Result<Tensor> {
    let p = AxpbyParams { n: x.shape().len() as i64, a, b };
    map2(cuda, x, y, |kernels, x, y, out, grid| kernels.pointwise.axpby(&cuda.device, grid, x, y, out, p))
}
pub fn scale(cuda: &Cuda, a: f32, x: &Tensor) -> Result<Tensor> {
    let p = AxpbyParams { n: x.shape().len() as i64, a, b: 0.0 };
    map(cuda, x, |kernels, x, y, grid| kernels.pointwise.scale(&cuda.device, grid, x, y, p))
}

pub fn blend(cuda: &Cuda, k: &Tensor, x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let p = BlendParams { n: x.shape().len() as i64, which: 0 };
    let k = cuda.cast(k, Elem::F32)?;
    map2(cuda, x, y, |kernels, x, y, out, grid| {
        kernels.pointwise.blend(&cuda.device, grid, cuda.buffer(&k).f32(), x, y, out, p)
    })
}
pub fn blend_vjp(cuda: &Cuda, k: &Tensor, which: usize, dy: &Tensor) -> Result<Tensor> {
    let p = BlendParams { n: dy.shape().len() as i64, which: which as i32 };
    let k = cuda.cast(k, Elem::F32)?;
    map(cuda, dy, |kernels, dy, dx, grid| {
        kernels.pointwise.blend_vjp(&cuda.device, grid, cuda.buffer(&k).f32(), dy, dx, p)
    })
}

fn clamp(n: usize, map: AffineClamp) -> ClampParams {
    ClampParams { n: n as i64, a: map.a, b: map.b, lo: map.lo, hi: map.hi }
}
pub fn affine_clamp(cuda: &Cuda, x: &Tensor, by: AffineClamp) -> Result<Tensor> {
    let p = clamp(x.shape().len(), by);
    map(cuda, x, |kernels, x, y, grid| kernels.pointwise.affine_clamp(&cuda.device, grid, x, y, p))
}
pub fn affine_clamp_vjp(cuda: &Cuda, x: &Tensor, dy: &Tensor, by: AffineClamp) -> Result<Tensor> {
    let p = clamp(x.shape().len(), by);
    map2(cuda, x, dy, |kernels, x, dy, dx, grid| {
        kernels.pointwise.affine_clamp_vjp(&cuda.device, grid, x, dy, dx, p)
    })
}

pub fn soft_clamp(cuda: &Cuda, x: &Tensor, limit: f32) -> Result<Tensor> {
    let p = SoftClampParams { n: x.shape().len() as i64, limit };
    map(cuda, x, |kernels, x, y, grid| kernels.pointwise.soft_clamp(&cuda.device, grid, x, y, p))
}
pub fn soft_clamp_vjp(cuda: &Cuda, x: &Tensor, dy: &Tensor, limit: f32) -> Result<Tensor> {
    let p = SoftClampParams { n: x.shape().len() as i64, limit };
    map2(cuda, x, dy, |kernels, x, dy, dx, grid| {
        kernels.pointwise.soft_clamp_vjp(&cuda.device, grid, x, dy, dx, p)
    })
}

pub fn cfg_combine(cuda: &Cuda, x: &Tensor, s: f32) -> Result<Tensor> {
    let shape = x.shape();
    let (half, elem) = (shape.with_n(shape.n / 2), cuda.buffer(x).elem());
    let kernels = cuda.kernels(elem);
    let access = access(elem, &[half.len()]);
    let p = CfgCombineParams { n: half.len() as i64, s, vectorized: i32::from(access > 1) };
    let mut y = cuda.alloc(elem, half)?;
    let (from, grid) = (kernels.read(cuda.buffer(x)), flat(half.len(), access, IN_FLIGHT / 2));
    kernels.pointwise.cfg_combine(&cuda.device, grid, from, kernels.write(&mut y), p)?;
    Ok(cuda.wrap(half, y))
}
pub fn cfg_combine_vjp(cuda: &Cuda, dy: &Tensor, s: f32) -> Result<Tensor> {
    let (shape, elem) = (dy.shape(), cuda.buffer(dy).elem());
    let kernels = cuda.kernels(elem);
    let access = access(elem, &[shape.len()]);
    let p = CfgCombineParams { n: shape.len() as i64, s, vectorized: i32::from(access > 1) };
    let both = shape.with_n(2 * shape.n);
    let mut dx = cuda.alloc(elem, both)?;
    let (from, grid) = (kernels.read(cuda.buffer(dy)), flat(shape.len(), access, IN_FLIGHT));
    kernels.pointwise.cfg_combine_vjp(&cuda.device, grid, from, kernels.write(&mut dx), p)?;
    Ok(cuda.wrap(both, dx))
}

fn rows(layout: &RowLayout, shape: Shape) -> RowMapParams {
    RowMapParams {
        rows: shape.positions() as i64,
        c: shape.c as i32,
        columns: layout.columns as i32,
        lanes: layout.lanes as i32,
        vectorized: layout.vectorized(),
    }
}

pub fn channel_affine(cuda: &Cuda, x: &Tensor, gain: &Tensor, shift: Option<&Tensor>) -> Result<Tensor> {
    let (shape, elem) = (x.shape(), cuda.buffer(x).elem());
    let kernels = cuda.kernels(elem);
    let gain = cuda.cast_weight(gain, elem)?;
    let shift = shift.map(|s| cuda.cast_weight(s, elem)).transpose()?;
    let layout = RowLayout::new(elem, shape.c, &[]);
    let mut y = cuda.alloc(elem, shape)?;
    kernels.pointwise.channel_affine(
        &cuda.device,
        layout.launch(shape.positions()),
        kernels.read(cuda.buffer(x)),
        kernels.read(cuda.buffer(&gain)),
        shift.as_ref().map_or(In::none(), |s| kernels.read(cuda.buffer(s))),
        kernels.write(&mut y),
        rows(&layout, shape),
    )?;
    Ok(cuda.wrap(shape, y))
}

pub fn geglu(cuda: &Cuda, x: &Tensor) -> Result<Tensor> {
    let shape = x.shape().with_c(x.shape().c / 2);
    let elem = cuda.common(&[x], &[shape.c]);
    let (kernels, x) = (cuda.kernels(elem), cuda.cast(x, elem)?);
    let layout = RowLayout::new(elem, shape.c, &[]);
    let mut y = cuda.alloc(elem, shape)?;
    let (from, to) = (kernels.read(cuda.buffer(&x)), kernels.write(&mut y));
    let launch = layout.launch(shape.positions());
    kernels.pointwise.geglu(&cuda.device, launch, from, to, rows(&layout, shape))?;
    Ok(cuda.wrap(shape, y))
}
pub fn geglu_vjp(cuda: &Cuda, x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let half = x.shape().with_c(x.shape().c / 2);
    let elem = cuda.common(&[x, dy], &[half.c]);
    let (kernels, x, dy) = (cuda.kernels(elem), cuda.cast(x, elem)?, cuda.cast(dy, elem)?);
    let layout = RowLayout::new(elem, half.c, &[]);
    let mut dx = cuda.alloc(elem, x.shape())?;
    let (from, from_dy) = (kernels.read(cuda.buffer(&x)), kernels.read(cuda.buffer(&dy)));
    let launch = layout.launch(half.positions());
    let p = rows(&layout, half);
    kernels.pointwise.geglu_vjp(&cuda.device, launch, from, from_dy, kernels.write(&mut dx), p)?;
    Ok(cuda.wrap(x.shape(), dx))
}
