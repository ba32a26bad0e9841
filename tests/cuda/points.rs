//! A small score network at many points in one pass, and a toy sampled with it.

use das_cuda::backend::{Backend, PointStep, Quadratic};
use das_cuda::cpu::Cpu;
use das_cuda::cuda::Elem;
use das_cuda::engine::EngineBackend;
use das_cuda::method::Das;
use das_cuda::mlp::Mlp;
use das_cuda::sampler::{Options, Sampler};
use das_cuda::tensor::{HostSlice, Shape};
use das_cuda::toy::{Network, Toy, Trained, chain, training_alpha_bars};

use crate::parity::error;
use crate::{device, note};

/// Noise, clean points, rewards and gradients.
fn values(backend: &dyn Backend, network: &Network, points: &[f32], step: &PointStep) -> Vec<Vec<f32>> {
    let d = network.0.widths[3];
    let x = backend.upload(Shape::rows(points.len() / d, d), HostSlice::F32(points)).unwrap();
    let seen = backend.evaluate_points(&x, &network.place(backend).unwrap(), step).unwrap();
    assert_eq!(seen.grad.is_some(), step.gradient);
    let parts = [Some(&seen.eps), Some(&seen.x0), Some(&seen.reward), seen.grad.as_ref()];
    parts.into_iter().flatten().map(|part| backend.download(part).unwrap()).collect()
}

fn points(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.7).sin() * if i % 31 == 0 { 1e3 } else { 3.0 }).collect()
}

fn step(weight: &[f64], gradient: bool) -> PointStep {
    let reward = Quadratic { centre: [0.25, -1.0, 0.0], ..Quadratic::new(weight) };
    PointStep { time: 0.4, x0: [1.25, -0.75], reward, gradient }
}

/// Points of as many coordinates as `weight` has numbers, against the CPU: the worst relative error.
///
/// In f32 a hidden number is a sum of 64 terms: of the order of sqrt(64) roundings of 6e-8. Measured: 0 on a
/// processor with fused multiply-adds, whose sums are the kernel's.
pub fn compare(gpu: &dyn Backend, weight: &[f64], n: usize, gradient: bool) -> f64 {
    let d = weight.len();
    let (network, points, step) = (Network::new(d, 5), points(n * d), step(weight, gradient));
    let found = values(gpu, &network, &points, &step);
    let truth = values(&Cpu::new(), &network, &points, &step);
    assert_eq!(found.len(), truth.len());
    let errors: Vec<f64> = found.iter().zip(&truth).map(|(found, truth)| error(found, truth)).collect();
    assert!(errors.iter().all(|e| *e < 1e-6), "{n} points of {d} coordinates: {errors:?}");
    errors.into_iter().fold(0.0, f64::max)
}

fn one_pass_agrees_with_the_cpu() {
    let (gpu, mut worst) = (device::open(Elem::F32), 0.0_f64);
    for weight in [&[0.5][..], &[0.01, 1.0], &[0.01, 0.01, 1.0]] {
        for n in [1, 255, 256, 257, 900] {
            for gradient in [false, true] {
                worst = worst.max(compare(&gpu, weight, n, gradient));
            }
        }
    }
    note!("worst relative error {worst:.1e}");
}

/// A point that is none spoils no other.
fn what_is_not_finite_stays_with_its_point() {
    let (gpu, network, step) = (device::open(Elem::F32), Network::new(2, 5), step(&[0.01, 1.0], true));
    let mut x = points(600);
    let clean = values(&gpu, &network, &x, &step);
    (x[6], x[401]) = (f32::NAN, f32::INFINITY);
    let found = values(&gpu, &network, &x, &step);
    for (found, clean) in found.iter().zip(&clean) {
        let width = found.len() / 300;
        for i in (0..300).filter(|i| ![3, 200].contains(i)) {
            assert_eq!(found[i * width..][..width], clean[i * width..][..width], "point {i}");
        }
    }
    assert!(found[0][6].is_nan() && found[1][6].is_nan());
}

/// Networks of another width, and weights in 16 bits, are run by operations.
fn other_networks_run_too() {
    let (cpu, points, step) = (Cpu::new(), points(500), step(&[0.01, 1.0], true));
    let narrow = Network(Mlp::new(&[3, 24, 24, 2], 5, 0));
    for (elem, network, allowed) in
        [(Elem::F32, &narrow, 1e-6), (Elem::Bf16, &narrow, 2e-2), (Elem::Bf16, &Network::new(2, 5), 2e-2)]
    {
        let found = values(&device::open(elem), network, &points, &step);
        let truth = values(&cpu, network, &points, &step);
        let errors: Vec<f64> = found.iter().zip(&truth).map(|(f, t)| error(f, t)).collect();
        // The gradient of bf16 switches units on and off: it is not compared.
        let compared = if elem == Elem::F32 { 4 } else { 3 };
        note!("{elem:?}: {errors:?}");
        assert!(errors[..compared].iter().all(|e| *e < allowed), "{elem:?}: {errors:?}");
    }
}

/// A toy from its first step to its last: network, weights, resampling and moves on the device, against the
/// CPU. Rounding alone parts them; populations that choose differently would part by about 0.1.
fn a_toy_is_sampled_as_on_the_cpu() {
    let (toy, schedule, mut network) = (Toy::gmm1(), chain().unwrap(), Network::new(2, 9));
    let data = toy.learned(9, 500);
    network.train(&Cpu::new(), &data, &training_alpha_bars(), 9, 200, |_, _| Ok(())).unwrap();
    let run = |backend: &dyn EngineBackend| {
        let target = Trained::new(backend, &toy, &network).unwrap();
        let steps = schedule.len();
        let options = Options { prompts: vec![0, 1], particles: 24, ..Options::new(3, steps) };
        let sampler = Sampler::new(backend, &target, &schedule, options.by_method(&Das, steps)).unwrap();
        let ends = sampler.run().unwrap();
        let all: Vec<f32> = ends.iter().flat_map(|end| backend.download(&end.x).unwrap()).collect();
        (all, ends.iter().map(|end| end.log_z).collect::<Vec<f64>>())
    };
    let ((found, found_z), (truth, truth_z)) = (run(&device::open(Elem::F32)), run(&Cpu::new()));
    let error = error(&found, &truth);
    note!("final points {error:.1e} apart, log Z {found_z:?} and {truth_z:?}");
    assert!(error < 1e-3, "{error}");
    assert!(
        found_z.iter().zip(&truth_z).all(|(a, b)| (a - b).abs() < 1e-3 * b.abs()),
        "{found_z:?} {truth_z:?}"
    );
}

crate::tests![
    one_pass_agrees_with_the_cpu,
    what_is_not_finite_stays_with_its_point,
    other_networks_run_too,
    a_toy_is_sampled_as_on_the_cpu,
];
