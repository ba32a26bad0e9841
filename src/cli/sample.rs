//! `sample`: draws, records and saves, prompt by prompt. Whatever is finished is on disk, whenever the run ends.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::args::{Save, Select};
use super::options::Options;
use super::plan;
use super::progress::Progress;
use super::prompts::Prompt;
use super::session::{self, Session};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::pixels::Picture;
use crate::reward::Sum;
use crate::run::{
    Lines, Parameters, ParticleLine, RunDir, Status, TraceLine, grid, load_latents, save_latents,
};
use crate::sampler::{Population, PromptStep, Step};
use crate::tensor::{HostSlice, Tensor};

/// Set by Ctrl-C; looked at between steps.
static STOP: AtomicBool = AtomicBool::new(false);

/// The command. `flags` are the options as typed, for the record.
///
/// # Errors
/// Of the options, the model, the output directory; [`ErrorKind::Interrupted`] after Ctrl-C, with everything
/// finished kept.
pub fn run(options: Options, flags: Vec<String>) -> Result<()> {
    let folders: Vec<RunDir> =
        options.prompts.iter().enumerate().map(|(i, p)| RunDir::new(&options.output, i, &p.text)).collect();
    folders.iter().try_for_each(|f| f.check(options.overwrite))?;
    // An output that cannot be written is found before anything is computed.
    folders[0].start(options.overwrite)?;
    // A second Ctrl-C before a step ends kills the program at once.
    let twice = || {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    };
    // Without a handler, Ctrl-C still ends the program; nothing else depends on it.
    let _ = ctrlc::set_handler(twice);

    let options = plan::at_equal_cost(options)?;
    let cpu = session::cpu(options.dtype);
    let mut session = Session::open(&cpu, &options)?;
    let latents = initial(&session, &options)?;
    let mut progress =
        Progress::new((options.prompts.len() * (session.schedule.len() + 1)) as u64, options.quiet);
    for (index, (prompt, folder)) in options.prompts.iter().zip(&folders).enumerate() {
        if index > 0 {
            folder.start(options.overwrite)?;
        }
        let mut one = OnePrompt { options: &options, flags: &flags, prompt, folder, index };
        let printed = one.run(&mut session, latents.as_ref(), &mut progress)?;
        progress.result(&printed);
    }
    progress.finish();
    Ok(())
}

/// The latents of `--latents`.
fn initial(session: &Session<'_>, options: &Options) -> Result<Option<Tensor>> {
    let Some(path) = &options.latents else { return Ok(None) };
    let shape = session.size.latent.with_n(options.particles);
    let values = load_latents(path, shape)?;
    session.backend.upload(shape, HostSlice::F32(&values)).map(Some)
}

/// One prompt of a run.
struct OnePrompt<'a> {
    options: &'a Options,
    flags: &'a [String],
    prompt: &'a Prompt,
    folder: &'a RunDir,
    index: usize,
}

impl OnePrompt<'_> {
    /// Samples and saves; returns what goes to standard output.
    fn run(
        &mut self,
        session: &mut Session<'_>,
        latents: Option<&Tensor>,
        progress: &mut Progress,
    ) -> Result<String> {
        let (options, backend) = (self.options, session.backend);
        let began = Instant::now();
        let mut record = self.record(session)?;
        self.folder.write_run(Status::Running, &record)?;
        let mut trace = self.folder.trace()?;
        let (schedule, kl) = (session.schedule.clone(), session.kl);
        let (guide, warnings) = session.guide(options, self.prompt, self.index)?;
        warnings.iter().for_each(|w| progress.warn(w));
        let mut sampler = session::sampler(backend, &guide, &schedule, options, kl, self.index, latents)?;
        for step in &mut sampler {
            let step = step?;
            trace_step(&mut trace, &step, backend)?;
            step.losses.iter().for_each(|loss| progress.warn(&loss.to_string()));
            progress.step(&self.message(&step.prompts[0]));
            if STOP.load(Ordering::SeqCst) && step.step < schedule.len() {
                self.folder.write_run(Status::Interrupted, &record)?;
                progress.finish();
                return Err(Error::new(
                    ErrorKind::Interrupted,
                    format!(
                        "stopped after step {} of {} of prompt {}; what is finished is in {}",
                        step.step + 1,
                        schedule.len(),
                        self.index + 1,
                        options.output.display()
                    ),
                ));
            }
        }
        let population = sampler.populations()?.swap_remove(0);
        drop(sampler);
        drop(guide);
        let summary = self.save(session, &population)?;
        record.insert("seconds".into(), json!(began.elapsed().as_secs_f64()));
        record.extend(summary.record.clone());
        self.folder.write_run(Status::Finished, &record)?;
        Ok(if options.json {
            let mut line = json!({"index": self.index, "prompt": self.prompt.text, "folder": path_text(self.folder.path())});
            if let Some(object) = line.as_object_mut() {
                object.extend(summary.record);
                object.insert("images".into(), json!(summary.images));
            }
            line.to_string()
        } else {
            summary.images.join("\n")
        })
    }

    /// Progress in a few words.
    fn message(&self, step: &PromptStep) -> String {
        let best = step.reward.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let reward = if best.is_finite() { format!("best reward {best:.3}  ") } else { String::new() };
        let short: String = self.prompt.text.chars().take(32).collect();
        format!("{reward}ess {:.1}  {short}", step.ess)
    }

    /// Everything that decides the result, for `run.json`.
    fn record(&self, session: &Session<'_>) -> Result<Map<String, Value>> {
        let options = self.options;
        let hashes: Map<String, Value> =
            session.folder.hashes()?.iter().map(|h| (h.path.clone(), json!(h.sha256))).collect();
        let names =
            |sum: &Sum| sum.parts().map(|(w, r)| json!({"name": r.name(), "weight": w})).collect::<Vec<_>>();
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let value = json!({
            "program": "das-cuda",
            "version": env!("CARGO_PKG_VERSION"),
            "command": self.flags,
            "prompt": self.prompt.text,
            "negative_prompt": self.prompt.negative,
            "index": self.index,
            "seed": options.seed,
            "model": session.model_name(options),
            "model_files": hashes,
            "width": session.size.width,
            "height": session.size.height,
            "steps": options.steps,
            "cfg_scale": options.cfg_scale,
            "eta": options.eta,
            "scheduler": session.pipeline.scheduler.class,
            "proposal": options.proposal.to_string(),
            "particles": options.particles,
            "rewards": names(&session.reward),
            "eval_rewards": session.eval.as_ref().map(names).unwrap_or_default(),
            "kl": session.kl,
            "tempering": options.rules.tempering.to_string(),
            "tempering_start": options.tempering_start,
            "resample": options.rules.resampler.to_string(),
            "ess_threshold": options.rules.ess_threshold,
            "latents": options.latents,
            "device": session.backend.name(),
            "dtype": format!("{:?}", options.dtype).to_lowercase(),
            "micro_batch": session.micro_batch(options),
            "unet_evaluations": session::evaluations(options, &session.pipeline),
            "started": started,
        });
        let Value::Object(map) = value else { unreachable!("an object") };
        Ok(map)
    }

    /// Writes pictures, particles, grid and latents.
    fn save(&self, session: &Session<'_>, population: &Population) -> Result<Summary> {
        let (options, backend) = (self.options, session.backend);
        let best = match options.select {
            Select::Draw => population.draw(),
            Select::Argmax | Select::All => population.best(),
        };
        let pictures = pictures(backend, &population.images)?;
        let prompt_of = vec![0; pictures.len()];
        let mut held_out = Vec::new();
        let mut quantised = session.reward.picture_scores(backend, &pictures, &prompt_of)?;
        if let Some(eval) = &session.eval {
            held_out = eval.part_scores(backend, &population.images, &prompt_of)?;
            quantised.extend(eval.picture_scores(backend, &pictures, &prompt_of)?);
        }
        let mut images = Vec::new();
        let mut lines = Vec::with_capacity(pictures.len());
        for (p, picture) in pictures.iter().enumerate() {
            let rewards: Map<_, _> = population.parts.iter().map(|(n, v)| (n.clone(), json!(v[p]))).collect();
            let mut line = ParticleLine {
                index: p,
                path: None,
                seed: options.seed,
                log_weight: population.log_weights[p],
                weight: population.weights[p],
                target: population.rewards[p],
                rewards,
                eval_rewards: at(&held_out, p),
                reward_png: at(&quantised, p),
                is_best: p == best,
                lineage: population.lineage[p].clone(),
                sha256: None,
            };
            if options.save == Save::All {
                let name = RunDir::particle_name(p);
                let parameters = self.parameters(session, &line);
                line.sha256 = Some(self.folder.write_png(&name, picture, parameters.as_ref())?);
                images.push(path_text(&self.folder.path().join(&name)));
                line.path = Some(name);
            }
            lines.push(line);
        }
        self.folder.write_particles(&lines)?;
        if options.save != Save::None {
            let parameters = self.parameters(session, &lines[best]);
            self.folder.write_png("best.png", &pictures[best], parameters.as_ref())?;
            if options.grid && pictures.len() > 1 {
                self.folder.write_png("grid.png", &grid(&pictures, Some(best)), None)?;
            }
            if options.select != Select::All || images.is_empty() {
                images = vec![path_text(&self.folder.path().join("best.png"))];
            }
        }
        if options.save_latents {
            let values = backend.download(&population.x)?;
            save_latents(&self.folder.path().join("latents.safetensors"), population.x.shape(), &values)?;
        }
        if images.is_empty() {
            images.push(path_text(self.folder.path()));
        }
        let record = json!({
            "best": best,
            "reward": lines[best].target,
            "rewards": lines[best].rewards,
            "eval_rewards": lines[best].eval_rewards,
            "log_z": finite(population.log_z),
            "log_z_error": finite(population.log_z_error),
        });
        let Value::Object(record) = record else { unreachable!("an object") };
        Ok(Summary { images, record })
    }

    /// What a picture says about its making; `None` with `--no-metadata`.
    fn parameters(&self, session: &Session<'_>, line: &ParticleLine) -> Option<Parameters> {
        let options = self.options;
        let field = |name: &str, value: String| (name.to_string(), value);
        options.metadata.then(|| Parameters {
            prompt: self.prompt.text.clone(),
            negative_prompt: self.prompt.negative.clone(),
            fields: vec![
                field("Steps", options.steps.to_string()),
                field("Sampler", "DDIM".into()),
                field("CFG scale", options.cfg_scale.to_string()),
                field("Seed", options.seed.to_string()),
                field("Size", format!("{}x{}", session.size.width, session.size.height)),
                field("Model", session.model_name(options)),
                field("Version", format!("das-cuda {}", env!("CARGO_PKG_VERSION"))),
            ],
            das: json!({
                "prompt": self.prompt.text,
                "index": self.index,
                "particle": line.index,
                "weight": line.weight,
                "reward": line.target,
                "rewards": line.rewards,
                "proposal": options.proposal.to_string(),
                "particles": options.particles,
                "kl": session.kl,
                "eta": options.eta,
                "tempering": options.rules.tempering.to_string(),
                "resample": options.rules.resampler.to_string(),
                "ess_threshold": options.rules.ess_threshold,
            }),
        })
    }
}

/// What one prompt came to.
struct Summary {
    /// Paths for standard output.
    images: Vec<String>,
    record: Map<String, Value>,
}

/// One entry of each list, by name.
fn at(scores: &[(String, Vec<f32>)], index: usize) -> Map<String, Value> {
    scores.iter().map(|(name, values)| (name.clone(), json!(values[index]))).collect()
}

/// JSON knows no infinity.
fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

/// The images `(n, h, w, 3)` as 8-bit pictures.
pub fn pictures(backend: &dyn Backend, images: &Tensor) -> Result<Vec<Picture>> {
    let shape = images.shape();
    let values = backend.download(images)?;
    Ok(values.chunks(shape.sample()).map(|pixels| Picture::from_floats(shape.w, shape.h, pixels)).collect())
}

/// Writes the trace's line of a step.
fn trace_step(trace: &mut Lines, step: &Step, backend: &dyn Backend) -> Result<()> {
    let of_prompt =
        |prompt| step.losses.iter().filter(|loss| loss.prompt == prompt).map(ToString::to_string).collect();
    for prompt in &step.prompts {
        trace.push(&TraceLine {
            step: step.step,
            t: step.t,
            lambda: prompt.lambda,
            lambda_next: prompt.lambda_next,
            log_weights: prompt.log_weights.clone(),
            log_w_increment: prompt.log_w_increment.clone(),
            ess: prompt.ess,
            resampled: prompt.resampled,
            ancestors: prompt.ancestors.clone(),
            reward: prompt.reward.clone(),
            grad_norm: prompt.grad_norm.clone(),
            log_z_increment: prompt.log_z_increment,
            log_z: prompt.log_z,
            roots_alive: prompt.roots_alive,
            collapsed: prompt.collapsed,
            losses: of_prompt(prompt.prompt),
            ms: step.ms,
            peak_bytes: backend.memory().peak,
        })?;
    }
    Ok(())
}
