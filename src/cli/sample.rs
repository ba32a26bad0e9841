//! `sample`: draws and records, prompt by prompt. Whatever is finished is on disk, whenever and however the
//! run ends.

use std::path::{Path, PathBuf};

use super::draw::{Ended, Hand, Place};
use super::limits::Limits;
use super::one::OnePrompt;
use super::options::Options;
use super::progress::Progress;
use super::record::{self, Choices};
use super::work::{Opened, SoFar, Work, draws};
use super::{meaning, normalise, output, signals};
use crate::error::{Error, ErrorKind, Result};
use crate::run::{OutDir, load_latents};
use crate::session::{PlainScores, SampleOptions, Session};

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
    let limits = Limits::new(options.max_seconds, options.max_nfe);
    let count = draws(&options).count();
    if count == 0 {
        output::note("note: this part of the list has no draws");
        return Ok(());
    }
    let mut groups = options.devices.dealt(count).into_iter();
    let own = groups.next().unwrap_or_else(|| options.devices.clone());
    let (first, plain) = open(options.on(own), &limits)?;
    let scales = first.session.scales();
    let others =
        groups.map(|devices| open_beside(options.on(devices), scales)).collect::<Result<Vec<_>>>()?;
    let files = record::files(&first.options, &first.session)?;
    let (prompt, draw, _) = draws(&first.options).next().ok_or_else(no_prompt)?;
    let list =
        record::list(&first.options, &Choices::new(&first.options, &first.session, prompt, draw)?, &files);
    // Of a part the folders' names are known; to list them all would cost each of many processes as much as
    // all.
    let lists = (options.skip_finished || options.resume) && options.shard.is_none();
    let listing = if lists { Some(out.listing()?) } else { None };
    let steps = options.populations as u64 * (options.steps as u64 + 1);
    let work = Work {
        typed: &typed,
        out: &out,
        files: &files,
        list: &list,
        plain: &plain,
        listing,
        count,
        steps,
        progress: Progress::new(count as u64 * steps, options.quiet),
        limits: &limits,
        at_once: 1 + others.len(),
        so_far: SoFar::default(),
    };
    work.by_all(first, others)
}

/// Goes on with one draw, whose `options` were made of its record, in `folder`, within what is left of
/// `limits`.
///
/// # Errors
/// As [`run`]; those of [`OnePrompt::stopped`].
pub fn go_on(options: Options, folder: &Path, limits: &Limits) -> Result<()> {
    let out = OutDir::new(&options.output);
    alone(options, &[], limits, |one, hand| {
        let stopped = one.stopped(&out, folder)?;
        one.unclaimed_or_copied(folder)?;
        let plain = stopped.checkpoint.as_ref().and_then(|checkpoint| checkpoint.plain.clone());
        let one = OnePrompt { plain: plain.as_ref(), ..one };
        one.run(hand, &out, Place::Stopped(Box::new(stopped)))?.tell()
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
    let limits = Limits::new(options.max_seconds, options.max_nfe);
    let number = options.first_index * options.count;
    alone(options, typed, &limits, |one, hand| {
        check(&one)?;
        one.unclaimed()?;
        let Ended { folder, limit, .. } = one.run(hand, &out, Place::New(number))?;
        limit.map_or(Ok(folder), Err)
    })
}

/// Opens everything for the one draw that `options` are of, and hands it to `f`.
fn alone<T>(
    options: Options,
    typed: &[String],
    limits: &Limits,
    f: impl FnOnce(OnePrompt<'_>, &mut Hand<'_>) -> Result<T>,
) -> Result<T> {
    let (Opened { mut session, options }, plain) = open(options, limits)?;
    let files = &record::files(&options, &session)?;
    let progress = &Progress::new(options.populations as u64 * (options.steps as u64 + 1), options.quiet);
    let (prompt, draw, _) = draws(&options).next().ok_or_else(no_prompt)?;
    let choices = Choices::new(&options, &session, prompt, draw)?;
    let list = &record::list(&options, &choices, files);
    let one =
        OnePrompt { options: &options, typed, files, choices, prompt, draw, list, plain: plain.first() };
    f(one, &mut Hand { session: &mut session, progress, limits, at_once: 1 })
}

fn no_prompt() -> Error {
    Error::usage("no prompt").advice("give one with -p")
}

/// Opens everything, and decides what the options left open. Whatever can be refused is refused here.
fn open(options: Options, limits: &Limits) -> Result<(Opened, Vec<PlainScores>)> {
    if options.builder.compiles_kernels() {
        output::note("compiling the kernels for this GPU, once: this takes a minute or more");
    }
    // Every record names them.
    let mut session = options.builder.clone().hash_files().open()?;
    session.check(&options.prompts, &options.sample)?;
    meaning::unused_embeddings(&session, &options.prompts).iter().for_each(output::note);
    let (sample, notes) = session.settle(options.longest(), &options.sample)?;
    notes.iter().for_each(|note| output::note(format_args!("note: {note}")));
    let plain = normalise::measure(&mut session, &options.prompts, &sample, limits, options.quiet)?;
    Ok((settled(session, options, sample)?, plain))
}

/// The same on other devices, for the same prompts and with these scales of the rewards.
fn open_beside(options: Options, scales: Option<&[f64]>) -> Result<Opened> {
    let mut session = options.builder.clone().open()?;
    scales.map_or(Ok(()), |scales| session.set_scales(scales))?;
    let (sample, _) = session.settle(options.longest(), &options.sample)?;
    settled(session, options, sample)
}

fn settled(session: Session, options: Options, sample: SampleOptions) -> Result<Opened> {
    let sample = match &options.latents {
        Some(path) => sample.clone().latents(latents(path, &session, &sample)?),
        None => sample,
    };
    Ok(Opened { session, options: Options { sample, ..options } })
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
