//! The shared libraries the build script made: loading them, and their C interface.

use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Once, OnceLock};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

/// As `engine::Parameter`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Parameter {
    pub size: u32,
    _align: u32,
    /// The alignment of what a pointer points to; 0 for a value.
    pub pointee: u32,
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
                // SAFETY: the signatures are those of launch.cpp, memory.cpp and driver.cpp, built with this
                // crate.
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
    stand_in_enable: fn();
    stand_in_seed: fn(u64);
    stand_in_counters: fn(*mut Counters);
    stand_in_launches: fn(Text) -> u64;
    stand_in_fail_allocation: fn(i64);
    stand_in_limit: fn(u64);
    stand_in_take_failure: fn() -> Text;
}

/// The functions of `libcublasLt.so` that are not cuBLASLt's.
struct CublasInterface {
    behave: unsafe extern "C" fn(i32),
    started: unsafe extern "C" fn() -> u64,
    refused: unsafe extern "C" fn() -> u64,
}

struct Loaded {
    cuda: Interface,
    cublas: CublasInterface,
    // What is loaded stays loaded: kernels and their threads live in it.
    _libraries: [Library; 3],
}

/// What the stand-in for cuBLASLt does on the calling thread; as `Behaviour` of cublaslt.cpp. `Absent` until
/// somebody says otherwise, or in another process where DAS_CUBLAS_STAND_IN is not 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cublas {
    /// It does not start.
    Absent,
    /// Products, by plain loops.
    Right,
    /// The same after 0.3 s.
    Slow,
    /// Every element is larger by one.
    Wrong,
    /// It starts, but no product does.
    Failing,
}

/// What the stand-in driver has done since it was loaded; as `driver::Counters`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Kernels that ran, those of graphs included.
    pub launches: u64,
    pub graph_launches: u64,
    pub graph_nodes: u64,
    pub copies_to_device: u64,
    pub copies_to_host: u64,
    pub copies_on_device: u64,
    pub memsets: u64,
    pub allocations: u64,
    pub releases: u64,
    pub synchronisations: u64,
    pub modules: u64,
    /// Of device memory, as asked for (in the order of calls) and rounded to 512.
    pub bytes_live: u64,
    pub bytes_peak: u64,
    /// Of pinned host memory.
    pub host_bytes: u64,
}

const UNAVAILABLE: &str = include_str!(concat!(env!("OUT_DIR"), "/unavailable"));

/// The folder of `libcuda.so`, `libnvrtc.so` and `libcublasLt.so` (another process finds them by
/// [`environment`]). `DAS_EMULATOR_LIBRARY` names another, with libraries built for a sanitizer.
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
    let open = |name: &str| {
        let path = library_dir().join(name);
        // Global and under the names that cudarc asks for: its own search then ends here.
        // SAFETY: the libraries' initialisers only make the list of kernels.
        unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }
            .map_err(|e| format!("{}: {e}", path.display()))
    };
    let libraries = [open("libcuda.so")?, open("libnvrtc.so")?, open("libcublasLt.so")?];
    let cuda = Interface::load(&libraries[0])?;
    let failed = |e: libloading::Error| e.to_string();
    // SAFETY: the signatures are those of cublaslt.cpp, built with this crate.
    let cublas = unsafe {
        let library = &libraries[2];
        CublasInterface {
            behave: *library.get(b"das_cublas_behave").map_err(failed)?,
            started: *library.get(b"das_cublas_started").map_err(failed)?,
            refused: *library.get(b"das_cublas_refused").map_err(failed)?,
        }
    };
    Ok(Loaded { cuda, cublas, _libraries: libraries })
}
fn loaded() -> Result<&'static Loaded, String> {
    static LOADED: OnceLock<Result<Loaded, String>> = OnceLock::new();
    LOADED.get_or_init(load).as_ref().map_err(String::clone)
}

/// For what makes no sense without the library.
#[track_caller]
fn interface() -> &'static Interface {
    match loaded() {
        Ok(l) => &l.cuda,
        Err(e) => panic!("the emulator is not available: {e}"),
    }
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
    static BROKEN: OnceLock<String> = OnceLock::new();
    let beside = || library_dir().with_file_name("broken");
    BROKEN.get_or_init(|| std::fs::read_to_string(beside()).unwrap_or_default())
}

/// From now on this process finds the stand-ins where it looks for `libcuda.so`, `libnvrtc.so` and
/// `libcublasLt.so`, and sees one device. To be called before the first call of cudarc. The device is shared
/// by all tests of a process.
///
/// # Errors
/// As [`available`].
pub fn install() -> Result<(), String> {
    let f = &loaded()?.cuda;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let (name, dir) = cache();
        // SAFETY: Rust's own accesses take turns, and no C code of this process reads the environment while
        // tests begin, except the libraries loaded above, which did so when they were loaded.
        unsafe { std::env::set_var(name, dir) };
        eprint!("{}", broken_kernels());
    });
    // SAFETY: sets a flag.
    unsafe { (f.stand_in_enable)() };
    Ok(())
}

/// What the stand-in compiles at run time must not lie where a GPU's images are kept.
fn cache() -> (&'static str, PathBuf) {
    ("XDG_CACHE_HOME", Path::new(concat!(env!("OUT_DIR"), "/cache")).into())
}

/// The environment of another process that shall see the stand-in, as [`install`] makes it in this one.
pub fn environment() -> [(&'static str, PathBuf); 3] {
    [("LD_LIBRARY_PATH", library_dir().into()), ("DAS_CUDA_STAND_IN", "1".into()), cache()]
}

/// The order in which the stand-in runs what is on streams, and threads within kernels. 0, as it is at first:
/// nothing before somebody waits, threads in order. Others: also before that, and each launch in an order of
/// its own.
#[track_caller]
pub fn seed_driver(seed: u64) {
    // SAFETY: sets numbers under a lock.
    unsafe { (interface().stand_in_seed)(seed) }
}

#[track_caller]
fn cublas_interface() -> &'static CublasInterface {
    match loaded() {
        Ok(l) => &l.cublas,
        Err(e) => panic!("the emulator is not available: {e}"),
    }
}

/// Lets cuBLASLt's stand-in do this on the calling thread.
#[track_caller]
pub fn cublas(behaviour: Cublas) {
    // SAFETY: sets a number of this thread.
    unsafe { (cublas_interface().behave)(behaviour as i32) };
}

/// How many products cuBLASLt's stand-in started for this thread, and how many calls it refused because they
/// were wrong.
#[track_caller]
pub fn cublas_calls() -> (u64, u64) {
    let f = cublas_interface();
    // SAFETY: reads numbers.
    unsafe { ((f.started)(), (f.refused)()) }
}

/// What the stand-in has done so far.
#[track_caller]
pub fn counters() -> Counters {
    let mut counters = Counters::default();
    // SAFETY: the struct is the library's.
    unsafe { (interface().stand_in_counters)(&mut counters) };
    counters
}

/// How often a kernel ran through the stand-in.
#[track_caller]
pub fn launches(kernel: &str) -> u64 {
    let name = CString::new(kernel).expect("names hold no NUL");
    // SAFETY: a text that ends in 0.
    unsafe { (interface().stand_in_launches)(name.as_ptr()) }
}

/// The `nth` allocation of device memory from now on (1: the next) fails as if there were no more.
#[track_caller]
pub fn fail_allocation(nth: i64) {
    // SAFETY: sets a number under a lock.
    unsafe { (interface().stand_in_fail_allocation)(nth) }
}

/// Device memory from now on, in bytes (at first `DAS_STAND_IN_MEMORY`, or 8 GiB).
#[track_caller]
pub fn limit_memory(bytes: u64) {
    // SAFETY: sets a number under a lock.
    unsafe { (interface().stand_in_limit)(bytes) }
}

/// What failed on the device, or where something was written outside of allocations; `None` if nothing. The
/// device works again after it (CUDA's never does).
#[track_caller]
pub fn take_failure() -> Option<String> {
    // SAFETY: a text of the library, copied at once.
    let failure = unsafe { (interface().stand_in_take_failure)() };
    (!failure.is_null()).then(|| text(failure))
}

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
        return Err(format!("no kernel {name}\n{}", broken_kernels()));
    }
    let mut list = std::ptr::null();
    // SAFETY: a handle of the library, and the list it gives has as many elements as it says and lives as
    // long as it.
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
    // SAFETY: a handle of the library; as many places as the kernel has parameters, of their sizes
    // (`args::matches`).
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
