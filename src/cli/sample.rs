//! `sample`: draws and records, prompt by prompt. Whatever is finished is on disk, whenever and however the
//! run ends.

use std::path::{Path, PathBuf};

use super::draw::{Ended, Hand, Place};
use super::limits::Limits;
use super::one::OnePrompt;
use super::options::Options;
use super::progress::Progress;
use super::record::{self, Choices, Draw};
use super::{again, meaning, normalise, output, signals, skip};
use crate::error::{Error, ErrorKind, Result};
use crate::run::{Finished, OutDir, load_latents};
use crate::session::{PlainScores, Prompt, SampleOptions, Session};

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
    let replaces = options.overwrite || options.skip_finished || options.resume;
    options.image.iter().try_for_each(|image| meaning::unclaimed(image, replaces))?;
    out.probe()?;
    if options.overwrite {
        draws(&options).try_for_each(|(prompt, _, number)| out.probe_replace(number, &prompt.text))?;
    }
    signals::listen(format!("stopping; what is finished is kept in {}", options.output.display()));

    // Time counts from here, with all that is loaded and measured first.
    let mut limits = Limits::new(options.max_seconds, options.max_nfe);
    let (mut session, options, plain) = open(options)?;
    let files = record::files(&options, &session)?;
    let again = options.skip_finished || options.resume;
    let finished = if again { out.finished()? } else { Finished::default() };
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
        if let Some((folder, record)) = finished.runs.iter().find(|(_, record)| skip::is_same(record, &one)) {
            progress.skip(steps);
            progress.summary(&format!("{}: finished before, not drawn again", folder.display()));
            let answer = skip::answer(folder, &one)?;
            one.unclaimed_or_copied(folder)?;
            one.copy_image(folder)?;
            if options.resume {
                again::conclude(folder, record)?;
            }
            return output::answer(&answer);
        }
        let stopped = match options.resume {
            true => one.stopped_before(&out, &finished, number)?,
            false => None,
        };
        match &stopped {
            Some(stopped) => one.unclaimed_or_copied(stopped.folder.path())?,
            None => one.unclaimed()?,
        }
        let mut hand = Hand { session: &mut session, progress: &mut progress, limits: &mut limits };
        let place = stopped.map_or(Place::New(number), |stopped| Place::Stopped(Box::new(stopped)));
        one.run(&mut hand, &out, place)?.tell()
    })
}

/// Goes on with one draw, whose `options` were made of its record, in `folder`, within what is left of
/// `limits`.
///
/// # Errors
/// As [`run`]; those of [`OnePrompt::stopped`].
pub fn go_on(options: Options, folder: &Path, limits: &mut Limits) -> Result<()> {
    let out = OutDir::new(&options.output);
    let (mut session, options, _) = open(options)?;
    let files = record::files(&options, &session)?;
    let mut progress = Progress::new(options.populations as u64 * (options.steps as u64 + 1), options.quiet);
    draws(&options).try_for_each(|(prompt, draw, _)| {
        let choices = Choices::new(&options, &session, prompt, draw)?;
        let one =
            OnePrompt { options: &options, typed: &[], files: &files, choices, prompt, draw, plain: None };
        let stopped = one.stopped(&out, folder)?;
        one.unclaimed_or_copied(folder)?;
        let plain = stopped.checkpoint.as_ref().and_then(|checkpoint| checkpoint.plain.clone());
        let one = OnePrompt { plain: plain.as_ref(), ..one };
        let mut hand = Hand { session: &mut session, progress: &mut progress, limits: &mut *limits };
        one.run(&mut hand, &out, Place::Stopped(Box::new(stopped)))?.tell()
    })
}

/// Draws one prompt once, if `check` has nothing against it; returns the folder.
///
/// # Errors
/// As [`run`]; those of `check`.
pub fn draw_again(
    options: Options,
    typed: &[String],
    check: impl FnOnce(&OnePrompt<'_>) -> Result<()>,
) -> Result<PathBuf> {
    let out = OutDir::new(&options.output);
    out.probe()?;
    let (mut session, options, plain) = open(options)?;
    let files = record::files(&options, &session)?;
    let mut progress = Progress::new(options.populations as u64 * (options.steps as u64 + 1), options.quiet);
    let mut limits = Limits::new(options.max_seconds, options.max_nfe);
    let Some((prompt, draw, number)) = draws(&options).next() else {
        return Err(Error::usage("no prompt").advice("give one with -p"));
    };
    let choices = Choices::new(&options, &session, prompt, draw)?;
    let plain = plain.first();
    let one = OnePrompt { options: &options, typed, files: &files, choices, prompt, draw, plain };
    check(&one)?;
    one.unclaimed()?;
    let mut hand = Hand { session: &mut session, progress: &mut progress, limits: &mut limits };
    let Ended { folder, limit, .. } = one.run(&mut hand, &out, Place::New(number))?;
    limit.map_or(Ok(folder), Err)
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
    // Every record names them.
    let mut session = options.builder.clone().hash_files().open()?;
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
