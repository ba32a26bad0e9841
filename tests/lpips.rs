//! LPIPS against the package of that name in float64 (tools/golden/perceptual.py).

#[path = "common/lpips.rs"]
mod weights;

use std::fs;

use das_cuda::backend::Backend;
use das_cuda::cpu::Cpu;
use das_cuda::model::lpips::{Lpips, Range};
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use serde_json::Value;
use tempfile::TempDir;
use weights::{Layout, hashed};

/// A picture of blocks of 16 x 16 pixels, `(1, h, w, 3)` of bytes over 255.
fn picture(cpu: &Cpu, number: u64, w: usize, h: usize) -> Tensor {
    let (rows, columns) = (h.div_ceil(16), w.div_ceil(16));
    let blocks: Vec<f64> =
        hashed(100 + number, rows * columns * 3).map(|u| (u * 256.0).floor() / 255.0).collect();
    let at = |i: usize| blocks[((i / 3 / w / 16) * columns + i / 3 % w / 16) * 3 + i % 3] as f32;
    let pixels: Vec<f32> = (0..h * w * 3).map(at).collect();
    cpu.upload(Shape::new(1, h, w, 3), HostSlice::F32(&pixels)).expect("a picture")
}

/// Both ranges, both layouts of the files, pictures of the network's size and others. An activation is a sum
/// of at most 3456 products of size 1, of which the rounding of f32 adds up to 3456^(1/2) x 6e-8 = 4e-6, and
/// five layers pass it on; distances square differences of a unit. Measured: 1.2e-7.
#[test]
fn distances_are_those_of_the_package() {
    let cpu = Cpu::new();
    let golden: Value =
        serde_json::from_slice(&fs::read("tests/golden/lpips.json").expect("goldens")).expect("JSON");
    let size = |size: &Value, i: usize| size[i].as_u64().expect("a size") as usize;
    let sizes = golden["sizes"].as_array().expect("sizes");
    let pictures: Vec<Tensor> =
        (0..).zip(sizes).map(|(number, s)| picture(&cpu, number, size(s, 0), size(s, 1))).collect();
    let mut worst = 0.0_f64;
    for (layout, range, column) in
        [(Layout::Two, Range::Signed, 2), (Layout::One, Range::Signed, 2), (Layout::Two, Range::Unit, 3)]
    {
        let dir = TempDir::new().expect("a temporary folder");
        let [network, linear] = weights::write(dir.path(), layout);
        let lpips = Lpips::open(&cpu, &network, &linear, range).expect("a network");
        let vectors: Vec<Vec<f32>> = pictures
            .iter()
            .map(|picture| lpips.vectors(&cpu, picture).expect("vectors").swap_remove(0))
            .collect();
        let pairs = golden["pairs"].as_array().expect("pairs");
        assert_eq!(pairs.len(), 6);
        for pair in pairs {
            let [a, b] = [0, 1].map(|i| &vectors[pair[i].as_u64().expect("a place") as usize]);
            let found: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
            let exact = pair[column].as_f64().expect("a distance");
            worst = worst.max((found - exact).abs() / exact);
        }
    }
    println!("lpips: {worst:e}");
    assert!(worst < 2e-5, "{worst}");
}

#[test]
fn files_that_are_not_those_of_lpips_are_refused() {
    let (cpu, dir) = (Cpu::new(), TempDir::new().expect("a temporary folder"));
    let [network, linear] = weights::write(dir.path(), Layout::Two);
    let said = |network, linear| match Lpips::open(&cpu, network, linear, Range::Signed) {
        Ok(_) => panic!("opened"),
        Err(e) => e.to_string(),
    };
    let swapped = said(&linear, &network);
    assert!(swapped.contains("alex.safetensors") && swapped.contains("0.weight"), "{swapped}");
    let twice = said(&network, &network);
    assert!(twice.contains("alexnet.safetensors") && twice.contains("lin0.model.1.weight"), "{twice}");
    let absent = said(&dir.path().join("nowhere"), &linear);
    assert!(absent.contains("nowhere"), "{absent}");
}
