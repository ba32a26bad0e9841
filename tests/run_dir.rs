//! What a run leaves on disk, read back by others: the png and image crates, serde_json.

use std::fs;
use std::path::Path;

use das_cuda::ErrorKind;
use das_cuda::pixels::Picture;
use das_cuda::run::{
    Parameters, ParticleLine, RunDir, SCHEMA, Status, TraceLine, encode_png, read_parameters, sha256_file,
};
use serde_json::{Value, json};

fn picture() -> Picture {
    Picture::new(5, 3, (0..45).map(|i| (i * 5) as u8).collect())
}

fn parameters(prompt: &str) -> Parameters {
    Parameters {
        prompt: prompt.into(),
        negative_prompt: "blurry".into(),
        fields: vec![("Steps".into(), "50".into()), ("Model".into(), "a, \"b\": c\n d".into())],
        das: json!({"prompt": prompt, "seed": 42, "note": "DAS: {\n"}),
    }
}

/// What a decoder that is not ours finds: pixels, and the chunk as tEXt or as iTXt.
fn decode(png: &[u8]) -> (Vec<u8>, Option<String>, Option<String>) {
    let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((frame.color_type, frame.bit_depth), (png::ColorType::Rgb, png::BitDepth::Eight));
    let info = reader.info();
    let latin =
        info.uncompressed_latin1_text.iter().find(|c| c.keyword == "parameters").map(|c| c.text.clone());
    let unicode = info.utf8_text.iter().find(|c| c.keyword == "parameters").map(|c| c.get_text().unwrap());
    (pixels, latin, unicode)
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
        let (pixels, text, unicode) = decode(&png);
        assert_eq!(pixels, picture().rgb);
        assert_eq!((text.is_some(), unicode.is_some()), (latin, !latin), "{prompt:.20}");
        let text = text.or(unicode).unwrap();
        assert_eq!(text, parameters(prompt).text());
        assert!(text.starts_with(&format!("{prompt}\nNegative prompt: blurry\nSteps: 50, Model: \"a, ")));
        // The last field is the record.
        let (_, record) = text.rsplit('\n').next().unwrap().split_once(", DAS: ").unwrap();
        assert_eq!(serde_json::from_str::<Value>(record).unwrap(), parameters(prompt).das);
        // And our own reader agrees, through a file.
        fs::write(&path, &png).unwrap();
        let read = read_parameters(&path).unwrap().unwrap();
        assert_eq!(Parameters::prompt_in(&read).as_deref(), Some(prompt));
        assert_eq!(Picture::read(&path).unwrap(), picture());
    }
}

#[test]
fn a_nul_in_a_prompt_does_not_cost_the_picture() {
    let png = encode_png(&picture(), Some(&parameters("a\0b"))).unwrap();
    assert!(decode(&png).1.unwrap().starts_with("ab\n"));
}

#[test]
fn without_metadata_a_png_says_nothing() {
    let png = encode_png(&picture(), None).unwrap();
    let (pixels, text, unicode) = decode(&png);
    assert_eq!((pixels, text, unicode), (picture().rgb, None, None));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    fs::write(&path, png).unwrap();
    assert_eq!(read_parameters(&path).unwrap(), None);
    fs::write(&path, "no PNG").unwrap();
    assert_eq!(read_parameters(&path).unwrap(), None);
}

#[test]
fn prompts_of_other_programs_are_found() {
    let text = "a cat\nNegative prompt: dogs\nSteps: 20, Sampler: Euler a, CFG scale: 7";
    assert_eq!(Parameters::prompt_in(text).as_deref(), Some("a cat"));
    assert_eq!(Parameters::prompt_in("a cat\nSteps: 20, Seed: 1").as_deref(), Some("a cat"));
    assert_eq!(Parameters::prompt_in("something else"), None);
}

#[test]
fn a_run_is_written_line_by_line_and_never_replaced_unasked() {
    let out = tempfile::tempdir().unwrap();
    let run = RunDir::new(out.path(), 7, "A photo of a/cat \u{1f600}");
    assert_eq!(run.path(), out.path().join("0007-a-photo-of-a-cat"));
    run.start(false).unwrap();
    run.write_run(Status::Running, &json!({"prompt": "A photo", "seed": 42})).unwrap();

    let trace = run.path().join("trace.jsonl");
    let mut lines = run.trace().unwrap();
    for step in 0..3 {
        lines
            .push(&TraceLine { step, log_weights: vec![f64::NEG_INFINITY], ..TraceLine::default() })
            .unwrap();
        // Whole lines are there before the run ends.
        let text = fs::read_to_string(&trace).unwrap();
        assert!(text.ends_with('\n'));
        let parsed: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(parsed.len(), step + 1);
        assert_eq!(parsed[step]["log_weights"], json!([null]));
    }

    let hash = run.write_png(&RunDir::particle_name(0), &picture(), None).unwrap();
    assert_eq!(hash, sha256_file(&run.path().join("particles/000.png")).unwrap());
    let line =
        ParticleLine { path: Some(RunDir::particle_name(0)), is_best: true, ..ParticleLine::default() };
    run.write_particles(&[line]).unwrap();
    let text = fs::read_to_string(run.path().join("particles.jsonl")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(text.trim_end()).unwrap()["path"], "particles/000.png");

    // A killed or failed run is no result; a finished or interrupted one is.
    RunDir::new(out.path(), 7, "A photo of a/cat").check(false).unwrap();
    run.write_run(Status::Failed, &json!({"seed": 42})).unwrap();
    run.check(false).unwrap();
    for status in [Status::Finished, Status::Interrupted] {
        run.write_run(status, &json!({"seed": 42})).unwrap();
        let error = run.start(false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        let text = error.to_string();
        assert!(
            text.contains("0007-a-photo") && text.contains("`output`") && text.contains("`overwrite`"),
            "{text}"
        );
        assert!(run.path().join("particles/000.png").exists(), "a refusal touches nothing");
    }

    // Overwriting removes what is ours and nothing else.
    fs::write(run.path().join("notes.txt"), "mine").unwrap();
    fs::write(run.path().join("particles/cat.png"), "mine").unwrap();
    run.start(true).unwrap();
    let mut left: Vec<String> = fs::read_dir(run.path())
        .unwrap()
        .chain(fs::read_dir(run.path().join("particles")).unwrap())
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["cat.png", "notes.txt", "particles"]);
}

#[test]
fn run_json_carries_schema_and_status_first_and_the_record_in_order() {
    let out = tempfile::tempdir().unwrap();
    let run = RunDir::new(out.path(), 0, "x");
    run.start(false).unwrap();
    run.write_run(Status::Finished, &json!({"zeta": 1, "alpha": f64::NAN, "prompt": "\u{1f600}/\n"}))
        .unwrap();
    let text = fs::read_to_string(run.path().join("run.json")).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap();
    let record =
        json!({"schema": SCHEMA, "status": "finished", "zeta": 1, "alpha": null, "prompt": "\u{1f600}/\n"});
    assert_eq!(value, record);
    let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["schema", "status", "zeta", "alpha", "prompt"]);
}

#[test]
fn an_output_that_cannot_be_written_names_the_option() {
    let out = tempfile::tempdir().unwrap();
    // A file where the directory should be: holds for every user, root too.
    let blocked = out.path().join("file");
    fs::write(&blocked, "").unwrap();
    let run = RunDir::new(&blocked, 0, "a star");
    for error in [run.probe().unwrap_err(), run.start(false).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Io);
        let text = error.to_string();
        assert!(text.contains("0000-a-star") && text.contains("`output`"), "{text}");
    }
    assert!(!Path::new(&blocked).is_dir());
}

#[test]
fn a_probe_leaves_nothing_behind() {
    let out = tempfile::tempdir().unwrap();
    RunDir::new(&out.path().join("not/there"), 0, "a star").probe().unwrap();
    RunDir::new(out.path(), 0, "a star").probe().unwrap();
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}
