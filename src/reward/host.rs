//! Rewards that look at bytes on the host: images are downloaded, rounded to 8 bits and judged one by one, on
//! all cores. The scores are constants: nothing flows back.

use rayon::prelude::*;

use super::Reward;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape};

/// A reward of one 8-bit picture.
pub struct HostReward {
    name: &'static str,
    default_kl: f64,
    judge: fn(&Picture) -> Result<f64>,
}

impl HostReward {
    pub(super) const fn new(
        name: &'static str,
        default_kl: f64,
        judge: fn(&Picture) -> Result<f64>,
    ) -> HostReward {
        HostReward { name, default_kl, judge }
    }
}

impl Reward for HostReward {
    fn name(&self) -> String {
        self.name.into()
    }
    fn differentiable(&self) -> bool {
        false
    }
    fn prepare(&mut self, _: &dyn Backend, _: &[String]) -> Result<()> {
        Ok(())
    }
    /// An image with a value that is not finite scores NaN: bytes would hide it.
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, _: &[u32]) -> Result<Var> {
        let shape = images.shape();
        assert_eq!(shape.c, 3, "images are (n, h, w, 3), got {shape}");
        // Computed from the values on the host, so no gradient flows back (see `differentiable`).
        let pixels = tape.backend().download(images.value())?;
        let scores: Vec<f32> = pixels
            .par_chunks(shape.sample().max(1))
            .map(|image| {
                if image.iter().any(|x| !x.is_finite()) {
                    return Ok(f32::NAN);
                }
                let picture = Picture::from_floats(shape.w, shape.h, image);
                (self.judge)(&picture).map(|score| score as f32)
            })
            .collect::<Result<_, Error>>()?;
        Ok(Var::from(tape.backend().upload(Shape::rows(shape.n, 1), HostSlice::F32(&scores))?))
    }
    fn default_kl(&self) -> f64 {
        self.default_kl
    }
}
