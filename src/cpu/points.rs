//! A small score network at many points, forward and back, some points at a time: what is between the layers
//! stays in the nearest caches. Every number is that of the operations one after another.

use rayon::prelude::*;

use super::Cpu;
use super::gemm::{Finish, Order, Panels, Product, Rows};
use super::parallel::simd;
use crate::backend::{PointStep, PointValues, points_by_operations, widened};
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

/// Points worked on at a time: a hidden layer of 64 for them takes 16 KiB.
const POINTS: usize = 64;

/// The right factor of a product with rows, packed.
struct Factor {
    panels: Panels,
    packed: Vec<f32>,
}

impl Factor {
    /// Of a layer with weight `w` `(outputs, inputs)`.
    fn forward(cpu: &Cpu, w: &Tensor) -> Factor {
        let panels = Panels::new(w.shape().c, w.shape().n);
        Factor { panels, packed: panels.pack(cpu.view(w), Order::Columns(w.shape().c)) }
    }

    /// Of its transpose, for the first `inputs` alone.
    fn back(cpu: &Cpu, w: &Tensor, inputs: usize) -> Factor {
        let panels = Panels::new(w.shape().n, inputs);
        Factor { panels, packed: panels.pack(cpu.view(w), Order::Rows(w.shape().c)) }
    }

    /// `y = x . factor + bias`, row by row.
    fn apply(&self, x: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
        let Panels { depth, columns, .. } = self.panels;
        let left = Rows::new(x, y.len() / columns, depth, depth);
        Product {
            left: &left,
            shape: self.panels,
            right: &self.packed,
            panels: 0..self.panels.count(),
            finish: Finish { bias: bias.map(|bias| (bias, 0)), add: None, accumulate: false },
            out: y,
            stride: columns,
        }
        .run();
    }
}

/// What is between the layers, of [`POINTS`] points: what both hidden layers sum up to, and room for what
/// they make of it and for cotangents.
struct Room {
    input: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    passed: Vec<f32>,
    back: Vec<f32>,
    towards: Vec<f32>,
    noise: Vec<f32>,
}

/// See [`Backend::evaluate_points`](crate::backend::Backend::evaluate_points).
pub fn evaluate_points(
    cpu: &Cpu,
    x: &Tensor,
    network: &[Tensor; 6],
    step: &PointStep,
) -> Result<PointValues> {
    // Whole results are rounded.
    if cpu.round.is_some() {
        return points_by_operations(cpu, x, network, step);
    }
    let [w1, b1, w2, b2, w3, b3] = network;
    let (n, d, hidden) = (x.shape().n, x.shape().sample(), w2.shape().n);
    let [layer1, layer2, layer3] = [w1, w2, w3].map(|w| Factor::forward(cpu, w));
    let [back1, back2, back3] = [(w1, d), (w2, hidden), (w3, hidden)].map(|(w, n)| Factor::back(cpu, w, n));
    let [b1, b2, b3] = [b1, b2, b3].map(|b| Some(cpu.view(b)));
    let [mut eps, mut x0, mut grad] = [cpu.alloc(x.shape())?, cpu.alloc(x.shape())?, cpu.alloc(x.shape())?];
    let mut reward = cpu.alloc(Shape::rows(n, 1))?;
    let room = || {
        let of = |width: usize| vec![0.0; POINTS * width];
        Room {
            input: of(d + 1),
            first: of(hidden),
            second: of(hidden),
            passed: of(hidden),
            back: of(hidden),
            towards: of(d),
            noise: of(d),
        }
    };
    let [a, b] = step.x0;
    let parts = (
        cpu.view(x).par_chunks(POINTS * d),
        eps.elements_mut().par_chunks_mut(POINTS * d),
        x0.elements_mut().par_chunks_mut(POINTS * d),
        reward.elements_mut().par_chunks_mut(POINTS),
        grad.elements_mut().par_chunks_mut(POINTS * d),
    );
    parts.into_par_iter().for_each_init(room, |room, (x, eps, x0, reward, grad)| {
        let points = reward.len();
        let input = &mut room.input[..points * (d + 1)];
        for (input, x) in input.chunks_exact_mut(d + 1).zip(x.chunks_exact(d)) {
            input[..d].copy_from_slice(x);
            input[d] = step.time;
        }
        let [first, second, passed, back] =
            [&mut room.first, &mut room.second, &mut room.passed, &mut room.back]
                .map(|layer| &mut layer[..points * hidden]);
        layer1.apply(input, b1, first);
        relu(first, passed);
        layer2.apply(passed, b2, second);
        relu(second, passed);
        layer3.apply(passed, b3, eps);
        for ((x0, x), eps) in x0.iter_mut().zip(x).zip(&*eps) {
            *x0 = a * x + b * eps;
        }
        for (reward, x0) in reward.iter_mut().zip(x0.chunks_exact(d)) {
            *reward = step.reward.value(&widened(x0)) as f32;
        }
        if !step.gradient {
            return;
        }
        let [towards, noise] = [&mut room.towards, &mut room.noise].map(|rows| &mut rows[..points * d]);
        for (towards, x0) in towards.chunks_exact_mut(d).zip(x0.chunks_exact(d)) {
            let gradient = step.reward.gradient(&widened(x0));
            towards.iter_mut().zip(gradient).for_each(|(t, g)| *t = g as f32);
        }
        noise.iter_mut().zip(&*towards).for_each(|(noise, t)| *noise = b * t);
        back3.apply(noise, None, passed);
        where_passed(second, passed);
        back2.apply(passed, None, back);
        where_passed(first, back);
        back1.apply(back, None, grad);
        grad.iter_mut().zip(towards).for_each(|(grad, t)| *grad += a * *t);
    });
    Ok(PointValues {
        eps: cpu.keep(x.shape(), eps),
        x0: cpu.keep(x.shape(), x0),
        reward: cpu.keep(Shape::rows(n, 1), reward),
        grad: step.gradient.then(|| cpu.keep(x.shape(), grad)),
    })
}

/// `y = max(x, 0)`, and NaN of NaN.
fn relu(x: &[f32], y: &mut [f32]) {
    simd(
        #[inline(always)]
        || y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x < 0.0 { 0.0 } else { x }),
    );
}

/// The cotangent of `x` from that of `max(x, 0)`.
fn where_passed(x: &[f32], cotangent: &mut [f32]) {
    simd(
        #[inline(always)]
        || cotangent.iter_mut().zip(x).for_each(|(c, &x)| *c = if x >= 0.0 { *c } else { 0.0 }),
    );
}
