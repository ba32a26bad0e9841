//! Inputs made from a name by integer arithmetic and exactly rounded f64: the same bits here and in
//! `tools/golden/ops.py`.

use das_cuda::tensor::Shape;

/// How the differentiable inputs are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ones,
    /// Evenly from -1 to 1 in memory order.
    Arange,
    /// Near-normal: the sum of four uniforms.
    Randn,
}

/// A tensor to make.
#[derive(Clone, Copy, Debug)]
pub struct Input {
    pub shape: Shape,
    pub kind: Kind,
    pub scale: f32,
    pub shift: f32,
}

/// Variance of a weight that keeps the variance of what it maps.
pub fn weight(shape: Shape) -> Input {
    Input { scale: 1.0 / (shape.sample() as f32).sqrt(), ..randn(shape) }
}

pub fn randn(shape: Shape) -> Input {
    Input { shape, kind: Kind::Randn, scale: 1.0, shift: 0.0 }
}

/// FNV-1a.
fn seed(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// SplitMix64's output function.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Fills an input; `name` seeds it.
pub fn fill(input: &Input, name: &str) -> Vec<f32> {
    let (len, seed) = (input.shape.len(), seed(name));
    let value = |i: usize| match input.kind {
        Kind::Ones => 1.0,
        Kind::Arange => 2.0 * i as f64 / len as f64 - 1.0,
        Kind::Randn => {
            let bits = mix(seed.wrapping_add((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let sum: u64 = (0..4).map(|k| (bits >> (16 * k)) & 0xffff).sum();
            // Four uniforms have variance 1/3.
            (sum as f64 - 131_070.0) / 65_536.0 * 3_f64.sqrt()
        }
    };
    (0..len).map(|i| (value(i) * f64::from(input.scale) + f64::from(input.shift)) as f32).collect()
}

/// Golden files keep at most this many elements of a result, picked by [`sampled`].
pub const SAMPLES: usize = 2048;

/// Which elements of `len` a golden file keeps: all, or a scattered subset.
pub fn sampled(len: usize) -> Vec<usize> {
    if len <= SAMPLES {
        return (0..len).collect();
    }
    (0..SAMPLES as u64).map(|j| (j.wrapping_mul(2_654_435_761) % len as u64) as usize).collect()
}
