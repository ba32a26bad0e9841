//! Which particles go on: five ways to choose M ancestors out of N with `E[offspring of p] = M W_p` exactly, so
//! that log Z stays unbiased in Z (das-spec 3; Douc, Cappe, Moulines 2005; Gerber, Chopin, Whiteley 2019).
//!
//! Weights become integers first ([`fixed_point`](super::weights::fixed_point)) and everything after that is exact
//! integer arithmetic: nothing needs a guard against rounding, a particle of weight zero is never chosen, and every
//! device finds the same ancestors. With at most 2048 particles every product below fits 64 bits.

use std::fmt;
use std::str::FromStr;

use super::weights::fixed_point;
use crate::error::Error;

/// A rule for choosing ancestors. All are unbiased; they differ in the variance of the offspring counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
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
    pub const ALL: [Resampler; 5] = [
        Resampler::Ssp,
        Resampler::Systematic,
        Resampler::Stratified,
        Resampler::Residual,
        Resampler::Multinomial,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Resampler::Ssp => "ssp",
            Resampler::Systematic => "systematic",
            Resampler::Stratified => "stratified",
            Resampler::Residual => "residual",
            Resampler::Multinomial => "multinomial",
        }
    }

    /// As many ancestors as there are `weights` (non-negative, any positive sum), never decreasing. `uniforms` gives
    /// numbers in [0, 1].
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

/// One index drawn with probability proportional to `weights`, from one uniform in [0, 1]: an exact sample of the
/// weighted particles.
#[track_caller]
pub fn draw(weights: &[f64], uniform: f64) -> usize {
    Resampler::Multinomial.ancestors_n(weights, 1, &mut || uniform)[0] as usize
}

/// `floor(u total)`, at most `total - 1`, so that `u = 1` still falls on the last positive weight.
fn part(u: f64, total: u128) -> u128 {
    ((u.max(0.0) * total as f64) as u128).min(total - 1)
}

/// Inverse distribution function at increasing `points`: for each the first particle whose cumulative weight, times
/// `scale`, exceeds it. A weight of zero adds nothing and so is never first.
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

/// Whole copies of each particle and what is left of each, in units of `1 / total`. The rests sum to a multiple of
/// `total` exactly.
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

/// Two rests at a time trade until one is 0 or a whole: `i` rises by `up` or falls by `down`, with probabilities that
/// keep both means. In integers the last rest is exactly 0.
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
            Error::usage(format!("unknown resampler `{s}`")).fix(format!("--resample takes one of: {names}"))
        })
    }
}
