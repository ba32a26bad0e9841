//! `jpeg-proxy`: about the size of a JPEG, with a gradient (docs/spec.md 7.8): the transform of JPEG and its
//! quantisation as two convolutions, then a smooth estimate of the bits of each coefficient.

use std::f64::consts::{PI, SQRT_2};

use super::Reward;
use super::kind::{Needs, RewardKind};
use crate::backend::{Activation, AffineClamp, Backend, Conv};
use crate::error::Result;
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

pub(super) static REWARD: RewardKind = RewardKind {
    name: "jpeg-proxy",
    about: "about minus the kB of a JPEG, smoothly",
    needs: Needs { files: None, prompt: false, gradient: true },
    default_alpha: 0.1,
    source: "docs/spec.md 7.8; alpha as for jpeg",
    open: |towers, name, _| Ok(Box::new(JpegProxy::new(name, towers.backend())?)),
};

/// Sides of a block, and of a unit of 4:2:0: four luma blocks and one of either chroma.
const BLOCK: usize = 8;
const UNIT: usize = 16;

/// Bits of a coefficient in its first unit, and more for each doubling; bits of a block; bytes of everything
/// else in the file. The first three are a least-squares fit (docs/spec.md 7.8).
const FIRST_BITS: f32 = 4.4;
const DOUBLING_BITS: f32 = 1.9;
const BLOCK_BITS: f64 = 9.3;
const HEADER_BYTES: f64 = 623.0;

/// Doublings up to the largest coefficient.
const DOUBLINGS: i32 = 10;

/// Y, Cb and Cr of red, green and blue (JFIF).
const COLOURS: [[f64; 3]; 3] =
    [[0.299, 0.587, 0.114], [-0.168_735_9, -0.331_264_1, 0.5], [0.5, -0.418_687_6, -0.081_312_4]];

/// The quantisation tables of quality 95, from tables K.1 and K.2 of ITU-T T.81 as libjpeg scales them.
#[rustfmt::skip]
const LUMA: [u8; 64] = [
    2,  1,  1,  2,  2,  4,  5,  6,
    1,  1,  1,  2,  3,  6,  6,  6,
    1,  1,  2,  2,  4,  6,  7,  6,
    1,  2,  2,  3,  5,  9,  8,  6,
    2,  2,  4,  6,  7, 11, 10,  8,
    2,  4,  6,  6,  8, 10, 11,  9,
    5,  6,  8,  9, 10, 12, 12, 10,
    7,  9, 10, 10, 11, 10, 10, 10,
];
#[rustfmt::skip]
const CHROMA: [u8; 64] = [
    2,  2,  2,  5, 10, 10, 10, 10,
    2,  2,  3,  7, 10, 10, 10, 10,
    2,  3,  6, 10, 10, 10, 10, 10,
    5,  7, 10, 10, 10, 10, 10, 10,
    10, 10, 10, 10, 10, 10, 10, 10,
    10, 10, 10, 10, 10, 10, 10, 10,
    10, 10, 10, 10, 10, 10, 10, 10,
    10, 10, 10, 10, 10, 10, 10, 10,
];

struct JpegProxy {
    name: String,
    /// A filter for each quantised coefficient: of a luma block, and of both chroma blocks of a unit. They
    /// see the block and the one left of it, which the mean is coded against.
    luma: Tensor,
    chroma: Tensor,
    /// Takes mid-grey to 0, which is what lies beyond the left edge.
    gain: Tensor,
    shift: Tensor,
}

/// Filters `(64 per colour, side, 2 side, 3)` of blocks of `side` pixels.
fn filters(colours: &[[f64; 3]], table: &[u8; 64], side: usize) -> Vec<f32> {
    // Of chroma, pixels in squares of two by two have their mean taken.
    let (pixels, mean) = (side / BLOCK, ((side / BLOCK) as f64).powi(-2));
    let basis = |frequency: usize, at: usize| {
        let scale = if frequency == 0 { 0.5 / SQRT_2 } else { 0.5 };
        scale * ((2 * at + 1) as f64 * frequency as f64 * PI / 16.0).cos()
    };
    let mut all = Vec::with_capacity(64 * colours.len() * side * 2 * side * 3);
    for colour in colours {
        for (k, &step) in table.iter().enumerate() {
            for (y, x) in (0..side).flat_map(|y| (0..2 * side).map(move |x| (y, x))) {
                let sign = match (x >= side, k) {
                    (true, _) => 1.0,
                    (false, 0) => -1.0,
                    (false, _) => 0.0,
                };
                let wave = basis(k / BLOCK, y / pixels) * basis(k % BLOCK, x % side / pixels);
                let weight = 255.0 * sign * mean * wave / f64::from(step);
                all.extend(colour.map(|part| (weight * part) as f32));
            }
        }
    }
    all
}

impl JpegProxy {
    fn new(name: &str, backend: &dyn Backend) -> Result<JpegProxy> {
        let upload = |colours: &[[f64; 3]], table, side| {
            let shape = Shape::new(64 * colours.len(), side, 2 * side, 3);
            backend.upload(shape, HostSlice::F32(&filters(colours, table, side)))
        };
        Ok(JpegProxy {
            name: name.to_string(),
            luma: upload(&COLOURS[..1], &LUMA, BLOCK)?,
            chroma: upload(&COLOURS[1..], &CHROMA, UNIT)?,
            gain: backend.upload(Shape::vector(3), HostSlice::F32(&[1.0; 3]))?,
            shift: backend.upload(Shape::vector(3), HostSlice::F32(&[-0.5; 3]))?,
        })
    }
}

impl Reward for JpegProxy {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn differentiable(&self) -> bool {
        true
    }
    fn prepare(&mut self, _: &dyn Backend, _: &[String]) -> Result<()> {
        Ok(())
    }
    #[track_caller]
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, _: &[u32]) -> Result<Var> {
        assert_eq!(images.shape().c, 3, "images are (n, h, w, 3), got {}", images.shape());
        let units = whole_units(tape, images)?;
        let units = tape.channel_affine(&units, &self.gain, Some(&self.shift))?;
        let transform = |filters: &'a Tensor, side: usize| {
            let conv = Conv { stride: side, pad: [0, 0, side, 0], upsample: false };
            tape.conv(&units, filters, None, None, conv)
        };
        let luma = bits(tape, &transform(&self.luma, BLOCK)?)?;
        let chroma = bits(tape, &transform(&self.chroma, UNIT)?)?;
        let coefficients = tape.axpby(1.0, &luma, 1.0, &chroma)?;
        let Shape { n, h, w, .. } = units.shape();
        let blocks = (h / BLOCK * (w / BLOCK) * 3 / 2) as f64;
        let rest = (HEADER_BYTES + BLOCK_BITS * blocks / 8.0) / 1000.0;
        let ones = Var::from(ones(tape.backend(), Shape::rows(n, 1))?);
        tape.axpby(-1.0 / 8000.0, &coefficients, -rest as f32, &ones)
    }
    fn default_alpha(&self) -> f64 {
        REWARD.default_alpha
    }
}

/// Bits of the quantised coefficients `q` of each sample, `(n, 1, 1, 1)`.
fn bits(tape: &Tape<'_>, q: &Var) -> Result<Var> {
    // q erf(q / sqrt(2)): |q|, but for small ones, which rounding makes 0.
    let size = tape.axpby(2.0, &tape.activate(q, Activation::Gelu)?, -1.0, q)?;
    // What is not a number stays none, which the bounds below would hide.
    let mut sum = tape.scale(0.0, &size)?;
    for doubling in 0..=DOUBLINGS {
        let width = 2.0_f32.powi(doubling);
        let piece = AffineClamp { a: 1.0 / width, b: 1.0 / width - 1.0, lo: 0.0, hi: 1.0 };
        let bits = if doubling == 0 { FIRST_BITS } else { DOUBLING_BITS };
        sum = tape.axpby(1.0, &sum, bits, &tape.affine_clamp(&size, piece)?)?;
    }
    let Shape { n, .. } = sum.shape();
    let all = Shape::rows(n, sum.shape().sample());
    tape.linear(&sum.reshape(all), &ones(tape.backend(), Shape::vector(all.c))?, None, None)
}

fn ones(backend: &dyn Backend, shape: Shape) -> Result<Tensor> {
    backend.affine_clamp(&backend.zeros(shape)?, AffineClamp { a: 1.0, b: 1.0, lo: 0.0, hi: 1.0 })
}

/// The images with their last row and column repeated up to whole units. Rows and columns are runs of
/// channels under other shapes.
fn whole_units(tape: &Tape<'_>, images: &Var) -> Result<Var> {
    let Shape { n, h, w, c } = images.shape();
    let (tall, wide) = (h.next_multiple_of(UNIT), w.next_multiple_of(UNIT));
    let x = repeat_last(tape, &images.reshape(Shape::rows(n * h, w * c)), w, wide)?;
    let x = repeat_last(tape, &x.reshape(Shape::rows(n, h * wide * c)), h, tall)?;
    Ok(x.reshape(Shape::new(n, tall, wide, c)))
}

/// Each sample of `x` is `length` runs; the last is repeated to make `whole` of them.
fn repeat_last(tape: &Tape<'_>, x: &Var, length: usize, whole: usize) -> Result<Var> {
    let (all, run) = (x.shape().c, x.shape().c / length);
    let mut longer = x.clone();
    if whole > length {
        let last = tape.slice(x, all - run, run)?;
        for _ in length..whole {
            longer = tape.concat(&longer, &last)?;
        }
    }
    Ok(longer)
}
