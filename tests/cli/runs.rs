//! Many runs: how they number on, how seeds and indices follow, what is kept and what is replaced.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::{fails, folders, json, lines, only_folder, program, record_of, sample, succeeds, text};

const PLAIN: [&str; 2] = ["--proposal", "none"];

fn best(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("best.png")).expect("best.png")
}

/// Particles without what is said about them.
fn particle(folder: &Path) -> image::RgbImage {
    image::open(folder.join("particles/001.png")).expect("a particle").into_rgb8()
}

#[test]
fn a_second_run_numbers_on() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let two = [&["-p", "a star", "-p", "a ring"], &PLAIN[..]].concat();
    succeeds(sample(&out, &two));
    let first = ["0000-a-star", "0001-a-ring"].map(|name| best(&out.join(name)));
    let printed = succeeds(sample(&out, &[&two[..], &["--seed", "7"]].concat()));
    let paths =
        ["0002-a-star", "0003-a-ring"].map(|f| format!("{}\n", out.join(f).join("best.png").display()));
    assert_eq!(printed, paths.concat());
    assert_eq!(folders(&out), ["0000-a-star", "0001-a-ring", "0002-a-star", "0003-a-ring"]);
    assert!(
        ["0000-a-star", "0001-a-ring"].map(|name| best(&out.join(name))) == first,
        "an earlier result changed"
    );
    // The index of a prompt is its place in the list, whatever the number of its folder.
    let indices = ["0002-a-star", "0003-a-ring"].map(|name| record_of(&out.join(name))["index"].clone());
    assert_eq!(indices, [0, 1]);
    assert!(particle(&out.join("0000-a-star")) != particle(&out.join("0002-a-star")));
}

#[test]
fn each_prompt_of_a_list_can_be_drawn_alone_and_any_split_gives_the_same() {
    let dir = TempDir::new().expect("a temporary folder");
    let (whole, parts) = (dir.path().join("whole"), dir.path().join("parts"));
    let das = ["--steps", "3"];
    succeeds(sample(&whole, &[&["-p", "a star", "-p", "a ring", "-p", "a cross"], &das[..]].concat()));
    // Out of order, and two together.
    let ring = ["-p", "a ring", "-p", "a cross", "--first-index", "1"];
    succeeds(sample(&parts, &[&ring[..], &das[..]].concat()));
    succeeds(sample(&parts, &[&["-p", "a star"], &das[..]].concat()));
    assert_eq!(folders(&whole), folders(&parts));
    for name in folders(&whole) {
        for file in ["best.png", "particles/000.png", "particles/001.png", "particles.jsonl"] {
            let read = |out: &Path| fs::read(out.join(&name).join(file)).expect("a file");
            assert!(read(&whole) == read(&parts), "{name}/{file}");
        }
    }
}

#[test]
fn a_count_draws_with_the_seeds_that_follow() {
    let dir = TempDir::new().expect("a temporary folder");
    let (many, alone) = (dir.path().join("many"), dir.path().join("alone"));
    let printed = succeeds(sample(
        &many,
        &[&["-p", "a star", "-p", "a ring", "--count", "2", "--json"], &PLAIN[..]].concat(),
    ));
    assert_eq!(folders(&many), ["0000-a-star", "0001-a-star", "0002-a-ring", "0003-a-ring"]);
    let answers: Vec<Value> = printed.lines().map(json).collect();
    let keys: Vec<_> = answers.iter().map(|a| (a["index"].as_u64(), a["seed"].as_u64())).collect();
    assert_eq!(keys, [(Some(0), Some(42)), (Some(0), Some(43)), (Some(1), Some(42)), (Some(1), Some(43))]);
    succeeds(sample(&alone, &[&["-p", "a ring", "--first-index", "1", "--seed", "43"], &PLAIN[..]].concat()));
    assert!(best(&many.join("0003-a-ring")) == best(&only_folder(&alone)));
    assert!(particle(&many.join("0002-a-ring")) != particle(&many.join("0003-a-ring")));
}

#[test]
fn a_seed_that_is_drawn_is_recorded_and_repeats_the_run() {
    let dir = TempDir::new().expect("a temporary folder");
    let (first, second, third) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("3"));
    succeeds(sample(&first, &[&["-p", "a star", "--seed", "-1"], &PLAIN[..]].concat()));
    let seed = record_of(&only_folder(&first))["seed"].to_string();
    succeeds(sample(&second, &[&["-p", "a star", "-s", &seed], &PLAIN[..]].concat()));
    assert!(best(&only_folder(&first)) == best(&only_folder(&second)));
    succeeds(sample(&third, &[&["-p", "a star", "--seed=-1"], &PLAIN[..]].concat()));
    assert_ne!(record_of(&only_folder(&third))["seed"].to_string(), seed);
}

#[test]
fn finished_results_are_not_drawn_again_if_asked() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    fn list<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["-p", "a star", "-p", "a ring", "--eval-reward", "gold"], &PLAIN[..], more].concat()
    }
    let json_of = |more: &[&str]| succeeds(sample(&out, &list(&[&["--json"], more].concat())));
    succeeds(sample(&out, &[&["-p", "a star", "--eval-reward", "gold"], &PLAIN[..]].concat()));
    let told = json_of(&["--skip-finished"]);
    assert_eq!(folders(&out), ["0000-a-star", "0001-a-ring"]);
    // Told again from the files, it is what was told at first.
    let again = json_of(&["--skip-finished"]);
    assert_eq!(folders(&out), ["0000-a-star", "0001-a-ring"]);
    assert_eq!(told, again);
    assert_eq!(json(again.lines().next().expect("a line"))["folder"], text(&out.join("0000-a-star")));
    let paths = succeeds(sample(&out, &list(&["--skip-finished"])));
    assert_eq!(paths.lines().last(), Some(text(&out.join("0001-a-ring/best.png"))));
    let all = succeeds(sample(&out, &list(&["--skip-finished", "--select", "all"])));
    assert_eq!(folders(&out).len(), 4, "another choice is another result: {all}");
    let other = succeeds(sample(&out, &list(&["--skip-finished", "--seed", "7"])));
    assert_eq!(folders(&out).len(), 6, "another seed is another result: {other}");
}

/// A directory that cannot be listed is an error: where its folders are not known, none can be made.
#[test]
fn a_directory_that_cannot_be_listed_is_named() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    succeeds(sample(&out, &[&["-p", "a star"], &PLAIN[..]].concat()));
    // Fewer open files than listing takes.
    let program = program().get_program().to_owned();
    let line = "ulimit -n 4; exec \"$0\" sample -p 'a star' --proposal none -o \"$1\"";
    let output = Command::new("sh").arg("-c").arg(line).arg(program).arg(&out).output().expect("a shell");
    fails(output, 1, &[text(&out)]);
}

#[test]
fn a_finished_result_whose_files_are_damaged_is_named() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let star = [&["-p", "a star", "--skip-finished"], &PLAIN[..]].concat();
    succeeds(sample(&out, &star));
    let lines = out.join("0000-a-star/particles.jsonl");
    let whole = fs::read_to_string(&lines).expect("lines");
    let shortened = whole.replacen("\"weight\"", "\"wait\"", 1);
    let first = &whole[..=whole.find('\n').expect("a line")];
    let half = &whole[..whole.len() / 2 + 1];
    for damaged in ["", "not JSON\n", "[]\n", "{}\n", first, half, shortened.as_str()] {
        fs::write(&lines, damaged).expect("written");
        fails(sample(&out, &star), 1, &[text(&lines), "--skip-finished"]);
    }
    fs::write(&lines, &whole).expect("written");
    succeeds(sample(&out, &star));
    assert_eq!(folders(&out), ["0000-a-star"]);
}

/// The picture of a finished result may have its file already; another file of that name stays.
#[test]
fn a_named_picture_goes_on_like_a_directory() {
    let dir = TempDir::new().expect("a temporary folder");
    // In a folder that is made with it.
    let picture = dir.path().join("new/folder/star.png");
    let star = [&["-p", "a star", "--skip-finished"], &PLAIN[..]].concat();
    for _ in 0..2 {
        assert_eq!(succeeds(sample(&picture, &star)), format!("{}\n", picture.display()));
    }
    let out = picture.with_extension("");
    let whole = fs::read(&picture).expect("a picture");
    assert!(folders(&out) == ["0000-a-star"] && whole == best(&out.join("0000-a-star")));
    fs::remove_file(&picture).expect("removed");
    succeeds(sample(&picture, &star));
    assert!(fs::read(&picture).expect("a picture") == whole);
    fs::write(&picture, "mine").expect("written");
    for more in [&[][..], &["--seed", "7"]] {
        fails(sample(&picture, &[&star[..], more].concat()), 2, &["is there already", text(&picture)]);
        assert_eq!(fs::read(&picture).expect("kept"), b"mine");
    }
    assert_eq!(folders(&out), ["0000-a-star"]);
}

#[test]
fn what_is_saved_is_what_was_asked_for() {
    let dir = TempDir::new().expect("a temporary folder");
    let left = |save: &str| {
        let out = dir.path().join(save);
        succeeds(sample(&out, &[&["-p", "a star", "--save", save], &PLAIN[..]].concat()));
        folders(&only_folder(&out))
    };
    let records = ["particles.jsonl", "run.json", "trace.jsonl"];
    assert_eq!(left("none"), records);
    assert_eq!(left("best"), [&["best.png"], &records[..]].concat());
    let all = ["best.png", "grid.png", "particles", "particles.jsonl", "run.json", "trace.jsonl"];
    assert_eq!(left("all"), all);
}

#[test]
fn a_micro_batch_larger_than_all_particles_is_noted() {
    let dir = TempDir::new().expect("a temporary folder");
    let said = |batch: &str| {
        let args = [&["-p", "a star", "--micro-batch", batch], &PLAIN[..]].concat();
        let output = program().args(super::arguments(&dir.path().join(batch), &args)).output();
        String::from_utf8_lossy(&output.expect("the program starts").stderr).into_owned()
    };
    assert!(said("64").contains("--micro-batch 64: there are 2 particles"));
    assert!(!said("2").contains("--micro-batch"));
}

#[test]
fn a_finished_result_that_has_lost_a_file_is_named() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let star = [&["-p", "a star", "--save-latents", "--skip-finished"], &PLAIN[..]].concat();
    succeeds(sample(&out, &star));
    for name in ["best.png", "particles/000.png", "particles/001.png", "latents.safetensors"] {
        let path = out.join("0000-a-star").join(name);
        let whole = fs::read(&path).expect("a file");
        fs::remove_file(&path).expect("removed");
        fails(sample(&out, &star), 1, &[text(&path), "--skip-finished"]);
        fs::write(&path, "").expect("written");
        fails(sample(&out, &star), 1, &[text(&path), "--skip-finished"]);
        fs::write(&path, whole).expect("written");
    }
    succeeds(sample(&out, &star));
    assert_eq!(folders(&out), ["0000-a-star"]);
}

#[test]
fn a_record_that_is_no_json_is_said_not_to_count() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let star = [&["-p", "a star", "--skip-finished"], &PLAIN[..]].concat();
    succeeds(sample(&out, &star));
    let record = out.join("0000-a-star/run.json");
    let whole = fs::read(&record).expect("run.json");
    for (count, damaged) in [&whole[..whole.len() / 2], b"", b"[]"].into_iter().enumerate() {
        fs::write(&record, damaged).expect("written");
        let output = sample(&out, &[&star[..], &["--seed", &count.to_string()]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.starts_with("warning: ") && said.contains(text(&record)), "{said}");
        succeeds(output);
        assert_eq!(folders(&out).len(), 2 + count, "drawn into a folder of its own");
    }
}

#[test]
fn an_earlier_result_is_replaced_only_if_asked_and_only_by_a_result() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let star = [&["-p", "a star"], &PLAIN[..]].concat();
    succeeds(sample(&out, &star));
    let folder = out.join("0000-a-star");
    fs::write(folder.join("notes.txt"), "mine").expect("written");
    let old = best(&folder);
    let lost = sample(&out, &["-p", "a star", "--kl", "1e-40", "--max-shift", "inf", "--overwrite"]);
    fails(lost, 5, &["every particle was lost"]);
    assert!(best(&folder) == old && record_of(&folder)["status"] == "finished");
    assert_eq!(record_of(&out.join("0001-a-star"))["status"], "failed");
    let printed = succeeds(sample(&out, &[&star[..], &["--seed", "7", "--overwrite"]].concat()));
    assert_eq!(printed, format!("{}\n", folder.join("best.png").display()));
    assert!(best(&folder) != old && record_of(&folder)["seed"] == 7);
    assert_eq!(fs::read_to_string(folder.join("notes.txt")).expect("kept"), "mine");
    assert_eq!(folders(&out), ["0000-a-star", "0001-a-star"]);
}

/// Both runs are at work together: each has two prompts, and neither waits for the other.
#[test]
fn two_runs_into_one_directory_do_not_mix() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("out");
    let run = |seed: &'static str| {
        let args = super::arguments(&out, &["-p", "a star", "-p", "a ring", "-q", "--seed", seed]);
        std::thread::spawn(move || program().args(args).output().expect("the program starts"))
    };
    let printed = [run("1"), run("2")].map(|run| succeeds(run.join().expect("no panic")));
    assert_eq!(folders(&out).len(), 4);
    for (seed, printed) in ["1", "2"].into_iter().zip(printed) {
        assert_eq!(printed.lines().count(), 2);
        for path in printed.lines() {
            let folder = Path::new(path).parent().expect("a folder");
            let record = record_of(folder);
            assert_eq!(
                (record["status"].as_str(), record["seed"].to_string().as_str()),
                (Some("finished"), seed)
            );
            assert_eq!(super::record::das(Path::new(path))["seed"], record["seed"]);
            let hashed = lines(&folder.join("particles.jsonl"));
            for line in hashed {
                let file = folder.join(line["path"].as_str().expect("a path"));
                assert_eq!(line["sha256"], das_cuda::run::sha256_file(&file).expect("a hash"));
            }
        }
    }
}

/// The cost of the guided method is counted whatever the chain: this method needs no noise.
#[test]
fn best_of_n_runs_along_a_chain_without_noise() {
    let dir = TempDir::new().expect("a temporary folder");
    let chains = |name: &str, eta: &str| {
        let out = dir.path().join(name);
        succeeds(sample(&out, &["-p", "a star", "--proposal", "best-of-n", "--eta", eta]));
        record_of(&only_folder(&out))["chains"].as_u64()
    };
    assert_eq!(chains("none", "0"), chains("some", "0.5"));
}

/// An error bar is told where it is one.
#[test]
fn the_error_of_log_z_is_unknown_where_it_cannot_be_known() {
    let dir = TempDir::new().expect("a temporary folder");
    let error = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let answer = json(&succeeds(sample(&out, &[&["-p", "a star", "--json"], more].concat())));
        assert!(answer["log_z"].is_number());
        let error = answer["log_z_error"].clone();
        assert_eq!(answer["log_z_unreliable"].is_string(), error.is_null(), "{name}: null with a reason");
        error
    };
    let particles = ["--proposal", "none", "--particles", "8"];
    // A weak reward makes weights that scatter little.
    let weak = error("weak", &[&particles[..], &["--reward", "gold=0.01"]].concat());
    assert!(weak.as_f64().is_some_and(|e| 0.0 < e && e < 0.5), "{weak}");
    let strong = error("strong", &[&particles[..], &["--reward", "gold=1000"]].concat());
    assert!(strong.is_null(), "{strong}: one weight is all");
    // Several populations tell it from how they scatter, if what they have met says anything.
    let several =
        |name, gold| error(name, &[&particles[..], &["--populations", "3", "--reward", gold]].concat());
    let weak = several("weak populations", "gold=0.01");
    assert!(weak.as_f64().is_some_and(|e| 0.0 < e && e < 0.5), "{weak}");
    assert!(several("strong populations", "gold=1000").is_null());
    assert!(error("best", &["--proposal", "best-of-n", "--reward", "gold=0.01"]).is_null());
    assert!(error("one", &["--particles", "1"]).is_null());
}
