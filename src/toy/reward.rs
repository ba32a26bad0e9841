//! Rewards of the toys.

use super::Point;

/// Squared coordinates count no more than this (docs/spec.md 9).
const MOST: f64 = 1e4;

/// `r(x) = -sum_i weight_i min((x_i - centre_i)^2, 1e4)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Quadratic {
    /// Where the reward is largest: 0.
    pub centre: Vec<f64>,
    /// How fast it falls along each coordinate, at least 0.
    pub weight: Vec<f64>,
}

impl Quadratic {
    /// A reward of these weights around the origin.
    pub fn new(weight: &[f64]) -> Quadratic {
        Quadratic { centre: vec![0.0; weight.len()], weight: weight.to_vec() }
    }

    /// The reward of a point.
    pub fn value(&self, x: &Point) -> f64 {
        let terms = self.weight.iter().zip(&self.centre).zip(x);
        terms.map(|((w, c), x)| -w * ((x - c) * (x - c)).min(MOST)).sum()
    }

    /// Its gradient.
    pub fn gradient(&self, x: &Point) -> Point {
        let mut gradient = Point::default();
        for (i, slot) in gradient.iter_mut().enumerate().take(self.weight.len()) {
            let away = x[i] - self.centre[i];
            *slot = if away * away < MOST { -2.0 * self.weight[i] * away } else { 0.0 };
        }
        gradient
    }
}
