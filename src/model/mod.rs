//! Networks and their files.

pub mod checkpoint;
pub mod config;
pub mod folder;
pub mod tokenizer;
