//! Compiles the kernels, once for each element type, with the emulator and the stand-in libraries. What did
//! not change is not compiled again. A kernel file that does not compile is left out and its errors are kept
//! for whoever asks for one of its kernels; without a C++ compiler there is no library and the reason is
//! kept.

use std::collections::hash_map::DefaultHasher;
use std::ffi::OsStr;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs, thread};

const FLAGS: &[&str] = &[
    "-std=c++17",
    "-O2",
    "-g1",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
    // f32 means f32: no sum may keep the bits of its product.
    "-ffp-contract=off",
];

/// `DAS_EMULATOR_SANITIZE=asan|tsan` (see `.ci/sanitize`): flags for kernels, for what runs them, and for the
/// link. The scheduler itself is not instrumented for threads: it tells ThreadSanitizer which kernel thread
/// runs.
fn sanitizer() -> [&'static [&'static str]; 3] {
    const ASAN: &[&str] = &["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"];
    const TSAN: &[&str] = &["-O1", "-fsanitize=thread"];
    match env::var("DAS_EMULATOR_SANITIZE").as_deref() {
        Ok("asan") => [ASAN, ASAN, ASAN],
        Ok("tsan") => [TSAN, &["-DEMULATOR_TSAN=1"], TSAN],
        _ => [&[], &[], &[]],
    }
}

/// One object file: the source the compiler gets, what else it depends on, and its own flags.
struct Unit {
    name: String,
    source: PathBuf,
    kernels: Option<PathBuf>,
    flags: Vec<String>,
}

fn main() {
    for watched in ["../../kernels", "cpp", "planted.cu", "operations.cu", "build.rs"] {
        println!("cargo::rerun-if-changed={watched}");
    }
    println!("cargo::rerun-if-env-changed=DAS_EMULATOR_SANITIZE");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let libraries = out.join("libraries");
    fs::create_dir_all(&libraries).expect("OUT_DIR is writable");
    let (mut reason, mut broken) = (String::new(), String::new());
    match compiler() {
        Ok(cxx) => match build(&cxx, &out, &libraries) {
            Ok(failures) => broken = failures,
            Err(why) => reason = why,
        },
        Err(why) => reason = why,
    }
    for text in [&reason, &broken] {
        if let Some(line) = text.lines().next() {
            println!("cargo::warning=emulator: {line}");
        }
    }
    fs::write(out.join("unavailable"), reason).expect("OUT_DIR is writable");
    fs::write(out.join("broken"), broken).expect("OUT_DIR is writable");
}

/// The C++ compiler with what the target and `CXXFLAGS` ask for.
fn compiler() -> Result<cc::Tool, String> {
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return Err("the emulator is for Linux".into());
    }
    let tool = cc::Build::new()
        .cpp(true)
        .cargo_metadata(false)
        .warnings(false)
        .opt_level(2)
        .try_get_compiler()
        .map_err(|e| format!("no C++ compiler: {e}"))?;
    match tool.to_command().arg("--version").output() {
        Ok(o) if o.status.success() => Ok(tool),
        _ => Err(format!("the C++ compiler {} does not run", tool.path().display())),
    }
}

fn files(dir: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().and_then(OsStr::to_str).is_some_and(|e| extensions.contains(&e)))
        .collect();
    found.sort();
    found
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn units() -> Vec<Unit> {
    let mut units = Vec::new();
    for source in files("cpp", &["cpp"]) {
        if stem(&source) != "unit" {
            units.push(Unit { name: stem(&source), source, kernels: None, flags: Vec::new() });
        }
    }
    let ours = files(".", &["cu"]);
    for file in files("../../kernels", &["cu"]).iter().chain(&ours) {
        let name = stem(file);
        // Particles are f32 in every image: their kernels exist once. What touches memory and waits is the
        // same text in both 16-bit types, so a sanitizer looks at one.
        let particles = ["particle", "points", "weigh", "resample"].contains(&name.as_str());
        let types: &[&str] = match () {
            () if particles => &["F32"],
            () if sanitizer()[0].is_empty() || ours.contains(file) => &["BF16", "F16", "F32"],
            () => &["BF16", "F32"],
        };
        for act in types {
            units.push(Unit {
                name: format!("{name}-{}", act.to_lowercase()),
                source: "cpp/unit.cpp".into(),
                kernels: Some(file.clone()),
                flags: vec![format!("-DACT_{act}"), format!("-DEMULATED=\"{name}.cu\"")],
            });
        }
    }
    units
}

/// Compiles and links; the text is what kernel files failed with.
fn build(cxx: &cc::Tool, out: &Path, libraries: &Path) -> Result<String, String> {
    let mut base = DefaultHasher::new();
    (cxx.path(), cxx.args(), FLAGS, sanitizer()).hash(&mut base);
    for header in files("cpp", &["h"]).iter().chain(&files("../../kernels", &["cuh"])) {
        fs::read(header).unwrap_or_default().hash(&mut base);
    }
    let units = units();
    let jobs = Mutex::new(units.iter());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let count = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
        for _ in 0..units.len().min(count) {
            scope.spawn(|| {
                loop {
                    let Some(unit) = jobs.lock().expect("no job panics").next() else { break };
                    let object = object(cxx, unit, base.clone(), out);
                    done.lock().expect("no job panics").push((unit, object));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no job panics");
    done.sort_by(|a, b| a.0.name.cmp(&b.0.name));
    let (mut broken, mut cuda, mut nvrtc, mut cublaslt) = (String::new(), Vec::new(), Vec::new(), Vec::new());
    for (unit, object) in done {
        match object {
            Ok(object) if unit.name == "nvrtc" => nvrtc.push(object),
            Ok(object) if unit.name == "cublaslt" => cublaslt.push(object),
            Ok(object) => cuda.push(object),
            Err(e) if unit.kernels.is_some() => broken += &format!("{} does not compile:\n{e}\n", unit.name),
            Err(e) => return Err(format!("{} does not compile:\n{e}", unit.name)),
        }
    }
    link(cxx, &cuda, &libraries.join("libcuda.so"))?;
    link(cxx, &nvrtc, &libraries.join("libnvrtc.so"))?;
    // It puts its work on the driver's streams.
    cublaslt.push(libraries.join("libcuda.so"));
    link(cxx, &cublaslt, &libraries.join("libcublasLt.so"))?;
    Ok(broken)
}

/// The object of a unit, compiled unless one of the same content is there.
fn object(cxx: &cc::Tool, unit: &Unit, mut key: DefaultHasher, out: &Path) -> Result<PathBuf, String> {
    unit.flags.hash(&mut key);
    for file in [Some(&unit.source), unit.kernels.as_ref()].into_iter().flatten() {
        fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?.hash(&mut key);
    }
    let object = out.join(format!("{}.{:016x}.o", unit.name, key.finish()));
    if object.is_file() {
        return Ok(object);
    }
    for old in fs::read_dir(out).into_iter().flatten().flatten() {
        if old.file_name().to_string_lossy().starts_with(&format!("{}.", unit.name)) {
            let _ = fs::remove_file(old.path());
        }
    }
    let partial = object.with_extension("partial");
    let mut command = cxx.to_command();
    command.args(FLAGS).args(["-Icpp", "-I../../kernels", "-I."]).args(&unit.flags);
    command.args(sanitizer()[usize::from(unit.kernels.is_none())]);
    command.arg("-c").arg(&unit.source).arg("-o").arg(&partial);
    run(&mut command)?;
    fs::rename(&partial, &object).map_err(|e| e.to_string())?;
    Ok(object)
}

fn link(cxx: &cc::Tool, objects: &[PathBuf], library: &Path) -> Result<(), String> {
    let listed = objects.iter().map(|o| format!("{}\n", o.display())).collect::<String>();
    let record = library.with_extension("objects");
    if library.is_file() && fs::read_to_string(&record).is_ok_and(|r| r == listed) {
        return Ok(());
    }
    let name = library.file_name().unwrap_or_default().to_string_lossy();
    let partial = library.with_extension("partial");
    let mut command = cxx.to_command();
    // Sanitizers leave their symbols to the process.
    let whole = if sanitizer()[2].is_empty() { "-Wl,-z,defs" } else { "-Wl,--as-needed" };
    command.args(["-shared", "-pthread", whole]).arg(format!("-Wl,-soname,{name}"));
    command.args(sanitizer()[2]);
    run(command.args(objects).arg("-o").arg(&partial))?;
    // Replaced in one step: a test that runs keeps the file it has open.
    fs::rename(&partial, library).map_err(|e| e.to_string())?;
    fs::write(record, listed).map_err(|e| e.to_string())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("{}: {e}", command.get_program().to_string_lossy()))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(text.into_owned()) }
}
