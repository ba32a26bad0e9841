//! The protocol of external rewards, for the target of it in `fuzz/`.

pub use super::external::failure::shown;
pub use super::external::protocol::{Answer, Hello, Request};
