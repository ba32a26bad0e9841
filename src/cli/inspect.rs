//! `inspect`: what a run, a picture, a model, a reward or a file of weights is, in the terminal. Nothing is
//! computed or downloaded.

mod facts;
mod networks;
mod picture;
mod reward;
mod run;
mod weights;

use std::io::Read;
use std::path::Path;

use super::args::Inspect;
use super::look::{Comparison, Optimisation, Place, Run, Table, places};
use super::{downloads, flags, output};
use crate::assets::SHAPES;
use crate::error::{Error, Result};
use crate::hub::{Hub, Name};
use crate::model::needed;
use crate::pixels::Picture;
use crate::regular;
use crate::run::read_checkpoint;
use facts::Facts;

/// The command.
///
/// # Errors
/// Of what is named: it is not there, it cannot be read, or it is something else, saying what.
pub fn run(args: &Inspect) -> Result<()> {
    // Nothing is downloaded to be looked at.
    let hub = downloads::hub(true, true);
    let (mut told, mut first) = (0, None);
    for what in &args.what {
        let all = facts_of(what, &hub).unwrap_or_else(|error| vec![Err(error)]);
        for facts in all {
            match facts {
                Ok(facts) => {
                    if !args.json && told > 0 {
                        output::line("")?;
                    }
                    told += 1;
                    output::line(if args.json { facts.json() } else { facts.text() })?;
                }
                // One that is none keeps none of the others from being told.
                Err(error) if first.is_none() => first = Some(error),
                Err(error) => output::note(format_args!("error: {}", flags::report(&error))),
            }
        }
    }
    first.map_or(Ok(()), Err)
}

/// What is known of one argument: a list, since a folder may hold several runs.
fn facts_of(what: &Path, hub: &Hub) -> Result<Vec<Result<Facts>>> {
    if what.exists() {
        return of_path(what, hub);
    }
    let text = what.to_string_lossy();
    if text == SHAPES {
        return Ok(vec![weights::embedded(hub)]);
    }
    if let Some(facts) = reward::facts(&text, hub)? {
        return Ok(vec![Ok(facts)]);
    }
    if Name::of(what).is_some() {
        // Its files are looked at as far as they are there.
        let found = hub.locate(what, &|_| Ok(Vec::new())).map_err(|e| {
            e.advice(format!(
                "inspect downloads nothing: fetch it first, `hf download {text}`, or correct the name"
            ))
        })?;
        let mut all = of_path(&found, hub)?;
        let lacking = needed::of_pipeline(crate::hub::Snapshot { folder: &found, listing: None });
        if let (Some(Ok(facts)), Ok(lacking)) = (all.first_mut(), lacking) {
            facts.repository(&text, &lacking);
        }
        return Ok(all);
    }
    let absent = format!("{text}: there is no such file or folder, and no reward or model of this name");
    Err(Error::usage(absent).advice(
        "give a folder that this program has written, a picture, a model, a LoRA, an embedding, an autoencoder, or \
         a reward (`das-cuda rewards` lists them)",
    ))
}

fn of_path(path: &Path, hub: &Hub) -> Result<Vec<Result<Facts>>> {
    if let Some(table) = Table::at(path) {
        return Ok(vec![table.map(|table| run::table(&table))]);
    }
    if let Ok(found) = places(path) {
        let facts = |place: &Place| match place {
            Place::Run(folder) => Run::read(folder).map(|run| run::facts(&run)),
            Place::Comparison(folder) => {
                Comparison::read(folder).map(|comparison| run::comparison(&comparison))
            }
            Place::Optimisation(folder) => {
                Optimisation::read(folder).map(|optimisation| run::optimisation(&optimisation))
            }
        };
        return Ok(found.iter().map(facts).collect());
    }
    if path.is_file() {
        match Picture::read(path) {
            Ok(picture) => return Ok(vec![picture::facts(path, &picture)]),
            // What begins as a picture is nothing else.
            Err(e) if is_image(path) => return Err(e),
            Err(_) => {}
        }
    }
    if let Ok(Some((about, _))) = read_checkpoint(path) {
        return Ok(vec![Ok(run::checkpoint(path, &about))]);
    }
    Ok(vec![networks::facts(path).unwrap_or_else(|| weights::facts(path, hub))])
}

/// Whether a file begins as pictures do.
fn is_image(path: &Path) -> bool {
    let mut start = Vec::new();
    let read = regular::open(path).and_then(|file| file.take(32).read_to_end(&mut start));
    read.is_ok() && image::guess_format(&start).is_ok()
}
