use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::error::{ErrorKind, Result};
use crate::model::files::Source;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizer")
}

/// A folder with the small vocabulary of the golden files, and more files beside it.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(golden().join(name), dir.path().join(name)).unwrap();
    }
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn open(dir: &TempDir, max_positions: usize) -> Result<Tokenizer> {
    Tokenizer::open(&Source::Dir(dir.path().to_path_buf()), "", max_positions)
}

#[track_caller]
fn fails(files: &[(&str, &str)], words: &[&str]) {
    let error = open(&folder(files), 77).expect_err("must fail");
    assert_eq!(error.kind(), ErrorKind::Model);
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
    }
}

#[test]
fn ids_are_those_of_transformers_for_every_text_and_configuration() {
    let document: Value =
        serde_json::from_slice(&std::fs::read(golden().join("cases.json")).unwrap()).unwrap();
    let texts = document["texts"].as_array().unwrap();
    for group in document["groups"].as_array().unwrap() {
        let files: Vec<(&str, String)> =
            group["files"].as_object().unwrap().iter().map(|(n, v)| (n.as_str(), v.to_string())).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(n, t)| (*n, t.as_str())).collect();
        let tokenizer = open(&folder(&files), 77).unwrap();
        let pad = group["pad"].as_u64().unwrap() as u32;
        for (text, case) in texts.iter().zip(group["cases"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let ids: Vec<u32> =
                case["ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
            let place = format!("{}: {:?}", group["name"], text.chars().take(60).collect::<String>());
            let total = tokenizer.tokenize(text).len() + 2;
            let tokens = tokenizer.encode(text);
            let padded = ids.iter().copied().chain(std::iter::repeat(pad)).take(77);
            assert_eq!(tokens.ids, padded.collect::<Vec<_>>(), "{place}");
            assert_eq!(total as u64, case["total"].as_u64().unwrap(), "{place}");
            assert_eq!(tokens.dropped.map_or(0, |d| d.tokens), total.saturating_sub(77), "{place}");
        }
    }
}

#[test]
fn the_whole_file_gives_the_same_ids_as_the_pair() {
    let pair = open(&folder(&[]), 77).unwrap();
    let vocab: Value = serde_json::from_slice(&std::fs::read(golden().join("vocab.json")).unwrap()).unwrap();
    let merges = std::fs::read_to_string(golden().join("merges.txt")).unwrap();
    let lines: Vec<&str> = merges.lines().skip(1).collect();
    let pairs: Vec<Vec<&str>> = lines.iter().map(|l| l.split(' ').collect()).collect();
    for merges in [serde_json::json!(lines), serde_json::json!(pairs)] {
        let json = serde_json::json!({
            "model": {"type": "BPE", "vocab": vocab, "merges": merges},
            "added_tokens": [{"id": 813, "content": "<|endoftext|>", "special": true, "normalized": false}],
        });
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        let whole = open(&dir, 77).unwrap();
        for text in ["a photo of a cat", "Crème brûlée, 8k <|endoftext|> x", ""] {
            assert_eq!(whole.encode(text), pair.encode(text));
        }
    }
}

#[test]
fn what_is_dropped_is_told_in_words() {
    let tokenizer = open(&folder(&[]), 8).unwrap();
    let tokens = tokenizer.encode("a photo of a cat, The Café  at dawn 😀");
    assert_eq!(tokens.ids.len(), 8);
    assert_eq!(tokens.ids[7], 813);
    let dropped = tokens.dropped.unwrap();
    assert_eq!(dropped.text, "the café at dawn 😀");
    assert_eq!(tokenizer.encode("a cat").dropped, None);
}

#[test]
fn the_context_is_the_smaller_of_file_and_model() {
    let context = |length: &str, model| {
        let config = format!("{{\"model_max_length\": {length}}}");
        open(&folder(&[("tokenizer_config.json", &config)]), model).unwrap().context()
    };
    assert_eq!(context("77", 77), 77);
    assert_eq!(context("16", 77), 16);
    assert_eq!(context("77", 32), 32);
    assert_eq!(context("1000000000000000019884624838656", 77), 77);
    assert_eq!(context("null", 77), 77);
    assert_eq!(context("Infinity", 77), 77);
    fails(&[("tokenizer_config.json", r#"{"model_max_length": "77"}"#)], &["model_max_length is \"77\""]);
    fails(&[("tokenizer_config.json", r#"{"model_max_length": -1}"#)], &["model_max_length is -1"]);
    assert!(open(&folder(&[]), 2).unwrap_err().to_string().contains("no room"));
}

#[test]
fn lines_may_end_as_on_windows() {
    let merges = std::fs::read_to_string(golden().join("merges.txt")).unwrap().replace('\n', "\r\n");
    let windows = open(&folder(&[("merges.txt", &merges)]), 77).unwrap();
    assert_eq!(
        windows.encode("a photo of a cat"),
        open(&folder(&[]), 77).unwrap().encode("a photo of a cat")
    );
}

#[test]
fn a_text_is_filled_and_cut_at_the_side_that_the_file_names() {
    let config = r#"{"padding_side": "left", "truncation_side": "left"}"#;
    let tokenizer = open(&folder(&[("tokenizer_config.json", config)]), 8).unwrap();
    // As transformers gives them.
    assert_eq!(tokenizer.encode("a photo of a cat and a dog").ids, [812, 647, 64, 77, 323, 320, 558, 813]);
    assert_eq!(tokenizer.encode("a photo of a cat and a dog").dropped.unwrap().text, "a photo of a");
    assert_eq!(tokenizer.encode("a").ids, [813, 813, 813, 813, 813, 812, 320, 813]);
}

#[test]
fn a_byte_that_the_vocabulary_lacks_is_the_unknown_token() {
    let dir = TempDir::new().unwrap();
    let vocab = r#"{"a": 0, "a</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3, "c": 4, "cc": 5}"#;
    std::fs::write(dir.path().join("vocab.json"), vocab).unwrap();
    std::fs::write(dir.path().join("merges.txt"), "#version: 0.2\nc c\n").unwrap();
    assert_eq!(open(&dir, 8).unwrap().encode("aab é").ids, [2, 0, 0, 3, 3, 3, 3, 3]);
}

#[test]
fn damaged_files_are_named_with_what_was_expected() {
    fails(&[("vocab.json", "{")], &["vocab.json", "not valid JSON"]);
    fails(&[("vocab.json", "[]")], &["vocab.json", "not a JSON object"]);
    fails(&[("vocab.json", r#"{"a": "b"}"#)], &["vocab.json", "a map of tokens to ids"]);
    fails(&[("vocab.json", r#"{"a": 4294967295}"#)], &["vocab.json"]);
    fails(&[("vocab.json", r#"{"a": 1}"#), ("merges.txt", "a a")], &["bos_token \"<|startoftext|>\""]);
    fails(&[("merges.txt", "#version: 0.2\na b\nabc\n")], &["merges.txt", "line 3 is \"abc\""]);
    fails(&[("merges.txt", "a b c\n")], &["merges.txt", "line 1"]);
    fails(&[("merges.txt", "a \u{2603}\n")], &["merge 1 needs"]);
    fails(&[("tokenizer_config.json", "nothing")], &["tokenizer_config.json", "not valid JSON"]);
    fails(&[("tokenizer_config.json", r#"{"unk_token": "[UNK]"}"#)], &["unk_token \"[UNK]\""]);
    fails(&[("tokenizer_config.json", r#"{"padding_side": 1}"#)], &["padding_side is neither"]);
    fails(&[("tokenizer_config.json", r#"{"pad_token": 3}"#)], &["tokenizer_config.json", "the token 3"]);
    fails(
        &[("tokenizer_config.json", r#"{"added_tokens_decoder": {"x": {"content": "y"}}}"#)],
        &["tokenizer_config.json", "has no id"],
    );
    fails(
        &[("special_tokens_map.json", r#"{"pad_token": {"content": "!", "lstrip": true}}"#)],
        &["special_tokens_map.json", "lstrip"],
    );
    fails(&[("tokenizer.json", r#"{"model": {"type": "Unigram"}}"#)], &["tokenizer.json", "Unigram"]);
    fails(&[("tokenizer.json", r#"{"model": {"type": "BPE"}}"#)], &["tokenizer.json", "model.vocab"]);
}

#[test]
fn more_added_tokens_than_can_be_compared_are_refused() {
    let tokens = |n: usize| (0..n).map(|i| format!("<{i}>"));
    let list =
        |n| serde_json::json!({"additional_special_tokens": tokens(n).collect::<Vec<_>>()}).to_string();
    assert!(open(&folder(&[("tokenizer_config.json", &list(4000))]), 77).is_ok());
    let role = |i: String| (format!("{i}_token"), i.into());
    let roles = |n| serde_json::Value::Object(tokens(n).map(role).collect()).to_string();
    let ids = serde_json::Value::Object(tokens(5000).zip((900..).map(serde_json::Value::from)).collect());
    for (file, text) in [
        ("tokenizer_config.json", list(5000)),
        ("tokenizer_config.json", roles(5000)),
        ("special_tokens_map.json", roles(5000)),
        ("added_tokens.json", ids.to_string()),
    ] {
        fails(&[(file, &text)], &["too many added tokens"]);
    }
}

#[test]
fn a_folder_without_tokenizer_says_what_to_fetch() {
    let dir = TempDir::new().unwrap();
    let error = open(&dir, 77).unwrap_err().to_string();
    assert!(error.contains("no tokenizer.json and no vocab.json") && error.contains("merges.txt"), "{error}");
    std::fs::copy(golden().join("vocab.json"), dir.path().join("vocab.json")).unwrap();
    let error = open(&dir, 77).unwrap_err().to_string();
    assert!(error.contains("merges.txt"), "{error}");
    std::fs::write(dir.path().join("merges.txt"), b"\xff\xfe\n").unwrap();
    let error = open(&dir, 77).unwrap_err().to_string();
    assert!(error.contains("merges.txt: not UTF-8"), "{error}");
}

#[test]
fn a_long_word_takes_no_longer_than_its_length_allows() {
    let tokenizer = open(&folder(&[]), 77).unwrap();
    let start = std::time::Instant::now();
    tokenizer.encode(&"the".repeat(400_000));
    // A search through all pairs per merge would take hours.
    assert!(start.elapsed().as_secs() < 20);
}

/// What a download that failed leaves behind.
#[test]
fn empty_files_are_refused_and_named() {
    for empty in ["", "\n\n", "#version: 0.2\n"] {
        fails(&[("merges.txt", empty)], &["merges.txt: it holds no merge", "fix:"]);
    }
    fails(&[("vocab.json", "{}")], &["vocab.json: it holds no token", "fix:"]);
    let whole = |model: &str| format!("{{\"model\": {{\"type\": \"BPE\", {model}}}}}");
    for (model, says) in [
        (r#""vocab": {}, "merges": ["a b"]"#, "tokenizer.json: model.vocab holds no token"),
        (r#""vocab": {"a": 0, "b": 1}, "merges": []"#, "tokenizer.json: model.merges holds no merge"),
    ] {
        fails(&[("tokenizer.json", &whole(model))], &[says, "fix:"]);
    }
}
