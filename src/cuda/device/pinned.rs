//! Host memory that the GPU writes in the order of its stream while the host goes on.

use cudarc::driver::{CudaEvent, PinnedHostSlice};

use super::buffer::Buffer;
use super::gpu::Device;
use crate::error::Result;

/// Memory of the host that the driver has pinned, for copies that go on while the host works.
#[derive(Debug)]
pub struct Pinned {
    memory: PinnedHostSlice<u8>,
    /// After the last copy into it.
    copied: CudaEvent,
}

impl Drop for Pinned {
    /// It must not go while a copy is under way.
    fn drop(&mut self) {
        let _ = self.copied.synchronize();
    }
}

impl Device {
    /// Host memory that the GPU can write while the host goes on.
    #[allow(unsafe_code)]
    pub fn pinned(&self, bytes: usize) -> Result<Pinned> {
        let failed = |e| self.failed("allocating memory of the host", e);
        let copied = self.context().new_event(None).map_err(failed)?;
        // SAFETY: nothing reads it before a copy has written it.
        let memory = unsafe { self.context().alloc_pinned_with_flags(bytes, 0) }.map_err(failed)?;
        Ok(Pinned { memory, copied })
    }

    /// Fills `to` from the start of `from`, in the order of the stream.
    pub fn copy_behind(&self, from: &Buffer, to: &mut Pinned) -> Result<()> {
        let part = from.memory().slice(0..to.memory.len());
        self.stream()
            .memcpy_dtoh(&part, &mut to.memory)
            .and_then(|()| to.copied.record(self.stream()))
            .map_err(|e| self.failed("copying from the GPU", e))
    }

    /// What the last copy brought. Waits for it, and for nothing behind it.
    pub fn arrived<'a>(&self, from: &'a Pinned) -> Result<&'a [u8]> {
        let failed = |e| self.failed("computing", e);
        from.copied.synchronize().map_err(failed)?;
        from.memory.as_slice().map_err(failed)
    }
}
