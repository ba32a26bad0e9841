//! Time as the GPU takes it: marks in the stream, and how far apart they are. For benches; nothing else waits
//! for them.

use std::time::Duration;

use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;

use crate::cuda::ctx::Cuda;
use crate::error::Result;

/// A point in the work of a device.
#[derive(Debug)]
pub struct Mark(CudaEvent);

impl Cuda {
    /// Marks the end of the work started so far. Takes the GPU about a microsecond.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device), of the driver.
    pub fn mark(&self) -> Result<Mark> {
        let event = self.device.stream().record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        event.map(Mark).map_err(|e| self.device.failed("marking a time", e))
    }

    /// The time from one mark to a later one, in which the GPU may also have waited for the host. Waits for
    /// both.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device): of the driver, or of the work between the marks.
    pub fn between(&self, from: &Mark, to: &Mark) -> Result<Duration> {
        let ms = from.0.elapsed_ms(&to.0).map_err(|e| self.device.failed("computing", e))?;
        Ok(Duration::from_secs_f64(f64::from(ms).max(0.0) / 1e3))
    }

    /// The time that the work of `f` takes on the GPU.
    ///
    /// # Errors
    /// Of `f`, and as [`Cuda::between`].
    pub fn elapsed(&self, f: impl FnOnce() -> Result<()>) -> Result<Duration> {
        let from = self.mark()?;
        f()?;
        self.between(&from, &self.mark()?)
    }
}
