//! What the tests of the stand-in driver share.

use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::{CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, LaunchConfig};
use cudarc::nvrtc::Ptx;
use das_cuda_emulator as emulator;

/// The device, for one test at a time, without a failure of an earlier one.
pub struct StepInput {
    pub context: Arc<CudaContext>,
    _turn: MutexGuard<'static, ()>,
}

pub fn device() -> StepInput {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    emulator::install().unwrap();
    emulator::seed_driver(0);
    emulator::limit_memory(8 << 30);
    emulator::take_failure();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: no buffer exists yet. Events recorded for every buffer would break captures.
    unsafe { context.disable_event_tracking() };
    StepInput { context, _turn: turn }
}

impl StepInput {
    pub fn stream(&self) -> Arc<CudaStream> {
        self.context.new_stream().unwrap()
    }

    /// A kernel, out of an image that only looks like one.
    pub fn function(&self, name: &str) -> CudaFunction {
        let image = Ptx::from_binary(vec![0x50, 0xed, 0x55, 0xba, 0, 0, 0, 0]);
        self.context.load_module(image).unwrap().load_function(&format!("das_{name}_f32")).unwrap()
    }
}

pub fn shape(grid: u32, block: u32, shared: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (grid, 1, 1), block_dim: (block, 1, 1), shared_mem_bytes: shared }
}

pub fn address<T>(x: &CudaSlice<T>, stream: &CudaStream) -> u64 {
    x.device_ptr(stream).0
}

pub fn numbers(n: usize, from: f32) -> Vec<f32> {
    (0..n).map(|i| from + i as f32).collect()
}
