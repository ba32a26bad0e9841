//! Images: the compiled kernels of one element type. They come from fatbins inside the binary, or where it
//! was built without nvcc (or `DAS_CUDA_NVRTC=1` asks for it), from the sources inside the binary through
//! NVRTC, compiled once per GPU model and kept on disk.

use std::env;
use std::ffi::CString;
use std::fs;
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::CUfunction_attribute as Attribute;
use cudarc::driver::{CudaFunction, CudaModule};
use cudarc::nvrtc::{Ptx, result as nvrtc, sys};
use sha2::{Digest, Sha256};

use crate::cache;
use crate::cuda::device::{self, Device, Elem, GpuInfo};
use crate::error::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Loads the kernels of one element type onto a device.
pub struct Image<'a> {
    device: &'a Device,
    elem: Elem,
}

impl<'a> Image<'a> {
    pub fn new(device: &'a Device, elem: Elem) -> Image<'a> {
        Image { device, elem }
    }

    /// The kernels of kernels/`file`.cu.
    pub fn module(&self, file: &str) -> Result<Arc<CudaModule>> {
        let embedded = embedded().iter().find(|(f, e, _)| *f == file && *e == self.elem.name());
        let load = |bytes: Vec<u8>| self.device.context().load_module(Ptx::from_binary(bytes));
        let loaded = match embedded {
            Some((_, _, bytes)) => load(bytes.to_vec()),
            None => {
                let kept = self.kept(file);
                let bytes = kept.as_ref().and_then(|path| fs::read(path).ok()).filter(|b| !b.is_empty());
                // What another driver's NVRTC left may be too new for this one.
                match bytes.map(load) {
                    Some(Ok(module)) => Ok(module),
                    _ => load(self.compiled(file, kept)?),
                }
            }
        };
        loaded.map_err(|e| self.device.failed(&format!("loading the kernels of {file}.cu"), e))
    }

    /// The kernel `name`, allowed as much dynamic shared memory as the device gives.
    pub fn function(&self, module: &Arc<CudaModule>, file: &str, name: &str) -> Result<CudaFunction> {
        let full = format!("das_{name}_{}", self.elem.name());
        let failed = |e| self.device.failed(&format!("loading the kernel {full} of {file}.cu"), e);
        let function = module.load_function(&full).map_err(failed)?;
        let fixed = function.shared_size_bytes().map_err(failed)?;
        let dynamic = self.device.shared_per_block() as i32 - fixed;
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, dynamic).map_err(failed)?;
        Ok(function)
    }

    /// For the device's own architecture.
    fn options(&self) -> [String; 3] {
        let (major, minor) = self.device.capability();
        // Kernels that need Hopper's own instructions are compiled for them.
        let feature = if major == 9 { "a" } else { "" };
        [
            format!("--gpu-architecture=sm_{major}{minor}{feature}"),
            "--std=c++17".into(),
            format!("-DACT_{}", self.elem.name().to_uppercase()),
        ]
    }

    /// Where `file` is kept, compiled from these sources for this architecture.
    fn kept(&self, file: &str) -> Option<PathBuf> {
        let options = self.options();
        let mut hash = Sha256::new();
        for text in options.iter().map(String::as_str).chain(SOURCES.iter().flat_map(|(n, t)| [*n, *t])) {
            hash.update(text.as_bytes());
            hash.update([0]);
        }
        let digest: String = hash.finalize().iter().take(12).map(|b| format!("{b:02x}")).collect();
        cache::folder().map(|dir| dir.join(format!("{file}-{}-{digest}.cubin", self.elem.name())))
    }

    /// Compiles `file`, and keeps it for the next run.
    fn compiled(&self, file: &str, kept: Option<PathBuf>) -> Result<Vec<u8>> {
        let bytes = compile(file, self.options())?;
        if let Some(path) = kept {
            // A cache that cannot be written costs the time of compiling at the next start, nothing else.
            let _ = cache::keep(&path, &bytes);
        }
        Ok(bytes)
    }
}

/// What nvcc compiled the kernels in this binary for, such as `80,90a+ptx80`; empty if they are sources only.
pub const ARCHITECTURES: &str = env!("DAS_CUDA_BUILT_ARCHS");

/// The CUDA version of the nvcc that compiled them, such as `13.0`; empty if none did.
pub const TOOLKIT: &str = env!("DAS_CUDA_BUILT_TOOLKIT");

/// Whether the library that compiles kernels on this machine is found.
#[allow(unsafe_code)]
pub fn has_nvrtc() -> bool {
    // SAFETY: only tries to load the library.
    unsafe { sys::is_culib_present() }
}

/// GPU `ordinal`, if this program can compute on it, as far as that is known without opening it.
///
/// # Errors
/// [`ErrorKind::Device`](crate::ErrorKind::Device): why it cannot, and what would help.
pub fn usable(ordinal: usize) -> Result<GpuInfo> {
    let info = device::info(ordinal)?;
    info.check(ordinal)?;
    check_driver(device::driver_version().unwrap_or_default())?;
    Ok(info)
}

/// Whether a driver that knows the CUDA version `driver` can be given kernels: those of the binary, if it is
/// not older than what they were made with, or NVRTC's.
fn check_driver(driver: (i32, i32)) -> Result<()> {
    if embedded().is_empty() {
        return if has_nvrtc() { Ok(()) } else { Err(no_nvrtc()) };
    }
    let built: i32 = TOOLKIT.split('.').next().and_then(|major| major.parse().ok()).unwrap_or_default();
    if driver.0 >= built {
        return Ok(());
    }
    let (major, minor) = driver;
    Err(Error::device(format!(
        "the NVIDIA driver knows CUDA {major}.{minor}, and this program's kernels were made by CUDA {TOOLKIT}"
    ))
    .advice(
        "install a newer driver, or build with a toolkit of the driver's version (tools/get-nvcc says how)",
    ))
}

fn no_nvrtc() -> Error {
    Error::device(
        "this das-cuda was built without nvcc, and NVRTC, which could compile its kernels here, is not found",
    )
    .advice(
        "install NVRTC (python3 -m pip install nvidia-cuda-nvrtc, and put its lib folder on LD_LIBRARY_PATH), \
         or build with nvcc: tools/get-nvcc, then cargo build --release",
    )
}

/// Images in the binary: none are used where it is asked that NVRTC compiles them.
fn embedded() -> &'static [(&'static str, &'static str, &'static [u8])] {
    let here = env::var_os("DAS_CUDA_NVRTC").is_some_and(|v| v == "1");
    if here { &[] } else { IMAGES }
}

/// Whether the next GPU to be opened has its kernels compiled first, which takes a minute or more: there are
/// none in the binary, and none were kept.
pub fn compiles() -> bool {
    let mut kept = cache::folder().and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    embedded().is_empty() && !kept.any(|file| file.path().extension().is_some_and(|e| e == "cubin"))
}

/// Compiles kernels/`file`.cu with NVRTC: to machine code for the architecture that the first of the options
/// names, or where NVRTC is older than the GPU, to PTX, of which the driver makes machine code.
#[allow(unsafe_code)]
fn compile(file: &str, mut options: [String; 3]) -> Result<Vec<u8>> {
    if !has_nvrtc() {
        return Err(no_nvrtc());
    }
    let text = |s: &str| {
        CString::new(s).map_err(|e| {
            Error::device(format!("NVRTC: {file}.cu: the sources hold a NUL byte"))
                .because(e)
                .advice("build das-cuda again from clean sources")
        })
    };
    let source = SOURCES.iter().find(|(name, _)| *name == format!("{file}.cu"));
    let Some((_, source)) = source else { panic!("kernels/{file}.cu is not in the binary") };
    let headers: Vec<_> = SOURCES.iter().filter(|(name, _)| name.ends_with(".cuh")).collect();
    let (names, texts): (Vec<_>, Vec<_>) = headers
        .iter()
        .map(|(n, t)| Ok((text(n)?, text(t)?)))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    let pointers = |all: &[CString]| all.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
    let (names, texts) = (pointers(&names), pointers(&texts));
    let own: Vec<CString> = options.iter().map(|o| text(o)).collect::<Result<_>>()?;
    options[0] = "--gpu-architecture=compute_80".into();
    let any: Vec<CString> = options.iter().map(|o| text(o)).collect::<Result<_>>()?;
    let (own, any) = (pointers(&own), pointers(&any));
    let (source, name) = (text(source)?, text(&format!("{file}.cu"))?);
    let failed = |what: &str, e: nvrtc::NvrtcError| {
        Error::device(format!("NVRTC: {what} {file}.cu: {e:?}"))
            .advice("install NVRTC of the driver's CUDA version, or build with nvcc: tools/get-nvcc")
    };
    // SAFETY: every pointer is to a NUL-terminated string, or an array of `len` of them, that outlives the
    // call; the program is destroyed once; the buffer is as long as NVRTC says the image is.
    unsafe {
        let mut program = ptr::null_mut();
        sys::nvrtcCreateProgram(
            &mut program,
            source.as_ptr(),
            name.as_ptr(),
            names.len() as i32,
            texts.as_ptr(),
            names.as_ptr(),
        )
        .result()
        .map_err(|e| failed("reading", e))?;
        let image = (|| {
            let compile = |options: &[_]| {
                sys::nvrtcCompileProgram(program, options.len() as i32, options.as_ptr()).result()
            };
            let mut compiled = compile(&own);
            let unknown = sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION;
            let ptx = matches!(&compiled, Err(e) if e.0 == unknown);
            if ptx {
                compiled = compile(&any);
            }
            if let Err(e) = compiled {
                let log = nvrtc::get_program_log(program).unwrap_or_default();
                let log: Vec<u8> = log.into_iter().map(|c| c as u8).take_while(|c| *c != 0).collect();
                let log = String::from_utf8_lossy(&log);
                return Err(failed("compiling", e).advice(format!("report this as a defect:\n{log}")));
            }
            let mut len = 0;
            let size = if ptx { sys::nvrtcGetPTXSize } else { sys::nvrtcGetCUBINSize };
            let get = if ptx { sys::nvrtcGetPTX } else { sys::nvrtcGetCUBIN };
            size(program, &mut len).result().map_err(|e| failed("measuring", e))?;
            let mut image = vec![0_u8; len];
            get(program, image.as_mut_ptr().cast()).result().map_err(|e| failed("reading", e))?;
            Ok(image)
        })();
        // A failure to clean up loses memory only.
        let _ = sys::nvrtcDestroyProgram(&mut program).result();
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NVRTC itself, which needs no GPU: `.ci/run` has it on `LD_LIBRARY_PATH`. The tests' stand-in compiles
    /// nothing.
    #[test]
    #[ignore = "needs NVRTC, which .ci/run installs"]
    fn nvrtc_compiles_every_kernel_for_hopper() {
        let files = SOURCES.iter().filter_map(|(name, _)| name.strip_suffix(".cu"));
        // As build.rs: particles are f32 in every run.
        let kinds = |file: &str| match file {
            "particle" | "points" | "weigh" | "resample" => &["F32"][..],
            _ => &["BF16", "F16", "F32"],
        };
        let all: Vec<_> = files.flat_map(|file| kinds(file).iter().map(move |elem| (file, *elem))).collect();
        assert!(all.len() > 20, "{all:?}");
        let next = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while let Some((file, elem)) =
                        all.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                    {
                        let options = [
                            "--gpu-architecture=sm_90a".into(),
                            "--std=c++17".into(),
                            format!("-DACT_{elem}"),
                        ];
                        let image =
                            compile(file, options).unwrap_or_else(|e| panic!("{file}.cu, {elem}: {e}"));
                        assert!(image.starts_with(b"\x7fELF"), "{file}.cu, {elem}: no machine code");
                    }
                });
            }
        });
    }
}
