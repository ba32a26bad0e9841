//! What a run leaves on disk, one folder per prompt:
//!
//! ```text
//! out/0000-a-photo-of-a-cat/
//!   run.json            every flag, versions, hashes, device, and how the run ended
//!   trace.jsonl         one line per step, complete after every step
//!   particles.jsonl     one line per final particle
//!   best.png  particles/000.png ...  grid.png
//!   latents.safetensors on request
//! ```
//!
//! JSON knows no NaN and no infinity: a number that is not finite is written `null`. A log-weight of `null`
//! is minus infinity, a particle lost.

mod dir;
mod file;
mod grid;
mod latents;
mod metadata;
mod record;
mod slug;

pub use crate::hash::sha256;
pub use dir::{Lines, RunDir};
pub use file::{sha256_file, write_atomic};
pub use grid::grid;
pub use latents::{load_latents, save_latents};
pub use metadata::{Parameters, encode_png, read_parameters};
pub use record::{ParticleLine, SCHEMA, Status, TraceLine, Versioned};
pub use slug::slug;
