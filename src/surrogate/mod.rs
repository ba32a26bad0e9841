//! Surrogates of a black box (docs/spec.md 8): what is learned from the pictures that it has judged, how sure
//! that is, and a reward with a gradient made of it. A surrogate is an MLP of the shape of the aesthetic
//! predictor's head on the CLIP embedding of a picture, or several of them.

mod bonus;
mod file;
mod fit;
mod learned;
mod reward;
mod settings;
#[cfg(test)]
mod tests;

pub use file::{ENTRY, decode, encode};
pub use fit::Epoch;
pub use learned::{Learned, Prediction, Surrogate};
pub use reward::{Shared, SurrogateReward};
pub use settings::{Optimism, Pair, Settings, Spread};
