//! What a surrogate learns from, and how.

use crate::error::{Error, Result};

/// Widths of the hidden layers. There are no activations between layers, as in the head of the aesthetic
/// predictor.
pub(super) const HIDDEN: [usize; 4] = [1024, 128, 64, 16];
/// Share of the outputs of the first layers that training leaves out.
pub(super) const DROPOUT: [f64; 3] = [0.2, 0.2, 0.1];
/// Heads of a bootstrap.
pub(super) const HEADS: usize = 4;
/// Most of a bonus, in standard deviations of the answers.
pub(super) const MOST_BONUS: f64 = 10.0;

/// What a surrogate hopes for beyond what it expects (docs/spec.md 8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Optimism {
    /// Upper confidence bound: a bonus that grows with what is not known of the 16 features before the last
    /// layer.
    Ucb(Spread),
    /// The largest of four heads, each of which has learned from a resample of the pairs.
    Bootstrap,
    /// Nothing.
    Greedy,
}

/// What the features of the pairs are spread by, for the bonus `a sqrt(phi' (S + rho I)^-1 phi)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// `S = sum phi phi'`: the bonus falls as pairs come in.
    Sum,
    /// The sample covariance of the features, as in the authors' program: it does not.
    Covariance,
}

impl Spread {
    /// The factor `a` that suits it, in standard deviations of the answers: of the sum, one; of the
    /// covariance, the authors' 0.01.
    pub const fn factor(self) -> f64 {
        match self {
            Spread::Sum => 1.0,
            Spread::Covariance => 0.01,
        }
    }
}

/// How a surrogate learns.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What it hopes for.
    pub optimism: Optimism,
    /// Factor `a` of the bonus, in standard deviations of the answers, at least 0.
    pub bonus: f64,
    /// Learning rate of Adam, above 0.
    pub rate: f64,
    /// Pairs of a step, at least 1.
    pub batch: usize,
    /// Passes over the pairs, at least 1.
    pub epochs: usize,
    /// Factor `c` of the noise of stochastic gradient Langevin dynamics, whose standard deviation is
    /// `c sqrt(rate) / sqrt(batch)`; 0 for none.
    pub langevin: f64,
}

impl Settings {
    /// Those of the authors' program for the aesthetic reward, but for the number of epochs, a tenth of
    /// theirs: of every network the best epoch is kept.
    pub fn new(optimism: Optimism) -> Settings {
        let bonus = match optimism {
            Optimism::Ucb(spread) => spread.factor(),
            Optimism::Bootstrap | Optimism::Greedy => 0.0,
        };
        Settings { optimism, bonus, rate: 1e-3, batch: 512, epochs: 300, langevin: 0.0 }
    }

    /// The first of these that is another there, in words.
    pub fn difference(&self, there: &Settings) -> Option<String> {
        let Settings { optimism, bonus, rate, batch, epochs, langevin } = self;
        if optimism != &there.optimism {
            return Some(format!("its optimism is {}, not {}", optimism.name(), there.optimism.name()));
        }
        let numbers = [
            ("bonus", *bonus, there.bonus),
            ("learning_rate", *rate, there.rate),
            ("batch", *batch as f64, there.batch as f64),
            ("epochs", *epochs as f64, there.epochs as f64),
            ("langevin", *langevin, there.langevin),
        ];
        let other = numbers.into_iter().find(|(_, own, there)| own != there);
        other.map(|(name, own, there)| format!("its {name} is {own}, not {there}"))
    }

    /// Networks of such a surrogate.
    pub fn heads(&self) -> usize {
        if self.optimism == Optimism::Bootstrap { HEADS } else { 1 }
    }

    /// Refuses what nothing can be learned with.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming the option.
    pub fn check(&self) -> Result<()> {
        let wrong = |option: &'static str, value: f64, expected: &str| {
            Err(Error::usage(format!("`{option}` {value} is not {expected}"))
                .option(option)
                .advice(format!("give `{option}` {expected}")))
        };
        let positive = |x: f64| x.is_finite() && x > 0.0;
        match self {
            Settings { epochs: 0, .. } => wrong("epochs", 0.0, "at least 1"),
            Settings { batch: 0, .. } => wrong("surrogate_batch", 0.0, "at least 1"),
            _ if !positive(self.rate) => wrong("learning_rate", self.rate, "a finite number above 0"),
            _ if !(self.bonus.is_finite() && self.bonus >= 0.0) => {
                wrong("bonus", self.bonus, "a finite number of at least 0")
            }
            _ if !(self.langevin.is_finite() && self.langevin >= 0.0) => {
                wrong("langevin", self.langevin, "a finite number of at least 0")
            }
            _ => Ok(()),
        }
    }
}

/// A picture that the black box has judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Of the picture, of unit length.
    pub embedding: Vec<f32>,
    /// What the black box said of it.
    pub answer: f64,
}
