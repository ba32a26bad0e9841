//! `report`: its page is whole, shows what the files say as text and never as code, asks nobody for anything,
//! and in a browser answers to pointer and keyboard. Without a browser the tests that need one are counted as
//! ignored.

#[path = "page/browser.rs"]
mod browser;
#[path = "common/harness.rs"]
mod harness;
#[path = "page/html.rs"]
mod html;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tempfile::TempDir;

use html::{Html, Tag};

fn main() -> ExitCode {
    harness::main(&[TESTS], None)
}

const HOSTILE: &str = "<script>document.title='owned'</script> \"&amp;' </style>--> \
                       <img src=x onerror=alert(1)> \u{202e}a star";

/// The program, which sees no GPU and asks no network.
fn run(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_das-cuda"));
    command.env("CUDA_VISIBLE_DEVICES", "").env("HF_HUB_OFFLINE", "1").args(args);
    command.output().expect("the program starts")
}

#[track_caller]
fn succeeds(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Exit code `code` and every one of `words`, with a fix.
#[track_caller]
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = run(args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words.iter().chain(&["fix:"]) {
        assert!(text.contains(word) && !text.contains("panicked"), "`{word}` is missing in: {text}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Runs to look at, made once: `list` of two prompts, one of them hostile; `smc`, three populations that
/// resample; `none`, without pictures; `lost`, which failed; `limited`, which was stopped; `table`, a
/// comparison.
fn runs() -> &'static Path {
    static RUNS: OnceLock<TempDir> = OnceLock::new();
    let dir = RUNS.get_or_init(|| {
        let dir = TempDir::new().expect("a temporary folder");
        let sample = |name: &str, more: &[&str]| {
            let out = dir.path().join(name);
            let small = ["sample", "-q", "--device", "cpu", "-o", text(&out)];
            let output = run(&[&small, more].concat());
            assert!(out.is_dir(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let two = ["--particles", "2", "--steps", "2"];
        let shown = ["--eval-reward", "gold", "--preview", "1"];
        sample("list", &[&["-p", "a star", "-p", HOSTILE], &shown[..], &two[..]].concat());
        let smc = ["--particles", "3", "--steps", "3", "--populations", "2", "--eval-reward", "gold"];
        let events = ["-p", "a ring", "--ess-threshold", "1", "--gradient-every", "1", "--kl", "0.5"];
        sample("smc", &[&smc[..], &events].concat());
        sample("none", &[&["-p", "a star", "--save", "none", "--proposal", "none"], &two[..]].concat());
        let thinned = ["--particles", "4", "--steps", "6", "--candidates", "2", "--populations", "2"];
        let weighed = ["-p", "a ring", "--ess-threshold", "1", "--gradient-every", "1", "--kl", "1"];
        sample("thinned", &[&thinned[..], &weighed].concat());
        sample("lost", &[&["-p", "a star", "--kl", "1e-40", "--max-shift", "inf"], &two[..]].concat());
        sample("limited", &["-p", "a star", "--max-nfe", "8", "--particles", "2", "--steps", "3"]);
        let table = dir.path().join("table");
        let arms = ["compare", "-q", "-p", "a star", "-p", "a ring", "--seeds", "1", "--budgets", "1,2"];
        let rest = [
            "--methods",
            "none,best-of-n",
            "--eval-reward",
            "gold",
            "-o",
            text(&table),
            "--",
            "--steps",
            "2",
        ];
        succeeds(&[&arms[..], &rest].concat());
        succeeds(&["eval", text(&table), "--reward", "gold", "-o", text(&dir.path().join("scored"))]);
        let front = dir.path().join("front");
        let two = ["pareto", "-q", "-p", "a star", "--seeds", "1", "--weights", "0,1", "-o", text(&front)];
        let rewards = ["--reward", "aesthetic", "--reward", "clip", "--", "--steps", "2", "--particles", "1"];
        succeeds(&[&two[..], &rewards].concat());
        let toy = dir.path().join("toy");
        let small =
            ["--analytic", "--populations", "1", "--particles", "10", "--methods", "none", "--seeds", "1,2"];
        succeeds(&[&["toy", "gmm1", "-q", "-o", text(&toy)], &small[..]].concat());
        dir
    });
    dir.path()
}

/// The page of what is in these folders, in a folder of its own.
fn page(names: &[&str]) -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("a temporary folder");
    let path = dir.path().join("report.html");
    let folders: Vec<PathBuf> = names.iter().map(|name| runs().join(name)).collect();
    let mut args = vec!["report", "-o", text(&path)];
    args.extend(folders.iter().map(|folder| text(folder)));
    assert_eq!(succeeds(&args), format!("{}\n", path.display()));
    (dir, path)
}

fn html(path: &Path) -> Html {
    Html::read(&fs::read_to_string(path).expect("the page")).expect("well formed")
}

/// The one folder in one of [`runs`].
fn only(name: &str) -> PathBuf {
    let mut folders =
        fs::read_dir(runs().join(name)).expect("a folder").map(|entry| entry.expect("an entry").path());
    folders.next().expect("a run")
}

fn record(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("run.json")).expect("run.json")).expect("JSON")
}

fn every_page_is_whole_and_asks_nobody() {
    let all: [&[&str]; 8] = [
        &["toy", "front", "scored", "list"],
        &["thinned"],
        &["list"],
        &["smc"],
        &["none"],
        &["lost", "limited"],
        &["table"],
        &["list", "table", "smc"],
    ];
    for names in all {
        let (_dir, path) = page(names);
        let html = html(&path);
        let ids: Vec<&str> = html.tags.iter().filter_map(|tag| tag.get("id")).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{names:?}: an id is there twice");
        for tag in &html.tags {
            for (name, value) in &tag.attributes {
                assert!(!name.starts_with("on"), "{names:?}: {tag:?}");
                match name.as_str() {
                    "src" => assert!(value.starts_with("data:image/"), "{names:?}: {value:.80}"),
                    "href" => {
                        let target = value.strip_prefix('#').expect("only links within the page");
                        assert!(ids.contains(&target), "{names:?}: {value}");
                    }
                    "style" => panic!("{names:?}: the policy refuses {tag:?}"),
                    _ => assert!(!value.starts_with("http") && !value.contains("://"), "{names:?}: {tag:?}"),
                }
            }
        }
        assert!(
            html.named("img").all(|image| image.get("alt").is_some_and(|alt| !alt.is_empty())),
            "{names:?}"
        );
        let labelled =
            html.named("svg").all(|svg| svg.get("aria-label").is_some() || svg.get("aria-hidden").is_some());
        assert!(labelled && html.named("svg").count() > 0, "{names:?}");
        assert_eq!(html.scripts.len(), 1, "{names:?}");
        assert!(
            html.named("meta")
                .any(|meta| meta.get("content").is_some_and(|c| c.starts_with("default-src 'none'")))
        );
    }
}

/// Of candidates that were thinned, in two populations: numbers and means are those of the files.
fn initial_particles_and_means_are_those_of_all_populations() {
    let (_dir, path) = page(&["thinned"]);
    let html = html(&path);
    let folder = only("thinned");
    let read = |name: &str| -> Vec<Value> {
        let text = fs::read_to_string(folder.join(name)).expect(name);
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    for particle in read("particles.jsonl") {
        let of = |tag: &&Tag| tag.name == "g" && tag.get("data-p") == Some(&particle["index"].to_string());
        let said: Vec<&str> = html.tags.iter().filter(of).filter_map(|tag| tag.get("data-say")).collect();
        let initial = format!("it descends from initial particle {},", particle["lineage"][0]);
        assert!(said.iter().any(|text| text.contains(&initial)), "{initial} {said:?}");
    }
    let mean = |step: u64| {
        let lines = read("trace.jsonl").into_iter().filter(|line| line["step"] == step);
        let rewards: Vec<f64> = lines
            .flat_map(|line| line["reward"].as_array().cloned().unwrap_or_default())
            .filter_map(|reward| reward.as_f64())
            .collect();
        rewards.iter().sum::<f64>() / rewards.len() as f64
    };
    let text = fs::read_to_string(&path).expect("the page");
    let first =
        read("trace.jsonl").iter().find(|line| line["reward"].is_array()).expect("rewards")["step"].clone();
    let at_first = format!("{:.3} at first", mean(first.as_u64().expect("a number")));
    assert!(text.contains(&at_first) && text.contains("of 16 at first"), "{at_first}");
    assert!(!text.contains("below the dashed line"), "a share of fewer particles is no line");
}

/// A page replaces a page, and nothing else.
fn nothing_but_a_page_is_replaced() {
    let folder = only("none");
    let dir = TempDir::new().expect("a temporary folder");
    let (page, link) = (dir.path().join("page.html"), dir.path().join("link.html"));
    let to = |output: &Path| ["report".to_string(), text(&folder).into(), "-o".into(), text(output).into()];
    let words = |args: &[String; 4], more: &'static str| -> Vec<String> {
        args.iter().cloned().chain((!more.is_empty()).then(|| more.to_string())).collect()
    };
    let report = |output: &Path, more: &'static str| {
        let args = words(&to(output), more);
        run(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    #[cfg(unix)]
    std::os::unix::fs::symlink(folder.join("best.png"), &link).expect("a link");
    for file in [folder.join("run.json"), link].iter().filter(|file| file.symlink_metadata().is_ok()) {
        let refused = report(file, "--overwrite");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains("is no page of HTML") && said.contains("fix:"), "{said}");
    }
    assert!(record(&folder)["prompt"].is_string(), "the record is there");
    assert!(report(&page, "").status.success());
    assert_eq!(report(&page, "").status.code(), Some(2), "it is there already");
    assert!(report(&page, "--overwrite").status.success());
    let printed = report(Path::new("-"), "");
    assert!(printed.stdout == fs::read(&page).expect("the page") && !Path::new("-").exists());
}

fn a_page_has_what_the_files_say() {
    let (_dir, path) = page(&["smc"]);
    let html = html(&path);
    let folder = only("smc");
    let record = record(&folder);
    // Two populations of three particles: a picture each, and the chosen one large.
    assert_eq!(html.named("img").count(), 7);
    for index in 0..6 {
        let of = html.tags.iter().filter(|tag| tag.get("data-p") == Some(&index.to_string()));
        let tags: BTreeSet<&str> = of.map(|tag| tag.name.as_str()).collect();
        assert_eq!(tags, ["g", "li", "tr"].into(), "particle {index}: a line, a picture, a row");
    }
    let charts = ["Genealogy", "Rewards", "Effective sample size", "Lambda", "Log Z", "Held out: gold"];
    for title in charts.iter().chain(&["Initial particles with descendants", "finished", "2 populations"]) {
        assert!(html.text.contains(title), "{title}");
    }
    let result = &record["result"];
    let shown = |x: &Value| format!("{:.3}", x.as_f64().expect("a number"));
    assert!(html.text.contains(&shown(&result["reward"])), "the reward of the chosen");
    assert!(html.text.contains(&shown(&result["eval_rewards"]["gold"])), "its held-out reward");
    let hashes = record["model_files"].as_object().expect("hashes").values();
    for hash in hashes.chain(record["reward_files"].as_object().expect("hashes").values()) {
        assert!(html.text.contains(hash.as_str().expect("a hash")), "{hash}");
    }
    let trace = fs::read_to_string(folder.join("trace.jsonl")).expect("a trace");
    let lines = trace.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let resampled = lines.filter(|line| line["resampled"] == true).count();
    assert!(resampled > 0 && html.text.contains(&format!("resampled {resampled} times")), "{resampled}");
}

fn an_experiment_has_its_table_and_its_charts() {
    for (name, title) in [("toy", "Toy toy"), ("front", "Front front"), ("scored", "Evaluation scored")] {
        let (_dir, path) = page(&[name]);
        let html = html(&path);
        let folder = runs().join(name);
        assert!(html.text.contains(title), "{name}: {}", html.text);
        let table = fs::read_to_string(folder.join("table.csv")).expect("a table");
        let lines = table.lines().count();
        // The head is a row too.
        assert_eq!(html.named("tr").count(), lines, "{name}");
        let is_end = |column: &&str| column.ends_with("_low") || column.ends_with("_high");
        let columns = table.lines().next().expect("a head").split(',').filter(|c| !is_end(c)).count();
        assert_eq!(html.named("th").count(), columns + lines - 1, "{name}: a head, and one for each row");
        let is_chart = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|ending| ending == "svg");
        let charts = fs::read_dir(&folder).expect("a folder").flatten().filter(is_chart).count();
        assert_eq!(html.named("img").count(), charts, "{name}");
        assert!(charts > 0 || name == "scored", "{name}");
    }
    // One that is not done says so; one that is damaged is an error that names the file.
    let dir = TempDir::new().expect("a temporary folder");
    fs::write(dir.path().join("toy.json"), "{}").expect("a design");
    let page = succeeds(&["report", text(dir.path()), "-o", "-"]);
    assert!(page.contains("0 lines of runs are there"), "{page}");
    fs::write(dir.path().join("table.csv"), "a,b\n1\n").expect("a table");
    fails(&["report", text(dir.path()), "-o", "-"], 1, &["table.csv", "damaged"]);
}

fn a_comparison_has_its_table_curves_and_pictures() {
    let (_dir, path) = page(&["table"]);
    let html = html(&path);
    let summary: Value =
        serde_json::from_slice(&fs::read(runs().join("table/summary.json")).expect("a summary"))
            .expect("JSON");
    let rows = summary["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 4);
    for row in rows {
        let mean = row["rewards"]["gold"]["value"]["mean"].as_f64().expect("a mean");
        assert!(html.text.contains(&format!("{mean:.3}")), "{mean}");
    }
    for title in
        ["target against cost", "gold against cost", "target against divergence", "Returned pictures"]
    {
        assert!(html.text.contains(title), "{title}");
    }
    // Two prompts by two arms at two budgets.
    assert_eq!(html.named("img").count(), 8);
}

fn several_runs_stand_side_by_side_with_what_differs() {
    let (_dir, path) = page(&["list", "smc", "none"]);
    let html = html(&path);
    assert!(html.text.contains("4 runs side by side") && html.text.contains("On the way"));
    for option in ["kl", "particles", "proposal", "ess_threshold"] {
        assert!(html.tags.iter().any(|tag| tag.name == "th") && html.text.contains(option), "{option}");
    }
    assert_eq!(html.named("details").filter(|tag| tag.get("id").is_some()).count(), 4);
}

fn what_files_say_is_text_and_never_code() {
    let dir = TempDir::new().expect("a temporary folder");
    let folder = dir.path().join("run");
    fs::create_dir_all(folder.join("particles")).expect("folders");
    let from = runs().join("list");
    let from =
        fs::read_dir(from).expect("a folder").map(|e| e.expect("an entry").path()).max().expect("a run");
    // Every text of the record, and the names of rewards.
    let mut record = record(&from);
    for key in ["model", "device", "proposal", "negative_prompt", "error", "directory"] {
        record[key] = HOSTILE.into();
    }
    record["warnings"] = json!([HOSTILE]);
    record["command"] = json!([HOSTILE]);
    record["rewards"] = json!([{"name": HOSTILE, "weight": 1.0, "path": HOSTILE}]);
    record["model_files"] = json!({HOSTILE: HOSTILE});
    record[HOSTILE] = HOSTILE.into();
    record["result"]["eval_rewards"] = json!({HOSTILE: 1.0});
    record["result"]["log_z_unreliable"] = HOSTILE.into();
    fs::write(folder.join("run.json"), record.to_string()).expect("written");
    fs::copy(from.join("trace.jsonl"), folder.join("trace.jsonl")).expect("copied");
    let particles = fs::read_to_string(from.join("particles.jsonl")).expect("particles");
    let secret = dir.path().join("secret.png");
    fs::copy(from.join("best.png"), &secret).expect("copied");
    let line = |line: &str| {
        let mut particle: Value = serde_json::from_str(line).expect("JSON");
        particle["path"] = "../secret.png".into();
        particle["sha256"] = HOSTILE.into();
        particle["eval_rewards"] = json!({HOSTILE: 2.0});
        format!("{particle}\n")
    };
    fs::write(folder.join("particles.jsonl"), particles.lines().map(line).collect::<String>())
        .expect("written");
    let path = dir.path().join("report.html");
    succeeds(&["report", text(&folder), "-o", text(&path)]);
    let html = html(&path);
    assert_eq!(html.scripts.len(), 1, "a script came in");
    assert_eq!(html.named("img").count(), 0, "a picture came in, or one from outside of the folder");
    let shown = HOSTILE.replace('\u{202e}', "\\u{202e}");
    assert!(html.text.matches(&shown).count() >= 8, "{}", html.text);
    assert!(html.text.contains("its path leads out of the folder"));
    assert!(!fs::read_to_string(&path).expect("the page").contains('\u{202e}'), "it can turn the direction");
    let shown = browser::show(&path, 1200);
    assert!(shown.console.is_empty(), "{:?}", shown.console);
    assert!(!shown.document.contains("<title>owned"), "the prompt ran");
}

fn what_is_damaged_is_named_and_the_rest_is_shown() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let copy = |name: &str| {
        let (from, to) = (only("smc"), out.join(name));
        fs::create_dir_all(&to).expect("folders");
        for file in ["run.json", "trace.jsonl", "particles.jsonl"] {
            fs::copy(from.join(file), to.join(file)).expect("copied");
        }
        to
    };
    let (a, b) = (copy("a"), copy("b"));
    // Within its third line; and of another run all from its third line on.
    let trace = fs::read_to_string(b.join("trace.jsonl")).expect("a trace");
    let lines: Vec<&str> = trace.split_inclusive('\n').collect();
    fs::write(b.join("trace.jsonl"), [lines[0], lines[1], "{\"schema\":"].concat()).expect("written");
    fs::write(copy("c").join("trace.jsonl"), lines[..2].concat()).expect("written");
    fs::write(a.join("run.json"), "{\"schema\": 1, ").expect("written");
    let path = dir.path().join("report.html");
    let output = run(&["report", text(&out), "-o", text(&path)]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("a/run.json"), "{said}");
    let html = html(&path);
    assert!(html.text.contains("Left out") && html.text.contains("a/run.json"), "{}", html.text);
    assert!(html.text.contains("trace.jsonl ends within its line 3"), "{}", html.text);
    assert!(html.text.contains("trace.jsonl has 2 of its 8 lines"), "{}", html.text);
    assert!(html.text.contains("the file is gone"), "pictures were not copied");
    // Alone it is an error, and so is what is no run.
    let other = dir.path().join("new/other.html");
    fails(&["report", text(&a), "-o", text(&other)], 1, &["a/run.json", "damaged"]);
    fs::remove_file(a.join("run.json")).expect("removed");
    fails(&["report", text(&a), "-o", text(&other)], 1, &["a/run.json", "cannot be read"]);
    fails(&["report", text(dir.path()), "-o", text(&other)], 2, &["no run in it", "run.json"]);
    fails(&["report", "nowhere", "-o", text(&other)], 1, &["nowhere"]);
    assert!(!dir.path().join("new").exists(), "nothing is made of what is refused");
    succeeds(&["report", text(&b), "-o", text(&other)]);
    // What is there stays unless it is said to go.
    fails(&["report", text(&b), "-o", text(&path)], 2, &["report.html", "--overwrite"]);
    let before = fs::read(&path).expect("the page");
    succeeds(&["report", text(&b), "-o", text(&path), "--overwrite"]);
    let page = fs::read(&path).expect("the page");
    assert!(page != before);
    succeeds(&["report", text(&b), "-o", text(&path), "--overwrite"]);
    assert!(fs::read(&path).expect("the page") == page, "the same files, the same bytes");
}

fn what_is_not_as_recorded_is_said_beside_it() {
    let dir = TempDir::new().expect("a temporary folder");
    let (from, to) = (only("smc"), dir.path().join("run"));
    fs::create_dir_all(to.join("particles")).expect("folders");
    for file in ["trace.jsonl", "particles.jsonl", "particles/001.png", "particles/002.png"] {
        fs::copy(from.join(file), to.join(file)).expect("copied");
    }
    fs::copy(from.join("particles/001.png"), to.join("particles/000.png")).expect("copied");
    let mut changed = record(&from);
    changed["result"]["log_z"] = json!({});
    fs::write(to.join("run.json"), changed.to_string()).expect("written");
    let path = dir.path().join("report.html");
    succeeds(&["report", text(dir.path()), "-o", text(&path)]);
    let html = html(&path);
    assert!(html.text.contains("Not the files that were recorded"), "{}", html.text);
    assert!(html.text.contains("pictures of particles 0."), "{}", html.text);
    assert!(!html.text.contains("minus infinity"), "{}", html.text);
}

fn of_many_runs_the_first_have_curves() {
    let dir = TempDir::new().expect("a temporary folder");
    let from = only("none");
    for number in 0..15 {
        let to = dir.path().join(format!("run-{number:02}"));
        fs::create_dir(&to).expect("a folder");
        for file in ["run.json", "trace.jsonl", "particles.jsonl"] {
            fs::copy(from.join(file), to.join(file)).expect("copied");
        }
    }
    let path = dir.path().join("report.html");
    succeeds(&["report", text(dir.path()), "-o", text(&path)]);
    let html = html(&path);
    assert!(html.text.contains("15 runs side by side"), "{}", html.text);
    assert!(html.text.contains("Curves of the first 14 runs"), "{}", html.text);
}

fn a_browser_shows_every_page_without_an_error_at_any_width() {
    let all: [&[&str]; 5] = [&["list"], &["smc"], &["lost", "limited"], &["none"], &["list", "table", "smc"]];
    for names in all {
        let (_dir, path) = page(names);
        let shown = browser::show(&path, 1200);
        assert!(shown.console.is_empty(), "{names:?}: {:?}", shown.console);
        for width in [400, 1200] {
            let said = browser::ask(
                &path,
                width,
                "document.querySelectorAll('details').forEach((one) => { one.open = true; });
                 const root = document.documentElement;
                 const images = [...document.images];
                 const asked = performance.getEntriesByType('resource').map((one) => one.name);
                 const decoded = images.map((image) => image.decode().then(() => 1, () => 0));
                 Promise.all(decoded).then((good) => answer({
                   wide: root.scrollWidth - root.clientWidth,
                   asked: asked.filter((name) => !name.startsWith('data:')),
                   broken: good.filter((one) => !one).length,
                 }));",
            );
            assert_eq!(said, json!({"wide": 0, "asked": [], "broken": 0}), "{names:?} at {width}");
        }
    }
}

fn pointer_and_keyboard_follow_a_particle_and_a_step() {
    let (_dir, path) = page(&["smc"]);
    let said = browser::ask(
        &path,
        1200,
        "const all = (query) => [...document.querySelectorAll(query)];
         const marked = () => [...new Set(all('.on[data-p]').map((one) => one.dataset.p))];
         const lines = document.querySelectorAll('.tree g[data-p]');
         const said = {};
         // A window that nobody looks at may be without focus, and then tells no element of it.
         const tell = (one, kind) => one.dispatchEvent(new FocusEvent(kind, {bubbles: true}));
         for (const kind of [HTMLElement, SVGElement]) {
           const {focus, blur} = kind.prototype;
           kind.prototype.focus = function () {
             const [before, told] = [document.activeElement, document.hasFocus()];
             focus.call(this);
             if (!told) {
               if (before && before !== document.body) tell(before, 'focusout');
               tell(this, 'focusin');
             }
           };
           kind.prototype.blur = function () {
             const told = document.hasFocus();
             blur.call(this);
             if (!told) tell(this, 'focusout');
           };
         }
         lines[0].focus();
         said.focused = marked();
         said.tree = lines[0].closest('figure').querySelector('output').textContent;
         const pressed = (key) => new KeyboardEvent('keydown', {key, bubbles: true});
         const press = (key) => document.activeElement.dispatchEvent(pressed(key));
         press('ArrowDown');
         said.next = marked();
         said.moved = document.activeElement !== lines[0] && document.activeElement.matches('.tree g');
         document.activeElement.blur();
         said.left = marked();
         const picture = document.querySelector('.pictures li:not(.chosen)');
         picture.dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));
         said.pointed = marked().length === 1 && marked()[0] === picture.dataset.p;
         said.viewer = document.querySelector('.viewer img').src === picture.querySelector('img').src;
         const chart = document.querySelector('svg[data-steps]:not(.tree)');
         chart.focus();
         press('End');
         press('ArrowLeft');
         const outputs = all('.chart output').map((one) => one.textContent);
         said.steps = outputs.filter((text) => text.startsWith('step 2: ')).length;
         said.cursors = document.querySelectorAll('.cursor.on').length;
         answer(said);",
    );
    assert_eq!(said["focused"].as_array().map(Vec::len), Some(1), "{said}");
    assert!(
        said["tree"].as_str().is_some_and(|text| text.contains("it descends from initial particle")),
        "{said}"
    );
    assert!(said["moved"] == true && said["next"] != said["focused"], "{said}");
    assert_eq!(said["left"], json!([]), "{said}");
    assert!(said["pointed"] == true && said["viewer"] == true, "{said}");
    // Rewards, ESS, lambda, log Z and roots say the step; the genealogy has its cursor too.
    assert_eq!((&said["steps"], &said["cursors"]), (&json!(5), &json!(6)), "{said}");
}

tests![
    every_page_is_whole_and_asks_nobody,
    a_page_has_what_the_files_say,
    initial_particles_and_means_are_those_of_all_populations,
    nothing_but_a_page_is_replaced,
    an_experiment_has_its_table_and_its_charts,
    a_comparison_has_its_table_curves_and_pictures,
    several_runs_stand_side_by_side_with_what_differs,
    what_files_say_is_text_and_never_code,
    what_is_damaged_is_named_and_the_rest_is_shown,
    what_is_not_as_recorded_is_said_beside_it,
    of_many_runs_the_first_have_curves,
    a_browser_shows_every_page_without_an_error_at_any_width,
    pointer_and_keyboard_follow_a_particle_and_a_step,
];
