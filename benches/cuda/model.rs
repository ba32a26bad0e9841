//! A model of full size on a backend, and one evaluation of the target at its latents.

use std::path::Path;

use das_cuda::backend::{Backend, ParticleId};
use das_cuda::ddim::{Schedule, Step};
use das_cuda::model::files::Source;
use das_cuda::model::folder::ModelFolder;
use das_cuda::model::pipeline::{LongPrompts, Pipeline, Prompt, Size};
use das_cuda::noise::Purpose;
use das_cuda::reward::{self, Reward, Sum};
use das_cuda::sampler::{Evaluation, Need, Target};
use das_cuda::tape::Recompute;
use das_cuda::target::{Diffusion, Gradient, Settings};
use das_cuda::tensor::{Shape, Tensor};
use das_cuda::{Error, Result};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::json;

use crate::say;

const PROMPT: &str = "a large red star";
/// As the authors' runs: 100 steps with guidance 5.
const STEPS: usize = 100;
const GUIDANCE: f32 = 5.0;
/// A step in the middle of the chain.
const AT: usize = 50;

/// A model and a reward on a backend.
pub struct Model {
    pipeline: Pipeline,
    reward: Sum,
    size: Size,
    step: Step,
}

impl Model {
    pub fn load(backend: &dyn Backend, folder: &Path) -> Result<Model> {
        let folder = ModelFolder::open(folder, None)?;
        let pipeline = Pipeline::load(backend, &folder)?;
        let mut reward = reward::open(&["aesthetic".parse()?], folder.source(), backend)?;
        reward.prepare(backend, &[PROMPT.into()])?;
        let schedule = Schedule::new(&pipeline.scheduler, STEPS, 1.0)?;
        let size = pipeline.size(None, None)?;
        Ok(Model { size, step: schedule.steps[AT], pipeline, reward })
    }

    /// A target; `backend` may be one that watches the one that holds the weights.
    pub fn target<'a>(&'a self, backend: &'a dyn Backend, micro_batch: usize) -> Result<Diffusion<'a>> {
        let prompt = Prompt { text: PROMPT, negative: None };
        let texts = self.pipeline.encode(backend, &[prompt], self.size, GUIDANCE, LongPrompts::Cut)?;
        let settings = Settings {
            cfg_scale: GUIDANCE,
            micro_batch,
            recompute: Recompute::Nothing,
            gradient: Gradient::State,
        };
        Ok(Diffusion::new(backend, &self.pipeline, &self.reward, texts, vec![0], self.size, settings))
    }

    pub fn evaluate(&self, target: &Diffusion<'_>, x: &Tensor) -> Result<Evaluation> {
        target.evaluate(x, &ids(x.shape().n), &self.step, Need::Gradient)
    }

    pub fn latents(&self, backend: &dyn Backend, n: usize) -> Result<Tensor> {
        backend.normals(self.size.latent.with_n(n), 7, 0, Purpose::Initial, &ids(n))
    }
}

fn ids(n: usize) -> Vec<ParticleId> {
    (0..n as u32).map(|particle| ParticleId { prompt: 0, particle }).collect()
}

/// Writes what a look at `n` latents is given and what it sees to `look-NAME.safetensors` in the folder, for
/// comparison with PyTorch.
pub fn save(backend: &dyn Backend, model: &Model, name: &str, folder: &Path, n: usize) -> Result<()> {
    let target = model.target(backend, n)?;
    let x = model.latents(backend, n)?;
    let evaluation = model.evaluate(&target, &x)?;
    let tokenizer = ModelFolder::from_source(Source::Dir(folder.into()), None)?.tokenizer("tokenizer", 77)?;
    let ids = ["", PROMPT].map(|text| tokenizer.encode(text).ids).concat();
    let numbers = |v: &[f64]| v.iter().map(|&v| v as f32).collect::<Vec<_>>();
    let mut tensors = vec![
        ("x", dims(x.shape()), backend.download(&x)?),
        ("eps", dims(x.shape()), backend.download(&evaluation.eps)?),
        ("x0", dims(x.shape()), backend.download(&evaluation.x0)?),
        ("ids", vec![2, ids.len() / 2], ids.iter().map(|&id| id as f32).collect()),
        // What makes noise and clean latent of a state and the network's output.
        ("eps_map", vec![2], numbers(&[model.step.eps.first, model.step.eps.second])),
        ("x0_map", vec![2], numbers(&[model.step.x0.first, model.step.x0.second])),
        ("t", vec![1], numbers(&[model.step.t as f64])),
        ("guidance", vec![1], vec![GUIDANCE]),
    ];
    let reward = evaluation.reward.as_ref().map(|scores| scores.download(backend)).transpose()?;
    if let (Some(reward), Some(grad)) = (&reward, &evaluation.grad) {
        tensors.push(("reward", vec![n], numbers(reward)));
        tensors.push(("grad", dims(x.shape()), backend.download(grad)?));
    }
    let views = tensors.iter().map(|(name, dims, data)| {
        let view = TensorView::new(Dtype::F32, dims.clone(), bytemuck::cast_slice(data));
        (*name, view.expect("as long as it says"))
    });
    let path = folder.join(format!("evaluation-{name}.safetensors"));
    let bytes = safetensors::serialize(views, None).expect("tensors");
    std::fs::write(&path, bytes).map_err(|e| Error::io(path.display().to_string()).because(e))?;
    say(json!({"kind": "evaluation", "file": path, "reward": reward}));
    Ok(())
}

fn dims(s: Shape) -> Vec<usize> {
    vec![s.n, s.h, s.w, s.c]
}
