//! Counter-based noise: every random number of a run is a pure function of *what it is for*, so particle 3
//! is the same bits whatever the number of particles, the micro-batch or the device. Philox4x32-10 (Salmon et
//! al., "Parallel random numbers: as easy as 1, 2, 3", SC11) maps a 128-bit counter and a 64-bit key to four
//! 32-bit words.
//!
//! # Layout, to be kept by every device
//!
//! ```text
//! key     = [seed low 32 bits, seed high 32 bits]
//! counter = [block, particle, step, purpose << 28 | prompt]        prompt < 2^28
//! ```
//!
//! Normals: block `b` gives elements `4b .. 4b+4`: words `(x0, x1)` make elements 0, 1 and `(x2, x3)` make 2,
//! 3, by [`box_muller`]. Uniforms: block `b` gives two, from `(x0, x1)` and `(x2, x3)`, by [`open_uniform`].
//!
//! All f32 work is `+`, `*`, `sqrt`, integer-to-float conversion and comparison, each rounded to nearest and
//! *never contracted* into a fused multiply-add (in CUDA: `__fmul_rn`, `__fadd_rn`, `__fsqrt_rn`,
//! `__uint2float_rn`, `__int2float_rn`). Sine, cosine and logarithm are the polynomials below, not a
//! library's, so the bits agree on every device and the loop vectorises.

/// What a stream of numbers is for; part of the counter, so that no two uses share numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[non_exhaustive]
pub enum Purpose {
    /// The initial latent, `x_0 ~ N(0, I)`.
    Initial = 0,
    /// The noise of one transition.
    Move = 1,
    /// The uniforms of one resampling (per prompt: particle 0).
    Resample = 2,
    /// The final draw of a particle from the weights (per prompt: particle 0).
    Draw = 3,
    /// The noise added to an encoded image.
    Encode = 4,
    /// Fitting a surrogate: initialisation, bootstrap, dropout.
    Fit = 5,
    /// Observation noise and the choice of prompts of an online run, and synthetic data.
    Data = 6,
    /// The seeds of further populations of a prompt ([`population_seed`]).
    Population = 7,
    /// The uniform by which a particle's next state is chosen among several.
    Choose = 8,
    /// The noise that a state gets again before a step is repeated.
    Again = 9,
}

/// Who asks for numbers, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Of the run.
    pub seed: u64,
    /// Number of the prompt in the run, below 2^28.
    pub prompt: u32,
    /// Number of the particle in its prompt; 0 for what is drawn once per prompt.
    pub particle: u32,
    /// Step of the chain.
    pub step: u32,
    /// What the numbers are for.
    pub purpose: Purpose,
}

impl Key {
    /// The four words of block `block` of this key's stream.
    #[inline]
    fn block(&self, block: u32) -> [u32; 4] {
        philox(self.counter(block), [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// Philox counter of block `block`, as in the module's layout.
    #[inline]
    #[track_caller]
    pub fn counter(&self, block: u32) -> [u32; 4] {
        assert!(self.prompt < 1 << 28, "prompt {} does not fit the counter", self.prompt);
        [block, self.particle, self.step, (self.purpose as u32) << 28 | self.prompt]
    }
}

/// Keys the noise of one of several independent populations of a run: its seed itself for the first, so that
/// a population can be drawn alone; for the others, 53 bits (which every reader of JSON holds exactly) from
/// the first two words of block 0 of the run's seed, with the population as the particle.
pub fn population_seed(seed: u64, population: u32) -> u64 {
    if population == 0 {
        return seed;
    }
    let key = Key { seed, prompt: 0, particle: population, step: 0, purpose: Purpose::Population };
    let [low, high, ..] = key.block(0);
    (u64::from(high) << 32 | u64::from(low)) >> 11
}

/// Philox4x32-10: ten rounds, the Weyl constants added to the key between rounds.
#[inline(always)]
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = 0xD251_1F53_u64 * u64::from(counter[0]);
        let p1 = 0xCD9E_8D57_u64 * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// A uniform strictly inside (0, 1): `(m + 1/2) 2^-52`, `m` the top 52 bits of `high << 32 | low`. With 53
/// bits the largest value would round to 1.
#[inline]
pub fn open_uniform(low: u32, high: u32) -> f64 {
    let m = (u64::from(high) << 32 | u64::from(low)) >> 12;
    (m as f64 + 0.5) * (1.0 / (1_u64 << 52) as f64)
}

/// The stream of uniforms of a key. Endless up to 2^33 numbers.
#[derive(Clone, Debug)]
pub struct Uniforms {
    key: Key,
    index: u64,
    words: [u32; 4],
}

/// Uniforms in the open interval (0, 1) with 52 bits. Number `i` depends on `(key, i)` only.
pub fn uniforms(key: Key) -> Uniforms {
    Uniforms { key, index: 0, words: [0; 4] }
}

impl Uniforms {
    /// The next uniform.
    pub fn draw(&mut self) -> f64 {
        let half = (self.index % 2) as usize;
        if half == 0 {
            self.words = self.key.block((self.index / 2) as u32);
        }
        self.index += 1;
        open_uniform(self.words[2 * half], self.words[2 * half + 1])
    }
}

impl Iterator for Uniforms {
    type Item = f64;
    fn next(&mut self) -> Option<f64> {
        Some(self.draw())
    }
}

/// Fills `out` with standard normals; element `i` depends on `(key, i)` only.
pub fn fill_normals(key: &Key, out: &mut [f32]) {
    fill_normals_at(key, 0, out);
}

/// Fills `out` with elements `offset .. offset + out.len()` of the key's stream of standard normals. The
/// stream has 2^34 elements.
#[track_caller]
pub fn fill_normals_at(key: &Key, offset: usize, out: &mut [f32]) {
    assert!((offset + out.len()) as u64 <= 1 << 34, "a stream holds 2^34 normals");
    // Up to the next block boundary, then whole groups of blocks, then the rest.
    let head = offset.wrapping_neg() % 4;
    let (first, body) = out.split_at_mut(head.min(out.len()));
    if !first.is_empty() {
        let four = normals_of_block(key, (offset / 4) as u32);
        let from = offset % 4;
        first.copy_from_slice(&four[from..from + first.len()]);
    }
    let mut block = offset.div_ceil(4) as u32;
    let mut groups = body.chunks_exact_mut(4 * LANES);
    for group in &mut groups {
        group.copy_from_slice(&normals_of_group(key, block));
        block = block.wrapping_add(LANES as u32);
    }
    for four in groups.into_remainder().chunks_mut(4) {
        four.copy_from_slice(&normals_of_block(key, block)[..four.len()]);
        block = block.wrapping_add(1);
    }
}

/// Blocks worked on together: enough for the widest vector registers.
const LANES: usize = 8;

fn normals_of_block(key: &Key, block: u32) -> [f32; 4] {
    let x = key.block(block);
    let (a, b) = box_muller(x[0], x[1]);
    let (c, d) = box_muller(x[2], x[3]);
    [a, b, c, d]
}

/// The same as `LANES` calls of `normals_of_block`, as structure of arrays so that the compiler vectorises.
#[allow(clippy::needless_range_loop)] // lanes run in step over all four words
fn normals_of_group(key: &Key, block: u32) -> [f32; 4 * LANES] {
    let [_, c1, c2, c3] = key.counter(0);
    let mut x = [[0_u32; LANES], [c1; LANES], [c2; LANES], [c3; LANES]];
    for (lane, word) in x[0].iter_mut().enumerate() {
        *word = block.wrapping_add(lane as u32);
    }
    let (mut k0, mut k1) = (key.seed as u32, (key.seed >> 32) as u32);
    for _ in 0..10 {
        for lane in 0..LANES {
            let p0 = 0xD251_1F53_u64 * u64::from(x[0][lane]);
            let p1 = 0xCD9E_8D57_u64 * u64::from(x[2][lane]);
            x[0][lane] = (p1 >> 32) as u32 ^ x[1][lane] ^ k0;
            x[1][lane] = p1 as u32;
            x[2][lane] = (p0 >> 32) as u32 ^ x[3][lane] ^ k1;
            x[3][lane] = p0 as u32;
        }
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    let mut z = [[0.0_f32; LANES]; 4];
    for pair in 0..2 {
        for lane in 0..LANES {
            (z[2 * pair][lane], z[2 * pair + 1][lane]) = box_muller(x[2 * pair][lane], x[2 * pair + 1][lane]);
        }
    }
    let mut out = [0.0; 4 * LANES];
    for lane in 0..LANES {
        for part in 0..4 {
            out[4 * lane + part] = z[part][lane];
        }
    }
    out
}

/// Two independent standard normals from two words: radius `sqrt(-2 ln u)` with `u = x0 2^-32 + 2^-33` in
/// (0, 1], angle `x1` of 2^32 of a turn. `|z| <= 6.77`.
#[inline(always)]
pub fn box_muller(x0: u32, x1: u32) -> (f32, f32) {
    // The product is exact, so a fused multiply-add would give the same bits here.
    let u = x0 as f32 * (1.0 / 4_294_967_296.0) + (1.0 / 8_589_934_592.0);
    // Not `max`, which may take either zero for the larger.
    let square = -2.0 * ln(u);
    let radius = (if square > 0.0 { square } else { 0.0 }).sqrt();
    let (sin, cos) = sin_cos_turn(x1);
    (radius * cos, radius * sin)
}

/// Natural logarithm of a positive normal number: mantissa in [sqrt 1/2, sqrt 2) and a polynomial in `m - 1`
/// (coefficients of Cephes' logf).
#[inline(always)]
#[allow(clippy::excessive_precision)]
fn ln(u: f32) -> f32 {
    // Subtracting the bits of sqrt(1/2) puts the exponent's carry where the mantissa passes it.
    let shifted = u.to_bits().wrapping_sub(0x3F35_04F3);
    let e = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007F_FFFF).wrapping_add(0x3F35_04F3));
    let x = m - 1.0;
    let z = x * x;
    let mut p = 7.0376836292E-2;
    p = p * x + -1.1514610310E-1;
    p = p * x + 1.1676998740E-1;
    p = p * x + -1.2420140846E-1;
    p = p * x + 1.4249322787E-1;
    p = p * x + -1.6668057665E-1;
    p = p * x + 2.0000714765E-1;
    p = p * x + -2.4999993993E-1;
    p = p * x + 3.3333331174E-1;
    let mut y = x * z * p;
    // ln 2 in two parts, the larger with few bits, so that its product with e is exact.
    y += e * -2.12194440E-4;
    y += -0.5 * z;
    (x + y) + e * 0.693359375
}

/// `(sin, cos)` of `x` of 2^32 of a turn: nearest quarter turn taken off in integers, then polynomials on
/// [-pi/4, pi/4] (coefficients of Cephes' sinf and cosf).
#[inline(always)]
#[allow(clippy::excessive_precision)]
pub fn sin_cos_turn(x: u32) -> (f32, f32) {
    let quarter = x.wrapping_add(1 << 29) >> 30;
    let rest = x.wrapping_sub(quarter << 30) as i32;
    let a = rest as f32 * (std::f32::consts::TAU / 4_294_967_296.0);
    let z = a * a;
    let s = ((-1.9515295891E-4 * z + 8.3321608736E-3) * z + -1.6666654611E-1) * z * a + a;
    let c = ((2.443315711809948E-5 * z + -1.388731625493765E-3) * z + 4.166664568298827E-2) * z * z
        + (-0.5 * z + 1.0);
    let (sin, cos) = if quarter & 1 == 0 { (s, c) } else { (c, s) };
    // Signs by their bit: sine is negative in quarters 2, 3 and cosine in 1, 2.
    let sin = f32::from_bits(sin.to_bits() ^ (quarter & 2) << 30);
    let cos = f32::from_bits(cos.to_bits() ^ ((quarter + 1) & 2) << 30);
    (sin, cos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key { seed: 42, prompt: 1, particle: 2, step: 3, purpose: Purpose::Move }
    }

    /// The known answers of Random123 (kat_vectors, philox4x32 10).
    #[test]
    fn philox_gives_the_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([!0; 4], [!0; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn every_field_of_the_key_changes_the_numbers() {
        let base = key();
        let others = [
            Key { seed: 43, ..base },
            Key { seed: 42 | 1 << 40, ..base },
            Key { prompt: 2, ..base },
            Key { particle: 3, ..base },
            Key { step: 4, ..base },
            Key { purpose: Purpose::Initial, ..base },
        ];
        let first = |key: &Key| {
            let mut z = [0.0; 4];
            fill_normals(key, &mut z);
            z
        };
        for other in &others {
            assert_ne!(first(&base), first(other), "{other:?}");
        }
    }

    /// Populations of neighbouring seeds share no seed, which `count` would else draw twice.
    #[test]
    fn every_population_has_a_seed_of_its_own() {
        let seeds: std::collections::BTreeSet<u64> =
            (0..50).flat_map(|seed| (0..50).map(move |m| population_seed(seed, m))).collect();
        assert_eq!(seeds.len(), 50 * 50);
        assert_eq!(population_seed(42, 0), 42, "the first is the run itself");
        assert!((1..50).all(|m| population_seed(u64::MAX, m) < 1 << 53));
    }

    #[test]
    fn an_element_depends_on_key_and_index_only() {
        let mut all = vec![0.0; 500];
        fill_normals(&key(), &mut all);
        for offset in (0..70).chain([127, 128, 400]) {
            for len in [0, 1, 2, 3, 5, 31, 32, 33, 64, 99] {
                let mut part = vec![0.0; len];
                fill_normals_at(&key(), offset, &mut part);
                assert_eq!(part, all[offset..offset + len], "offset {offset}, {len} elements");
            }
        }
    }

    #[test]
    fn uniforms_stay_inside_the_open_interval() {
        assert!(open_uniform(0, 0) > 0.0);
        assert!(open_uniform(!0, !0) < 1.0);
        let mut stream = uniforms(key());
        assert!((0..10_000).all(|_| (0.0..1.0).contains(&stream.draw())));
    }

    /// Box-Muller in f32 against the same map in f64. Measured: 6.5e-7; the tolerance is four units in the
    /// last place of the largest value, 6.77: one each for logarithm, root, sine and product.
    #[test]
    fn box_muller_is_accurate_to_single_precision() {
        let mut worst = 0.0_f64;
        let edges = [0, 1, 2, 1 << 29, 1 << 30, (1 << 31) - 1, 1 << 31, !0 - 1, !0];
        let mut check = |x0: u32, x1: u32| {
            let u = f64::from(x0 as f32 * (1.0 / 4_294_967_296.0) + (1.0 / 8_589_934_592.0));
            let (sin, cos) = (f64::from(x1) / 4_294_967_296.0 * std::f64::consts::TAU).sin_cos();
            let radius = (-2.0 * u.ln()).sqrt();
            let (a, b) = box_muller(x0, x1);
            assert!(a.is_finite() && b.is_finite());
            worst = worst.max((f64::from(a) - radius * cos).abs()).max((f64::from(b) - radius * sin).abs());
        };
        for x0 in edges {
            for x1 in edges {
                check(x0, x1);
            }
        }
        for i in 0..200_000 {
            let x = philox([i, 0, 0, 0], [7, 7]);
            check(x[0], x[1]);
        }
        println!("worst error {worst:e}");
        assert!(worst < 4.0 * 4.77e-7, "worst error {worst:e}");
    }

    #[test]
    #[ignore = "a timing, not a check: cargo test --release --lib noise -- --ignored --nocapture"]
    fn time_of_sixteen_latents() {
        let mut z = vec![0.0_f32; 4 * 64 * 64];
        let start = std::time::Instant::now();
        for _ in 0..100 {
            for particle in 0..16 {
                fill_normals(&Key { particle, ..key() }, &mut z);
            }
        }
        println!("{:.3} ms for 16 x 4 x 64 x 64 normals", start.elapsed().as_secs_f64() * 10.0);
    }

    /// z-scores of the first four moments and of a lag-1 product over n = 2^20 numbers; false alarm below
    /// 5 * 6e-7 (|z| < 5).
    #[test]
    fn normals_have_the_moments_of_normals() {
        let n = 1 << 20;
        let mut z = vec![0.0_f32; n];
        fill_normals(&key(), &mut z);
        let mean = |f: &dyn Fn(usize) -> f64| (0..n).map(f).sum::<f64>() / n as f64;
        let at = |i: usize| f64::from(z[i]);
        let root = (n as f64).sqrt();
        let scores = [
            mean(&at) * root,
            (mean(&|i| at(i).powi(2)) - 1.0) / 2_f64.sqrt() * root,
            mean(&|i| at(i).powi(3)) / 15_f64.sqrt() * root,
            (mean(&|i| at(i).powi(4)) - 3.0) / 96_f64.sqrt() * root,
            mean(&|i| at(i) * at((i + 1) % n)) * root,
        ];
        println!("z-scores {scores:.2?}");
        assert!(scores.iter().all(|s| s.abs() < 5.0), "{scores:?}");
    }

    /// Chi-square over 64 equal cells of the uniforms and of the normals' distribution function. The critical
    /// value for 63 degrees of freedom at 1e-6 is 130.
    #[test]
    fn uniforms_and_normals_fill_their_cells_evenly() {
        let chi_square = |cells: &[f64; 64], n: f64| {
            cells.iter().map(|c| (c - n / 64.0).powi(2) / (n / 64.0)).sum::<f64>()
        };
        let n = 200_000;
        let mut cells = [0.0; 64];
        uniforms(key()).take(n).for_each(|u| cells[(u * 64.0) as usize] += 1.0);
        let of_uniforms = chi_square(&cells, n as f64);
        let mut z = vec![0.0_f32; n];
        fill_normals(&key(), &mut z);
        let normal = statrs::distribution::Normal::new(0.0, 1.0).expect("a standard normal");
        cells = [0.0; 64];
        for &z in &z {
            let p = statrs::distribution::ContinuousCDF::cdf(&normal, f64::from(z));
            cells[((p * 64.0) as usize).min(63)] += 1.0;
        }
        let of_normals = chi_square(&cells, n as f64);
        println!("chi-square: uniforms {of_uniforms:.1}, normals {of_normals:.1}");
        assert!(of_uniforms < 130.0 && of_normals < 130.0);
    }
}
