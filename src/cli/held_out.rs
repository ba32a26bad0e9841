//! Whether a held-out reward falls while the target rises: the sign of a reward that is over-optimised.

use super::summary::compact;
use crate::method::Method;
use crate::session::{Judgement, PlainScores, Samples};
use crate::smc::error_bar::student;

/// A difference of two means with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Difference {
    mean: f64,
    half: f64,
}

impl Difference {
    /// Of independent values, the variances of which may differ (Welch): `of` minus `from`. `None` where
    /// there are fewer than two of either, or one is not finite.
    fn new(of: &[f64], from: &[f64]) -> Option<Difference> {
        let moments = |list: &[f64]| {
            let n = list.len() as f64;
            let mean = list.iter().sum::<f64>() / n;
            let variance = list.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
            (mean, variance / n)
        };
        if of.len().min(from.len()) < 2 {
            return None;
        }
        let ((a, va), (b, vb)) = (moments(of), moments(from));
        let squares = va.powi(2) / (of.len() - 1) as f64 + vb.powi(2) / (from.len() - 1) as f64;
        let half = match va + vb {
            0.0 => 0.0,
            both => NORMAL * student(both * both / squares) * both.sqrt(),
        };
        let difference = Difference { mean: a - b, half };
        (difference.mean.is_finite() && half.is_finite()).then_some(difference)
    }

    fn rises(self) -> bool {
        self.mean > self.half
    }

    fn falls(self) -> bool {
        self.mean < -self.half
    }

    fn text(self) -> String {
        let [low, high] = [self.mean - self.half, self.mean + self.half].map(|x| compact(x, 3));
        format!("{} [{low}, {high}]", compact(self.mean, 3))
    }
}

/// Roots without which an interval is too wide to say anything.
const FEWEST: usize = 3;

/// The 97.5 % quantile of the normal distribution.
const NORMAL: f64 = 1.959_964;

/// The held-out rewards that are lower in the mean over the particles than over plain pictures of the same
/// prompt, where the target is higher, both by more than their 95 % intervals. Particles of one root are one
/// value, their mean: they are no independent pictures; where too few roots are left, that is said. Methods
/// that return plain samples have nothing to be warned of.
pub fn warnings(
    samples: &Samples,
    judgement: &Judgement,
    plain: &PlainScores,
    method: &'static dyn Method,
) -> Vec<String> {
    if method.has_plain_chains() {
        return Vec::new();
    }
    let population = &samples.population;
    let roots: Vec<u32> = population
        .lineage
        .iter()
        .enumerate()
        .map(|(slot, line)| line.first().copied().unwrap_or(slot as u32))
        .collect();
    let of_roots = by_root(&roots, &population.rewards);
    let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len() as f64;
    if of_roots.len() < FEWEST && !judgement.held_out.is_empty() && mean(&of_roots) > mean(&plain.target) {
        return vec![format!(
            "whether held-out rewards fall cannot be told: {} distinct roots are left, and {FEWEST} are needed. The \
             target rose from {} to {}, which says nothing of the others: a lower `ess_threshold` keeps more roots",
            of_roots.len(),
            compact(mean(&plain.target), 3),
            compact(mean(&of_roots), 3)
        )];
    }
    let Some(target) = Difference::new(&of_roots, &plain.target) else {
        return Vec::new();
    };
    if !target.rises() {
        return Vec::new();
    }
    let fallen = |(name, values): &(String, Vec<f32>)| {
        let values: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
        let (_, from) = plain.held_out.iter().find(|(other, _)| other == name)?;
        let held_out = Difference::new(&by_root(&roots, &values), from).filter(|d| d.falls())?;
        Some(format!(
            "the held-out reward {name} falls while the target rises: {} and {} against {} plain pictures of this \
             prompt (means over the particles, 95 % intervals). The target may be over-optimised: a larger `alpha` \
             stays closer to the model",
            held_out.text(),
            target.text(),
            from.len()
        ))
    };
    judgement.held_out.iter().filter_map(fallen).collect()
}

/// Means over the particles of each root, of the values that are finite.
fn by_root(roots: &[u32], values: &[f64]) -> Vec<f64> {
    let mut sums = std::collections::BTreeMap::<u32, (f64, usize)>::new();
    for (&root, &value) in roots.iter().zip(values).filter(|(_, value)| value.is_finite()) {
        let (sum, count) = sums.entry(root).or_default();
        (*sum, *count) = (*sum + value, *count + 1);
    }
    sums.into_values().map(|(sum, count)| sum / count as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: means 5 and 2, squared errors 1/3 and 1/3, Welch's degrees of freedom 4, quantile 2.776.
    #[test]
    fn the_interval_is_welchs() {
        let difference = Difference::new(&[4.0, 5.0, 6.0], &[1.0, 2.0, 3.0]).expect("finite");
        assert_eq!(difference.mean, 3.0);
        assert!((difference.half - 2.776_445 * (2.0_f64 / 3.0).sqrt()).abs() < 1e-4, "{difference:?}");
        assert!(difference.rises() && !difference.falls());
        assert_eq!(Difference::new(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(Difference::new(&[1.0, f64::NAN], &[1.0, 2.0]), None);
        let flat = Difference::new(&[1.0, 1.0], &[2.0, 2.0]).expect("finite");
        assert!(flat.falls() && flat.half == 0.0);
    }

    #[test]
    fn particles_of_one_root_count_once() {
        assert_eq!(by_root(&[3, 1, 3, 1, 2], &[1.0, 5.0, 3.0, f64::NAN, 7.0]), [5.0, 7.0, 2.0]);
    }
}
