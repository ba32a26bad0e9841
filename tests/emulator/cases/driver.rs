//! The stand-in driver through cudarc, as the CUDA backend sees it: streams, memory, modules, failures.

use std::process::Command;

use cudarc::driver::{DriverError, PushKernelArg, result, sys};
use cudarc::nvrtc;
use das_cuda_emulator as emulator;
use sys::CUresult as Code;

use crate::device::{address, device, numbers, shape};

fn one_device_is_seen() {
    let turn = device();
    let context = &turn.context;
    assert_eq!(context.name().unwrap(), "stand-in for tests (CPU)");
    assert_eq!(context.compute_capability().unwrap(), (9, 0));
    assert!(context.has_async_alloc());
    let processors = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    assert_eq!(context.attribute(processors).unwrap(), 132);
}

/// Runs this test binary again, to look for a device in another process.
fn child(set: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["driver::a_child_looks_for_a_device", "--exact", "--ignored", "--nocapture"]);
    command.envs(emulator::environment()).env_remove("DAS_CUDA_STAND_IN").envs(set.iter().copied());
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}
fn a_child_looks_for_a_device() {
    println!("found: {:?}", result::init().map_err(|e| e.0));
}
fn nobody_ends_on_the_stand_in_unknowingly() {
    let none = "found: Err(CUDA_ERROR_NO_DEVICE)";
    assert!(child(&[]).contains(none));
    assert!(child(&[("DAS_CUDA_STAND_IN", "0")]).contains(none));
    assert!(child(&[("DAS_CUDA_STAND_IN", "1")]).contains("found: Ok"));
    assert!(child(&[("DAS_CUDA_STAND_IN", "1"), ("DAS_STAND_IN_NO_DEVICE", "1")]).contains(none));
}

// ---- streams

fn work_of_a_stream_runs_in_order() {
    let turn = device();
    let f = turn.function("planted_reduction_right");
    for seed in 0..20 {
        emulator::seed_driver(seed);
        let stream = turn.stream();
        let x = stream.clone_htod(&numbers(1024, 0.0)).unwrap();
        let mut y = stream.alloc_zeros::<f32>(4).unwrap();
        let before = emulator::counters();
        // SAFETY: the arguments are the kernel's.
        unsafe { stream.launch_builder(&f).arg(&x).arg(&mut y).launch(shape(4, 256, 0)) }.unwrap();
        let y = stream.clone_dtoh(&y).unwrap();
        assert_eq!(y, [32640.0, 98176.0, 163_712.0, 229_248.0]);
        assert_eq!(emulator::counters().launches, before.launches + 1);
    }
    assert!(emulator::launches("das_planted_reduction_right_f32") >= 20);
}

fn a_missing_wait_between_streams_shows() {
    let turn = device();
    let (writer, reader) = (turn.stream(), turn.stream());
    let right = |waits: bool| {
        let (mut x, mut y) = (writer.alloc_zeros::<f32>(64).unwrap(), writer.alloc_zeros::<f32>(64).unwrap());
        writer.synchronize().unwrap();
        writer.memcpy_htod(&[7f32; 64], &mut x).unwrap();
        if waits {
            reader.join(&writer).unwrap();
        }
        reader.memcpy_dtod(&x, &mut y).unwrap();
        let y = reader.clone_dtoh(&y).unwrap();
        writer.join(&reader).unwrap();
        y.iter().all(|&v| v == 7.0)
    };
    for seed in 0..20 {
        emulator::seed_driver(seed);
        assert!(right(true));
    }
    let wrong = (0..20).filter(|&seed| {
        emulator::seed_driver(seed);
        !right(false)
    });
    assert!(wrong.count() > 3);
}

fn the_default_stream_waits_for_blocking_streams_only() {
    let turn = device();
    let mut seen = [false; 2];
    for seed in 0..40 {
        for flag in [sys::CUstream_flags::CU_STREAM_DEFAULT, sys::CUstream_flags::CU_STREAM_NON_BLOCKING] {
            emulator::seed_driver(seed);
            let kind = match flag {
                sys::CUstream_flags::CU_STREAM_DEFAULT => result::stream::StreamKind::Default,
                _ => result::stream::StreamKind::NonBlocking,
            };
            let default = turn.context.default_stream();
            let x = default.alloc_zeros::<u8>(64).unwrap();
            default.synchronize().unwrap();
            let x = address(&x, &default);
            let mut got = [0u8; 64];
            // SAFETY: live memory of 64 bytes, and a stream that is destroyed once.
            unsafe {
                let stream = result::stream::create(kind).unwrap();
                result::memset_d8_async(x, 1, 64, stream).unwrap();
                result::memcpy_dtoh_sync(&mut got, x).unwrap();
                result::stream::destroy(stream).unwrap();
            }
            let waited = got == [1; 64];
            let blocking = flag == sys::CUstream_flags::CU_STREAM_DEFAULT;
            assert!(waited || !blocking, "seed {seed}");
            seen[usize::from(waited)] |= !blocking;
        }
    }
    assert_eq!(seen, [true, true]);
}

fn pinned_memory_is_copied_later_and_pageable_memory_now() {
    let turn = device();
    let stream = turn.stream();
    let mut x = stream.alloc_zeros::<f32>(64).unwrap();
    stream.synchronize().unwrap();
    // SAFETY: written before it is read.
    let mut pinned = unsafe { turn.context.alloc_pinned_with_flags::<f32>(64, 0) }.unwrap();
    let write = |pinned: &mut cudarc::driver::PinnedHostSlice<f32>, v: f32| {
        // SAFETY: 64 elements, and whoever reads them meanwhile is what is tested.
        unsafe { std::slice::from_raw_parts_mut(pinned.as_mut_ptr().unwrap(), 64) }.fill(v);
    };
    write(&mut pinned, 1.0);
    stream.memcpy_htod(&pinned, &mut x).unwrap();
    write(&mut pinned, 2.0);
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [2.0; 64]);

    let mut pageable = vec![3f32; 64];
    stream.memcpy_htod(&pageable, &mut x).unwrap();
    pageable.fill(4.0);
    stream.memcpy_dtoh(&x, &mut pinned).unwrap();
    // SAFETY: as above.
    let early = unsafe { *pinned.as_ptr().unwrap() };
    stream.synchronize().unwrap();
    // SAFETY: as above.
    let late = unsafe { *pinned.as_ptr().unwrap() };
    assert_eq!((early, late), (2.0, 3.0));
}

fn events_tell_what_is_done_and_when() {
    let turn = device();
    let stream = turn.stream();
    let timed = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let (start, end) = (turn.context.new_event(timed).unwrap(), turn.context.new_event(timed).unwrap());
    start.record(&stream).unwrap();
    let _x = stream.alloc_zeros::<f32>(1 << 20).unwrap();
    end.record(&stream).unwrap();
    assert!(!end.is_complete());
    // Whoever asks again and again comes to an end.
    while !end.is_complete() {}
    let ms = start.elapsed_ms(&end).unwrap();
    assert!(ms > 0.0 && ms < 10_000.0, "{ms}");
    let untimed = turn.context.new_event(None).unwrap();
    untimed.record(&stream).unwrap();
    assert!(start.elapsed_ms(&untimed).is_err());
}

// ---- memory

fn memory_ends_where_it_should() {
    let turn = device();
    let stream = turn.stream();
    emulator::limit_memory(1 << 20);
    let first = stream.alloc_zeros::<u8>(700 << 10).unwrap();
    let refused = stream.alloc_zeros::<u8>(400 << 10).unwrap_err();
    assert_eq!(refused.0, Code::CUDA_ERROR_OUT_OF_MEMORY);
    drop(first);
    let second = stream.alloc_zeros::<u8>(1 << 20).unwrap();
    drop(second);
    emulator::limit_memory(8 << 30);

    emulator::fail_allocation(2);
    let kept = stream.alloc_zeros::<u8>(16).unwrap();
    assert_eq!(stream.alloc_zeros::<u8>(16).unwrap_err().0, Code::CUDA_ERROR_OUT_OF_MEMORY);
    stream.alloc_zeros::<u8>(16).unwrap();
    drop(kept);
    // SAFETY: nothing is allocated.
    let nothing = unsafe { result::malloc_async(stream.cu_stream(), 0) };
    assert_eq!(nothing.unwrap_err().0, Code::CUDA_ERROR_INVALID_VALUE);
}

fn the_pool_keeps_what_its_threshold_says() {
    use sys::CUmemPool_attribute as Attribute;
    let turn = device();
    let stream = turn.stream();
    // SAFETY: the default pool, and attributes of 64 bits.
    let pool = unsafe { result::device::get_default_mem_pool(turn.context.cu_device()) }.unwrap();
    let get = |a: Attribute| {
        let mut v = 0u64;
        // SAFETY: as above.
        unsafe { result::mem_pool::get_attribute(pool, a, (&raw mut v).cast()) }.unwrap();
        v
    };
    let set = |a: Attribute, mut v: u64| {
        // SAFETY: as above.
        unsafe { result::mem_pool::set_attribute(pool, a, (&raw mut v).cast()) }.unwrap();
    };
    let (used, high) =
        (Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT, Attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH);
    let (reserved, threshold) =
        (Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD);
    stream.synchronize().unwrap();
    set(high, 0);
    let before = get(used);
    let x = stream.alloc_zeros::<u8>(5 << 20).unwrap();
    assert_eq!(get(used), before + (5 << 20));
    drop(x);
    assert_eq!((get(used), get(high)), (before, before + (5 << 20)));
    assert!(get(reserved) >= 5 << 20);
    // By default a synchronisation empties it.
    set(threshold, 0);
    stream.synchronize().unwrap();
    assert!(get(reserved) < 4 << 20);
    set(threshold, u64::MAX);
    assert_eq!(get(threshold), u64::MAX);
    drop(stream.alloc_zeros::<u8>(5 << 20).unwrap());
    stream.synchronize().unwrap();
    assert!(get(reserved) >= 5 << 20);
    let (free, total) = turn.context.mem_get_info().unwrap();
    // SAFETY: the default pool.
    unsafe { result::mem_pool::trim_to(pool, 0) }.unwrap();
    let trimmed = turn.context.mem_get_info().unwrap();
    assert!(total == 8 << 30 && trimmed.0 >= free + (4 << 20), "{free} {trimmed:?}");
    set(threshold, 0);
}

fn fresh_memory_is_poison() {
    let turn = device();
    let stream = turn.stream();
    for _ in 0..3 {
        // SAFETY: any bytes are a u32.
        let x = unsafe { stream.alloc::<u32>(1000) }.unwrap();
        assert_eq!(stream.clone_dtoh(&x).unwrap(), [u32::MAX; 1000]);
        let mut x = x;
        stream.memset_zeros(&mut x).unwrap();
    }
}

fn a_wrong_write_is_told() {
    let turn = device();
    let stream = turn.stream();
    let f = turn.function("planted_overrun_global_wrong");
    let mut y = stream.alloc_zeros::<f32>(1000).unwrap();
    // SAFETY: the arguments are the kernel's; what it does wrong is caught.
    unsafe { stream.launch_builder(&f).arg(&mut y).arg(&1000i32).launch(shape(4, 256, 0)) }.unwrap();
    stream.synchronize().unwrap();
    let told = emulator::take_failure().unwrap();
    assert!(told.contains("a write outside an allocation of 4000 bytes"), "{told}");
    // And where it is released.
    drop(y);
    let failed = stream.synchronize().unwrap_err();
    assert_eq!(failed.0, Code::CUDA_ERROR_ILLEGAL_ADDRESS);
    emulator::take_failure();
}

// ---- modules and launches

fn reason(e: DriverError) -> String {
    e.error_string().unwrap().to_string_lossy().into_owned()
}

fn what_is_no_image_is_refused() {
    let turn = device();
    let load = |bytes: &[u8]| {
        let image = nvrtc::Ptx::from_binary([bytes, &[0; 16]].concat());
        turn.context.load_module(image).map_err(|e| e.0)
    };
    load(b"\x7fELF").unwrap();
    load(&[0x50, 0xed, 0x55, 0xba]).unwrap();
    assert_eq!(load(b".version 8.0").unwrap_err(), Code::CUDA_ERROR_INVALID_IMAGE);
    assert_eq!(load(b"").unwrap_err(), Code::CUDA_ERROR_INVALID_IMAGE);
    let module = load(b"\x7fELF").unwrap();
    assert_eq!(module.load_function("das_no_such_kernel").unwrap_err().0, Code::CUDA_ERROR_NOT_FOUND);
}

fn launches_are_checked_as_a_gpu_checks_them() {
    let turn = device();
    let stream = turn.stream();
    let f = turn.function("planted_overrun_dynamic_right");
    let mut y = stream.alloc_zeros::<f32>(64).unwrap();
    let mut go = |grid: u32, block: u32, shared: u32| {
        // SAFETY: the arguments are the kernel's; with few threads it stays within 8 elements of its memory.
        unsafe { stream.launch_builder(&f).arg(&mut y).arg(&8i32).launch(shape(grid, block, shared)) }
    };
    go(1, 64, 256).unwrap();
    assert!(reason(go(1, 65, 256).unwrap_err()).contains("launch bounds"));
    assert!(go(0, 64, 256).is_err());
    assert!(reason(go(1, 64, 64 << 10).unwrap_err()).contains("attribute"));
    let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert!(f.set_attribute(most, 228 << 10).is_err());
    f.set_attribute(most, 64 << 10).unwrap();
    go(1, 64, 64 << 10).unwrap();
    assert!(go(1, 64, 65 << 10).is_err());
    stream.synchronize().unwrap();
    assert_eq!(emulator::take_failure(), None);
    let threads = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
    assert_eq!(f.get_attribute(threads).unwrap(), 64);
}

fn pointers_must_point_to_live_memory() {
    let turn = device();
    let stream = turn.stream();
    let f = turn.function("planted_packet_right");
    let x = stream.alloc_zeros::<f32>(128).unwrap();
    let mut y = stream.alloc_zeros::<f32>(128).unwrap();
    let mut go = |x: u64| {
        // SAFETY: wrong addresses are refused before the kernel sees them.
        unsafe { stream.launch_builder(&f).arg(&x).arg(&mut y).launch(shape(1, 32, 0)) }
    };
    let place = address(&x, &stream);
    go(place).unwrap();
    let host = vec![0f32; 128];
    for wrong in [host.as_ptr() as u64, 3, place + 2, place + 4096] {
        let e = go(wrong).unwrap_err();
        assert_eq!(e.0, Code::CUDA_ERROR_ILLEGAL_ADDRESS);
        assert!(reason(e).contains("parameter 0"));
        emulator::take_failure();
    }
    drop(x);
    assert!(go(place).is_err());
    emulator::take_failure();
}

fn memory_released_too_early_is_told() {
    let turn = device();
    let (user, owner) = (turn.stream(), turn.stream());
    let f = turn.function("planted_packet_right");
    let mut told = 0;
    for seed in 0..20 {
        emulator::seed_driver(seed);
        let x = owner.alloc_zeros::<f32>(128).unwrap();
        let mut y = user.alloc_zeros::<f32>(128).unwrap();
        owner.synchronize().unwrap();
        // SAFETY: the arguments are the kernel's. That `x` may be gone when it runs is what is tested.
        unsafe { user.launch_builder(&f).arg(&x).arg(&mut y).launch(shape(1, 32, 0)) }.unwrap();
        drop(x);
        told += u32::from(turn.context.synchronize().is_err());
        if let Some(text) = emulator::take_failure() {
            assert!(text.contains("ran after memory it uses was released"), "{text}");
        }
    }
    assert!(told > 3 && told < 20, "{told}");
}

fn a_failed_kernel_fails_everything_after_it() {
    let turn = device();
    let stream = turn.stream();
    let f = turn.function("planted_shuffle_wrong");
    let mut y = stream.alloc_zeros::<f32>(32).unwrap();
    // SAFETY: the arguments are the kernel's; it waits for itself, which is caught.
    unsafe { stream.launch_builder(&f).arg(&mut y).launch(shape(1, 32, 0)) }.unwrap();
    for _ in 0..2 {
        let e = stream.synchronize().unwrap_err();
        assert_eq!(e.0, Code::CUDA_ERROR_LAUNCH_FAILED);
        let text = reason(e);
        assert!(text.contains("deadlock in das_planted_shuffle_wrong_f32"), "{text}");
    }
    assert!(stream.clone_dtoh(&y).is_err());
    assert!(emulator::take_failure().is_some());
    stream.clone_dtoh(&y).unwrap();
}

// ---- compiling at run time

fn compile(source: &str, headers: &[(&str, &str)], options: &[&str]) -> Result<Vec<u8>, String> {
    use std::ffi::{CStr, CString};
    let text = |s: &str| CString::new(s).unwrap();
    let all = |strings: &[&str]| strings.iter().map(|s| text(s)).collect::<Vec<_>>();
    let (names, texts): (Vec<_>, Vec<_>) = headers.iter().copied().unzip();
    let (names, texts, options) = (all(&names), all(&texts), all(options));
    let pointers = |s: &[CString]| s.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
    let (source, name) = (text(source), text("planted.cu"));
    // SAFETY: strings that end in 0 and outlive the calls, and a buffer of the size asked for.
    unsafe {
        let mut program = std::ptr::null_mut();
        let count = names.len() as i32;
        let (texts, names) = (pointers(&texts), pointers(&names));
        let created = (source.as_ptr(), name.as_ptr(), texts.as_ptr(), names.as_ptr());
        nvrtc::sys::nvrtcCreateProgram(&mut program, created.0, created.1, count, created.2, created.3)
            .result()
            .unwrap();
        let options = pointers(&options);
        let compiled = nvrtc::sys::nvrtcCompileProgram(program, options.len() as i32, options.as_ptr());
        let mut image = Vec::new();
        let log = nvrtc::result::get_program_log(program).unwrap();
        if compiled.result().is_ok() {
            let mut size = 0;
            nvrtc::sys::nvrtcGetCUBINSize(program, &mut size).result().unwrap();
            image.resize(size, 0u8);
            if size > 0 {
                nvrtc::sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()).result().unwrap();
            }
        }
        nvrtc::sys::nvrtcDestroyProgram(&mut program).result().unwrap();
        match compiled.result() {
            Ok(()) => Ok(image),
            Err(e) => Err(format!("{:?}: {}", e.0, CStr::from_ptr(log.as_ptr()).to_string_lossy())),
        }
    }
}

fn what_is_compiled_at_run_time_is_loaded() {
    let turn = device();
    const SOURCE: &str = include_str!("../planted.cu");
    const HEADERS: &[(&str, &str)] = &[
        ("act.cuh", include_str!("../../../kernels/act.cuh")),
        ("mma.cuh", include_str!("../../../kernels/mma.cuh")),
        ("lookback.cuh", include_str!("../../../kernels/lookback.cuh")),
        ("reduce.cuh", include_str!("../../../kernels/reduce.cuh")),
    ];
    let options = ["--gpu-architecture=sm_90a", "--std=c++17", "-DACT_BF16"];
    let image = compile(SOURCE, HEADERS, &options).unwrap();
    let module = turn.context.load_module(nvrtc::Ptx::from_binary(image)).unwrap();
    module.load_function("das_planted_reduction_right_bf16").unwrap();
    // Of another type, or of another file.
    assert!(module.load_function("das_planted_reduction_right_f16").is_err());
    assert!(module.load_function("das_op_add_bf16").is_err());

    let missing = compile(SOURCE, &HEADERS[..3], &options).unwrap_err();
    assert!(missing.contains("NVRTC_ERROR_COMPILATION") && missing.contains("reduce.cuh"), "{missing}");
    assert!(compile(SOURCE, HEADERS, &options[..2]).unwrap_err().contains("ACT_F32"));
    assert!(compile(SOURCE, HEADERS, &["sm_90"]).unwrap_err().contains("NVRTC_ERROR_INVALID_OPTION"));
    assert!(compile("", HEADERS, &options).is_err());
    // A virtual architecture has no machine code.
    assert_eq!(compile(SOURCE, HEADERS, &["-arch=compute_90", "-DACT_F32"]).unwrap(), b"");
}

/// Each thread its own program: what the library keeps of all of them must bear that.
fn threads_compile_at_the_same_time() {
    let _turn = device();
    let options = ["--gpu-architecture=sm_90a", "-DACT_F32"];
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let image = compile("KERNEL(a)", &[], &options).unwrap();
                    assert!(image.starts_with(b"das-nvrtc\n"));
                }
            });
        }
    });
}

crate::tests![
    one_device_is_seen,
    threads_compile_at_the_same_time,
    #[ignore = "a part of nobody_ends_on_the_stand_in_unknowingly"]
    a_child_looks_for_a_device,
    nobody_ends_on_the_stand_in_unknowingly,
    work_of_a_stream_runs_in_order,
    a_missing_wait_between_streams_shows,
    the_default_stream_waits_for_blocking_streams_only,
    pinned_memory_is_copied_later_and_pageable_memory_now,
    events_tell_what_is_done_and_when,
    memory_ends_where_it_should,
    the_pool_keeps_what_its_threshold_says,
    fresh_memory_is_poison,
    a_wrong_write_is_told,
    what_is_no_image_is_refused,
    launches_are_checked_as_a_gpu_checks_them,
    pointers_must_point_to_live_memory,
    memory_released_too_early_is_told,
    a_failed_kernel_fails_everything_after_it,
    what_is_compiled_at_run_time_is_loaded,
];
