//! The stand-in driver through cudarc, as the CUDA backend sees it.

use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;
use das_cuda_emulator as emulator;

/// The device is one for all tests of the process: they take turns.
fn device() -> (MutexGuard<'static, ()>, Arc<CudaContext>) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    emulator::install().unwrap();
    emulator::seed_driver(0);
    let context = CudaContext::new(0).unwrap();
    // SAFETY: no buffer exists yet.
    unsafe { context.disable_event_tracking() };
    (turn, context)
}

/// What cuModuleLoadData takes for a fatbin.
fn fatbin() -> Ptx {
    Ptx::from_binary(vec![0x50, 0xed, 0x55, 0xba, 0, 0, 0, 0])
}

fn function(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    let module: Arc<CudaModule> = context.load_module(fatbin()).unwrap();
    module.load_function(&format!("das_{name}_f32")).unwrap()
}

fn shape(grid: u32, block: u32, shared: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (grid, 1, 1), block_dim: (block, 1, 1), shared_mem_bytes: shared }
}

#[test]
fn one_device_is_seen() {
    let (_turn, context) = device();
    assert_eq!(context.name().unwrap(), "stand-in for tests (CPU)");
    assert_eq!(context.compute_capability().unwrap(), (9, 0));
    assert!(context.has_async_alloc());
    let processors = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    assert_eq!(context.attribute(processors).unwrap(), 132);
}

#[test]
fn a_kernel_runs_in_the_order_of_its_stream() {
    let (_turn, context) = device();
    let f = function(&context, "planted_reduction_right");
    for seed in 0..20 {
        emulator::seed_driver(seed);
        let stream = context.new_stream().unwrap();
        let x: Vec<f32> = (0..1024).map(|i| i as f32).collect();
        let x = stream.clone_htod(&x).unwrap();
        let mut y = stream.alloc_zeros::<f32>(4).unwrap();
        let before = emulator::counters().launches;
        // SAFETY: the arguments are the kernel's.
        unsafe { stream.launch_builder(&f).arg(&x).arg(&mut y).launch(shape(4, 256, 0)) }.unwrap();
        let y = stream.clone_dtoh(&y).unwrap();
        assert_eq!(y, [32640.0, 98176.0, 163712.0, 229248.0]);
        assert_eq!(emulator::counters().launches, before + 1);
    }
}
