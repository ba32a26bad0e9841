//! Small score networks on the GPU: launcher of kernels/points.cu. Points are f32 in every run.

use super::layout::BLOCK;
use crate::backend::{PointStep, PointValues, points_by_operations};
use crate::cuda::ctx::Cuda;
use crate::cuda::device::{Elem, In, Out};
use crate::cuda::launch::{Launch, kernels, params};
use crate::error::Result;
use crate::tensor::{Shape, Tensor};

/// Width of the hidden layers that the kernel is made for.
const HIDDEN: usize = 64;

params! {
    pub struct PointParams {
        pub centre: [f64; 3],
        pub weight: [f64; 3],
        pub n: i64,
        pub time: f32,
        pub a: f32,
        pub b: f32,
        pub d: i32,
        pub gradient: i32,
    }
}

kernels! {
    /// The kernel of points.cu.
    pub struct Table from "points" {
        fn evaluate_points(
            x: In<f32>, w1: In<f32>, b1: In<f32>, w2: In<f32>, b2: In<f32>, w3: In<f32>, b3: In<f32>,
            eps: Out<f32>, x0: Out<f32>, reward: Out<f32>, grad: Out<f32>, p: PointParams,
        );
    }
}

/// See [`Backend::evaluate_points`](crate::backend::Backend::evaluate_points). Networks of another width, or
/// kept in 16 bits, are run by operations.
pub fn evaluate_points(
    cuda: &Cuda,
    x: &Tensor,
    network: &[Tensor; 6],
    step: &PointStep,
) -> Result<PointValues> {
    let (n, d) = (x.shape().n, x.shape().sample());
    let widths = [Shape::rows(HIDDEN, d + 1), Shape::rows(HIDDEN, HIDDEN), Shape::rows(d, HIDDEN)];
    let fits = d <= 3 && network.iter().step_by(2).map(Tensor::shape).eq(widths);
    let all_f32 = network.iter().chain([x]).all(|tensor| cuda.buffer(tensor).elem() == Elem::F32);
    if !fits || !all_f32 {
        return points_by_operations(cuda, x, network, step);
    }
    let (one, points) = (Shape::rows(n, 1), x.shape());
    let [mut eps, mut x0] = [cuda.alloc(Elem::F32, points)?, cuda.alloc(Elem::F32, points)?];
    let mut reward = cuda.alloc(Elem::F32, one)?;
    let mut grad = step.gradient.then(|| cuda.alloc(Elem::F32, points)).transpose()?;
    let p = PointParams {
        centre: step.reward.centre,
        weight: step.reward.weight,
        n: n as i64,
        time: step.time,
        a: step.x0[0],
        b: step.x0[1],
        d: d as i32,
        gradient: i32::from(step.gradient),
    };
    let [w1, b1, w2, b2, w3, b3] = network.each_ref().map(|tensor| cuda.buffer(tensor).f32());
    cuda.points.evaluate_points(
        &cuda.device,
        Launch::cover(n, BLOCK),
        cuda.buffer(x).f32(),
        w1,
        b1,
        w2,
        b2,
        w3,
        b3,
        eps.f32_mut(),
        x0.f32_mut(),
        reward.f32_mut(),
        grad.as_mut().map_or(Out::none(), |grad| grad.f32_mut()),
        p,
    )?;
    Ok(PointValues {
        eps: cuda.wrap(points, eps),
        x0: cuda.wrap(points, x0),
        reward: cuda.wrap(one, reward),
        grad: grad.map(|grad| cuda.wrap(points, grad)),
    })
}
