//! `compare`: what it leaves, that it goes on where it was stopped, and what it refuses.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use super::{fails, folders, json, lines, program, succeeds, text};

/// Two arms, two prompts, two seeds, two budgets.
fn compare(out: &Path, more: &[&str]) -> Output {
    let mut command = program();
    command.args(["compare", "-p", "a star", "-p", "a ring"]);
    if !more.contains(&"--seeds") {
        command.args(["--seeds", "3,5"]);
    }
    if !more.contains(&"--budgets") {
        command.args(["--budgets", "1,2"]);
    }
    command.args(["--eval-reward", "gold", "--threads", "1", "-q", "-o", text(out)]);
    command.args(more).args(["--", "--steps", "3", "--particles", "2"]);
    command.output().expect("the program")
}

const TWO: [&str; 2] = ["--methods", "das,best-of-n"];

/// A run without what differs from time to time.
fn settled(line: &str) -> Value {
    let mut value = json(line);
    value.as_object_mut().expect("an object").remove("seconds");
    value
}

#[test]
fn every_arm_gets_the_same_cost_and_every_run_a_line_and_a_picture() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let table = succeeds(compare(&out, &TWO));
    let runs: Vec<Value> = lines(&out.join("runs.jsonl"));
    assert_eq!(runs.len(), 16);
    let cost = |arm: &str, budget: f64| {
        let of_arm = |run: &&Value| run["arm"] == arm && run["budget"] == budget;
        runs.iter().find(of_arm).map(|run| run["flops"].as_f64().expect("a cost")).expect("a run")
    };
    for budget in [1.0, 2.0] {
        let (das, best) = (cost("das", budget), cost("best-of-n", budget));
        // In favour of the baseline, and by less than one chain.
        assert!((1.0..1.5).contains(&(best / das)), "{best} against {das}");
    }
    assert!(cost("das", 2.0) <= 2.0 * cost("das", 1.0) && cost("best-of-n", 2.0) >= 2.0 * cost("das", 1.0));
    // What the model draws by itself is an ordinary sample, not the best of several.
    let plain = dir.path().join("plain");
    succeeds(compare(&plain, &["--methods", "none"]));
    assert!(lines(&plain.join("runs.jsonl")).iter().all(|run| run["particle"] == 0 && run["kl"] == 0.0));
    for run in &runs {
        let picture = out.join(run["picture"].as_str().expect("a path"));
        assert_eq!(image::open(picture).expect("a picture").width(), 64);
        assert!(run["target"].is_f64() && run["eval_rewards"]["gold"].is_f64(), "{run}");
        // The default reward has a CLIP model: cosines of different pictures are below 1.
        let distance = run["clip_distance"].as_f64().expect("a distance");
        assert!(distance > 0.0 && distance < 2.0, "{run}");
        // The mean under the weights of one particle, of the best, or between the extremes.
        let (weighted, target) = (run["weighted_target"].as_f64(), run["target"].as_f64());
        assert!(weighted <= target && (run["arm"] != "best-of-n" || weighted == target), "{run}");
    }
    // What is returned is what `sample` returns with the same seed, index and flags.
    let folder = dir.path().join("alone");
    let mut alone = program();
    alone.args([
        "sample",
        "-p",
        "a ring",
        "--first-index",
        "1",
        "-s",
        "5",
        "--steps",
        "3",
        "--particles",
        "2",
    ]);
    alone.args(["-q", "--json", "-o", text(&folder)]);
    let alone = json(succeeds(alone.output().expect("the program")).trim());
    let same =
        |run: &&Value| run["arm"] == "das" && run["budget"] == 1.0 && run["index"] == 1 && run["seed"] == 5;
    let run = runs.iter().find(same).expect("a run");
    assert_eq!(run["target"], alone["reward"]);
    assert_eq!(table, fs::read_to_string(out.join("table.md")).expect("a table"));
    assert_eq!(table.lines().filter(|line| line.starts_with("| das |")).count(), 2, "{table}");
    assert!(table.contains("2 prompts x 2 seeds") && table.contains("--methods das,best-of-n"), "{table}");
    let rows = json(&fs::read_to_string(out.join("summary.json")).expect("a summary"))["rows"].clone();
    assert_eq!(rows.as_array().expect("rows").len(), 4);
    let csv = fs::read_to_string(out.join("table.csv")).expect("a table");
    let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert!(columns.len() == 5 && columns.iter().all(|&n| n == columns[0]), "{csv}");
}

#[test]
fn a_comparison_that_was_stopped_goes_on() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let table = succeeds(compare(&out, &TWO));
    let path = out.join("runs.jsonl");
    let whole = fs::read_to_string(&path).expect("runs");
    // Killed within a line.
    let kept: usize = whole.split_inclusive('\n').take(9).map(str::len).sum();
    fs::write(&path, &whole[..kept + 20]).expect("written");
    assert_eq!(succeeds(compare(&out, &TWO)), table);
    let again = fs::read_to_string(&path).expect("runs");
    assert_eq!(again[..kept], whole[..kept], "what was finished stays");
    let settle = |text: &str| text.lines().map(settled).collect::<Vec<_>>();
    assert_eq!(settle(&again), settle(&whole));
    // With nothing left to draw every file keeps its bytes: the same result comes from what is on disk.
    let files = || {
        let names = folders(&out).into_iter().filter(|name| out.join(name).is_file());
        names.map(|name| (name.clone(), fs::read(out.join(&name)).expect("a file"))).collect::<Vec<_>>()
    };
    let before = files();
    assert!(before.iter().any(|(name, _)| name == "cost-gold.svg"));
    assert_eq!(succeeds(compare(&out, &TWO)), table);
    assert!(files() == before, "a file has changed");
    // Pictures that are gone are said to be.
    let (pictures, elsewhere) = (out.join("pictures/das/2"), dir.path().join("elsewhere"));
    fs::rename(&pictures, &elsewhere).expect("moved");
    let output = compare(&out, &TWO);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("4 of 16 pictures are gone") && said.contains("pictures/das/2/0000-3.png"),
        "{said}"
    );
    assert_eq!(succeeds(output), table);
    fs::rename(&elsewhere, &pictures).expect("moved back");
    fs::write(&path, again.replacen("\"schema\":1", "\"schema\":2", 1)).expect("written");
    fails(compare(&out, &TWO), 1, &[text(&path), "line 1", "another layout"]);
    fs::write(&path, again.replacen("\"arm\"", "\"arms\"", 1)).expect("written");
    fails(compare(&out, &TWO), 1, &[text(&path), "line 1"]);
    // A line that is whole but for its end is a line that was cut off; none may be there twice, or be of
    // another comparison.
    fs::write(&path, &whole[..kept - 1]).expect("written");
    assert_eq!(succeeds(compare(&out, &TWO)), table);
    let first = &whole[..=whole.find('\n').expect("a line")];
    fs::write(&path, first.repeat(2)).expect("written");
    fails(compare(&out, &TWO), 1, &[text(&path), "line 2", "already"]);
    fs::write(&path, first.replacen("\"seed\":3", "\"seed\":91", 1)).expect("written");
    fails(compare(&out, &TWO), 1, &[text(&path), "line 1", "another comparison"]);
    fs::write(&path, &whole).expect("written");
    fails(
        compare(&out, &["--methods", "das,bootstrap"]),
        2,
        &["another comparison", "the list of arms differs", "--output"],
    );
    fs::remove_file(out.join("compare.json")).expect("removed");
    fails(compare(&out, &TWO), 2, &["and no compare.json that says what it is of", "--output"]);
    // Nothing begins where a run or the tables of another command are, or at a file.
    for name in ["run.json", "summary.json", "table.csv"] {
        let other = dir.path().join(name.replace('.', "-"));
        fs::create_dir(&other).expect("a folder");
        fs::write(other.join(name), "{}").expect("written");
        fails(compare(&other, &TWO), 2, &[&format!("holds {name}, and no compare.json"), "--output"]);
        assert!(["compare.json", "runs.jsonl"].iter().all(|own| !other.join(own).exists()), "{name}");
    }
    let file = dir.path().join("file");
    fs::write(&file, "").expect("written");
    fails(compare(&file, &TWO), 1, &["file: is a file", "give a directory with --output"]);
}

#[test]
fn arms_and_sweeps_are_read_and_what_cannot_work_is_refused() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let labels = |more: &[&str]| -> Vec<String> {
        fs::remove_dir_all(&out).ok();
        succeeds(compare(&out, more));
        let design = json(&fs::read_to_string(out.join("compare.json")).expect("a design"));
        let arms = design["design"]["arms"].as_array().expect("arms").clone();
        arms.iter().map(|arm| arm["label"].as_str().expect("a label").to_string()).collect()
    };
    let sweep = ["--methods", "das", "--sweep", "kl=0.1,0.5", "--sweep", "max-shift=1,2"];
    let four = [
        "das kl=0.1 max-shift=1",
        "das kl=0.1 max-shift=2",
        "das kl=0.5 max-shift=1",
        "das kl=0.5 max-shift=2",
    ];
    assert_eq!(labels(&sweep), four);
    let two = ["--methods", "none,das", "--sweep", "das:kl=0.1,0.5", "--sweep", "none:steps=2,3"];
    assert_eq!(labels(&two), ["none steps=2", "none steps=3", "das kl=0.1", "das kl=0.5"]);
    let arms = ["--methods", "none", "--arm", "gentle=--proposal 'das' --kl 1 --select reward"];
    assert_eq!(labels(&arms), ["none", "gentle"]);
    // An arm may change what all have after --, and a sweep may be spelt as the flag is.
    let cost = || lines(&out.join("runs.jsonl"))[0]["flops"].as_f64().expect("a cost");
    assert_eq!(labels(&["--methods", "", "--arm", "x=--steps 2 --gradient-every 1"]), ["x"]);
    let two_steps = cost();
    assert_eq!(labels(&["--methods", "", "--arm", "y=--gradient-every 1"]), ["y"]);
    assert!(two_steps < 0.75 * cost(), "two steps of three");
    assert_eq!(labels(&["--methods", "das", "--sweep=--kl=0.1,0.5"]), ["das kl=0.1", "das kl=0.5"]);
    // Best-of-n as the first arm has as many chains as `sample` gives it: those that cost what two guided
    // particles do.
    assert_eq!(labels(&["--methods", "best-of-n,das"]), ["best-of-n", "das"]);
    let runs: Vec<Value> = lines(&out.join("runs.jsonl"));
    let guided = runs.iter().find(|run| run["arm"] == "das" && run["budget"] == 1.0).expect("a run");
    assert!(guided["particles"].as_u64() >= Some(2), "{guided}");
    fs::remove_dir_all(&out).ok();
    let (long, swept) = (format!("{}=--kl 1", "x".repeat(300)), format!("tempering={}", "x".repeat(300)));
    let cases: &[(&[&str], &[&str])] = &[
        (&["--methods", "nobody"], &["nobody", "das"]),
        (&["--methods", "das,das"], &["two arms", "--arm"]),
        (&["--arm", "x"], &["--arm", "LABEL=FLAGS"]),
        (&["--arm", "x=--kl nothing"], &["arm x", "--kl"]),
        (&["--arm", "x=--seed 3"], &["arm x", "--seed"]),
        (&["--arm", "x=-s5"], &["arm x", "--seed"]),
        (&["--arm", "x=-nblue"], &["arm x", "--negative-prompt"]),
        (&["--arm", "x=-pb"], &["arm x", "--prompt"]),
        (&["--arm", "x=-ob"], &["arm x", "--output"]),
        (&["--arm", "a|b=--proposal none"], &["--arm", "bars"]),
        (&["--arm", "a/b=--proposal none"], &["--arm", "slashes"]),
        (&["--arm", "a\nb=--proposal none"], &["--arm", "control"]),
        (&["--arm", "x=--kl '1"], &["--arm", "quote"]),
        (&["--arm", &long], &["--arm", "300 bytes"]),
        (&["--sweep", &swept], &["--sweep", "bytes", "--arm"]),
        (&["--arm", "a b=--proposal none", "--arm", "a_b=--kl 1"], &["two arms", "a b", "a_b"]),
        (&["--arm", "x=--help"], &["arm x", "sample --help"]),
        (&["--arm", "x=--lora a.safetensors"], &["arm x", "another model, scheduler, LoRA", "after --"]),
        (&["--arm", "x=--embedding a.pt"], &["arm x", "LoRA, embedding", "after --"]),
        (&["--arm", "x=--max-shift nan"], &["arm x", "--max-shift NaN is no number"]),
        (&["--seeds", "5..3"], &["--seeds", "ends before it begins"]),
        (&["--seeds", "1..9000000"], &["--seeds", "more than 1000000 seeds"]),
        (&["--budgets", "1,2,1"], &["--budgets"]),
        (&["--budgets", "30m"], &["--budgets", "1.5TFLOP", "30s"]),
        (&["--budgets", "1e9"], &["--particles"]),
        (&["--arm", "x=--reward clip"], &["arm x", "after --"]),
        (&["--arm", "x=--dtype bf16"], &["arm x", "after --"]),
        (&["--arm", "x=--steps 0"], &["arm x", "--steps"]),
        (&["--sweep", "kl"], &["--sweep", "FLAG=VALUE"]),
        (&["--sweep", "nobody:kl=1,2"], &["--sweep", "no arm is called nobody", "das, best-of-n"]),
        (&["--sweep", "das:=1,2"], &["--sweep", "FLAG=VALUE"]),
        (&["--sweep", ":kl=1,2"], &["--sweep", "FLAG=VALUE"]),
        (&["--against", "nobody"], &["nobody", "das"]),
    ];
    for (more, words) in cases {
        fails(compare(&out, more), 2, words);
        assert!(!out.exists(), "{more:?}: nothing is made of what is refused");
    }
    for (flags, words) in [
        (["--help"].as_slice(), ["flags after --", "das-cuda sample --help"]),
        (&["--proposal", "tds"], ["after --", "--methods"]),
        (&["--seed", "3"], ["flags after --", "--seed is decided"]),
    ] {
        let mut command = program();
        command.args(["compare", "-p", "a", "-o", text(&out), "--"]).args(flags);
        fails(command.output().expect("the program"), 2, &words);
        assert!(!out.exists());
    }
    for budgets in ["0", "-1", "nan", "x"] {
        let mut command = program();
        // Of one budget the plural is not needed.
        let option = if budgets == "x" { "--budget" } else { "--budgets" };
        command.args(["compare", "-p", "a", "-o", text(&out)]).arg(format!("{option}={budgets}"));
        fails(command.output().expect("the program"), 2, &["--budgets"]);
    }
}

/// Whether every tag of an XML text is closed, each in the one that it was opened in, and no bare sign stands
/// between them.
fn is_well_formed(text: &str) -> bool {
    let mut open = Vec::new();
    for part in text.split('<').skip(1) {
        let Some((tag, after)) = part.split_once('>') else { return false };
        let ended =
            after.split('&').skip(1).all(|word| word.split_once(';').is_some_and(|(name, _)| name.len() < 6));
        let name = tag.trim_start_matches('/').split_whitespace().next().unwrap_or_default();
        let closes = tag.starts_with('/');
        if !ended || after.contains('>') || (closes && open.pop() != Some(name)) {
            return false;
        }
        if !closes && !tag.ends_with('/') {
            open.push(name);
        }
    }
    open.is_empty() && text.trim_end().ends_with("</svg>")
}

#[test]
fn plots_hold_every_arm_at_every_budget() {
    assert!(is_well_formed("<svg a=\"1\"><b/><c>x &lt; y</c></svg>"));
    for wrong in
        ["<svg><b></svg>", "<svg><b></svg></b>", "<svg>x & y</svg>", "<svg>", "<svg", "<svg>a>b</svg>"]
    {
        assert!(!is_well_formed(wrong), "{wrong}");
    }
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let arms = [
        "--methods",
        "das",
        "--sweep",
        "kl=5,20",
        "--arm",
        "a<b & \"c\"=--proposal none",
        "--budgets",
        "1,3,6",
    ];
    let table = succeeds(compare(&out, &arms));
    let summary = json(&fs::read_to_string(out.join("summary.json")).expect("a summary"));
    let colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"];
    // An arm is a series against cost; elsewhere a sweep is one at each budget.
    let arm = "a<b & \"c\"";
    let arms = [("das kl=5", "das kl=5", None), ("das kl=20", "das kl=20", None), (arm, arm, None)];
    let sweeps = [1.0, 3.0, 6.0].map(|budget| (format!("das kl, budget {budget}"), Some(budget)));
    let sweeps = sweeps.iter().map(|(label, budget)| (label.as_str(), "das", *budget));
    let grouped: Vec<_> = sweeps.chain([(arm, arm, None)]).collect();
    for (name, cells, series) in [
        ("cost-target.svg", "/rewards/target/value", &arms[..]),
        ("cost-gold.svg", "/rewards/gold/value", &arms),
        ("kl-target.svg", "/rewards/target/kl", &grouped),
        ("kl-gold.svg", "/rewards/gold/kl", &grouped),
        ("target-gold.svg", "/rewards/gold/value", &grouped),
        ("distance.svg", "/seed_distance", &grouped),
    ] {
        assert!(table.contains(name), "{table}");
        let plot = fs::read_to_string(out.join(name)).expect("a plot");
        assert!(is_well_formed(&plot), "{plot}");
        for words in ["<title>", "2 prompts x 2 seeds", "a&lt;b &amp; &quot;c&quot;", "#FFFFFF"] {
            assert!(plot.contains(words), "{words}: {plot}");
        }
        for (colour, (label, own, budget)) in colours.iter().zip(series) {
            assert!(*label == arm || plot.contains(label), "{label}: {plot}");
            // A marker for each point, and one in the legend.
            let rows = summary["rows"].as_array().expect("rows").iter();
            let rows = rows.filter(|row| row["arm"].as_str().expect("an arm").starts_with(own));
            let rows = rows.filter(|row| budget.is_none_or(|budget| row["multiple"] == budget));
            let points = rows.filter(|row| row.pointer(cells).is_some_and(|cell| !cell.is_null())).count();
            let all = if budget.is_some() { 2 } else { 3 };
            assert!(points == all || name.starts_with("kl"), "{label}: {points} points");
            let markers = plot.matches(&format!("fill=\"{colour}\"")).count();
            assert_eq!(markers, points + 1, "{name}: {label}");
        }
    }
}

/// The checker has no number for a prompt that states nothing.
#[test]
fn a_run_that_loses_every_particle_is_told_and_left_out() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let arms = ["-p", "zzz", "--reward", "checker", "--methods", "bootstrap,best-of-n", "--seeds", "3"];
    let table = succeeds(compare(&out, &arms));
    let runs = lines(&out.join("runs.jsonl"));
    let lost: Vec<&Value> = runs.iter().filter(|run| run["lost"].is_string()).collect();
    assert!(!lost.is_empty() && lost.iter().all(|run| run["prompt"] == "zzz" && run["picture"] == ""));
    assert!(runs.iter().any(|run| run["lost"].is_null()));
    assert!(table.contains("lost every particle") && table.contains("\"zzz\""), "{table}");
    assert_eq!(succeeds(compare(&out, &arms)), table, "nothing is drawn again");
    // Where every run is lost there is a table that says so, and an error.
    let mut every = program();
    every.args([
        "compare",
        "-p",
        "zzz",
        "--seeds",
        "1",
        "--methods",
        "bootstrap",
        "--reward",
        "checker",
        "-q",
    ]);
    every.args(["-o", text(&dir.path().join("every")), "--", "--steps", "2", "--particles", "1"]);
    let every = every.output().expect("the program");
    assert!(String::from_utf8_lossy(&every.stdout).contains("1 of 1 runs lost every particle"));
    fails(every, 5, &["every run lost every particle", "checker"]);
    fails(
        program().args(["eval", text(&dir.path().join("every"))]).output().expect("the program"),
        2,
        &["every: there is no finished picture in it"],
    );
    // Scored again without it, and shown.
    let mut eval = program();
    eval.args(["eval", text(&out), "--reward", "gold", "--json"]);
    let all = json(succeeds(eval.output().expect("the program")).trim());
    assert_eq!(all["sets"][0]["prompts"], 2, "{all}");
    let mut report = program();
    report.args(["report", text(&out), "-o", "-"]);
    assert!(succeeds(report.output().expect("the program")).contains("every particle was lost"));
}

/// Methods whose moves are shifted or chosen without weights know a bound on their divergence.
#[test]
fn moves_that_are_not_weighed_have_a_bounded_divergence() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let weak = "weak=--proposal dps --guidance-strength 0.001";
    let (still, svdd) = ("still=--proposal dps --eta 0", "svdd=--proposal svdd --duplicates 4");
    let more = ["--methods", "dps,mpgd", "--arm", weak, "--arm", still, "--arm", svdd];
    succeeds(compare(&out, &more));
    let runs = lines(&out.join("runs.jsonl"));
    let of = |arm: &str| -> Vec<Option<f64>> {
        runs.iter().filter(|run| run["arm"] == arm).map(|run| run["kl"].as_f64()).collect()
    };
    let (strong, weak) = (of("dps"), of("weak"));
    assert!(!strong.is_empty());
    // The strength is squared, and moves the later states little.
    for (strong, weak) in strong.iter().zip(&weak) {
        let (Some(strong), Some(weak)) = (strong, weak) else { panic!("{strong:?} {weak:?}") };
        assert!(*weak > 0.0 && weak / strong < 1e-4, "{weak} {strong}");
    }
    // Three steps, each with noise: three choices of the largest of four.
    assert!(of("svdd").iter().all(|kl| kl.is_some_and(|kl| (kl - 3.0 * 4_f64.ln()).abs() < 1e-12)));
    assert!(of("mpgd").iter().all(|kl| kl.is_some_and(|kl| kl > 0.0)));
    assert!(of("still").iter().all(Option::is_none), "a shift without noise");
}

#[test]
fn budgets_may_be_operations_or_evaluations() {
    let dir = TempDir::new().expect("a temporary folder");
    let design = |name: &str, more: &[&str]| -> Value {
        let out = dir.path().join(name);
        succeeds(compare(&out, more));
        json(&fs::read_to_string(out.join("compare.json")).expect("a design"))["design"].clone()
    };
    let few = ["--seeds", "3", "--methods", "none,best-of-n"];
    let relative = design("relative", &[&few[..], &["--budgets", "1,2"]].concat());
    let flops = |arm: &Value, b: usize| arm["flops"][b].as_f64().expect("a cost");
    let first = &relative["arms"][0];
    let (own, more) = (format!("{}FLOP", flops(first, 0)), format!("{}GFLOP", flops(first, 1) / 1e9));
    let absolute = design("absolute", &[&few[..], &["--budgets", &format!("{own},{more}")]].concat());
    assert_eq!(absolute["arms"], relative["arms"], "the same in another unit");
    assert_eq!(
        (&absolute["budgets"], &relative["budgets"]),
        (&serde_json::json!([own, more]), &serde_json::json!([1.0, 2.0]))
    );
    // A plain particle takes six evaluations in three steps with guidance, and the decoder and the reward
    // besides.
    let evaluations = design("evaluations", &[&few[..], &["--budgets", "60NFE"]].concat());
    let particles = evaluations["arms"][0]["particles"][0].as_u64().expect("particles");
    assert!((5..10).contains(&particles), "{particles}");
    assert!(dir.path().join("evaluations/pictures/none/60NFE/0001-3.png").exists());
    let rows = fs::read_to_string(dir.path().join("evaluations/table.md")).expect("a table");
    assert!(rows.contains("| none | 60NFE |"), "{rows}");
}

#[test]
fn budgets_in_seconds_are_timed_once() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let twin = ["--arm", "twin=--proposal best-of-n --select argmax"];
    let flags = ["--seeds", "3", "--methods", "none,best-of-n", "--budgets", "0.001s,0.25s,1"];
    let flags = [&flags[..], &twin].concat();
    succeeds(compare(&out, &flags));
    let design = || -> Value {
        json(&fs::read_to_string(out.join("compare.json")).expect("a design"))["design"].clone()
    };
    let first = design();
    assert_eq!(first["budgets"], serde_json::json!(["0.001s", "0.25s", 1.0]));
    assert!(first["clock"].as_f64().is_some_and(|seconds| seconds > 0.0), "{first}");
    let particles = |arm: usize, budget: usize| first["arms"][arm]["particles"][budget].as_u64();
    for arm in 0..3 {
        assert_eq!(particles(arm, 0), Some(1), "no draw takes a millisecond: the fewest");
        assert!(particles(arm, 1).is_some_and(|n| n > 0));
    }
    assert_eq!(particles(1, 1), particles(2, 1), "the same operations");
    let table = fs::read_to_string(out.join("table.md")).expect("a table");
    assert!(table.contains("| cost | seconds |") && table.contains("| none | 0.25s |"), "{table}");
    assert!(table.contains("Not of equal cost: none, budget 0.001s: 1 particle, the fewest, "), "{table}");
    // What is left is drawn as it began, whatever the time is now.
    let runs = fs::read_to_string(out.join("runs.jsonl")).expect("runs");
    let (kept, _) = runs.trim_end().rsplit_once('\n').expect("several");
    fs::write(out.join("runs.jsonl"), format!("{kept}\n")).expect("a shorter file");
    succeeds(compare(&out, &flags));
    assert_eq!(design(), first);
    let again = fs::read_to_string(out.join("runs.jsonl")).expect("runs");
    let last = |text: &str| settled(text.trim_end().rsplit_once('\n').expect("several").1);
    assert_eq!(last(&again), last(&runs));
    // What cannot have been found is not taken.
    let path = out.join("compare.json");
    let whole = json(&fs::read_to_string(&path).expect("a design"));
    for (place, value, words) in [
        ("/design/clock", Value::Null, "design.clock"),
        ("/design/clock", (-1.0).into(), "design.clock"),
        ("/design/arms/1/particles/1", 0.into(), "design.arms[1].particles[1]"),
        ("/design/arms/1/particles/1", 1_000_000_000_000_u64.into(), "design.arms[1].particles[1]"),
    ] {
        let mut other = whole.clone();
        *other.pointer_mut(place).expect("a place") = value;
        fs::write(&path, other.to_string()).expect("a design");
        fails(compare(&out, &flags), 1, &["compare.json", words, "--output"]);
    }
}

#[test]
fn nothing_is_timed_for_a_folder_that_cannot_be_used() {
    let dir = TempDir::new().expect("a temporary folder");
    let flags = ["--methods", "none,best-of-n", "--budgets", "1e7s"];
    for (name, text, words) in [
        ("runs.jsonl", "", &["runs.jsonl", "another directory"][..]),
        ("compare.json", "{", &["compare.json", "no JSON"]),
        ("compare.json", "{\"design\": []}", &["compare.json", "no design"]),
    ] {
        let out = dir.path().join("out");
        fs::create_dir_all(&out).expect("a folder");
        fs::write(out.join(name), text).expect("a file");
        let output = compare(&out, &flags);
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(words.iter().all(|word| said.contains(word)) && !said.contains("1e7"), "{said}");
        fs::remove_dir_all(&out).expect("removed");
    }
    // Found to be too much once the time of a draw is known; then nothing is left.
    let out = dir.path().join("none");
    fails(compare(&out, &flags), 2, &["--budgets 10000000s", "give --budgets a smaller number"]);
    assert!(!out.exists());
}

#[test]
fn what_cannot_be_equal_or_known_is_said() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let mut command = program();
    command.args(["compare", "-p", "a star", "--seeds", "3", "--budgets", "0.01", "-q", "-o", text(&out)]);
    let output = command.args(["--", "--steps", "2", "--particles", "2"]).output().expect("the program");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let table = succeeds(output);
    // One particle of two, for a hundredth of their cost.
    for text in [&said, &table] {
        assert!(text.contains("of equal cost: das, budget 0.01: 1 particle, the fewest, cost 5"), "{text}");
    }
    assert!(table.contains("1 prompt x 1 seed.") && table.contains("no interval"), "{table}");
    // One prompt has no interval, and one seed no other that knows log Z.
    assert!(!table.lines().any(|line| line.starts_with("| das") && line.contains('[')), "{table}");
    assert!(table.contains("8 other seeds"), "{table}");
    let summary = json(&fs::read_to_string(out.join("summary.json")).expect("a summary"));
    let row = &summary["rows"][0];
    let value = &row["rewards"]["target"]["value"];
    assert!(value["mean"].is_f64() && value["low"].is_null() && value["high"].is_null(), "{value}");
    assert!(row["log_z"].is_f64() && row["log_z_covered"].is_null() && row["log_z_judged"] == 0, "{row}");
    assert_eq!(summary["notes"].as_array().map(Vec::len), Some(2));
}
