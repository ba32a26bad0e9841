//! Prompts from the command line and from files, which are told apart by what is in them and not by their
//! names:
//!
//! - text: one prompt per line; blank lines, and lines that begin with `#`, are no prompts;
//! - JSON: a list of prompts, or one; JSON lines: a prompt per line, blank lines and `#` as in text. A prompt
//!   is a string, or an object with `prompt` and, if wanted, `negative_prompt`.
//!
//! Lines end with LF, CRLF or CR; a byte order mark is skipped; `-` is standard input. The names of a few
//! lists stand for these where no file has them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result};
use crate::session::Prompt;

/// Most bytes of a file: a device or an endless pipe is no list of prompts.
const MOST_BYTES: u64 = 1 << 28;

/// Lists of the paper by their names (docs/spec.md 11.5): words, each a prompt.
const LISTS: [(&str, &str); 2] = [
    (
        "simple-animals",
        "cat dog horse monkey rabbit zebra spider bird sheep deer cow goat lion tiger bear raccoon fox wolf \
         lizard beetle ant butterfly fish shark whale dolphin squirrel mouse rat snake turtle frog chicken duck \
         goose bee pig fly llama camel",
    ),
    ("eval-animals", "snail hippopotamus cheetah crocodile lobster octopus bat gorilla hedgehog kangaroo"),
];

/// What a prompt may look like in JSON, for messages.
const OBJECT: &str = "{\"prompt\": \"...\"}, with \"negative_prompt\" if wanted";

/// A value in JSON, with every entry of its objects: of two with one name, no reader should choose in
/// silence.
enum Node {
    Null,
    Bool,
    Number,
    Text(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    /// What it is, for messages.
    fn kind(&self) -> &'static str {
        match self {
            Node::Null => "null",
            Node::Bool => "true or false",
            Node::Number => "a number",
            Node::Text(_) => "a text",
            Node::List(_) => "a list",
            Node::Object(_) => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Node, D::Error> {
        from.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
        Ok(Node::Bool)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Number)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Number)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Number)
    }
    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.into()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Object(entries))
    }
}

/// A prompt in JSON.
struct Entry {
    text: String,
    negative: Option<String>,
}

impl Entry {
    /// What `node` says, or what is wrong with it.
    fn from_node(node: Node) -> Result<Entry, String> {
        let entries = match node {
            Node::Text(text) => return Ok(Entry { text, negative: None }),
            Node::Object(entries) => entries,
            other => return Err(format!("this is {}, not a prompt", other.kind())),
        };
        let (mut text, mut negative) = (None, None);
        for (name, node) in entries {
            let (place, may_lack) = match name.as_str() {
                "prompt" => (&mut text, false),
                "negative_prompt" => (&mut negative, true),
                _ => return Err(format!("a prompt has no \"{name}\"")),
            };
            let value = match node {
                Node::Text(text) => Some(text),
                Node::Null if may_lack => None,
                other => return Err(format!("\"{name}\" is {}, not a text", other.kind())),
            };
            if place.replace(value).is_some() {
                return Err(format!("\"{name}\" is there twice"));
            }
        }
        match text.flatten() {
            Some(text) => Ok(Entry { text, negative: negative.flatten() }),
            None => Err("\"prompt\" is missing".into()),
        }
    }

    fn prompt(self, negative: Option<&str>) -> Prompt {
        Prompt { text: self.text, negative: self.negative.or_else(|| negative.map(str::to_string)) }
    }
}

/// All prompts in order: those of `-p` first, then the file's. `negative` applies where an entry has none.
/// The second part is what the user should know of how the file was read.
///
/// # Errors
/// No prompt at all; a file that cannot be read, holds none, is no UTF-8 text, or has a malformed line.
pub fn collect(
    given: &[String],
    file: Option<&Path>,
    negative: Option<&str>,
) -> Result<(Vec<Prompt>, Option<String>)> {
    let mut prompts: Vec<Prompt> = given
        .iter()
        .map(|text| Prompt { text: text.clone(), negative: negative.map(str::to_string) })
        .collect();
    let mut note = None;
    if let Some(path) = file {
        let name = if path == Path::new("-") { "-".into() } else { path.display().to_string() };
        let (found, comments) = read(path)
            .map_err(|e| {
                let names: Vec<&str> = LISTS.iter().map(|(name, _)| *name).collect();
                Error::io("cannot be read").because(e).advice(format!(
                    "check the path given to --prompts; lists of this program are {}",
                    names.join(", ")
                ))
            })
            .and_then(|bytes| parse(bytes, path, negative))
            .map_err(|e| e.context(format!("--prompts {name}")))?;
        prompts.extend(found);
        note = (comments > 0).then(|| {
            format!("--prompts {name}: lines that begin with # are comments, {comments} of them left out")
        });
    }
    if prompts.is_empty() {
        return Err(Error::usage("no prompt").advice("say what to draw, for example -p \"a red star\""));
    }
    Ok((prompts, note))
}

/// What is in a file, on standard input, or in a list of that name where no file has it.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    if let Some((_, words)) = LISTS.iter().find(|(name, _)| path == Path::new(name) && !path.exists()) {
        return Ok(words.replace(' ', "\n").into_bytes());
    }
    let mut bytes = Vec::new();
    let source: &mut dyn Read =
        if path == Path::new("-") { &mut io::stdin() } else { &mut File::open(path)? };
    source.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MOST_BYTES {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 256 MiB")),
        false => Ok(bytes),
    }
}

/// The prompts, and the number of comments among them.
fn parse(bytes: Vec<u8>, path: &Path, negative: Option<&str>) -> Result<(Vec<Prompt>, usize)> {
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::usage("not UTF-8 text").because(e).advice("save the file as UTF-8"))?;
    if text.contains('\0') {
        return Err(Error::usage("holds NUL characters, so it is no text").advice("save the file as UTF-8"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).replace("\r\n", "\n").replace('\r', "\n");
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let nothing = || Error::usage("the file holds no prompt").advice("write one prompt per line, or use -p");
    if let Some(entries) = whole(&text, &ending)? {
        let prompts: Vec<_> = entries.into_iter().map(|entry| entry.prompt(negative)).collect();
        return if prompts.is_empty() { Err(nothing()) } else { Ok((prompts, 0)) };
    }
    let numbered = text.lines().map(str::trim).enumerate().map(|(i, line)| (i + 1, line));
    let (comments, lines): (Vec<_>, Vec<_>) =
        numbered.filter(|(_, line)| !line.is_empty()).partition(|(_, line)| line.starts_with('#'));
    let Some((_, first)) = lines.first() else { return Err(nothing()) };
    refuse_table(first, &ending)?;
    let named = matches!(ending.as_str(), "jsonl" | "ndjson");
    let prompts = if named || is_object(first) {
        lines.into_iter().map(|(number, line)| Ok(entry(line, number)?.prompt(negative))).collect()
    } else {
        plain(&lines, negative)
    };
    Ok((prompts?, comments.len()))
}

/// The entries of a file that is one JSON value: a list, or a prompt over several lines.
fn whole(text: &str, ending: &str) -> Result<Option<Vec<Entry>>> {
    let text = text.trim();
    let inner = text.strip_prefix('[').map(str::trim_start);
    let list = inner.is_some_and(|inner| inner.starts_with(['{', '"', ']']));
    let value: Node = match serde_json::from_str(text) {
        Ok(value @ (Node::List(_) | Node::Object(_))) => value,
        // Several objects are JSON lines.
        Err(e) if list || (ending == "json" && !is_object(text.lines().next().unwrap_or_default())) => {
            let fix = format!("write {OBJECT}, or a list of such");
            return Err(Error::usage("not a list of prompts in JSON").because(e).advice(fix));
        }
        _ => return Ok(None),
    };
    let values = match value {
        // A list of words that JSON happens to read, such as `[1]`, is a prompt unless the name says
        // otherwise.
        Node::List(_) if !list && ending != "json" => return Ok(None),
        Node::List(values) => values,
        one => vec![one],
    };
    let entry = |(i, value)| {
        Entry::from_node(value).map_err(|what| {
            Error::usage(format!("prompt {} of the list: {what}", i + 1))
                .advice(format!("each is a text in double quotes or {OBJECT}"))
        })
    };
    values.into_iter().enumerate().map(entry).collect::<Result<_>>().map(Some)
}

/// Tables are refused: which column is the prompt, and how it is quoted, would be a guess.
fn refuse_table(first: &str, ending: &str) -> Result<()> {
    let header = [',', ';', '\t'].iter().any(|separator| {
        let cells = || first.split(*separator).map(|cell| cell.trim().trim_matches('"'));
        cells().count() > 1 && cells().any(|cell| ["prompt", "negative_prompt"].contains(&cell))
    });
    if !header && !["csv", "tsv"].contains(&ending) {
        return Ok(());
    }
    Err(Error::usage("looks like a table (CSV or TSV), which is not read")
        .advice(format!("write one prompt per line (.txt), or JSON lines (.jsonl) of {OBJECT}")))
}

/// Lines of text, none of which is JSON.
fn plain(lines: &[(usize, &str)], negative: Option<&str>) -> Result<Vec<Prompt>> {
    if let Some((number, _)) = lines.iter().find(|(_, line)| is_object(line)) {
        return Err(Error::usage(format!("line {number} is a JSON object, among lines of text"))
            .advice("write text only, or JSON lines only"));
    }
    let quoted = |line: &str| serde_json::from_str::<String>(line).is_ok();
    if lines.iter().all(|(_, line)| quoted(line)) {
        return Err(Error::usage("every line is in double quotes").advice(
            "leave them out if they are no part of the prompts; else write {\"prompt\": \"\\\"...\\\"\"}",
        ));
    }
    Ok(lines
        .iter()
        .map(|(_, line)| Prompt { text: (*line).into(), negative: negative.map(str::to_string) })
        .collect())
}

/// Whether a line is, or begins as, a JSON object; `{red|blue} star` does not.
fn is_object(line: &str) -> bool {
    let Some(inner) = line.strip_prefix('{') else { return false };
    inner.trim_start().starts_with(['"', '}']) || inner.trim_start().is_empty()
}

fn entry(line: &str, number: usize) -> Result<Entry> {
    let wrong = |what: &str| {
        Error::usage(format!("line {number}: {what}"))
            .advice(format!("each line is a text in double quotes or {OBJECT}"))
    };
    let node = serde_json::from_str(line).map_err(|e| wrong("not JSON").because(e))?;
    Entry::from_node(node).map_err(|what| wrong(&what))
}

#[cfg(test)]
mod tests {
    use super::super::flags;
    use super::*;

    fn texts(name: &str, content: &str) -> Result<Vec<(String, String)>> {
        let (prompts, _) = parse(content.into(), Path::new(name), Some("n"))?;
        Ok(prompts.into_iter().map(|p| (p.text, p.negative.expect("n at least"))).collect())
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(text, negative)| ((*text).into(), (*negative).into())).collect()
    }

    const NAMES: [&str; 6] = ["p.txt", "p.jsonl", "p.ndjson", "p", "-", "/dev/fd/63"];

    #[test]
    fn text_holds_a_prompt_per_line_in_every_convention() {
        for content in [
            "\u{feff}# mine\r\na star\r\n\r\n  a ring, \"red\" \r\n",
            "a star\n \n# no prompt\na ring, \"red\"",
            "a star\ra ring, \"red\"\r",
        ] {
            let expected = pairs(&[("a star", "n"), ("a ring, \"red\"", "n")]);
            assert_eq!(texts("p.txt", content).unwrap(), expected, "{content:?}");
            assert_eq!(texts("-", content).unwrap(), expected);
        }
        // Syntax of other programs that resembles JSON.
        for line in ["{red|blue} star", "[star:ring:0.5]", "[[star]]", "{{star}}", "prompt, of a kind"] {
            let other = format!("a ring\n{line}");
            assert_eq!(texts("p.txt", &other).unwrap(), pairs(&[("a ring", "n"), (line, "n")]));
        }
        assert_eq!(texts("p.txt", "{red|blue} star").unwrap(), pairs(&[("{red|blue} star", "n")]));
    }

    #[test]
    fn json_is_known_by_its_content_whatever_the_name() {
        let lines =
            "\u{feff}{\"prompt\":\"a\"}\r\n\r\n# note\r\n{\"prompt\":\"b\",\"negative_prompt\":\"c\"}\r\n";
        let list = "[\n  {\"prompt\": \"a\"},\n  {\"prompt\": \"b\", \"negative_prompt\": \"c\"}\n]\n";
        for name in NAMES.into_iter().chain(["p.json"]) {
            for content in [lines, list] {
                assert_eq!(
                    texts(name, content).unwrap(),
                    pairs(&[("a", "n"), ("b", "c")]),
                    "{name} {content}"
                );
            }
            assert_eq!(texts(name, "[\"a\", \"b\"]").unwrap(), pairs(&[("a", "n"), ("b", "n")]), "{name}");
            let over_lines = "{\n  \"prompt\": \"a\"\n}\n";
            assert_eq!(texts(name, over_lines).unwrap(), pairs(&[("a", "n")]), "{name}");
        }
        assert_eq!(texts("p.jsonl", "\"a\"\n\"b\"").unwrap(), pairs(&[("a", "n"), ("b", "n")]));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_place() {
        for (name, content, says) in [
            ("p.txt", "\n \n", "no prompt"),
            ("p.txt", "# all\n# comments", "no prompt"),
            ("p.txt", "[]", "no prompt"),
            ("p.txt", "a\0b", "NUL"),
            ("p.jsonl", "{\"prompt\":\"a\"}\n{\"promt\":\"b\"}\n", "line 2"),
            ("p.txt", "{\"prompt\":\"a\"}\na star\n", "line 2"),
            ("p.txt", "a star\n{\"prompt\":\"a\"}\n", "line 2 is a JSON object"),
            ("p.txt", "{\"prompt\":\"a\"\n", "line 1"),
            ("p.txt", "[{\"prompt\":\"a\"},\n", "list of prompts in JSON"),
            ("p.json", "a star", "JSON"),
            ("p.json", "{\"caption\": \"a\"}", "caption"),
            ("p.jsonl", "a star", "line 1"),
            ("p.txt", "\"a\"\n\"b\"", "double quotes"),
            ("p.csv", "a star\na ring", "table"),
            ("-", "id,prompt\n1,a star", "table"),
            ("p.txt", "\"prompt\";\"seed\"\n\"a\";1", "table"),
            ("p.tsv", "a", "table"),
            ("p.json", "[[\"a star\", \"a ring\"]]", "prompt 1 of the list: this is a list, not a prompt"),
            ("p.txt", "[\"a star\", [\"a ring\"]]", "prompt 2 of the list: this is a list"),
            ("p.jsonl", "{\"prompt\":\"a\"}\n[\"a star\", \"a ring\"]\n", "line 2: this is a list"),
            ("p.json", "[1]", "this is a number, not a prompt"),
            ("p.json", "[null]", "this is null, not a prompt"),
            ("p.json", "{\"prompt\": 3}", "\"prompt\" is a number, not a text"),
            ("p.json", "{\"prompt\": null}", "\"prompt\" is null, not a text"),
            ("p.json", "{\"negative_prompt\": \"a\"}", "\"prompt\" is missing"),
            ("p.json", "[{\"prompt\": \"a\", \"prompt\": \"b\"}]", "\"prompt\" is there twice"),
            (
                "p.jsonl",
                "{\"prompt\":\"a\",\"negative_prompt\":null,\"negative_prompt\":\"b\"}",
                "\"negative_prompt\" is there twice",
            ),
        ] {
            let error = match parse(content.into(), Path::new(name), None) {
                Ok((prompts, _)) => panic!("{name} {content:?}: {prompts:?}"),
                Err(e) => flags::report(&e),
            };
            assert!(error.contains(says) && error.contains("fix:"), "{name} {content:?}: {error}");
        }
        let binary = parse(vec![0xff, 0xfe, 0x61, 0x00], Path::new("p.txt"), None).unwrap_err().to_string();
        assert!(binary.contains("UTF-8"), "{binary}");
        assert!(collect(&[], None, None).unwrap_err().to_string().contains("-p"));
    }

    #[test]
    fn lists_are_known_by_name() {
        let texts = |name: &str| -> Vec<String> {
            let (prompts, _) = collect(&[], Some(Path::new(name)), None).unwrap();
            prompts.into_iter().map(|prompt| prompt.text).collect()
        };
        let (training, evaluation) = (texts("simple-animals"), texts("eval-animals"));
        let ends = |list: &[String]| (list.len(), list[0].clone(), list[list.len() - 1].clone());
        assert_eq!(ends(&training), (40, "cat".into(), "camel".into()));
        assert_eq!(ends(&evaluation), (10, "snail".into(), "kangaroo".into()));
        assert!(!evaluation.iter().any(|word| training.contains(word)), "held out");
        let distinct: std::collections::BTreeSet<&String> = training.iter().collect();
        assert_eq!(distinct.len(), 40);
        let error = flags::report(&collect(&[], Some(Path::new("no-animals")), None).unwrap_err());
        assert!(error.contains("--prompts no-animals") && error.contains("simple-animals"), "{error}");
    }

    #[test]
    fn prompts_of_the_command_line_come_first_and_comments_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.txt");
        std::fs::write(&path, "# one\na star\n#two\n").unwrap();
        let (prompts, note) = collect(&["first".into()], Some(&path), Some("ugly")).unwrap();
        assert_eq!(prompts.iter().map(|p| p.text.as_str()).collect::<Vec<_>>(), ["first", "a star"]);
        assert!(prompts.iter().all(|p| p.negative.as_deref() == Some("ugly")));
        let note = note.unwrap();
        assert!(note.contains("2 of them") && note.contains("p.txt"), "{note}");
    }
}
