//! The table of rooms in `ARCHITECTURE.md`, held: who may import whom, and where `unsafe` may stand.

use std::fs;
use std::path::{Path, PathBuf};

/// Room (first path component under `src/`) and the rooms it may name as `crate::room`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("tensor", &[]),
    ("noise", &[]),
    ("pixels", &["error"]),
    ("ddim", &["error"]),
    ("smc", &["error"]),
    ("backend", &["error", "noise", "smc", "tensor"]),
    ("tape", &["error", "tensor", "backend"]),
    ("ops", &["error", "tensor", "backend", "tape"]),
    ("resize", &["backend"]),
    ("cpu", &["error", "tensor", "backend", "noise", "resize"]),
    ("cuda", &["error", "tensor", "backend", "noise", "smc", "resize"]),
    ("meter", &["error", "tensor", "backend", "noise"]),
    ("model", &["error", "tensor", "backend", "tape", "ops", "ddim"]),
    ("reward", &["error", "tensor", "backend", "tape", "ops", "model", "pixels"]),
    ("proposal", &["error", "smc"]),
    ("sampler", &["error", "tensor", "backend", "noise", "smc", "ddim", "proposal"]),
    ("target", &["error", "tensor", "backend", "tape", "ops", "ddim", "model", "reward", "sampler"]),
    ("run", &["error", "pixels", "tensor"]),
];

/// Rooms on top, which may use anything.
const TOP: &[&str] = &["lib", "main", "cli", "assets"];

/// Files that may contain `unsafe`, with the reason in `ARCHITECTURE.md`.
const UNSAFE: &[&str] = &[
    "model/checkpoint.rs",
    "cuda/cublaslt.rs",
    "cuda/device.rs",
    "cuda/kernels.rs",
    "cuda/module.rs",
    "cuda/nvtx.rs",
];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    assert!(paths.len() > 10, "found only {} source files", paths.len());
    paths
        .into_iter()
        .map(|p| {
            let text = fs::read_to_string(&p).expect("source is UTF-8");
            let name = p.strip_prefix(&root).expect("under src").to_string_lossy().replace('\\', "/");
            (name, text)
        })
        .collect()
}

/// The rooms named by the `crate::` paths of a file's code, tests left out.
fn imports(text: &str) -> Vec<String> {
    let code = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let mut rooms = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let word = |s: &str| -> String {
            s.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
        };
        match rest.strip_prefix('{') {
            Some(inner) => rooms.extend(inner.split('}').next().unwrap_or_default().split(',').map(word)),
            None => rooms.push(word(rest)),
        }
    }
    rooms.retain(|r| r.starts_with(|c: char| c.is_ascii_lowercase()));
    rooms
}

#[test]
fn imports_point_down_only() {
    let mut breaches = Vec::new();
    for (name, text) in files() {
        // A module of tests in a file of its own may use what its tests need.
        if name.ends_with("/tests.rs") {
            continue;
        }
        let room = name.split(['/', '.']).next().unwrap_or_default().to_string();
        let Some((_, allowed)) = MAY_USE.iter().find(|(r, _)| *r == room) else {
            assert!(
                TOP.contains(&room.as_str()),
                "src/{name}: the room `{room}` is in no table; add it to tests/tidy.rs and ARCHITECTURE.md"
            );
            continue;
        };
        for used in imports(&text) {
            if used != room && !allowed.contains(&used.as_str()) {
                breaches.push(format!("src/{name} uses crate::{used}"));
            }
        }
    }
    assert!(breaches.is_empty(), "imports against the table of ARCHITECTURE.md:\n{}", breaches.join("\n"));
}

#[test]
fn unsafe_stands_only_where_it_is_listed() {
    for (name, text) in files() {
        let mut code = text.lines().map(|l| l.split("//").next().unwrap_or_default());
        let found =
            code.any(|l| l.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe"));
        assert!(
            !found || UNSAFE.contains(&name.as_str()),
            "src/{name} contains unsafe code but is not in the list of tests/tidy.rs"
        );
    }
}

#[test]
fn the_import_reader_sees_what_it_should() {
    let text = "use crate::error::Result;\nuse crate::{tape::Tape, ops};\n// use crate::cpu\nfn f() { crate::smc::g() }";
    assert_eq!(imports(text), ["error", "tape", "ops", "smc"]);
}
