//! What runs, comparisons and optimisations have left on disk, read to be looked at: all that can be read is,
//! and what cannot is said. Nothing in the files is trusted.

mod comparison;
mod files;
mod lineage;
mod optimisation;
mod place;
mod run;
mod table;
mod trace;

pub use comparison::{Comparison, Drawn};
pub use files::safe;
pub use optimisation::{Optimisation, Query};
pub use place::{Place, places};
pub use run::{Particle, Run};
pub use table::Table;
pub use trace::{Line, Population};
