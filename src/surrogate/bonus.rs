//! What is not known of the features before the last layer (docs/spec.md 8.3).

use super::settings::MOST_BONUS;
use super::{Optimism, Pair, Settings, Spread};
use crate::error::{Error, Result};
use crate::mlp::{Affine, Mlp};

/// Added to the diagonal of the spread.
const RHO: f64 = 1e-3;

/// The features `phi` of embeddings, and how those of the pairs are spread.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Sums over the pairs.
    pub moments: Moments,
    /// `u(e)`, whose squared length is `phi' (sum phi phi' + rho I)^-1 phi`.
    by_sum: Affine,
    /// The same by the spread of the bonus, where that is another.
    by_covariance: Option<Affine>,
}

/// Sums of features over pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    pub pairs: usize,
    /// `sum phi`.
    pub first: Vec<f64>,
    /// `sum phi phi'`, row after row.
    pub second: Vec<f64>,
}

impl Features {
    /// Those of a network that has learned from `pairs`.
    pub fn of(network: &Mlp, pairs: &[Pair], settings: &Settings) -> Result<Features> {
        let map = map(network);
        let k = map.bias.len();
        let mut moments = Moments { pairs: pairs.len(), first: vec![0.0; k], second: vec![0.0; k * k] };
        for pair in pairs {
            let phi = map.apply(&pair.embedding);
            for (i, a) in phi.iter().enumerate() {
                moments.first[i] += a;
                phi.iter().enumerate().for_each(|(j, b)| moments.second[i * k + j] += a * b);
            }
        }
        Features::from_moments(network, moments, settings)
    }

    /// The same, of what is known of the pairs.
    pub fn from_moments(network: &Mlp, moments: Moments, settings: &Settings) -> Result<Features> {
        let map = map(network);
        let whitened = |spread: &[f64]| whitened(&map, spread);
        let covariance = matches!(settings.optimism, Optimism::Ucb(Spread::Covariance));
        Ok(Features {
            by_sum: whitened(&moments.second)?,
            by_covariance: covariance.then(|| whitened(&moments.covariance())).transpose()?,
            moments,
        })
    }

    /// The map whose length is the bonus without its factor.
    pub fn of_bonus(&self) -> &Affine {
        self.by_covariance.as_ref().unwrap_or(&self.by_sum)
    }

    /// The bonus, in standard deviations of the answers.
    pub fn bonus(&self, embedding: &[f32], settings: &Settings) -> f64 {
        (settings.bonus * squared(&self.of_bonus().apply(embedding)).sqrt()).min(MOST_BONUS)
    }

    /// The variance of the mean as a multiple of that of the noise, by the theory of linear regression.
    pub fn leverage(&self, embedding: &[f32]) -> f64 {
        squared(&self.by_sum.apply(embedding))
    }
}

impl Moments {
    /// The sample covariance; of one pair zero.
    fn covariance(&self) -> Vec<f64> {
        let (n, k) = (self.pairs as f64, self.first.len());
        let mean: Vec<f64> = self.first.iter().map(|sum| sum / n).collect();
        let entry = |at: usize| {
            let (i, j) = (at / k, at % k);
            (self.second[at] - n * mean[i] * mean[j]) / (n - 1.0).max(1.0)
        };
        (0..k * k).map(entry).collect()
    }
}

/// A network but for its last layer.
fn map(network: &Mlp) -> Affine {
    let inputs = network.widths.first().copied().unwrap_or_default();
    Affine::of(inputs, network.layers.split_last().map_or(&[][..], |(_, before)| before))
}

fn squared(u: &[f64]) -> f64 {
    u.iter().map(|x| x * x).sum()
}

/// `C^-1` times the map, where `C C'` is the spread plus rho on its diagonal (Cholesky).
fn whitened(map: &Affine, spread: &[f64]) -> Result<Affine> {
    let k = map.bias.len();
    let mut factor = vec![0.0; k * k];
    let mut all = map.clone();
    for i in 0..k {
        for j in 0..=i {
            let known: f64 = (0..j).map(|l| factor[i * k + l] * factor[j * k + l]).sum();
            let left = spread[i * k + j] - known + if i == j { RHO } else { 0.0 };
            factor[i * k + j] = if i == j { left.sqrt() } else { left / factor[j * k + j] };
        }
        let own = factor[i * k + i];
        if !(own.is_finite() && own > 0.0) {
            return Err(Error::numerical(
                "the surrogate's features are not finite, or too large to be told apart",
            )
            .option("learning_rate")
            .advice("give `learning_rate` a smaller number"));
        }
        // Row i of the solution: what the rows above have of it goes first.
        let n = map.inputs;
        for j in 0..i {
            let share = factor[i * k + j];
            let (above, here) = all.weight.split_at_mut(i * n);
            here[..n].iter_mut().zip(&above[j * n..][..n]).for_each(|(x, y)| *x -= share * y);
            all.bias[i] -= share * all.bias[j];
        }
        all.weight[i * n..][..n].iter_mut().for_each(|x| *x /= own);
        all.bias[i] /= own;
    }
    Ok(all)
}
