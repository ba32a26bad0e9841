//! The shared libraries the build script made: loading them, and their C interface.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// As `engine::Parameter`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Parameter {
    pub size: u32,
    /// Of what a pointer points to; 0 for a value.
    pub align: u32,
    pub is_const: u32,
}

/// A kernel of the library.
pub(crate) struct Kernel {
    handle: *const c_void,
    pub text: String,
    pub parameters: Vec<Parameter>,
}

type Handle = *const c_void;
type Text = *const c_char;

macro_rules! interface {
    ($($name:ident: fn($($arg:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of `libcuda.so` that are not CUDA's.
        struct Interface { $($name: unsafe extern "C" fn($($arg),*) $(-> $result)?,)* }
        impl Interface {
            fn load(library: &Library) -> Result<Self, String> {
                // SAFETY: the signatures are those of launch.cpp, memory.cpp and driver.cpp, built with this crate.
                Ok(unsafe { Interface { $($name: *library
                    .get(concat!("das_", stringify!($name)).as_bytes())
                    .map_err(|e| e.to_string())?,)* } })
            }
        }
    };
}
interface! {
    emulator_launch: fn(Handle, *const u32, *const u32, u32, *mut *mut c_void, u64) -> Text;
    emulator_find: fn(Text) -> Handle;
    emulator_first: fn() -> Handle;
    emulator_next: fn(Handle) -> Handle;
    emulator_name: fn(Handle) -> Text;
    emulator_text: fn(Handle) -> Text;
    emulator_parameters: fn(Handle, *mut *const Parameter) -> u32;
    emulator_allocate: fn(usize) -> *mut c_void;
    emulator_intact: fn(*const c_void) -> i32;
    emulator_release: fn(*mut c_void);
}

struct Loaded {
    cuda: Interface,
    // What is loaded stays loaded: kernels and their threads live in it.
    _cuda: Library,
}

const UNAVAILABLE: &str = include_str!(concat!(env!("OUT_DIR"), "/unavailable"));
const BROKEN: &str = include_str!(concat!(env!("OUT_DIR"), "/broken"));

/// The folder of `libcuda.so` and `libnvrtc.so`, for the `LD_LIBRARY_PATH` of another process (which also needs
/// `DAS_CUDA_STAND_IN=1`). `DAS_EMULATOR_LIBRARY` names another, with libraries built for a sanitizer.
pub fn library_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| match std::env::var_os("DAS_EMULATOR_LIBRARY") {
        Some(dir) => dir.into(),
        None => Path::new(concat!(env!("OUT_DIR"), "/libraries")).into(),
    })
}

fn load() -> Result<Loaded, String> {
    if !UNAVAILABLE.is_empty() {
        return Err(UNAVAILABLE.into());
    }
    let path = library_dir().join("libcuda.so");
    // SAFETY: the library's initialisers only make its list of kernels.
    let cuda = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) };
    let cuda = cuda.map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Loaded { cuda: Interface::load(&cuda)?, _cuda: cuda })
}
fn loaded() -> Result<&'static Loaded, String> {
    static LOADED: OnceLock<Result<Loaded, String>> = OnceLock::new();
    LOADED.get_or_init(load).as_ref().map_err(String::clone)
}

/// Whether kernels can be run here.
///
/// # Errors
/// Why not: no C++ compiler when this was built, or a library that does not load.
pub fn available() -> Result<(), String> {
    loaded().map(|_| ())
}

/// The compiler's words on kernel files that do not compile; empty if all do.
pub fn broken_kernels() -> &'static str {
    BROKEN
}

/// From now on this process finds the stand-ins where it looks for `libcuda.so` and `libnvrtc.so`, and sees one device.
/// To be called before the first call of cudarc.
///
/// # Errors
/// As [`available`].
pub fn install() -> Result<(), String> {
    available()
}

/// Another order in which the stand-in driver runs its streams.
pub fn seed_driver(_seed: u64) {}

fn text(p: Text) -> String {
    // SAFETY: the library gives texts that end in 0 and live at least until this thread's next call of it.
    unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
}

/// The names of all kernels.
pub fn kernels() -> Result<Vec<String>, String> {
    let f = &loaded()?.cuda;
    let mut names = Vec::new();
    // SAFETY: handles come from the library and live as long as it.
    unsafe {
        let mut kernel = (f.emulator_first)();
        while !kernel.is_null() {
            names.push(text((f.emulator_name)(kernel)));
            kernel = (f.emulator_next)(kernel);
        }
    }
    names.sort();
    Ok(names)
}

pub(crate) fn find(name: &str) -> Result<Kernel, String> {
    let f = &loaded()?.cuda;
    let c = CString::new(name).map_err(|e| e.to_string())?;
    // SAFETY: a text that ends in 0.
    let handle = unsafe { (f.emulator_find)(c.as_ptr()) };
    if handle.is_null() {
        return Err(format!("no kernel {name}\n{BROKEN}"));
    }
    let mut list = std::ptr::null();
    // SAFETY: a handle of the library, and the list it gives has as many elements as it says and lives as long as it.
    unsafe {
        let count = (f.emulator_parameters)(handle, &mut list) as usize;
        let parameters = std::slice::from_raw_parts(list, count).to_vec();
        Ok(Kernel { handle, text: text((f.emulator_text)(handle)), parameters })
    }
}

pub(crate) fn launch(
    kernel: &Kernel,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    parameters: &mut [*mut c_void],
    seed: u64,
) -> Result<(), String> {
    let f = &loaded()?.cuda;
    // SAFETY: a handle of the library; as many places as the kernel has parameters, of their sizes (`args::matches`).
    let failure = unsafe {
        let (grid, block) = (grid.as_ptr(), block.as_ptr());
        (f.emulator_launch)(kernel.handle, grid, block, shared, parameters.as_mut_ptr(), seed)
    };
    if failure.is_null() { Ok(()) } else { Err(text(failure)) }
}

pub(crate) fn allocate(bytes: usize) -> Result<*mut c_void, String> {
    // SAFETY: any size may be asked for.
    let p = unsafe { (loaded()?.cuda.emulator_allocate)(bytes) };
    if p.is_null() { Err(format!("no {bytes} bytes left")) } else { Ok(p) }
}
pub(crate) fn intact(start: *const c_void) -> bool {
    // SAFETY: the library looks the address up in its list.
    loaded().is_ok_and(|l| unsafe { (l.cuda.emulator_intact)(start) } != 0)
}
pub(crate) fn release(start: *mut c_void) {
    if let Ok(l) = loaded() {
        // SAFETY: as `intact`; whoever calls uses the memory no more.
        unsafe { (l.cuda.emulator_release)(start) }
    }
}
