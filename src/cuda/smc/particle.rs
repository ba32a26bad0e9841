//! Moving particles on the GPU: launchers of kernels/particle.cu. Particles are f32 in every run.

use super::array64::Array64;
use crate::backend::{Advance, ParticleId, Particles};
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Buffer, Elem, In, Out};
use crate::cuda::launch::{Launch, kernels, params};
use crate::cuda::ops::pointwise;
use crate::error::Result;
use crate::noise::Purpose;
use crate::tensor::{Shape, Tensor};

/// Threads per block, and elements of each: one block of Philox.
const BLOCK: usize = 256;
const EACH: usize = 4;

params! {
    pub struct NormalsParams {
        pub seed: u64,
        pub sample: i64,
        pub step: u32,
        pub purpose: u32,
        pub slots: i32,
        pub group: i32,
        pub blocks: i32,
    }
    pub struct AdvanceParams {
        pub seed: u64,
        pub sample: i64,
        pub drift: f64,
        pub quadratic: f64,
        pub linear: f64,
        pub mean_x0: f32,
        pub mean_eps: f32,
        pub sigma: f32,
        pub step: u32,
        pub purpose: u32,
        pub slots: i32,
        pub group: i32,
        pub blocks: i32,
    }
    pub struct SquaresParams {
        pub sample: i64,
        pub slots: i32,
        pub group: i32,
        pub blocks: i32,
    }
}

kernels! {
    /// The kernels of particle.cu.
    pub struct Table from "particle" {
        fn normals(ids: In<u32>, y: Out<f32>, p: NormalsParams);
        fn advance(
            x0: In<f32>, eps: In<f32>, grad: In<f32>, ids: In<u32>, ancestors: In<u32>, strength: In<f32>,
            norms: In<f64>, y: Out<f32>, ratio: Out<f64>, sums: Out<f64>, counters: Out<u32>, p: AdvanceParams,
        );
        fn squares(
            x0: In<f32>, x1: In<f32>, x2: In<f32>, y: Out<f64>, sums: Out<f64>, counters: Out<u32>, p: SquaresParams,
        );
        fn where_finite(score: In<f32>, norms: In<f64>, y: Out<f32>, n: i64);
    }
}

/// How the elements of `slots` particles are laid over blocks of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Split {
    sample: usize,
    slots: usize,
    /// Threads that share a chunk.
    group: usize,
    /// Chunks of a particle.
    blocks: usize,
}

impl Split {
    #[track_caller]
    fn new(sample: usize, slots: usize) -> Split {
        let group = sample.div_ceil(EACH).next_power_of_two().clamp(1, BLOCK);
        let split = Split { sample, slots, group, blocks: sample.div_ceil(EACH * group).max(1) };
        assert!(split.units() < 1 << 31, "{slots} particles of {sample} elements");
        split
    }

    fn units(self) -> usize {
        self.slots * self.blocks
    }

    /// Blocks of one tensor.
    fn grid(self) -> usize {
        (self.units() * self.group).div_ceil(BLOCK)
    }

    fn launch(self) -> Launch {
        Launch::line(self.grid(), BLOCK as u32)
    }
}

/// Where the sums of chunks meet, for up to three tensors: nothing where a particle is one chunk. Kernels
/// that follow one another may share it.
pub struct Chunks {
    split: Split,
    sums: Option<(Array64, Buffer)>,
}

impl Chunks {
    /// For `slots` particles of `sample` elements in each of `tensors`.
    pub fn new(cuda: &Cuda, sample: usize, slots: usize, tensors: usize) -> Result<Chunks> {
        let split = Split::new(sample, slots);
        if split.blocks == 1 {
            return Ok(Chunks { split, sums: None });
        }
        let sums = Array64::alloc(cuda, 2 * tensors * split.units())?;
        let mut counters = cuda.device.alloc(Elem::U32, tensors * slots)?;
        cuda.device.clear(&mut counters)?;
        Ok(Chunks { split, sums: Some((sums, counters)) })
    }

    fn write(&mut self) -> (Out<'_, f64>, Out<'_, u32>) {
        match &mut self.sums {
            Some((sums, counters)) => (sums.write(), counters.write(Elem::U32)),
            None => (Out::none(), Out::none()),
        }
    }
}

/// `(prompt, particle)` of each slot, for kernels.
pub fn upload_ids(cuda: &Cuda, ids: &[ParticleId]) -> Result<Buffer> {
    let words: Vec<u32> = ids.iter().flat_map(|id| [id.prompt, id.particle]).collect();
    assert!(ids.iter().all(|id| id.prompt < 1 << 28), "a prompt that does not fit the counter");
    cuda.indices(&words)
}

pub fn normals(
    cuda: &Cuda,
    shape: Shape,
    seed: u64,
    step: u32,
    purpose: Purpose,
    ids: &[ParticleId],
) -> Result<Tensor> {
    let split = Split::new(shape.sample(), shape.n);
    let ids = upload_ids(cuda, ids)?;
    let mut y = cuda.alloc(Elem::F32, shape)?;
    let p = NormalsParams {
        seed,
        sample: split.sample as i64,
        step,
        purpose: purpose as u32,
        slots: split.slots as i32,
        group: split.group as i32,
        blocks: split.blocks as i32,
    };
    cuda.particle.normals(&cuda.device, split.launch(), ids.u32(), y.f32_mut(), p)?;
    Ok(cuda.wrap(shape, y))
}

pub fn advance(
    cuda: &Cuda,
    particles: Particles<'_>,
    ancestors: &[u32],
    strength: &[f32],
    advance: Advance<'_>,
) -> Result<(Tensor, Vec<f64>)> {
    let ids = upload_ids(cuda, advance.ids)?;
    let mut at_strength = cuda.device.alloc(Elem::F32, strength.len())?;
    pointwise::put(cuda, bytemuck::cast_slice(strength), &mut at_strength)?;
    let slots = Slots { ids: &ids, ancestors: &cuda.indices(ancestors)?, strength: &at_strength };
    let (y, ratio) = advance_slots(cuda, particles, slots, advance)?;
    let ratio = match ratio {
        Some(ratio) => ratio.download(cuda)?,
        None => vec![0.0; ancestors.len()],
    };
    Ok((y, ratio))
}

/// What `advance` reads of each slot, in device memory.
#[derive(Clone, Copy)]
pub struct Slots<'a> {
    /// See [`upload_ids`].
    pub ids: &'a Buffer,
    pub ancestors: &'a Buffer,
    pub strength: &'a Buffer,
}

/// The transition with everything in device memory and nothing waited for; see
/// [`Backend::advance`](crate::backend::Backend::advance). `advance.ids` are not looked at. Returns the log
/// ratios, or `None` where they are all 0: without a gradient or without noise.
pub fn advance_slots(
    cuda: &Cuda,
    particles: Particles<'_>,
    slots: Slots<'_>,
    advance: Advance<'_>,
) -> Result<(Tensor, Option<Array64>)> {
    let shape = particles.x0.shape();
    let mut chunks = Chunks::new(cuda, shape.sample(), slots.ancestors.len(), 1)?;
    if particles.grad.is_none() || advance.variance == 0.0 {
        let y = advance_into(cuda, particles, slots, In::none(), advance, Out::none(), &mut chunks)?;
        return Ok((y, None));
    }
    let mut ratio = Array64::alloc(cuda, slots.ancestors.len())?;
    let y = advance_into(cuda, particles, slots, In::none(), advance, ratio.write(), &mut chunks)?;
    Ok((y, Some(ratio)))
}

/// The same, with the log ratios written to `ratio` unless they are all 0. Where `norms` (of each particle)
/// are given, a gradient whose squared length there is not finite counts as 0.
pub fn advance_into(
    cuda: &Cuda,
    particles: Particles<'_>,
    slots: Slots<'_>,
    norms: In<'_, f64>,
    advance: Advance<'_>,
    ratio: Out<'_, f64>,
    chunks: &mut Chunks,
) -> Result<Tensor> {
    let n = slots.ancestors.len();
    let shape = particles.x0.shape().with_n(n);
    assert_eq!((slots.ids.len(), slots.strength.len()), (2 * n, n), "one id and one strength per slot");
    let state = [Some(particles.x0), Some(particles.eps), particles.grad];
    assert!(state.iter().flatten().all(|x| x.shape() == particles.x0.shape()), "one state per particle");
    let split = Split::new(shape.sample(), n);
    assert_eq!(split, chunks.split, "a place for other particles");

    let (x0, eps) = (cuda.cast(particles.x0, Elem::F32)?, cuda.cast(particles.eps, Elem::F32)?);
    let moves = advance.variance != 0.0;
    let grad = particles.grad.filter(|_| moves).map(|g| cuda.cast(g, Elem::F32)).transpose()?;
    let (kappa, v) = (f64::from(advance.kappa), f64::from(advance.variance));
    let p = AdvanceParams {
        seed: advance.seed,
        sample: split.sample as i64,
        drift: kappa * v,
        quadratic: -0.5 * kappa * kappa * v,
        linear: -kappa * v.sqrt(),
        mean_x0: advance.mean_x0,
        mean_eps: advance.mean_eps,
        sigma: v.sqrt() as f32,
        step: advance.step,
        purpose: advance.purpose as u32,
        slots: n as i32,
        group: split.group as i32,
        blocks: split.blocks as i32,
    };
    let mut y = cuda.alloc(Elem::F32, shape)?;
    let (sums, counters) = chunks.write();
    cuda.particle.advance(
        &cuda.device,
        split.launch(),
        cuda.buffer(&x0).f32(),
        cuda.buffer(&eps).f32(),
        grad.as_ref().map_or(In::none(), |g| cuda.buffer(g).f32()),
        slots.ids.u32(),
        slots.ancestors.u32(),
        slots.strength.f32(),
        norms,
        y.f32_mut(),
        ratio,
        sums,
        counters,
        p,
    )?;
    Ok(cuda.wrap(shape, y))
}

pub fn squared_norms(cuda: &Cuda, x: &Tensor) -> Result<Vec<f64>> {
    squares(cuda, x)?.download(cuda)
}

/// Squared length of each sample, left in device memory.
pub fn squares(cuda: &Cuda, x: &Tensor) -> Result<Array64> {
    let mut y = Array64::alloc(cuda, x.shape().n)?;
    let mut chunks = Chunks::new(cuda, x.shape().sample(), x.shape().n, 1)?;
    squares_into(cuda, &[x], y.write(), &mut chunks)?;
    Ok(y)
}

/// Squared lengths of the samples of up to three tensors, written to `y` one tensor after another.
pub fn squares_into(cuda: &Cuda, all: &[&Tensor], y: Out<'_, f64>, chunks: &mut Chunks) -> Result<()> {
    assert!((1..=3).contains(&all.len()), "{} tensors", all.len());
    let shape = all[0].shape();
    assert!(all.iter().all(|x| x.shape() == shape), "tensors of different shapes");
    let split = Split::new(shape.sample(), shape.n);
    assert_eq!(split, chunks.split, "a place for other particles");
    let all: Vec<Tensor> = all.iter().map(|x| cuda.cast(x, Elem::F32)).collect::<Result<_>>()?;
    let x = |i: usize| all.get(i).map_or(In::none(), |x| cuda.buffer(x).f32());
    let p = SquaresParams {
        sample: split.sample as i64,
        slots: split.slots as i32,
        group: split.group as i32,
        blocks: split.blocks as i32,
    };
    let (sums, counters) = chunks.write();
    let launch = Launch::grid(split.grid(), all.len(), 1, BLOCK as u32);
    cuda.particle.squares(&cuda.device, launch, x(0), x(1), x(2), y, sums, counters, p)
}

pub fn where_finite(cuda: &Cuda, score: &Tensor, by: &Tensor) -> Result<Tensor> {
    let n = by.shape().n;
    let (score, norms) = (cuda.cast(score, Elem::F32)?, squares(cuda, by)?);
    let mut y = cuda.alloc(Elem::F32, score.shape())?;
    let launch = Launch::cover(n, BLOCK as u32);
    let (from, to) = (cuda.buffer(&score).f32(), y.f32_mut());
    cuda.particle.where_finite(&cuda.device, launch, from, norms.read(), to, n as i64)?;
    Ok(cuda.wrap(score.shape(), y))
}
