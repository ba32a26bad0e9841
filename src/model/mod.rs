//! Networks and their files.
