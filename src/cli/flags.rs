//! Errors as this surface prints them: the library names options (`micro_batch`), the user knows flags
//! (`--micro-batch`).

use std::sync::LazyLock;

use clap::{Command, CommandFactory};
use regex::{Captures, Regex};

use super::args::Cli;
use super::output::printable;
use super::signals;
use crate::error::{Error, ErrorKind};

/// Options of the library whose flag has another name, and how the flag is printed.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("alpha", "--kl"),
    ("method", "--proposal"),
    ("resampler", "--resample"),
    ("reward", "--reward"),
    ("eval_reward", "--eval-reward"),
    ("lora", "--lora"),
    ("embedding", "--embedding"),
    ("prompt", "-p"),
    ("model", "-m"),
    ("output", "-o"),
    ("width", "-W"),
    ("height", "-H"),
];

/// How the flag of an option is printed, if there is one.
pub fn flag(option: &str) -> Option<String> {
    if let Some((_, flag)) = OTHER_NAMES.iter().find(|(name, _)| *name == option) {
        return Some((*flag).to_string());
    }
    let long = |command: &Command| {
        let arg = command.get_arguments().find(|arg| arg.get_id() == option)?;
        Some(format!("--{}", arg.get_long()?))
    };
    Cli::command().get_subcommands().find_map(long)
}

/// A message of the library, with flags where it names options in backticks. What it quotes is not its own,
/// and stays as it is.
pub fn named(text: &str) -> String {
    static NAME: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#""(?:[^"\\]|\\.)*"|`([a-z][a-z0-9_]*)`"#).ok());
    let Some(name) = &*NAME else { return text.to_string() };
    let printed = |found: &Captures<'_>| {
        let option = found.get(1).and_then(|option| flag(option.as_str()));
        option.unwrap_or_else(|| found[0].to_string())
    };
    name.replace_all(text, printed).into_owned()
}

/// The whole error: what failed, its causes, and on a line of its own the fix. Names in it are made
/// `printable`; further lines of a message are indented by more than the fix is.
pub fn report(error: &Error) -> String {
    const INDENT: usize = 4;
    let mut text = named(&printable(error.message(), INDENT));
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        let source_text = printable(&source.to_string(), INDENT);
        // Some errors print their own cause too.
        if !text.ends_with(&source_text) {
            text = format!("{text}: {source_text}");
        }
        cause = source.source();
    }
    if let Some(advice) = error.advice_text() {
        text = format!("{text}\n  fix: {}", named(&printable(advice, INDENT)));
    }
    match error.option_name().and_then(flag) {
        // Not as a part of a path.
        Some(flag) if !text.split(|c: char| !c.is_alphanumeric() && c != '-').any(|word| word == flag) => {
            format!("{flag}: {text}")
        }
        _ => text,
    }
}

/// The exit code of the program: 1 file I/O, 2 usage, 3 model or format, 4 device or memory, 5 numerical
/// abort, or scores that disagree, 6 a limit of time or evaluations was reached; 128 and the signal's number
/// where one interrupted it (130 for Ctrl-C).
pub fn exit_code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::Io => 1,
        ErrorKind::Usage => 2,
        ErrorKind::Model => 3,
        ErrorKind::Device | ErrorKind::Memory => 4,
        ErrorKind::Numerical => 5,
        ErrorKind::Limit => 6,
        ErrorKind::Interrupted => signals::requested().unwrap_or(130),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn options_become_flags_and_other_words_stay() {
        assert_eq!(
            named("lower `micro_batch`, or `checkpointing` on"),
            "lower --micro-batch, or --checkpointing on"
        );
        assert_eq!(named("`alpha` 0 is small"), "--kl 0 is small");
        assert_eq!(named("`unheard_of` and `steps`"), "`unheard_of` and --steps");
        assert_eq!(named("one ` and `steps"), "one ` and `steps");
        assert_eq!(
            named(r#"`steps` of "a `steps` \" `steps`" and `seed`"#),
            r#"--steps of "a `steps` \" `steps`" and --seed"#
        );
        assert_eq!(named("an inch is 1\", `steps`"), "an inch is 1\", --steps");
        assert_eq!(named("plain"), "plain");
        assert_eq!(named(""), "");
    }

    #[test]
    fn a_report_names_the_flag_once_and_every_cause() {
        let cause = std::io::Error::other("disk on fire");
        let error = Error::io("cannot be read").option("latents").because(cause).advice("see `latents`");
        assert_eq!(report(&error), "cannot be read: disk on fire\n  fix: see --latents");
        let unnamed = Error::usage("none").option("particles");
        assert_eq!(report(&unnamed), "--particles: none");
    }

    #[test]
    fn no_name_in_a_file_controls_the_terminal() {
        let name = "x\u{1b}[31m\n  fix: trust me";
        let error = Error::model(format!("tensor {name}")).because(name).advice(format!("remove {name}"));
        let shown = r"x\u{1b}[31m\n  fix: trust me";
        assert_eq!(report(&error), format!("tensor {shown}\n  fix: remove {shown}"));
    }

    #[test]
    fn every_other_name_is_a_flag() {
        let command = Cli::command();
        let known = |flag: &str| {
            command.get_subcommands().flat_map(Command::get_arguments).any(|arg| {
                arg.get_long().is_some_and(|long| flag == format!("--{long}"))
                    || arg.get_short().is_some_and(|short| flag == format!("-{short}"))
            })
        };
        for (name, flag) in OTHER_NAMES {
            assert!(known(flag), "{name}: {flag}");
        }
    }

    fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("src is readable") {
            let path = entry.expect("src is readable").path();
            if path.is_dir() {
                sources(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                out.push(path);
            }
        }
    }

    /// Names in backticks inside the string literals of a file's code, tests left out.
    fn names(text: &str) -> Vec<String> {
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let literal = Regex::new(r#"(?s)"(?:[^"\\]|\\.)*""#).expect("a pattern");
        let name = Regex::new("`([a-z][a-z0-9_]*)`").expect("a pattern");
        let literals = literal.find_iter(code).map(|m| m.as_str());
        literals.flat_map(|l| name.captures_iter(l).map(|c| c[1].to_string()).collect::<Vec<_>>()).collect()
    }

    #[test]
    fn every_option_the_library_names_has_a_flag() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut paths = Vec::new();
        sources(&root, &mut paths);
        let (mut found, mut unknown) = (0, Vec::new());
        for path in paths.iter().filter(|p| !p.starts_with(root.join("cli")) && !p.ends_with("tests.rs")) {
            for name in names(&fs::read_to_string(path).expect("a source file")) {
                found += 1;
                if flag(&name).is_none() {
                    unknown.push(format!("{}: `{name}`", path.display()));
                }
            }
        }
        assert!(found > 20, "only {found} names found");
        assert!(
            unknown.is_empty(),
            "options without a flag (other words stand in double quotes):\n{unknown:#?}"
        );
    }
}
