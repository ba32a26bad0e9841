//! The antialiased resize as two banded matrices, one per axis: what every backend applies, so that all
//! agree.

use crate::op::Filter;

/// A banded matrix: row `i` has `weights[i]` from column `from[i]` on.
#[derive(Debug)]
pub struct Banded {
    from: Vec<usize>,
    weights: Vec<Vec<f32>>,
}

impl Banded {
    /// The antialiased filter from `input` to `output` samples: half-pixel centres, the filter widened by the
    /// scale when shrinking, weights of each output normalised to one.
    pub fn resample(input: usize, output: usize, filter: Filter) -> Banded {
        let scale = input as f64 / output as f64;
        let widen = scale.max(1.0);
        let radius = widen
            * match filter {
                Filter::Bilinear => 1.0,
                Filter::Bicubic => 2.0,
            };
        let mut band = Banded { from: Vec::new(), weights: Vec::new() };
        for i in 0..output {
            let centre = scale * (i as f64 + 0.5);
            // Samples whose own centre lies within the radius, rounded as PyTorch rounds.
            let from = (centre - radius + 0.5).max(0.0) as usize;
            let to = ((centre + radius + 0.5) as usize).min(input);
            let raw: Vec<f64> =
                (from..to).map(|j| kernel(filter, (j as f64 - centre + 0.5) / widen)).collect();
            let sum: f64 = raw.iter().sum();
            band.from.push(from);
            band.weights.push(raw.iter().map(|w| (w / sum) as f32).collect());
        }
        band
    }

    /// The transpose, banded as well because bands only move forward.
    pub fn transpose(&self, columns: usize) -> Banded {
        let mut from = vec![0; columns];
        let mut weights = vec![Vec::new(); columns];
        for (i, (&first, row)) in self.from.iter().zip(&self.weights).enumerate() {
            for (j, &w) in (first..).zip(row) {
                if weights[j].is_empty() {
                    from[j] = i;
                }
                assert_eq!(from[j] + weights[j].len(), i, "a band has no holes");
                weights[j].push(w);
            }
        }
        Banded { from, weights }
    }

    pub fn rows(&self) -> usize {
        self.from.len()
    }

    /// The first column of row `i`, and the weights from there on.
    #[inline(always)]
    pub fn row(&self, i: usize) -> (usize, &[f32]) {
        (self.from[i], &self.weights[i])
    }
}

/// Triangle, or Keys' cubic with a = -0.5.
fn kernel(filter: Filter, x: f64) -> f64 {
    let x = x.abs();
    match filter {
        Filter::Bilinear => (1.0 - x).max(0.0),
        Filter::Bicubic => {
            const A: f64 = -0.5;
            if x < 1.0 {
                ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
            } else if x < 2.0 {
                (((x - 5.0) * x + 8.0) * x - 4.0) * A
            } else {
                0.0
            }
        }
    }
}
