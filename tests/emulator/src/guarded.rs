//! Host buffers for kernels, between guard zones.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};

use bytemuck::Pod;

use crate::library;

/// `n` elements between guard zones of a known pattern, at a multiple of 256 bytes (as device memory). The
/// zones are looked at when it is dropped, or by [`Guarded::check`].
pub struct Guarded<T: Pod> {
    start: *mut T,
    len: usize,
    /// Damage was told of: dropping it need not.
    told: AtomicBool,
}

impl<T: Pod> Guarded<T> {
    /// Elements whose bytes are all 0xff: NaN for every float type.
    #[track_caller]
    pub fn poisoned(len: usize) -> Self {
        let start = library::allocate(len * size_of::<T>()).expect("the emulator gives memory").cast();
        Guarded { start, len, told: AtomicBool::new(false) }
    }

    #[track_caller]
    pub fn filled(len: usize, value: T) -> Self {
        let mut buffer = Self::poisoned(len);
        buffer.fill(value);
        buffer
    }

    #[track_caller]
    pub fn zeros(len: usize) -> Self {
        Self::filled(len, T::zeroed())
    }

    /// Whether nothing was written outside of the elements.
    ///
    /// # Errors
    /// Something was.
    pub fn check(&self) -> Result<(), String> {
        if library::intact(self.start.cast()) {
            return Ok(());
        }
        self.told.store(true, Ordering::Relaxed);
        Err(format!("something wrote outside of a buffer of {} elements", self.len))
    }
}

impl<T: Pod> From<&[T]> for Guarded<T> {
    #[track_caller]
    fn from(elements: &[T]) -> Self {
        let mut buffer = Self::poisoned(elements.len());
        buffer.copy_from_slice(elements);
        buffer
    }
}
impl<T: Pod> From<&Vec<T>> for Guarded<T> {
    #[track_caller]
    fn from(elements: &Vec<T>) -> Self {
        elements.as_slice().into()
    }
}

impl<T: Pod> Deref for Guarded<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `start` is an allocation of `len` elements, aligned to 256 and initialised by the library
        // (any bytes are a T, which is Pod), that lives until drop; `&self` allows no other writer in Rust,
        // and a launch that writes takes `&mut`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}
impl<T: Pod> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `&mut self` is the only access.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

// SAFETY: the buffer owns its memory, which is bound to no thread.
unsafe impl<T: Pod + Send> Send for Guarded<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Pod + Sync> Sync for Guarded<T> {}

impl<T: Pod> Drop for Guarded<T> {
    fn drop(&mut self) {
        let told = self.told.load(Ordering::Relaxed) || std::thread::panicking();
        let checked = self.check();
        library::release(self.start.cast());
        if let (false, Err(e)) = (told, checked) {
            panic!("{e}");
        }
    }
}
