//! Whether the work of a GPU is being recorded as a graph. This is a state of the GPU, not of a thread: while
//! one GPU records, the same thread may wait for another.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Error, Result};

const OFF: u8 = 0;
const ON: u8 = 1;
/// Recording, and something has asked to wait meanwhile.
const BROKEN: u8 = 2;

/// The state of one GPU.
#[derive(Debug, Default)]
pub struct Capture(AtomicU8);

impl Capture {
    /// From here on the work is recorded.
    pub fn begin(&self) {
        self.0.store(ON, Ordering::Release);
    }

    /// Ends the recording; `false` where something had to wait meanwhile, so that the record is of no use.
    pub fn end(&self) -> bool {
        self.0.swap(OFF, Ordering::AcqRel) == ON
    }

    /// Whether work is being recorded.
    pub fn active(&self) -> bool {
        self.0.load(Ordering::Acquire) != OFF
    }

    /// To be called before anything that waits for the GPU, which a recording cannot contain.
    ///
    /// # Errors
    /// While recording; the record is given up then, and the work done again without.
    pub fn before_wait(&self) -> Result<()> {
        if !self.active() {
            return Ok(());
        }
        self.0.store(BROKEN, Ordering::Release);
        Err(Error::device("a result is needed while the work is being recorded"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_breaks_a_recording_and_no_other() {
        let (one, other) = (Capture::default(), Capture::default());
        assert!(one.before_wait().is_ok());
        one.begin();
        // The same thread may wait for another GPU.
        assert!(other.before_wait().is_ok() && one.active() && !other.active());
        assert!(one.end() && !one.active());
        one.begin();
        assert!(one.before_wait().is_err());
        assert!(!one.end(), "what had to wait is not recorded");
        assert!(one.before_wait().is_ok());
    }
}
