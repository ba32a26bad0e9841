//! Which pictures belong together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::cli::look::{Comparison, Optimisation, Place, Run, places, safe};
use crate::cli::save::BEST;
use crate::error::{Error, Result};

/// What to give instead of something else.
const FIX: &str = "give the folder of a run, a comparison or an optimisation, or the directory that these are in; \
                   toys, fronts and evaluations are not judged";

/// A picture, and what it was to show.
pub struct Shown {
    pub path: PathBuf,
    pub prompt: String,
    /// The number of its prompt.
    pub group: usize,
}

/// Pictures that are judged together.
pub struct Set {
    pub name: String,
    pub shown: Vec<Shown>,
    /// How many different prompts there are.
    pub prompts: usize,
    pub notes: Vec<String>,
}

/// The sets at the paths: of a directory of runs their returned pictures, or `all` particles; of a comparison
/// a set for each arm and budget; of an optimisation a set for each strategy, of the evaluation or the last
/// round.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where a record or a picture is not there, or damaged;
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where there is no picture.
pub fn read(paths: &[PathBuf], all: bool) -> Result<Vec<Set>> {
    let mut sets = Vec::new();
    for path in paths {
        let mut own = Vec::new();
        for place in places(path).map_err(|e| e.advice(FIX))? {
            match &place {
                Place::Run(folder) => own.push(Run::read(folder)?),
                Place::Comparison(folder) => sets.extend(arms(&Comparison::read(folder)?, all)?),
                Place::Optimisation(folder) => sets.extend(strategies(&Optimisation::read(folder)?, all)?),
            }
        }
        if !own.is_empty() {
            sets.push(of_runs(path, &own, all)?);
        }
    }
    Ok(sets)
}

/// The pictures of runs.
fn of_runs(path: &Path, runs: &[Run], all: bool) -> Result<Set> {
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    for run in runs {
        let prompt = run.text("prompt").to_string();
        if run.status() != "finished" {
            notes.push(format!("{} has not finished, and is left out", run.folder.display()));
            continue;
        }
        // A run may have returned all of its particles.
        let all = all || run.text("select") == "all";
        let saved = run.particles.iter().filter(|particle| all || particle.is_best);
        let mut pictures: Vec<PathBuf> =
            saved.filter_map(|particle| safe(&run.folder, particle.path.as_ref()?)).collect();
        let best = run.folder.join(BEST);
        if !all && best.exists() {
            pictures = vec![best];
        }
        if pictures.is_empty() {
            return Err(Error::usage(format!("{}: its pictures were not saved", run.folder.display()))
                .advice(match all {
                    true => "leave out --all to judge the returned pictures, or draw again with --save all",
                    false => "draw again without --save none",
                }));
        }
        found.extend(pictures.into_iter().map(|path| (path, prompt.clone())));
    }
    set(path.to_string_lossy().into_owned(), found, notes)
}

/// The pictures of each arm and budget.
fn arms(comparison: &Comparison, all: bool) -> Result<Vec<Set>> {
    if all {
        return Err(Error::usage(format!(
            "{}: a comparison keeps the returned pictures alone",
            comparison.folder.display()
        ))
        .advice("leave out --all"));
    }
    let mut found: BTreeMap<(usize, String), Vec<(PathBuf, String)>> = BTreeMap::new();
    let mut order: Vec<(String, f64)> = Vec::new();
    // A run that lost every particle has none.
    for run in comparison.runs.iter().filter(|run| !run.picture.is_empty()) {
        let known = order.iter().position(|(arm, budget)| *arm == run.arm && *budget == run.budget);
        let place = known.unwrap_or_else(|| {
            order.push((run.arm.clone(), run.budget));
            order.len() - 1
        });
        let path = inside(&comparison.folder, &run.picture)?;
        let name = format!("{}: {}, budget {}", comparison.name(), run.arm, run.budget);
        found.entry((place, name)).or_default().push((path, run.prompt.clone()));
    }
    if found.is_empty() {
        return Err(nothing(&comparison.name()));
    }
    found.into_iter().map(|((_, name), found)| set(name, found, comparison.notes.clone())).collect()
}

/// The pictures of the evaluation or the last round of each strategy.
fn strategies(of: &Optimisation, all: bool) -> Result<Vec<Set>> {
    if all {
        return Err(Error::usage(format!(
            "{}: an optimisation keeps the pictures alone that it asked about",
            of.folder.display()
        ))
        .advice("leave out --all"));
    }
    let mut found: Vec<(&str, Vec<(PathBuf, String)>)> = Vec::new();
    for query in of.last() {
        let shown = (inside(&of.folder, &query.picture)?, query.prompt.clone());
        match found.iter_mut().find(|(strategy, _)| *strategy == query.strategy) {
            Some((_, list)) => list.push(shown),
            None => found.push((query.strategy.as_str(), vec![shown])),
        }
    }
    if found.is_empty() {
        return Err(nothing(&of.name()));
    }
    let name = |strategy: &str| format!("{}: {strategy}", of.name());
    found.into_iter().map(|(strategy, list)| set(name(strategy), list, of.notes.clone())).collect()
}

/// A path that a file of a folder names.
fn inside(folder: &Path, named: &str) -> Result<PathBuf> {
    safe(folder, named).ok_or_else(|| {
        Error::io(format!("{}: a path leads out of it: {named:?}", folder.display()))
            .advice("give the folder as the program wrote it")
    })
}

fn nothing(name: &str) -> Error {
    Error::usage(format!("{name}: there is no finished picture in it")).advice("give runs that have finished")
}

fn set(name: String, found: Vec<(PathBuf, String)>, notes: Vec<String>) -> Result<Set> {
    if found.is_empty() {
        return Err(nothing(&name));
    }
    let mut prompts: Vec<String> = Vec::new();
    let shown = found
        .into_iter()
        .map(|(path, prompt)| {
            let known = prompts.iter().position(|text| *text == prompt);
            let group = known.unwrap_or_else(|| {
                prompts.push(prompt.clone());
                prompts.len() - 1
            });
            Shown { path, prompt, group }
        })
        .collect();
    Ok(Set { name, shown, prompts: prompts.len(), notes })
}
