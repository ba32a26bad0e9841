//! The arithmetic of a LoRA, in f32.

use rayon::prelude::*;

/// What a LoRA changes in a layer of weights `(out, width)`.
pub struct Update<'a> {
    /// `(out, rank)`.
    pub up: &'a [f32],
    /// `(rank, width)`.
    pub down: &'a [f32],
    /// At least 1.
    pub rank: usize,
    /// Factor of their product.
    pub scale: f32,
    /// Of DoRA: the length of each row of the result.
    pub magnitude: Option<&'a [f32]>,
}

/// Rows of `down` that are added at a time, so that the sum passes through memory a quarter as often.
const TOGETHER: usize = 4;

impl Update<'_> {
    /// `w + scale up down`; with magnitudes each row of that at its length: Liu et al. 2024, equation 5, the
    /// norm over all inputs of an output as PEFT takes it.
    pub fn apply(&self, w: &mut [f32]) {
        let width = self.down.len() / self.rank;
        if width == 0 || w.is_empty() {
            return;
        }
        let rows = w.par_chunks_exact_mut(width).zip(self.up.par_chunks_exact(self.rank)).enumerate();
        rows.for_each_init(
            || vec![0.0_f32; width],
            |sum, (row, (w, up))| {
                sum.fill(0.0);
                for (factors, rows) in up.chunks(TOGETHER).zip(self.down.chunks(TOGETHER * width)) {
                    add(sum, factors, rows, width);
                }
                w.iter_mut().zip(&*sum).for_each(|(w, s)| *w += self.scale * s);
                if let Some(magnitude) = self.magnitude {
                    let square: f64 = w.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                    let factor = magnitude[row] / square.sqrt() as f32;
                    w.iter_mut().for_each(|w| *w *= factor);
                }
            },
        );
    }
}

/// Adds to `sum` each of the `rows` times its factor.
fn add(sum: &mut [f32], factors: &[f32], rows: &[f32], width: usize) {
    if let [a, b, c, d] = *factors {
        let (first, rest) = rows.split_at(width);
        let (second, rest) = rest.split_at(width);
        let (third, fourth) = rest.split_at(width);
        for ((((s, x), y), z), t) in sum.iter_mut().zip(first).zip(second).zip(third).zip(fourth) {
            *s += (a * x + b * y) + (c * z + d * t);
        }
        return;
    }
    for (factor, row) in factors.iter().zip(rows.chunks_exact(width)) {
        sum.iter_mut().zip(row).for_each(|(s, x)| *s += factor * x);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_added_and_rows_get_their_length() {
        // Two outputs, three inputs, rank 5: one block of four rows and a rest.
        let up: Vec<f32> = (0..10).map(|i| (i % 3) as f32 - 1.0).collect();
        let down: Vec<f32> = (0..15).map(|i| (i % 4) as f32).collect();
        let start = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let expected: Vec<f32> = (0..6)
            .map(|at| {
                let (o, i) = (at / 3, at % 3);
                let product: f32 = (0..5).map(|r| up[o * 5 + r] * down[r * 3 + i]).sum();
                start[at] + 0.5 * product
            })
            .collect();
        let mut w = start;
        Update { up: &up, down: &down, rank: 5, scale: 0.5, magnitude: None }.apply(&mut w);
        // Small integers and halves: exact.
        assert_eq!(w.as_slice(), expected.as_slice());
        assert_ne!(w, start);

        let mut w = start;
        Update { up: &up, down: &down, rank: 5, scale: 0.5, magnitude: Some(&[2.0, 7.0]) }.apply(&mut w);
        for (o, length) in [(0, 2.0_f32), (1, 7.0)] {
            let row = &w[o * 3..o * 3 + 3];
            let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            // A few roundings of 2^-24.
            assert!((norm - length).abs() <= 1e-6 * length, "{norm} {length}");
            let ratio = row[0] / expected[o * 3];
            assert!((row[2] - ratio * expected[o * 3 + 2]).abs() < 1e-5, "the direction stays");
        }
    }
}
