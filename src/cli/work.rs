//! All draws of a command, made by one model or by several at the same time, each on devices of its own. A
//! draw that fails by itself keeps none of the others from being made.

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde_json::{Map, Value};

use super::again::{self, Stopped};
use super::draw::{Hand, Place};
use super::limits::Limits;
use super::one::OnePrompt;
use super::options::Options;
use super::progress::Progress;
use super::record::{Choices, Draw};
use super::{flags, output, skip};
use crate::error::{Error, ErrorKind, Result};
use crate::run::{Finished, Listing, OutDir, RunDir};
use crate::session::{PlainScores, Prompt, Session};

/// A model on devices of its own, with the options settled for it.
pub struct Opened {
    pub session: Session,
    pub options: Options,
}

/// Every draw of every prompt in this part of the list, with what keys its randomness and the number of its
/// folder in an empty directory.
pub fn draws(options: &Options) -> impl Iterator<Item = (&Prompt, Draw, usize)> {
    let all = options.prompts.iter().zip(options.first_index..).flat_map(move |(prompt, index)| {
        (0..options.count).map(move |k| {
            let draw = Draw { index, seed: options.seed.wrapping_add(k as u64) };
            (prompt, draw, index * options.count + k)
        })
    });
    let first = options.first_index * options.count;
    all.filter(move |(.., number)| options.shard.is_none_or(|shard| shard.has(number - first)))
}

/// What all draws share.
pub struct Work<'a> {
    pub typed: &'a [String],
    pub out: &'a OutDir,
    pub files: &'a Map<String, Value>,
    pub list: &'a str,
    pub plain: &'a [PlainScores],
    /// What there is already, where that is asked for.
    pub listing: Option<Listing>,
    /// Of all draws.
    pub count: usize,
    /// Of a draw.
    pub steps: u64,
    pub progress: Progress,
    pub limits: &'a Limits,
    /// How many are made at the same time.
    pub at_once: usize,
    pub so_far: SoFar,
}

/// What has become of the draws.
#[derive(Default)]
pub struct SoFar {
    /// That have been taken up.
    taken: AtomicUsize,
    /// That failed by themselves, and as what the first did.
    failed: Mutex<Option<(usize, ErrorKind)>>,
    /// That another process makes.
    elsewhere: AtomicUsize,
    /// No more are taken up.
    ended: AtomicBool,
    /// Records that have been warned of.
    damaged: Mutex<BTreeSet<PathBuf>>,
}

impl Work<'_> {
    /// The first model works on this thread.
    ///
    /// # Errors
    /// What ended all draws; else that some have failed, or are made elsewhere.
    pub fn by_all(&self, mut first: Opened, others: Vec<Opened>) -> Result<()> {
        let resumable = !first.options.overwrite && !first.options.seed_drawn;
        let ends = thread::scope(|scope| {
            let others: Vec<_> =
                others.into_iter().map(|mut other| scope.spawn(move || self.by_one(&mut other))).collect();
            let own = self.by_one(&mut first);
            let joined =
                others.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
            [own].into_iter().chain(joined).filter_map(Result::err).collect::<Vec<_>>()
        });
        let of_all = |e: &Error| matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::Limit);
        let told = ends.iter().position(|e| !of_all(e)).unwrap_or(0);
        for (_, error) in ends.iter().enumerate().filter(|(at, error)| *at != told && !of_all(error)) {
            output::note(format_args!("error: {}", flags::report(error)));
        }
        let left = self.count.saturating_sub(self.so_far.taken.load(Ordering::Relaxed));
        match ends.into_iter().nth(told) {
            Some(error) if error.kind() == ErrorKind::Limit && left > 0 && resumable => {
                Err(error.advice(format!(
                    "`das-cuda resume` goes on; so does the same command with --resume, and draws what has not begun, \
                     {left} of {}",
                    self.count
                )))
            }
            Some(error) => Err(error),
            None => self.conclude(),
        }
    }

    /// Of draws that are no result of this command.
    fn conclude(&self) -> Result<()> {
        let failed = *self.so_far.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((failed, kind)) = failed {
            return Err(Error::new(
                kind,
                format!("{failed} of {} draws failed; run.json of each says why", self.count),
            )
            .advice("the same command with --resume draws them again, and nothing else"));
        }
        match self.so_far.elsewhere.load(Ordering::Relaxed) {
            0 => Ok(()),
            elsewhere => Err(Error::io(format!(
                "{elsewhere} of {} draws of this part are being made by another process",
                self.count
            ))
            .advice("when it has ended, the same command goes on with them or finds them finished")),
        }
    }

    /// One draw after another, as long as there are any and nothing has ended all of them.
    fn by_one(&self, Opened { session, options }: &mut Opened) -> Result<()> {
        let all: Vec<_> = draws(options).collect();
        while !self.so_far.ended.load(Ordering::Relaxed) {
            let next = self.so_far.taken.fetch_add(1, Ordering::Relaxed);
            let Some(&(prompt, draw, number)) = all.get(next) else { break };
            match self.draw(session, options, prompt, draw, number) {
                Ok(()) => {}
                Err(e) if self.count > 1 && matches!(e.kind(), ErrorKind::Numerical | ErrorKind::Model) => {
                    output::note(format_args!("error: {}", flags::report(&e)));
                    let mut failed = self.so_far.failed.lock().unwrap_or_else(PoisonError::into_inner);
                    let (count, _) = failed.get_or_insert((0, e.kind()));
                    *count += 1;
                }
                Err(e) => {
                    self.so_far.ended.store(true, Ordering::Relaxed);
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// What there is of the draw with this number, and of others of its prompt.
    fn found(&self, options: &Options, prompt: &str, number: usize) -> Result<Finished> {
        let found = match (&self.listing, options.shard) {
            (Some(listing), _) => listing.results_of(prompt)?,
            (None, Some(_)) => self.out.listing_of(number, prompt).results()?,
            (None, None) => Finished::default(),
        };
        for record in &found.damaged {
            if self.so_far.damaged.lock().unwrap_or_else(PoisonError::into_inner).insert(record.clone()) {
                output::note(format_args!(
                    "warning: {}: is no record that this program knows, so that its folder does not count as \
                     finished; move the folder away if it is of no use",
                    record.display()
                ));
            }
        }
        Ok(found)
    }

    fn draw(
        &self,
        session: &mut Session,
        options: &Options,
        prompt: &Prompt,
        draw: Draw,
        number: usize,
    ) -> Result<()> {
        let choices = Choices::new(options, session, prompt, draw)?;
        let plain = self.plain.iter().find(|plain| options.first_index + plain.prompt == draw.index);
        let (typed, files, list) = (self.typed, self.files, self.list);
        let one = OnePrompt { options, typed, files, choices, prompt, draw, list, plain };
        let found = self.found(options, &prompt.text, number)?;
        if self.told_finished(&one, &found)? {
            return Ok(());
        }
        let stopped = match (options.shard, options.resume) {
            (Some(_), _) => match self.of_part(&one, number)? {
                Some(stopped) => Some(stopped),
                None => return Ok(()),
            },
            (None, true) => one.stopped_before(self.out, &found, number)?,
            (None, false) => None,
        };
        match &stopped {
            Some(stopped) => one.unclaimed_or_copied(stopped.folder.path())?,
            None => one.unclaimed()?,
        }
        let mut hand = Hand { session, progress: &self.progress, limits: self.limits, at_once: self.at_once };
        let place = stopped.map_or(Place::New(number), |stopped| Place::Stopped(Box::new(stopped)));
        one.run(&mut hand, self.out, place)?.tell()
    }

    /// Says what is known of a draw that has finished before; whether it has.
    fn told_finished(&self, one: &OnePrompt<'_>, found: &Finished) -> Result<bool> {
        let same = found.runs.iter().find(|(_, record)| skip::is_same(record, one));
        let Some((folder, record)) = same else { return Ok(false) };
        self.progress.skip(self.steps);
        self.progress.summary(&format!("{}: finished before, not drawn again", folder.display()));
        let answer = skip::answer(folder, one)?;
        one.unclaimed_or_copied(folder)?;
        one.copy_image(folder)?;
        if one.options.resume {
            again::conclude(folder, record)?;
        }
        output::answer(&answer)?;
        Ok(true)
    }

    /// The folder of a draw of a part, which has its own number or is refused; `None` where another process
    /// has it, or has finished it meanwhile.
    fn of_part(&self, one: &OnePrompt<'_>, number: usize) -> Result<Option<Stopped>> {
        let path = self.out.folder(number, &one.prompt.text);
        let Some(folder) = self.out.take_exactly(number, &one.prompt.text)? else {
            output::note(format_args!("note: {}: another process draws it", path.display()));
            self.so_far.elsewhere.fetch_add(1, Ordering::Relaxed);
            self.progress.skip(self.steps);
            return Ok(None);
        };
        // Nobody else writes it now.
        let found = self.out.listing_of(number, &one.prompt.text).results()?;
        if found.runs.iter().any(|(_, record)| skip::is_same(record, one)) {
            drop(folder);
            self.told_finished(one, &found)?;
            return Ok(None);
        }
        self.stopped_in(one, folder, &found, number).map(Some)
    }

    fn stopped_in(
        &self,
        one: &OnePrompt<'_>,
        folder: RunDir,
        found: &Finished,
        number: usize,
    ) -> Result<Stopped> {
        if self.out.empty(number, &one.prompt.text).is_some() {
            return Ok(Stopped { folder, record: None, checkpoint: None });
        }
        let path = folder.path().to_path_buf();
        if found.unfinished.iter().any(|(_, record)| skip::is_same(record, one)) {
            return one.stopped_in(folder);
        }
        let other = found.runs.iter().chain(&found.unfinished).find_map(|(_, record)| one.other(record));
        Err(match other {
            Some(what) => Error::usage(format!("{}: another run is there: {what}", path.display())).advice(
                "the parts of a list share a directory that holds nothing else: give another with -o",
            ),
            None => Error::io(format!("{}: what is in it is no run that this program knows", path.display()))
                .advice("move the folder away: the same command then draws it"),
        })
    }
}
