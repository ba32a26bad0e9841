//! What a prompt leaves when its particles are drawn: pictures, `particles.jsonl`, the grid, latents, and the
//! answer on standard output.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::one::{OnePrompt, text};
use super::options::Options;
use super::record::{HASHES, object};
use super::values::{Save, Select};
use super::{held_out, meaning};
use crate::assets::SHAPES;
use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::run::{Parameters, ParticleLine, RunDir, SCHEMA, grid, save_latents, write_atomic};
use crate::session::{Estimate, Judgement, Samples, Session};

/// What one prompt came to.
pub(super) struct Saved {
    /// For `run.json`.
    pub result: Map<String, Value>,
    /// What the user should know of the rewards.
    pub warnings: Vec<String>,
    /// The particles returned.
    returned: Vec<Returned>,
}

/// A particle that is returned: the name of its picture in the folder, if one was written, and its line.
pub(super) type Returned = (Option<String>, Map<String, Value>);

impl Saved {
    /// The reward of the one particle that is returned, where one is.
    pub(super) fn returned_reward(&self, options: &Options) -> Option<f64> {
        match options.select {
            Select::All => None,
            _ => self.result.get("reward").and_then(Value::as_f64),
        }
    }
}

/// What other programs call the chain: every model's is sampled as DDIM does.
const SAMPLER: &str = "DDIM";

/// Name of the selected picture.
pub(super) const BEST: &str = "best.png";
/// Name of the picture of all particles.
pub(super) const GRID: &str = "grid.png";
/// Name of the file of final latents.
pub(super) const LATENTS: &str = "latents.safetensors";

impl OnePrompt<'_> {
    /// Writes everything but `run.json`; `stopped` names the limit that ended the run early.
    pub(super) fn save(
        &self,
        session: &Session,
        samples: &Samples,
        folder: &RunDir,
        stopped: Option<&str>,
    ) -> Result<Saved> {
        let (options, backend) = (self.options, session.backend());
        let (population, pictures) = (&samples.population, &samples.pictures);
        let best = options.select.particle(population);
        // Where judging fails, the pictures are still worth keeping.
        let judged = session.judge(samples, 0, &options.sample);
        let (judgement, failed) = match judged {
            Ok(judgement) => (judgement, None),
            Err(e) => (Judgement::default(), Some(e)),
        };
        let mut lines: Vec<ParticleLine> =
            (0..pictures.len()).map(|p| self.line(samples, &judgement, p, p == best)).collect();
        if options.save == Save::All {
            for (line, picture) in lines.iter_mut().zip(pictures) {
                let name = RunDir::particle_name(line.index);
                let parameters = self.parameters(session, Some(line), stopped);
                line.sha256 = Some(folder.write_png(&name, picture, parameters.as_ref())?);
                line.path = Some(name);
            }
        }
        folder.write_particles(&lines)?;
        let shown = self.show(session, pictures, &lines[best], folder, stopped)?;
        if options.save_latents {
            let values = backend.download(&population.x)?;
            save_latents(&folder.path().join(LATENTS), population.x.shape(), &values)?;
        }
        if let Some(e) = failed {
            return Err(e);
        }
        let warnings =
            self.plain.map(|plain| held_out::warnings(samples, &judgement, plain, options.proposal));
        let result = self.result(session, samples, &lines[best]);
        let returned = match options.select {
            Select::All => lines.into_iter().map(|line| (line.path.clone(), fields(&line))).collect(),
            Select::Argmax | Select::Reward | Select::Draw => vec![(shown, fields(&lines[best]))],
        };
        Ok(Saved { result, warnings: warnings.unwrap_or_default(), returned })
    }

    /// Writes the selected picture and the grid; returns the name of the former.
    fn show(
        &self,
        session: &Session,
        pictures: &[Picture],
        best: &ParticleLine,
        folder: &RunDir,
        stopped: Option<&str>,
    ) -> Result<Option<String>> {
        let options = self.options;
        if options.save == Save::None {
            return Ok(None);
        }
        let parameters = self.parameters(session, Some(best), stopped);
        folder.write_png(BEST, &pictures[best.index], parameters.as_ref())?;
        if options.grid && options.save == Save::All && pictures.len() > 1 {
            let all = grid(pictures, Some(best.index));
            folder.write_png(GRID, &all, self.parameters(session, None, stopped).as_ref())?;
        }
        Ok(Some(BEST.into()))
    }

    /// The line of particle `p`, before its picture is written.
    fn line(&self, samples: &Samples, judgement: &Judgement, p: usize, is_best: bool) -> ParticleLine {
        let population = &samples.population;
        ParticleLine {
            index: p,
            population: p / (population.rewards.len() / samples.estimates.len()),
            path: None,
            seed: self.draw.seed,
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

    fn result(&self, session: &Session, samples: &Samples, best: &ParticleLine) -> Map<String, Value> {
        let population = &samples.population;
        let estimate = |estimate: &Estimate| {
            let Estimate { seed, log_z, log_z_error, .. } = estimate;
            json!({"seed": seed, "log_z": log_z, "log_z_error": log_z_error})
        };
        object(json!({
            "best": best.index,
            "weight": best.weight,
            "reward": best.target,
            "rewards": best.rewards,
            "eval_rewards": best.eval_rewards,
            "log_z": population.log_z,
            "log_z_error": population.log_z_error,
            "log_z_unreliable": samples.unreliable(),
            "populations": samples.estimates.iter().map(estimate).collect::<Vec<_>>(),
            "ess": population.ess(),
            "roots_alive": population.roots_alive(),
            "distinct_pictures": samples.distinct_pictures(),
            "peak_bytes": session.backend().memory().peak,
        }))
    }

    /// What a picture says about its making: that of one particle, or of all in one. `None` with
    /// `--no-metadata`.
    fn parameters(
        &self,
        session: &Session,
        line: Option<&ParticleLine>,
        stopped: Option<&str>,
    ) -> Option<Parameters> {
        let options = self.options;
        let mut record = object(json!({"schema": SCHEMA}));
        record.extend(self.choices.deciding.clone());
        record.extend(HASHES.iter().filter_map(|key| Some((key.to_string(), self.files.get(*key)?.clone()))));
        record.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
        if let Some(stopped) = stopped {
            record.insert("stopped".into(), json!(stopped));
        }
        if let Some(line) = line {
            record.insert(
                "result".into(),
                json!({
                    "particle": line.index,
                    "weight": line.weight,
                    "reward": line.target,
                    "rewards": line.rewards,
                }),
            );
        }
        let mut fields = vec![
            ("Steps", options.steps.to_string()),
            ("Sampler", SAMPLER.into()),
            ("CFG scale", options.cfg_scale.to_string()),
            ("Seed", self.draw.seed.to_string()),
            ("Size", format!("{}x{}", self.choices.deciding["width"], self.choices.deciding["height"])),
        ];
        fields.extend(self.model_hash().map(|hash| ("Model hash", hash)));
        fields.push(("Model", model_label(options)));
        let decoder = &session.pipeline().decoder;
        fields.extend(decoder.approximates().then(|| ("VAE", decoder.class().into())));
        fields.extend(self.hashes_of("loras").map(|hashes| ("Lora hashes", hashes)));
        fields.extend(self.hashes_of("embeddings").map(|hashes| ("TI hashes", hashes)));
        fields.push(("Version", format!("das-cuda {}", env!("CARGO_PKG_VERSION"))));
        options.metadata.then(|| Parameters {
            prompt: self.prompt.text.clone(),
            negative_prompt: self.prompt.negative.clone().unwrap_or_default(),
            fields: fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect(),
            record: Value::Object(record),
        })
    }

    /// The first ten digits of the SHA-256 of the UNet's weights (their first file), as other programs name a
    /// model.
    fn model_hash(&self) -> Option<String> {
        let files = self.files.get("model_files")?.as_object()?;
        let weights = |name: &&String| name.starts_with("unet/") && name.ends_with(".safetensors");
        let first = files.keys().filter(weights).min()?;
        files[first].as_str()?.get(..10).map(String::from)
    }

    /// Names of LoRA files or embeddings with the first ten digits of their SHA-256, as other programs name
    /// them.
    fn hashes_of(&self, key: &str) -> Option<String> {
        let files = self.choices.deciding.get(key)?.as_array().filter(|files| !files.is_empty())?;
        let named = |file: &Value| {
            Some(format!("{}: {}", file["name"].as_str()?, file["sha256"].as_str()?.get(..10)?))
        };
        Some(files.iter().filter_map(named).collect::<Vec<_>>().join(", "))
    }

    /// What goes to standard output of what was saved in `folder`.
    pub(super) fn answer(&self, folder: &Path, saved: Saved) -> Vec<u8> {
        self.output_text(folder, saved.result, saved.returned)
    }

    /// For standard output: paths, byte for byte, or one JSON object. Where no picture was written, the
    /// folder stands for them.
    pub(super) fn output_text(
        &self,
        folder: &Path,
        result: Map<String, Value>,
        returned: Vec<Returned>,
    ) -> Vec<u8> {
        let shown = |name: Option<String>| match (&self.options.image, name) {
            (Some(image), Some(_)) => Some(image.clone()),
            (_, name) => name.map(|name| folder.join(name)),
        };
        if !self.options.json {
            let mut paths: Vec<PathBuf> = returned.into_iter().filter_map(|(name, _)| shown(name)).collect();
            if paths.is_empty() {
                paths.push(folder.into());
            }
            let bytes: Vec<&[u8]> = paths.iter().map(|path| path.as_os_str().as_encoded_bytes()).collect();
            return bytes.join(&b'\n');
        }
        let image = |(name, line): Returned| {
            json!({
                "path": shown(name).as_deref().map(text),
                "particle": line["index"],
                "weight": line["weight"],
                "target": line["target"],
                "rewards": line["rewards"],
                "eval_rewards": line["eval_rewards"],
            })
        };
        let images: Vec<Value> = returned.into_iter().map(image).collect();
        let mut answer = object(json!({
            "schema": SCHEMA,
            "index": self.draw.index,
            "seed": self.draw.seed,
            "prompt": self.prompt.text,
            "folder": text(folder),
        }));
        answer.extend(result);
        answer.insert("images".into(), json!(images));
        Value::Object(answer).to_string().into_bytes()
    }

    /// Refuses to replace the file that was named for the picture, unless that is asked for.
    ///
    /// # Errors
    /// As [`meaning::unclaimed`].
    pub(super) fn unclaimed(&self) -> Result<()> {
        let overwrite = self.options.overwrite;
        self.options.image.iter().try_for_each(|image| meaning::unclaimed(image, overwrite))
    }

    /// As [`OnePrompt::unclaimed`], where the result in `folder` is finished: its picture may be in that file
    /// already.
    ///
    /// # Errors
    /// As [`meaning::unclaimed`].
    pub(super) fn unclaimed_or_copied(&self, folder: &Path) -> Result<()> {
        let Some(image) = &self.options.image else { return Ok(()) };
        let read = |path: &Path| std::fs::read(path).ok();
        if read(image).is_some_and(|copied| read(&folder.join(BEST)).is_some_and(|best| best == copied)) {
            return Ok(());
        }
        self.unclaimed()
    }

    /// Copies the selected picture to the file that was named for it.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub(super) fn copy_image(&self, folder: &Path) -> Result<()> {
        match &self.options.image {
            Some(image) => copy(&folder.join(BEST), image),
            None => Ok(()),
        }
    }
}

/// The model's name as other programs write it: `shapes`, or the name of the folder.
fn model_label(options: &Options) -> String {
    let Some(path) = &options.model else { return SHAPES.to_string() };
    let whole = path.canonicalize().unwrap_or_else(|_| path.clone());
    whole.file_name().map_or_else(|| text(path), |name| name.to_string_lossy().into_owned())
}

/// A line as an object.
fn fields(line: &ParticleLine) -> Map<String, Value> {
    object(json!(line))
}

/// One entry of each list, by name.
fn at(scores: &[(String, Vec<f32>)], index: usize) -> Map<String, Value> {
    scores.iter().map(|(name, values)| (name.clone(), json!(values[index]))).collect()
}

/// Another file with the same bytes.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).map_err(|e| {
        Error::io(format!("{}: cannot be read", from.display())).because(e).advice("check what else uses it")
    })?;
    write_atomic(to, &bytes)
}
