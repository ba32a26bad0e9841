//! `eval`: what sets of pictures are worth, held against `score` and against what the runs recorded.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use super::formats::Section;
use super::lpips;
use super::{fails, folders, json, lines, program, record_of, run, sample, succeeds, text};

const SCORERS: [&str; 4] = ["--reward", "clip", "--reward", "gold"];

fn eval(args: &[&str]) -> Output {
    run(&[&["eval"], args].concat())
}

/// Two directories of two prompts, the second with fewer particles.
fn sets() -> TempDir {
    let dir = TempDir::new().expect("a temporary folder");
    let prompts = ["-p", "a star", "-p", "a ring", "--proposal", "none", "--eval-reward", "gold"];
    succeeds(sample(&dir.path().join("a"), &[&prompts[..], &["--particles", "3"]].concat()));
    succeeds(sample(&dir.path().join("b"), &[&prompts[..], &["--particles", "2", "-s", "9"]].concat()));
    dir
}

#[test]
fn sets_have_the_scores_of_their_pictures() {
    let dir = sets();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let out = dir.path().join("table");
    let table =
        succeeds(eval(&[&[text(&a), text(&b), "--tce", "2", "-o", text(&out)], &SCORERS[..]].concat()));
    let summary = json(&fs::read_to_string(out.join("summary.json")).expect("a summary"));
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md")).expect("docs");
    let mut section = Section::new(&page, "### eval.json");
    section.check(&json(&fs::read_to_string(out.join("eval.json")).expect("a design")));
    section.all_seen();
    let mut section = Section::new(&page, "### eval: summary.json");
    section.check(&summary);
    let scores: Vec<Value> = lines(&out.join("scores.jsonl"));
    let mut of_lines = Section::new(&page, "### eval: scores.jsonl");
    scores.iter().for_each(|line| of_lines.check(line));
    of_lines.all_seen();
    // The returned picture of each prompt, as `score` reads it.
    assert_eq!(scores.len(), 4);
    for line in &scores {
        let path = line["path"].as_str().expect("a path");
        let scored = json(succeeds(run(&[&["score", path], &SCORERS[..]].concat())).trim());
        assert_eq!(line["scores"], scored["rewards"], "{path}");
        assert!(
            line["prompt"] == scored["prompt"]
                && line["set"] == *text(Path::new(path).ancestors().nth(2).expect("a set"))
        );
    }
    let sets = summary["sets"].as_array().expect("sets").clone();
    for (set, folder) in sets.iter().zip([&a, &b]) {
        let own = scores.iter().filter(|line| line["set"] == *text(folder));
        let gold: Vec<f64> = own.map(|line| line["scores"]["gold"].as_f64().expect("a score")).collect();
        let mean = set["scores"]["gold"]["value"]["mean"].as_f64().expect("a mean");
        let spread = set["scores"]["gold"]["sd"].as_f64().expect("a spread");
        // Of two numbers, in f64.
        assert!((mean - 0.5 * (gold[0] + gold[1])).abs() < 1e-12, "{set}");
        assert!((spread - 0.5 * (gold[0] - gold[1]).abs()).abs() < 1e-12, "{set}");
        assert!(set["tce"].is_null() && set["notes"].to_string().contains("needs more pictures"), "{set}");
        assert_eq!((&set["prompts"], &set["pictures"]), (&2.into(), &2.into()));
    }
    for name in ["table.md", "table.csv"] {
        assert!(fs::metadata(out.join(name)).expect(name).len() > 0);
    }
    assert!(table.contains("| CLIP distance |") && table.contains("--tce 2"), "{table}");

    // All particles: pairs of one prompt, and more pictures than eigenvalues.
    let all =
        json(succeeds(eval(&[&[text(&a), "--all", "--tce", "2", "--json"], &SCORERS[..]].concat())).trim());
    section.check(&all);
    let set = &all["sets"][0];
    assert_eq!((&set["prompts"], &set["pictures"]), (&2.into(), &6.into()));
    let distance = |key: &str| set[key]["mean"].as_f64().expect("a distance");
    for key in ["clip_distance", "clip_distance_within"] {
        assert!(distance(key) > 0.0 && distance(key) < 2.0, "{set}");
    }
    assert!(distance("clip_distance_within") != distance("clip_distance"), "nine pairs more: {set}");
    assert!(set["tce"]["mean"].is_f64() && set["tce"]["low"].as_f64() < set["tce"]["high"].as_f64(), "{set}");
    // LPIPS of the same, whose whole network is one file or two.
    let [network, linear] = lpips::write(dir.path(), lpips::Layout::Two);
    let (two, one) =
        (format!("{},{}", text(&network), text(&linear)), lpips::write(dir.path(), lpips::Layout::One));
    let mut distances = |path: &str, more: &[&str]| -> [f64; 2] {
        let args = [&[text(&a), "--all", "--json", "--reward", "gold", "--lpips", path], more].concat();
        let all = json(succeeds(eval(&args)).trim());
        section.check(&all);
        ["lpips", "lpips_within"].map(|key| all["sets"][0][key]["mean"].as_f64().expect("a distance"))
    };
    let [all_pairs, within] = distances(&two, &[]);
    assert!(all_pairs > 0.0 && within > 0.0 && all_pairs != within, "{all_pairs} {within}");
    assert_eq!(distances(text(&one[0]), &[]), [all_pairs, within]);
    assert!(distances(&two, &["--lpips-inputs", "unit"])[0] < all_pairs, "half of the contrast");
    section.all_seen();
    fails(
        eval(&[text(&a), "--lpips", text(&linear), "--reward", "gold"]),
        3,
        &["--lpips", "0.weight", "NETWORK,LINEAR"],
    );
    for half in [format!("{},", text(&network)), ",".into()] {
        fails(eval(&[text(&a), "--lpips", &half, "--reward", "gold"]), 2, &["--lpips", "lacks a path"]);
    }
    // Weights whose products overflow.
    let whole = fs::read(&network).expect("weights");
    let start = 8 + u64::from_le_bytes(whole[..8].try_into().expect("eight bytes")) as usize;
    let mut huge = whole[..start].to_vec();
    huge.extend(whole[start..].chunks_exact(4).flat_map(|w| {
        let w = f32::from_le_bytes(w.try_into().expect("four bytes"));
        (w * 1e20).to_le_bytes()
    }));
    fs::write(&network, huge).expect("written");
    fails(eval(&[text(&a), "--lpips", &two, "--reward", "gold"]), 5, &["--lpips", "png is not finite"]);
    let run = a.join(&folders(&a)[0]);
    let one_picture = eval(&[text(&run), "--lpips", text(&one[0]), "--reward", "gold"]);
    let said = String::from_utf8_lossy(&one_picture.stderr).into_owned();
    assert!(said.contains("LPIPS is of two pictures"), "{said}");
    fails(eval(&[text(&a), "--lpips-inputs", "unit"]), 2, &["--lpips"]);
    let zeros: Vec<u8> = fs::read(&linear).expect("weights");
    let start = 8 + u64::from_le_bytes(zeros[..8].try_into().expect("eight bytes")) as usize;
    fs::write(&linear, [&zeros[..start], &vec![0; zeros.len() - start]].concat()).expect("written");
    fails(eval(&[text(&a), "--lpips", &two, "--reward", "gold"]), 3, &["nothing but 0", "alex.pth"]);
    // The mean of the held-out scores of 8-bit pictures that the runs recorded.
    let recorded: Vec<f64> = folders(&a)
        .iter()
        .flat_map(|name| lines(&a.join(name).join("particles.jsonl")))
        .map(|particle| particle["reward_png"]["gold"].as_f64().expect("a score"))
        .collect();
    let mean = recorded.iter().sum::<f64>() / recorded.len() as f64;
    let found = set["scores"]["gold"]["value"]["mean"].as_f64().expect("a mean");
    // The same pictures one at a time: sums of f32 in another order. 0 was measured.
    assert!((found - mean).abs() < 1e-5, "{found} and {mean}");
}

#[test]
fn without_names_every_scorer_that_is_here_judges() {
    let dir = sets();
    let a = dir.path().join("a");
    let output = eval(&[text(&a), "--json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let all = json(succeeds(output).trim());
    let scores = all["sets"][0]["scores"].as_object().expect("scores").clone();
    for name in ["aesthetic", "clip", "gold", "checker", "jpeg", "incompressibility"] {
        assert!(scores.contains_key(name), "{name}: {scores:?}");
    }
    assert!(said.contains("pickscore") && said.contains("are not here"), "{said}");
    // A run that returned all of its particles is judged by all.
    let every = dir.path().join("every");
    succeeds(sample(&every, &["-p", "a star", "--particles", "3", "--select", "all"]));
    let of_all = json(succeeds(eval(&[text(&every), "--json", "--reward", "gold"])).trim());
    assert_eq!(of_all["sets"][0]["pictures"], 3);
    // One run is a set too, whose folder or record may be named.
    let folder = a.join(&folders(&a)[0]);
    let record = record_of(&folder);
    let one = json(succeeds(eval(&[text(&folder), "--json", "--reward", "gold"])).trim());
    assert_eq!(one["sets"][0]["pictures"], 1);
    assert!(one["sets"][0]["clip_distance"].is_null() && record["prompt"] == "a star");
}

#[test]
fn every_arm_of_a_comparison_is_a_set() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("table");
    let mut compare = program();
    compare.args(["compare", "-p", "a star", "-p", "a ring", "--seeds", "1", "--methods", "das,none", "-q"]);
    compare.args(["--eval-reward", "gold", "-o", text(&out), "--", "--steps", "2", "--particles", "1"]);
    succeeds(compare.output().expect("the program"));
    let all = json(succeeds(eval(&[text(&out), "--json", "--reward", "gold"])).trim());
    let names: Vec<&str> = all["sets"]
        .as_array()
        .expect("sets")
        .iter()
        .map(|set| set["set"].as_str().expect("a name"))
        .collect();
    assert_eq!(names, ["table: das, budget 1", "table: none, budget 1"]);
    fails(eval(&[text(&out), "--all"]), 2, &["returned pictures alone", "--all"]);
}

#[test]
fn what_cannot_be_judged_is_refused() {
    let dir = sets();
    let a = dir.path().join("a");
    let none = dir.path().join("none");
    succeeds(sample(&none, &["-p", "a star", "--save", "none"]));
    let nowhere = dir.path().join("nowhere");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).expect("a folder");
    // What others left is not written over; what the same command left is.
    let (claimed, tables) = (dir.path().join("claimed"), dir.path().join("tables"));
    fs::create_dir(&claimed).expect("a folder");
    fs::write(claimed.join("runs.jsonl"), "").expect("written");
    let clip = [text(&a), "--reward", "clip", "-o", text(&tables)];
    let table = succeeds(eval(&clip));
    assert_eq!(succeeds(eval(&clip)), table);
    // Damaged tables are written anew; how the program is run does not matter, nor how a path is written.
    fs::write(tables.join("summary.json"), "garbage").expect("written");
    fs::remove_file(tables.join("table.csv")).expect("removed");
    let other = format!("{}/./tables/", text(dir.path()));
    succeeds(eval(&[
        "-o",
        &other,
        "--reward",
        "clip",
        "--threads",
        "1",
        "--json",
        &format!("{}/.", text(&a)),
    ]));
    json(&fs::read_to_string(tables.join("summary.json")).expect("a summary"));
    assert!(tables.join("table.csv").exists());
    // Of the same name in another folder are other pictures.
    let there = dir.path().join("there");
    fs::create_dir(&there).expect("a folder");
    succeeds(sample(&there.join("a"), &["-p", "a star"]));
    let mut elsewhere = program();
    elsewhere.current_dir(&there).args(["eval", "a", "--reward", "clip", "-o", text(&tables)]);
    fails(elsewhere.output().expect("the program"), 2, &["another evaluation: runs differs"]);
    let mut beside = program();
    beside.current_dir(&there).args(["eval", "../a", "--reward", "clip", "-o", text(&tables)]);
    succeeds(beside.output().expect("the program"));
    #[cfg(unix)]
    {
        // By another path it is the same program.
        let other = dir.path().join("other");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_das-cuda"), &other).expect("a link");
        succeeds(std::process::Command::new(other).arg("eval").args(clip).output().expect("the program"));
    }
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&[text(&nowhere)], 1, &["nowhere"]),
        (&[text(&empty)], 2, &["no run in it"]),
        (&[text(&none)], 2, &["not saved", "--save none"]),
        (&[text(&a), "--tce", "0"], 2, &["--tce 0"]),
        (&[text(&a), "--reward", "gold", "--reward", "gold"], 2, &["gold is given twice", "give it once"]),
        (&[text(&a), "-o", text(&claimed)], 2, &["--output", "claimed holds runs.jsonl, and no eval.json"]),
        (
            &[text(&a), "--reward", "gold", "-o", text(&tables)],
            2,
            &[
                "another evaluation: --reward differs ([\"clip\"] there, [\"gold\"] now)",
                "eval",
                "--reward clip",
            ],
        ),
        (&[text(&a), "--reward", "gold=2"], 2, &["gold=2", "weight"]),
        (&[text(&a), "--reward", "nobody"], 2, &["nobody"]),
        (&[text(&a), "--reward", "pickscore", "--offline"], 3, &["pickscore"]),
    ];
    for (args, code, words) in cases {
        fails(eval(args), *code, words);
    }
    // Nor does merge write over a table that is not its own, or eval over that of merge.
    fs::remove_file(claimed.join("runs.jsonl")).expect("removed");
    for name in ["table.csv", "table.md", "scores.jsonl", "front.svg", "figure.png", "toy.json"] {
        fs::write(claimed.join(name), "mine").expect("written");
        let gold = ["--reward", "gold", "-o", text(&claimed)];
        fails(eval(&[&[text(&a)], &gold[..]].concat()), 2, &[&format!("claimed holds {name}")]);
        assert_eq!(fs::read(claimed.join(name)).expect("it is there"), b"mine");
        fs::remove_file(claimed.join(name)).expect("removed");
    }
    fs::write(claimed.join("eval.json"), "[]").expect("written");
    let gold = [text(&a), "--reward", "gold", "-o", text(&claimed)];
    fails(eval(&gold), 1, &["eval.json: is damaged: it has no design"]);
    // An evaluation has no pictures.
    fails(
        eval(&[text(&tables), "--reward", "gold"]),
        2,
        &["tables", "no run in it", "evaluations are not judged"],
    );
    fs::write(a.join("summary.json"), "{}").expect("written");
    fails(run(&["merge", text(&a)]), 2, &["table.csv is the table of another command", "summary.json"]);
    fs::write(a.join(&folders(&a)[0]).join("best.png"), "no picture").expect("written");
    fails(eval(&[text(&a), "--reward", "gold"]), 1, &["best.png"]);
}
