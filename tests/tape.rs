//! The tape: cotangents add up, checkpoints change memory and nothing else, and what is no longer needed
//! goes.

use das_cuda::Result;
use das_cuda::backend::{Activation, Backend, GroupNorm};
use das_cuda::cpu::Cpu;
use das_cuda::meter::Meter;
use das_cuda::tape::{Tape, Var};
use das_cuda::tensor::{HostSlice, Shape, Tensor};

const SHAPE: Shape = Shape::new(2, 4, 4, 8);

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect()
}

fn upload(backend: &dyn Backend, shape: Shape) -> Tensor {
    backend.upload(shape, HostSlice::F32(&values(shape.len()))).unwrap()
}

/// Gradient of `<ones, f(x)>` on the host.
fn gradient(backend: &dyn Backend, f: impl Fn(&Tape<'_>, &Var) -> Result<Var>) -> Option<Vec<f32>> {
    let tape = Tape::new(backend);
    let x = tape.watch(upload(backend, SHAPE));
    let y = f(&tape, &x).unwrap();
    let seed = vec![1.0; y.shape().len()];
    let seed = backend.upload(y.shape(), HostSlice::F32(&seed)).unwrap();
    let dx = tape.gradient(&y, seed, &x).unwrap()?;
    Some(backend.download(&dx).unwrap())
}

/// A block with a norm, a nonlinearity and a residual.
fn block(tape: &Tape<'_>, x: &Var) -> Result<Var> {
    let c = Shape::vector(x.shape().c);
    let (gamma, beta) = (upload(tape.backend(), c), upload(tape.backend(), c));
    let norm = GroupNorm { groups: 2, eps: 1e-5, silu: true };
    let h = tape.group_norm(x, &gamma, &beta, norm)?;
    let h = tape.activate(&h, Activation::Gelu)?;
    tape.add(&h, x)
}

#[test]
fn uses_of_one_variable_add_up() {
    let cpu = Cpu::new();
    let once = gradient(&cpu, |t, x| t.activate(x, Activation::Silu)).unwrap();
    let thrice = gradient(&cpu, |t, x| {
        let y = t.activate(x, Activation::Silu)?;
        let twice = t.axpby(2.0, &y, -0.5, x)?;
        t.add(&y, &twice)
    })
    .unwrap();
    for (one, three) in once.iter().zip(&thrice) {
        assert!((3.0 * one - 0.5 - three).abs() < 1e-6, "{one} {three}");
    }
    // The same variable on both sides of one operation.
    assert_eq!(gradient(&cpu, |t, x| t.add(x, x)).unwrap(), vec![2.0; SHAPE.len()]);
    let both = gradient(&cpu, |t, x| {
        let y = t.concat(x, x)?;
        t.slice(&y, 4, 8)
    });
    assert_eq!(both.unwrap(), vec![1.0; SHAPE.len()]);
}

#[test]
fn a_gradient_passes_through_other_shapes() {
    let cpu = Cpu::new();
    let dx = gradient(&cpu, |t, x| {
        let rows = x.reshape(Shape::new(2, 1, 16, 8));
        let y = t.scale(3.0, &rows)?.reshape(SHAPE);
        t.add(&y, x)
    });
    assert_eq!(dx.unwrap(), vec![4.0; SHAPE.len()]);
}

#[test]
fn what_does_not_depend_on_the_variable_has_no_gradient() {
    let cpu = Cpu::new();
    let constant = |t: &Tape<'_>, x: &Var| t.scale(2.0, &x.detach());
    assert!(gradient(&cpu, constant).is_none());
    let mixed = gradient(&cpu, |t, x| {
        let c = constant(t, x)?;
        t.axpby(1.0, &c, 5.0, x)
    });
    assert_eq!(mixed.unwrap(), vec![5.0; SHAPE.len()]);
}

#[test]
fn a_checkpoint_changes_no_bit_of_the_gradient() {
    let cpu = Cpu::new();
    let plain = gradient(&cpu, |t, x| block(t, &block(t, &block(t, x)?)?)).unwrap();
    let checked = gradient(&cpu, |t, x| {
        let y = t.checkpoint(x, block)?;
        let y = t.checkpoint(&y, block)?;
        block(t, &y)
    })
    .unwrap();
    assert!(plain.iter().any(|&d| d != 0.0));
    assert_eq!(plain, checked);
}

/// Bytes of one activation.
const BYTES: u64 = 4 * SHAPE.len() as u64;
const LAYERS: u64 = 12;

/// Live bytes after the forward pass and the peak of the backward pass, in activations, beside input and
/// output.
fn footprint(backend: &dyn Backend, layer: impl Fn(&Tape<'_>, &Var) -> Result<Var>) -> (u64, u64) {
    let tape = Tape::new(backend);
    let x = tape.watch(backend.zeros(SHAPE).unwrap());
    let mut y = x.clone();
    for _ in 0..LAYERS {
        y = layer(&tape, &y).unwrap();
    }
    let seed = backend.zeros(SHAPE).unwrap();
    backend.reset_peak();
    let held = backend.memory().live - 3 * BYTES;
    let dx = tape.gradient(&y, seed, &x).unwrap().unwrap();
    let peak = backend.memory().peak - 3 * BYTES;
    // Input, output, gradient: the tape has given everything else back.
    drop((y, x));
    assert_eq!(backend.memory().live, BYTES);
    drop(dx);
    assert_eq!(backend.memory().live, 0);
    (held / BYTES, peak / BYTES)
}

#[test]
fn saved_tensors_are_freed_while_going_back() {
    let silu = |t: &Tape<'_>, x: &Var| t.activate(x, Activation::Silu);
    for backend in [&Cpu::new() as &dyn Backend, &Meter::new()] {
        let (held, peak) = footprint(backend, silu);
        // Each layer keeps its input; input and output of the whole are held by the caller anyway.
        assert_eq!(held, LAYERS - 1);
        // One cotangent beside what is kept: a tape that frees nothing would hold LAYERS more.
        assert_eq!(peak, LAYERS);
    }
}

#[test]
fn linear_operations_keep_nothing() {
    for backend in [&Cpu::new() as &dyn Backend, &Meter::new()] {
        let (held, peak) = footprint(backend, |t, x| t.scale(0.5, x));
        assert_eq!((held, peak), (0, 1));
    }
}

#[test]
fn checkpoints_keep_the_inputs_of_their_blocks_only() {
    let two = |t: &Tape<'_>, x: &Var| t.activate(&t.activate(x, Activation::Silu)?, Activation::Gelu);
    for backend in [&Cpu::new() as &dyn Backend, &Meter::new()] {
        let (plain, _) = footprint(backend, two);
        let (held, peak) = footprint(backend, |t, x| t.checkpoint(x, two));
        assert_eq!((plain, held), (2 * LAYERS - 1, LAYERS - 1));
        // While a block runs again: its intermediate, its result, and a cotangent.
        assert!(peak <= LAYERS + 2, "{peak}");
    }
}

#[test]
fn inference_keeps_nothing() {
    let meter = Meter::new();
    let tape = Tape::off(&meter);
    let mut x = Var::from(meter.zeros(SHAPE).unwrap());
    for _ in 0..LAYERS {
        x = tape.activate(&x, Activation::Silu).unwrap();
    }
    assert_eq!(meter.memory().live, BYTES);
    assert_eq!(meter.memory().peak, 2 * BYTES);
}
