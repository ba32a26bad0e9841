//! The tables of `ARCHITECTURE.md`, held: who may import whom, and where `unsafe` may stand. No circle inside
//! a room. Citations of the specification and names of files on pages, resolved.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

#[path = "tidy/circles.rs"]
mod circles;

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

fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    assert!(paths.len() > 10, "found only {} source files", paths.len());
    paths
        .into_iter()
        .map(|p| {
            let text = fs::read_to_string(&p).expect("source is UTF-8");
            let name = p.strip_prefix(&root).expect("under src").to_string_lossy().replace('\\', "/");
            (name, text)
        })
        .collect()
}

/// The rooms named by the `crate::` paths of a file's code, tests left out.
fn imports(text: &str) -> Vec<String> {
    let code = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let code = code.split("#[cfg(test)]").next().unwrap_or_default();
    let mut rooms = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let word = |s: &str| -> String {
            s.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
        };
        match rest.strip_prefix('{') {
            Some(inner) => rooms.extend(inner.split('}').next().unwrap_or_default().split(',').map(word)),
            None => rooms.push(word(rest)),
        }
    }
    rooms.retain(|r| r.starts_with(|c: char| c.is_ascii_lowercase()));
    rooms
}

/// The table of rooms in `ARCHITECTURE.md`, in its order: rooms, and the rooms they may use; `None` is every
/// room. A room is the first component of a path under `src/`.
fn rooms(page: &str) -> Vec<(String, Option<Vec<String>>)> {
    let name = Regex::new(r"`(\w+)`").expect("a pattern");
    let names = |cell: &str| name.captures_iter(cell).map(|c| c[1].to_string()).collect::<Vec<_>>();
    let rows =
        page.lines().skip_while(|l| !l.starts_with("| room |")).skip(2).take_while(|l| l.starts_with("| `"));
    let mut table = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [rooms, _, uses] = cells[..] else { panic!("three cells in a row of rooms: {row}") };
        let uses = (uses != "every room").then(|| names(uses));
        table.extend(names(rooms).into_iter().map(|room| (room, uses.clone())));
    }
    table
}

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn imports_point_down_only() {
    let table = rooms(&page("ARCHITECTURE.md"));
    let place = |room: &str| table.iter().position(|(r, _)| r == room);
    assert!(table.len() > 15, "found only {} rooms in ARCHITECTURE.md", table.len());
    for (at, (room, uses)) in table.iter().enumerate() {
        for used in uses.iter().flatten() {
            let below = place(used).is_some_and(|p| p > at);
            assert!(below, "ARCHITECTURE.md: `{room}` may use `{used}`, which is no room below it");
        }
    }
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, text) in files() {
        let room = name.split(['/', '.']).next().unwrap_or_default().to_string();
        let Some(at) = place(&room) else {
            wrong.push(format!("src/{name}: the room `{room}` is not in the table"));
            continue;
        };
        seen.insert(at);
        // A module of tests in a file of its own may use what its tests need.
        let Some(allowed) = table[at].1.as_ref().filter(|_| !name.ends_with("/tests.rs")) else { continue };
        for used in imports(&text) {
            if used != room && !allowed.contains(&used) {
                wrong.push(format!("src/{name} uses crate::{used}"));
            }
        }
    }
    let unseen = (0..table.len()).filter(|at| !seen.contains(at));
    wrong.extend(unseen.map(|at| format!("the room `{}` is not under src/", table[at].0)));
    assert!(wrong.is_empty(), "against the table of rooms in ARCHITECTURE.md:\n{}", wrong.join("\n"));
}

#[test]
fn the_table_reader_sees_what_it_should() {
    let page = "text\n| room | what | may use |\n|---|---|---|\n| `a`, `b` | it | every room |\n| `c` | `x` | `d`, `e` |\n\n";
    let some = |names: &[&str]| Some(names.iter().map(|n| n.to_string()).collect::<Vec<_>>());
    let expected = [("a", None), ("b", None), ("c", some(&["d", "e"]))];
    assert_eq!(rooms(page), expected.map(|(room, uses)| (room.to_string(), uses)));
}

/// The widest line of prose and code.
const WIDTH: usize = 110;

/// Whether a line of a file of code or a script is a comment and nothing else.
fn is_comment(file: &str, line: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or_default();
    let mark = match name.rsplit_once('.').map(|(_, end)| end) {
        Some("rs" | "cu" | "cuh" | "h" | "cpp") => "//",
        Some("py" | "sh") => "#",
        // A script says in its first line what runs it.
        None => "#",
        _ => return false,
    };
    line.trim_start().starts_with(mark)
}

#[test]
fn comments_stay_within_their_width() {
    let (mut comments, mut wide) = (0, Vec::new());
    for (name, text) in texts() {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| is_comment(&name, line)) {
            comments += 1;
            if line.chars().count() > WIDTH {
                wide.push(format!("{name}:{}: {} columns", number + 1, line.chars().count()));
            }
        }
    }
    assert!(comments > 5000, "found only {comments} lines of comments");
    assert!(wide.is_empty(), "comments wider than {WIDTH} columns:\n{}", wide.join("\n"));
}

#[test]
fn the_comment_reader_sees_what_it_should() {
    for (file, line) in
        [("a.rs", "    /// text"), ("b/c.cuh", "// text"), ("tools/d", "# text"), ("e.py", "  # f")]
    {
        assert!(is_comment(file, line), "{file}: {line}");
    }
    for (file, line) in
        [("a.rs", "let x = 1; // text"), ("a.rs", "# text"), ("b.md", "# text"), ("c.toml", "# d")]
    {
        assert!(!is_comment(file, line), "{file}: {line}");
    }
}

#[test]
fn prose_stays_within_its_width() {
    let mut pages = 0;
    let mut wide = Vec::new();
    for (name, text) in texts() {
        let of_project = !name.contains('/') || name.starts_with("docs/");
        if !name.ends_with(".md") || !of_project {
            continue;
        }
        pages += 1;
        let mut code = false;
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                code = !code;
            }
            if !code && !line.starts_with('|') && line.chars().count() > WIDTH {
                wide.push(format!("{name}:{}: {} columns", number + 1, line.chars().count()));
            }
        }
        assert!(!code, "{name}: a block of code does not end");
    }
    assert!(pages >= 4, "found only {pages} pages");
    assert!(wide.is_empty(), "wider than {WIDTH} columns:\n{}", wide.join("\n"));
}

#[test]
fn unsafe_stands_only_where_it_is_listed() {
    let page = page("ARCHITECTURE.md");
    let rows = page.lines().skip_while(|l| !l.starts_with("| file under `src/` |")).skip(2);
    let listed: BTreeSet<&str> =
        rows.take_while(|l| l.starts_with("| `")).filter_map(|row| row.split('`').nth(1)).collect();
    let uses = |text: &str| {
        let mut code = text.lines().map(|l| l.split("//").next().unwrap_or_default());
        code.any(|l| l.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe"))
    };
    let sources = files();
    let found: BTreeSet<&str> =
        sources.iter().filter(|(_, text)| uses(text)).map(|(name, _)| name.as_str()).collect();
    assert_eq!(found, listed, "files with `unsafe`, and those that ARCHITECTURE.md lists");
}

/// Files that pages name, in backticks or as links, are there. A name without a folder may be of any folder.
#[test]
fn the_files_that_pages_name_exist() {
    let named = Regex::new(r"`([\w./-]+\.(?:rs|cuh?|py|md|toml))`|\]\(([^)#:]+)\)").expect("a pattern");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let texts = texts();
    let (mut count, mut missing) = (0, Vec::new());
    for (page, text) in &texts {
        let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
        if !page.ends_with(".md") || !(folder.is_empty() || folder == "docs") {
            continue;
        }
        for found in named.captures_iter(text) {
            let (path, linked) = match (found.get(1), found.get(2)) {
                (Some(path), _) => (path.as_str(), false),
                (_, Some(path)) => (path.as_str(), true),
                _ => continue,
            };
            // Placeholders of recipes.
            if path.contains("NAME") || path.contains("GROUP") {
                continue;
            }
            count += 1;
            let places = if linked { vec![folder] } else { vec!["", "src", "kernels"] };
            let there = places.iter().any(|place| root.join(place).join(path).exists());
            let anywhere = !linked && !path.contains('/');
            let somewhere =
                || anywhere && texts.iter().any(|(name, _)| name.rsplit('/').next() == Some(path));
            if !there && !somewhere() {
                missing.push(format!("{page} names {path}"));
            }
        }
    }
    assert!(count > 30, "found only {count} names of files");
    assert!(missing.is_empty(), "no such files:\n{}", missing.join("\n"));
}

/// Types and functions that the glossary names as ours exist. The last column has the words of others.
#[test]
fn the_names_of_the_glossary_exist() {
    let code: Vec<String> = texts()
        .into_iter()
        .filter(|(name, _)| name.starts_with("src/") || name.starts_with("kernels/"))
        .map(|(_, text)| text)
        .collect();
    let word =
        Regex::new(r"`(?:\w+::)*([A-Z]\w+|\w+_\w+|_vjp|simt)(?:::\w+)?(?:\(.*\))?`").expect("a pattern");
    let (mut count, mut missing) = (0, Vec::new());
    for row in page("docs/glossary.md").lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split('|').collect();
        for found in cells.iter().skip(1).take(2).flat_map(|cell| word.captures_iter(cell)) {
            count += 1;
            let name = found[1].to_string();
            if !code.iter().any(|text| text.contains(&name)) {
                missing.push(name);
            }
        }
    }
    assert!(count > 25, "found only {count} names in docs/glossary.md");
    assert!(missing.is_empty(), "docs/glossary.md names what is not in the code: {missing:?}");
}

#[test]
fn the_import_reader_sees_what_it_should() {
    let text = "use crate::error::Result;\nuse crate::{tape::Tape, ops};\n// use crate::cpu\nfn f() { crate::smc::g() }";
    assert_eq!(imports(text), ["error", "tape", "ops", "smc"]);
}

/// The text files of the repository that people write: code, scripts and pages.
fn texts() -> Vec<(String, String)> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("the folder is readable") {
            let path = entry.expect("the folder is readable").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["golden", "__pycache__", "corpus", "dictionaries", "artifacts", "target"]
                    .contains(&name.as_str())
                {
                    walk(&path, out);
                }
            } else {
                let known = ["rs", "cu", "cuh", "cpp", "h", "py", "sh", "md", "toml"];
                let plain = !name.contains('.');
                if plain || path.extension().is_some_and(|e| known.iter().any(|k| e == *k)) {
                    out.push(path);
                }
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    for folder in ["src", "kernels", "tests", "benches", "tools", "docs", "examples", "fuzz", ".ci"] {
        if root.join(folder).is_dir() {
            walk(&root.join(folder), &mut paths);
        }
    }
    for page in fs::read_dir(root).expect("the repository is readable") {
        let path = page.expect("the repository is readable").path();
        if path.extension().is_some_and(|e| e == "md" || e == "rs" || e == "toml") {
            paths.push(path);
        }
    }
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root).expect("in the repository").to_string_lossy().replace('\\', "/");
        fs::read_to_string(&path).ok().map(|text| (name, text))
    };
    paths.into_iter().filter_map(read).collect()
}

/// The sections of `docs/spec.md`: its headings, and the rows of its table of differences.
fn sections(spec: &str) -> BTreeSet<String> {
    let section = Regex::new(r"^(?:#+ |\| )(\d+(?:\.\d+)?)(?:\.? | \|)").expect("a pattern");
    spec.lines().filter_map(|line| Some(section.captures(line)?[1].to_string())).collect()
}

/// The sections that a text cites, in the one form `docs/spec.md 1.4`, also `docs/spec.md 1.4, 2.5 and 4`; an
/// empty one for a mention that cites no section. Lines of a comment are joined first.
fn citations(text: &str) -> Vec<String> {
    let breaks = Regex::new(r"\s*\n\s*(?://[/!]?|#|\*)?\s*").expect("a pattern");
    let cited = Regex::new(r"docs/spec\.md((?: (?:\d+(?:\.\d+)?)(?:(?:, | and )\d+(?:\.\d+)?)*)?)")
        .expect("a pattern");
    let number = Regex::new(r"\d+(?:\.\d+)?").expect("a pattern");
    let text = breaks.replace_all(text, " ");
    let mut sections = Vec::new();
    for citation in cited.captures_iter(&text) {
        match &citation[1] {
            "" => sections.push(String::new()),
            list => sections.extend(number.find_iter(list).map(|m| m.as_str().to_string())),
        }
    }
    sections
}

#[test]
fn every_citation_of_the_specification_resolves() {
    let sections = sections(&page("docs/spec.md"));
    let (mut cited, mut wrong) = (0, Vec::new());
    // Its former name, in two pieces so that this file does not contain it.
    let former = ["das", "-spec"].concat();
    for (name, text) in texts() {
        if text.contains(&former) {
            wrong.push(format!("{name}: write docs/spec.md and the section"));
        }
        if name == "tests/tidy.rs" {
            continue;
        }
        // Pages may speak of the specification as a whole; a comment cites a section.
        let page = name.ends_with(".md");
        for section in citations(&text) {
            match section.as_str() {
                "" if page => {}
                "" => wrong.push(format!("{name}: docs/spec.md is cited without a section")),
                _ if sections.contains(&section) => cited += 1,
                _ => wrong.push(format!("{name}: docs/spec.md has no section {section}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cited >= 40, "found only {cited} citations");
}

#[test]
fn the_citation_reader_sees_what_it_should() {
    let text = "/// (docs/spec.md\n/// 1.4, 5 and 14.2), see docs/spec.md 3; docs/spec.md";
    assert_eq!(citations(text), ["1.4", "5", "14.2", "3", ""]);
    let spec = "## 1. One\n### 1.4 Four\n| 5.15 | row |\n1.5 text\n| # | what |";
    assert_eq!(sections(spec), ["1", "1.4", "5.15"].map(String::from).into());
}

/// Flags of other programs, which the library may name: file, flag.
const FOREIGN_FLAGS: &[(&str, &str)] = &[
    ("cuda/launch/module.rs", "--gpu-architecture"),
    ("cuda/launch/module.rs", "--std"),
    ("cuda/launch/module.rs", "--release"),
    ("noise.rs", "--release"),
    ("noise.rs", "--ignored"),
    ("noise.rs", "--nocapture"),
    ("noise.rs", "--lib"),
];

/// A library has options; flags are the command line's (`cli/flags.rs` makes one of the other).
#[test]
fn the_library_names_no_flag() {
    let flag = Regex::new(r"--[a-z][a-z-]*").expect("a pattern");
    let mut breaches = Vec::new();
    for (name, text) in files() {
        if name.starts_with("cli/") || name == "main.rs" {
            continue;
        }
        for found in flag.find_iter(&text) {
            let foreign = FOREIGN_FLAGS.iter().any(|(file, flag)| *file == name && *flag == found.as_str());
            if !foreign {
                breaches.push(format!("src/{name}: {}", found.as_str()));
            }
        }
    }
    assert!(breaches.is_empty(), "flags outside of src/cli:\n{}", breaches.join("\n"));
}
