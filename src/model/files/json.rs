//! JSON as tools write it. Python's `json` module writes `NaN`, `Infinity` and `-Infinity` for numbers that
//! JSON does not have, and some editors begin a file with a byte-order mark. All JSON files of models are
//! read here.

use serde_json::Value;

use super::Source;
use crate::error::{Error, Result};

/// The words of Python's `json` for numbers that JSON does not have.
const WORDS: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// UTF-8's byte-order mark.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Reads and parses the file `rel` of `source`.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model), naming the file: it cannot be read, or is not JSON.
pub fn read(source: &Source, rel: &str) -> Result<Value> {
    parse(&source.read(rel)?).map_err(|e| e.context(source.describe(rel)))
}

/// Parses the content of a file. A byte-order mark is skipped. A bare `NaN`, `Infinity` or `-Infinity`
/// becomes the string of that name: [`number`] reads it, and every reader that expects a finite number
/// refuses it with its name.
///
/// # Errors
/// [`ErrorKind::Model`](crate::ErrorKind::Model) for anything else that is not JSON.
pub fn parse(bytes: &[u8]) -> Result<Value> {
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(Error::model("not UTF-8 text but UTF-16").advice("save the file as UTF-8"));
    }
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
    serde_json::from_slice(bytes).or_else(|strict| {
        // Only what standard JSON refuses is looked at again.
        let failed = |e| Error::model("not valid JSON").because(e).advice("download the file again");
        match quote_words(bytes) {
            Some(quoted) => serde_json::from_slice(&quoted).map_err(failed),
            None => Err(failed(strict)),
        }
    })
}

/// `bytes` with quotes around every bare word of [`WORDS`]; `None` where there is none.
fn quote_words(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    let (mut at, mut in_string, mut found) = (0, false, false);
    while at < bytes.len() {
        let rest = &bytes[at..];
        let word = WORDS.iter().find(|word| !in_string && rest.starts_with(word.as_bytes()));
        let taken = match (word, rest[0]) {
            (Some(word), _) => {
                out.push(b'"');
                out.extend_from_slice(word.as_bytes());
                out.push(b'"');
                found = true;
                at += word.len();
                continue;
            }
            (None, b'\\') if in_string => 2.min(rest.len()),
            (None, b'"') => {
                in_string = !in_string;
                1
            }
            _ => 1,
        };
        out.extend_from_slice(&rest[..taken]);
        at += taken;
    }
    found.then_some(out)
}

/// The number that `value` is, Python's `NaN` and infinities included; `None` for anything that is no number.
pub fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        _ => value.as_f64(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_python_writes_is_read() {
        let text = r#"{"a": -Infinity, "b": [NaN, Infinity,1e-5], "NaN": "no -Infinity \" NaN", "c\\": NaN}"#;
        let value = parse(text.as_bytes()).unwrap();
        let expected = json!({"a": "-Infinity", "b": ["NaN", "Infinity", 1e-5], "NaN": "no -Infinity \" NaN",
            "c\\": "NaN"});
        assert_eq!(value, expected);
        assert_eq!(number(&value["a"]), Some(f64::NEG_INFINITY));
        assert_eq!(number(&value["b"][1]), Some(f64::INFINITY));
        assert!(number(&value["b"][0]).unwrap().is_nan());
        assert_eq!((number(&value["b"][2]), number(&value["NaN"])), (Some(1e-5), None));
        assert_eq!(parse(b"\xef\xbb\xbf{\"a\": 1}").unwrap(), json!({"a": 1}));
        assert_eq!(parse(b"\xef\xbb\xbf[-Infinity]").unwrap(), json!(["-Infinity"]));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in
            ["", "{", "{\"a\": -NaN}", "{\"a\": Infinit}", "{\"a\": nan}", "NaNNaN", "\"NaN", "{NaN: 1", "\\"]
        {
            let error = parse(text.as_bytes()).expect_err(text).to_string();
            assert!(error.starts_with("not valid JSON") && error.contains("fix: "), "{text}: {error}");
        }
        assert!(parse(b"\xff\xfe{\0}\0").unwrap_err().to_string().contains("UTF-16"));
    }
}
