//! Resampling of one population of any size on the GPU, for users of the library and for benches: launchers
//! of kernels/resample.cu. Ancestors are those that [`Resampler::ancestors`] finds on the host from the same
//! log-weights and uniforms.

use super::array64::Wide;
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Buffer, Elem, In, Out};
use crate::cuda::launch::{Launch, kernels, params};
use crate::error::Result;
use crate::noise::Key;
use crate::smc::{Resampler, math, weights};
use crate::tensor::Tensor;

/// Threads per block, log-weights of a tile, and steps of a block along particles and slots.
const BLOCK: u32 = 256;
const TILE: usize = 4096;
const ITEMS: usize = 8192;
/// Words before the statuses of scans, and scans, as `Control` of resample.cu has them.
const CONTROL: usize = 7;
const SCANS: usize = 3;
/// So that the steps of a walk along particles and slots are numbered in 32 bits.
const MOST: usize = 1 << 30;

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
    pub struct RowsParams {
        pub rows: i32,
        pub units: i32,
    }
}

kernels! {
    /// The kernels of resample.cu.
    pub struct Table from "resample" {
        fn peaks(log_weights: In<f32>, control: Out<u64>, p: ResampleParams);
        fn cumulate(
            log_weights: In<f32>, control: Out<u64>, cumulative: Out<u64>, sums: Out<f64>, p: ResampleParams,
        );
        fn trades(cumulative: In<u64>, control: Out<u64>, end: Out<u32>, p: ResampleParams);
        fn draws(cumulative: In<u64>, control: In<u64>, hits: Out<u32>, p: ResampleParams);
        fn wholes(cumulative: In<u64>, control: Out<u64>, whole: Out<u32>, p: ResampleParams);
        fn rest_draws(
            cumulative: In<u64>, whole: In<u32>, control: In<u64>, hits: Out<u32>, p: ResampleParams,
        );
        fn tally(hits: In<u32>, whole: In<u32>, control: Out<u64>, end: Out<u32>, p: ResampleParams);
        fn merge(end: In<u32>, ancestors: Out<u32>, particles: i32);
        fn place(cumulative: In<u64>, control: In<u64>, ancestors: Out<u32>, p: ResampleParams);
        fn rows16(x: In<u32>, ancestors: In<u32>, y: Out<u32>, p: RowsParams);
        fn rows8(x: In<u32>, ancestors: In<u32>, y: Out<u32>, p: RowsParams);
        fn rows4(x: In<u32>, ancestors: In<u32>, y: Out<u32>, p: RowsParams);
    }
}

/// A population resampled, in device memory.
pub struct Resampled {
    /// Of each slot, never decreasing.
    ancestors: Buffer,
    control: Buffer,
    /// Of each tile the sums of relative weights and of their squares.
    sums: Wide,
}

impl Resampled {
    /// Ancestor of each slot. Waits for the device.
    pub fn ancestors(&self, cuda: &Cuda) -> Result<Vec<u32>> {
        let mut data = vec![0_u32; self.ancestors.len()];
        cuda.device.copy_out(&self.ancestors, bytemuck::cast_slice_mut(&mut data))?;
        Ok(data)
    }

    /// `log sum exp` of the log-weights (-inf where all particles are dead) and their effective sample size.
    /// Waits for the device.
    pub fn summary(&self, cuda: &Cuda) -> Result<(f64, f64)> {
        let mut peak = [0_u32];
        cuda.device.copy_out(&self.control, bytemuck::cast_slice_mut(&mut peak))?;
        // As `in_order` of resample.cu.
        let top = f32::from_bits(if peak[0] >> 31 == 1 { peak[0] & !(1 << 31) } else { !peak[0] });
        let sums: Vec<f64> = self.sums.download(cuda)?;
        let sum = |which: usize| math::sum(sums.iter().skip(which).step_by(2).copied());
        let (total, squares) = (sum(0), sum(1));
        let log_sum = if top.is_finite() { f64::from(top) + math::ln(total) } else { f64::NEG_INFINITY };
        Ok((log_sum, total * total / squares))
    }
}

impl Cuda {
    /// As many ancestors as there are `log_weights` (f32, any shape, any constant added; what is not finite is
    /// dead; if all are, weights are equal), with the uniforms of `key`. Up to 2^30 particles. Waits for
    /// nothing.
    #[track_caller]
    pub fn resample(&self, log_weights: &Tensor, resampler: Resampler, key: &Key) -> Result<Resampled> {
        let particles = log_weights.shape().len();
        assert!((1..=MOST).contains(&particles), "{particles} particles");
        let log_weights = self.buffer(log_weights);
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
        let (d, t) = (&self.device, &self.resample);
        let mut control = d.alloc(Elem::U32, 2 * (CONTROL + SCANS * tiles))?;
        d.clear(&mut control)?;
        let mut cumulative = Wide::alloc(self, particles)?;
        let mut sums = Wide::alloc(self, 2 * tiles)?;
        let mut ancestors = d.alloc(Elem::U32, particles)?;
        // Enough loads under way to keep the memory busy.
        let all = Launch::line(tiles.min(8 * d.multiprocessors()), BLOCK);
        t.peaks(d, all, log_weights.f32(), control.write(Elem::U32), p)?;
        let each = Launch::line(tiles, BLOCK);
        let (scan, total) = (control.write(Elem::U32), sums.write());
        t.cumulate(d, each, log_weights.f32(), scan, cumulative.write(), total, p)?;
        let walk = Launch::line((2 * particles).div_ceil(ITEMS), BLOCK);
        if let Resampler::Systematic | Resampler::Stratified = resampler {
            let to = ancestors.write(Elem::U32);
            t.place(d, walk, cumulative.read(), control.read(Elem::U32), to, p)?;
        } else {
            let end = self.ends(&cumulative, &mut control, resampler, p)?;
            t.merge(d, walk, end.u32(), ancestors.write(Elem::U32), p.particles)?;
        }
        Ok(Resampled { ancestors, control, sums })
    }

    /// Where the offspring of each particle end.
    fn ends(
        &self,
        cumulative: &Wide,
        control: &mut Buffer,
        resampler: Resampler,
        p: ResampleParams,
    ) -> Result<Buffer> {
        let (d, t, c, particles) = (&self.device, &self.resample, cumulative.read(), p.particles as usize);
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

    /// The rows (samples) of `x` that were chosen, one per slot.
    #[track_caller]
    pub fn gather_resampled(&self, x: &Tensor, resampled: &Resampled) -> Result<Tensor> {
        let (shape, slots) = (x.shape().with_n(resampled.ancestors.len()), resampled.ancestors.len());
        assert_eq!(x.shape().n, slots, "one row per particle");
        let (from, elem) = (self.buffer(x), self.buffer(x).elem());
        let bytes = shape.len() / slots * elem.size();
        assert!(bytes > 0 && bytes.is_multiple_of(4), "rows of {bytes} bytes");
        let unit = [16, 8, 4].into_iter().find(|unit| bytes.is_multiple_of(*unit)).unwrap_or(4);
        let units = bytes / unit;
        assert!(slots * units < 1 << 31, "{slots} rows of {bytes} bytes");
        let mut y = self.alloc(elem, shape)?;
        let p = RowsParams { rows: slots as i32, units: units as i32 };
        let (device, launch) = (&self.device, Launch::cover(slots * units, BLOCK));
        let (x, to, ancestors) = (from.read(elem), y.words_mut(), resampled.ancestors.u32());
        match unit {
            16 => self.resample.rows16(device, launch, x, ancestors, to, p)?,
            8 => self.resample.rows8(device, launch, x, ancestors, to, p)?,
            _ => self.resample.rows4(device, launch, x, ancestors, to, p)?,
        }
        Ok(self.wrap(shape, y))
    }
}
