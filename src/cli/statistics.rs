//! Means over prompts and over seeds with their uncertainty.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::noise::{Key, Purpose, uniforms};
use crate::smc::error_bar::student;

/// A mean and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    pub mean: f64,
    /// Its two ends; `None` of one prompt or seed, which says nothing of others.
    pub ends: Option<(f64, f64)>,
}

impl Interval {
    /// As people read it, `0.123 [0.100, 0.150]`; nothing where it is not known.
    pub fn text(interval: Option<Interval>) -> String {
        interval.map_or(String::new(), |interval| interval.written(false))
    }

    /// The same of a difference, whose numbers all have their `sign`.
    pub fn signed(interval: Option<Interval>) -> String {
        interval.map_or(String::new(), |interval| interval.written(true))
    }

    /// With three decimals; where none of its numbers has that many to show, with powers of ten.
    fn written(self, sign: bool) -> String {
        let Interval { mean, ends } = self;
        let (low, high) = ends.unwrap_or((mean, mean));
        let largest = mean.abs().max(low.abs()).max(high.abs());
        let one = |x: f64| {
            let text = if largest < SMALL && x != 0.0 { format!("{x:.2e}") } else { shown(x) };
            if sign && x >= 0.0 { format!("+{text}") } else { text }
        };
        match ends {
            None => one(mean),
            Some(_) => format!("{} [{}, {}]", one(mean), one(low), one(high)),
        }
    }

    /// Mean, low and high as cells of CSV; what is not known is empty.
    pub fn cells(interval: Option<Interval>) -> [String; 3] {
        let (low, high) = interval.and_then(|i| i.ends).unzip();
        [interval.map(|i| i.mean), low, high].map(|x| x.map_or(String::new(), |x| x.to_string()))
    }

    /// As an object with `mean`, `low` and `high`, or `null`.
    pub fn json(interval: Option<Interval>) -> Value {
        let (low, high) = interval.and_then(|i| i.ends).unzip();
        json!(interval.map(|i| json!({"mean": i.mean, "low": low, "high": high})))
    }

    /// Student's interval around a mean, or what stands for one, of `n` values with this standard error.
    fn of_student(mean: f64, n: f64, error: f64) -> Interval {
        let half = NORMAL * student(n - 1.0) * error;
        Interval { mean, ends: (n > 1.0).then_some((mean - half, mean + half)) }
    }
}

/// Intervals of smaller numbers than this have nothing to show in three decimals.
const SMALL: f64 = 0.01;

/// A number with three decimals, or of a size that has too many digits with an exponent.
pub fn shown(x: f64) -> String {
    if x.abs() < 1e6 { format!("{x:.3}") } else { format!("{x:.3e}") }
}

/// Resamples of the bootstrap.
pub const RESAMPLES: usize = 10_000;

/// The mean over prompts of the mean over seeds, with the bootstrap's percentile interval over prompts:
/// prompts are drawn with replacement, and each brings its seeds. `None` without values. The same values in
/// the same order always give the same interval.
pub fn over_prompts(values: impl Iterator<Item = (usize, f64)>) -> Option<Interval> {
    let mut by_prompt: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    values.for_each(|(prompt, value)| by_prompt.entry(prompt).or_default().push(value));
    let means: Vec<f64> = by_prompt.values().map(|list| mean(list)).collect();
    match means[..] {
        [] => return None,
        [one] => return Some(Interval { mean: one, ends: None }),
        _ => {}
    }
    let n = means.len();
    let of = |drawn: &[usize]| drawn.iter().map(|&prompt| means[prompt]).sum::<f64>() / n as f64;
    Some(Interval { mean: mean(&means), ends: Some(bootstrap(n, RESAMPLES, of)) })
}

/// The 95 % percentile interval of a `statistic` of `n` prompts, by so many resamples: it gets the places of
/// prompts that are drawn with replacement, `n` of them. The same always gives the same interval.
pub fn bootstrap(n: usize, resamples: usize, mut statistic: impl FnMut(&[usize]) -> f64) -> (f64, f64) {
    let mut uniform = uniforms(Key { seed: 1, prompt: 0, particle: 0, step: 0, purpose: Purpose::Draw });
    let mut drawn = vec![0; n];
    let mut values: Vec<f64> = (0..resamples)
        .map(|_| {
            drawn.iter_mut().for_each(|place| *place = ((uniform.draw() * n as f64) as usize).min(n - 1));
            statistic(&drawn)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((share * resamples as f64) as usize).min(resamples - 1)];
    (at(0.025), at(0.975))
}

/// The mean over seeds with Student's interval: seeds are independent, and means of a run are nearly normal.
/// `None` without values.
pub fn over_seeds(values: &[f64]) -> Option<Interval> {
    let (n, center) = (values.len() as f64, mean(values));
    if values.is_empty() {
        return None;
    }
    let variance = values.iter().map(|v| (v - center) * (v - center)).sum::<f64>() / (n - 1.0);
    Some(Interval::of_student(center, n, (variance / n).sqrt()))
}

/// The 97.5 % quantile of the normal distribution.
const NORMAL: f64 = 1.959_963_984_540_054;

/// A `whole` with the interval of the jackknife, from the same without each prompt in turn: Student's, by
/// Tukey's standard error. Without ends of fewer than two.
pub fn jackknife(whole: f64, without: Vec<f64>) -> Interval {
    let (n, center) = (without.len() as f64, mean(&without));
    let squares = without.iter().map(|x| (x - center) * (x - center)).sum::<f64>();
    Interval::of_student(whole, n, ((n - 1.0) / n * squares).sqrt())
}

/// The value below which `share` of the list lies; `None` without values.
pub fn quantile(list: &[f64], share: f64) -> Option<f64> {
    let mut sorted = list.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(share * last as f64).floor() as usize])
}

/// The mean; not a number without values.
pub fn mean(list: &[f64]) -> f64 {
    list.iter().sum::<f64>() / list.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The percentile interval of a mean of many values is about 1.96 standard errors wide on either side.
    #[test]
    fn the_interval_is_that_of_a_mean() {
        let mut u = uniforms(Key { seed: 7, prompt: 0, particle: 0, step: 0, purpose: Purpose::Data });
        let values: Vec<(usize, f64)> = (0..200).map(|i| (i / 2, u.draw())).collect();
        let interval = over_prompts(values.iter().copied()).expect("values");
        let means: Vec<f64> = values.chunks(2).map(|pair| 0.5 * (pair[0].1 + pair[1].1)).collect();
        let center = mean(&means);
        let variance = means.iter().map(|m| (m - center).powi(2)).sum::<f64>() / 99.0;
        let half = 1.96 * (variance / 100.0).sqrt();
        assert!((interval.mean - center).abs() < 1e-12);
        // 10000 resamples and 100 values: a few per cent.
        let (low, high) = interval.ends.expect("many prompts");
        assert!(((high - low) / (2.0 * half) - 1.0).abs() < 0.06, "{interval:?} {half}");
        assert_eq!(over_prompts(values.iter().copied()), Some(interval), "the same again");
        assert_eq!(over_prompts(std::iter::empty()), None);
        let one = over_prompts([(3, 1.5), (3, 2.5)].into_iter()).expect("values");
        assert_eq!(one, Interval { mean: 2.0, ends: None });
    }

    /// The textbook's interval of 1 .. 10: 5.5 +- 2.262 x 3.0277 / sqrt 10.
    #[test]
    fn the_interval_over_seeds_is_students() {
        let interval = over_seeds(&(1..=10).map(f64::from).collect::<Vec<_>>()).expect("values");
        let (low, high) = interval.ends.expect("ends");
        assert!(
            interval.mean == 5.5 && (high - 5.5 - 2.1659).abs() < 1e-3 && (low + high - 11.0).abs() < 1e-12
        );
        assert_eq!(over_seeds(&[2.0]), Some(Interval { mean: 2.0, ends: None }));
        assert_eq!(over_seeds(&[]), None);
    }

    /// Of a mean the jackknife is Student's interval itself.
    #[test]
    fn the_jackknife_of_a_mean_is_its_interval() {
        let values = [1.0, 4.0, 2.0, 7.0];
        let without = |left_out: usize| {
            values.iter().enumerate().filter(|(i, _)| *i != left_out).map(|(_, x)| x).sum::<f64>() / 3.0
        };
        let found = jackknife(mean(&values), (0..4).map(without).collect()).ends.expect("an interval");
        let known = over_seeds(&values).and_then(|interval| interval.ends).expect("an interval");
        assert!(
            (found.0 - known.0).abs() < 1e-12 && (found.1 - known.1).abs() < 1e-12,
            "{found:?} {known:?}"
        );
        assert_eq!(jackknife(2.0, vec![1.0]).ends, None);
    }

    #[test]
    fn numbers_have_the_digits_that_they_need() {
        let of = |mean: f64, ends| Some(Interval { mean, ends });
        assert_eq!(Interval::text(of(0.1234, Some((0.1, 0.15)))), "0.123 [0.100, 0.150]");
        assert_eq!(Interval::text(of(2e30, None)), "2.000e30");
        assert_eq!(Interval::text(of(4.97e-6, Some((0.0, 9e-6)))), "4.97e-6 [0.000, 9.00e-6]");
        assert_eq!(Interval::signed(of(0.25, Some((-0.5, 1.0)))), "+0.250 [-0.500, +1.000]");
        assert_eq!(Interval::signed(of(-2e-4, Some((-4e-4, 1e-5)))), "-2.00e-4 [-4.00e-4, +1.00e-5]");
        assert_eq!(Interval::signed(of(0.0, None)), "+0.000");
    }

    #[test]
    fn quantiles_are_values_of_the_list() {
        let list = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!([0.0, 0.05, 0.5, 1.0].map(|q| quantile(&list, q)), [1.0, 1.0, 3.0, 5.0].map(Some));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
