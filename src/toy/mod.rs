//! The paper's experiments on the plane and in space (docs/spec.md 9): laws of data whose score is known in
//! closed form, rewards, and what samples of the target should be. The sampler runs them as any other target.
//!
//! Numbers are the same on every machine: random numbers are those of [`noise`](crate::noise), exponentials
//! and logarithms those of [`smc::math`](crate::smc::math), and the rest is `+`, `-`, `*`, `/` and square
//! roots, each rounded to nearest and in a fixed order, whatever the number of threads.

mod chain;
mod closed_form;
mod data;
mod finetune;
mod mixture;
mod network;
mod points;
mod tilted;
mod trained;
pub mod transport;

pub use crate::backend::Quadratic;
pub use chain::{chain, training_alpha_bars};
pub use closed_form::ClosedForm;
pub use data::{Data, Toy};
pub use finetune::{Baseline, Finetune, Steering, Tuned};
pub use mixture::{Law, Mixture, Seen};
pub use network::{ENTRY, HIDDEN, Layers, Network};
pub use points::{Bandwidth, PointSet};
pub use tilted::Tilted;
pub use trained::Trained;

/// Most coordinates of a point.
pub const MOST_DIMENSIONS: usize = 3;

/// A point or a vector; coordinates beyond those of its space are 0.
pub type Point = [f64; MOST_DIMENSIONS];
