//! Resampling of one population of any size on the GPU, for users of the library and for benches: launchers of
//! kernels/resample.cu. Ancestors are those that [`Resampler::ancestors`] finds on the host from the same log-weights and
//! uniforms.

use super::Cuda;
use super::buffer::{Buffer, Elem};
use super::kernels::{In, Launch, Out, kernels, params};
use super::wide::Wide;
use crate::backend::Backend;
use crate::error::Result;
use crate::noise::{Key, uniforms};
use crate::smc::{Resampler, Weights, weights};
use crate::tensor::Tensor;

/// Threads per block, log-weights of a tile, chunks at most, and steps of a block along both lists.
const BLOCK: u32 = 256;
const TILE: usize = 1024;
const CHUNKS: usize = 1024;
const ITEMS: usize = 2048;
/// So that the steps of a walk along particles and slots are numbered in 32 bits.
const MOST: usize = 1 << 30;

params! {
    pub struct ChunksParams {
        pub particles: i32,
        pub tiles: i32,
        pub chunks: i32,
        pub fraction: i32,
    }
    pub struct EndsParams {
        pub seed: u64,
        pub particles: i32,
        pub tiles: i32,
        pub chunks: i32,
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
        fn peaks(log_weights: In<f32>, peak: Out<f32>, p: ChunksParams);
        fn totals(log_weights: In<f32>, peak: In<f32>, weight: Out<u64>, sums: Out<f64>, p: ChunksParams);
        fn ends(
            log_weights: In<f32>, peak: In<f32>, weight: In<u64>, sums: In<f64>,
            end: Out<u32>, summary: Out<f64>, p: EndsParams,
        );
        fn merge(end: In<u32>, ancestors: Out<u32>, particles: i32);
        fn rows16(x: In<u32>, ancestors: In<u32>, y: Out<u32>, p: RowsParams);
        fn rows8(x: In<u32>, ancestors: In<u32>, y: Out<u32>, p: RowsParams);
        fn rows4(x: In<u32>, ancestors: In<u32>, y: Out<u32>, p: RowsParams);
    }
}

/// A population resampled, in device memory.
pub struct Resampled {
    /// Of each slot, never decreasing.
    ancestors: Buffer,
    summary: Wide,
}

impl Resampled {
    /// Ancestor of each slot. Waits for the device.
    pub fn ancestors(&self, cuda: &Cuda) -> Result<Vec<u32>> {
        let mut data = vec![0_u32; self.ancestors.len()];
        cuda.device.copy_out(&self.ancestors, bytemuck::cast_slice_mut(&mut data))?;
        Ok(data)
    }

    /// `log sum exp` of the log-weights (-inf where all particles are dead) and their effective sample size. Waits for the
    /// device.
    pub fn summary(&self, cuda: &Cuda) -> Result<(f64, f64)> {
        let numbers: Vec<f64> = self.summary.download(cuda)?;
        Ok((numbers[0], numbers[1]))
    }
}

impl Cuda {
    /// As many ancestors as there are `log_weights` (f32, any shape, any constant added; what is not finite is dead; if all
    /// are, weights are equal), with the uniforms of `key`. Up to 2^30 particles. Systematic and stratified resampling
    /// run on the GPU and wait for nothing; the others are serial or need sorted numbers, and are done on the host.
    #[track_caller]
    pub fn resample(&self, log_weights: &Tensor, resampler: Resampler, key: &Key) -> Result<Resampled> {
        let particles = log_weights.shape().len();
        assert!((1..=MOST).contains(&particles), "{particles} particles");
        let (Resampler::Systematic | Resampler::Stratified) = resampler else {
            return self.resample_on_host(log_weights, resampler, key);
        };
        let log_weights = self.buffer(log_weights);
        let tiles = particles.div_ceil(TILE).div_ceil(CHUNKS);
        let chunks = particles.div_ceil(TILE * tiles);
        let fraction = weights::fixed_bits(particles);
        let p = ChunksParams {
            particles: particles as i32,
            tiles: tiles as i32,
            chunks: chunks as i32,
            fraction: fraction as i32,
        };
        let ends = EndsParams {
            seed: key.seed,
            particles: p.particles,
            tiles: p.tiles,
            chunks: p.chunks,
            fraction: p.fraction,
            step: key.step,
            purpose: key.purpose as u32,
            prompt: key.prompt,
            particle: key.particle,
            systematic: i32::from(resampler == Resampler::Systematic),
        };
        let (device, table, launch) = (&self.device, &self.resample, Launch::line(chunks, BLOCK));
        let mut peak = device.alloc(Elem::F32, chunks)?;
        let (mut weight, mut sums) = (Wide::alloc(self, chunks)?, Wide::alloc(self, 2 * chunks)?);
        let mut end = device.alloc(Elem::U32, particles)?;
        let mut ancestors = device.alloc(Elem::U32, particles)?;
        let mut summary = Wide::alloc(self, 2)?;
        table.peaks(device, launch, log_weights.f32(), peak.f32_mut(), p)?;
        table.totals(device, launch, log_weights.f32(), peak.f32(), weight.write(), sums.write(), p)?;
        table.ends(
            device,
            launch,
            log_weights.f32(),
            peak.f32(),
            weight.read(),
            sums.read(),
            end.write(Elem::U32),
            summary.write(),
            ends,
        )?;
        let walk = Launch::line((2 * particles).div_ceil(ITEMS), BLOCK);
        table.merge(device, walk, end.u32(), ancestors.write(Elem::U32), p.particles)?;
        Ok(Resampled { ancestors, summary })
    }

    fn resample_on_host(&self, log_weights: &Tensor, resampler: Resampler, key: &Key) -> Result<Resampled> {
        let given: Vec<f64> = self.download(log_weights)?.into_iter().map(f64::from).collect();
        let weights = Weights::new(&given);
        let mut stream = uniforms(*key);
        let ancestors = resampler.ancestors(weights.relative(), &mut || stream.draw());
        Ok(Resampled {
            ancestors: self.indices(&ancestors)?,
            summary: Wide::upload(self, &[weights.log_sum(), weights.ess()])?,
        })
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
