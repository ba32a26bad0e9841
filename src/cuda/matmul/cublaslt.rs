//! cuBLASLt, where it is found at run time: descriptions of linear maps for the library, the candidates it
//! proposes for them, and their launch. autotune.rs decides between these and our kernels.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use cudarc::cublaslt::{result, sys};
use cudarc::driver::result::stream::launch_host_function;
use sys::cublasLtMatmulDescAttributes_t as DescAttribute;
use sys::cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute;

use super::problem::Problem;
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Buffer, Device, Elem};

/// Memory for the library, NVIDIA's advice for Hopper.
const WORKSPACE: usize = 32 << 20;
/// Candidates of the library that are timed, the best by its own heuristic.
const CANDIDATES: usize = 4;
/// Alignment of every allocation of the driver, which the library may rely on.
const ALIGNMENT: u64 = 256;
/// The version of CUDA 12: older ones are not tested with the drivers that we accept.
const OLDEST: usize = 120_000;
/// How long the GPU waits in [`pause`]. The host starts a product in a few microseconds.
const PAUSE: Duration = Duration::from_micros(300);

/// The functions that are called. cudarc looks each up at its first use and panics if it is missing, so all
/// are looked for before.
const FUNCTIONS: [&str; 13] = [
    "cublasLtGetVersion",
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtMatmul",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
];

/// `CUBLAS_OP_N` and `CUBLAS_OP_T` of cuBLAS's own header.
const AS_IS: i32 = 0;
const TRANSPOSED: i32 = 1;

/// Device addresses of one product; 0 for an operand that the problem does not have.
#[derive(Clone, Copy)]
pub struct Addresses {
    pub x: u64,
    pub w: u64,
    pub bias: u64,
    pub add: u64,
    pub y: u64,
}

/// The library, started.
pub struct Library {
    handle: sys::cublasLtHandle_t,
    version: usize,
    workspace: OnceLock<Buffer>,
}

// SAFETY: the handle may be used by any thread, by several at once too.
#[allow(unsafe_code)]
unsafe impl Send for Library {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Library {}

/// Whether the library is found.
#[allow(unsafe_code)]
pub fn has_cublaslt() -> bool {
    // SAFETY: only tries to load it.
    unsafe { sys::is_culib_present() }
}

pub type Lt<T> = std::result::Result<T, result::CublasError>;

impl Library {
    /// The library, if it is found, has all functions, is not too old, and starts.
    #[allow(unsafe_code)]
    pub fn find(device: &Device) -> Option<Library> {
        // SAFETY: only tries to load it.
        if !unsafe { sys::is_culib_present() } {
            return None;
        }
        // SAFETY: it is there; the symbols are only looked for.
        let whole = unsafe {
            FUNCTIONS.iter().all(|name| sys::culib().get::<unsafe extern "C" fn()>(name.as_bytes()).is_ok())
        };
        // SAFETY: a call without arguments, of a function that is there.
        let version = if whole { unsafe { sys::cublasLtGetVersion() } } else { 0 };
        if version < OLDEST {
            return None;
        }
        device.context().bind_to_thread().ok()?;
        let handle = result::create_handle().ok()?;
        Some(Library { handle, version, workspace: OnceLock::new() })
    }

    /// In the numbers of the library: 130000 is CUDA 13.0.
    pub fn version(&self) -> usize {
        self.version
    }

    /// Memory that the library may use. All products share it, because they run one after another.
    fn workspace(&self, cuda: &Cuda) -> Lt<u64> {
        if self.workspace.get().is_none() {
            let memory = cuda.device.alloc(Elem::U32, WORKSPACE / 4).map_err(|_| unready())?;
            let _ = self.workspace.set(memory);
        }
        self.workspace.get().map(Buffer::address).ok_or(unready())
    }
}

impl Drop for Library {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: destroyed once; a failure loses memory only.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

fn unready() -> result::CublasError {
    result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED)
}

/// Makes the GPU wait for [`PAUSE`], so that the host can start all work to be timed meanwhile. The time
/// between two marks is then the GPU's alone, as in a recorded graph.
#[allow(unsafe_code)]
pub fn pause(cuda: &Cuda) -> Option<()> {
    extern "C" fn sleep(_: *mut c_void) {
        thread::sleep(PAUSE);
    }
    cuda.device.context().bind_to_thread().ok()?;
    // SAFETY: the function uses no argument and calls nothing of CUDA's.
    unsafe { launch_host_function(cuda.device.stream().cu_stream(), sleep, ptr::null_mut()) }.ok()
}

/// A problem as described to the library, and an algorithm for it. The library's matrices are column-major,
/// so it makes the transposes: `y^T = w^T x^T`.
pub struct Plan {
    desc: Mutex<Desc>,
    w: Layout,
    x: Layout,
    y: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    problem: Problem,
}

struct Desc(sys::cublasLtMatmulDesc_t);
struct Layout(sys::cublasLtMatrixLayout_t);
struct Preference(sys::cublasLtMatmulPreference_t);

// SAFETY: descriptions are plain memory; one that is written is locked.
#[allow(unsafe_code)]
unsafe impl Send for Desc {}
// SAFETY: as above; a layout is never written after it is made.
#[allow(unsafe_code)]
unsafe impl Send for Layout {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Layout {}

impl Drop for Desc {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}
impl Drop for Layout {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}
impl Drop for Preference {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

impl Desc {
    #[allow(unsafe_code)]
    fn set<T: Copy>(&self, attribute: DescAttribute, value: T) -> Lt<()> {
        // SAFETY: the library copies as many bytes as it is given.
        unsafe {
            result::set_matmul_desc_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>())
        }
    }
}
impl Preference {
    #[allow(unsafe_code)]
    fn set<T: Copy>(&self, attribute: PreferenceAttribute, value: T) -> Lt<()> {
        // SAFETY: as above.
        unsafe {
            result::set_matmul_pref_attribute(self.0, attribute, (&raw const value).cast(), size_of::<T>())
        }
    }
}

impl Plan {
    /// The library's candidates, best first by its own heuristic, which proposes the same ones every time. It
    /// may look at the alignment of the bias, which is that of every later one.
    #[allow(unsafe_code)]
    pub fn candidates(library: &Library, cuda: &Cuda, problem: Problem, bias: u64) -> Lt<Vec<Plan>> {
        let kind = match cuda.elem() {
            Elem::F16 => sys::cudaDataType::CUDA_R_16F,
            _ => sys::cudaDataType::CUDA_R_16BF,
        };
        let preference = Preference(result::create_matmul_pref()?);
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, WORKSPACE as u64)?;
        // A split sum is added up in f32 and in a fixed order.
        let scheme = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, scheme)?;
        let (mut found, mut count) = ([MaybeUninit::uninit(); CANDIDATES], 0);
        let first = Plan::described(problem, kind, bias)?;
        // SAFETY: all descriptions are alive; there is room for CANDIDATES answers.
        unsafe {
            let desc = first.desc.lock().unwrap_or_else(|e| e.into_inner());
            let answers = found.as_mut_ptr().cast();
            sys::cublasLtMatmulAlgoGetHeuristic(
                library.handle,
                desc.0,
                first.w.0,
                first.x.0,
                first.y.0,
                first.y.0,
                preference.0,
                CANDIDATES as i32,
                answers,
                &mut count,
            )
            .result()?;
        }
        let mut plans = Vec::new();
        for answer in &found[..count.clamp(0, CANDIDATES as i32) as usize] {
            // SAFETY: the library wrote the first `count` answers.
            let answer: sys::cublasLtMatmulHeuristicResult_t = unsafe { answer.assume_init() };
            if answer.state.result().is_ok() && answer.workspaceSize <= WORKSPACE {
                plans.push(Plan { algorithm: answer.algo, ..Plan::described(problem, kind, bias)? });
            }
        }
        Ok(plans)
    }

    /// A plan without an algorithm.
    fn described(problem: Problem, kind: sys::cudaDataType, address: u64) -> Lt<Plan> {
        let Problem { rows, columns, depth, transposed, .. } = problem;
        let layout = |rows: usize, columns: usize| {
            result::create_matrix_layout(kind, rows as u64, columns as u64, rows as i64).map(Layout)
        };
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let desc = Desc(result::create_matmul_desc(compute, sys::cudaDataType::CUDA_R_32F)?);
        desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA, if transposed { AS_IS } else { TRANSPOSED })?;
        desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_TRANSB, AS_IS)?;
        if problem.bias {
            let bias = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, bias)?;
            desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, address)?;
        }
        Ok(Plan {
            desc: Mutex::new(desc),
            w: if transposed { layout(columns, depth)? } else { layout(depth, columns)? },
            x: layout(depth, rows)?,
            y: layout(columns, rows)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
            problem,
        })
    }

    /// Starts the product.
    #[allow(unsafe_code)]
    #[track_caller]
    pub fn run(&self, library: &Library, cuda: &Cuda, at: Addresses) -> Lt<()> {
        let all = [at.x, at.w, at.bias, at.add, at.y];
        assert!(all.iter().all(|a| a.is_multiple_of(ALIGNMENT)), "tensors begin where allocations do");
        // The library uses the context that is the thread's own.
        cuda.device.context().bind_to_thread().map_err(|_| unready())?;
        let workspace = library.workspace(cuda)?;
        let desc = self.desc.lock().unwrap_or_else(|e| e.into_inner());
        if self.problem.bias {
            desc.set(DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, at.bias)?;
        }
        let (one, beta) = (1.0_f32, if self.problem.add { 1.0_f32 } else { 0.0 });
        let device = |address: u64| ptr::with_exposed_provenance_mut::<c_void>(address as usize);
        let add = if self.problem.add { at.add } else { at.y };
        // SAFETY: the addresses are of live buffers as long as the layouts say, freed in the order of the
        // stream; the workspace is used by one stream, so by one product at a time.
        unsafe {
            result::matmul(
                library.handle,
                desc.0,
                (&raw const one).cast(),
                (&raw const beta).cast(),
                device(at.w),
                self.w.0,
                device(at.x),
                self.x.0,
                device(add),
                self.y.0,
                device(at.y),
                self.y.0,
                &self.algorithm,
                device(workspace),
                WORKSPACE,
                cuda.device.stream().cu_stream().cast(),
            )
        }
    }
}
