//! What runs and comparisons have left on disk, read to be looked at: all that can be read is, and what
//! cannot is said. Nothing in the files is trusted.

use std::path::Path;

mod comparison;
mod files;
mod lineage;
mod place;
mod run;
mod table;
mod trace;

pub use comparison::{Comparison, Drawn};
pub use files::safe;
pub use place::{Place, places};
pub use run::{Particle, Run};
pub use table::Table;
pub use trace::{Line, Population};

/// The name of a folder.
fn name_of(folder: &Path) -> String {
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.into());
    whole.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
