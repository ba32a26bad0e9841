//! The table of an experiment: what `toy`, `pareto` and `eval` leave in a folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::files;
use crate::cli::experiment::{EVALUATION, FRONT, RUNS, SUMMARY, TABLE, TOY};
use crate::cli::flags;
use crate::error::{Error, Result};
use crate::regular;

/// Files that say what a folder's table is of, what that is in a word, and the name of its first column.
const KINDS: [(&str, &str, &str); 3] =
    [(TOY, "Toy", "method"), (FRONT, "Front", "arm"), (EVALUATION, "Evaluation", "set")];
/// Most bytes of a table.
const MOST_BYTES: u64 = 1 << 24;

/// A table as it was left.
#[derive(Clone, Debug)]
pub struct Table {
    pub folder: PathBuf,
    /// What it is of, in a word.
    pub kind: &'static str,
    /// That made it.
    pub command: Option<String>,
    pub header: Vec<String>,
    /// As many cells as the header has.
    pub rows: Vec<Vec<String>>,
    /// Charts, files of SVG, in the order of their names.
    pub charts: Vec<PathBuf>,
    /// What is not there yet.
    pub notes: Vec<String>,
}

impl Table {
    /// The table in `path`, or of the file there that describes it; `None` where there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file, for one that is damaged.
    pub fn at(path: &Path) -> Option<Result<Table>> {
        let named = path.file_name().and_then(|name| name.to_str());
        let is_design = KINDS.iter().any(|(design, ..)| named == Some(design));
        let folder = if is_design && path.is_file() { path.parent()? } else { path };
        let (_, kind, first) = KINDS.iter().find(|(design, ..)| folder.join(design).exists())?;
        Some(Table::read(folder, kind, first))
    }

    /// The table of this kind, whose columns begin with `first`.
    fn read(folder: &Path, kind: &'static str, first: &str) -> Result<Table> {
        let fix = "give the command that made the folder again: it writes its table anew";
        let mut table = Table {
            folder: folder.into(),
            kind,
            command: None,
            header: Vec::new(),
            rows: Vec::new(),
            charts: Vec::new(),
            notes: Vec::new(),
        };
        let path = folder.join(TABLE);
        if !path.exists() {
            let (runs, _) = files::lines::<serde_json::Value>(&folder.join(RUNS));
            table.notes.push(format!(
                "{} lines of runs are there; the table is made when all are, by the same command",
                runs.len()
            ));
            return Ok(table);
        }
        let damaged = || Error::io(format!("{}: is damaged: no table", path.display())).advice(fix);
        let bytes = regular::read(&path, MOST_BYTES).map_err(|e| {
            let fix = regular::fix(&e, fix);
            Error::io(format!("{}: cannot be read", path.display())).because(e).advice(fix)
        })?;
        let mut reader = csv::Reader::from_reader(&bytes[..]);
        table.header = reader.headers().map_err(|e| damaged().because(e))?.iter().map(String::from).collect();
        for record in reader.records() {
            table.rows.push(record.map_err(|e| damaged().because(e))?.iter().map(String::from).collect());
        }
        if table.header.first().is_none_or(|name| name != first) || table.rows.is_empty() {
            return Err(damaged());
        }
        match files::object(&folder.join(SUMMARY), fix) {
            Ok(summary) => {
                table.command = summary.get("command").and_then(|command| command.as_str()).map(String::from);
                if table.command.is_none() {
                    table.notes.push(format!("{SUMMARY} does not say which command made it: it is damaged"));
                }
            }
            Err(error) => table.notes.push(flags::report(&error)),
        }
        let unreadable =
            |e| Error::io(format!("{}: cannot be read", folder.display())).because(e).advice(fix);
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            if path.extension().is_some_and(|ending| ending == "svg") {
                table.charts.push(path);
            }
        }
        table.charts.sort();
        Ok(table)
    }

    /// The name of its folder.
    pub fn name(&self) -> String {
        files::name(&self.folder)
    }
}
