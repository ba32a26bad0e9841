//! Files of JSON, and the paths that stand in them.

use std::cmp::Ordering;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::cli::experiment::{RUNS, SUMMARY};
use crate::error::{Error, Result};
use crate::regular;
use crate::run::SCHEMA;

/// Most bytes that are read of a file of JSON.
const MOST_BYTES: u64 = 1 << 30;

/// The object in a file, of a layout that this program knows.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file: it is missing, damaged, or of another layout.
pub fn object(path: &Path, fix: &str) -> Result<Map<String, Value>> {
    let unusable = |what: &str| Error::io(format!("{}: {what}", path.display())).advice(fix);
    let bytes = regular::read(path, MOST_BYTES).map_err(|e| {
        let fix = regular::fix(&e, fix);
        Error::io(format!("{}: cannot be read", path.display())).because(e).advice(fix)
    })?;
    let value = serde_json::from_slice(&bytes).map_err(|e| unusable("is damaged: no JSON").because(e))?;
    let Value::Object(map) = value else { return Err(unusable("is damaged: no JSON object")) };
    match map.get("schema").and_then(Value::as_u64) {
        Some(schema) if schema == u64::from(SCHEMA) => Ok(map),
        Some(schema) => Err(unusable(&format!("is of layout {schema}, and this program reads {SCHEMA}"))
            .advice("use the version of das-cuda that wrote it")),
        None => Err(unusable("is damaged: it has no `schema`")),
    }
}

/// The lines of a file up to the first that cannot be read, and what is wrong with the file, if anything is.
pub fn lines<T: DeserializeOwned>(path: &Path) -> (Vec<T>, Option<String>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bytes = match regular::read(path, MOST_BYTES) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return (Vec::new(), Some(format!("{name} is not there")));
        }
        Err(e) => return (Vec::new(), Some(format!("{name} cannot be read: {e}"))),
    };
    let mut read = Vec::new();
    for (number, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        match serde_json::from_slice(line) {
            Ok(value) => read.push(value),
            Err(_) if !line.ends_with(b"\n") => {
                return (read, Some(format!("{name} ends within its line {}", number + 1)));
            }
            Err(e) => {
                let what =
                    format!("{name}: line {} is damaged, and is left out with what follows: {e}", number + 1);
                return (read, Some(what));
            }
        }
    }
    (read, None)
}

/// What an experiment of many runs has left: the record of its design, its `summary.json` once all runs are
/// done, the lines of its `runs.jsonl`, and what of these could not be read.
pub struct Left<T> {
    pub record: Map<String, Value>,
    pub summary: Option<Map<String, Value>>,
    pub lines: Vec<T>,
    pub notes: Vec<String>,
}

/// Reads the experiment in `folder`, whose design is in the file of this name, and of which there are to be
/// `planned` lines by its record. `what` it is, and what its lines are of, is for messages.
///
/// # Errors
/// As [`object`], of the design and of a summary that is there.
pub fn left<T: DeserializeOwned>(
    folder: &Path,
    design: &str,
    (what, of): (&str, &str),
    planned: fn(&Map<String, Value>) -> usize,
) -> Result<Left<T>> {
    let record = object(&folder.join(design), &format!("give the folder of another {what}"))?;
    let path = folder.join(SUMMARY);
    let fix =
        format!("give the command of the {what} again: it writes its tables from the {of} that are done");
    let summary = if path.exists() { Some(object(&path, &fix)?) } else { None };
    if summary.as_ref().is_some_and(|summary| !summary.get("rows").is_some_and(Value::is_array)) {
        return Err(Error::io(format!("{}: is damaged: it has no rows", path.display())).advice(fix));
    }
    let (lines, damage) = lines(&folder.join(RUNS));
    let note = match &summary {
        // Of lines that cannot be read it is told already.
        Some(_) if damage.is_some() => None,
        summary => unfinished(lines.len(), planned(&record), of, summary.is_some()),
    };
    Ok(Left { record, summary, lines, notes: damage.into_iter().chain(note).collect() })
}

/// What is to say of `done` lines where `planned` are to be, with a summary beside them or none yet; `of` is
/// what they are of: `runs`.
fn unfinished(done: usize, planned: usize, of: &str, summary: bool) -> Option<String> {
    match (summary, done.cmp(&planned)) {
        (false, Ordering::Less) => Some(format!(
            "{done} of {planned} {of} are done; the table is made when all are, by the same command"
        )),
        (false, _) => Some(format!("all {of} are done; the same command makes the table")),
        (true, Ordering::Equal) => None,
        (true, Ordering::Less) => Some(format!(
            "{RUNS} has {done} {of} and the table is of {planned}; the same command makes what is missing"
        )),
        (true, Ordering::Greater) => Some(format!(
            "{RUNS} has {done} {of} and the table is of {planned}: lines are there twice, or of others"
        )),
    }
}

/// A list in the design of such a record.
pub fn list<'a>(record: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    design(record, key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// An entry of the design in the record of an experiment.
pub fn design<'a>(record: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    record.get("design").and_then(|design| design.get(key))
}

/// The name of a folder.
pub fn name(folder: &Path) -> String {
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    whole.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A path that a file of `folder` names, if it leads to somewhere below the folder.
pub fn safe(folder: &Path, named: &str) -> Option<PathBuf> {
    let path = Path::new(named);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && !named.is_empty()).then(|| folder.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn lines_are_read_up_to_the_first_damage_which_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.jsonl");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            lines::<Value>(&path)
        };
        assert_eq!(read("{}\n{}\n"), (vec![Value::Object(Map::new()); 2], None));
        let (whole, note) = read("{}\n{\"a\": ");
        assert_eq!((whole.len(), note.as_deref()), (1, Some("trace.jsonl ends within its line 2")));
        let (whole, note) = read("{}\nx\n{}\n");
        assert!(whole.len() == 1 && note.unwrap().starts_with("trace.jsonl: line 2 is damaged"));
        let (_, note) = lines::<Value>(&dir.path().join("none.jsonl"));
        assert_eq!(note.as_deref(), Some("none.jsonl is not there"));
    }

    #[test]
    fn lines_and_a_table_that_do_not_fit_are_told() {
        let told = |done, summary| unfinished(done, 4, "runs", summary).unwrap_or_default();
        assert!(told(3, false).starts_with("3 of 4 runs are done; the table is made when all are"));
        assert!(told(4, false).starts_with("all runs are done; the same command"));
        for done in [3, 5] {
            assert!(
                told(done, true).starts_with(&format!("runs.jsonl has {done} runs and the table is of 4"))
            );
        }
        assert!(told(3, true).ends_with("what is missing") && !told(5, true).contains("missing"));
        assert_eq!(told(4, true), "");
    }

    #[test]
    fn no_named_path_leads_out_of_the_folder() {
        let folder = Path::new("run");
        assert_eq!(safe(folder, "particles/000.png"), Some("run/particles/000.png".into()));
        for named in ["../secret.png", "/etc/passwd", "particles/../../x.png", "", "./x.png"] {
            assert_eq!(safe(folder, named), None, "{named}");
        }
    }

    #[test]
    fn an_object_of_another_layout_is_refused_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        for (text, word) in [
            ("{\"schema\": 99}", "layout 99"),
            ("[]", "no JSON object"),
            ("{", "no JSON"),
            ("{}", "no `schema`"),
        ] {
            fs::write(&path, text).unwrap();
            let error = object(&path, "the fix").unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("run.json") && error.contains("fix"), "{error}");
        }
    }
}
