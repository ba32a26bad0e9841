//! Networks and their files.

pub mod checkpoint;
