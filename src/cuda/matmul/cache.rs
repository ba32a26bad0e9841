//! Who made which linear map in earlier runs (contest.rs), in a file of one line for each: so that the same
//! command gives the same bits on one machine, though the contest was decided by times.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use super::problem::Problem;
use crate::backend::{Activation, Epilogue};
use crate::cuda::launch;

/// Who makes a shape: our kernels, or one of the library's ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Own,
    Way(usize),
}

/// Choices of earlier runs, and the file that this run adds to.
#[derive(Default)]
pub struct Choices {
    file: Option<PathBuf>,
    known: HashMap<Problem, Choice>,
}

impl Choices {
    /// The file of a GPU, a version of the library and a type, named by `of`; this program's version too,
    /// since its kernels may have become faster.
    pub fn usual(of: &str) -> Choices {
        let name: String =
            of.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
        let file = |dir: PathBuf| dir.join(format!("products-{name}-{}.txt", env!("CARGO_PKG_VERSION")));
        Choices::of(launch::cache().map(file))
    }

    /// Of this file; one that is not there, and lines that are not understood, say nothing.
    pub fn of(file: Option<PathBuf>) -> Choices {
        let text = file.as_ref().and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        // A later line of the same shape counts: a run added it that could not do what the first says.
        let known = text.lines().filter_map(parse).collect();
        Choices { file, known }
    }

    pub fn get(&self, key: &Problem) -> Option<Choice> {
        self.known.get(key).copied()
    }

    /// Adds a line; where that fails, the next run chooses anew.
    pub fn add(&mut self, key: Problem, choice: Choice) {
        self.known.insert(key, choice);
        let Some(file) = &self.file else { return };
        let _ = file.parent().map_or(Ok(()), fs::create_dir_all);
        let opened = fs::OpenOptions::new().create(true).append(true).open(file);
        let _ = opened.and_then(|mut file| file.write_all(line(key, choice).as_bytes()));
    }
}

/// Names of what may follow.
const EPILOGUES: [(&str, Epilogue); 4] = [
    ("silu", Epilogue::Activate(Activation::Silu)),
    ("gelu", Epilogue::Activate(Activation::Gelu)),
    ("quick-gelu", Epilogue::Activate(Activation::QuickGelu)),
    ("geglu", Epilogue::Geglu),
];

/// `4096 2560 320 w+bias+geglu+kept 2`: rows, columns, depth, what is in it (`w'` where the weight is
/// turned), and the way, or `own`.
fn line(key: Problem, choice: Choice) -> String {
    let Problem { rows, columns, depth, turned, bias, add, then } = key;
    let named = |epilogue| EPILOGUES.iter().find(|(_, e)| *e == epilogue).map(|(name, _)| *name);
    let parts = [
        Some(if turned { "w'" } else { "w" }),
        bias.then_some("bias"),
        add.then_some("add"),
        then.and_then(|(epilogue, _)| named(epilogue)),
        then.and_then(|(_, keep)| keep.then_some("kept")),
    ];
    let what = parts.into_iter().flatten().collect::<Vec<_>>().join("+");
    let choice = match choice {
        Choice::Own => "own".into(),
        Choice::Way(n) => n.to_string(),
    };
    format!("{rows} {columns} {depth} {what} {choice}\n")
}

fn parse(line: &str) -> Option<(Problem, Choice)> {
    let [rows, columns, depth, what, choice] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
    let [rows, columns, depth] = [rows.parse().ok()?, columns.parse().ok()?, depth.parse().ok()?];
    let parts: Vec<_> = what.split('+').collect();
    let has = |part| parts.contains(&part);
    let then = EPILOGUES.iter().find(|(name, _)| has(name)).map(|(_, epilogue)| (*epilogue, has("kept")));
    let key = Problem { rows, columns, depth, turned: has("w'"), bias: has("bias"), add: has("add"), then };
    let choice = if choice == "own" { Choice::Own } else { Choice::Way(choice.parse().ok()?) };
    Some((key, choice))
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
            turned: flags[i & 1],
            bias: flags[i >> 1 & 1],
            add: flags[i >> 2 & 1],
            then: (i > 7).then(|| (EPILOGUES[i & 3].1, flags[i >> 2 & 1])),
        };
        (0..16).map(key).collect()
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        for key in keys() {
            for choice in [Choice::Own, Choice::Way(0), Choice::Way(3)] {
                assert_eq!(parse(line(key, choice).trim_end()), Some((key, choice)));
            }
        }
        for wrong in ["", "1 2 3 w", "1 2 3 w x", "1 2 3 w 1 1", "-1 2 3 w own"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_next_run_knows_and_the_last_line_counts() {
        let dir = std::env::temp_dir().join(format!("das-cuda-choices-{}", std::process::id()));
        let file = dir.join("deep").join("products.txt");
        let key = keys()[5];
        let (mut one, mut other) = (Choices::of(Some(file.clone())), Choices::of(Some(file.clone())));
        assert_eq!(one.get(&key), None);
        one.add(key, Choice::Way(1));
        other.add(key, Choice::Own);
        assert_eq!(Choices::of(Some(file)).get(&key), Some(Choice::Own));
        fs::remove_dir_all(dir).unwrap();
    }
}
