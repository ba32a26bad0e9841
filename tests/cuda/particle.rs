//! Moving particles: noise and states are bit for bit those of the CPU, log ratios and lengths to the last
//! digits of f64.

use das_cuda::backend::{Advance, Backend, ParticleId, Particles};
use das_cuda::cpu::Cpu;
use das_cuda::cuda::{Cuda, Elem};
use das_cuda::noise::{Key, Purpose, fill_normals, uniforms};
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use half::{bf16, f16};

use crate::device;
use crate::note;

/// Elements of a particle that hit every path: less than a quadruple, groups of fewer threads than a warp, of
/// several warps, exactly one chunk, several chunks, with and without whole quadruples; and the size of
/// Stable Diffusion.
const SAMPLES: [usize; 16] = [1, 2, 3, 4, 5, 63, 127, 128, 129, 516, 1000, 1024, 1025, 2050, 4100, 16384];

fn ids(n: usize) -> Vec<ParticleId> {
    (0..n as u32).map(|i| ParticleId { prompt: (1 << 28) - 1 - i / 3, particle: 7 * i }).collect()
}

fn shape(n: usize, sample: usize) -> Shape {
    if sample.is_multiple_of(4) { Shape::new(n, 1, sample / 4, 4) } else { Shape::new(n, sample, 1, 1) }
}

fn noise(stream: u32, len: usize) -> Vec<f32> {
    let mut x = vec![0.0; len];
    fill_normals(
        &Key { seed: 9, prompt: 0, particle: stream, step: len as u32, purpose: Purpose::Data },
        &mut x,
    );
    x
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn noise_is_bit_for_bit_that_of_the_cpu() {
    let cuda = device::open(Elem::F32);
    let cpu = Cpu::new();
    for (i, sample) in SAMPLES.into_iter().enumerate() {
        let n = [1, 5, 9, 2][i % 4];
        let (seed, step) = (0x0123_4567_89AB_CDEF_u64.rotate_left(i as u32), 1000 - i as u32);
        let purpose = [Purpose::Initial, Purpose::Move, Purpose::Encode][i % 3];
        let run = |backend: &dyn Backend| {
            let z = backend.normals(shape(n, sample), seed, step, purpose, &ids(n)).unwrap();
            bits(&backend.download(&z).unwrap())
        };
        assert!(run(&cuda) == run(&cpu), "{n} particles of {sample} elements");
    }
}

/// One move on a backend.
#[derive(Clone, Copy)]
struct Move<'a> {
    shape: Shape,
    state: [&'a [f32]; 3],
    grad: bool,
    ancestors: &'a [u32],
    strength: &'a [f32],
    advance: Advance<'a>,
}

impl Move<'_> {
    fn run(self, backend: &dyn Backend) -> (Vec<u32>, Vec<f64>) {
        let up = |x: &[f32]| backend.upload(self.shape, HostSlice::F32(x)).unwrap();
        let [x0, eps, grad] = self.state.map(up);
        let particles = Particles { x0: &x0, eps: &eps, grad: self.grad.then_some(&grad) };
        let (y, ratio) = backend.advance(particles, self.ancestors, self.strength, self.advance).unwrap();
        assert_eq!(y.shape(), self.shape.with_n(self.ancestors.len()));
        (bits(&backend.download(&y).unwrap()), ratio)
    }

    /// The log ratio is a sum of two terms, each of `sample` products of f64: the error of either order of
    /// summation is below `sample` roundings of what is added up.
    fn compare(self, cuda: &Cuda, what: &str) -> f64 {
        let ((y, ratio), (y_cpu, ratio_cpu)) = (self.run(cuda), self.run(&Cpu::new()));
        assert!(y == y_cpu, "{what}: the states differ");
        let again = self.run(cuda);
        assert!(again.0 == y && again.1 == ratio, "{what}: the same launch twice");
        let sample = self.shape.len() / self.shape.n;
        let mut worst = 0.0_f64;
        for (slot, (a, b)) in ratio.iter().zip(&ratio_cpu).enumerate() {
            if !self.grad || self.advance.variance == 0.0 {
                assert_eq!((*a, *b), (0.0, 0.0), "{what}");
                continue;
            }
            let g = &self.state[2][self.ancestors[slot] as usize * sample..][..sample];
            let (kappa, v) = (f64::from(self.advance.kappa), f64::from(self.advance.variance));
            let s = f64::from(self.strength[slot]);
            let gg: f64 = g.iter().map(|&g| f64::from(g).powi(2)).sum();
            // |<g, z>| summed up is at most |g| |z|, and |z| about sqrt(sample).
            let size =
                (kappa * s).powi(2) * v * gg + (kappa * s).abs() * v.sqrt() * (gg * sample as f64).sqrt();
            worst = worst.max((a - b).abs() / size);
        }
        assert!(worst <= f64::EPSILON * (sample as f64 + 8.0), "{what}: log ratios differ by {worst:e}");
        worst
    }
}

/// Measured: states equal, log ratios within 8e-17 of their terms' size.
fn moves_are_bit_for_bit_those_of_the_cpu() {
    let cuda = device::open(Elem::F32);
    let mut worst = 0.0_f64;
    for (i, sample) in SAMPLES.into_iter().enumerate() {
        let (n, slots) = ([3, 5][i % 2], [4, 2, 9][i % 3]);
        let state = [0, 1, 2].map(|k| noise(k, n * sample));
        let ancestors: Vec<u32> = (0..slots).map(|s| ((s * s + i) % n) as u32).collect();
        let strength: Vec<f32> = (0..slots).map(|s| 0.5 * s as f32 - 0.7).collect();
        for (grad, variance, kappa) in
            [(true, 0.11, 1.0), (true, 3e-4, 0.25), (false, 0.11, 1.0), (true, 0.0, 1.0)]
        {
            let advance = Advance {
                mean_x0: 0.93,
                mean_eps: -0.41,
                variance,
                kappa,
                seed: u64::MAX - i as u64,
                step: i as u32,
                purpose: Purpose::Move,
                ids: &ids(slots),
            };
            let state = [&state[0][..], &state[1], &state[2]];
            let strength = &strength[..];
            let one = Move { shape: shape(n, sample), state, grad, ancestors: &ancestors, strength, advance };
            worst = worst.max(one.compare(&cuda, &format!("{sample} elements, grad {grad}, v {variance}")));
        }
    }
    note!("log ratios within {worst:.1e} of the size of their terms");
}

/// States of whole packets are in 16 bits; particles stay f32.
fn states_in_16_bits_are_widened() {
    for elem in [Elem::F16, Elem::Bf16] {
        let cuda = device::open(elem);
        let round = |x: f32| match elem {
            Elem::F16 => f16::from_f32(x).to_f32(),
            _ => bf16::from_f32(x).to_f32(),
        };
        let shape = Shape::new(3, 2, 5, 8);
        let state = [0, 1, 2].map(|k| noise(k, shape.len()).into_iter().map(round).collect::<Vec<f32>>());
        let advance = Advance {
            mean_x0: 0.5,
            mean_eps: 0.25,
            variance: 0.04,
            kappa: 1.0,
            seed: 3,
            step: 1,
            purpose: Purpose::Move,
            ids: &ids(3),
        };
        let one = Move {
            shape,
            state: [&state[0], &state[1], &state[2]],
            grad: true,
            ancestors: &[2, 2, 0],
            strength: &[1.0, 2.0, 3.0],
            advance,
        };
        one.compare(&cuda, elem.name());
        let up = |backend: &dyn Backend| backend.upload(shape, HostSlice::F32(&state[0])).unwrap();
        lengths(&cuda, &up(&cuda), &up(&Cpu::new()));
    }
}

fn what_is_not_finite_stays_with_its_particle() {
    let cuda = device::open(Elem::F32);
    let (n, sample) = (3, 2050);
    let shape = shape(n, sample);
    let mut grad = noise(2, shape.len());
    (grad[sample], grad[2 * sample + 2049]) = (f32::NAN, f32::INFINITY);
    let ids = ids(n);
    let run = |backend: &dyn Backend| {
        let up = |x: &[f32]| backend.upload(shape, HostSlice::F32(x)).unwrap();
        let (x0, eps, grad) = (up(&noise(0, shape.len())), up(&noise(1, shape.len())), up(&grad));
        let advance = Advance {
            mean_x0: 1.0,
            mean_eps: 1.0,
            variance: 0.5,
            kappa: 1.0,
            seed: 1,
            step: 2,
            purpose: Purpose::Move,
            ids: &ids,
        };
        let particles = Particles { x0: &x0, eps: &eps, grad: Some(&grad) };
        let (y, ratio) = backend.advance(particles, &[0, 1, 2], &[1.0; 3], advance).unwrap();
        let y = backend.download(&y).unwrap();
        let lost: Vec<usize> = (0..y.len()).filter(|&i| !y[i].is_finite()).collect();
        (lost, ratio.iter().map(|r| r.is_finite()).collect::<Vec<_>>(), backend.squared_norms(&grad).unwrap())
    };
    let (lost, finite, norms) = run(&cuda);
    assert_eq!((lost, finite), (vec![sample, 3 * sample - 1], vec![true, false, false]));
    assert!(norms[0].is_finite() && norms[1].is_nan() && norms[2] == f64::INFINITY);
}

/// Sums of squares in f64 differ by their order only: at most one rounding per term.
fn lengths(cuda: &Cuda, x: &Tensor, x_cpu: &Tensor) {
    let (a, b) = (cuda.squared_norms(x).unwrap(), Cpu::new().squared_norms(x_cpu).unwrap());
    assert_eq!(a.len(), b.len());
    let sample = x.shape().len() / x.shape().n;
    for (a, b) in a.iter().zip(&b) {
        assert!((a - b).abs() <= f64::EPSILON * sample as f64 * b, "{sample} elements: {a} and {b}");
    }
    assert_eq!(a, cuda.squared_norms(x).unwrap(), "the same launch twice");
}

fn squared_lengths_are_those_of_the_cpu() {
    let cuda = device::open(Elem::F32);
    for (i, sample) in SAMPLES.into_iter().enumerate() {
        let shape = shape([1, 3, 300][i % 3].min(1 + (1 << 18) / sample), sample);
        let x = noise(i as u32, shape.len());
        let up = |backend: &dyn Backend| backend.upload(shape, HostSlice::F32(&x)).unwrap();
        lengths(&cuda, &up(&cuda), &up(&Cpu::new()));
    }
}

/// Many particles of few elements share blocks of threads.
fn thousands_of_small_particles_move_like_a_few() {
    let cuda = device::open(Elem::F32);
    let (n, sample) = (5000, 2);
    let state = [0, 1, 2].map(|k| noise(k, n * sample));
    let mut u = uniforms(Key { seed: 4, prompt: 0, particle: 0, step: 0, purpose: Purpose::Data });
    let ancestors: Vec<u32> = (0..n).map(|_| (u.draw() * n as f64) as u32).collect();
    let advance = Advance {
        mean_x0: 0.9,
        mean_eps: 0.1,
        variance: 0.2,
        kappa: 1.0,
        seed: 5,
        step: 6,
        purpose: Purpose::Move,
        ids: &ids(n),
    };
    let state = [&state[0][..], &state[1], &state[2]];
    let strength = vec![0.3; n];
    let one = Move {
        shape: shape(n, sample),
        state,
        grad: true,
        ancestors: &ancestors,
        strength: &strength,
        advance,
    };
    one.compare(&cuda, "5000 particles of 2 elements");
}

/// The score passes bit for bit, or is NaN: infinite and undefined elements anywhere in a sample, in f32 and
/// in 16 bits.
fn scores_pass_where_everything_is_finite() {
    let cpu = Cpu::new();
    for elem in device::elems() {
        let cuda = device::open(elem);
        for sample in [1, 3, 24, 1025, 4096] {
            let (n, last) = (5, sample - 1);
            let mut x = noise(3, n * sample);
            x[sample] = f32::NAN;
            x[2 * sample + last] = f32::INFINITY;
            x[3 * sample + sample / 2] = f32::NEG_INFINITY;
            let score = [-0.0, 1.0, 2.0, 3.0, f32::MIN_POSITIVE];
            let run = |backend: &dyn Backend| {
                let score = backend.upload(Shape::rows(n, 1), HostSlice::F32(&score)).unwrap();
                let by = backend.upload(Shape::rows(n, sample), HostSlice::F32(&x)).unwrap();
                bits(&backend.download(&backend.where_finite(&score, &by).unwrap()).unwrap())
            };
            let nan = f32::NAN;
            assert_eq!(
                run(&cuda),
                bits(&[-0.0, nan, nan, nan, f32::MIN_POSITIVE]),
                "{elem:?}, {sample} elements"
            );
            assert_eq!(run(&cpu), run(&cuda), "{elem:?}, {sample} elements");
        }
    }
}

crate::tests![
    noise_is_bit_for_bit_that_of_the_cpu,
    moves_are_bit_for_bit_those_of_the_cpu,
    states_in_16_bits_are_widened,
    what_is_not_finite_stays_with_its_particle,
    squared_lengths_are_those_of_the_cpu,
    thousands_of_small_particles_move_like_a_few,
    scores_pass_where_everything_is_finite,
];
