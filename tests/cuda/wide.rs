//! The sum over the layers of a transformer stays f32 where everything else is of 16 bits: on the GPU, on the
//! CPU that rounds as a GPU does, and in the meter's count of bytes.

use das_cuda::backend::{Activation, Backend, Epilogue};
use das_cuda::cpu::{Cpu, Round};
use das_cuda::cuda::Elem;
use das_cuda::meter::Meter;
use das_cuda::tape::{Tape, Var};
use das_cuda::tensor::{HostSlice, Shape, Tensor};

use crate::{device, parity};

const TOKENS: Shape = Shape::new(2, 1, 5, 16);
/// Less than 16 bits resolve beside one.
const SMALL: f32 = 1.0 / 8192.0;

fn pattern(len: usize, scale: f32) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * scale).collect()
}

fn upload(backend: &dyn Backend, shape: Shape, data: &[f32]) -> Tensor {
    backend.upload(shape, HostSlice::F32(data)).unwrap()
}

/// One and a little more, whose sum 16 bits do not hold: as tokens and positions.
fn embedded(tape: &Tape<'_>) -> Var {
    let backend = tape.backend();
    let ones = upload(backend, TOKENS, &vec![1.0; TOKENS.len()]);
    let positions = TOKENS.with_n(1);
    tape.embed(&ones.into(), None, &upload(backend, positions, &vec![SMALL; positions.len()])).unwrap()
}

/// What is read of a sum that is kept in f32, after each way that models let it take.
fn ways(backend: &dyn Backend) -> Vec<(&'static str, Vec<f32>)> {
    let tape = Tape::off(backend);
    let x = embedded(&tape);
    let c = TOKENS.c;
    let nothing = upload(backend, Shape::rows(c, c), &vec![0.0; c * c]);
    let sum = tape.linear(&x, &nothing, None, Some(&x)).unwrap();
    let token = tape.take_token(&x, &[0, 3]).unwrap();
    let rows = backend.gather(x.value(), &[1, 0, 1]).unwrap();
    let part = backend.slice(x.value(), 8, 8).unwrap();
    let both = backend.stack(&[x.value(), sum.value()]).unwrap();
    let twice = tape.axpby(0.5, &x, 0.5, &sum).unwrap();
    let named = [("embed", x.value()), ("linear with an addend", sum.value()), ("take_token", token.value())];
    let also = [("gather", &rows), ("slice", &part), ("stack", &both), ("axpby", twice.value())];
    named.into_iter().chain(also).map(|(name, x)| (name, backend.download(x).unwrap())).collect()
}

fn sums_over_layers_are_not_rounded() {
    for elem in device::elems() {
        let round = match elem {
            Elem::Bf16 => Some(Round::Bf16),
            Elem::F16 => Some(Round::F16),
            _ => None,
        };
        let (cpu, cuda) = (Cpu::with_rounding(round), device::open(elem));
        for backend in [&cpu as &dyn Backend, &cuda] {
            for (way, found) in ways(backend) {
                assert!(!found.is_empty());
                assert!(found.iter().all(|&x| x == 1.0 + SMALL), "{} {way}: {found:?}", backend.name());
            }
            // What a product makes is rounded, also where what it reads is not.
            let x = embedded(&Tape::off(backend));
            let unit = |i: usize| f32::from(u8::from(i.is_multiple_of(TOKENS.c + 1)));
            let identity: Vec<f32> = (0..TOKENS.c * TOKENS.c).map(unit).collect();
            let identity = upload(backend, Shape::rows(TOKENS.c, TOKENS.c), &identity);
            let y = backend.download(&backend.linear(x.value(), &identity, None, None).unwrap()).unwrap();
            let expected = if elem == Elem::F32 { 1.0 + SMALL } else { 1.0 };
            assert!(y.iter().all(|&y| y == expected), "{}: {y:?}", backend.name());
        }
    }
}

/// Two layers that add to their input, and the gradient of the first token.
fn layers(backend: &dyn Backend) -> [Vec<f32>; 2] {
    let tape = Tape::new(backend);
    let leaf = tape.watch(upload(backend, TOKENS, &pattern(TOKENS.len(), 2.0)));
    let c = TOKENS.c;
    let weight = |scale| upload(backend, Shape::rows(c, c), &pattern(c * c, scale));
    let vector = |of: f32, scale| {
        let v: Vec<f32> = pattern(c, scale).iter().map(|v| of + v).collect();
        upload(backend, Shape::vector(c), &v)
    };
    let (gamma, beta) = (vector(1.0, 0.25), vector(0.0, 0.5));
    let positions = upload(backend, TOKENS.with_n(1), &pattern(TOKENS.with_n(1).len(), 0.5));
    let mut x = tape.embed(&leaf, None, &positions).unwrap();
    for scale in [0.25, 0.125] {
        let h = tape.layer_norm(&x, &gamma, &beta, 1e-5).unwrap();
        let h = tape.linear_epilogue(&h, &weight(scale), None, Epilogue::Activate(Activation::Gelu)).unwrap();
        x = tape.linear(&h, &weight(0.5), Some(&beta), Some(&x)).unwrap();
    }
    let y = tape.layer_norm(&tape.take_token(&x, &[0, 4]).unwrap(), &gamma, &beta, 1e-5).unwrap();
    let seed = upload(backend, y.shape(), &pattern(y.shape().len(), 1.0));
    let found = backend.download(y.value()).unwrap();
    let gradient = tape.gradient(&y, seed, &leaf).unwrap().unwrap();
    [found, backend.download(&gradient).unwrap()]
}

fn layers_and_their_gradient_round_as_the_cpu_does() {
    let truth = layers(&Cpu::new());
    for (elem, round) in [(Elem::Bf16, Round::Bf16), (Elem::F16, Round::F16)] {
        if device::elems().all(|has| has != elem) {
            continue;
        }
        let honest = layers(&Cpu::with_rounding(Some(round)));
        let found = layers(&device::open(elem));
        for ((found, honest), truth) in found.iter().zip(&honest).zip(&truth) {
            let [error, allowed] = [found, honest].map(|x| parity::error(x, truth));
            assert!(allowed > 0.0 && error <= 2.0 * allowed, "{elem:?}: {error:.2e}, the CPU {allowed:.2e}");
        }
    }
}

fn the_meter_counts_them_at_their_size() {
    for elem in device::elems() {
        let size = if elem == Elem::F32 { 4 } else { 2 };
        let (meter, cuda) = (Meter::of_packets(size), device::open(elem));
        // Copies in another type, which the GPU makes for the length of a call, are not counted.
        let live = |backend: &dyn Backend| {
            let before = backend.memory().live;
            let tape = Tape::off(backend);
            let x = embedded(&tape);
            let token = tape.take_token(&x, &[0, 3]).unwrap();
            let sum = tape.axpby(1.0, &token, 1.0, &token).unwrap();
            let bytes = backend.memory().live - before;
            drop((x, token, sum));
            bytes
        };
        assert_eq!(live(&meter), live(&cuda), "{elem:?}");
        assert_eq!(live(&meter), 4 * (TOKENS.len() + 2 * 2 * TOKENS.c) as u64, "{elem:?}");
    }
}

crate::tests![
    sums_over_layers_are_not_rounded,
    layers_and_their_gradient_round_as_the_cpu_does,
    the_meter_counts_them_at_their_size,
];
