//! One draw of a prompt, from its first step or from where it was stopped to its record. Whatever is finished
//! is on disk, whenever and however it ends.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::again::{self, Checkpoint, Stopped};
use super::limits::Limits;
use super::one::OnePrompt;
use super::preview::Preview;
use super::progress::Progress;
use super::save::Saved;
use super::summary::{Summary, compact};
use super::{flags, output, record, signals, trace};
use crate::error::{Error, ErrorKind, Result};
use crate::run::{Lines, OutDir, RunDir, Status};
use crate::sampler::{PromptStep, Step};
use crate::session::{Run, Samples, Session};

/// Time between checkpoints where no number of steps is given.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);
/// A signal may find the next step longer than it waits if one took so many milliseconds: then what the run
/// goes on from is kept in memory after every step, for the thread that ends the process.
const LONG_STEP: f64 = 500.0;

/// What draws share.
pub(super) struct Hand<'a> {
    pub session: &'a mut Session,
    pub progress: &'a Progress,
    pub limits: &'a Limits,
    /// How many draws are under way at the same time.
    pub at_once: usize,
}

/// What a draw may spend, of which others spend too.
#[derive(Clone, Copy)]
struct Purse<'a> {
    limits: &'a Limits,
    at_once: u64,
}

impl Purse<'_> {
    /// Spends what the next step of `run` takes, or names the limit that is reached.
    fn take(&self, run: &Run<'_>) -> Option<&'static str> {
        self.limits.take(run.next_evaluations(), self.at_once * run.evaluations_to_end_early())
    }
}

/// Where a draw begins.
pub(super) enum Place {
    /// With a folder of this number.
    New(usize),
    Stopped(Box<Stopped>),
}

/// A draw from the moment its folder is made: the folder, what `run.json` will say, and the summary.
struct DrawInProgress {
    folder: Arc<RunDir>,
    record: Map<String, Value>,
    began: Instant,
    /// What it took before it was stopped.
    before: f64,
    /// Most bytes alive until then.
    peak: u64,
    summary: Summary,
    /// Begins warnings where several draws are under way.
    whose: String,
    /// For the signal's thread.
    pending: Arc<Mutex<Pending>>,
    /// When the last checkpoint was written.
    kept: Instant,
    /// Whether the record has the result.
    recorded: bool,
    preview: Option<Preview>,
}

/// What the signal's thread writes if it has to end the process.
#[derive(Default)]
struct Pending {
    checkpoint: Option<Vec<u8>>,
    /// All so far.
    warnings: Value,
}

impl DrawInProgress {
    /// Says a warning, and keeps it in the record.
    fn warn(&mut self, progress: &Progress, text: &str) {
        progress.warn(&format!("{}{text}", self.whose));
        if let Some(Value::Array(warnings)) = self.record.get_mut("warnings") {
            warnings.push(json!(text));
        }
        self.pending().warnings = self.record.get("warnings").cloned().unwrap_or_default();
    }

    /// Seconds that the draw has taken in all.
    fn seconds(&self) -> f64 {
        self.before + self.began.elapsed().as_secs_f64()
    }

    /// Keeps a checkpoint for the signal's thread, or none.
    fn keep(&self, bytes: Option<Vec<u8>>) {
        self.pending().checkpoint = bytes;
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A draw that has been saved.
pub(super) struct Ended {
    /// What goes to standard output.
    pub answer: Vec<u8>,
    pub folder: PathBuf,
    /// What ended it early.
    pub limit: Option<Error>,
}

impl Ended {
    /// Says on standard output what came of the draw.
    ///
    /// # Errors
    /// Where standard output is closed; what ended the draw early.
    pub fn tell(self) -> Result<()> {
        output::answer(&self.answer)?;
        self.limit.map_or(Ok(()), Err)
    }
}

/// How the steps of a draw ended.
enum Drawn {
    Whole(Box<Samples>),
    /// Early, by the limit of this name: with what there was then.
    Limited(Box<Samples>, &'static str, Error),
}

impl Drawn {
    /// The limit that ended it early.
    fn limit(&self) -> Option<&'static str> {
        match self {
            Drawn::Whole(_) => None,
            Drawn::Limited(_, limit, _) => Some(limit),
        }
    }
}

/// What a step says in which no particle was left.
fn all_lost(step: usize) -> String {
    format!(
        "step {step}: every particle was lost to values that are not finite; the weights were made equal again, \
         and log Z is minus infinity. Where a reward gave no number, see why; else give `alpha` a larger number or \
         `reward` a smaller weight; `dtype` fp32 has more range"
    )
}

impl OnePrompt<'_> {
    /// Samples and saves.
    ///
    /// # Errors
    /// Of the run and its files; [`ErrorKind::Interrupted`] after a signal; [`ErrorKind::Limit`] where a
    /// limit is reached before the first step.
    pub(super) fn run(&self, hand: &mut Hand<'_>, out: &OutDir, place: Place) -> Result<Ended> {
        if signals::requested().is_some() {
            return Err(self.interrupted("before "));
        }
        let Hand { session, progress, limits, at_once } = hand;
        let purse = Purse { limits, at_once: *at_once as u64 };
        let began = Instant::now();
        let fresh = self.record(session);
        let preview = Preview::new(self.options, session)?;
        let options = self.options.sample.clone().first_index(self.draw.index as u32).seed(self.draw.seed);
        let mut run = session.sample(self.prompt, &options)?;
        let of_start: Vec<Value> =
            run.warnings().iter().map(|warning| json!(flags::named(warning))).collect();
        let is_new = matches!(place, Place::New(_));
        if is_new {
            self.within(purse, &run)?;
        }
        let (folder, record, checkpoint) = match place {
            Place::New(number) if self.options.overwrite => {
                (out.replace(number, &self.prompt.text)?, fresh, None)
            }
            Place::New(number) => (out.claim(number, &self.prompt.text)?, fresh, None),
            Place::Stopped(stopped) => {
                let Stopped { folder, record, checkpoint } = *stopped;
                let record = record.map(|mut record| {
                    // Without a checkpoint it may have begun with another.
                    record.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
                    if let Some(Value::Array(times)) = record.get_mut("resumed") {
                        times.push(again::resumed(checkpoint.as_ref()));
                    }
                    record
                });
                (folder, record.unwrap_or(fresh), checkpoint)
            }
        };
        let mut current = DrawInProgress {
            folder: Arc::new(folder),
            record,
            began,
            before: checkpoint.as_ref().map_or(0.0, |c| c.seconds),
            peak: checkpoint.as_ref().map_or(0, |c| c.peak),
            summary: Summary::default(),
            whose: if *at_once > 1 { format!("prompt {}: ", self.draw.index) } else { String::new() },
            pending: Arc::default(),
            kept: began,
            recorded: false,
            preview,
        };
        let warnings = checkpoint.as_ref().map_or(&of_start, |checkpoint| &checkpoint.warnings);
        current.record.insert("warnings".into(), json!(warnings));
        let trace = match &checkpoint {
            Some(checkpoint) => {
                let Checkpoint { snapshot, trace, .. } = checkpoint;
                let (population, steps) = (snapshot.population(), run.steps());
                let taken = population * steps + snapshot.step();
                current.summary = again::summary_of(current.folder.path(), *trace, taken)?;
                run = run.restore(snapshot)?;
                self.within(purse, &run)?;
                progress.skip(taken as u64);
                current.folder.trace_from(*trace)?
            }
            None => {
                if !is_new {
                    self.within(purse, &run)?;
                }
                current.folder.remove_checkpoint()?;
                // A folder with anything in it has a record.
                current.folder.write_run(Status::Running, &current.record)?;
                current.folder.trace()?
            }
        };
        if checkpoint.is_some() {
            current.folder.write_run(Status::Running, &current.record)?;
        } else if self.plain.is_some() && self.options.checkpoint_every != Some(0) {
            // What was measured before the first step is not measured again.
            let warnings = current.record.get("warnings").unwrap_or(&Value::Null);
            let bytes = self.checkpoint(&run, &trace, 0.0, 0, warnings)?;
            current.folder.write_checkpoint(&bytes)?;
        }
        self.hold(&current);
        for warning in of_start.iter().filter_map(Value::as_str) {
            progress.warn(&format!("{}{warning}", current.whose));
        }
        let drawn = self.chain(run, trace, progress, purse, &mut current);
        let saved = drawn.and_then(|drawn| {
            let (Drawn::Whole(samples) | Drawn::Limited(samples, ..)) = &drawn;
            current.folder.clear_results()?;
            Ok((self.save(session, samples, &current.folder, drawn.limit())?, drawn))
        });
        current.record.insert("seconds".into(), json!(current.seconds()));
        let finished = saved.and_then(|(mut saved, drawn)| {
            for warning in &saved.warnings {
                current.warn(progress, &flags::named(warning));
            }
            let peak = saved.result.get("peak_bytes").and_then(Value::as_u64).unwrap_or_default();
            saved.result.insert("peak_bytes".into(), json!(peak.max(current.peak)));
            let path = current.folder.path().to_path_buf();
            let folder = signals::finishing(&path, || self.finish(&mut current, &saved, &drawn))?;
            let returned = saved.returned_reward(self.options);
            let (Drawn::Whole(samples) | Drawn::Limited(samples, ..)) = &drawn;
            let seconds = Duration::try_from_secs_f64(current.seconds()).unwrap_or_default();
            let approximate = session.pipeline().decoder.approximates();
            progress.summary(&current.summary.text(&folder, samples, returned, approximate, seconds));
            let limit = match drawn {
                Drawn::Whole(_) => None,
                Drawn::Limited(.., error) => Some(error),
            };
            Ok(Ended { answer: self.answer(&folder, saved), folder, limit })
        });
        finished.map_err(|error| self.fail(&current, error))
    }

    /// Refuses the next step of a run that has yielded none here, where it would go beyond a limit.
    fn within(&self, purse: Purse<'_>, run: &Run<'_>) -> Result<()> {
        let Some(limit) = purse.take(run) else { return Ok(()) };
        let error = purse.limits.error(limit, &format!("before prompt {} takes a step", self.draw.index));
        Err(error.advice("give a larger limit; what is there already is kept, and --resume leaves it out"))
    }

    /// Puts a result in its place: one that has finished, or what there was when a limit was reached.
    fn finish(&self, current: &mut DrawInProgress, saved: &Saved, drawn: &Drawn) -> Result<PathBuf> {
        let status = match drawn {
            Drawn::Whole(_) => Status::Finished,
            Drawn::Limited(_, limit, error) => {
                current.record.insert("error".into(), json!(flags::report(error)));
                current.record.insert("stopped".into(), json!(limit));
                Status::Interrupted
            }
        };
        let mut record = current.record.clone();
        record.insert("result".into(), Value::Object(saved.result.clone()));
        current.folder.write_run(status, &record)?;
        current.recorded = true;
        if let Drawn::Whole(_) = drawn {
            current.folder.remove_checkpoint()?;
        }
        let folder = current.folder.close()?;
        self.copy_image(&folder)?;
        Ok(folder)
    }

    /// Records how a draw failed, and adds to the error where it is.
    fn fail(&self, current: &DrawInProgress, error: Error) -> Error {
        // A result that is recorded stays so, whatever fails behind it.
        if current.recorded {
            let _ = signals::finishing(current.folder.path(), || current.folder.close());
            return error;
        }
        let interrupted = error.kind() == ErrorKind::Interrupted;
        let mut record = current.record.clone();
        record.insert("error".into(), json!(flags::report(&error)));
        let status = if interrupted { Status::Interrupted } else { Status::Failed };
        // The error to report is the first; that it cannot be recorded adds nothing.
        let _ = signals::finishing(current.folder.path(), || {
            current.folder.write_run(status, &record)?;
            current.folder.close()
        });
        error
    }

    /// Where a signal ends the process within a step, the draw is recorded as interrupted, and what it goes
    /// on from is written.
    fn hold(&self, current: &DrawInProgress) {
        let DrawInProgress { folder, record, began, before, pending, .. } = current;
        let (folder, mut record, began, before) = (folder.clone(), record.clone(), *began, *before);
        let pending = pending.clone();
        let path = folder.path().to_path_buf();
        signals::in_hand(&path, move || {
            record.insert("seconds".into(), json!(before + began.elapsed().as_secs_f64()));
            record.insert("error".into(), json!("stopped by a signal, within a step"));
            let Pending { checkpoint, warnings } =
                std::mem::take(&mut *pending.lock().unwrap_or_else(PoisonError::into_inner));
            if warnings.is_array() {
                record.insert("warnings".into(), warnings);
            }
            // The process ends either way.
            let _ = checkpoint.map(|bytes| folder.write_checkpoint(&bytes));
            let _ = folder.write_run(Status::Interrupted, &record).and_then(|()| folder.close());
        });
    }

    /// All steps that are left, each recorded when it is done.
    fn chain(
        &self,
        mut run: Run<'_>,
        mut trace: Lines,
        progress: &Progress,
        purse: Purse<'_>,
        current: &mut DrawInProgress,
    ) -> Result<Drawn> {
        let (transitions, populations) = (run.steps() - 1, run.populations());
        loop {
            let Some(step) = run.next() else { break };
            let step = step?;
            self.tell(&run, &step, &mut trace, progress, current)?;
            current.preview.iter().try_for_each(|preview| preview.write(&run, &step, &current.folder))?;
            let population = run.population();
            let last = (population + 1, step.step) == (populations, transitions);
            let limit = if last { None } else { purse.take(&run) };
            let signalled = signals::requested().is_some() && !last;
            self.keep(&run, &step, &trace, current, limit.is_some() || signalled)?;
            let done = (step.step + 1).min(transitions);
            let of = of_populations(&run);
            let place = format!("after {of}step {done} of {transitions} of ");
            if signalled {
                return Err(self.interrupted(&place));
            }
            if let Some(limit) = limit {
                let error = purse
                    .limits
                    .error(limit, &format!("{place}prompt {}", self.draw.index))
                    .advice(format!("`das-cuda resume {}` goes on", self.options.output.display()));
                return Ok(Drawn::Limited(Box::new(run.so_far()?.swap_remove(0)), limit, error));
            }
        }
        let mut samples = run.conclude().map_err(|e| match e.kind() {
            ErrorKind::Numerical => e.addition("trace.jsonl says where"),
            _ => e,
        })?;
        let samples = samples.swap_remove(0);
        for warning in samples.warnings() {
            let warning = flags::named(&warning);
            current.warn(progress, &warning);
        }
        Ok(Drawn::Whole(Box::new(samples)))
    }

    /// Records a step, and says what there is to say of it.
    fn tell(
        &self,
        run: &Run<'_>,
        step: &Step,
        trace: &mut Lines,
        progress: &Progress,
        current: &mut DrawInProgress,
    ) -> Result<()> {
        let (population, of) = (run.population(), of_populations(run));
        trace::push(trace, step, population, run.memory().peak.max(current.peak))?;
        for note in &step.notes {
            let note = flags::named(note);
            current.warn(progress, &note);
        }
        let lost = step.non_finite.iter().map(ToString::to_string);
        let collapsed = step.prompts.iter().filter(|record| record.collapsed);
        for warning in lost.chain(collapsed.map(|_| flags::named(&all_lost(step.step)))) {
            current.warn(progress, &format!("{of}{warning}"));
        }
        current.summary.step(population, &step.prompts[0]);
        progress.step(&self.message(&step.prompts[0]));
        Ok(())
    }

    /// Writes a checkpoint after a step where one is due, or the run stops here.
    fn keep(
        &self,
        run: &Run<'_>,
        step: &Step,
        trace: &Lines,
        current: &mut DrawInProgress,
        stops: bool,
    ) -> Result<()> {
        let taken = run.population() * run.steps() + step.step + 1;
        let due = match self.options.checkpoint_every {
            Some(0) => return Ok(()),
            Some(steps) => taken.is_multiple_of(steps),
            None => current.kept.elapsed() >= CHECKPOINT_EVERY,
        };
        if !due && !stops && step.ms < LONG_STEP {
            current.keep(None);
            return Ok(());
        }
        let peak = run.memory().peak.max(current.peak);
        let warnings = current.record.get("warnings").unwrap_or(&Value::Null);
        let bytes = self.checkpoint(run, trace, current.seconds(), peak, warnings)?;
        if due || stops {
            current.folder.write_checkpoint(&bytes)?;
            current.kept = Instant::now();
            current.keep(None);
        } else {
            current.keep(Some(bytes));
        }
        Ok(())
    }

    /// `place`: before or after what of the prompt.
    fn interrupted(&self, place: &str) -> Error {
        let (index, output) = (self.draw.index, self.options.output.display());
        let what = format!("stopped {place}prompt {index}; what is finished is in {output}");
        Error::new(ErrorKind::Interrupted, what)
    }

    /// Progress in a few words.
    fn message(&self, step: &PromptStep) -> String {
        let best = step.reward.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let reward = match best.is_finite() {
            true => format!("best reward {}  ", compact(best, 3)),
            false => String::new(),
        };
        let short: String = self.prompt.text.chars().take(32).collect();
        format!("{reward}ess {:.1}  {short}", step.ess)
    }

    /// `run.json` as far as it is known before the first step.
    fn record(&self, session: &Session) -> Map<String, Value> {
        let mut record = record::object(json!({
            "program": "das-cuda",
            "version": env!("CARGO_PKG_VERSION"),
            "command": self.typed,
            "directory": std::env::current_dir().unwrap_or_default().to_string_lossy(),
        }));
        record.extend(self.choices.deciding.clone());
        record.extend(self.choices.rest.clone());
        record.extend(record::consequences(self.options, session));
        record.extend(self.files.clone());
        record.insert("list_sha256".into(), json!(self.list));
        record.insert("started".into(), json!(record::now()));
        record.insert("resumed".into(), json!([]));
        record
    }
}

/// Which population is under way, where there are several.
fn of_populations(run: &Run<'_>) -> String {
    match run.populations() {
        1 => String::new(),
        populations => format!("population {} of {populations}, ", run.population() + 1),
    }
}
