//! Launchers of the networks' operations other than attention: shapes, grids and the layout of threads.

pub mod conv;
pub mod image;
mod layout;
pub mod linear;
pub mod norm;
pub mod points;
pub mod pointwise;
