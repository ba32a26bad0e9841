//! Prompts from the command line and from files.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};

/// One thing to draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub text: String,
    pub negative: String,
}

/// A line of a `.jsonl` prompt file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prompt: String,
    negative_prompt: Option<String>,
}

/// All prompts in order: those of `-p` first, then the file's. `negative` applies where a line has none.
///
/// # Errors
/// No prompt at all; a file that cannot be read, is empty, is not UTF-8, or has a malformed line.
pub fn collect(given: &[String], file: Option<&Path>, negative: &str) -> Result<Vec<Prompt>> {
    let mut prompts: Vec<Prompt> =
        given.iter().map(|text| Prompt { text: text.clone(), negative: negative.into() }).collect();
    if let Some(path) = file {
        prompts.extend(read(path, negative)?);
    }
    if prompts.is_empty() {
        return Err(Error::usage("no prompt").fix("say what to draw, for example -p \"a red star\""));
    }
    Ok(prompts)
}

fn read(path: &Path, negative: &str) -> Result<Vec<Prompt>> {
    let name = path.display();
    let bytes = fs::read(path).map_err(|e| {
        Error::usage(format!("--prompts {name}: cannot be read"))
            .because(e)
            .fix("check the path given to --prompts")
    })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        Error::usage(format!("--prompts {name}: not UTF-8 text")).because(e).fix("save the file as UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let json = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"));
    let mut prompts = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        if !json {
            prompts.push(Prompt { text: line.trim().into(), negative: negative.into() });
            continue;
        }
        let line: Line = serde_json::from_str(line).map_err(|e| {
            Error::usage(format!("--prompts {name}, line {}: not a prompt object", number + 1))
                .because(e)
                .fix("each line is {\"prompt\": \"...\"}, with \"negative_prompt\" if wanted")
        })?;
        let negative = line.negative_prompt.unwrap_or_else(|| negative.into());
        prompts.push(Prompt { text: line.prompt, negative });
    }
    if prompts.is_empty() {
        return Err(Error::usage(format!("--prompts {name}: the file holds no prompt"))
            .fix("write one prompt per line, or use -p"));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(name);
        fs::write(&path, content).expect("a file in it");
        (dir, path)
    }

    #[test]
    fn text_files_hold_a_prompt_per_line_and_follow_the_flags() {
        let (_dir, path) = file("p.txt", "\u{feff}a star\r\n\n  a ring \n".as_bytes());
        let prompts = collect(&["first".into()], Some(&path), "ugly").expect("valid");
        let texts: Vec<_> = prompts.iter().map(|p| p.text.as_str()).collect();
        assert_eq!(texts, ["first", "a star", "a ring"]);
        assert!(prompts.iter().all(|p| p.negative == "ugly"));
    }

    #[test]
    fn json_lines_may_carry_their_own_negative_prompt() {
        let (_dir, path) =
            file("p.jsonl", b"{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"negative_prompt\":\"c\"}\n");
        let prompts = collect(&[], Some(&path), "n").expect("valid");
        assert_eq!(prompts[0], Prompt { text: "a".into(), negative: "n".into() });
        assert_eq!(prompts[1], Prompt { text: "b".into(), negative: "c".into() });
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_line() {
        let (_a, empty) = file("p.txt", b"\n \n");
        assert!(collect(&[], Some(&empty), "").expect_err("empty").to_string().contains("no prompt"));
        let (_b, wrong) = file("p.jsonl", b"{\"prompt\":\"a\"}\n{\"promt\":\"b\"}\n");
        assert!(collect(&[], Some(&wrong), "").expect_err("wrong key").to_string().contains("line 2"));
        let (_c, binary) = file("p.txt", &[0xff, 0xfe, 0x00]);
        assert!(collect(&[], Some(&binary), "").expect_err("binary").to_string().contains("UTF-8"));
        assert!(collect(&[], None, "").expect_err("nothing").to_string().contains("-p"));
    }
}
