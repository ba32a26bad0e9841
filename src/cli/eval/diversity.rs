//! How diverse pictures are: distances of embeddings, and the truncated CLIP entropy (docs/spec.md 11.2,
//! 11.3). Intervals are by the jackknife over prompts: pairs of pictures are not independent.

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
