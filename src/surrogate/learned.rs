//! What has been learned, and what it says of a picture.

use super::bonus::Features;
use super::{Optimism, Settings};
use crate::hash::sha256;
use crate::mlp::{Affine, Mlp};

/// What a surrogate says of a picture, in the units of the answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// What it expects.
    pub mean: f64,
    /// What it hopes for beyond that: guidance follows the sum.
    pub bonus: f64,
    /// Standard deviation of an answer around the mean: that of what the surrogate missed the pairs by that
    /// it did not learn from, and of the mean itself. Nineteen of twenty answers should be within twice as
    /// much, where pictures are such as it has seen.
    pub uncertainty: f64,
}

/// The scale on which answers are learned: `(answer - mean) / deviation`, so that no unit of a black box is
/// too large or too small for the learning rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Standard {
    pub mean: f64,
    pub deviation: f64,
}

impl Standard {
    /// Of the answers that are learned from.
    pub fn of(answers: &[f64]) -> Standard {
        let n = answers.len() as f64;
        let mean = answers.iter().sum::<f64>() / n;
        let variance = answers.iter().map(|answer| (answer - mean).powi(2)).sum::<f64>() / n;
        let deviation = variance.sqrt();
        // Of answers that are all the same, any scale will do.
        Standard { mean, deviation: if deviation > 0.0 { deviation } else { 1.0 } }
    }
}

/// How many of so many pairs teach; the newest tenth validates.
pub(super) fn taught(pairs: usize) -> usize {
    (9 * pairs / 10).max(1).min(pairs)
}

/// SHA-256 of answers.
pub(super) fn hash(answers: &[f64]) -> String {
    sha256(&answers.iter().flat_map(|answer| answer.to_le_bytes()).collect::<Vec<u8>>())
}

/// What has been learned from pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Surrogate {
    pub(super) settings: Settings,
    /// At their best epochs.
    pub(super) networks: Vec<Mlp>,
    pub(super) standard: Standard,
    pub(super) learned: Learned,
    /// Of the first network; none of a bootstrap, whose heads tell how sure the mean is.
    pub(super) features: Option<Features>,
    /// The networks as maps to answers.
    pub(super) heads: Vec<Affine>,
}

/// How the learning went.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// Pairs, those included that validate.
    pub pairs: usize,
    /// Pairs that validate: the newest tenth.
    pub validated: usize,
    /// SHA-256 of the answers of all pairs in order, as little-endian f64.
    pub answers_sha256: String,
    /// Of each network, from 0.
    pub best_epochs: Vec<usize>,
    /// Root of the mean squared error of the mean on the pairs that validate, in the units of the answers.
    pub error: f64,
    /// The same on those that were learned from.
    pub training_error: f64,
}

impl Surrogate {
    /// From networks at their best, for the constructor of a fit and of a file.
    pub(super) fn new(
        settings: Settings,
        networks: Vec<Mlp>,
        standard: Standard,
        learned: Learned,
        features: Option<Features>,
    ) -> Surrogate {
        let head = |network: &Mlp| composed(network).scaled(standard.deviation, standard.mean);
        let heads = networks.iter().map(head).collect();
        Surrogate { settings, networks, standard, learned, features, heads }
    }

    /// Numbers of an embedding.
    pub fn width(&self) -> usize {
        self.heads.first().map_or(0, |head| head.inputs)
    }

    /// How it has learned.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How the learning went.
    pub fn learned(&self) -> &Learned {
        &self.learned
    }

    /// What tells it from a surrogate that `settings` make of `answers`, in words; `None` where nothing does.
    /// Networks are not looked at.
    pub fn differs_from(&self, settings: &Settings, answers: &[f64]) -> Option<String> {
        let Learned { pairs, answers_sha256, .. } = &self.learned;
        if let Some(difference) = self.settings.difference(settings) {
            return Some(difference);
        }
        if *pairs != answers.len() {
            return Some(format!("it has learned from {pairs} answers, not {}", answers.len()));
        }
        let same = self.standard == Standard::of(&answers[..taught(answers.len())]);
        (!same || *answers_sha256 != hash(answers)).then(|| "it has learned from other answers".into())
    }

    /// What it says of the picture of an embedding of its [`width`](Surrogate::width).
    pub fn predict(&self, embedding: &[f32]) -> Prediction {
        let all: Vec<f64> = self.heads.iter().flat_map(|head| head.apply(embedding)).collect();
        let n = all.len().max(1) as f64;
        let mean = all.iter().sum::<f64>() / n;
        let noise = self.learned.error.max(self.learned.training_error).powi(2);
        let (bonus, of_mean) = match &self.features {
            Some(features) => {
                let bonus = match self.settings.optimism {
                    Optimism::Greedy => 0.0,
                    _ => features.bonus(embedding, &self.settings) * self.standard.deviation,
                };
                (bonus, noise * features.leverage(embedding))
            }
            None => {
                let largest = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let squares = all.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>();
                (largest - mean, squares / (n - 1.0).max(1.0))
            }
        };
        Prediction { mean, bonus, uncertainty: (noise + of_mean).sqrt() }
    }
}

/// A network without dropout.
pub(super) fn composed(network: &Mlp) -> Affine {
    Affine::of(network.widths.first().copied().unwrap_or_default(), &network.layers)
}
