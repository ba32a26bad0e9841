//! `report`: runs, comparisons and optimisations as one page that needs nothing but a browser.

mod comparison;
mod experiment;
mod one;
mod optimisation;
mod page;
mod pictures;
mod plot;
mod scatter;
mod series;
mod several;
mod tables;
mod tree;

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use maud::html;

use super::args::Report;
use super::look::{Comparison, Optimisation, Place, Run, Table, places};
use super::{flags, meaning, output, words};
use crate::error::{Error, Result};
use crate::run::write_atomic;

/// Sections that are unfolded at first where there are no more.
const FEW: usize = 4;

/// Everything that goes on the page.
#[derive(Default)]
struct Found {
    runs: Vec<Run>,
    comparisons: Vec<Comparison>,
    tables: Vec<Table>,
    optimisations: Vec<Optimisation>,
    /// What cannot be read, in the place of what it is.
    damaged: Vec<String>,
}

impl Found {
    fn nothing(&self) -> bool {
        self.runs.is_empty()
            && self.comparisons.is_empty()
            && self.optimisations.is_empty()
            && self.tables.is_empty()
    }
}

/// The command.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where nothing that was named can be read;
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where there is no run, or the page would replace a file.
pub fn run(args: &Report) -> Result<()> {
    let to_stdout = args.output == Path::new("-");
    if !to_stdout {
        meaning::unclaimed(&args.output, args.overwrite)?;
        replaceable(&args.output)?;
    }
    let found = read(&args.runs)?;
    if to_stdout {
        return output::bytes(page(&found, args.pictures).as_bytes());
    }
    if let Some(folder) = args.output.parent().filter(|folder| *folder != Path::new("")) {
        std::fs::create_dir_all(folder).map_err(|e| {
            Error::io(format!("{}: cannot be made", folder.display()))
                .because(e)
                .advice("choose another with -o")
        })?;
    }
    write_atomic(&args.output, page(&found, args.pictures).as_bytes())?;
    output::answer(args.output.as_os_str().as_encoded_bytes())
}

/// Refuses to replace what is no page: a device, a link, a folder, or a file of a run.
fn replaceable(file: &Path) -> Result<()> {
    let Ok(there) = std::fs::symlink_metadata(file) else { return Ok(()) };
    let begins = || {
        let mut start = [0; page::START.len()];
        std::fs::File::open(file)?.read_exact(&mut start)?;
        std::io::Result::Ok(start.eq_ignore_ascii_case(page::START.as_bytes()))
    };
    let is_page = there.is_file() && begins().unwrap_or(false);
    match is_page || there.is_file() && there.len() == 0 {
        true => Ok(()),
        false => Err(Error::usage(format!("-o {}: what is there is no page of HTML", file.display()))
            .advice("choose another name with -o, or `-` for standard output")),
    }
}

/// Reads all that is named, once each. One that cannot be read is said on the page, if there is another.
fn read(paths: &[impl AsRef<Path>]) -> Result<Found> {
    let mut found = Found::default();
    let mut first: Option<Error> = None;
    let mut seen = BTreeSet::new();
    for path in paths {
        let mut is_new = |folder: &Path| seen.insert(folder.canonicalize().unwrap_or_else(|_| folder.into()));
        if let Some(table) = Table::at(path.as_ref()) {
            match table {
                Ok(table) if is_new(&table.folder) => found.tables.push(table),
                Ok(_) => {}
                Err(error) => {
                    found.damaged.push(flags::report(&error));
                    first.get_or_insert(error);
                }
            }
            continue;
        }
        for place in places(path.as_ref())? {
            if !is_new(place.folder()) {
                continue;
            }
            let done = match &place {
                Place::Run(folder) => Run::read(folder).map(|run| found.runs.push(run)),
                Place::Comparison(folder) => {
                    Comparison::read(folder).map(|comparison| found.comparisons.push(comparison))
                }
                Place::Optimisation(folder) => {
                    Optimisation::read(folder).map(|optimisation| found.optimisations.push(optimisation))
                }
            };
            let Err(error) = done else { continue };
            found.damaged.push(flags::report(&error));
            first.get_or_insert(error);
        }
    }
    match first {
        Some(error) if found.nothing() => Err(error),
        _ => {
            found.damaged.iter().for_each(|what| output::note(format_args!("warning: left out: {what}")));
            Ok(found)
        }
    }
}

fn page(found: &Found, most: usize) -> String {
    let Found { runs, comparisons, optimisations, tables, damaged } = found;
    let ids: Vec<String> = (0..runs.len()).map(|i| format!("run-{i}")).collect();
    let open = runs.len() + comparisons.len() + optimisations.len() + tables.len() <= FEW;
    let of = |kind: &str, name: &str| format!("{kind} {} \u{b7} das-cuda", words::clean(name));
    let title = match (&runs[..], &comparisons[..], &optimisations[..], &tables[..]) {
        ([run], [], [], []) => format!("{} \u{b7} das-cuda", words::short(run.text("prompt"), 60)),
        ([], [comparison], [], []) => of("Comparison", &comparison.name()),
        ([], [], [optimisation], []) => of("Optimisation", &optimisation.name()),
        ([], [], [], [table]) => of(table.kind, &table.name()),
        _ => "Runs of das-cuda".into(),
    };
    let sections = html! {
        @if !damaged.is_empty() {
            ul.notes { @for what in damaged { li.bad { "Left out: " (words::said(what)) } } }
        }
        @for (i, one) in comparisons.iter().enumerate() {
            (comparison::section(one, &format!("comparison-{i}"), most, open))
        }
        @for (i, one) in optimisations.iter().enumerate() {
            (optimisation::section(one, &format!("optimisation-{i}"), most, open))
        }
        @for (i, one) in tables.iter().enumerate() { (experiment::section(one, &format!("table-{i}"), open)) }
        @if runs.len() > 1 { (several::section(&runs.iter().collect::<Vec<_>>(), &ids)) }
        @for (run, id) in runs.iter().zip(&ids) { (one::section(run, id, most, open)) }
    };
    page::page(&title, &sections)
}
