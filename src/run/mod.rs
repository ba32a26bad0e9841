//! What a run leaves on disk, one folder per prompt and draw:
//!
//! ```text
//! out/0000-a-photo-of-a-cat/
//!   run.json            every flag, versions, hashes, device, and how the run ended
//!   trace.jsonl         one line per step, complete after every step
//!   particles.jsonl     one line per final particle
//!   best.png  particles/000.png ...  grid.png
//!   latents.safetensors on request
//!   checkpoint.safetensors until the run has finished
//! ```
//!
//! JSON knows no NaN and no infinity: what `null` means is said at each field (`record.rs`).

mod checkpoint;
mod dir;
mod file;
mod grid;
mod latents;
mod metadata;
mod record;
mod slug;

pub use crate::hash::sha256;
pub use checkpoint::{encode_checkpoint, read_checkpoint};
pub use dir::{
    CHECKPOINT, Finished, Lines, Listing, Lock, OutDir, PARTICLES, PREVIEWS, RECORD, RunDir, TRACE, lock,
};
pub use file::{probe_file, sha256_file, write_atomic};
pub use grid::grid;
pub use latents::{load_latents, save_latents};
pub use metadata::{Parameters, Texts, encode_png, prompt_in, read_prompt, read_texts};
pub use record::{ParticleLine, SCHEMA, Status, Versioned};
pub use slug::slug;
