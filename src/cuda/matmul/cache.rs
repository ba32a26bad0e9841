//! The autotuner's decisions (autotune.rs) of earlier runs, in a file of one line for each problem. Decisions
//! are made by times, which scatter; the file makes the same command give the same bits on one machine.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use super::problem::Problem;
use crate::backend::{Activation, Epilogue};
use crate::cache;

/// What makes a problem: our kernels, or one of the library's candidates, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Own,
    Library(usize),
}

/// Decisions of earlier runs, and the file to which this run adds its own.
#[derive(Default)]
pub struct Cache {
    file: Option<PathBuf>,
    known: HashMap<Problem, Choice>,
}

impl Cache {
    /// The file for a GPU, a version of the library and an element type, which `name` says. The name of the
    /// file has this program's version too, because another version's kernels may be faster.
    pub fn usual(name: &str) -> Cache {
        let name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        let file = |dir: PathBuf| dir.join(format!("products-{name}-{}.txt", env!("CARGO_PKG_VERSION")));
        Cache::open(cache::folder().map(file))
    }

    /// Reads `file`. A file that cannot be read, and lines that are not understood, decide nothing.
    pub fn open(file: Option<PathBuf>) -> Cache {
        let text = file.as_ref().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        // Of two lines for one problem the later counts: a run adds it if it could not do what the first
        // says.
        let known = text.lines().filter_map(parse).collect();
        Cache { file, known }
    }

    pub fn get(&self, problem: &Problem) -> Option<Choice> {
        self.known.get(problem).copied()
    }

    /// Adds a line. If it cannot be written, the next run decides anew.
    pub fn add(&mut self, problem: Problem, choice: Choice) {
        self.known.insert(problem, choice);
        let Some(file) = &self.file else { return };
        let _ = file.parent().map_or(Ok(()), fs::create_dir_all);
        let opened = fs::OpenOptions::new().create(true).append(true).open(file);
        let _ = opened.and_then(|mut file| file.write_all(line(problem, choice).as_bytes()));
    }
}

/// Names of epilogues in the file.
const EPILOGUES: [(&str, Epilogue); 4] = [
    ("silu", Epilogue::Activate(Activation::Silu)),
    ("gelu", Epilogue::Activate(Activation::Gelu)),
    ("quick-gelu", Epilogue::Activate(Activation::QuickGelu)),
    ("geglu", Epilogue::Geglu),
];

/// `4096 2560 320 w+bias+geglu+kept 2`: rows, columns, depth; `w`, or `w'` for a transposed weight, and what
/// is added to the product or follows it; the candidate's number, or `own`.
fn line(problem: Problem, choice: Choice) -> String {
    let Problem { rows, columns, depth, transposed, bias, add, epilogue } = problem;
    let named = |epilogue| EPILOGUES.iter().find(|(_, e)| *e == epilogue).map(|(name, _)| *name);
    let parts = [
        Some(if transposed { "w'" } else { "w" }),
        bias.then_some("bias"),
        add.then_some("add"),
        epilogue.and_then(|(epilogue, _)| named(epilogue)),
        epilogue.and_then(|(_, keep)| keep.then_some("kept")),
    ];
    let what = parts.into_iter().flatten().collect::<Vec<_>>().join("+");
    let choice = match choice {
        Choice::Own => "own".into(),
        Choice::Library(n) => n.to_string(),
    };
    format!("{rows} {columns} {depth} {what} {choice}\n")
}

fn parse(line: &str) -> Option<(Problem, Choice)> {
    let [rows, columns, depth, what, choice] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
    let [rows, columns, depth] = [rows.parse().ok()?, columns.parse().ok()?, depth.parse().ok()?];
    let parts: Vec<_> = what.split('+').collect();
    let has = |part| parts.contains(&part);
    let epilogue = EPILOGUES.iter().find(|(name, _)| has(name)).map(|(_, epilogue)| (*epilogue, has("kept")));
    let problem =
        Problem { rows, columns, depth, transposed: has("w'"), bias: has("bias"), add: has("add"), epilogue };
    let choice = if choice == "own" { Choice::Own } else { Choice::Library(choice.parse().ok()?) };
    Some((problem, choice))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<Problem> {
        let flags = [false, true];
        let key = |i: usize| Problem {
            rows: 4096 + i,
            columns: 2560,
            depth: 320,
            transposed: flags[i & 1],
            bias: flags[i >> 1 & 1],
            add: flags[i >> 2 & 1],
            epilogue: (i > 7).then(|| (EPILOGUES[i & 3].1, flags[i >> 2 & 1])),
        };
        (0..16).map(key).collect()
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        for key in keys() {
            for choice in [Choice::Own, Choice::Library(0), Choice::Library(3)] {
                assert_eq!(parse(line(key, choice).trim_end()), Some((key, choice)));
            }
        }
        for wrong in ["", "1 2 3 w", "1 2 3 w x", "1 2 3 w 1 1", "-1 2 3 w own"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_next_run_knows_and_the_last_line_counts() {
        let dir = std::env::temp_dir().join(format!("das-cuda-cache-{}", std::process::id()));
        let file = dir.join("deep").join("products.txt");
        let key = keys()[5];
        let (mut one, mut other) = (Cache::open(Some(file.clone())), Cache::open(Some(file.clone())));
        assert_eq!(one.get(&key), None);
        one.add(key, Choice::Library(1));
        other.add(key, Choice::Own);
        assert_eq!(Cache::open(Some(file)).get(&key), Some(Choice::Own));
        fs::remove_dir_all(dir).unwrap();
    }
}
