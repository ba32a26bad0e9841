//! No circle of imports inside a room: the files of a folder, and the folders beside one another, can be put
//! in an order in which each uses only earlier ones.
//!
//! What is read are paths (`use` and inline) that begin with `crate`, `super`, `self` or the name of a child
//! module. A path through a `pub use` counts as a path to what is re-exported; the `pub use` of its own
//! children makes a file a table of contents and counts for nothing. Tests are left out. Method calls, and
//! paths that a macro puts together, cannot be seen.

use std::collections::{BTreeMap, BTreeSet};

/// Path of a module below the crate: `["cuda", "ops"]`.
type Module = Vec<String>;

/// Files whose own imports are left out, with the reason. One star: the context holds the tables of all
/// launchers, and all launchers take the context.
const STARS: &[&str] = &["cuda/ctx.rs"];

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The text without comments, strings of one line, and items under `#[cfg(test)]`.
fn code(text: &str) -> String {
    let lines = text.lines().map(|l| l.split("//").next().unwrap_or_default());
    let mut rest = lines.collect::<Vec<_>>().join("\n");
    while let Some(at) = rest.find("#[cfg(test)]") {
        let item = &rest[at..];
        let end = item.find([';', '{']).unwrap_or(item.len() - 1);
        let mut len = end + 1;
        if item[end..].starts_with('{') {
            let mut depth = 0;
            for (i, c) in item.char_indices().skip_while(|(i, _)| *i < end) {
                depth += i32::from(c == '{') - i32::from(c == '}');
                len = i + 1;
                if depth == 0 {
                    break;
                }
            }
        }
        rest.replace_range(at..at + len, "");
    }
    rest
}

/// The paths that a tree like `a::{b, c::D as E}` names, each from its beginning. Ends where the tree does.
fn tree(text: &str) -> (Vec<Vec<String>>, usize) {
    let mut at = 0;
    let mut path: Vec<String> = Vec::new();
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let word: String = text[at..].chars().take_while(|c| is_word(*c)).collect();
        if !word.is_empty() {
            at += word.len();
            path.push(word);
        } else if text[at..].starts_with('*') {
            return (vec![path], at + 1);
        } else if text[at..].starts_with('{') {
            at += 1;
            let mut all = Vec::new();
            loop {
                let (inner, len) = tree(&text[at..]);
                for inner in inner.into_iter().filter(|p| !p.is_empty()) {
                    all.push(path.iter().cloned().chain(inner).collect());
                }
                at += len;
                // `as Name`, spaces.
                at += text[at..].find([',', '}', ';']).unwrap_or(text.len() - at);
                match text[at..].chars().next() {
                    Some(',') => at += 1,
                    Some('}') => return (all, at + 1),
                    _ => return (all, at),
                }
            }
        }
        match text[at..].strip_prefix("::") {
            Some(_) => at += 2,
            None => return (vec![path], at),
        }
    }
}

/// What one file names.
#[derive(Debug, Default, PartialEq)]
struct Names {
    /// Paths from the crate's root, each a use of something.
    used: Vec<Vec<String>>,
    /// Names that the module re-exports, and what they are.
    exported: BTreeMap<String, Vec<String>>,
}

fn names(module: &[String], children: &BTreeSet<String>, text: &str) -> Names {
    let code = code(text);
    let mut found = Names::default();
    let mut at = 0;
    while at < code.len() {
        let rest = &code[at..];
        let word: String = rest.chars().take_while(|c| is_word(*c)).collect();
        if word.is_empty() {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        }
        let before = code[..at].trim_end();
        let begins = matches!(word.as_str(), "crate" | "super" | "self") || children.contains(&word);
        // `pub(in crate::room)` names a room and uses nothing.
        let visibility = before.ends_with("(in");
        if !begins || visibility || before.ends_with("::") || !rest[word.len()..].starts_with("::") {
            // A module alone, as in `pub use child;`, is no use of it.
            at += word.len();
            continue;
        }
        let (paths, len) = tree(rest);
        at += len;
        let exports = before.ends_with("use")
            && before.trim_end_matches("use").trim_end().ends_with([')', 'b'])
            && before.rsplit([';', '}', '{']).next().is_some_and(|s| s.trim_start().starts_with("pub"));
        for path in paths {
            let full = absolute(module, &path);
            let Some(last) = path.last().cloned().filter(|_| exports) else {
                found.used.push(full);
                continue;
            };
            if !full.starts_with(module) {
                found.used.push(full.clone());
            }
            found.exported.insert(last, full);
        }
    }
    found
}

/// A path of a file in `module` from the crate's root.
fn absolute(module: &[String], path: &[String]) -> Vec<String> {
    let ups = path.iter().take_while(|w| *w == "super").count();
    match path[0].as_str() {
        "crate" => path[1..].to_vec(),
        "self" => module.iter().chain(&path[1..]).cloned().collect(),
        "super" => module[..module.len().saturating_sub(ups)].iter().chain(&path[ups..]).cloned().collect(),
        _ => module.iter().chain(path).cloned().collect(),
    }
}

fn module_of(file: &str) -> Module {
    let stem = file.trim_end_matches(".rs");
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    if stem == "lib" { Module::new() } else { stem.split('/').map(str::to_string).collect() }
}

/// Which module uses which.
type Edges = BTreeSet<(Module, Module)>;

fn edges(files: &[(String, String)]) -> Edges {
    let modules: BTreeMap<Module, &(String, String)> = files
        .iter()
        .filter(|(name, _)| name != "main.rs" && !name.ends_with("/tests.rs"))
        .map(|file| (module_of(&file.0), file))
        .collect();
    let children = |of: &Module| -> BTreeSet<String> {
        let below = modules.keys().filter(|m| m.len() == of.len() + 1 && m.starts_with(of));
        below.filter_map(|m| m.last().cloned()).collect()
    };
    let named: BTreeMap<&Module, Names> =
        modules.iter().map(|(m, (_, text))| (m, names(m, &children(m), text))).collect();
    let resolve = |path: &[String]| -> Vec<Module> {
        let mut path = path.to_vec();
        // A chain of re-exports is short.
        for _ in 0..8 {
            let depth = (0..=path.len()).rev().find(|n| modules.contains_key(&path[..*n])).unwrap_or(0);
            let (module, rest) = path.split_at(depth);
            let module = module.to_vec();
            let Some(names) = named.get(&module) else { return Vec::new() };
            let Some(item) = rest.first() else {
                // A module by name: perhaps for what it re-exports.
                let through = names.exported.values().filter_map(|p| {
                    let depth = (0..=p.len()).rev().find(|n| modules.contains_key(&p[..*n]))?;
                    Some(p[..depth].to_vec())
                });
                return through.chain([module.clone()]).collect();
            };
            match names.exported.get(item) {
                Some(target) => path = target.iter().chain(&rest[1..]).cloned().collect(),
                None => return vec![module],
            }
        }
        Vec::new()
    };
    let mut edges = Edges::new();
    for (module, names) in &named {
        for target in names.used.iter().flat_map(|path| resolve(path)) {
            if target != **module {
                edges.insert(((*module).clone(), target));
            }
        }
    }
    edges
}

/// The circles among the children of `folder`, and the folder's own file: each as the edges that make it.
fn circles(edges: &Edges, folder: &[String]) -> Vec<String> {
    // A child is named by its own component; the folder's file by nothing.
    let child = |m: &Module| -> Option<String> {
        m.starts_with(folder).then(|| m.get(folder.len()).cloned().unwrap_or_default())
    };
    let mut between: BTreeMap<(String, String), String> = BTreeMap::new();
    for (from, to) in edges {
        let (Some(a), Some(b)) = (child(from), child(to)) else { continue };
        if a != b {
            between.entry((a, b)).or_insert_with(|| format!("{} -> {}", from.join("/"), to.join("/")));
        }
    }
    // What is reached from each child.
    let mut reach: BTreeSet<(String, String)> = between.keys().cloned().collect();
    loop {
        let step: Vec<_> = reach
            .iter()
            .flat_map(|(a, b)| reach.iter().filter(move |(c, _)| b == c).map(move |(_, d)| (a, d)))
            .map(|(a, d)| (a.clone(), d.clone()))
            .collect();
        let before = reach.len();
        reach.extend(step);
        if reach.len() == before {
            break;
        }
    }
    let both = |a: &String, b: &String| {
        reach.contains(&(a.clone(), b.clone())) && reach.contains(&(b.clone(), a.clone()))
    };
    between.iter().filter(|((a, b), _)| both(a, b)).map(|(_, edge)| edge.clone()).collect()
}

fn all_circles(files: &[(String, String)], stars: &[&str]) -> BTreeMap<String, Vec<String>> {
    let mut edges = edges(files);
    edges.retain(|(from, _)| !stars.iter().any(|star| module_of(star) == *from));
    let folders: BTreeSet<Module> =
        edges.iter().flat_map(|(a, b)| [a, b]).flat_map(|m| (1..m.len()).map(|n| m[..n].to_vec())).collect();
    folders
        .into_iter()
        .map(|folder| (folder.join("/"), circles(&edges, &folder)))
        .filter(|(_, circles)| !circles.is_empty())
        .collect()
}

#[test]
fn no_circle_inside_a_room() {
    let files = super::files();
    let found = all_circles(&files, STARS);
    let report: Vec<String> =
        found.iter().map(|(folder, edges)| format!("in src/{folder}:\n  {}", edges.join("\n  "))).collect();
    assert!(report.is_empty(), "circles of imports:\n{}", report.join("\n"));
    assert!(edges(&files).len() > 100, "found only {} imports", edges(&files).len());
    // The exception is needed, and only for the folder it stands in.
    let with = all_circles(&files, &[]);
    for star in STARS {
        let folder = star.rsplit_once('/').map_or("", |(folder, _)| folder);
        assert!(with.contains_key(folder), "{star} needs no exception");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect()
    }

    fn path(text: &str) -> Vec<String> {
        text.split("::").map(str::to_string).collect()
    }

    #[test]
    fn paths_are_read_from_trees_and_code() {
        let text = "use crate::a::{b::{C, D as E}, self, f};\nuse super::*;\n// use crate::no\nfn g() { \
                    super::h::i(3) + $crate::j::k!() }\n#[cfg(test)]\nmod tests { use crate::no; }\nuse child::X;\n";
        let children = BTreeSet::from(["child".to_string()]);
        let found = names(&path("m::n"), &children, text);
        let expected =
            ["a::b::C", "a::b::D", "a::self", "a::f", "m", "m::h::i", "j::k", "m::n::child::X"].map(path);
        assert_eq!(found.used, expected);
        let found =
            names(&path("m"), &BTreeSet::new(), "pub use self::n::{X, Y};\npub(super) use crate::o::Z;");
        assert_eq!(found.exported.keys().collect::<Vec<_>>(), ["X", "Y", "Z"]);
        // Only what is not its own is a use.
        assert_eq!(found.used, [path("o::Z")]);
    }

    #[test]
    fn circles_are_found_through_folders_and_re_exports() {
        let round = [
            ("r/mod.rs", "pub use a::A; mod a; mod b;"),
            ("r/a.rs", "use super::b::B; pub struct A;"),
            ("r/b.rs", "use crate::r::A; pub struct B;"),
        ];
        let found = all_circles(&files(&round), &[]);
        assert_eq!(found["r"], ["r/a -> r/b", "r/b -> r/a"]);
        assert!(all_circles(&files(&round), &["r/a.rs"]).is_empty());
        // Between folders, though between no two files.
        let rooms = [
            ("r/mod.rs", "mod x; mod y;"),
            ("r/x/mod.rs", "mod a; mod b;"),
            ("r/x/a.rs", "use crate::r::y::c::C;"),
            ("r/x/b.rs", ""),
            ("r/y/mod.rs", "mod c; mod d;"),
            ("r/y/c.rs", ""),
            ("r/y/d.rs", "fn f() { crate::r::x::b::g() }"),
        ];
        assert_eq!(all_circles(&files(&rooms), &[])["r"].len(), 2);
        // A child that uses its parent's own items, where the parent uses the child.
        let parent = [("r/mod.rs", "mod a; use a::A; pub fn f() {}"), ("r/a.rs", "use super::f;")];
        assert_eq!(all_circles(&files(&parent), &[])["r"].len(), 2);
        let order = [("r/mod.rs", "mod a; mod b; use a::A;"), ("r/a.rs", "use super::b::B;"), ("r/b.rs", "")];
        assert!(all_circles(&files(&order), &[]).is_empty());
    }
}
