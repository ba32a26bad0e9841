//! A run between two steps, to go on from later or elsewhere.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::genealogy::{Drawn, Genealogy};
use super::{Held, Options, Sampler};
use crate::ddim::Schedule;
use crate::engine::EngineState;
use crate::error::{Error, Result};
use crate::hash::sha256;
use crate::smc::Population;
use crate::tensor::{HostSlice, Shape, Tensor};

/// Name of the header's one entry.
const HEADER: &str = "das-cuda snapshot";
/// Version of the layout.
const SCHEMA: u32 = 4;

/// What to do about a snapshot that is not whole.
const AGAIN: &str = "go on from another snapshot, or begin the run anew";

/// Everything that a run is after some step: latents, log-weights, twists, lambda, log Z, the log ratios of
/// the last move, which particles are dead, and the genealogy. [`Sampler::snapshot`] takes it;
/// [`Sampler::restore`] goes on from it, to the same bits as the run that was not stopped.
///
/// It also says what the run depends on, as far as the sampler knows: options, chain and size of the latents.
/// Model and reward are the caller's to keep the same.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The step that follows, from 0.
    step: usize,
    /// What the run depends on, by name.
    run: BTreeMap<String, String>,
    shape: Shape,
    /// Of all slots.
    latents: Vec<f32>,
    state: EngineState,
    /// Slots whose death has been reported.
    dead: Vec<bool>,
    families: Vec<Genealogy>,
    /// A gradient that guides further steps: of all slots, and the factor of each prompt.
    held: Option<(Vec<f32>, Vec<f64>)>,
}

impl Snapshot {
    /// Steps that had been taken: the number of the one that follows.
    pub fn step(&self) -> usize {
        self.step
    }

    /// The snapshot as a safetensors file: f64 as they are, bit for bit; what the run depends on is JSON in
    /// the header.
    ///
    /// | tensor | type | shape (B prompts that are at P particles, after k steps) |
    /// |---|---|---|
    /// | `latents` | F32 | (B P, h, w, c) |
    /// | `log_weights`, `psi`, `log_ratio` | F64 | (B, P) |
    /// | `kept` | F64 | (B, P): what the potentials keep; minus infinity for nothing |
    /// | `lambda`, `log_z` | F64 | (B) |
    /// | `dead` | U8 | (B, P), 1: reported as dead |
    /// | `since` | F64 | (B, P): weights after the last draw of ancestors |
    /// | `ancestors` | U32 | of every step of every prompt, one after another |
    /// | `sizes` | U32 | (k): ancestors of one prompt at each step |
    /// | `drawn` | F64 | (k, B, 2): effective sample size, squared error of a draw; 0: none |
    /// | `initial` | U32 | (1): particles of a prompt at the start |
    /// | `held` | F32 | (B P, h, w, c): gradient that guides further steps; absent where there is none |
    /// | `held_lambda` | F64 | (B): its factor, absent with it |
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where it cannot be encoded.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let populations = &self.state.populations;
        let (prompts, steps) = (self.families.len(), self.families[0].len());
        let particles = self.dead.len() / prompts;
        let per_slot = |f: fn(&Population) -> &[f64]| -> Vec<u8> {
            le(&populations.iter().flat_map(|p| f(p).iter().copied()).collect::<Vec<f64>>())
        };
        let per_prompt = |f: fn(&Population) -> f64| le(&populations.iter().map(f).collect::<Vec<f64>>());
        let flags = |flags: &mut dyn Iterator<Item = bool>| flags.map(u8::from).collect::<Vec<u8>>();
        let (mut ancestors, mut drawn) = (Vec::new(), Vec::new());
        for k in 0..steps {
            for family in &self.families {
                ancestors.extend_from_slice(&family.ancestors[k]);
                let none = Drawn { ess: 0.0, error: 0.0 };
                let Drawn { ess, error } = family.drawn[k].unwrap_or(none);
                drawn.extend([ess, error]);
            }
        }
        let sizes: Vec<u32> = self.families[0].ancestors.iter().map(|list| list.len() as u32).collect();
        let since: Vec<f64> = self.families.iter().flat_map(|family| family.since.iter().copied()).collect();
        let Shape { n, h, w, c } = self.shape;
        let whole = |list: &[u32]| list.iter().flat_map(|a| a.to_le_bytes()).collect::<Vec<u8>>();
        let latents: Vec<u8> = self.latents.iter().flat_map(|x| x.to_le_bytes()).collect();
        let mut tensors = vec![
            ("latents", Dtype::F32, vec![n, h, w, c], latents),
            ("log_weights", Dtype::F64, vec![prompts, particles], per_slot(|p| &p.log_weights)),
            ("psi", Dtype::F64, vec![prompts, particles], per_slot(|p| &p.psi)),
            ("kept", Dtype::F64, vec![prompts, particles], per_slot(|p| &p.kept)),
            ("log_ratio", Dtype::F64, vec![prompts, particles], le(&self.state.log_ratio)),
            ("lambda", Dtype::F64, vec![prompts], per_prompt(|p| p.lambda)),
            ("log_z", Dtype::F64, vec![prompts], per_prompt(|p| p.log_z)),
            ("dead", Dtype::U8, vec![prompts, particles], flags(&mut self.dead.iter().copied())),
            ("since", Dtype::F64, vec![prompts, particles], le(&since)),
            ("ancestors", Dtype::U32, vec![ancestors.len()], whole(&ancestors)),
            ("sizes", Dtype::U32, vec![steps], whole(&sizes)),
            ("drawn", Dtype::F64, vec![steps, prompts, 2], le(&drawn)),
            ("initial", Dtype::U32, vec![1], whole(&[self.families[0].initial as u32])),
        ];
        if let Some((grad, lambdas)) = &self.held {
            let grad: Vec<u8> = grad.iter().flat_map(|x| x.to_le_bytes()).collect();
            tensors.push(("held", Dtype::F32, vec![n, h, w, c], grad));
            tensors.push(("held_lambda", Dtype::F64, vec![prompts], le(lambdas)));
        }
        let encode = |e: &dyn std::fmt::Display| Error::io(format!("the snapshot cannot be encoded: {e}"));
        let views = tensors.iter().map(|(name, dtype, shape, data)| {
            TensorView::new(*dtype, shape.clone(), data).map(|view| (*name, view))
        });
        let views: Vec<_> = views.collect::<Result<_, _>>().map_err(|e| encode(&e))?;
        let header = serde_json::json!({"schema": SCHEMA, "step": self.step, "run": self.run});
        let header = HashMap::from([(HEADER.to_string(), header.to_string())]);
        safetensors::serialize(views, Some(header)).map_err(|e| encode(&e))
    }

    /// Reads what [`to_bytes`](Snapshot::to_bytes) wrote.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) where the bytes are no snapshot, are damaged, or are of
    /// another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Snapshot> {
        let no_snapshot =
            || Error::io("not a snapshot of a run").advice("give a file that a run has written");
        let file = SafeTensors::deserialize(bytes).map_err(|e| no_snapshot().because(e))?;
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| no_snapshot().because(e))?;
        let header = metadata.metadata().as_ref().and_then(|map| map.get(HEADER)).ok_or_else(no_snapshot)?;
        let header: serde_json::Value = serde_json::from_str(header).map_err(|e| no_snapshot().because(e))?;
        if header["schema"] != SCHEMA {
            return Err(Error::io(format!(
                "a snapshot of version {}; this program reads version {SCHEMA}",
                header["schema"]
            ))
            .advice("resume with the version of the program that wrote it"));
        }
        let run = header["run"].as_object().ok_or_else(no_snapshot)?;
        let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_string();
        let run = run.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        let step = header["step"].as_u64().ok_or_else(no_snapshot)? as usize;

        let tensor = |name: &'static str, dtype: Dtype, rank: usize| {
            let wrong = || Error::io(format!("the snapshot is damaged: tensor `{name}`")).advice(AGAIN);
            let view = file.tensor(name).map_err(|e| wrong().because(e))?;
            if (view.dtype(), view.shape().len()) != (dtype, rank) {
                return Err(wrong());
            }
            Ok((view.shape().to_vec(), view.data().to_vec()))
        };
        let (latents_shape, latents) = tensor("latents", Dtype::F32, 4)?;
        let (shape, log_weights) = tensor("log_weights", Dtype::F64, 2)?;
        let (of_psi, psi) = tensor("psi", Dtype::F64, 2)?;
        let (of_kept, kept) = tensor("kept", Dtype::F64, 2)?;
        let (of_ratio, log_ratio) = tensor("log_ratio", Dtype::F64, 2)?;
        let (of_lambda, lambda) = tensor("lambda", Dtype::F64, 1)?;
        let (of_log_z, log_z) = tensor("log_z", Dtype::F64, 1)?;
        let (of_dead, dead) = tensor("dead", Dtype::U8, 2)?;
        let (of_since, since) = tensor("since", Dtype::F64, 2)?;
        let (_, ancestors) = tensor("ancestors", Dtype::U32, 1)?;
        let (of_sizes, sizes) = tensor("sizes", Dtype::U32, 1)?;
        let (of_drawn, drawn) = tensor("drawn", Dtype::F64, 3)?;
        let (of_initial, initial) = tensor("initial", Dtype::U32, 1)?;
        let holds = file.names().iter().any(|name| name.starts_with("held"));
        let held = match holds {
            true => Some((tensor("held", Dtype::F32, 4)?, tensor("held_lambda", Dtype::F64, 1)?)),
            false => None,
        };
        let (prompts, particles, steps) = (shape[0], shape[1], of_sizes[0]);
        let [ancestors, sizes, initial] =
            [ancestors, sizes, initial].map(|list| numbers(&list, u32::from_le_bytes));
        let fits = [&of_psi, &of_kept, &of_ratio, &of_dead, &of_since].iter().all(|s| **s == shape)
            && [&of_lambda, &of_log_z].iter().all(|s| **s == [prompts])
            && (of_drawn, of_initial) == (vec![steps, prompts, 2], vec![1])
            && latents_shape[0] == prompts * particles
            && held.iter().all(|((grad, _), (lambdas, _))| *grad == latents_shape && *lambdas == [prompts])
            && prompts * particles > 0
            && descend(&ancestors, &sizes, prompts, initial[0]) == Some(particles);
        if !fits {
            return Err(Error::io("the snapshot is damaged: its tensors do not fit together").advice(AGAIN));
        }
        let [log_weights, psi, kept, log_ratio, lambda, log_z, since, drawn] =
            [log_weights, psi, kept, log_ratio, lambda, log_z, since, drawn]
                .map(|list| numbers(&list, f64::from_le_bytes));
        let rows = |list: &[f64], b: usize| list[b * particles..][..particles].to_vec();
        let population = |b: usize| Population {
            log_weights: rows(&log_weights, b),
            psi: rows(&psi, b),
            kept: rows(&kept, b),
            lambda: lambda[b],
            log_z: log_z[b],
        };
        let family = |b: usize| {
            let (mut of_steps, mut draws, mut done) = (Vec::new(), Vec::new(), 0);
            for (k, &size) in sizes.iter().enumerate() {
                let size = size as usize;
                let [ess, error] = [0, 1].map(|i| drawn[2 * (k * prompts + b) + i]);
                draws.push((ess > 0.0).then_some(Drawn { ess, error }));
                of_steps.push(ancestors[done + b * size..][..size].to_vec());
                done += prompts * size;
            }
            Genealogy::known(initial[0] as usize, of_steps, draws, rows(&since, b))
        };
        let [n, h, w, c] = [0, 1, 2, 3].map(|i| latents_shape[i]);
        Ok(Snapshot {
            step,
            run,
            shape: Shape::new(n, h, w, c),
            latents: numbers(&latents, f32::from_le_bytes),
            state: EngineState { populations: (0..prompts).map(population).collect(), log_ratio },
            dead: dead.iter().map(|&d| d != 0).collect(),
            families: (0..prompts).map(family).collect(),
            held: held.map(|((_, grad), (_, lambdas))| {
                (numbers(&grad, f32::from_le_bytes), numbers(&lambdas, f64::from_le_bytes))
            }),
        })
    }
}

/// Particles of each prompt after the steps, of `sizes` ancestors each in `ancestors`, from `initial` ones.
/// `None` where an ancestor is named that the step before did not leave.
fn descend(ancestors: &[u32], sizes: &[u32], prompts: usize, initial: u32) -> Option<usize> {
    let (mut rest, mut before) = (ancestors, initial);
    for &size in sizes {
        let (of_step, later) = rest.split_at_checked((size as usize).checked_mul(prompts)?)?;
        if of_step.iter().any(|&a| a >= before) {
            return None;
        }
        (rest, before) = (later, size);
    }
    rest.is_empty().then_some(before as usize)
}

fn le(list: &[f64]) -> Vec<u8> {
    list.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn numbers<T, const N: usize>(bytes: &[u8], read: fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| read(*chunk)).collect()
}

/// What the numbers of a run depend on, by name. `on_nan` is not among them: it decides whether a run goes
/// on.
fn fingerprint(options: &Options, schedule: &Schedule, latents: Shape) -> BTreeMap<String, String> {
    let Options {
        seed,
        prompts,
        particles,
        candidates,
        alpha,
        method,
        rules,
        gradient_every,
        weigh_every,
        duplicates,
        guidance,
        tempering_start,
        on_nan: _,
        compat,
    } = options;
    let list: [(&str, String); 18] = [
        ("seed", seed.to_string()),
        ("prompts", format!("{prompts:?}")),
        ("particles", particles.to_string()),
        ("candidates", format!("{candidates:?}")),
        ("alpha", format!("{alpha:?}")),
        ("method", method.to_string()),
        ("tempering", format!("{:?}", rules.tempering)),
        ("resampler", rules.resampler.to_string()),
        ("ess_threshold", format!("{:?}", rules.ess_threshold)),
        ("max_shift", format!("{:?}", rules.max_shift)),
        ("gradient_every", gradient_every.to_string()),
        ("potential", rules.potentials.to_string()),
        ("weigh_every", weigh_every.to_string()),
        ("duplicates", duplicates.to_string()),
        ("guidance", format!("{guidance:?}")),
        ("tempering_start", format!("{tempering_start:?}")),
        ("compat", format!("{compat:?}")),
        ("latents", latents.with_n(1).to_string()),
    ];
    let mut run: BTreeMap<String, String> =
        list.into_iter().map(|(name, value)| (name.to_string(), value)).collect();
    run.insert("steps".into(), schedule.len().to_string());
    run.insert("chain".into(), sha256(format!("{:?}", schedule.steps).as_bytes()));
    run
}

impl<'a> Sampler<'a> {
    /// Everything that the run is after the step yielded last, whatever the engine has taken ahead of it.
    /// Waits for the device.
    ///
    /// # Errors
    /// [`ErrorKind::Numerical`](crate::ErrorKind::Numerical) after a step that failed in the middle; from the
    /// device.
    pub fn snapshot(&self) -> Result<Snapshot> {
        if self.torn {
            return Err(Error::numerical(format!("step {} failed in the middle", self.next))
                .advice("go on from a snapshot of a step before it"));
        }
        let latents = self.latents();
        Ok(Snapshot {
            step: self.next,
            run: fingerprint(&self.options, &self.schedule, latents.shape()),
            shape: latents.shape(),
            latents: self.backend.download(latents)?,
            state: self.engine.state().clone(),
            dead: self.dead.clone(),
            families: self.families.clone(),
            held: match &self.held {
                Some(Held { grad, lambdas }) => Some((self.backend.download(grad)?, lambdas.clone())),
                None => None,
            },
        })
    }

    /// Goes on from `snapshot`, of a run with the same options, chain, model and reward: the next step is
    /// that which would have followed.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where the snapshot is of another run, saying what
    /// differs; from the device.
    ///
    /// # Panics
    /// After the first step.
    pub fn restore(mut self, snapshot: &Snapshot) -> Result<Sampler<'a>> {
        assert_eq!(self.next, 0, "the run has begun");
        let shape = self.latents().shape();
        let own = fingerprint(&self.options, &self.schedule, shape);
        for name in own.keys().chain(snapshot.run.keys()) {
            let (there, here) = (snapshot.run.get(name), own.get(name));
            if there != here {
                let word =
                    |value: Option<&String>| value.map_or("not known".to_string(), |v| format!("\"{v}\""));
                return Err(Error::usage(format!(
                    "the snapshot is of another run: {name} is {} there and {} here",
                    word(there),
                    word(here)
                ))
                .advice("give the options that the run began with"));
            }
        }
        let thinned = self.thins.is_some_and(|k| k < snapshot.step);
        let particles = if thinned { self.options.particles } else { self.particles() };
        let prompts = self.families.len();
        let fits = (snapshot.families.len(), snapshot.dead.len()) == (prompts, prompts * particles)
            && snapshot.shape == shape.with_n(prompts * particles)
            && snapshot.families.iter().all(|family| family.initial == self.particles())
            && snapshot.step <= self.steps()
            && snapshot.families[0].len() == snapshot.step.min(self.passes.len());
        if !fits {
            return Err(Error::io("the snapshot is damaged: its tensors are not of its run").advice(AGAIN));
        }
        self.latents[0] = self.upload_exactly(&snapshot.latents, snapshot.shape)?;
        self.held = match &snapshot.held {
            Some((grad, lambdas)) => {
                let grad = self.upload_exactly(grad, snapshot.shape)?;
                Some(Held { grad, lambdas: lambdas.clone() })
            }
            None => None,
        };
        if thinned {
            self.use_fewer()?;
        }
        self.engine.restore(snapshot.state.clone())?;
        self.next = snapshot.step;
        self.dead.clone_from(&snapshot.dead);
        self.families.clone_from(&snapshot.families);
        if self.next == self.steps() {
            self.end = Some(self.final_scores()?);
        }
        Ok(self)
    }

    /// Latents in f32, of which a backend may upload another type where channels come in packets.
    fn upload_exactly(&self, values: &[f32], shape: Shape) -> Result<Tensor> {
        let flat = Shape::new(shape.n, 1, shape.sample(), 1);
        Ok(self.backend.upload(flat, HostSlice::F32(values))?.reshape(shape))
    }
}
