//! The models of `tests/golden/models`, and how far what is computed with them may be from what Python finds.

use std::path::{Path, PathBuf};

/// Sums in another order have errors of another size; what is computed wrongly is further off. The smallest
/// mistake that we know how to make, exchanging the epsilons 1e-5 and 1e-6 of a transformer's norms, gives
/// 8e-12 to 5e-9: ten to a thousand times PyTorch's error, but below the project's bound of 1e-9 in most
/// networks.
pub const SLACK: f64 = 4.0;
/// Rounding every element to f32 once is 1e-15 (a third of 2^-48), and thirty roundings follow one another in
/// the smallest of these networks: where PyTorch's error is below 3e-14, roundings happened to cancel.
pub const LEAST: f64 = 3e-14;

pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(name)
}

pub fn nmse(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f64| x * x;
    let error: f64 = found.iter().zip(expected).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    error / expected.iter().map(|&b| square(f64::from(b))).sum::<f64>()
}

/// A model folder of the tests: its own files and the tokenizer of the shipped model, under a new root.
pub fn assemble(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &Path| {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    };
    for entry in std::fs::read_dir(folder(name)).unwrap() {
        let path = entry.unwrap().path();
        let to = dir.path().join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &to) } else { std::fs::copy(&path, &to).map(drop).unwrap() }
    }
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/shapes/tokenizer");
    copy(&tokenizer, &dir.path().join("tokenizer"));
    if name.ends_with("xl") {
        copy(&tokenizer, &dir.path().join("tokenizer_2"));
    }
    dir
}
