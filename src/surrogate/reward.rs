//! A surrogate as a reward: on the tape, so that its gradient reaches the latents on every device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::settings::MOST_BONUS;
use super::{Optimism, Surrogate};
use crate::backend::{AffineClamp, Backend};
use crate::error::{Error, Result};
use crate::mlp::Affine;
use crate::reward::Reward;
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

/// The surrogate that rewards follow from their next run on; handles that are cloned share it.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Option<Followed>>>);

/// A surrogate, and whether what it hopes for counts.
type Followed = (Arc<Surrogate>, bool);

impl Shared {
    /// Runs that begin from now on follow `surrogate`, with what it hopes for or, for an evaluation, without;
    /// every picture is worth 0 where there is none.
    pub fn set(&self, surrogate: Option<Arc<Surrogate>>, optimistic: bool) {
        *self.locked() = surrogate.map(|surrogate| (surrogate, optimistic));
    }

    fn locked(&self) -> MutexGuard<'_, Option<Followed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a surrogate says of images, seen through the CLIP model of another reward.
pub struct SurrogateReward {
    tower: Box<dyn Reward>,
    shared: Shared,
    default_alpha: f64,
    placed: Option<Placed>,
}

/// A surrogate on a device.
struct Placed {
    /// `(heads, 1, 1, d)` and their biases, in the units of the answers.
    heads: (Tensor, Tensor),
    /// Heads of which the largest counts.
    count: usize,
    bonus: Option<Bonus>,
}

/// `min(|weight e + bias|, most)`.
struct Bonus {
    weight: Tensor,
    bias: Tensor,
    /// `(1, 1, 1, features)`.
    ones: Tensor,
    most: f32,
}

impl SurrogateReward {
    /// Sees images as `tower` embeds them. `default_alpha` is that of the black box.
    pub fn new(tower: Box<dyn Reward>, shared: Shared, default_alpha: f64) -> SurrogateReward {
        SurrogateReward { tower, shared, default_alpha, placed: None }
    }
}

impl Reward for SurrogateReward {
    fn name(&self) -> String {
        "surrogate".into()
    }
    fn differentiable(&self) -> bool {
        true
    }
    /// Takes the surrogate that is shared now.
    fn prepare(&mut self, backend: &dyn Backend, _: &[String]) -> Result<()> {
        let shared = self.shared.locked().clone();
        self.placed =
            shared.map(|(surrogate, optimistic)| Placed::new(backend, &surrogate, optimistic)).transpose()?;
        Ok(())
    }
    fn score<'a>(&'a self, tape: &Tape<'a>, images: &Var, _: &[u32]) -> Result<Var> {
        let embedding = self.tower.embed(tape, images)?.ok_or_else(|| {
            Error::usage(format!("reward {} sees pictures through no CLIP model", self.tower.name()))
                .option("tower")
                .advice("give `tower` aesthetic, clip, pickscore or hpsv2, with its files")
        })?;
        match &self.placed {
            Some(placed) => placed.score(tape, &embedding),
            // As dear as a surrogate, for who counts.
            None => {
                let nothing = tape.backend().zeros(Shape::rows(1, embedding.shape().c))?;
                tape.linear(&embedding, &nothing, None, None)
            }
        }
    }
    fn embed<'a>(&'a self, tape: &Tape<'a>, images: &Var) -> Result<Option<Var>> {
        self.tower.embed(tape, images)
    }
    fn default_alpha(&self) -> f64 {
        self.default_alpha
    }
}

impl Placed {
    fn new(backend: &dyn Backend, surrogate: &Surrogate, optimistic: bool) -> Result<Placed> {
        let hopes = optimistic && surrogate.settings.optimism != Optimism::Greedy;
        let heads = if hopes { together(&surrogate.heads) } else { mean(&surrogate.heads) };
        let bonus = match &surrogate.features {
            Some(features) if hopes => {
                let deviation = surrogate.standard.deviation;
                let map = features.of_bonus().scaled(surrogate.settings.bonus * deviation, 0.0);
                let (weight, bias) = put(backend, &map)?;
                let ones = vec![1.0; map.bias.len()];
                Some(Bonus {
                    weight,
                    bias,
                    ones: backend.upload(Shape::vector(ones.len()), HostSlice::F32(&ones))?,
                    most: (MOST_BONUS * deviation) as f32,
                })
            }
            _ => None,
        };
        Ok(Placed { count: heads.bias.len(), heads: put(backend, &heads)?, bonus })
    }

    fn score(&self, tape: &Tape<'_>, embedding: &Var) -> Result<Var> {
        let (weight, bias) = &self.heads;
        let heads = tape.linear(embedding, weight, Some(bias), None)?;
        let mut score = tape.slice(&heads, 0, 1)?;
        for head in 1..self.count {
            // max(a, b) = a + max(b - a, 0)
            let more = tape.axpby(1.0, &tape.slice(&heads, head, 1)?, -1.0, &score)?;
            score = tape.add(&score, &tape.affine_clamp(&more, AffineClamp::RELU)?)?;
        }
        let Some(bonus) = &self.bonus else { return Ok(score) };
        let u = tape.linear(embedding, &bonus.weight, Some(&bonus.bias), None)?;
        // |u| is the product of u with its direction, which is a constant as far as the gradient goes. As one
        // row of channels, each element has a factor of its own.
        let row = Shape::vector(u.shape().len());
        let direction = tape.backend().l2_norm(u.value())?.reshape(row);
        let products = tape.channel_affine(&u.reshape(row), &direction, None)?.reshape(u.shape());
        let length = tape.linear(&products, &bonus.ones, None, None)?;
        tape.add(
            &score,
            &tape.affine_clamp(&length, AffineClamp { a: 1.0, b: 0.0, lo: 0.0, hi: bonus.most })?,
        )
    }
}

/// The maps side by side.
fn together(maps: &[Affine]) -> Affine {
    Affine {
        inputs: maps.first().map_or(0, |map| map.inputs),
        weight: maps.iter().flat_map(|map| map.weight.iter().copied()).collect(),
        bias: maps.iter().flat_map(|map| map.bias.iter().copied()).collect(),
    }
}

/// Their mean.
fn mean(maps: &[Affine]) -> Affine {
    let share = 1.0 / maps.len().max(1) as f64;
    let mut all = maps.iter().map(|map| map.scaled(share, 0.0));
    let mut sum = all.next().unwrap_or(Affine { inputs: 0, weight: Vec::new(), bias: Vec::new() });
    for map in all {
        sum.weight.iter_mut().zip(map.weight).for_each(|(a, b)| *a += b);
        sum.bias.iter_mut().zip(map.bias).for_each(|(a, b)| *a += b);
    }
    sum
}

fn put(backend: &dyn Backend, map: &Affine) -> Result<(Tensor, Tensor)> {
    let narrow = |values: &[f64]| values.iter().map(|v| *v as f32).collect::<Vec<f32>>();
    let shape = Shape::rows(map.bias.len(), map.inputs);
    Ok((
        backend.upload(shape, HostSlice::F32(&narrow(&map.weight)))?,
        backend.upload(Shape::vector(map.bias.len()), HostSlice::F32(&narrow(&map.bias)))?,
    ))
}
