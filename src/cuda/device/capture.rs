//! Whether the work of a GPU is being recorded as a graph. This is a state of the GPU, not of a thread: while
//! one GPU records, the same thread may wait for another.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Error, Result};

const OFF: u8 = 0;
const ON: u8 = 1;
/// Recording, and something is to be done once without a recording first.
const POSTPONED: u8 = 2;
/// Recording, and something has asked to wait meanwhile.
const BROKEN: u8 = 3;

/// The state of one GPU.
#[derive(Debug, Default)]
pub struct Capture(AtomicU8);

/// How a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Captured {
    Whole,
    /// The work must run once without a recording; then it can be recorded.
    Postponed,
    /// The work waits for the GPU, which a recording cannot contain.
    Waits,
}

impl Capture {
    /// From here on the work is recorded.
    pub fn begin(&self) {
        self.0.store(ON, Ordering::Release);
    }

    /// Ends the recording.
    pub fn end(&self) -> Captured {
        match self.0.swap(OFF, Ordering::AcqRel) {
            POSTPONED => Captured::Postponed,
            BROKEN => Captured::Waits,
            _ => Captured::Whole,
        }
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

    /// To be called before anything that must run once without a recording, and not again.
    ///
    /// # Errors
    /// While recording; the work is then done without, and recorded the next time.
    pub fn before_once(&self) -> Result<()> {
        if !self.active() {
            return Ok(());
        }
        // A recording that has been broken stays so.
        let _ = self.0.compare_exchange(ON, POSTPONED, Ordering::AcqRel, Ordering::Acquire);
        Err(Error::device("something must run once before the work is recorded"))
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
        assert!(one.end() == Captured::Whole && !one.active());
        one.begin();
        assert!(one.before_wait().is_err());
        assert_eq!(one.end(), Captured::Waits);
        assert!(one.before_wait().is_ok());
    }

    #[test]
    fn what_must_run_once_postpones_a_recording() {
        let capture = Capture::default();
        assert!(capture.before_once().is_ok());
        capture.begin();
        assert!(capture.before_once().is_err() && capture.before_once().is_err() && capture.active());
        assert_eq!(capture.end(), Captured::Postponed);
        capture.begin();
        assert!(capture.before_wait().is_err() && capture.before_once().is_err());
        assert_eq!(capture.end(), Captured::Waits);
    }
}
