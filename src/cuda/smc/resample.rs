//! Ancestors of one population of any size on the GPU: launchers of kernels/resample.cu. They are those that
//! [`Resampler::ancestors`] finds on the host from the same weights and uniforms. A run comes here with more
//! than 1024 particles per prompt.

use super::array64::Array64;
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Buffer, Elem, In, Out};
use crate::cuda::launch::{Launch, kernels, params};
use crate::error::Result;
use crate::noise::Key;
use crate::smc::{Resampler, weights};

/// Threads per block, weights of a tile, and steps of a block along particles and slots.
const BLOCK: u32 = 256;
const TILE: usize = 4096;
const ITEMS: usize = 8192;
/// Words before the statuses of scans, and scans, as `Control` of resample.cu has them.
const CONTROL: usize = 6;
const SCANS: usize = 3;
/// Most particles of a prompt, so that the steps of a walk along particles and slots are numbered in 32 bits.
pub const MOST: usize = 1 << 30;

params! {
    pub struct ResampleParams {
        pub seed: u64,
        pub particles: i32,
        pub tiles: i32,
        pub fraction: i32,
        pub step: u32,
        pub purpose: u32,
        pub prompt: u32,
        pub particle: u32,
        pub systematic: i32,
    }
}

kernels! {
    /// The kernels of resample.cu.
    pub struct Table from "resample" {
        fn cumulate(relative: In<f64>, control: Out<u64>, cumulative: Out<u64>, p: ResampleParams);
        fn trades(cumulative: In<u64>, control: Out<u64>, end: Out<u32>, p: ResampleParams);
        fn draws(cumulative: In<u64>, control: In<u64>, hits: Out<u32>, p: ResampleParams);
        fn wholes(cumulative: In<u64>, control: Out<u64>, whole: Out<u32>, p: ResampleParams);
        fn rest_draws(
            cumulative: In<u64>, whole: In<u32>, control: In<u64>, hits: Out<u32>, p: ResampleParams,
        );
        fn tally(hits: In<u32>, whole: In<u32>, control: Out<u64>, end: Out<u32>, p: ResampleParams);
        fn merge(end: In<u32>, ancestors: Out<u32>, particles: i32);
        fn place(cumulative: In<u64>, control: In<u64>, ancestors: Out<u32>, p: ResampleParams);
    }
}

/// A population resampled, in device memory.
pub struct Resampled {
    /// Of each slot, never decreasing.
    ancestors: Buffer,
}

impl Resampled {
    /// Ancestor of each slot. Waits for the device.
    ///
    /// # Errors
    /// From the device.
    pub fn ancestors(&self, cuda: &Cuda) -> Result<Vec<u32>> {
        let mut data = vec![0_u32; self.ancestors.len()];
        cuda.device.copy_out(&self.ancestors, bytemuck::cast_slice_mut(&mut data))?;
        Ok(data)
    }
}

impl Cuda {
    /// As many ancestors as there are weights in `relative` (in [0, 1], the largest 1), with the uniforms of
    /// `key`. Up to 2^30 particles. Waits for nothing.
    ///
    /// # Errors
    /// From the device.
    #[track_caller]
    pub fn resample(&self, relative: &Array64, resampler: Resampler, key: &Key) -> Result<Resampled> {
        let mut ancestors = self.device.alloc(Elem::U32, relative.len())?;
        choose(self, relative.read(), relative.len(), resampler, key, ancestors.write(Elem::U32))?;
        Ok(Resampled { ancestors })
    }
}

/// Writes to `ancestors` the ancestor of each slot of a population whose weights, relative to the largest,
/// are `relative`: 16 bytes must divide its address.
#[track_caller]
pub(super) fn choose(
    cuda: &Cuda,
    relative: In<'_, f64>,
    particles: usize,
    resampler: Resampler,
    key: &Key,
    ancestors: Out<'_, u32>,
) -> Result<()> {
    assert!((1..=MOST).contains(&particles), "{particles} particles");
    let tiles = particles.div_ceil(TILE);
    let p = ResampleParams {
        seed: key.seed,
        particles: particles as i32,
        tiles: tiles as i32,
        fraction: weights::fixed_bits(particles) as i32,
        step: key.step,
        purpose: key.purpose as u32,
        prompt: key.prompt,
        particle: key.particle,
        systematic: i32::from(resampler == Resampler::Systematic),
    };
    let (d, t) = (&cuda.device, &cuda.resample);
    let mut control = d.alloc(Elem::U32, 2 * (CONTROL + SCANS * tiles))?;
    d.clear(&mut control)?;
    let mut cumulative = Array64::alloc(cuda, particles)?;
    let each = Launch::line(tiles, BLOCK);
    t.cumulate(d, each, relative, control.write(Elem::U32), cumulative.write(), p)?;
    let walk = Launch::line((2 * particles).div_ceil(ITEMS), BLOCK);
    if let Resampler::Systematic | Resampler::Stratified = resampler {
        return t.place(d, walk, cumulative.read(), control.read(Elem::U32), ancestors, p);
    }
    let end = ends(cuda, &cumulative, &mut control, resampler, p)?;
    t.merge(d, walk, end.u32(), ancestors, p.particles)
}

/// Where the offspring of each particle end.
fn ends(
    cuda: &Cuda,
    cumulative: &Array64,
    control: &mut Buffer,
    resampler: Resampler,
    p: ResampleParams,
) -> Result<Buffer> {
    let (d, t, c, particles) = (&cuda.device, &cuda.resample, cumulative.read(), p.particles as usize);
    let (tiles, one) = (Launch::line(p.tiles as usize, BLOCK), Launch::cover(particles, BLOCK));
    let mut end = d.alloc(Elem::U32, particles)?;
    if resampler == Resampler::Ssp {
        t.trades(d, tiles, c, control.write(Elem::U32), end.write(Elem::U32), p)?;
        return Ok(end);
    }
    let mut hits = d.alloc(Elem::U32, particles)?;
    d.clear(&mut hits)?;
    let mut copies = None;
    if resampler == Resampler::Residual {
        let whole = copies.insert(d.alloc(Elem::U32, particles)?);
        t.wholes(d, tiles, c, control.write(Elem::U32), whole.write(Elem::U32), p)?;
        let (c, control) = (cumulative.read(), control.read(Elem::U32));
        t.rest_draws(d, one, c, whole.u32(), control, hits.write(Elem::U32), p)?;
    } else {
        t.draws(d, one, c, control.read(Elem::U32), hits.write(Elem::U32), p)?;
    }
    let whole = copies.as_ref().map_or(In::none(), Buffer::u32);
    t.tally(d, tiles, hits.u32(), whole, control.write(Elem::U32), end.write(Elem::U32), p)?;
    Ok(end)
}
