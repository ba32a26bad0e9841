//! Not written yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Initial,
    Move,
}
