//! The weights of the sums: `--weights`.

use std::str::FromStr;

use crate::error::{Error, Result};

/// As typed.
#[derive(Clone, Debug, PartialEq)]
pub enum Weights {
    /// Multiples of one part of so many.
    Parts(usize),
    /// Of the first of two rewards.
    First(Vec<f64>),
}

/// Most sums of an experiment.
const MOST: usize = 1000;

impl FromStr for Weights {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Weights, String> {
        let wrong = || format!("expected 0..1:STEP or a list such as 0,0.2,1, not `{s}`");
        let number = |text: &str| text.trim().parse::<f64>().map_err(|_| wrong());
        if let Some((range, step)) = s.split_once(':') {
            if range.trim() != "0..1" {
                return Err(format!("`{s}`: weights add up to 1, so that the range is 0..1"));
            }
            let step = number(step)?;
            let parts = (1.0 / step).round();
            // As decimal fractions are typed: 0.33 is not a third.
            if !(step > 0.0 && step <= 1.0 && (parts * step - 1.0).abs() < 1e-6) {
                return Err(format!("`{s}`: the step must be a part of 1, such as 0.1 or 0.25"));
            }
            return Ok(Weights::Parts(parts as usize));
        }
        let list = s.split(',').map(number).collect::<std::result::Result<Vec<_>, _>>()?;
        if let Some(odd) = list.iter().find(|w| !(0.0..=1.0).contains(*w)) {
            return Err(format!("`{s}`: the weight {odd} is not from 0 to 1"));
        }
        let twice = |(at, w): (usize, &f64)| list[..at].contains(w);
        match list.iter().enumerate().any(twice) {
            true => Err(format!("a weight is there twice in `{s}`")),
            false => Ok(Weights::First(list)),
        }
    }
}

impl Weights {
    /// The weights of all sums of so many rewards, those of the first reward rising.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a list of more than two rewards, and for more sums
    /// than anybody can mean.
    pub fn grid(&self, rewards: usize) -> Result<Vec<Vec<f64>>> {
        match self {
            Weights::First(list) if rewards == 2 => {
                let mut list = list.clone();
                list.sort_by(f64::total_cmp);
                Ok(list.into_iter().map(|w| vec![w, 1.0 - w]).collect())
            }
            Weights::First(_) => Err(Error::usage(format!(
                "--weights: a list is of the first of two rewards, and there are {rewards}"
            ))
            .advice("give --weights 0..1:STEP")),
            Weights::Parts(parts) => {
                let count = combinations(*parts, rewards);
                if count > MOST as f64 {
                    return Err(Error::usage(format!(
                        "--weights: {rewards} rewards in steps of 1/{parts} are {count} sums, of at most {MOST}"
                    ))
                    .advice("give --weights a larger step"));
                }
                let whole = |counts: Vec<usize>| {
                    counts.into_iter().map(|n| n as f64 / *parts as f64).collect::<Vec<f64>>()
                };
                Ok(shared(*parts, rewards).into_iter().map(whole).collect())
            }
        }
    }
}

/// How many ways there are to share `parts` among so many: (parts + rewards - 1) over (rewards - 1).
fn combinations(parts: usize, rewards: usize) -> f64 {
    (1..rewards).fold(1.0, |count, i| count * (parts as f64 + i as f64) / i as f64).round()
}

/// All ways to share `parts`, the first share rising.
fn shared(parts: usize, among: usize) -> Vec<Vec<usize>> {
    match among {
        0 => Vec::new(),
        1 => vec![vec![parts]],
        _ => (0..=parts)
            .flat_map(|first| {
                shared(parts - first, among - 1)
                    .into_iter()
                    .map(move |rest| std::iter::once(first).chain(rest).collect())
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(text: &str, rewards: usize) -> Vec<Vec<f64>> {
        text.parse::<Weights>().unwrap().grid(rewards).unwrap()
    }

    #[test]
    fn a_grid_has_every_combination_once() {
        assert_eq!(grid("0..1:0.5", 2), [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]);
        assert_eq!(grid("0.2, 0,1", 2), [[0.0, 1.0], [0.2, 0.8], [1.0, 0.0]]);
        let three = grid("0..1:0.1", 3);
        assert_eq!(three.len(), 66);
        assert!(three.iter().all(|w| (w.iter().sum::<f64>() - 1.0).abs() < 1e-12));
        assert!(three.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(grid("0..1:1", 4).len(), 4);
    }

    #[test]
    fn what_is_no_grid_is_refused() {
        for (text, says) in [
            ("", "expected"),
            ("a", "expected"),
            ("0..1", "expected"),
            ("0..2:0.5", "range is 0..1"),
            ("0..1:0.3", "part of 1"),
            ("0..1:0", "part of 1"),
            ("0..1:-0.5", "part of 1"),
            ("0..1:NaN", "part of 1"),
            ("0..1:2", "part of 1"),
            ("0,1.5", "from 0 to 1"),
            ("NaN", "from 0 to 1"),
            ("0.5,0.5", "twice"),
        ] {
            let error = text.parse::<Weights>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        let error =
            |text: &str, rewards| text.parse::<Weights>().unwrap().grid(rewards).unwrap_err().to_string();
        assert!(error("0,1", 3).contains("0..1:STEP"));
        assert!(error("0..1:0.001", 3).contains("501501 sums"));
        assert!(error("0..1:0.0000001", 9).contains("larger step"));
        assert!(error("0..1:1e-300", 3).contains("larger step"));
    }
}
