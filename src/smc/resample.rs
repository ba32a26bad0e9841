//! Which particles go on: five ways to choose M ancestors out of N with `E[offspring of p] = M W_p` exactly,
//! so that log Z stays unbiased in Z (docs/spec.md 3; Douc, Cappe, Moulines 2005; Gerber, Chopin, Whiteley
//! 2019).
//!
//! Weights become integers first ([`fixed_point`]) and everything after that is exact integer arithmetic:
//! nothing needs a guard against rounding, a particle of weight zero is never chosen, and every device finds
//! the same ancestors. With at most 2048 particles every product below fits 64 bits.

use std::fmt;
use std::str::FromStr;

use super::weights::fixed_point;
use crate::error::Error;

/// A rule for choosing ancestors. All are unbiased; they differ in the variance of the offspring counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Resampler {
    /// Srinivasan sampling process (Gerber, Chopin, Whiteley 2019): `floor(M W)` or one more, consistent.
    #[default]
    Ssp,
    /// One uniform, equally spaced points: `floor(M W)` or one more.
    Systematic,
    /// One uniform in each of M equal strata.
    Stratified,
    /// `floor(M W)` copies, the rest multinomial.
    Residual,
    /// M independent draws.
    Multinomial,
}

impl Resampler {
    /// Every rule.
    pub const ALL: [Resampler; 5] = [
        Resampler::Ssp,
        Resampler::Systematic,
        Resampler::Stratified,
        Resampler::Residual,
        Resampler::Multinomial,
    ];

    /// As typed.
    pub fn name(self) -> &'static str {
        match self {
            Resampler::Ssp => "ssp",
            Resampler::Systematic => "systematic",
            Resampler::Stratified => "stratified",
            Resampler::Residual => "residual",
            Resampler::Multinomial => "multinomial",
        }
    }

    /// As many ancestors as there are `weights` (non-negative, any positive sum), never decreasing.
    /// `uniforms` gives numbers in [0, 1].
    #[track_caller]
    pub fn ancestors(self, weights: &[f64], uniforms: &mut impl FnMut() -> f64) -> Vec<u32> {
        self.ancestors_n(weights, weights.len(), uniforms)
    }

    /// `offspring` ancestors, never decreasing, index into `weights`.
    #[track_caller]
    pub fn ancestors_n(
        self,
        weights: &[f64],
        offspring: usize,
        uniforms: &mut impl FnMut() -> f64,
    ) -> Vec<u32> {
        self.ancestors_fixed(&fixed_point(weights), offspring, uniforms)
    }

    /// The same from integer weights. Uniforms used, in order: SSP one for each particle but the first;
    /// systematic one; stratified and multinomial one for each offspring; residual one for each of the rest.
    #[track_caller]
    pub fn ancestors_fixed(
        self,
        weights: &[u64],
        offspring: usize,
        uniforms: &mut impl FnMut() -> f64,
    ) -> Vec<u32> {
        assert!(offspring > 0, "no offspring asked for");
        let total: u64 = weights.iter().sum();
        assert!(total > 0, "no particle has a positive weight");
        let m = offspring as u128;
        let total = u128::from(total);
        match self {
            Resampler::Ssp => repeat(&srinivasan(weights, m, total, uniforms)),
            Resampler::Systematic => {
                let shift = part(uniforms(), total);
                merge(weights, m, (0..m).map(|n| n * total + shift))
            }
            Resampler::Stratified => merge(weights, m, (0..m).map(|n| n * total + part(uniforms(), total))),
            Resampler::Multinomial => {
                let mut points: Vec<u128> = (0..m).map(|_| part(uniforms(), total)).collect();
                points.sort_unstable();
                merge(weights, 1, points.into_iter())
            }
            Resampler::Residual => repeat(&residual(weights, m, total, uniforms)),
        }
    }
}

/// One index drawn with probability proportional to `weights`, from one uniform in [0, 1]: an exact sample of
/// the weighted particles.
#[track_caller]
pub fn draw(weights: &[f64], uniform: f64) -> usize {
    Resampler::Multinomial.ancestors_n(weights, 1, &mut || uniform)[0] as usize
}

/// `floor(u total)`, at most `total - 1`, so that `u = 1` still falls on the last positive weight.
fn part(u: f64, total: u128) -> u128 {
    ((u.max(0.0) * total as f64) as u128).min(total - 1)
}

/// Inverse distribution function at increasing `points`: for each the first particle whose cumulative weight,
/// times `scale`, exceeds it. A weight of zero adds nothing and so is never first.
fn merge(weights: &[u64], scale: u128, points: impl Iterator<Item = u128>) -> Vec<u32> {
    let mut particle = 0;
    let mut cumulative = u128::from(weights[0]) * scale;
    points
        .map(|point| {
            while cumulative <= point {
                particle += 1;
                cumulative += u128::from(weights[particle]) * scale;
            }
            particle as u32
        })
        .collect()
}

/// Offspring counts to ancestors.
fn repeat(counts: &[u64]) -> Vec<u32> {
    counts.iter().enumerate().flat_map(|(p, &n)| std::iter::repeat_n(p as u32, n as usize)).collect()
}

/// Whole copies of each particle and what is left of each, in units of `1 / total`. The rests sum to a
/// multiple of `total` exactly.
fn whole_and_rest(weights: &[u64], m: u128, total: u128) -> (Vec<u64>, Vec<u64>) {
    let share = |w: &u64| (u128::from(*w) * m / total, u128::from(*w) * m % total);
    weights.iter().map(share).map(|(whole, rest)| (whole as u64, rest as u64)).unzip()
}

fn residual(weights: &[u64], m: u128, total: u128, uniforms: &mut impl FnMut() -> f64) -> Vec<u64> {
    let (mut counts, rest) = whole_and_rest(weights, m, total);
    let left = m - counts.iter().map(|&n| u128::from(n)).sum::<u128>();
    let mut points: Vec<u128> = (0..left).map(|_| part(uniforms(), left * total)).collect();
    points.sort_unstable();
    for particle in merge(&rest, 1, points.into_iter()) {
        counts[particle as usize] += 1;
    }
    counts
}

/// Two rests at a time trade until one is 0 or a whole: `i` rises by `up` or falls by `down`, with
/// probabilities that keep both means. In integers the last rest is exactly 0.
fn srinivasan(weights: &[u64], m: u128, total: u128, uniforms: &mut impl FnMut() -> f64) -> Vec<u64> {
    let (mut counts, mut rest) = whole_and_rest(weights, m, total);
    let one = total as u64;
    let (mut i, mut j) = (0, 1);
    for next in 2..=weights.len() {
        let up = rest[j].min(one - rest[i]);
        let down = rest[i].min(one - rest[j]);
        // Swap when u < up / (up + down). One that has nothing to lose (down = 0) must not gain, whatever the
        // product rounds to.
        let below = uniforms() * ((up + down) as f64) < up as f64;
        let swap = up > 0 && (below || down == 0);
        let d = if swap { down } else { up };
        if swap {
            (i, j) = (j, i);
        }
        // Now i is the one that rises by d.
        if rest[j] < one - rest[i] {
            rest[i] += d;
            j = next;
        } else {
            rest[j] -= d;
            counts[i] += 1;
            i = next;
        }
    }
    counts
}

impl fmt::Display for Resampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Resampler {
    type Err = Error;
    fn from_str(s: &str) -> Result<Resampler, Error> {
        Resampler::ALL.into_iter().find(|r| r.name() == s).ok_or_else(|| {
            let names = Resampler::ALL.map(Resampler::name).join(", ");
            Error::usage(format!("unknown resampler \"{s}\""))
                .option("resampler")
                .advice(format!("`resampler` takes one of: {names}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Key, Purpose, Uniforms, uniforms};
    use proptest::prelude::*;

    fn stream(particle: u32) -> Uniforms {
        uniforms(Key { seed: 11, prompt: 0, particle, step: 0, purpose: Purpose::Resample })
    }

    fn counts(ancestors: &[u32], particles: usize) -> Vec<f64> {
        let mut counts = vec![0.0; particles];
        ancestors.iter().for_each(|&a| counts[a as usize] += 1.0);
        counts
    }

    /// Weights that have caught out resamplers before: equal, one-hot, with zeros at the ends and in the
    /// middle, whole multiples of 1/P, tiny next to large, sums off by 1e-6.
    fn weights() -> Vec<Vec<f64>> {
        let off = |scale: f64| [0.3, 0.2, 0.1, 0.4].iter().map(|w| w * scale).collect();
        vec![
            vec![1.0],
            vec![0.25; 4],
            vec![0.0, 1.0, 0.0],
            vec![0.0, 0.4, 0.0, 0.6, 0.0],
            vec![0.05, 0.05, 0.05, 0.85],
            vec![0.5, 0.25, 0.125, 0.125],
            vec![0.9, 1e-9, 0.1 - 1e-9],
            off(1.0 + 1e-6),
            off(1.0 - 1e-6),
            (1..=16).map(|i| f64::from(i * i) / 1496.0).collect(),
        ]
    }

    /// The largest z-score of the mean offspring of any particle over `n` resamplings, against M W; infinite
    /// where a count that never varies is off by more than 1e-6.
    fn bias(w: &[f64], m: usize, n: usize, scheme: &mut dyn FnMut() -> Vec<u32>) -> f64 {
        let sum: f64 = w.iter().sum();
        let (mut first, mut second) = (vec![0.0; w.len()], vec![0.0; w.len()]);
        for _ in 0..n {
            for (p, c) in counts(&scheme(), w.len()).into_iter().enumerate() {
                first[p] += c;
                second[p] += c * c;
            }
        }
        let z = |p: usize| {
            let mean = first[p] / n as f64;
            let sd = (second[p] / n as f64 - mean * mean).max(0.0).sqrt();
            let off = (mean - m as f64 * w[p] / sum).abs();
            // A particle of weight 1e-9 should hardly ever be seen; only its absence is certain.
            if off < 1e-6 { 0.0 } else { off / (sd / (n as f64).sqrt()) }
        };
        (0..w.len()).map(z).fold(0.0, f64::max)
    }

    const DRAWS: usize = 100_000;

    /// About 450 z-scores below 5: false alarm 3e-4. Measured: 2.6.
    #[test]
    fn resampling_is_unbiased() {
        let mut worst = 0.0_f64;
        for scheme in Resampler::ALL {
            for (i, w) in weights().iter().enumerate() {
                let m = [w.len(), 7][i % 2];
                let mut u = stream(i as u32);
                let z = bias(w, m, DRAWS, &mut || scheme.ancestors_n(w, m, &mut || u.draw()));
                assert!(z < 5.0, "{scheme} is biased on {w:?}: z = {z}");
                worst = worst.max(z);
            }
        }
        println!("largest z-score {worst:.2}");
    }

    /// Residual resampling whose search stops at the number of points instead of the number of particles
    /// (docs/spec.md 5.15).
    fn residual_with_the_wrong_guard(w: &[f64], u: &mut impl FnMut() -> f64) -> Vec<u32> {
        let n = w.len();
        let mut ancestors = Vec::new();
        let mut rest: Vec<f64> = w.iter().map(|w| w * n as f64).collect();
        for (p, r) in rest.iter_mut().enumerate() {
            ancestors.extend(std::iter::repeat_n(p as u32, r.floor() as usize));
            *r -= r.floor();
        }
        let left = n - ancestors.len();
        let mut points: Vec<f64> = (0..left).map(|_| u() * left as f64).collect();
        points.sort_unstable_by(f64::total_cmp);
        let (mut j, mut cumulative) = (0, rest[0]);
        for point in points {
            while point > cumulative && j < left - 1 {
                j += 1;
                cumulative += rest[j];
            }
            ancestors.push(j as u32);
        }
        ancestors
    }

    #[test]
    fn wrong_schemes_fail_the_test_of_bias() {
        let w = [0.05, 0.05, 0.05, 0.85];
        let mut u = stream(0);
        assert!(bias(&w, 4, 1000, &mut || residual_with_the_wrong_guard(&w, &mut || u.draw())) > 5.0);
        // Always the largest remainders: no randomness, no unbiasedness.
        assert!(bias(&w, 4, 1000, &mut || vec![0, 3, 3, 3]) > 5.0);
        // The same draw, right.
        let z = bias(&w, 4, DRAWS, &mut || Resampler::Residual.ancestors(&w, &mut || u.draw()));
        assert!(z < 5.0);
    }

    #[test]
    fn ssp_and_systematic_give_the_floor_or_one_more() {
        for scheme in [Resampler::Ssp, Resampler::Systematic] {
            for (i, w) in weights().iter().enumerate() {
                let sum: f64 = w.iter().sum();
                let mut u = stream(i as u32);
                for m in [1, w.len(), 7] {
                    for _ in 0..1000 {
                        let n = counts(&scheme.ancestors_n(w, m, &mut || u.draw()), w.len());
                        for p in 0..w.len() {
                            let share = m as f64 * w[p] / sum;
                            // The integers hold weights to 1e-12.
                            let (low, high) = ((share - 1e-9).floor(), (share + 1e-9).ceil());
                            assert!(n[p] >= low && n[p] <= high, "{scheme}: {} of {share} in {w:?}", n[p]);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn extreme_uniforms_never_choose_a_dead_particle() {
        let below_one = 1.0 - f64::EPSILON / 2.0;
        for scheme in Resampler::ALL {
            for w in weights() {
                for u in [0.0, f64::MIN_POSITIVE, 1e-12, 0.5, 1.0 - 1e-12, below_one, 1.0] {
                    for m in [1, 2, w.len(), 9] {
                        let a = scheme.ancestors_n(&w, m, &mut || u);
                        assert_eq!(a.len(), m);
                        assert!(a.is_sorted(), "{scheme} with u = {u}: {a:?}");
                        assert!(a.iter().all(|&a| w[a as usize] > 0.0), "{scheme}, u = {u}, {w:?}: {a:?}");
                    }
                }
            }
        }
        assert_eq!(draw(&[0.0, 1.0, 0.0], 1.0), 1);
        assert_eq!(draw(&[0.0, 1.0, 1.0], 0.0), 1);
    }

    #[test]
    fn equal_weights_are_left_alone_by_all_but_multinomial() {
        for scheme in [Resampler::Ssp, Resampler::Systematic, Resampler::Stratified, Resampler::Residual] {
            for n in [1, 2, 3, 7, 100, 1000] {
                let mut u = stream(n);
                // As they come out of a softmax in f32: not quite 1/n, but equal.
                let w = vec![f64::from(1.0 / n as f32); n as usize];
                assert_eq!(scheme.ancestors(&w, &mut || u.draw()), (0..n).collect::<Vec<_>>(), "{scheme}");
            }
        }
    }

    fn p_value(chi_square: f64, freedom: f64) -> f64 {
        let law = statrs::distribution::ChiSquared::new(freedom).expect("positive freedom");
        statrs::distribution::ContinuousCDF::sf(&law, chi_square)
    }

    /// 20 000 x 16 independent draws against their probabilities; p-values below 1e-6 alarm. Measured: p =
    /// 0.23, spread -0.6. Systematic resampling has the same means and must fail: its counts vary too little.
    #[test]
    fn multinomial_counts_pass_the_chi_square_test() {
        let w: Vec<f64> = (1..=16).map(|i| f64::from(i * i) / 1496.0).collect();
        let runs = 20_000;
        // Of the pooled counts (means), and the mean over runs of the chi-square of one run (spread).
        let test = |scheme: Resampler| {
            let mut u = stream(5);
            let (mut pooled, mut single) = (vec![0.0; 16], Vec::new());
            for _ in 0..runs {
                let n = counts(&scheme.ancestors(&w, &mut || u.draw()), 16);
                single.push((0..16).map(|p| (n[p] - 16.0 * w[p]).powi(2) / (16.0 * w[p])).sum::<f64>());
                pooled.iter_mut().zip(&n).for_each(|(s, n)| *s += n);
            }
            let all = 16.0 * f64::from(runs);
            let means: f64 = (0..16).map(|p| (pooled[p] - all * w[p]).powi(2) / (all * w[p])).sum();
            let mean = single.iter().sum::<f64>() / f64::from(runs);
            let var = single.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / f64::from(runs);
            (p_value(means, 15.0), (mean - 15.0) / (var / f64::from(runs)).sqrt())
        };
        let (p, spread) = test(Resampler::Multinomial);
        println!("p = {p:.3}, z-score of the spread {spread:.2}");
        assert!(p > 1e-6 && spread.abs() < 5.0);
        assert!(test(Resampler::Systematic).1 < -5.0);
    }

    /// The inverse distribution function of docs/spec.md 3, in f64.
    fn search(w: &[f64], points: impl Iterator<Item = f64>) -> Vec<u32> {
        let (mut j, mut c) = (0, w[0]);
        let mut find = |u: f64| {
            while u > c && j < w.len() - 1 {
                j += 1;
                c += w[j];
            }
            j as u32
        };
        points.map(&mut find).collect()
    }

    /// SSP of docs/spec.md 3, in f64.
    fn ssp_in_floats(w: &[f64], u: &mut impl FnMut() -> f64) -> Vec<u32> {
        let m = w.len() as f64;
        let mut n: Vec<f64> = w.iter().map(|w| (m * w).floor()).collect();
        let mut f: Vec<f64> = w.iter().map(|w| m * w - (m * w).floor()).collect();
        let (mut i, mut j) = (0, 1);
        for k in 0..w.len() - 1 {
            let (up, down) = (f[j].min(1.0 - f[i]), f[i].min(1.0 - f[j]));
            let q = if up + down > 0.0 { up / (up + down) } else { 0.0 };
            let mut d = up;
            if u() < q {
                std::mem::swap(&mut i, &mut j);
                d = down;
            }
            if f[j] < 1.0 - f[i] {
                f[i] += d;
                j = k + 2;
            } else {
                f[j] -= d;
                n[i] += 1.0;
                i = k + 2;
            }
        }
        let last = if j == w.len() { i } else { j };
        if n.iter().sum::<f64>() < m && f[last] > 0.99 {
            n[last] += 1.0;
        }
        repeat(&n.iter().map(|&n| n as u64).collect::<Vec<_>>())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// Integers change nothing: the floating-point algorithms choose the same ancestors.
        #[test]
        fn integer_arithmetic_agrees_with_floating_point(
            raw in prop::collection::vec(0.01_f64..1.0, 2..40), seed in 0_u32..1000,
        ) {
            let n = raw.len() as f64;
            let sum: f64 = raw.iter().sum();
            let w: Vec<f64> = raw.iter().map(|v| v / sum).collect();
            let ours = |scheme: Resampler| {
                let mut u = stream(seed);
                scheme.ancestors(&w, &mut || u.draw())
            };
            let mut u = stream(seed);
            let one = u.draw();
            prop_assert_eq!(ours(Resampler::Systematic), search(&w, (0..w.len()).map(|i| (i as f64 + one) / n)));
            let mut u = stream(seed);
            prop_assert_eq!(
                ours(Resampler::Stratified),
                search(&w, (0..w.len()).map(|i| (i as f64 + u.draw()) / n))
            );
            let mut u = stream(seed);
            prop_assert_eq!(ours(Resampler::Ssp), ssp_in_floats(&w, &mut || u.draw()));
        }
    }

    #[test]
    fn names_are_read_and_unknown_ones_listed() {
        for scheme in Resampler::ALL {
            assert_eq!(scheme.to_string().parse::<Resampler>().expect("its own name"), scheme);
        }
        let error = "best".parse::<Resampler>().expect_err("no such scheme").to_string();
        assert!(
            error.contains("best") && error.contains("ssp, systematic, stratified, residual, multinomial")
        );
    }
}
