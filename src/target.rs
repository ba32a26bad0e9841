//! Joins a model and a reward into what the sampler asks for: the noise, the clean latent, its reward and the
//! gradient of the reward with respect to the noisy latent, back through reward, decoder and both branches of
//! the UNet. Particles are taken a micro-batch at a time; each answer depends on its own particle alone.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::backend::{AffineClamp, Backend, ParticleId, Record, range};
use crate::ddim;
use crate::error::{ErrorKind, Result};
use crate::model::pipeline::{Encoded, Pipeline, Size};
use crate::model::vae;
use crate::reward::{self, Reward};
use crate::sampler::{Evaluation, FinalScores, Need, Scores, Target};
use crate::tape::{Tape, Var};
use crate::tensor::{HostSlice, Shape, Tensor};

pub use crate::tape::Recompute;

/// Which gradient of the reward guides a particle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[non_exhaustive]
pub enum Gradient {
    /// With respect to the noisy latent, back through the UNet: the paper's
    #[default]
    State,
    /// With respect to the predicted clean latent, times sqrt(alpha_bar); the UNet is not differentiated
    Clean,
}

impl std::fmt::Display for Gradient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Gradient::State => "state",
            Gradient::Clean => "clean",
        })
    }
}

/// How the networks are run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// `s` of `eps = eps_u + s (eps_c - eps_u)`; 1 or less runs the conditional branch alone.
    pub cfg_scale: f32,
    /// Particles per network call, at least 1.
    pub micro_batch: usize,
    /// Which activations of UNet and decoder are computed again instead of being kept.
    pub recompute: Recompute,
    /// What [`Need::Gradient`] is answered with.
    pub gradient: Gradient,
}

/// A model, a prepared reward and encoded prompts.
pub struct Diffusion<'a> {
    backend: &'a dyn Backend,
    pipeline: &'a Pipeline,
    reward: &'a dyn Reward,
    texts: Encoded,
    /// The number of each encoded prompt in the run, in the order of encoding.
    prompts: Vec<u32>,
    size: Size,
    settings: Settings,
    progress: Mutex<Progress>,
}

/// What changes while a run goes on.
struct Progress {
    /// Particles per network call: that of the settings, or less once memory did not suffice.
    micro_batch: usize,
    notes: Vec<String>,
    /// Recorded work, by what it depends on.
    records: BTreeMap<WorkKey, Record>,
}

/// Prompts of the particles, what is wanted, and the bits of the clip.
type WorkKey = (Vec<u32>, Need, Option<u32>);

/// What the work of a micro-batch depends on, besides tensors.
#[derive(Clone, Copy)]
struct Work<'a> {
    /// Text of each sample of all branches.
    rows: &'a [u32],
    prompt_of: &'a [u32],
    clip: Option<f32>,
    need: Need,
}

impl<'a> Diffusion<'a> {
    /// `texts` and `reward` hold the prompts that the run numbers `prompts`, in that order.
    #[track_caller]
    pub fn new(
        backend: &'a dyn Backend,
        pipeline: &'a Pipeline,
        reward: &'a dyn Reward,
        texts: Encoded,
        prompts: Vec<u32>,
        size: Size,
        settings: Settings,
    ) -> Diffusion<'a> {
        assert!(settings.micro_batch > 0, "an empty micro-batch");
        assert_eq!(texts.dropped.len(), prompts.len(), "one number per encoded prompt");
        Diffusion {
            backend,
            pipeline,
            reward,
            texts,
            prompts,
            size,
            settings,
            progress: Mutex::new(Progress {
                micro_batch: settings.micro_batch,
                notes: Vec::new(),
                records: BTreeMap::new(),
            }),
        }
    }

    /// What changes, for one caller at a time.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the UNet runs without the prompt too. Models that take the scale as an input have one branch.
    pub fn two_branches(&self) -> bool {
        self.settings.cfg_scale > 1.0 && !self.pipeline.embeds_guidance()
    }

    /// Which encoded prompt a particle belongs to.
    #[track_caller]
    fn prompt_of(&self, id: &ParticleId) -> u32 {
        let Some(at) = self.prompts.iter().position(|&p| p == id.prompt) else {
            panic!("prompt {} is not encoded here", id.prompt)
        };
        at as u32
    }

    /// Output of the UNet, guided, and where it is asked for that without the prompt; `rows` is the text of
    /// each sample of all branches.
    fn predict<'t>(
        &'t self,
        tape: &Tape<'t>,
        x: &Var,
        biases: &'t Tensor,
        work: Work<'t>,
    ) -> Result<(Var, Option<Tensor>)> {
        let (unet, texts) = (&self.pipeline.unet, &self.texts.conditioning);
        let out = unet.forward_at(tape, x, biases, texts, work.rows)?;
        if !self.two_branches() {
            return Ok((out, None));
        }
        let unconditional = match work.need {
            // With scale 0 the other branch counts nothing.
            Need::Correction => Some(self.backend.cfg_combine(out.value(), 0.0)?),
            _ => None,
        };
        Ok((tape.cfg_combine(&out, self.settings.cfg_scale)?, unconditional))
    }

    /// The images in [0, 1] of latents, one after another, so that they take the memory of one.
    ///
    /// # Errors
    /// From the device.
    pub fn images(&self, latents: &Tensor) -> Result<Vec<Tensor>> {
        let tape = Tape::off(self.backend);
        let image = |slot: u32| {
            let raw = self.decode(&tape, &Var::from(self.backend.gather(latents, &[slot])?))?;
            Ok(vae::to_unit(&tape, &raw)?.into_value())
        };
        (0..latents.shape().n as u32).map(image).collect()
    }

    /// Decoded clean latents, about -1 to 1.
    fn decode<'t>(&'t self, tape: &Tape<'t>, x0: &Var) -> Result<Var> {
        self.pipeline.decoder.decode(tape, x0)
    }

    /// One micro-batch of [`Target::evaluate`]. What changes from step to step is put into tensors first, so
    /// that a device can record the work once and replay it.
    fn evaluate_batch(
        &self,
        x: &Tensor,
        prompt_of: &[u32],
        step: &ddim::Step,
        need: Need,
    ) -> Result<Evaluation> {
        let backend = self.backend;
        let rows = self.texts.rows(prompt_of, self.two_branches());
        let biases = self.pipeline.unet.biases_at(backend, step.t as f32, &self.texts.conditioning, &rows)?;
        let pair = |map: ddim::Affine| {
            let k = [map.first as f32, map.second as f32];
            backend.upload(Shape::vector(2), HostSlice::F32(&k))
        };
        let (to_eps, to_x0) = (pair(step.eps)?, pair(step.x0)?);
        let seed = self.gradient_seed(step, prompt_of.len(), need)?;
        let work = Work { rows: &rows, prompt_of, clip: step.clip.map(|range| range as f32), need };
        let key = (prompt_of.to_vec(), need, work.clip.map(f32::to_bits));
        let mut progress = self.progress();
        let record = progress.records.entry(key).or_default();
        let mut results = backend
            .replay(record, &[x, &biases, &to_eps, &to_x0, &seed], &mut |inputs| self.work(inputs, work))?
            .into_iter();
        let mut next = || results.next();
        let (Some(eps), Some(x0)) = (next(), next()) else {
            panic!("an evaluation is noise and clean latent at least")
        };
        let reward = next().map(Scores::Device);
        Ok(Evaluation { eps, x0, reward, grad: next(), correction: next() })
    }

    /// The cotangent of each score. The clean latent of a Gaussian of variance 1 changes with the noisy one
    /// by sqrt(alpha_bar): that stands in for the way back through the UNet where it is not taken.
    fn gradient_seed(&self, step: &ddim::Step, samples: usize, need: Need) -> Result<Tensor> {
        let seed = match self.settings.gradient {
            Gradient::Clean if need >= Need::Gradient => step.alpha_bar.sqrt() as f32,
            _ => 1.0,
        };
        self.backend.upload(Shape::rows(samples, 1), HostSlice::F32(&vec![seed; samples]))
    }

    /// What `need` asks for at the state, bias, coefficients, and cotangents of the scores in `inputs`:
    /// noise, clean latent, then the score, its gradient, and the correction of the noise.
    fn work(&self, inputs: &[Tensor], work: Work<'_>) -> Result<Vec<Tensor>> {
        let [x, biases, to_eps, to_x0, seed] = inputs else { panic!("five inputs") };
        let backend = self.backend;
        let tape = match work.need {
            Need::Gradient | Need::Correction => Tape::recomputing(backend, self.settings.recompute),
            _ => Tape::off(backend),
        };
        let through_unet = self.settings.gradient == Gradient::State;
        let mut leaf = if through_unet { tape.watch(x.clone()) } else { Var::from(x.clone()) };
        let (out, unconditional) = {
            let _range = tape.range("unet");
            self.predict(&tape, &leaf, biases, work)?
        };
        // The prediction of the noise is an answer by itself; the reward depends on the state through x0
        // alone.
        let eps = backend.blend(to_eps, x, out.value())?;
        let correction = match unconditional {
            Some(out) => Some(backend.axpby(1.0, &eps, -1.0, &backend.blend(to_eps, x, &out)?)?),
            None => None,
        };
        let mut x0 = tape.blend(to_x0, &leaf, &out)?;
        drop(out);
        if !through_unet {
            x0 = tape.watch(x0.into_value());
            leaf = x0.clone();
        }
        if let Some(range) = work.clip {
            x0 = tape.affine_clamp(&x0, AffineClamp { a: 1.0, b: 0.0, lo: -range, hi: range })?;
        }
        let mut results = vec![eps, x0.value().clone()];
        if work.need == Need::Noise {
            return Ok(results);
        }
        let raw = {
            let _range = tape.range("decoder");
            self.decode(&tape, &x0)?
        };
        let score = {
            let _range = tape.range("reward");
            let images = vae::to_unit(&tape, &raw)?;
            self.reward.score(&tape, &images, work.prompt_of)?
        };
        // Where the raw image is not finite, neither is the score, whatever the clamp to [0, 1] made of it.
        results.push(backend.where_finite(score.value(), raw.value())?);
        // What is not needed any more must not be held while the tape runs back.
        drop((x0, raw));
        if work.need >= Need::Gradient {
            let _range = range(backend, "gradient");
            results.push(match tape.gradient(&score, seed.reshape(score.shape()), &leaf)? {
                Some(grad) => grad.reshape(x.shape()),
                None => backend.zeros(x.shape())?,
            });
        }
        results.extend(correction);
        Ok(results)
    }

    /// Runs `f(latents, encoded prompt of each)` on each micro-batch, in order. Where memory does not
    /// suffice, the micro-batch is halved for the rest of the run.
    fn in_micro_batches<T>(
        &self,
        x: &Tensor,
        ids: &[ParticleId],
        mut f: impl FnMut(&Tensor, &[u32]) -> Result<T>,
    ) -> Result<Vec<T>> {
        assert_eq!(x.shape().n, ids.len(), "one identity per latent");
        let prompt_of: Vec<u32> = ids.iter().map(|id| self.prompt_of(id)).collect();
        let slots: Vec<u32> = (0..ids.len() as u32).collect();
        let (mut results, mut done) = (Vec::new(), 0);
        while done < slots.len() {
            let most = self.progress().micro_batch;
            let batch = done..slots.len().min(done + most);
            let taken = if batch.len() == slots.len() {
                f(x, &prompt_of)
            } else {
                self.backend.gather(x, &slots[batch.clone()]).and_then(|x| f(&x, &prompt_of[batch.clone()]))
            };
            match taken {
                Ok(result) => {
                    results.push(result);
                    done = batch.end;
                }
                Err(e) if e.kind() == ErrorKind::Memory && batch.len() > 1 => {
                    // Recorded work holds memory too.
                    let mut progress = self.progress();
                    progress.records.clear();
                    let less = batch.len().div_ceil(2);
                    progress.micro_batch = less;
                    progress.notes.push(format!(
                        "memory does not suffice for {} particles at a time: going on with {less} \
                         (`micro_batch` {less} starts so)",
                        batch.len()
                    ));
                }
                // Of a scorer that failed, which knows images but not whose they are.
                Err(e) if e.kind() == ErrorKind::Model => return Err(e.context(place(&ids[batch]))),
                Err(e) => return Err(e),
            }
        }
        Ok(results)
    }

    /// The results of all micro-batches one after another.
    fn stack(&self, parts: &[&Tensor]) -> Result<Tensor> {
        match parts {
            [one] => Ok((*one).clone()),
            parts => self.backend.stack(parts),
        }
    }
}

/// The particles of a micro-batch, in words.
fn place(ids: &[ParticleId]) -> String {
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return "no particle".into() };
    match ids {
        [one] => format!("prompt {}, particle {}", one.prompt, one.particle),
        _ if first.prompt == last.prompt => {
            format!("prompt {}, particles {} to {}", first.prompt, first.particle, last.particle)
        }
        _ => format!(
            "particle {} of prompt {} to particle {} of prompt {}",
            first.particle, first.prompt, last.particle, last.prompt
        ),
    }
}

impl Target for Diffusion<'_> {
    fn latent(&self) -> Shape {
        self.size.latent
    }

    fn evaluate(&self, x: &Tensor, ids: &[ParticleId], step: &ddim::Step, need: Need) -> Result<Evaluation> {
        let evaluations =
            self.in_micro_batches(x, ids, |x, prompts| self.evaluate_batch(x, prompts, step, need))?;
        let all = |f: fn(&Evaluation) -> Option<&Tensor>| -> Result<Option<Tensor>> {
            let parts: Option<Vec<&Tensor>> = evaluations.iter().map(f).collect();
            parts.map(|parts| self.stack(&parts)).transpose()
        };
        let stacked =
            |f: fn(&Evaluation) -> &Tensor| self.stack(&evaluations.iter().map(f).collect::<Vec<_>>());
        let (eps, x0, grad) = (stacked(|l| &l.eps)?, stacked(|l| &l.x0)?, all(|l| l.grad.as_ref())?);
        let correction = all(|l| l.correction.as_ref())?;
        let reward = all(|l| match &l.reward {
            Some(Scores::Device(scores)) => Some(scores),
            _ => None,
        })?;
        Ok(Evaluation { eps, x0, reward: reward.map(Scores::Device), grad, correction })
    }

    fn finish(&self, x: &Tensor, ids: &[ParticleId]) -> Result<FinalScores> {
        let tape = Tape::off(self.backend);
        let weights: Vec<f64> = reward::terms(self.reward).into_iter().map(|(weight, _)| weight).collect();
        let mut all = FinalScores { images: x.clone(), reward: Vec::new(), parts: Vec::new() };
        let images = self.in_micro_batches(x, ids, |x, prompts| {
            let raw = self.decode(&tape, &Var::from(x.clone()))?;
            let images = vae::to_unit(&tape, &raw)?.into_value();
            let scores = reward::term_scores(self.reward, self.backend, &images, prompts)?;
            // As in `work`, a clamp must not hide what is not finite.
            let norms = self.backend.squared_norms(raw.value())?;
            let sound = |norm: f64| if norm.is_finite() { 0.0 } else { f64::NAN };
            let mut total: Vec<f64> = norms.into_iter().map(sound).collect();
            for ((_, scores), weight) in scores.iter().zip(&weights) {
                total.iter_mut().zip(scores).for_each(|(total, &score)| *total += weight * f64::from(score));
            }
            // From here on nothing fails: a micro-batch that memory did not suffice for is done again in
            // parts.
            all.reward.extend(total);
            all.parts.resize_with(scores.len(), Default::default);
            for ((name, values), (part, scores)) in all.parts.iter_mut().zip(scores) {
                *name = part;
                values.extend(scores.into_iter().map(f64::from));
            }
            Ok(images)
        })?;
        all.images = self.stack(&images.iter().collect::<Vec<_>>())?;
        Ok(all)
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = std::mem::take(&mut self.progress().notes);
        notes.extend(self.reward.notes());
        notes
    }

    fn without_gradient(&self) -> Option<String> {
        let term = reward::terms(self.reward).into_iter().find(|(_, reward)| !reward.differentiable());
        term.map(|(_, reward)| reward.name())
    }

    fn without_correction(&self) -> Option<String> {
        let scale = self.settings.cfg_scale;
        match self.pipeline.embeds_guidance() {
            true => Some("this model takes the guidance scale as an input".into()),
            false if self.two_branches() => None,
            false => Some(format!("`cfg_scale` {scale} runs without the other branch")),
        }
    }
}
