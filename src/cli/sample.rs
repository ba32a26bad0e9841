//! `sample`: draws and records, prompt by prompt. Whatever is finished is on disk, whenever the run ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::options::Options;
use super::progress::Progress;
use super::prompts::Prompt;
use super::record::{self, Choices};
use super::session::{self, Session};
use super::{flags, meaning, plan};
use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::run::{Lines, RunDir, Status, TraceLine, load_latents};
use crate::sampler::{Population, PromptStep, Sampler, Step};
use crate::tensor::{HostSlice, Tensor};

/// Set by Ctrl-C; looked at between steps.
static STOP: AtomicBool = AtomicBool::new(false);

/// The command, which was `typed` so.
///
/// # Errors
/// Of the options, the model, the output directory; [`ErrorKind::Interrupted`] after Ctrl-C, with everything
/// finished kept.
pub fn run(options: Options, typed: Vec<String>) -> Result<()> {
    let folders: Vec<RunDir> =
        options.prompts.iter().enumerate().map(|(i, p)| RunDir::new(&options.output, i, &p.text)).collect();
    options.image.iter().try_for_each(|image| meaning::unclaimed(image, options.overwrite))?;
    // An output that cannot be written is found before anything is computed.
    folders.iter().try_for_each(|f| f.check(options.overwrite).and_then(|()| f.probe()))?;
    // A second Ctrl-C before a step ends kills the program at once.
    let twice = || {
        if STOP.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
    };
    // Without a handler, Ctrl-C still ends the program; nothing else depends on it.
    let _ = ctrlc::set_handler(twice);

    let device = options.device.open(options.dtype, &options.machine)?;
    let options = plan::settle(options, device.available)?;
    let mut session = Session::open(&*device.backend, &options)?;
    let latents = initial(&session, &options)?;
    let files = record::files(&options, &session)?;
    let mut progress =
        Progress::new((options.prompts.len() * (session.schedule.len() + 1)) as u64, options.quiet);
    let mut prompts = options.prompts.iter().zip(&folders).enumerate();
    let outcome = prompts.try_for_each(|(index, (prompt, folder))| {
        let choices = Choices::of(&options, &session, prompt, index);
        let one =
            OnePrompt { options: &options, typed: &typed, files: &files, choices, prompt, folder, index };
        let printed = one.run(&mut session, latents.as_ref(), &mut progress)?;
        progress.result(&printed)
    });
    progress.finish();
    outcome
}

/// The latents of `--latents`.
fn initial(session: &Session<'_>, options: &Options) -> Result<Option<Tensor>> {
    let Some(path) = &options.latents else { return Ok(None) };
    let shape = session.size.latent.with_n(options.chains);
    let values = load_latents(path, shape).map_err(|e| match e.kind() {
        ErrorKind::Usage if options.chains != options.particles => e.fix(format!(
            "give {} latents: so many chains cost what {} particles with guidance cost",
            options.chains, options.particles
        )),
        _ => e,
    })?;
    session.backend.upload(shape, HostSlice::F32(&values)).map(Some)
}

/// One prompt of a run.
pub(super) struct OnePrompt<'a> {
    pub options: &'a Options,
    pub typed: &'a [String],
    /// Hashes.
    pub files: &'a Map<String, Value>,
    pub choices: Choices,
    pub prompt: &'a Prompt,
    pub folder: &'a RunDir,
    pub index: usize,
}

impl OnePrompt<'_> {
    /// Samples and saves; returns what goes to standard output.
    fn run(
        &self,
        session: &mut Session<'_>,
        latents: Option<&Tensor>,
        progress: &mut Progress,
    ) -> Result<String> {
        if STOP.load(Ordering::SeqCst) {
            return Err(self.interrupted("before", 0, 0));
        }
        let began = Instant::now();
        let mut record = self.record(session);
        let population = self.draw(session, latents, &record, progress)?;
        let saved = population.and_then(|population| self.save(session, &population));
        record.insert("seconds".into(), json!(began.elapsed().as_secs_f64()));
        match saved {
            Ok(saved) => {
                record.insert("result".into(), Value::Object(saved.result.clone()));
                self.folder.write_run(Status::Finished, &record)?;
                Ok(self.answer(saved))
            }
            Err(error) => {
                let interrupted = error.kind() == ErrorKind::Interrupted;
                record.insert("error".into(), json!(flags::report(&error)));
                let status = if interrupted { Status::Interrupted } else { Status::Failed };
                // The error to report is the first; that it cannot be recorded adds nothing.
                let _ = self.folder.write_run(status, &record);
                Err(error)
            }
        }
    }

    /// Draws the particles. The outer error comes before the folder is touched: whatever can be refused is refused
    /// while the files of an earlier run are still there.
    fn draw(
        &self,
        session: &mut Session<'_>,
        latents: Option<&Tensor>,
        record: &Map<String, Value>,
        progress: &mut Progress,
    ) -> Result<Result<Population>> {
        let (options, backend) = (self.options, session.backend);
        let (schedule, kl) = (session.schedule.clone(), session.kl);
        let (target, warnings) = session.target(options, self.prompt, self.index)?;
        let sampler = session::sampler(backend, &target, &schedule, options, kl, self.index, latents)?;
        self.folder.start(options.overwrite)?;
        self.folder.write_run(Status::Running, record)?;
        warnings.iter().for_each(|w| progress.warn(w));
        Ok(self.chain(sampler, backend, progress))
    }

    /// All steps, each recorded when it is done.
    fn chain(
        &self,
        mut sampler: Sampler<'_>,
        backend: &dyn Backend,
        progress: &mut Progress,
    ) -> Result<Population> {
        let mut trace = self.folder.trace()?;
        let transitions = sampler.steps() - 1;
        for step in &mut sampler {
            let step = step?;
            trace_step(&mut trace, &step, backend)?;
            step.notes.iter().for_each(|note| progress.warn(&flags::named(note)));
            step.non_finite.iter().for_each(|loss| progress.warn(&loss.to_string()));
            progress.step(&self.message(&step.prompts[0]));
            if STOP.load(Ordering::SeqCst) && step.step < transitions {
                return Err(self.interrupted("after", step.step + 1, transitions));
            }
        }
        let population = sampler.populations()?.swap_remove(0);
        if population.rewards.iter().any(|reward| reward.is_finite()) {
            return Ok(population);
        }
        Err(Error::numerical(format!(
            "prompt {}: every particle was lost to values that are not finite; trace.jsonl says where",
            self.index + 1
        ))
        .fix("give --kl a larger number (the guidance is divided by it); --dtype fp32 has more range"))
    }

    fn interrupted(&self, when: &str, step: usize, steps: usize) -> Error {
        let place = if step == 0 { String::new() } else { format!("step {step} of {steps} of ") };
        Error::new(
            ErrorKind::Interrupted,
            format!(
                "stopped {when} {place}prompt {}; what is finished is in {}",
                self.index + 1,
                self.options.output.display()
            ),
        )
    }

    /// Progress in a few words.
    fn message(&self, step: &PromptStep) -> String {
        let best = step.reward.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let reward = if best.is_finite() { format!("best reward {best:.3}  ") } else { String::new() };
        let short: String = self.prompt.text.chars().take(32).collect();
        format!("{reward}ess {:.1}  {short}", step.ess)
    }

    /// `run.json` as far as it is known before the first step.
    fn record(&self, session: &Session<'_>) -> Map<String, Value> {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
        let mut record = record::object(json!({
            "program": "das-cuda",
            "version": env!("CARGO_PKG_VERSION"),
            "command": self.typed,
        }));
        record.extend(self.choices.deciding.clone());
        record.extend(self.choices.rest.clone());
        record.extend(record::consequences(self.options, session));
        record.extend(self.files.clone());
        record.insert("started".into(), json!(started));
        record
    }
}

/// Writes the trace's line of a step.
fn trace_step(trace: &mut Lines, step: &Step, backend: &dyn Backend) -> Result<()> {
    let of_prompt = |prompt| {
        step.non_finite.iter().filter(|loss| loss.prompt == prompt).map(ToString::to_string).collect()
    };
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
