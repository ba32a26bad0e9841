//! What a run leaves on disk, read back by others: the png and image crates, serde_json.

use std::fs;
use std::path::Path;

use das_cuda::ErrorKind;
use das_cuda::pixels::Picture;
use das_cuda::run::{
    Listing, OutDir, Parameters, ParticleLine, RunDir, Status, encode_png, prompt_in, read_prompt,
    read_texts, sha256_file,
};
use das_cuda::sampler::PromptStep;
use serde_json::{Value, json};

fn picture() -> Picture {
    Picture::new(5, 3, (0..45).map(|i| (i * 5) as u8).collect())
}

fn parameters(prompt: &str) -> Parameters {
    Parameters {
        prompt: prompt.into(),
        negative_prompt: "blurry".into(),
        fields: vec![("Steps".into(), "50".into()), ("Model".into(), "a, \"b\": c\n d".into())],
        record: json!({"prompt": prompt, "seed": 42, "note": "nul \0, DAS: {\n"}),
    }
}

/// What a decoder that is not ours finds.
struct Decoded {
    pixels: Vec<u8>,
    /// The chunk `parameters`, if it is tEXt.
    latin: Option<String>,
    /// The chunk `parameters`, if it is iTXt.
    unicode: Option<String>,
    /// The chunk `das-cuda`, if it is iTXt.
    record: Option<String>,
}

fn decode(png: &[u8]) -> Decoded {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((frame.color_type, frame.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    let info = reader.info();
    let latin =
        info.uncompressed_latin1_text.iter().find(|c| c.keyword == "parameters").map(|c| c.text.clone());
    let itxt = |keyword| info.utf8_text.iter().find(|c| c.keyword == keyword).map(|c| c.get_text().unwrap());
    Decoded { pixels, latin, unicode: itxt("parameters"), record: itxt("das-cuda") }
}

#[test]
fn a_png_says_how_it_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    let long = "a star / ".repeat(600);
    for (prompt, latin) in [
        ("a red star", true),
        ("un caf\u{e9} \u{ff}", true),
        ("\u{2b50} a star \u{1f600}", false),
        ("two\nlines, Steps: 3\nNegative prompt: no", true),
        (long.as_str(), true),
    ] {
        let png = encode_png(&picture(), Some(&parameters(prompt))).unwrap();
        let found = decode(&png);
        assert_eq!(found.pixels, picture().rgb);
        assert_eq!((found.latin.is_some(), found.unicode.is_some()), (latin, !latin), "{prompt:.20}");
        let text = found.latin.or(found.unicode).unwrap();
        assert_eq!(text, parameters(prompt).text());
        // Nothing stands on the last line but fields, quoted where they need it.
        let fields = "Steps: 50, Model: \"a, \\\"b\\\": c  d\"";
        assert_eq!(text, format!("{prompt}\nNegative prompt: blurry\n{fields}"));
        let record: Value = serde_json::from_str(&found.record.unwrap()).unwrap();
        assert_eq!(record, parameters(prompt).record);
        // And our own reader agrees, through a file.
        fs::write(&path, &png).unwrap();
        let read = read_texts(&path).unwrap();
        assert_eq!((read.parameters, read.record), (Some(text), Some(record)));
        assert_eq!(read_prompt(&path).unwrap().as_deref(), Some(prompt));
        assert_eq!(Picture::read(&path).unwrap(), picture());
    }
}

#[test]
fn a_nul_in_a_prompt_does_not_cost_the_picture() {
    let png = encode_png(&picture(), Some(&parameters("a\0b"))).unwrap();
    assert!(decode(&png).latin.unwrap().starts_with("ab\n"));
}

/// PNG allows no control characters in a text but line breaks; what was typed stays in the record.
#[test]
fn control_characters_of_a_prompt_become_spaces() {
    let prompt = "a\tb\rc\u{1b}[1m\r\nd\u{85}";
    let found = decode(&encode_png(&picture(), Some(&parameters(prompt))).unwrap());
    let text = found.latin.unwrap();
    assert!(text.starts_with("a b c [1m\nd \nNegative prompt: "), "{text:?}");
    let record: Value = serde_json::from_str(&found.record.unwrap()).unwrap();
    assert_eq!(record["prompt"], prompt);
}

#[test]
fn without_metadata_a_png_says_nothing() {
    let png = encode_png(&picture(), None).unwrap();
    let found = decode(&png);
    assert_eq!(found.pixels, picture().rgb);
    assert_eq!((found.latin, found.unicode, found.record), (None, None, None));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    fs::write(&path, png).unwrap();
    assert_eq!(read_prompt(&path).unwrap(), None);
    fs::write(&path, "no PNG").unwrap();
    assert_eq!(read_prompt(&path).unwrap(), None);
}

#[test]
fn prompts_of_other_programs_are_found() {
    let fields = "Steps: 20, Sampler: Euler a, CFG scale: 7";
    for (text, prompt) in [
        (format!("a cat\nNegative prompt: dogs\n{fields}"), "a cat"),
        ("a cat\nSteps: 20, Seed: 1".into(), "a cat"),
        // No prompt, with and without a negative one.
        (fields.into(), ""),
        (format!("Negative prompt: dogs\n{fields}"), ""),
        // Several lines, with what resembles fields in them.
        (
            format!("a cat, Steps: 3\n on a mat \nNegative prompt: dogs\nand mice\n{fields}"),
            "a cat, Steps: 3\non a mat",
        ),
        // Windows' line ends; fields of forks and of uploads, with lists and quotes.
        (format!("a cat\r\nNegative prompt: dogs\r\n{fields}"), "a cat"),
        (
            format!(
                "a cat\n{fields}, Lora hashes: \"a: 1, b: 2\", Civitai resources: [{{\"type\":\"lora\"}}]"
            ),
            "a cat",
        ),
        ("a cat\nCFG scale: 7, Seed: 1, Size: 8x8".into(), "a cat"),
        // Nothing but a prompt.
        ("something else".into(), "something else"),
        ("one, two: three".into(), "one, two: three"),
        // Forks that write JSON.
        ("{\"sui_image_params\": {\"prompt\": \"a cat\", \"steps\": 20}}".into(), "a cat"),
        ("{\"prompt\": \"a cat\", \"seed\": 1}".into(), "a cat"),
    ] {
        assert_eq!(prompt_in(&text).as_deref(), Some(prompt), "{text}");
    }
    assert_eq!(prompt_in("{\"workflow\": {}}"), None);
}

/// A folder with `run.json` of this status.
fn left_by(run: &RunDir, status: Status) {
    run.write_run(status, &json!({"seed": 42})).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_run_is_written_line_by_line() {
    let out = tempfile::tempdir().unwrap();
    let run = OutDir::new(out.path()).claim(7, "A photo of a/cat \u{1f600}").unwrap();
    assert_eq!(run.path(), out.path().join("0007-a-photo-of-a-cat"));
    run.write_run(Status::Running, &json!({"prompt": "A photo", "seed": 42})).unwrap();

    let trace = run.path().join("trace.jsonl");
    let mut lines = run.trace().unwrap();
    for step in 0..3 {
        let log_weights = vec![f64::NEG_INFINITY];
        let mut prompt = PromptStep::default();
        (prompt.log_weights, prompt.ess) = (log_weights, 0.1 + 0.2);
        lines.push(&prompt).unwrap();
        // Whole lines are there before the run ends.
        let text = fs::read_to_string(&trace).unwrap();
        assert!(text.ends_with('\n'));
        let parsed: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(parsed.len(), step + 1);
        assert_eq!(parsed[step]["log_weights"], json!([null]));
        assert_eq!(parsed[step]["ess"].as_f64(), Some(0.1 + 0.2), "floats survive the file");
    }

    let hash = run.write_png(&RunDir::particle_name(0), &picture(), None).unwrap();
    assert_eq!(hash, sha256_file(&run.path().join("particles/000.png")).unwrap());
    let line =
        ParticleLine { path: Some(RunDir::particle_name(0)), is_best: true, ..ParticleLine::default() };
    run.write_particles(&[line]).unwrap();
    let text = fs::read_to_string(run.path().join("particles.jsonl")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(text.trim_end()).unwrap()["path"], "particles/000.png");
    assert_eq!(run.close().unwrap(), out.path().join("0007-a-photo-of-a-cat"));
}

#[test]
fn runs_number_on_and_never_share_a_folder() {
    let out = tempfile::tempdir().unwrap();
    let dir = OutDir::new(out.path());
    let claim = |number, prompt: &str| {
        let run = dir.claim(number, prompt).unwrap();
        run.path().file_name().unwrap().to_str().unwrap().to_string()
    };
    assert_eq!(claim(0, "a star"), "0000-a-star");
    // Whatever became of it, and whatever the prompt.
    assert_eq!(claim(0, "a star"), "0001-a-star");
    assert_eq!(claim(0, "a ring"), "0002-a-ring");
    assert_eq!(claim(100, "a ring"), "0100-a-ring");
    assert_eq!(claim(7, "a ring"), "0007-a-ring");
    assert_eq!(claim(7, "a ring"), "0101-a-ring");
    // Names that are not of runs do not count.
    for name in ["9999", "x-a", "20000_a", "123-a"] {
        fs::create_dir(out.path().join(name)).unwrap();
    }
    assert_eq!(claim(7, "a ring"), "0102-a-ring");
    assert_eq!(claim(12345, "a ring"), "12345-a-ring");
    assert_eq!(claim(7, "a ring"), "12346-a-ring");
}

#[test]
fn runs_at_once_get_folders_of_their_own() {
    let out = tempfile::tempdir().unwrap();
    let dir = OutDir::new(&out.path().join("made/by/all"));
    let claims = std::thread::scope(|scope| {
        let claim = |prompt: &'static str| {
            let dir = dir.clone();
            scope.spawn(move || {
                (0..20).map(|_| dir.claim(0, prompt).unwrap().path().to_owned()).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = ["a", "a", "b", "c"].into_iter().map(claim).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let mut numbers: Vec<String> =
        claims.iter().map(|path| path.file_name().unwrap().to_str().unwrap()[..4].to_string()).collect();
    numbers.sort();
    assert_eq!(numbers, (0..80).map(|n| format!("{n:04}")).collect::<Vec<_>>());
}

#[test]
fn a_result_is_replaced_only_by_a_finished_one_and_files_of_the_user_stay() {
    let out = tempfile::tempdir().unwrap();
    let dir = OutDir::new(out.path());
    let folder = dir.folder(7, "a cat");
    // Nothing is there: the folder itself.
    let first = dir.replace(7, "a cat").unwrap();
    assert_eq!(first.path(), folder);
    left_by(&first, Status::Finished);
    for name in ["best.png", "grid.png", "latents.safetensors"] {
        fs::write(folder.join(name), "old").unwrap();
    }
    first.write_png(&RunDir::particle_name(3), &picture(), None).unwrap();
    assert_eq!(first.close().unwrap(), folder);
    drop(first);
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    fs::write(folder.join("particles/cat.png"), "mine").unwrap();

    // One that fails goes under the next number.
    let failed = dir.replace(7, "a cat").unwrap();
    assert_eq!(failed.final_path(), folder);
    left_by(&failed, Status::Failed);
    assert_eq!(fs::read(folder.join("best.png")).unwrap(), b"old", "before its end");
    assert_eq!(failed.close().unwrap(), dir.folder(8, "a cat"));
    drop(failed);
    assert_eq!(fs::read(folder.join("best.png")).unwrap(), b"old", "after a failure");

    // One that is killed leaves the old result, and its remains are taken away by the next.
    let killed = dir.replace(7, "a cat").unwrap();
    left_by(&killed, Status::Running);
    drop(killed);
    assert_eq!(fs::read(folder.join("best.png")).unwrap(), b"old", "after a kill");
    let second = dir.replace(7, "a cat").unwrap();
    assert_eq!(names(second.path()), [""; 0]);
    fs::write(second.path().join("best.png"), "new").unwrap();
    left_by(&second, Status::Finished);
    assert_eq!(second.close().unwrap(), folder);
    assert_eq!(names(&folder), ["best.png", "notes.txt", "particles", "run.json"]);
    assert_eq!(names(&folder.join("particles")), ["cat.png"]);
    assert_eq!(fs::read(folder.join("best.png")).unwrap(), b"new");
    assert_eq!(names(out.path()), ["0007-a-cat", "0008-a-cat"]);

    // An earlier run that is no result is replaced even by a failure.
    let third = dir.replace(8, "a cat").unwrap();
    left_by(&third, Status::Interrupted);
    assert_eq!(third.close().unwrap(), dir.folder(8, "a cat"));
    assert_eq!(names(out.path()), ["0007-a-cat", "0008-a-cat"]);
    // A file with a number is no run's folder.
    fs::write(out.path().join("0009-notes"), "mine").unwrap();
    assert_eq!(
        dir.listing()
            .and_then(|all| all.results())
            .expect("a list")
            .runs
            .into_iter()
            .map(|(path, _)| path)
            .collect::<Vec<_>>(),
        std::slice::from_ref(&folder)
    );
    // By the prompt that a folder is named after, and of one number.
    let found = |listing: Listing, prompt: &str| listing.results_of(prompt).expect("a list").runs.len();
    assert_eq!(
        (found(dir.listing().expect("a list"), "A cat!"), found(dir.listing().expect("a list"), "a dog")),
        (1, 0)
    );
    assert_eq!(
        (found(dir.listing_of(7, "a cat"), "a cat"), found(dir.listing_of(8, "a cat"), "a cat")),
        (1, 0)
    );
}

/// Where the process ended between the two renames of an exchange, or before the old files were gone.
#[test]
fn an_exchange_of_folders_that_was_cut_off_is_ended_by_the_next_run() {
    let out = tempfile::tempdir().unwrap();
    let dir = OutDir::new(out.path());
    let (folder, aside) = (dir.folder(0, "a"), out.path().join(".0000-a.old"));
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("best.png"), "old").unwrap();
    drop(dir.replace(0, "a").unwrap());
    assert_eq!(fs::read(folder.join("best.png")).unwrap(), b"old");

    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("best.png"), "older").unwrap();
    fs::write(aside.join("notes.txt"), "mine").unwrap();
    drop(dir.replace(0, "a").unwrap());
    assert_eq!(names(&folder), ["best.png", "notes.txt"]);
    assert_eq!(fs::read(folder.join("best.png")).unwrap(), b"old");
    assert!(!aside.exists());
}

#[test]
fn a_folder_that_is_being_written_is_not_replaced() {
    let out = tempfile::tempdir().unwrap();
    let dir = OutDir::new(out.path());
    let refused = |number| {
        for error in [dir.replace(number, "a").unwrap_err(), dir.probe_replace(number, "a").unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Usage);
            let text = error.to_string();
            assert!(
                text.contains("-a") && text.contains("another run") && text.contains("`output`"),
                "{text}"
            );
        }
    };
    let running = dir.claim(0, "a").unwrap();
    refused(0);
    drop(running);
    let replacing = dir.replace(0, "a").unwrap();
    refused(0);
    drop(replacing);
    dir.probe_replace(0, "a").unwrap();
    dir.replace(0, "a").unwrap();
}

#[test]
fn run_json_carries_its_status_first_and_the_record_in_order() {
    let out = tempfile::tempdir().unwrap();
    let run = OutDir::new(out.path()).claim(0, "x").unwrap();
    run.write_run(Status::Finished, &json!({"zeta": 1, "alpha": f64::NAN, "prompt": "\u{1f600}/\n"}))
        .unwrap();
    let text = fs::read_to_string(run.path().join("run.json")).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        value,
        json!({"schema": 1, "status": "finished", "zeta": 1, "alpha": null, "prompt": "\u{1f600}/\n"})
    );
    let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["schema", "status", "zeta", "alpha", "prompt"]);
}

#[test]
fn an_output_that_cannot_be_written_names_the_option() {
    let out = tempfile::tempdir().unwrap();
    // A file where the directory should be: holds for every user, root too.
    let blocked = out.path().join("file");
    fs::write(&blocked, "").unwrap();
    for blocked in [blocked.clone(), blocked.join("below"), out.path().join("x".repeat(300))] {
        let dir = OutDir::new(&blocked);
        for error in [
            dir.probe().unwrap_err(),
            dir.claim(0, "a star").unwrap_err(),
            dir.replace(0, "a star").unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Io);
            let text = error.to_string();
            assert!(text.contains(blocked.to_str().unwrap()) && text.contains("`output`"), "{text}");
        }
    }
    assert!(!Path::new(&blocked).is_dir());
}

#[test]
fn a_probe_leaves_nothing_behind() {
    let out = tempfile::tempdir().unwrap();
    OutDir::new(&out.path().join("not/there")).probe().unwrap();
    OutDir::new(out.path()).probe().unwrap();
    OutDir::new(out.path()).probe_replace(0, "a star").unwrap();
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}
