//! Linear layers without activations between them are one affine map, composed in f64.

use rayon::prelude::*;

/// `weight x + bias`.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    /// Numbers of `x`.
    pub inputs: usize,
    /// `(outputs, inputs)`, row after row.
    pub weight: Vec<f64>,
    /// One for each output.
    pub bias: Vec<f64>,
}

impl Affine {
    /// The map of `layers` one after another, of each its weight `(out, in)` and its bias; the first has
    /// `inputs`. At least one layer, and each takes what the one before it makes.
    pub fn of<W: AsRef<[f32]>>(inputs: usize, layers: &[(W, W)]) -> Affine {
        // From the last layer down: output = rows . x + bias, with x the input of the layers composed so far.
        let mut composed: Option<Affine> = None;
        for (at, (weight, bias)) in layers.iter().enumerate().rev() {
            let (weight, bias) = (weight.as_ref(), bias.as_ref());
            let width = if at == 0 { inputs } else { layers[at - 1].1.as_ref().len() };
            composed = Some(match composed {
                None => Affine {
                    inputs: width,
                    weight: weight.iter().map(|w| f64::from(*w)).collect(),
                    bias: bias.iter().map(|b| f64::from(*b)).collect(),
                },
                Some(after) => after.behind(width, weight, bias),
            });
        }
        composed.unwrap_or(Affine { inputs, weight: Vec::new(), bias: Vec::new() })
    }

    /// This map of what a layer makes of `width` inputs.
    fn behind(&self, width: usize, weight: &[f32], bias: &[f32]) -> Affine {
        let row = |row: &[f64]| {
            let mut next = vec![0.0; width];
            for (factor, weights) in row.iter().zip(weight.chunks_exact(width.max(1))) {
                next.iter_mut().zip(weights).for_each(|(n, w)| *n += factor * f64::from(*w));
            }
            next
        };
        let sum = |row: &[f64]| row.iter().zip(bias).map(|(r, b)| r * f64::from(*b)).sum::<f64>();
        let rows = self.weight.par_chunks_exact(self.inputs.max(1));
        Affine {
            inputs: width,
            weight: rows.clone().flat_map_iter(row).collect(),
            bias: rows.zip(&self.bias).map(|(row, own)| own + sum(row)).collect(),
        }
    }

    /// The outputs for `x`.
    pub fn apply(&self, x: &[f32]) -> Vec<f64> {
        let product = |row: &[f64]| row.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum::<f64>();
        self.weight
            .chunks_exact(self.inputs.max(1))
            .zip(&self.bias)
            .map(|(row, b)| product(row) + b)
            .collect()
    }

    /// `factor` times this map, plus `shift`.
    #[must_use]
    pub fn scaled(&self, factor: f64, shift: f64) -> Affine {
        Affine {
            inputs: self.inputs,
            weight: self.weight.iter().map(|w| factor * w).collect(),
            bias: self.bias.iter().map(|b| factor * b + shift).collect(),
        }
    }
}
