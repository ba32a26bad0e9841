//! Compiles kernels/*.cu to one fatbin per file and element type where an nvcc is found, and embeds them;
//! without one the sources alone are embedded and NVRTC compiles them at first use. Never touches the
//! network.
//!
//! - `DAS_CUDA`: `auto` (default), `off` (sources only), `require` (no nvcc is an error);
//! - `NVCC`, `CUDA_HOME`, `CUDA_PATH`, `PATH`, `.cuda/` in the repository (`tools/get-nvcc`): where nvcc is
//!   looked for;
//! - `DAS_CUDA_ARCHS`: e.g. `80,90a,120+ptx80`; by default everything supported in a release build,
//!   `90a+ptx80` else.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

const ELEMENTS: [&str; 3] = ["bf16", "f16", "f32"];
/// Ampere, consumer Ampere, Ada, Hopper, Blackwell, consumer Blackwell; PTX for what comes after.
const RELEASE: &str = "80,86,89,90a,100,120+ptx80";
const DEBUG: &str = "90a+ptx80";
/// Where tools/get-nvcc puts it.
const HERE: &str = ".cuda/nvidia/cu13/bin/nvcc";

fn main() {
    for name in ["DAS_CUDA", "DAS_CUDA_ARCHS", "NVCC", "CUDA_HOME", "CUDA_PATH", "PATH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    // A path that is not there would count as changed at every build; tools/get-nvcc touches this file
    // instead.
    if Path::new(HERE).exists() {
        println!("cargo::rerun-if-changed={HERE}");
    }
    println!("cargo::rustc-env=DAS_CUDA_COMMIT={}", commit());
    // Without the backend there is nothing to compile.
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (sources, headers) = kernels();
    let nvcc = nvcc();
    let toolkit = nvcc.as_ref().and_then(|(_, version)| release(version)).unwrap_or_default();
    let images = match nvcc {
        Some((nvcc, version)) => match compile(&nvcc, &version, &sources, &headers, &out) {
            Ok(images) => images,
            Err(why) if required() => panic!("DAS_CUDA=require, and kernels do not compile:\n{why}"),
            Err(why) => {
                let words = "does not compile the kernels, so NVRTC will, on the GPU's machine";
                println!("cargo::warning={} {words} (DAS_CUDA=require makes this an error):", nvcc.display());
                why.lines().take(20).for_each(|line| println!("cargo::warning={line}"));
                Vec::new()
            }
        },
        None => Vec::new(),
    };
    let built = |value: &str| if images.is_empty() { String::new() } else { value.to_string() };
    println!("cargo::rustc-env=DAS_CUDA_BUILT_ARCHS={}", built(&architectures()));
    println!("cargo::rustc-env=DAS_CUDA_BUILT_TOOLKIT={}", built(&toolkit));
    let mut text = String::from("pub static IMAGES: &[(&str, &str, &[u8])] = &[\n");
    for image in &images {
        let (file, element, path) = (&image.file, image.element, &image.path);
        text += &format!("    ({file:?}, {element:?}, include_bytes!({path:?})),\n");
    }
    text += "];\npub static SOURCES: &[(&str, &str)] = &[\n";
    for path in sources.iter().chain(&headers) {
        let absolute = fs::canonicalize(path).expect("a kernel file");
        let name = path.file_name().expect("a file").to_string_lossy();
        text += &format!("    ({name:?}, include_str!({absolute:?})),\n");
    }
    text += "];\n";
    fs::write(out.join("images.rs"), text).expect("OUT_DIR is writable");
}

fn required() -> bool {
    env::var("DAS_CUDA").is_ok_and(|mode| mode == "require")
}

/// The `.cu` and the `.cuh` files, sorted.
fn kernels() -> (Vec<PathBuf>, Vec<PathBuf>) {
    let entries = fs::read_dir("kernels").expect("kernels/ is part of the source").flatten();
    let mut paths: Vec<PathBuf> = entries.map(|e| e.path()).collect();
    paths.sort();
    let with =
        |end: &str| paths.iter().filter(|p| p.extension().is_some_and(|e| e == end)).cloned().collect();
    (with("cu"), with("cuh"))
}

fn stem(path: &Path) -> String {
    path.file_stem().expect("a file").to_string_lossy().into_owned()
}

/// The compiler and what it says of itself.
fn nvcc() -> Option<(PathBuf, String)> {
    let mode = env::var("DAS_CUDA").unwrap_or_else(|_| "auto".into());
    match mode.as_str() {
        "off" => return None,
        "auto" | "require" => {}
        other => panic!("DAS_CUDA={other}: give auto, off or require"),
    }
    let named = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let mut candidates: Vec<PathBuf> = named("NVCC").into_iter().collect();
    candidates.extend(["CUDA_HOME", "CUDA_PATH"].iter().filter_map(|n| named(n)).map(|p| p.join("bin/nvcc")));
    candidates.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()).map(|p| p.join("nvcc")));
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    candidates.push(here.join(HERE));
    candidates.push("/usr/local/cuda/bin/nvcc".into());
    let version = |path: &PathBuf| {
        let answer = Command::new(path).arg("--version").output().ok()?;
        answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).into_owned())
    };
    let found = candidates.into_iter().filter(|p| p.is_file()).filter_map(|p| version(&p).map(|v| (p, v)));
    let (mut usable, old): (Vec<_>, Vec<_>) = found.partition(|(_, version)| is_recent(version));
    if usable.is_empty() {
        let old = old.first().map(|(path, _)| format!("{} is older than CUDA 12.8", path.display()));
        let why = old.clone().unwrap_or_else(|| "no nvcc is found".into());
        assert!(
            mode != "require",
            "DAS_CUDA=require, and {why}: run tools/get-nvcc, or set NVCC or CUDA_HOME"
        );
        // Who has no nvcc at all need not hear of it at every build.
        if let Some(why) = old {
            println!(
                "cargo::warning={why}, so NVRTC will compile the kernels on the GPU's machine; or run tools/get-nvcc"
            );
        }
        return None;
    }
    Some(usable.swap_remove(0))
}

/// The version in what a compiler says of itself, such as `13.0`.
fn release(version: &str) -> Option<String> {
    version.split("release ").nth(1).and_then(|rest| rest.split(',').next()).map(|r| r.trim().into())
}

/// What the kernels are compiled for.
fn architectures() -> String {
    let archs = env::var("DAS_CUDA_ARCHS").ok().filter(|archs| !archs.is_empty());
    archs.unwrap_or_else(|| if optimised() { RELEASE } else { DEBUG }.into())
}

fn optimised() -> bool {
    env::var("PROFILE").is_ok_and(|p| p == "release")
}

/// The commit that a release build is made of, with `+` where files have changed since; empty without git,
/// and in other builds, which would have to be made again at every commit.
fn commit() -> String {
    let git = |args: &[&str]| {
        let answer = Command::new("git").args(args).output().ok().filter(|a| a.status.success())?;
        Some(String::from_utf8_lossy(&answer.stdout).trim().to_string())
    };
    if !optimised() {
        return String::new();
    }
    let here = fs::canonicalize(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).ok();
    let top = git(&["rev-parse", "--show-toplevel"]).and_then(|top| fs::canonicalize(top).ok());
    if top.is_some() && top == here {
        // HEAD names a branch until a commit is checked out by itself; logs/HEAD grows with every change of
        // either.
        for name in ["HEAD", "logs/HEAD"] {
            if let Some(path) =
                git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists())
            {
                println!("cargo::rerun-if-changed={path}");
            }
        }
        let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
        let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_default();
        return if changed { format!("{commit}+") } else { commit };
    }
    // A package made by `cargo package` names its commit in a file.
    let packaged = fs::read_to_string(".cargo_vcs_info.json").unwrap_or_default();
    let sha = packaged.split("\"sha1\": \"").nth(1).and_then(|rest| rest.split('"').next());
    sha.unwrap_or_default().chars().take(12).collect()
}

/// Whether a compiler knows all architectures and flags: CUDA 12.8 or newer.
fn is_recent(version: &str) -> bool {
    let release = release(version);
    let number = |s: &str| s.trim().parse::<u32>().ok();
    let parts =
        release.as_deref().and_then(|r| r.split_once('.')).and_then(|(a, b)| Some((number(a)?, number(b)?)));
    parts.is_some_and(|parts| parts >= (12, 8))
}

struct Image {
    file: String,
    element: &'static str,
    source: PathBuf,
    path: PathBuf,
    key: String,
}

/// One fatbin per file and element; those whose sources, headers, flags and compiler are unchanged are kept.
fn compile(
    nvcc: &Path,
    version: &str,
    sources: &[PathBuf],
    headers: &[PathBuf],
    out: &Path,
) -> Result<Vec<Image>, String> {
    let flags = flags(&architectures());
    let mut base = DefaultHasher::new();
    (version, &flags).hash(&mut base);
    for header in headers {
        fs::read(header).expect("a header").hash(&mut base);
    }
    let mut images = Vec::new();
    for source in sources {
        for element in ELEMENTS {
            // Particles are f32 in every run.
            if ["particle", "points", "weigh", "resample"].contains(&stem(source).as_str())
                && element != "f32"
            {
                continue;
            }
            let mut hash = base.clone();
            (element, fs::read(source).expect("a kernel file")).hash(&mut hash);
            images.push(Image {
                file: stem(source),
                element,
                source: source.clone(),
                path: out.join(format!("{}-{element}.fatbin", stem(source))),
                key: format!("{:016x}", hash.finish()),
            });
        }
    }
    let stale = |i: &&Image| fs::read_to_string(i.path.with_extension("key")).ok().as_ref() != Some(&i.key);
    let todo = Mutex::new(images.iter().filter(stale).collect::<Vec<_>>());
    let errors = Mutex::new(Vec::new());
    let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1_usize);
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Some(image) = todo.lock().expect("no panics").pop() else { return };
                    if let Err(error) = compile_one(nvcc, &flags, image) {
                        errors.lock().expect("no panics").push(error);
                    }
                }
            });
        }
    });
    let errors = errors.into_inner().expect("no panics");
    if errors.is_empty() { Ok(images) } else { Err(errors.join("\n")) }
}

/// `90a,120+ptx80` as nvcc's options.
fn flags(archs: &str) -> Vec<String> {
    let fixed =
        ["-fatbin", "-O3", "-std=c++17", "-compress-mode=size", "-lineinfo", "-Werror", "all-warnings"];
    let mut flags: Vec<String> = fixed.map(String::from).into();
    let (real, virtual_) = archs.split_once("+ptx").map_or((archs, None), |(a, b)| (a, Some(b)));
    for arch in real.split(',').filter(|a| !a.is_empty()) {
        flags.push(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
    }
    flags.extend(virtual_.map(|arch| format!("-gencode=arch=compute_{arch},code=compute_{arch}")));
    flags
}

fn compile_one(nvcc: &Path, flags: &[String], image: &Image) -> Result<(), String> {
    let define = format!("-DACT_{}", image.element.to_uppercase());
    let mut command = Command::new(nvcc);
    command.args(flags).args([&define, "-Ikernels", "-o"]).arg(&image.path).arg(&image.source);
    let answer = command.output().map_err(|e| format!("{}: {e}", nvcc.display()))?;
    if !answer.status.success() {
        let said = [answer.stdout, answer.stderr].map(|s| String::from_utf8_lossy(&s).into_owned());
        return Err(format!("{} ({}):\n{}", image.source.display(), image.element, said.concat()));
    }
    fs::write(image.path.with_extension("key"), &image.key).map_err(|e| e.to_string())
}
