//! How much device memory is in use.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::Memory;

/// Bytes of buffers alive.
#[derive(Debug, Default)]
pub struct Account {
    live: AtomicU64,
    peak: AtomicU64,
}

impl Account {
    pub fn add(&self, bytes: u64) {
        let live = self.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak.fetch_max(live, Ordering::Relaxed);
    }
    pub fn remove(&self, bytes: u64) {
        self.live.fetch_sub(bytes, Ordering::Relaxed);
    }
    pub fn memory(&self) -> Memory {
        Memory { live: self.live.load(Ordering::Relaxed), peak: self.peak.load(Ordering::Relaxed) }
    }
    pub fn reset_peak(&self) {
        self.peak.store(self.live.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}
