//! Ranges for NVIDIA's profilers (NVTX 3), without a library: a profiler names its own in the environment
//! (`NVTX_INJECTION64_PATH`), we load it, and it writes the functions to call into tables that we show it.
//! Without a profiler a range costs one comparison.

use std::env;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::mem;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Modules of functions, numbered from 1, and the most functions of one. Profilers fill in all; we call two.
const MODULES: usize = 7;
const FUNCTIONS: usize = 16;
/// Module and numbers of `nvtxRangePushA` and `nvtxRangePop`.
const CORE: usize = 1;
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;
/// Export tables a profiler may ask for.
const CALLBACKS: u32 = 1;
const VERSION_INFO: u32 = 3;

type Slot = AtomicPtr<c_void>;
type Push = unsafe extern "C" fn(*const c_char) -> c_int;
type Pop = unsafe extern "C" fn() -> c_int;
type GetExportTable = extern "C" fn(u32) -> *const c_void;
type Initialize = unsafe extern "C" fn(GetExportTable) -> c_int;

/// Where a profiler writes its functions.
static SLOTS: [[Slot; FUNCTIONS]; MODULES] =
    [const { [const { Slot::new(std::ptr::null_mut()) }; FUNCTIONS] }; MODULES];

/// Pointers to the slots of a module, the first null.
#[repr(transparent)]
struct Table([*const Slot; FUNCTIONS]);
// SAFETY: the pointers are to statics of atomics.
unsafe impl Sync for Table {}

static TABLES: [Table; MODULES] = {
    let mut tables = [const { Table([std::ptr::null(); FUNCTIONS]) }; MODULES];
    let mut module = 0;
    while module < MODULES {
        let mut function = 1;
        while function < FUNCTIONS {
            tables[module].0[function] = &SLOTS[module][function];
            function += 1;
        }
        module += 1;
    }
    tables
};

#[repr(C)]
struct Callbacks {
    struct_size: usize,
    get_module_function_table: unsafe extern "C" fn(c_int, *mut *const *const Slot, *mut c_uint) -> c_int,
}

#[repr(C)]
struct VersionInfo {
    struct_size: usize,
    version: u32,
    reserved: u32,
    set_injection_version: extern "C" fn(u32),
}

static CALLBACK_TABLE: Callbacks =
    Callbacks { struct_size: mem::size_of::<Callbacks>(), get_module_function_table };
static VERSION_TABLE: VersionInfo = VersionInfo {
    struct_size: mem::size_of::<VersionInfo>(),
    version: 3,
    reserved: 0,
    set_injection_version,
};

extern "C" fn set_injection_version(_: u32) {}

/// # Safety
/// `table` and `size` are null or may be written.
unsafe extern "C" fn get_module_function_table(
    module: c_int,
    table: *mut *const *const Slot,
    size: *mut c_uint,
) -> c_int {
    let Some(found) = usize::try_from(module).ok().filter(|&m| m > 0).and_then(|m| TABLES.get(m)) else {
        return 0;
    };
    // SAFETY: as the caller promises.
    unsafe {
        if !table.is_null() {
            *table = found.0.as_ptr();
        }
        if !size.is_null() {
            *size = FUNCTIONS as c_uint;
        }
    }
    1
}

extern "C" fn get_export_table(id: u32) -> *const c_void {
    match id {
        CALLBACKS => (&raw const CALLBACK_TABLE).cast(),
        VERSION_INFO => (&raw const VERSION_TABLE).cast(),
        _ => std::ptr::null(),
    }
}

/// A profiler that listens.
#[derive(Clone, Copy)]
struct Profiler {
    push: Push,
    pop: Pop,
}

/// The profiler of this process, looked for once.
fn profiler() -> Option<Profiler> {
    static FOUND: OnceLock<Option<Profiler>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let path = env::var_os("NVTX_INJECTION64_PATH")?;
        // SAFETY: the user's profiler is named by the user's environment, as for every program with NVTX. It
        // stays loaded.
        let initialize: Initialize = unsafe {
            let library = Box::leak(Box::new(libloading::Library::new(path).ok()?));
            *library.get::<Initialize>(b"InitializeInjectionNvtx2\0").ok()?
        };
        attach(initialize)
    })
}

fn attach(initialize: Initialize) -> Option<Profiler> {
    // SAFETY: this is what the function is for; it answers 0 where it does not want to listen.
    if unsafe { initialize(get_export_table) } == 0 {
        return None;
    }
    let slot = |function: usize| SLOTS[CORE][function].load(Ordering::Acquire);
    let (push, pop) = (slot(RANGE_PUSH), slot(RANGE_POP));
    // SAFETY: what a profiler writes there has these signatures.
    (!push.is_null() && !pop.is_null()).then(|| unsafe {
        Profiler {
            push: mem::transmute::<*mut c_void, Push>(push),
            pop: mem::transmute::<*mut c_void, Pop>(pop),
        }
    })
}

/// Opens a range on this thread.
pub fn push(name: &str) {
    let Some(profiler) = profiler() else { return };
    // A name with a NUL byte is no name.
    let name = CString::new(name).unwrap_or_default();
    // SAFETY: a NUL-terminated string that outlives the call.
    unsafe { (profiler.push)(name.as_ptr()) };
}

/// Closes the last one.
pub fn pop() {
    if let Some(profiler) = profiler() {
        // SAFETY: no arguments.
        unsafe { (profiler.pop)() };
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::sync::Mutex;

    use super::*;

    static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());

    unsafe extern "C" fn hear_push(name: *const c_char) -> c_int {
        // SAFETY: as `push` promises.
        let name = unsafe { CStr::from_ptr(name) };
        HEARD.lock().unwrap().push(name.to_string_lossy().into_owned());
        0
    }
    unsafe extern "C" fn hear_pop() -> c_int {
        HEARD.lock().unwrap().push("end".into());
        0
    }

    /// What a profiler does when it is loaded, by the published protocol.
    unsafe extern "C" fn listen(get: GetExportTable) -> c_int {
        // SAFETY: the tables are what the protocol says.
        unsafe {
            let version = &*get(3).cast::<VersionInfo>();
            (version.set_injection_version)(3);
            let callbacks = &*get(1).cast::<Callbacks>();
            assert_eq!((callbacks.struct_size, version.struct_size), (16, 24));
            assert!(get(0).is_null() && get(2).is_null());
            let (mut table, mut size) = (std::ptr::null(), 0);
            for (module, there) in [(0, 0), (1, 1), (5, 1), (6, 1), (7, 0), (-1, 0)] {
                assert_eq!((callbacks.get_module_function_table)(module, &mut table, &mut size), there);
            }
            assert_eq!((callbacks.get_module_function_table)(1, &mut table, &mut size), 1);
            assert!(size >= 12 && (*table).is_null());
            (**table.add(9)).store(hear_push as *mut c_void, Ordering::Release);
            (**table.add(11)).store(hear_pop as *mut c_void, Ordering::Release);
        }
        1
    }
    unsafe extern "C" fn refuse(_: GetExportTable) -> c_int {
        0
    }

    #[test]
    fn a_profiler_hears_ranges() {
        assert!(attach(refuse).is_none());
        let profiler = attach(listen).unwrap();
        // SAFETY: a literal with its NUL.
        unsafe {
            (profiler.push)(c"step 3".as_ptr());
            (profiler.pop)();
        }
        assert_eq!(*HEARD.lock().unwrap(), ["step 3", "end"]);
        // Without a profiler nothing happens.
        push("unheard");
        pop();
        assert_eq!(HEARD.lock().unwrap().len(), 2);
    }
}
