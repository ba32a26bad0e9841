//! What the program and a scorer say to each other, as JSON (docs/reward-protocol.md): lines to be sent, and
//! what is made of the lines that come back, which may hold anything.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::failure::{Failure, shown, told};

/// The version of the protocol that is spoken here.
const VERSION: u64 = 1;

/// How a scorer wants its images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageForm {
    /// A PNG file of 8 bits.
    #[default]
    Png,
    /// Little-endian f32 in [0, 1]: rows from the top, pixels from the left, red, green, blue.
    F32,
}

/// What a scorer says of itself, before anything is asked.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The version of the protocol.
    das_cuda_reward: u64,
    /// What the scorer calls itself.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether it gives gradients.
    #[serde(default)]
    pub gradient: bool,
    /// How it wants its images.
    #[serde(default)]
    pub images: ImageForm,
    /// Whether a score depends on the prompt.
    #[serde(default = "yes")]
    pub prompts: bool,
    /// The alpha that suits its scores.
    #[serde(default)]
    pub alpha: Option<f64>,
}

/// Characters of another program's reason that are printed.
const LONGEST_REASON: usize = 300;
/// Characters that are printed of what a scorer says of its failure.
const LONGEST_ERROR: usize = 1000;

const BEFORE_HELLO: &str = "let it write nothing to standard output but its hello and its answers, each a JSON object \
                            in one line (docs/reward-protocol.md). In Python, call das_cuda.protect_stdout() before \
                            whatever prints while it loads, then das_cuda.serve";
const ANSWER: &str = "let the scorer answer each request with one line, {\"id\": the request's, \"scores\": [one number \
                      or null per image]}, and \"gradients\" where they are asked for (docs/reward-protocol.md); \
                      messages belong to its standard error";
const REPORTED: &str = "see what the scorer says: it understood the request, and failed at it; its own code, files or \
                        memory are to be mended";

fn yes() -> bool {
    true
}

impl Hello {
    /// Of a server that says nothing of itself: scores of PNG files.
    #[cfg(feature = "http")]
    pub fn unsaid() -> Hello {
        let images = ImageForm::Png;
        Hello { das_cuda_reward: VERSION, name: None, gradient: false, images, prompts: true, alpha: None }
    }

    /// Whether a line is meant as a hello.
    pub fn is_meant(line: &[u8]) -> bool {
        serde_json::from_slice::<Value>(line).is_ok_and(|value| value.get("das_cuda_reward").is_some())
    }

    /// Reads the line of a hello; else says what is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Hello, Failure> {
        let hello: Hello = object(line).map_err(|e| {
            let e = told(&e.to_string(), LONGEST_REASON);
            match Hello::is_meant(line) {
                true => Failure::new(
                    format!("wrote {}, which is no hello of this protocol: {e}", shown(line)),
                    "let its hello have the keys of docs/reward-protocol.md, and no others",
                ),
                false => Failure::new(
                    format!("wrote {}, which is no hello ({e}), where a hello must come first", shown(line)),
                    BEFORE_HELLO,
                ),
            }
        })?;
        if hello.das_cuda_reward != VERSION {
            let other = hello.das_cuda_reward;
            return Err(Failure::new(
                format!("speaks version {other} of the protocol, and this program version {VERSION}"),
                "use a scorer and a das-cuda that speak the same version",
            ));
        }
        match hello.alpha {
            Some(alpha) if !(alpha.is_finite() && alpha > 0.0) => Err(Failure::new(
                format!("says in its hello that alpha is {alpha}, which is not above 0"),
                "let its hello give an alpha above 0 or none: serve(..., alpha=0.1) in Python",
            )),
            _ => Ok(hello),
        }
    }
}

/// Images to be scored.
#[derive(Debug, Serialize)]
pub struct Request<'a> {
    /// The answer repeats it.
    pub id: u64,
    /// One for each image.
    pub prompts: Vec<&'a str>,
    /// In base64, in the form that the scorer wants.
    pub images: Vec<String>,
    /// Pixels of a row of each image.
    pub width: usize,
    /// Rows of each image.
    pub height: usize,
    /// Whether gradients are wanted too.
    pub gradient: bool,
}

/// The scores of a request, and the gradients where they were asked for.
#[derive(Debug, PartialEq)]
pub struct Answer {
    /// NaN where a score is null, infinite where it is beyond the range of f32.
    pub scores: Vec<f32>,
    /// The first score that is beyond that range.
    pub too_large: Option<f64>,
    /// Of all images one after another, `(n, h, w, 3)`; empty where none were asked for.
    pub gradients: Vec<f32>,
}

/// An answer as it is written. Servers of other protocols add what they like.
#[derive(Deserialize)]
struct Written {
    id: Option<u64>,
    scores: Option<Vec<Option<f64>>>,
    /// What other protocols call the scores, or something else beside them.
    rewards: Option<Value>,
    gradients: Option<Vec<String>>,
    error: Option<Value>,
}

/// Of base64 in an answer, per number of a gradient, with room to spare.
const BYTES_PER_NUMBER: usize = 8;
/// Of the rest of an answer.
const BYTES_AROUND: usize = 1 << 20;

impl Request<'_> {
    /// Numbers of one image.
    fn numbers(&self) -> usize {
        3 * self.width * self.height
    }

    /// Bytes that no right answer exceeds.
    pub fn longest_answer(&self) -> usize {
        let gradients = if self.gradient { self.images.len() * self.numbers() * BYTES_PER_NUMBER } else { 0 };
        BYTES_AROUND + 64 * self.images.len() + gradients
    }

    /// Reads the line of an answer to this; else says what is wrong with it. Only where `named` must it
    /// repeat the id.
    pub fn answered(&self, line: &[u8], named: bool) -> Result<Answer, Failure> {
        let written: Written = object(line).map_err(|e| {
            let hint = match has_nan(line) {
                true => "; JSON has no NaN, a score that is not a number is null",
                false => "",
            };
            let e = told(&e.to_string(), LONGEST_REASON);
            Failure::new(format!("wrote {}, which is no answer ({e}){hint}", shown(line)), ANSWER)
        })?;
        match written.error.as_ref().filter(|error| !error.is_null()) {
            None => self.read(line, written, named).map_err(|what| Failure::new(what, ANSWER)),
            Some(error) => {
                let error = error.as_str().map_or(error.to_string(), String::from);
                Err(Failure::new(format!("says: {}", told(&error, LONGEST_ERROR)), REPORTED))
            }
        }
    }

    /// The numbers of an answer.
    fn read(&self, line: &[u8], written: Written, named: bool) -> Result<Answer, String> {
        match written.id {
            None if !named => {}
            Some(id) if id == self.id => {}
            Some(id) => return Err(format!("answered request {id}, where {} was asked", self.id)),
            None => return Err(format!("wrote {}, an answer without an id", shown(line))),
        }
        let by_another_name =
            || written.rewards.and_then(|rewards| serde_json::from_value::<Vec<Option<f64>>>(rewards).ok());
        let Some(scores) = written.scores.or_else(by_another_name) else {
            return Err(format!("wrote {}, an answer without scores", shown(line)));
        };
        let (found, wanted) = (scores.len(), self.images.len());
        if found != wanted {
            return Err(format!("gave {found} score{} for {wanted} image{}", s(found), s(wanted)));
        }
        let too_large = scores.iter().flatten().copied().find(|score| (*score as f32).is_infinite());
        let scores = scores.into_iter().map(|score| score.map_or(f32::NAN, |x| x as f32)).collect();
        let gradients = if self.gradient { self.gradients(written.gradients)? } else { Vec::new() };
        Ok(Answer { scores, too_large, gradients })
    }

    fn gradients(&self, written: Option<Vec<String>>) -> Result<Vec<f32>, String> {
        let Some(written) = written else { return Err("gave no gradients, though asked for them".into()) };
        let (found, wanted) = (written.len(), self.images.len());
        if found != wanted {
            return Err(format!("gave {found} gradient{} for {wanted} image{}", s(found), s(wanted)));
        }
        let mut all = Vec::with_capacity(wanted * self.numbers());
        for (i, text) in written.iter().enumerate() {
            let bytes = STANDARD
                .decode(text)
                .map_err(|e| format!("gave a gradient of image {i} that is no base64 ({e})"))?;
            if bytes.len() != 4 * self.numbers() {
                return Err(format!(
                    "gave a gradient of {} bytes for image {i}, which needs {}: {} x {} x 3 f32",
                    bytes.len(),
                    4 * self.numbers(),
                    self.height,
                    self.width
                ));
            }
            all.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        }
        Ok(all)
    }
}

/// Reads an object. A list in its place would be read as the values of its keys.
fn object<T: DeserializeOwned>(line: &[u8]) -> serde_json::Result<T> {
    let value: Map<String, Value> = serde_json::from_slice(line)?;
    T::deserialize(Value::Object(value))
}

/// Bytes as base64.
pub fn encoded(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Numbers as base64 of little-endian f32.
pub fn encoded_floats(values: &[f32]) -> String {
    encoded(&values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())
}

/// Whether a line has what some programs write for values that JSON does not have.
fn has_nan(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    text.split(|c: char| !c.is_alphanumeric()).any(|word| matches!(word, "NaN" | "nan" | "Infinity" | "inf"))
}

/// The ending of a plural.
pub fn s(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(gradient: bool) -> Request<'static> {
        Request {
            id: 7,
            prompts: vec!["a", "b"],
            images: vec![String::new(); 2],
            width: 2,
            height: 1,
            gradient,
        }
    }

    #[test]
    fn a_hello_is_read_and_a_wrong_one_is_told() {
        let hello = Hello::parse(br#"{"das_cuda_reward": 1}"#).unwrap();
        assert!(!hello.gradient && hello.prompts && hello.images == ImageForm::Png);
        let all = br#"{"das_cuda_reward": 1, "name": "x", "gradient": true, "images": "f32", "prompts": false, "alpha": 0.5}"#;
        let hello = Hello::parse(all).unwrap();
        assert!(hello.gradient && !hello.prompts && hello.images == ImageForm::F32);
        assert_eq!((hello.name.as_deref(), hello.alpha), (Some("x"), Some(0.5)));
        for (line, says) in [
            ("", "no hello"),
            ("Loading the model", "\"Loading the model\""),
            ("[1]", "no hello"),
            (r#"{"das_cuda_reward": 2}"#, "version 2"),
            (
                r#"{"das_cuda_reward": 1, "gradients": true}"#,
                "unknown field 'gradients', expected one of 'das_",
            ),
            (r#"{"das_cuda_reward": 1, "images": "jpeg"}"#, "jpeg"),
            (r#"{"das_cuda_reward": 1, "alpha": 0}"#, "alpha is 0, which is not above 0"),
        ] {
            let error = Hello::parse(line.as_bytes()).unwrap_err().what;
            assert!(error.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn an_answer_is_read() {
        let answer = request(false).answered(br#"{"id": 7, "scores": [0.5, null]}"#, true).unwrap();
        assert!(answer.scores[0] == 0.5 && answer.scores[1].is_nan() && answer.gradients.is_empty());
        assert_eq!(answer.too_large, None);
        let gradients: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let line = format!(
            r#"{{"id": 7, "scores": [1, 2], "gradients": ["{}", "{}"]}}"#,
            encoded_floats(&gradients[..6]),
            encoded_floats(&gradients[6..])
        );
        assert_eq!(request(true).answered(line.as_bytes(), true).unwrap().gradients, gradients);
        let other = br#"{"rewards": [1, 2], "model": "of another protocol"}"#;
        assert_eq!(request(false).answered(other, false).unwrap().scores, [1.0, 2.0]);
    }

    #[test]
    fn a_wrong_answer_is_told() {
        let short = encoded_floats(&[0.0; 5]);
        let short = format!(r#"{{"id": 7, "scores": [1, 2], "gradients": ["{short}", ""]}}"#);
        for (line, gradient, says) in [
            ("", false, "no answer"),
            ("epoch 3", false, "\"epoch 3\""),
            (r#"{"id": 7, "scores": [1, NaN]}"#, false, "JSON has no NaN"),
            (r#"{"id": 8, "scores": [1, 2]}"#, false, "request 8"),
            (r#"{"scores": [1, 2]}"#, false, "without an id"),
            (r#"{"id": 7}"#, false, "without scores"),
            (r#"{"id": 7, "scores": [1]}"#, false, "1 score for 2 images"),
            (r#"{"id": 7, "scores": ["1", 2]}"#, false, "no answer"),
            (r#"{"id": 7, "error": "no weights"}"#, false, "says: no weights"),
            (r#"{"id": 7, "scores": [1, 2]}"#, true, "no gradients"),
            (r#"{"id": 7, "scores": [1, 2], "gradients": [""]}"#, true, "1 gradient for 2"),
            (r#"{"id": 7, "scores": [1, 2], "gradients": ["!", ""]}"#, true, "no base64"),
            (short.as_str(), true, "20 bytes for image 0, which needs 24: 1 x 2 x 3"),
        ] {
            let error = request(gradient).answered(line.as_bytes(), true).unwrap_err();
            assert!(error.what.contains(says), "{line}: {error:?}");
            assert_eq!(error.fix.contains("each request with one line"), !says.contains("says"), "{error:?}");
        }
    }

    #[test]
    fn the_words_of_a_scorer_are_cut_and_name_no_option() {
        let long = "x`steps` ".repeat(100_000);
        let error = json!({"id": 7, "error": long}).to_string();
        let error = request(false).answered(error.as_bytes(), true).unwrap_err().what;
        assert!(
            error.len() < 1100 && error.starts_with("says: x'steps' ") && error.ends_with(" ..."),
            "{error}"
        );
        let hello = json!({"das_cuda_reward": 1, long: 1}).to_string();
        let error = Hello::parse(hello.as_bytes()).unwrap_err().what;
        assert!(error.len() < 700 && error.contains("unknown field 'x'steps' "), "{error}");
    }

    #[test]
    fn a_score_beyond_the_range_is_known() {
        let answer = request(false).answered(br#"{"id": 7, "scores": [1, -1e300]}"#, true).unwrap();
        assert_eq!((answer.scores[1], answer.too_large), (f32::NEG_INFINITY, Some(-1e300)));
    }
}
