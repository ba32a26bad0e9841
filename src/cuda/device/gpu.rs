//! One GPU: found without a panic where no driver is, one stream for everything, memory from the driver's
//! pool in the order of that stream, and the driver's errors in our words.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DevicePtr, DriverError, result, sys};

use super::account::Account;
use super::buffer::Buffer;
use super::capture::Capture;
use super::elem::Elem;
use crate::backend::out_of_memory;
use crate::error::{Error, ErrorKind, Result};

/// What decides how many blocks a GPU holds at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub multiprocessors: usize,
    /// Bytes of shared memory of each: 228 KiB of Hopper, 100 KiB of GeForce.
    pub shared: usize,
}

/// A GPU with its stream.
#[derive(Debug)]
pub struct Device {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    name: String,
    capability: (i32, i32),
    limits: Limits,
    shared_per_block: usize,
    account: Arc<Account>,
    capture: Capture,
}

/// Oldest GPUs with bf16 tensor cores and cp.async.
const OLDEST: (i32, i32) = (8, 0);

/// Oldest driver, by the CUDA version it knows: older ones lack functions that cudarc calls.
const OLDEST_DRIVER: i32 = 12_080;

/// How many GPUs the driver shows.
///
/// # Errors
/// [`ErrorKind::Device`](crate::ErrorKind::Device) without a driver, or where it does not start.
#[allow(unsafe_code)]
pub fn count() -> Result<usize> {
    // SAFETY: only tries to load the library.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::device("no NVIDIA driver: the library libcuda.so.1 is not found").advice(
            "install the NVIDIA driver (580 or newer) on a machine with an NVIDIA GPU, or use `device` cpu",
        ));
    }
    let mut version = 0;
    // SAFETY: writes one number. The oldest driver has this function.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) };
    if asked.result().is_ok() && version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        return Err(Error::device(format!("the NVIDIA driver is too old: it knows CUDA {major}.{minor}"))
            .advice(
                "install a driver that knows CUDA 12.8 (570) or, for this binary's kernels, 13.0 (580)",
            ));
    }
    result::init().map_err(|e| {
        let what = format!("the NVIDIA driver does not start: {}", describe(e));
        Error::device(what).advice("see what nvidia-smi says; or use `device` cpu")
    })?;
    let count = CudaContext::device_count().map_err(|e| {
        Error::device(format!("the NVIDIA driver shows no GPU: {}", describe(e))).advice(
            "see what nvidia-smi says, and whether CUDA_VISIBLE_DEVICES hides it; or use `device` cpu",
        )
    })?;
    Ok(count as usize)
}

/// What the driver says of a GPU that has not been opened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GpuInfo {
    /// `NVIDIA H200`.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// All of its memory, bytes.
    pub memory: u64,
}

impl GpuInfo {
    /// Refuses GPU `ordinal` if it is too old to be opened.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device).
    pub fn check(&self, ordinal: usize) -> Result<()> {
        if self.capability < OLDEST { Err(too_old(ordinal, &self.name, self.capability)) } else { Ok(()) }
    }
}

/// The CUDA version that the driver knows, major and minor, if there is a driver.
#[allow(unsafe_code)]
pub fn driver_version() -> Option<(i32, i32)> {
    let mut version = 0;
    // SAFETY: the library is there, and writes one number. The oldest driver has this function.
    let asked = unsafe { sys::is_culib_present() && sys::cuDriverGetVersion(&mut version).result().is_ok() };
    asked.then_some((version / 1000, version % 1000 / 10))
}

/// Asks the driver about GPU `ordinal` without opening it.
///
/// # Errors
/// As [`count`]; [`ErrorKind::Device`](crate::ErrorKind::Device) if there is no such GPU.
#[allow(unsafe_code)]
pub fn info(ordinal: usize) -> Result<GpuInfo> {
    let count = count()?;
    if ordinal >= count {
        return Err(no_such_gpu(ordinal, count));
    }
    let failed = |e| {
        Error::device(format!("GPU {ordinal} cannot be asked: {}", describe(e)))
            .advice("see what nvidia-smi says; or use `device` cpu")
    };
    let device = result::device::get(ordinal as i32).map_err(failed)?;
    let name = result::device::get_name(device).map_err(failed)?;
    use sys::CUdevice_attribute as Attribute;
    // SAFETY: the device is one of the driver's.
    let attribute = |a| unsafe { result::device::get_attribute(device, a) }.map_err(failed);
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) }.map_err(failed)? as u64;
    Ok(GpuInfo { name, capability: (major, minor), memory })
}

fn no_such_gpu(ordinal: usize, count: usize) -> Error {
    let fix = match count {
        0 => "see whether CUDA_VISIBLE_DEVICES hides it, or use `device` cpu".into(),
        1 => "the only one is `device` cuda:0".into(),
        n => format!("give `device` cuda:0 to cuda:{}", n - 1),
    };
    Error::device(format!("there is no GPU {ordinal}: the driver shows {count}")).advice(fix)
}

fn too_old(ordinal: usize, name: &str, (major, minor): (i32, i32)) -> Error {
    Error::device(format!(
        "GPU {ordinal} ({name}) has compute capability {major}.{minor}; 8.0 (Ampere) is the oldest supported"
    ))
    .advice("use another GPU (`device` cuda:N), or `device` cpu")
}

/// The driver's name and words for an error.
fn describe(e: DriverError) -> String {
    let text = |s: std::result::Result<&std::ffi::CStr, DriverError>| {
        s.map_or_else(|_| format!("{:?}", e.0), |s| s.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(e.error_string()), text(e.error_name()))
}

impl Device {
    /// Opens GPU `ordinal`.
    ///
    /// # Errors
    /// [`ErrorKind::Device`](crate::ErrorKind::Device): no driver, no such GPU, one older than compute
    /// capability 8.0.
    #[allow(unsafe_code)]
    pub fn open(ordinal: usize) -> Result<Device> {
        let count = count()?;
        if ordinal >= count {
            return Err(no_such_gpu(ordinal, count));
        }
        let opening = |e: DriverError| {
            let what = format!("GPU {ordinal} does not open: {}", describe(e));
            let fix = "see with nvidia-smi whether other programs have it (its compute mode may allow only one) and how \
                       much memory is free; or use `device` cpu";
            match e.0 {
                sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::new(ErrorKind::Memory, what).advice(fix),
                _ => Error::device(what).advice(fix),
            }
        };
        let context = CudaContext::new(ordinal).map_err(opening)?;
        // SAFETY: one stream does everything, in order, so that no buffer needs events between streams.
        unsafe { context.disable_event_tracking() };
        let name = context.name().map_err(opening)?;
        let capability = context.compute_capability().map_err(opening)?;
        if capability < OLDEST {
            return Err(too_old(ordinal, &name, capability));
        }
        use sys::CUdevice_attribute as Attribute;
        let attribute = |a| context.attribute(a).map(|v| v as usize).map_err(opening);
        let limits = Limits {
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR)?,
        };
        let shared_per_block = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let stream = context.new_stream().map_err(opening)?;
        let (account, capture) = (Arc::default(), Capture::default());
        let device = Device { context, stream, name, capability, limits, shared_per_block, account, capture };
        device.keep_freed_memory()?;
        Ok(device)
    }

    /// Freed memory stays in the driver's pool until something asks for it: without this the pool is emptied
    /// at every synchronisation.
    #[allow(unsafe_code)]
    fn keep_freed_memory(&self) -> Result<()> {
        if !self.context.has_async_alloc() {
            return Ok(());
        }
        let mut all = u64::MAX;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the device is open, and the attribute is a 64-bit number.
        let set = unsafe {
            result::device::get_default_mem_pool(self.context.cu_device())
                .and_then(|pool| result::mem_pool::set_attribute(pool, attribute, (&raw mut all).cast()))
        };
        set.map_err(|e| self.failed("setting up memory", e))
    }

    /// Gives memory that is free back to the driver, that of the pool and that of graphs: neither has any use
    /// of the other's.
    #[allow(unsafe_code)]
    pub fn trim(&self) -> Result<()> {
        if !self.context.has_async_alloc() {
            return Ok(());
        }
        self.synchronize()?;
        let device = self.context.cu_device();
        // SAFETY: the device is open; only memory that nothing uses is given back. A graph that runs again
        // takes its own anew.
        let trimmed = unsafe {
            result::device::get_default_mem_pool(device)
                .and_then(|pool| result::mem_pool::trim_to(pool, 0))
                .and_then(|()| sys::cuDeviceGraphMemTrim(device).result())
        };
        trimmed.map_err(|e| self.failed("giving memory back", e))
    }

    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }
    /// `cuda:0 NVIDIA H200`.
    pub fn name(&self) -> String {
        format!("cuda:{} {}", self.context.ordinal(), self.name)
    }
    /// `NVIDIA H200`.
    pub fn model(&self) -> &str {
        &self.name
    }
    /// Compute capability, major and minor.
    pub fn capability(&self) -> (i32, i32) {
        self.capability
    }
    pub fn limits(&self) -> Limits {
        self.limits
    }
    pub fn multiprocessors(&self) -> usize {
        self.limits.multiprocessors
    }
    /// Most shared memory a block may ask for, bytes.
    pub fn shared_per_block(&self) -> usize {
        self.shared_per_block
    }
    pub fn account(&self) -> &Account {
        &self.account
    }
    /// Whether this GPU's work is being recorded.
    pub fn capture(&self) -> &Capture {
        &self.capture
    }
    /// Bytes of the GPU's memory that are free, counting what the pool keeps for us.
    pub fn free_memory(&self) -> Result<u64> {
        self.trim()?;
        let (free, _) = self.context.mem_get_info().map_err(|e| self.failed("asking for memory", e))?;
        Ok(free as u64)
    }

    /// An error of the driver while `doing`.
    pub fn failed(&self, doing: &str, e: DriverError) -> Error {
        let what = format!("{} failed while {doing}: {}", self.name(), describe(e));
        let fix = match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let fix = "lower `micro_batch`, set `checkpointing` on, or close other programs on this GPU";
                return Error::new(ErrorKind::Memory, what).advice(fix);
            }
            sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS | sys::CUresult::CUDA_ERROR_LAUNCH_FAILED => {
                "this is a defect of das-cuda or of the GPU: run again with `no_graph` and CUDA_LAUNCH_BLOCKING=1 under \
                 compute-sanitizer, and report what it says"
            }
            sys::CUresult::CUDA_ERROR_INVALID_IMAGE
            | sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
            | sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU => {
                "the driver may be older than the CUDA that built these kernels: install driver 580 or newer, or \
                 build with the 12.8 toolkit"
            }
            _ => "see what nvidia-smi says, and the driver's log (dmesg)",
        };
        Error::device(what).advice(fix)
    }

    /// Memory for `len` elements, in stream order. Their bits are arbitrary: the caller must write every
    /// element before it is read.
    #[allow(unsafe_code)]
    pub fn alloc(&self, elem: Elem, len: usize) -> Result<Buffer> {
        // A buffer of nothing has an address all the same.
        let bytes =
            len.checked_mul(elem.size()).ok_or_else(|| out_of_memory(len))?.max(16).next_multiple_of(4);
        // SAFETY: the caller writes all elements before anything reads them.
        let take = || unsafe { self.stream.alloc::<u8>(bytes) };
        let memory = self.with_all_memory(take).map_err(|e| match e.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => out_of_memory(bytes / 4),
            _ => self.failed("allocating memory", e),
        })?;
        let address = memory.device_ptr(&self.stream).0;
        Ok(Buffer::new(memory, address, elem, len, self.account.clone()))
    }

    /// `f`, and once more where it lacks memory that lies idle in the pool or with graphs.
    pub fn with_all_memory<T>(
        &self,
        mut f: impl FnMut() -> std::result::Result<T, DriverError>,
    ) -> std::result::Result<T, DriverError> {
        match f() {
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY && !self.capture.active() => {
                if self.trim().is_ok() { f() } else { Err(e) }
            }
            result => result,
        }
    }

    /// Waits for everything started so far.
    pub fn synchronize(&self) -> Result<()> {
        self.capture.before_wait()?;
        self.stream.synchronize().map_err(|e| self.failed("computing", e))
    }

    /// Fills with zero bits.
    pub fn clear(&self, buffer: &mut Buffer) -> Result<()> {
        self.stream.memset_zeros(buffer.memory_mut()).map_err(|e| self.failed("clearing memory", e))
    }

    /// Copies all of `from` over `to`, which is as long, and which no kernel under way uses but in stream
    /// order.
    #[allow(unsafe_code)]
    pub fn copy(&self, from: &Buffer, to: &Buffer) -> Result<()> {
        assert_eq!((from.elem(), from.len()), (to.elem(), to.len()), "a copy of another type or length");
        let (from, to, bytes) = (from.address(), to.address(), from.memory().len());
        let bound = self.context.bind_to_thread();
        // SAFETY: both are live and `bytes` long, and freed in the order of the stream that copies.
        let copied = bound
            .and_then(|()| unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) });
        copied.map_err(|e| self.failed("copying", e))
    }

    /// Copies `data` into `to`.
    pub fn copy_in(&self, data: &[u8], to: &mut Buffer) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.capture.before_wait()?;
        let mut part = to.memory_mut().slice_mut(0..data.len());
        self.stream.memcpy_htod(data, &mut part).map_err(|e| self.failed("copying to the GPU", e))?;
        // `data` may go at once.
        self.synchronize()
    }

    /// Copies the first bytes of `from` into `data`, and waits for them.
    pub fn copy_out(&self, from: &Buffer, data: &mut [u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.capture.before_wait()?;
        let part = from.memory().slice(0..data.len());
        self.stream.memcpy_dtoh(&part, data).map_err(|e| self.failed("copying from the GPU", e))?;
        self.synchronize()
    }
}
