//! `sample`: draws and records, prompt by prompt. Whatever is finished is on disk, whenever and however the
//! run ends.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::one::OnePrompt;
use super::options::Options;
use super::progress::Progress;
use super::record::{self, Choices, Draw};
use super::save::Saved;
use super::summary::{Summary, compact};
use super::{flags, meaning, normalise, output, signals, skip, trace};
use crate::error::{Error, ErrorKind, Result};
use crate::run::{Finished, OutDir, RunDir, Status, load_latents};
use crate::sampler::PromptStep;
use crate::session::{PlainScores, Prompt, Run, SampleOptions, Samples, Session};

/// The command, which was `typed` so.
///
/// # Errors
/// Of the options, the model, the output directory; [`ErrorKind::Interrupted`] after a signal, with
/// everything finished kept.
pub fn run(options: Options, typed: Vec<String>) -> Result<()> {
    if !options.quiet {
        options.notes.iter().for_each(output::note);
    }
    let out = OutDir::new(&options.output);
    // What cannot be written is found before anything is computed.
    // Of a result that is finished already the file may be the picture: then it is looked at below.
    let replaces = options.overwrite || options.skip_finished;
    options.image.iter().try_for_each(|image| meaning::unclaimed(image, replaces))?;
    out.probe()?;
    if options.overwrite {
        draws(&options).try_for_each(|(prompt, _, number)| out.probe_replace(number, &prompt.text))?;
    }
    signals::listen(format!("stopping; what is finished is kept in {}", options.output.display()));

    let (mut session, options, plain) = open(options)?;
    let files = record::files(&options, &session)?;
    let finished = if options.skip_finished { out.finished()? } else { Finished::default() };
    for record in &finished.damaged {
        output::note(format_args!(
            "warning: {}: cannot be read as JSON, so that its folder does not count as finished; move the folder \
             away if it is of no use",
            record.display()
        ));
    }
    let steps = options.populations as u64 * (options.steps as u64 + 1);
    let mut progress = Progress::new(draws(&options).count() as u64 * steps, options.quiet);
    draws(&options).try_for_each(|(prompt, draw, number)| {
        let choices = Choices::new(&options, &session, prompt, draw)?;
        let plain = plain.iter().find(|plain| options.first_index + plain.prompt == draw.index);
        let one = OnePrompt { options: &options, typed: &typed, files: &files, choices, prompt, draw, plain };
        if let Some((folder, _)) = finished.runs.iter().find(|(_, record)| skip::is_same(record, &one)) {
            progress.skip(steps);
            progress.summary(&format!("{}: finished before, not drawn again", folder.display()));
            let answer = skip::answer(folder, &one)?;
            one.unclaimed_or_copied(folder)?;
            one.copy_image(folder)?;
            return output::answer(&answer);
        }
        one.unclaimed()?;
        output::answer(&one.run(&mut session, &mut progress, &out, number)?)
    })
}

/// Every draw of every prompt, with what keys its randomness and the number of its folder in an empty
/// directory.
fn draws(options: &Options) -> impl Iterator<Item = (&Prompt, Draw, usize)> {
    options.prompts.iter().zip(options.first_index..).flat_map(move |(prompt, index)| {
        (0..options.count).map(move |k| {
            let draw = Draw { index, seed: options.seed.wrapping_add(k as u64) };
            (prompt, draw, index * options.count + k)
        })
    })
}

/// Opens everything, and decides what the options left open. Whatever can be refused is refused here.
fn open(options: Options) -> Result<(Session, Options, Vec<PlainScores>)> {
    if options.builder.compiles_kernels() {
        output::note("compiling the kernels for this GPU, once: this takes a minute or more");
    }
    let mut session = options.builder.clone().open()?;
    session.check(&options.prompts, &options.sample)?;
    meaning::unused_embeddings(&session, &options.prompts).iter().for_each(output::note);
    let (sample, notes) = session.settle(options.longest(), &options.sample)?;
    notes.iter().for_each(|note| output::note(format_args!("note: {note}")));
    let plain = normalise::measure(&mut session, &options.prompts, &sample, options.quiet)?;
    let sample = match &options.latents {
        Some(path) => sample.clone().latents(latents(path, &session, &sample)?),
        None => sample,
    };
    Ok((session, Options { sample, ..options }, plain))
}

/// The latents of `--latents`.
fn latents(path: &Path, session: &Session, options: &SampleOptions) -> Result<Vec<f32>> {
    let (chains, particles) = (options.chains(), options.particle_count());
    let shape = session.size(options)?.latent.with_n(options.first_chains());
    load_latents(path, shape).map_err(|e| match e.kind() {
        ErrorKind::Usage if options.first_chains() != chains => e.advice(format!(
            "give {} latents, one for each candidate, or `candidates` 1",
            options.first_chains()
        )),
        ErrorKind::Usage if chains != particles => e.advice(format!(
            "give {chains} latents: so many chains cost what {particles} particles with guidance cost"
        )),
        _ => e,
    })
}

/// A draw from the moment its folder is made: the folder, what `run.json` will say, and the summary.
struct DrawInProgress {
    folder: Arc<RunDir>,
    record: Map<String, Value>,
    began: Instant,
    summary: Summary,
}

impl DrawInProgress {
    /// Says a warning, and keeps it in the record.
    fn warn(&mut self, progress: &Progress, text: &str) {
        progress.warn(text);
        if let Some(Value::Array(warnings)) = self.record.get_mut("warnings") {
            warnings.push(json!(text));
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
    /// Samples and saves; returns what goes to standard output.
    fn run(
        &self,
        session: &mut Session,
        progress: &mut Progress,
        out: &OutDir,
        number: usize,
    ) -> Result<Vec<u8>> {
        if signals::requested().is_some() {
            return Err(self.interrupted("before "));
        }
        let began = Instant::now();
        let mut record = self.record(session);
        let options = self.options.sample.clone().first_index(self.draw.index as u32).seed(self.draw.seed);
        let run = session.sample(self.prompt, &options)?;
        let warnings: Vec<String> = run.warnings().iter().map(|warning| flags::named(warning)).collect();
        record.insert("warnings".into(), json!(warnings));
        let folder = match self.options.overwrite {
            true => out.replace(number, &self.prompt.text)?,
            false => out.claim(number, &self.prompt.text)?,
        };
        folder.write_run(Status::Running, &record)?;
        let mut current =
            DrawInProgress { folder: Arc::new(folder), record, began, summary: Summary::default() };
        self.hold(&current);
        warnings.iter().for_each(|warning| progress.warn(warning));
        let saved = self
            .chain(run, progress, &mut current)
            .and_then(|samples| Ok((self.save(session, &samples, &current.folder)?, samples)));
        current.record.insert("seconds".into(), json!(began.elapsed().as_secs_f64()));
        let finished = saved.and_then(|(saved, samples)| {
            for warning in &saved.warnings {
                current.warn(progress, &flags::named(warning));
            }
            let folder = signals::finishing(|| self.finish(&current, &saved))?;
            let returned = saved.returned_reward(self.options);
            let approximate = session.pipeline().decoder.approximates();
            let summary = &current.summary;
            progress.summary(&summary.text(&folder, &samples, returned, approximate, began.elapsed()));
            Ok(self.answer(&folder, saved))
        });
        finished.map_err(|error| self.fail(&current, error))
    }

    /// Puts a finished result in its place.
    fn finish(&self, current: &DrawInProgress, saved: &Saved) -> Result<PathBuf> {
        let mut record = current.record.clone();
        record.insert("result".into(), Value::Object(saved.result.clone()));
        current.folder.write_run(Status::Finished, &record)?;
        let folder = current.folder.close()?;
        self.copy_image(&folder)?;
        Ok(folder)
    }

    /// Records how a draw failed, and adds to the error where it is.
    fn fail(&self, current: &DrawInProgress, error: Error) -> Error {
        let interrupted = error.kind() == ErrorKind::Interrupted;
        let mut record = current.record.clone();
        record.insert("error".into(), json!(flags::report(&error)));
        let status = if interrupted { Status::Interrupted } else { Status::Failed };
        // The error to report is the first; that it cannot be recorded adds nothing.
        let _ = signals::finishing(|| {
            current.folder.write_run(status, &record)?;
            current.folder.close()
        });
        error
    }

    /// Where a signal ends the process within a step, the draw is recorded as interrupted.
    fn hold(&self, current: &DrawInProgress) {
        let (folder, mut record, began) = (current.folder.clone(), current.record.clone(), current.began);
        signals::in_hand(move || {
            record.insert("seconds".into(), json!(began.elapsed().as_secs_f64()));
            record.insert("error".into(), json!("stopped by a signal, within a step"));
            // The process ends either way.
            let _ = folder.write_run(Status::Interrupted, &record).and_then(|()| folder.close());
        });
    }

    /// All steps, each recorded when it is done.
    fn chain(
        &self,
        mut run: Run<'_>,
        progress: &mut Progress,
        current: &mut DrawInProgress,
    ) -> Result<Samples> {
        let mut trace = current.folder.trace()?;
        let (transitions, populations) = (run.steps() - 1, run.populations());
        while let Some(step) = run.next() {
            let step = step?;
            let population = run.population();
            let of = match populations {
                1 => String::new(),
                _ => format!("population {} of {populations}, ", population + 1),
            };
            trace::push(&mut trace, &step, population, run.memory().peak)?;
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
            let last = (population + 1, step.step) == (populations, transitions);
            if signals::requested().is_some() && !last {
                let done = (step.step + 1).min(transitions);
                return Err(self.interrupted(&format!("after {of}step {done} of {transitions} of ")));
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
        Ok(samples)
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
