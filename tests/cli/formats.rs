//! `docs/formats.md` against what runs write: every key is documented with its type, and every documented key
//! is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use das_cuda::assets::SHAPES_FILES;
use das_cuda::run::SCHEMA;
use serde_json::Value;
use tempfile::TempDir;

use super::record::das;
use super::{json, lines, only_folder, program, record_of, run, sample, succeeds, text};

/// The tables under a heading of the page: the type of each field. A heading of the same or a higher level
/// ends it.
fn documented(page: &str, heading: &str) -> BTreeMap<String, String> {
    let level = |line: &str| line.bytes().take_while(|b| *b == b'#').count();
    let mut lines = page.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "docs/formats.md has no heading `{heading}`");
    let section = lines.take_while(|line| level(line) == 0 || level(line) > level(heading));
    let mut fields = BTreeMap::new();
    for row in section.filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let field = cells[1].trim_matches('`').to_string();
        assert!(
            fields.insert(field, cells[2].to_string()).is_none(),
            "{heading}: {} is there twice",
            cells[1]
        );
    }
    assert!(!fields.is_empty(), "{heading}: no table");
    fields
}

fn is(value: &Value, kind: &str) -> bool {
    let every = |f: fn(&Value) -> bool| value.as_array().is_some_and(|list| list.iter().all(f));
    let integer = |v: &Value| v.is_u64() || v.is_i64();
    match kind {
        "integer" => integer(value),
        "number" => value.is_number(),
        "number or string" => value.is_number() || value.is_string(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "list" => value.is_array(),
        "list of numbers" => every(Value::is_number),
        "list of integers" => every(|v| v.is_u64() || v.is_i64()),
        "list of strings" => every(Value::is_string),
        "list of objects" => every(Value::is_object),
        "list of numbers or nulls or null" => value.is_null() || is(value, "list of numbers or nulls"),
        "list of numbers or nulls" => every(|v| v.is_number() || v.is_null()),
        _ => match kind.strip_suffix(" or null") {
            Some(kind) => value.is_null() || is(value, kind),
            None => panic!("docs/formats.md: `{kind}` is no type"),
        },
    }
}

/// One section of the page, and what has been seen of it.
pub(super) struct Section {
    heading: &'static str,
    fields: BTreeMap<String, String>,
    seen: BTreeSet<String>,
    objects: usize,
}

impl Section {
    pub(super) fn new(page: &str, heading: &'static str) -> Section {
        Section { heading, fields: documented(page, heading), seen: BTreeSet::new(), objects: 0 }
    }

    /// Checks an object as a whole: `schema` first, and every key in it.
    #[track_caller]
    pub(super) fn check(&mut self, object: &Value) {
        let first = object.as_object().and_then(|map| map.iter().next());
        assert_eq!(first, Some((&"schema".to_string(), &Value::from(SCHEMA))), "{}", self.heading);
        self.objects += 1;
        self.walk("", object);
    }

    fn walk(&mut self, prefix: &str, object: &Value) {
        for (key, value) in object.as_object().into_iter().flatten() {
            // Keys that are data, such as the names of files and rewards, stand under `*`.
            let [named, any] = [key.as_str(), "*"].map(|key| format!("{prefix}{key}"));
            let path = if self.fields.contains_key(&named) { named } else { any };
            let Some(kind) = self.fields.get(&path) else {
                panic!("{}: `{prefix}{key}` is written and not documented", self.heading)
            };
            assert!(is(value, kind), "{}: `{path}` is documented as {kind}, and is {value}", self.heading);
            self.seen.insert(path.clone());
            match value {
                Value::Object(_) => self.walk(&format!("{path}."), value),
                Value::Array(list) => {
                    list.iter().for_each(|entry| self.walk(&format!("{path}[]."), entry));
                }
                _ => {}
            }
        }
    }

    pub(super) fn all_seen(&self) {
        let missing: Vec<_> = self.fields.keys().filter(|field| !self.seen.contains(*field)).collect();
        assert!(missing.is_empty(), "{}: documented and never written: {missing:?}", self.heading);
        assert!(self.objects > 0, "{}: nothing was written", self.heading);
    }
}

#[test]
fn the_files_of_runs_are_as_documented() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md"))
        .expect("docs/formats.md is readable");
    assert!(page.contains(&format!("an integer, now {SCHEMA}.")), "docs/formats.md states another schema");
    let section = |heading| Section::new(&page, heading);
    let mut runs = section("## run.json");
    let mut trace = section("## trace.jsonl");
    let mut particles = section("## particles.jsonl");
    let mut pictures = section("### Record of a picture");
    let mut answers = section("### sample --json");

    let dir = TempDir::new().expect("a temporary folder");
    for proposal in ["das", "bootstrap", "none", "svdd", "freedom"] {
        let out = dir.path().join(proposal);
        let select = if proposal == "das" { "argmax" } else { "all" };
        let options =
            ["-p", "a star", "--proposal", proposal, "--eval-reward", "gold", "--select", select, "--json"];
        answers.check(&json(&succeeds(sample(&out, &options))));
        let folder = only_folder(&out);
        let record = record_of(&folder);
        runs.check(&record);
        // Every run has every field; only a failed one has an error.
        for field in runs
            .fields
            .keys()
            .filter(|field| !field.contains(['.', '[']) && !["error", "stopped"].contains(&field.as_str()))
        {
            assert!(record.get(field).is_some(), "{proposal}: run.json has no `{field}`");
        }
        lines(&folder.join("trace.jsonl")).iter().for_each(|line| trace.check(line));
        lines(&folder.join("particles.jsonl")).iter().for_each(|line| particles.check(line));
        pictures.check(&das(&folder.join("best.png")));
        pictures.check(&das(&folder.join("grid.png")));
    }
    // An alpha this small makes the guidance infinite: particles are lost, and the run fails.
    let lost = dir.path().join("lost");
    assert!(!sample(&lost, &["-p", "a star", "--kl", "1e-40", "--max-shift", "inf"]).status.success());
    runs.check(&record_of(&only_folder(&lost)));
    lines(&only_folder(&lost).join("trace.jsonl")).iter().for_each(|line| trace.check(line));

    // A limit ends the run, and it goes on.
    let limited = dir.path().join("limited");
    assert!(!sample(&limited, &["-p", "a star", "--steps", "3", "--max-nfe", "8"]).status.success());
    let record = record_of(&only_folder(&limited));
    runs.check(&record);
    pictures.check(&das(&only_folder(&limited).join("best.png")));
    let header = fs::read(only_folder(&limited).join("checkpoint.safetensors")).expect("a checkpoint");
    let (_, header) = safetensors::SafeTensors::read_metadata(&header).expect("a header");
    let header = header.metadata().as_ref().expect("metadata")["das-cuda checkpoint"].clone();
    let mut checkpoints = section("## checkpoint.safetensors");
    let mut header = json(&header);
    header["run"] = serde_json::json!({});
    checkpoints.check(&header);
    succeeds(run(&["resume", text(&limited)]));
    runs.check(&record_of(&only_folder(&limited)));

    // A model in the cache of the hub.
    let (cache, out) = (dir.path().join("cache"), dir.path().join("cached"));
    let (repository, commit) = (cache.join("models--tiny--model"), "01".repeat(20));
    let file = |path: &Path, content: &[u8]| {
        fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
        fs::write(path, content).expect("it can be written");
    };
    file(&repository.join("refs/main"), commit.as_bytes());
    let snapshot = repository.join("snapshots").join(&commit);
    SHAPES_FILES.iter().for_each(|(name, content)| file(&snapshot.join(name), content));
    let cached =
        ["sample", "-m", "tiny/model", "--offline", "-p", "a star", "--particles", "2", "--steps", "2"];
    let cached = program().env("HF_HUB_CACHE", &cache).args(cached).args(["-o", text(&out)]).output();
    succeeds(cached.expect("the program starts"));
    runs.check(&record_of(&only_folder(&out)));

    let mut plans = section("### plan --json");
    plans.check(&json(&succeeds(run(&[
        "plan",
        "--json",
        "-p",
        "a star",
        "--steps",
        "2",
        "--normalise",
        "std",
    ]))));
    let mut scores = section("### score");
    let picture = only_folder(&dir.path().join("das")).join("best.png");
    let scored = program().args(["score", "--reward", "gold", text(&picture)]).output();
    scores.check(&json(&succeeds(scored.expect("the program starts"))));

    let mut checks = section("### score --check");
    let pairs = dir.path().join("pairs.jsonl");
    let pair = |image: &Path| {
        let pair = serde_json::json!({"image": image, "reward": "gold", "score": 1, "tolerance": 9, "source": "here"});
        format!("{pair}\n")
    };
    fs::write(&pairs, [pair(&picture), pair(Path::new("gone.png"))].concat()).expect("it can be written");
    let checked = succeeds(run(&["score", "--check", text(&pairs)]));
    checked.lines().for_each(|line| checks.check(&json(line)));

    let mut compared = section("### runs.jsonl of a comparison");
    let out = dir.path().join("compared");
    let mut designs = section("### compare.json");
    let mut summaries = section("### summary.json");
    let few = ["--seeds", "1", "--eval-reward", "gold", "-q", "-o", text(&out), "--", "--steps", "2"];
    let budgets = ["--budgets", "1,0.1s"];
    let arms = ["compare", "-p", "a star", "--methods", "none,best-of-n"];
    let few = program().args(arms).args(budgets).args(few).output();
    succeeds(few.expect("the program starts"));
    lines(&out.join("runs.jsonl")).iter().for_each(|line| compared.check(line));

    let of = |name: &str| json(&fs::read_to_string(out.join(name)).expect("a file"));
    designs.check(&of("compare.json"));
    summaries.check(&of("summary.json"));

    for section in [
        runs,
        trace,
        particles,
        pictures,
        answers,
        plans,
        scores,
        checks,
        compared,
        designs,
        summaries,
        checkpoints,
    ] {
        section.all_seen();
    }
}

#[test]
fn a_field_that_is_not_documented_is_found() {
    let page = "## A\n| field | type |\n|---|---|\n| `schema` | integer | v |\n| `a` | list of objects | |\n| `a[].b` \
                | number or null | |\n| `m` | object | |\n| `m.*` | string | |\n## B\n| `c` | string | |\n";
    let checks = |text: &str| {
        let value: Value = serde_json::from_str(&text.replace("S", &SCHEMA.to_string())).expect("JSON");
        std::panic::catch_unwind(|| {
            let mut section = Section::new(page, "## A");
            section.check(&value);
            section.seen.len()
        })
        .ok()
    };
    assert_eq!(checks(r#"{"schema": S, "a": [{"b": null}], "m": {"x": "y"}}"#), Some(5));
    assert_eq!(checks(r#"{"schema": S, "a": [{"b": "text"}]}"#), None, "another type");
    assert_eq!(checks(r#"{"schema": S, "c": "text"}"#), None, "of another section");
    assert_eq!(checks(r#"{"a": []}"#), None, "no schema");
}
