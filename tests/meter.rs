//! The meter: its FLOPs are the field's, its memory is the CPU backend's.

use das_cuda::Result;
use das_cuda::backend::{Activation, AffineClamp, Attention, Backend, Conv, Filter, GroupNorm};
use das_cuda::cpu::Cpu;
use das_cuda::meter::{Family, Meter};
use das_cuda::tape::{Tape, Var};
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use half::{bf16, f16};

/// Exact in bf16, so that the type of a weight changes no result.
fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 31 % 61) as f32 - 30.0) / 256.0).collect()
}

/// The type that the weights are given in.
#[derive(Clone, Copy, PartialEq)]
enum Given {
    F32,
    F16,
    Bf16,
}

fn weight(backend: &dyn Backend, shape: Shape, given: Given) -> Tensor {
    let x = values(shape.len());
    match given {
        Given::F32 => backend.upload(shape, HostSlice::F32(&x)),
        Given::F16 => {
            backend.upload(shape, HostSlice::F16(&x.iter().map(|&x| f16::from_f32(x)).collect::<Vec<_>>()))
        }
        Given::Bf16 => {
            backend.upload(shape, HostSlice::BF16(&x.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>()))
        }
    }
    .unwrap()
}

/// Weights of the network below.
struct Network {
    conv: Tensor,
    up: Tensor,
    down: Tensor,
    gamma: Tensor,
    qkv: Tensor,
    out: Tensor,
    query: Tensor,
    geglu: Tensor,
    back: Tensor,
    keys: Tensor,
}

const C: usize = 32;

impl Network {
    fn new(backend: &dyn Backend, given: Given) -> Network {
        let weight = |shape| weight(backend, shape, given);
        let conv = || weight(Shape::new(C, 3, 3, C));
        let linear = |out, c| weight(Shape::rows(out, c));
        Network {
            conv: conv(),
            up: conv(),
            down: conv(),
            gamma: weight(Shape::vector(C)),
            qkv: linear(3 * C, C),
            out: linear(C, C),
            query: linear(C, C),
            geglu: linear(8 * C, C),
            back: linear(C, 4 * C),
            keys: weight(Shape::new(1, 1, 7, 2 * C)),
        }
    }

    fn residual(&self, tape: &Tape<'_>, x: &Var) -> Result<Var> {
        let norm = GroupNorm { groups: 8, eps: 1e-5, silu: true };
        let h = tape.group_norm(x, &self.gamma, &self.gamma, norm)?;
        tape.conv(&h, &self.conv, Some(&self.gamma), Some(x), Conv::SAME3)
    }

    fn transformer(&self, tape: &Tape<'_>, x: &Var) -> Result<Var> {
        let attention = Attention { heads: 4, scale: 0.35, causal: false };
        let h = tape.layer_norm(x, &self.gamma, &self.gamma, 1e-5)?;
        let qkv = tape.linear(&h, &self.qkv, None, None)?;
        let h = tape.self_attention(&qkv, attention)?;
        let x = tape.linear(&h, &self.out, None, Some(x))?;
        let h = tape.layer_norm(&x, &self.gamma, &self.gamma, 1e-5)?;
        let q = tape.linear(&h, &self.query, None, None)?;
        let h = tape.cross_attention(&q, &self.keys, &vec![0; x.shape().n], attention)?;
        let x = tape.linear(&h, &self.out, None, Some(&x))?;
        let h = tape.layer_norm(&x, &self.gamma, &self.gamma, 1e-5)?;
        let h = tape.linear(&h, &self.geglu, None, None)?;
        let h = tape.geglu(&h)?;
        tape.linear(&h, &self.back, None, Some(&x))
    }

    /// Down, through a transformer, up, a skip, then an image head: one of everything.
    fn run(&self, tape: &Tape<'_>, x: &Var, resized: bool) -> Result<Var> {
        let two = tape.repeat(x, 2)?;
        let skip = self.residual(tape, &two)?;
        let h = tape.conv(&skip, &self.down, None, None, Conv::DOWN3)?;
        let h = self.transformer(tape, &h)?;
        let h = tape.conv(&h, &self.up, None, None, Conv::UP3)?;
        let h = tape.concat(&h, &skip)?;
        let h = tape.slice(&h, C / 2, C)?;
        let h = self.residual(tape, &h)?;
        let h = tape.cfg_combine(&h, 7.5)?;
        let h = if resized { tape.resize(&h, 5, 9, Filter::Bicubic)? } else { h };
        let h = tape.affine_clamp(&h, AffineClamp { a: 0.5, b: 0.5, lo: 0.0, hi: 1.0 })?;
        let h = tape.soft_clamp(&h, 3.0)?;
        let h = tape.activate(&h, Activation::QuickGelu)?;
        tape.l2_norm(&h)
    }
}

/// Peak and final live bytes of two value-and-gradient passes with everything of the first let go.
fn peaks(backend: &dyn Backend, resized: bool, given: Given) -> Vec<(u64, u64)> {
    let network = Network::new(backend, given);
    let x = backend.zeros(Shape::new(2, 8, 10, C)).unwrap();
    (0..2)
        .map(|_| {
            backend.reset_peak();
            let tape = Tape::new(backend);
            let leaf = tape.watch(x.clone());
            let y = network.run(&tape, &leaf, resized).unwrap();
            let seed = y.value().clone();
            let dx = tape.gradient(&y, seed, &leaf).unwrap().unwrap();
            assert_eq!(dx.shape(), x.shape());
            drop((y, leaf, dx));
            let memory = backend.memory();
            (memory.peak, memory.live)
        })
        .collect()
}

/// Not within a per cent: to the byte.
#[test]
fn the_meter_predicts_the_peak_of_the_cpu_backend_exactly() {
    for resized in [false, true] {
        for given in [Given::F32, Given::F16, Given::Bf16] {
            let [predicted, measured] =
                [&Meter::new() as &dyn Backend, &Cpu::new()].map(|backend| peaks(backend, resized, given));
            println!("predicted {predicted:?}, measured {measured:?}");
            assert_eq!(predicted, measured);
        }
    }
}

/// A weight that stays in 16 bits gives the bits that the same numbers in f32 give, forward and back.
#[test]
fn weights_in_the_type_of_their_file_change_no_bit() {
    let bits = |given| {
        let cpu = Cpu::new();
        let (network, tape) = (Network::new(&cpu, given), Tape::new(&cpu));
        let shape = Shape::new(2, 8, 10, C);
        let leaf = tape.watch(cpu.upload(shape, HostSlice::F32(&values(shape.len()))).unwrap());
        let y = network.run(&tape, &leaf, true).unwrap();
        let (found, seed) = (cpu.download(y.value()).unwrap(), y.value().clone());
        let gradient = tape.gradient(&y, seed, &leaf).unwrap().unwrap();
        let all = found.into_iter().chain(cpu.download(&gradient).unwrap());
        all.map(f32::to_bits).collect::<Vec<u32>>()
    };
    let truth = bits(Given::F32);
    for given in [Given::F16, Given::Bf16] {
        assert!(bits(given) == truth);
    }
    // Operations that read no product's weight take them too.
    let cpu = Cpu::new();
    let rows = |given| weight(&cpu, Shape::rows(6, 8), given);
    for given in [Given::F16, Given::Bf16] {
        for f in
            [|cpu: &Cpu, x: &Tensor| cpu.gather(x, &[5, 0, 3]), |cpu: &Cpu, x: &Tensor| cpu.scale(1.0, x)]
        {
            let [found, truth] =
                [given, Given::F32].map(|given| cpu.download(&f(&cpu, &rows(given)).unwrap()).unwrap());
            assert_eq!(found, truth);
        }
        assert_eq!(cpu.download(&rows(given)).unwrap(), values(48));
    }
}

/// The counts of SD 1.5's first level by the field's formulas, multiply-adds written out.
#[test]
fn matrix_products_count_two_per_multiply_add() {
    let meter = Meter::with_elements(2, Some(2));
    let x = meter.zeros(Shape::new(1, 64, 64, 320)).unwrap();
    let up = |shape: Shape| {
        let zeros = vec![0.0; shape.len()];
        meter.upload(shape, HostSlice::F32(&zeros)).unwrap()
    };
    let w = up(Shape::new(320, 3, 3, 320));
    let flops_of = |f: &dyn Fn()| {
        meter.reset_counts();
        f();
        meter.counts()
    };
    let same = flops_of(&|| drop(meter.conv(&x, &w, None, None, Conv::SAME3)));
    assert_eq!(same.flops, 2 * 4096 * 320 * 9 * 320);
    assert_eq!(same.bytes, 2 * (2 * 4096 * 320 + 320 * 9 * 320));
    assert_eq!(same.by_family[&Family::Conv].calls, 1);
    let back = flops_of(&|| drop(meter.conv_vjp(&x, &w, x.shape(), Conv::SAME3)));
    assert_eq!(back.flops, same.flops);
    // Folded: 4 of 9 taps per enlarged pixel.
    let enlarged = flops_of(&|| drop(meter.conv(&x, &w, None, None, Conv::UP3)));
    assert_eq!(enlarged.flops, 2 * 4 * 4096 * 320 * 4 * 320);
    let halved = flops_of(&|| drop(meter.conv(&x, &w, None, None, Conv::DOWN3)));
    assert_eq!(halved.flops, same.flops / 4);

    let w = up(Shape::rows(960, 320));
    let linear = flops_of(&|| drop(meter.linear(&x, &w, None, None)));
    assert_eq!(linear.flops, 2 * 4096 * 320 * 960);
    assert_eq!(linear.by_family[&Family::Linear].flops, linear.flops);

    let attention = Attention { heads: 8, scale: 1.0, causal: false };
    let qkv = meter.zeros(Shape::new(1, 64, 64, 960)).unwrap();
    let (y, lse) = meter.self_attention(&qkv, attention).unwrap();
    let product = 2 * 4096 * 4096 * 320;
    let forward = flops_of(&|| drop(meter.self_attention(&qkv, attention)));
    assert_eq!(forward.flops, 2 * product);
    let back = flops_of(&|| drop(meter.self_attention_vjp(&qkv, &y, &lse, &y, attention)));
    assert_eq!(back.by_family[&Family::SelfAttention].flops, 5 * product);
    let kv = up(Shape::new(1, 1, 77, 640));
    let cross = flops_of(&|| drop(meter.cross_attention(&x, &kv, &[0], attention)));
    assert_eq!(cross.flops, 2 * 2 * 4096 * 77 * 320);
    let back = flops_of(&|| drop(meter.cross_attention_vjp(&x, &kv, &[0], &x, attention)));
    assert_eq!(back.flops, 3 * 2 * 4096 * 77 * 320);
}

#[test]
fn parameters_are_counted_apart_and_as_wide_as_stored() {
    let meter = Meter::with_elements(2, None);
    let half = vec![half::f16::ZERO; 100];
    let a = meter.upload(Shape::vector(100), HostSlice::F16(&half)).unwrap();
    let b = meter.upload(Shape::vector(10), HostSlice::F32(&[0.0; 10])).unwrap();
    let y = meter.zeros(Shape::vector(7)).unwrap();
    assert_eq!(meter.parameters(), 240);
    assert_eq!(meter.memory().live, 254);
    drop(a);
    assert_eq!((meter.parameters(), meter.memory().live, meter.memory().peak), (40, 54, 254));
    drop((b, y));
    assert_eq!(meter.memory().live, 0);
}
