//! Two rewards of one's own for the same wish, red pictures: a black box that sees finished pictures, and one
//! with a gradient, which the method of DAS can follow.
//!
//! `cargo run --release --example custom_reward`

use das_cuda::backend::Backend;
use das_cuda::method::Bootstrap;
use das_cuda::pixels::Picture;
use das_cuda::reward::HostReward;
use das_cuda::tape::{Tape, Var};
use das_cuda::tensor::{HostSlice, Shape, Tensor};
use das_cuda::{Device, Result, Reward, SampleOptions, Session, SessionBuilder};

/// Mean of red minus mean of green and blue, in [-1, 1].
fn redness(picture: &Picture) -> f64 {
    let all: f64 = picture
        .rgb
        .chunks_exact(3)
        .map(|p| f64::from(p[0]) - f64::from(p[1]) / 2.0 - f64::from(p[2]) / 2.0)
        .sum();
    all / (255 * picture.width * picture.height) as f64
}

/// The same as a linear map of the pixels, on the tape.
struct Redness {
    /// `(1, 1, 1, 3 side^2)`.
    weight: Tensor,
}

/// Pixels along one side of the embedded model's pictures.
const SIDE: usize = 64;

impl Redness {
    fn new(backend: &dyn Backend) -> Result<Redness> {
        let each = 1.0 / (SIDE * SIDE) as f32;
        let weight = [each, -each / 2.0, -each / 2.0].repeat(SIDE * SIDE);
        let weight = backend.upload(Shape::rows(1, weight.len()), HostSlice::F32(&weight))?;
        Ok(Redness { weight })
    }
}

impl Reward for Redness {
    fn name(&self) -> String {
        "redness".into()
    }
    fn differentiable(&self) -> bool {
        true
    }
    fn prepare(&mut self, _: &dyn Backend, _: &[String]) -> Result<()> {
        Ok(())
    }
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, _: &[u32]) -> Result<Var> {
        let shape = images.shape();
        tape.linear(&images.reshape(Shape::rows(shape.n, shape.sample())), &self.weight, None, None)
    }
    fn default_alpha(&self) -> f64 {
        0.02
    }
}

/// Mean redness of the pictures.
fn drawn(builder: SessionBuilder, change: impl Fn(SampleOptions) -> SampleOptions) -> Result<f64> {
    let mut session = builder.device(Device::Cpu).open()?;
    let options = change(session.defaults().particles(4).steps(8).seed(3));
    let samples = session.sample("a star", &options)?.conclude()?.swap_remove(0);
    let weighted = samples.pictures.iter().zip(&samples.population.weights);
    Ok(weighted.map(|(picture, weight)| weight * redness(picture)).sum())
}

fn main() -> Result<()> {
    let black_box = |_: &dyn Backend| Ok(HostReward::new("redness", 0.02, |picture| Ok(redness(picture))));
    let with_black_box = || Session::builder().custom_reward(1.0, black_box);
    let plain = drawn(with_black_box(), |o| o.method(&das_cuda::method::Plain))?;
    let resampled = drawn(with_black_box(), |o| o.method(&Bootstrap))?;
    let guided = drawn(Session::builder().custom_reward(1.0, Redness::new), |o| o)?;
    println!("redness: {plain:.3} as the model draws, {resampled:.3} resampled, {guided:.3} guided");
    assert!(plain < resampled.max(guided), "alignment made the pictures redder");
    Ok(())
}
