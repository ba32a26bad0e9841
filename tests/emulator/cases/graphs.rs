//! Captures and graphs of the stand-in driver, memory nodes included.

use std::sync::Arc;

use cudarc::driver::{CudaGraph, CudaSlice, CudaStream, PushKernelArg, result, sys};
use das_cuda_emulator as emulator;
use sys::CUresult as Code;

use crate::device::{StepInput, address, device, numbers, shape};

const NONE: sys::CUgraphInstantiate_flags = sys::CUgraphInstantiate_flags(0);
const MODES: [sys::CUstreamCaptureMode; 3] = [
    sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL,
    sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
    sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED,
];
const RELAXED: sys::CUstreamCaptureMode = MODES[2];

/// y += 2 x
fn add(turn: &StepInput, stream: &Arc<CudaStream>, x: &CudaSlice<f32>, y: &mut CudaSlice<f32>) {
    let f = turn.function("op_add");
    let n = x.len() as i32;
    // SAFETY: the arguments are the kernel's, and the buffers have n elements.
    unsafe { stream.launch_builder(&f).arg(x).arg(y).arg(&n).launch(shape(1, 256, 0)) }.unwrap();
}

fn nodes(graph: &CudaGraph) -> usize {
    let mut count = 0;
    // SAFETY: a live graph; without a list only their number is given.
    unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &mut count) }.result().unwrap();
    count
}

fn graph_memory(attribute: sys::CUgraphMem_attribute) -> u64 {
    let mut v = 0u64;
    // SAFETY: an attribute of 64 bits.
    unsafe { sys::cuDeviceGetGraphMemAttribute(0, attribute, (&raw mut v).cast()) }.result().unwrap();
    v
}

fn what_is_captured_runs_at_every_launch_and_not_before() {
    let turn = device();
    let stream = turn.stream();
    for mode in MODES {
        let x = stream.clone_htod(&numbers(100, 1.0)).unwrap();
        let mut y = stream.alloc_zeros::<f32>(100).unwrap();
        // What NVRTC or a fatbin gives is loaded before: in two of the modes loading is forbidden.
        let f = turn.function("op_add");
        stream.begin_capture(mode).unwrap();
        for _ in 0..3 {
            // SAFETY: the arguments are the kernel's.
            unsafe { stream.launch_builder(&f).arg(&x).arg(&mut y).arg(&100i32).launch(shape(1, 256, 0)) }
                .unwrap();
        }
        let graph = stream.end_capture(NONE).unwrap().unwrap();
        assert_eq!(nodes(&graph), 3);
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [0.0; 100]);
        let before = emulator::counters();
        graph.upload().unwrap();
        for round in 1..4 {
            graph.launch().unwrap();
            let y = stream.clone_dtoh(&y).unwrap();
            assert!((0..100).all(|i| y[i] == 6.0 * (round as f32) * (i as f32 + 1.0)));
        }
        let after = emulator::counters();
        assert_eq!(after.graph_launches, before.graph_launches + 3);
        assert_eq!(after.launches, before.launches + 9);
    }
}

fn pinned_copies_are_captured() {
    let turn = device();
    let stream = turn.stream();
    // SAFETY: written before it is read.
    let mut input = unsafe { turn.context.alloc_pinned_with_flags::<f32>(64, 0) }.unwrap();
    let mut x = stream.alloc_zeros::<f32>(64).unwrap();
    input.as_mut_slice().unwrap().fill(0.0);
    let mut y = stream.alloc_zeros::<f32>(64).unwrap();
    stream.begin_capture(RELAXED).unwrap();
    stream.memcpy_htod(&input, &mut x).unwrap();
    add(&turn, &stream, &x, &mut y);
    let graph = stream.end_capture(NONE).unwrap().unwrap();
    for round in 1..4 {
        input.as_mut_slice().unwrap().fill(round as f32);
        graph.launch().unwrap();
        stream.synchronize().unwrap();
    }
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [12.0; 64]);
}

fn two_streams_fork_and_join_in_a_capture() {
    let turn = device();
    let (main, side) = (turn.stream(), turn.stream());
    for seed in 0..10 {
        emulator::seed_driver(seed);
        let x = main.clone_htod(&numbers(64, 0.0)).unwrap();
        let (mut y, mut z) = (main.alloc_zeros::<f32>(64).unwrap(), main.alloc_zeros::<f32>(64).unwrap());
        main.synchronize().unwrap();
        main.begin_capture(RELAXED).unwrap();
        add(&turn, &main, &x, &mut y);
        side.join(&main).unwrap();
        add(&turn, &side, &y, &mut z);
        main.join(&side).unwrap();
        add(&turn, &main, &z, &mut y);
        let graph = main.end_capture(NONE).unwrap().unwrap();
        graph.launch().unwrap();
        let y = main.clone_dtoh(&y).unwrap();
        assert!((0..64).all(|i| y[i] == 10.0 * i as f32), "{y:?}");

        // A fork that does not come back.
        main.begin_capture(RELAXED).unwrap();
        side.join(&main).unwrap();
        add(&turn, &side, &x, &mut z);
        let unjoined = main.end_capture(NONE).map(|_| ()).unwrap_err();
        assert_eq!(unjoined.0, Code::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    }
}

fn what_cannot_be_captured_breaks_the_capture() {
    let turn = device();
    let stream = turn.stream();
    let broken = |mode, call: &dyn Fn() -> Code| {
        stream.begin_capture(mode).unwrap();
        let said = call();
        (said, stream.end_capture(NONE).map(|_| ()).map_err(|e| e.0))
    };
    let invalidated = Err(Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    let code = |r: Result<(), cudarc::driver::DriverError>| r.map_or_else(|e| e.0, |()| Code::CUDA_SUCCESS);
    let unsupported = (Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, invalidated);

    assert_eq!(broken(RELAXED, &|| code(stream.synchronize())), unsupported);
    assert_eq!(broken(RELAXED, &|| code(turn.context.synchronize())), unsupported);
    let x = stream.alloc_zeros::<f32>(16).unwrap();
    let pageable = || code(stream.clone_dtoh(&x).map(|_| ()));
    assert_eq!(broken(RELAXED, &pageable), unsupported);
    // Calls that may wait for the device: allowed where the mode says so.
    // SAFETY: what is allocated is released.
    let plain = || code(unsafe { result::malloc_sync(16).and_then(|p| result::free_sync(p)) });
    assert_eq!(broken(MODES[0], &plain), unsupported);
    assert_eq!(broken(MODES[1], &plain), unsupported);
    let other = || std::thread::scope(|s| s.spawn(plain).join().unwrap());
    assert_eq!(broken(MODES[0], &other), unsupported);
    assert_eq!(broken(MODES[1], &other), (Code::CUDA_SUCCESS, Ok(())));
    // An event from outside.
    let event = turn.context.new_event(None).unwrap();
    event.record(&stream).unwrap();
    let isolation = (Code::CUDA_ERROR_STREAM_CAPTURE_ISOLATION, invalidated);
    assert_eq!(broken(RELAXED, &|| code(stream.wait(&event))), isolation);
    // And all works again.
    assert_eq!(broken(RELAXED, &|| Code::CUDA_SUCCESS), (Code::CUDA_SUCCESS, Ok(())));
    stream.synchronize().unwrap();
}

fn memory_of_a_graph_lives_within_its_run() {
    use sys::CUgraphMem_attribute as Attribute;
    let turn = device();
    let stream = turn.stream();
    for seed in 0..4 {
        emulator::seed_driver(seed);
        let x = stream.clone_htod(&numbers(64, 1.0)).unwrap();
        let (mut y, mut early) =
            (stream.alloc_zeros::<f32>(64).unwrap(), stream.alloc_zeros::<u32>(64).unwrap());
        stream.synchronize().unwrap();
        stream.begin_capture(RELAXED).unwrap();
        // SAFETY: any bytes are floats; what is read before it is written is looked at as bits.
        let mut t = unsafe { stream.alloc::<f32>(64) }.unwrap();
        let place = address(&t, &stream);
        let bytes = |p: u64, q: u64| {
            // SAFETY: 256 bytes each.
            unsafe { result::memcpy_dtod_async(q, p, 256, stream.cu_stream()) }.unwrap();
        };
        bytes(place, address(&early, &stream));
        stream.memset_zeros(&mut t).unwrap();
        add(&turn, &stream, &x, &mut t);
        add(&turn, &stream, &t, &mut y);
        drop(t);
        let graph = stream.end_capture(NONE).unwrap().unwrap();
        assert_eq!(nodes(&graph), 6);
        let used = graph_memory(Attribute::CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT);
        for round in 1..4 {
            graph.launch().unwrap();
            let y = stream.clone_dtoh(&y).unwrap();
            assert!((0..64).all(|i| y[i] == 4.0 * round as f32 * (i as f32 + 1.0)));
            // Whatever the last run left in it is gone.
            assert_eq!(stream.clone_dtoh(&early).unwrap(), [u32::MAX; 64]);
        }
        assert_eq!(graph_memory(Attribute::CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT), used);
        assert!(graph_memory(Attribute::CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT) >= 512);
        // SAFETY: the only device.
        unsafe { sys::cuDeviceGraphMemTrim(0) }.result().unwrap();
        assert_eq!(graph_memory(Attribute::CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), used);
        graph.launch().unwrap();
        stream.synchronize().unwrap();

        // Outside of the graph it is nobody's.
        let f = turn.function("op_add");
        // SAFETY: the address is refused before the kernel sees it.
        let outside =
            unsafe { stream.launch_builder(&f).arg(&place).arg(&mut y).arg(&64i32).launch(shape(1, 256, 0)) };
        assert_eq!(outside.map(|_| ()).unwrap_err().0, Code::CUDA_ERROR_ILLEGAL_ADDRESS);
        emulator::take_failure();
        early = stream.alloc_zeros::<u32>(64).unwrap();
        drop(early);
    }
}

fn memory_a_graph_leaves_is_released_outside() {
    let turn = device();
    let stream = turn.stream();
    let x = stream.clone_htod(&numbers(64, 1.0)).unwrap();
    stream.begin_capture(RELAXED).unwrap();
    let mut t = stream.alloc_zeros::<f32>(64).unwrap();
    add(&turn, &stream, &x, &mut t);
    let graph = stream.end_capture(NONE).unwrap().unwrap();
    graph.launch().unwrap();
    let got = stream.clone_dtoh(&t).unwrap();
    assert!((0..64).all(|i| got[i] == 2.0 * (i as f32 + 1.0)));
    // It is still there: another run would allocate it twice.
    assert_eq!(graph.launch().unwrap_err().0, Code::CUDA_ERROR_INVALID_VALUE);
    let place = address(&t, &stream);
    drop(t);
    graph.launch().unwrap();
    // SAFETY: the run has allocated it again.
    unsafe { result::free_async(place, stream.cu_stream()) }.unwrap();
    stream.synchronize().unwrap();
    turn.context.check_err().unwrap();
}

fn a_graph_needs_room_for_its_memory() {
    let turn = device();
    let stream = turn.stream();
    stream.begin_capture(RELAXED).unwrap();
    drop(stream.alloc_zeros::<u8>(3 << 20).unwrap());
    drop(stream.alloc_zeros::<u8>(3 << 20).unwrap());
    let graph = stream.end_capture(NONE).unwrap().unwrap();
    emulator::limit_memory(2 << 20);
    assert_eq!(graph.launch().unwrap_err().0, Code::CUDA_ERROR_OUT_OF_MEMORY);
    // One after the other they need the room of one.
    emulator::limit_memory(4 << 20);
    graph.launch().unwrap();
    stream.synchronize().unwrap();
    // SAFETY: the only device.
    unsafe { sys::cuDeviceGraphMemTrim(0) }.result().unwrap();
}

fn a_graph_takes_new_parameters_and_no_new_shape() {
    let turn = device();
    let stream = turn.stream();
    let capture = |x: &CudaSlice<f32>, y: &mut CudaSlice<f32>, times: usize| {
        stream.begin_capture(RELAXED).unwrap();
        for _ in 0..times {
            add(&turn, &stream, x, y);
        }
        stream.end_capture(NONE).unwrap().unwrap()
    };
    let (a, b) = (stream.clone_htod(&[1f32; 64]).unwrap(), stream.clone_htod(&[5f32; 64]).unwrap());
    let mut y = stream.alloc_zeros::<f32>(64).unwrap();
    let graph = capture(&a, &mut y, 2);
    let update = |with: &CudaGraph| {
        // SAFETY: live graphs; the information is plain numbers.
        unsafe {
            let mut info = std::mem::zeroed();
            sys::cuGraphExecUpdate_v2(graph.cu_graph_exec(), with.cu_graph(), &mut info).result()
        }
    };
    graph.launch().unwrap();
    update(&capture(&b, &mut y, 2)).unwrap();
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [24.0; 64]);
    let shape = update(&capture(&b, &mut y, 3)).unwrap_err();
    assert_eq!(shape.0, Code::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
}

fn a_graph_that_is_dropped_still_finishes() {
    let turn = device();
    let stream = turn.stream();
    let x = stream.clone_htod(&[1f32; 64]).unwrap();
    let mut y = stream.alloc_zeros::<f32>(64).unwrap();
    stream.begin_capture(RELAXED).unwrap();
    add(&turn, &stream, &x, &mut y);
    let graph = stream.end_capture(NONE).unwrap().unwrap();
    graph.launch().unwrap();
    drop(graph);
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [2.0; 64]);
}

crate::tests![
    what_is_captured_runs_at_every_launch_and_not_before,
    pinned_copies_are_captured,
    two_streams_fork_and_join_in_a_capture,
    what_cannot_be_captured_breaks_the_capture,
    memory_of_a_graph_lives_within_its_run,
    memory_a_graph_leaves_is_released_outside,
    a_graph_needs_room_for_its_memory,
    a_graph_takes_new_parameters_and_no_new_shape,
    a_graph_that_is_dropped_still_finishes,
];
