//! What a prompt leaves when its particles are drawn: pictures, `particles.jsonl`, the grid, latents, and the answer on
//! standard output.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::args::{Save, Select};
use super::record::object;
use super::sample::OnePrompt;
use super::session::{self, Judgement, Session};
use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::run::{Parameters, ParticleLine, RunDir, SCHEMA, grid, save_latents, write_atomic};
use crate::sampler::Population;

/// What one prompt came to.
pub(super) struct Saved {
    /// For `run.json`.
    pub result: Map<String, Value>,
    /// The particles returned, with the paths of their pictures, if any were written.
    returned: Vec<(Option<String>, ParticleLine)>,
}

impl OnePrompt<'_> {
    /// Writes everything but `run.json`.
    pub(super) fn save(&self, session: &Session<'_>, population: &Population) -> Result<Saved> {
        let (options, backend) = (self.options, session.backend);
        let best = match options.select {
            Select::Draw => population.draw(),
            Select::Argmax | Select::All => population.best(),
        };
        let pictures = session::pictures(backend, &population.images)?;
        // Where judging fails, the pictures are still worth keeping.
        let judged = session.judge(options, &population.images, &pictures);
        let (judgement, failed) = match judged {
            Ok(judgement) => (judgement, None),
            Err(e) => (Judgement::default(), Some(e)),
        };
        let mut lines: Vec<ParticleLine> =
            (0..pictures.len()).map(|p| self.line(population, &judgement, p, p == best)).collect();
        if options.save == Save::All {
            for (line, picture) in lines.iter_mut().zip(&pictures) {
                let name = RunDir::particle_name(line.index);
                let parameters = self.parameters(session, line);
                line.sha256 = Some(self.folder.write_png(&name, picture, parameters.as_ref())?);
                line.path = Some(name);
            }
        }
        self.folder.write_particles(&lines)?;
        let shown = self.show(session, &pictures, &lines, best)?;
        if options.save_latents {
            let values = backend.download(&population.x)?;
            save_latents(&self.folder.path().join("latents.safetensors"), population.x.shape(), &values)?;
        }
        if let Some(e) = failed {
            return Err(e);
        }
        let result = self.result(session, population, &lines[best]);
        let returned = match options.select {
            Select::All => lines.into_iter().map(|line| (self.path_of(&line), line)).collect(),
            Select::Argmax | Select::Draw => vec![(shown, lines.swap_remove(best))],
        };
        Ok(Saved { result, returned })
    }

    /// Writes the selected picture and the grid; returns the path of the former.
    fn show(
        &self,
        session: &Session<'_>,
        pictures: &[Picture],
        lines: &[ParticleLine],
        best: usize,
    ) -> Result<Option<String>> {
        const BEST: &str = "best.png";
        let options = self.options;
        if options.save == Save::None {
            return Ok(None);
        }
        let parameters = self.parameters(session, &lines[best]);
        self.folder.write_png(BEST, &pictures[best], parameters.as_ref())?;
        if options.grid && pictures.len() > 1 {
            self.folder.write_png("grid.png", &grid(pictures, Some(best)), None)?;
        }
        let written = self.folder.path().join(BEST);
        let Some(image) = &options.image else { return Ok(Some(text(&written))) };
        copy(&written, image)?;
        Ok(Some(text(image)))
    }

    /// The line of particle `p`, before its picture is written.
    fn line(&self, population: &Population, judgement: &Judgement, p: usize, is_best: bool) -> ParticleLine {
        ParticleLine {
            index: p,
            path: None,
            seed: self.options.seed,
            log_weight: population.log_weights[p],
            weight: population.weights[p],
            target: population.rewards[p],
            rewards: population.parts.iter().map(|(n, v)| (n.clone(), json!(v[p]))).collect(),
            eval_rewards: at(&judgement.held_out, p),
            reward_png: at(&judgement.quantised, p),
            is_best,
            lineage: population.lineage[p].clone(),
            sha256: None,
        }
    }

    fn path_of(&self, line: &ParticleLine) -> Option<String> {
        line.path.as_ref().map(|name| text(&self.folder.path().join(name)))
    }

    fn result(
        &self,
        session: &Session<'_>,
        population: &Population,
        best: &ParticleLine,
    ) -> Map<String, Value> {
        object(json!({
            "best": best.index,
            "weight": best.weight,
            "reward": best.target,
            "rewards": best.rewards,
            "eval_rewards": best.eval_rewards,
            "log_z": population.log_z,
            "log_z_error": population.log_z_error,
            "peak_bytes": session.backend.memory().peak,
        }))
    }

    /// What a picture says about its making; `None` with `--no-metadata`.
    fn parameters(&self, session: &Session<'_>, line: &ParticleLine) -> Option<Parameters> {
        let options = self.options;
        let field = |name: &str, value: String| (name.to_string(), value);
        let mut das = object(json!({"schema": SCHEMA}));
        das.extend(self.choices.deciding.clone());
        das.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
        das.insert(
            "result".into(),
            json!({
                "particle": line.index,
                "weight": line.weight,
                "reward": line.target,
                "rewards": line.rewards,
            }),
        );
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
            das: Value::Object(das),
        })
    }

    /// For standard output: paths, or one JSON object. Where no picture was written, the folder stands for them.
    pub(super) fn answer(&self, saved: Saved) -> String {
        let folder = text(self.folder.path());
        if !self.options.json {
            let paths: Vec<String> = saved.returned.into_iter().filter_map(|(path, _)| path).collect();
            return if paths.is_empty() { folder } else { paths.join("\n") };
        }
        let images: Vec<Value> = saved
            .returned
            .into_iter()
            .map(|(path, line)| {
                json!({
                    "path": path,
                    "particle": line.index,
                    "weight": line.weight,
                    "target": line.target,
                    "rewards": line.rewards,
                    "eval_rewards": line.eval_rewards,
                })
            })
            .collect();
        let mut answer = object(
            json!({"schema": SCHEMA, "index": self.index, "prompt": self.prompt.text, "folder": folder}),
        );
        answer.extend(saved.result);
        answer.insert("images".into(), json!(images));
        Value::Object(answer).to_string()
    }
}

/// One entry of each list, by name.
fn at(scores: &[(String, Vec<f32>)], index: usize) -> Map<String, Value> {
    scores.iter().map(|(name, values)| (name.clone(), json!(values[index]))).collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Another file with the same bytes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).map_err(|e| {
        Error::io(format!("{}: cannot be read", from.display())).because(e).fix("check what else uses it")
    })?;
    write_atomic(to, &bytes)
}
