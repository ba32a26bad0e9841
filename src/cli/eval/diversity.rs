//! How diverse pictures are: distances of embeddings, and the truncated CLIP entropy (docs/spec.md 11.2,
//! 11.3). Intervals are by the jackknife over prompts: pairs of pictures are not independent.

use std::collections::BTreeMap;

use nalgebra::DMatrix;

use crate::cli::statistics::{Interval, jackknife};

/// The mean distance, one minus the cosine, of all pairs of unit vectors, and of the pairs of one group.
pub fn distances(vectors: &[&[f32]], groups: &[usize]) -> (Option<Interval>, Option<Interval>) {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let of_pairs = |wanted: &dyn Fn(usize, usize) -> bool| {
        // Sums and numbers of the pairs, of all and of those that each group is part of.
        let count = groups.iter().max().map_or(0, |last| last + 1);
        let (mut all, mut of_group) = ((0.0, 0.0), vec![(0.0, 0.0); count]);
        for i in 0..vectors.len() {
            for j in (i + 1..vectors.len()).filter(|&j| wanted(groups[i], groups[j])) {
                let distance = 1.0 - dot(vectors[i], vectors[j]);
                let add = |sum: &mut (f64, f64)| *sum = (sum.0 + distance, sum.1 + 1.0);
                add(&mut all);
                add(&mut of_group[groups[i]]);
                if groups[i] != groups[j] {
                    add(&mut of_group[groups[j]]);
                }
            }
        }
        let mean = |(sum, pairs): (f64, f64)| (pairs > 0.0).then(|| sum / pairs);
        let without = of_group.iter().filter(|of| of.1 > 0.0).map(|of| mean((all.0 - of.0, all.1 - of.1)));
        Some(jackknife(mean(all)?, without.collect::<Option<Vec<f64>>>().unwrap_or_default()))
    };
    (of_pairs(&|_, _| true), of_pairs(&|a, b| a == b))
}

/// Vectors, added up by group: enough for the means of the squared distances of pairs, since those of `n`
/// vectors add up to `n` times their squares minus the square of their sum.
#[derive(Default)]
pub struct SquaredDistances {
    groups: BTreeMap<usize, Summed>,
}

/// The vectors of a group.
#[derive(Clone, Default)]
struct Summed {
    count: f64,
    squares: f64,
    sum: Vec<f64>,
}

impl Summed {
    fn add(&mut self, vector: &[f32]) {
        self.sum.resize(vector.len(), 0.0);
        self.count += 1.0;
        self.squares += vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        self.sum.iter_mut().zip(vector).for_each(|(sum, &x)| *sum += f64::from(x));
    }

    /// Squared distances of all pairs, their sum and their number.
    fn pairs(&self) -> (f64, f64) {
        let square = self.sum.iter().map(|x| x * x).sum::<f64>();
        (self.count * self.squares - square, 0.5 * self.count * (self.count - 1.0))
    }

    /// All of these groups together.
    fn of<'a>(groups: impl Iterator<Item = &'a Summed>) -> Summed {
        groups.fold(Summed::default(), |mut all, group| {
            all.sum.resize(group.sum.len(), 0.0);
            all.sum.iter_mut().zip(&group.sum).for_each(|(sum, x)| *sum += x);
            Summed { count: all.count + group.count, squares: all.squares + group.squares, ..all }
        })
    }

    /// These vectors without those of a group.
    fn without(&self, group: &Summed) -> Summed {
        Summed {
            count: self.count - group.count,
            squares: self.squares - group.squares,
            sum: self.sum.iter().zip(&group.sum).map(|(all, own)| all - own).collect(),
        }
    }
}

impl SquaredDistances {
    pub fn add(&mut self, group: usize, vector: &[f32]) {
        self.groups.entry(group).or_default().add(vector);
    }

    /// The mean over all pairs, and over the pairs of one group.
    pub fn means(&self) -> (Option<Interval>, Option<Interval>) {
        let mean = |(sum, pairs): (f64, f64)| (pairs > 0.0).then(|| sum / pairs);
        let interval = |whole: (f64, f64), without: Vec<(f64, f64)>| {
            let without: Option<Vec<f64>> = without.into_iter().map(mean).collect();
            Some(jackknife(mean(whole)?, without.unwrap_or_default()))
        };
        let all = Summed::of(self.groups.values());
        let without = self.groups.values().map(|group| all.without(group).pairs()).collect();
        let between = interval(all.pairs(), without);
        let own: Vec<(f64, f64)> = self.groups.values().map(Summed::pairs).filter(|of| of.1 > 0.0).collect();
        let whole = own.iter().fold((0.0, 0.0), |all, of| (all.0 + of.0, all.1 + of.1));
        let without = own.iter().map(|of| (whole.0 - of.0, whole.1 - of.1)).collect();
        (between, interval(whole, without))
    }
}

/// Work of all eigenvalue problems of a jackknife: above it no interval is computed.
const MOST_WORK: f64 = 5e10;

/// `K / 2 log(2 pi e) + 1/2 sum log nu_i` of the `k` largest eigenvalues `nu_i` of the sample covariance;
/// `None` of no more than `k` vectors, and where one of them is not above rounding: minus infinity.
pub fn truncated_entropy(vectors: &[&[f32]], groups: &[usize], k: usize) -> Option<Interval> {
    let whole = entropy(vectors, k)?;
    let count = groups.iter().max().map_or(0, |last| last + 1);
    let side = vectors.len().min(vectors[0].len()) as f64;
    if count as f64 * side.powi(3) > MOST_WORK {
        return Some(Interval { mean: whole, ends: None });
    }
    let without = |left_out: usize| {
        let kept = vectors.iter().zip(groups).filter(|(_, group)| **group != left_out);
        entropy(&kept.map(|(vector, _)| *vector).collect::<Vec<_>>(), k)
    };
    let without: Option<Vec<f64>> = (0..count).map(without).collect();
    Some(jackknife(whole, without.unwrap_or_default()))
}

fn entropy(vectors: &[&[f32]], k: usize) -> Option<f64> {
    let n = vectors.len();
    if n <= k {
        return None;
    }
    let d = vectors[0].len();
    let mean: Vec<f64> =
        (0..d).map(|i| vectors.iter().map(|v| f64::from(v[i])).sum::<f64>() / n as f64).collect();
    let centred = DMatrix::from_fn(n, d, |row, column| f64::from(vectors[row][column]) - mean[column]);
    // Both products have the same eigenvalues above 0.
    let product = if n <= d { &centred * centred.transpose() } else { centred.transpose() * &centred };
    let mut values: Vec<f64> = (product / (n as f64 - 1.0)).symmetric_eigenvalues().iter().copied().collect();
    values.sort_by(|a, b| b.total_cmp(a));
    let largest = values.get(..k)?;
    // Vectors are f32: below this part of the first, an eigenvalue is their rounding.
    let rounding = values[0] * f64::from(f32::EPSILON).powi(2) * n as f64;
    let sum: Option<f64> = largest.iter().map(|&nu| (nu > rounding && nu > 0.0).then(|| nu.ln())).sum();
    Some(0.5 * k as f64 * (2.0 * std::f64::consts::PI * std::f64::consts::E).ln() + 0.5 * sum?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: right angles between groups, none within.
    #[test]
    fn distances_are_those_by_hand() {
        let (x, y) = ([1.0, 0.0], [0.0, 1.0]);
        let (all, within) = distances(&[&x, &x, &y, &y], &[0, 0, 1, 1]);
        // Four of the six pairs are at a distance of 1.
        assert!((all.unwrap().mean - 4.0 / 6.0).abs() < 1e-15);
        assert_eq!(within.unwrap().mean, 0.0);
        assert_eq!(distances(&[&x], &[0]), (None, None));
        assert_eq!(distances(&[&x, &y], &[0, 1]).1, None);
    }

    /// Sums of squares say what the pairs do, one by one; so does the cosine of unit vectors, half of it.
    #[test]
    fn squared_distances_are_those_of_all_pairs() {
        let angles = [0.1_f32, 0.9, 1.3, 2.0, 2.1, 4.0];
        let points: Vec<[f32; 2]> = angles.iter().map(|angle| [angle.cos(), angle.sin()]).collect();
        let vectors: Vec<&[f32]> = points.iter().map(|point| &point[..]).collect();
        let groups = [0, 0, 0, 2, 2, 5];
        let mut sums = SquaredDistances::default();
        groups.iter().zip(&vectors).for_each(|(group, vector)| sums.add(*group, vector));
        let (cosines, squares) = (distances(&vectors, &groups), sums.means());
        for (cosine, square) in [(cosines.0, squares.0), (cosines.1, squares.1)] {
            let (cosine, square) = (cosine.unwrap(), square.unwrap());
            let ends = |of: Interval| of.ends.unwrap();
            // Points are f32 of length 1 up to 6e-8.
            for (a, b) in [
                (cosine.mean, square.mean),
                (ends(cosine).0, ends(square).0),
                (ends(cosine).1, ends(square).1),
            ] {
                assert!((2.0 * a - b).abs() < 1e-6, "{cosine:?} {square:?}");
            }
        }
        let mut one = SquaredDistances::default();
        one.add(0, &[1.0]);
        assert_eq!(one.means(), (None, None));
        one.add(1, &[3.0]);
        assert_eq!(one.means(), (Some(Interval { mean: 4.0, ends: None }), None));
    }

    /// The eigenvalues of a diagonal covariance are known: of 2 m points at plus and minus `a_i` on each of m
    /// axes the variance there is `2 a_i^2 / (2 m - 1)`.
    #[test]
    fn the_entropy_is_that_of_a_known_spectrum() {
        let sides = [0.5_f32, 0.25, 0.125];
        let points: Vec<Vec<f32>> = sides
            .iter()
            .enumerate()
            .flat_map(|(axis, &a)| [a, -a].map(|x| (0..3).map(|i| if i == axis { x } else { 0.0 }).collect()))
            .collect();
        let vectors: Vec<&[f32]> = points.iter().map(Vec::as_slice).collect();
        let nu = sides.map(|a| 2.0 * f64::from(a).powi(2) / 5.0);
        for k in 1..=3 {
            let known = 0.5 * k as f64 * (2.0 * std::f64::consts::PI * std::f64::consts::E).ln()
                + 0.5 * nu[..k].iter().map(|nu| nu.ln()).sum::<f64>();
            let found = entropy(&vectors, k).unwrap();
            // f64 throughout: 4e-16 was measured.
            assert!((found - known).abs() < 1e-13, "{k}: {found} and {known}");
        }
        assert_eq!(entropy(&vectors[..3], 3), None, "three points have two dimensions");
        assert_eq!(entropy(&[&[1.0, 0.0], &[1.0, 0.0], &[1.0, 0.0]], 1), None, "no spread");
        // More points than dimensions, and fewer, are the same up to rounding where the spectrum is.
        let long: Vec<Vec<f32>> = points.iter().map(|p| [&p[..], &[0.0; 9]].concat()).collect();
        let long: Vec<&[f32]> = long.iter().map(Vec::as_slice).collect();
        assert!((entropy(&long, 3).unwrap() - entropy(&vectors, 3).unwrap()).abs() < 1e-13);
    }
}
