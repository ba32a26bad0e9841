//! Generation parameters inside a PNG, in two text chunks.
//!
//! - `parameters`: the layout that AUTOMATIC1111's web UI writes and most programs of this field read: the
//!   prompt, the negative prompt, and one line of `Key: value` fields. Nothing else is in it, so that they
//!   read it as they read their own.
//! - `das-cuda` (always iTXt): a JSON object with everything needed to draw the picture again.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::regular;

/// Keyword of the chunk that many programs read.
const PARAMETERS: &str = "parameters";
/// Keyword of the chunk with this program's record.
const RECORD: &str = "das-cuda";

/// What a picture says about its making.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// What the picture should show.
    pub prompt: String,
    /// What it should not show; may be empty.
    pub negative_prompt: String,
    /// In order, such as `("Steps", "50")`.
    pub fields: Vec<(String, String)>,
    /// The chunk `das-cuda`. Its entry `prompt`, if a string, is what [`read_prompt`] returns.
    pub record: Value,
}

impl Parameters {
    /// The text of the chunk `parameters`. Of control characters PNG allows line breaks only: others become
    /// spaces (NUL is left out), here and not in the record; line breaks of field values become spaces;
    /// values that hold a comma, a colon or a line break are quoted as JSON, as readers of this layout
    /// expect.
    pub fn text(&self) -> String {
        let mut text = self.prompt.clone();
        if !self.negative_prompt.is_empty() {
            text += &format!("\nNegative prompt: {}", self.negative_prompt);
        }
        let fields = self.fields.iter().map(|(key, value)| {
            let value = value.replace(['\r', '\n'], " ");
            let quoted = value.contains([',', ':', '"']).then(|| Value::from(value.as_str()).to_string());
            format!("{key}: {}", quoted.unwrap_or(value))
        });
        text.push('\n');
        text += &fields.collect::<Vec<_>>().join(", ");
        text.retain(|c| c != '\0');
        text.replace("\r\n", "\n").replace(|c: char| c.is_control() && c != '\n', " ")
    }
}

/// The picture as an 8-bit RGB PNG file. `parameters` go into a tEXt chunk, or into iTXt where Latin-1 cannot
/// hold them, and their record into an iTXt chunk of its own.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) for sizes that PNG cannot hold.
pub fn encode_png(picture: &Picture, parameters: Option<&Parameters>) -> Result<Vec<u8>> {
    let fail = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::io(format!("a PNG of {}x{} cannot be encoded", picture.width, picture.height))
            .because(e)
            .option("width")
            .advice("choose a smaller size with `width` and `height`")
    };
    let (Ok(width), Ok(height)) = (u32::try_from(picture.width), u32::try_from(picture.height)) else {
        return Err(fail("sides are limited to 32 bits".into()));
    };
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    if let Some(parameters) = parameters {
        let text = parameters.text();
        let latin = text.chars().all(|c| u32::from(c) <= 0xff);
        let added = if latin {
            encoder.add_text_chunk(PARAMETERS.into(), text)
        } else {
            encoder.add_itxt_chunk(PARAMETERS.into(), text)
        };
        let added = added.and_then(|()| encoder.add_itxt_chunk(RECORD.into(), parameters.record.to_string()));
        added.map_err(|e| fail(e.into()))?;
    }
    let mut writer = encoder.write_header().map_err(|e| fail(e.into()))?;
    writer.write_image_data(&picture.rgb).map_err(|e| fail(e.into()))?;
    writer.finish().map_err(|e| fail(e.into()))?;
    Ok(file)
}

/// The texts of a PNG.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Texts {
    /// The chunk `parameters`, of whichever kind.
    pub parameters: Option<String>,
    /// The chunk `das-cuda`.
    pub record: Option<Value>,
}

/// Reads the texts of a PNG; none if the file is no PNG.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) if the file cannot be opened.
pub fn read_texts(path: &Path) -> Result<Texts> {
    let file = regular::open(path).map_err(|e| {
        let fix = regular::fix(&e, "check the path of the image");
        Error::io(format!("{}: cannot be read", path.display())).because(e).advice(fix)
    })?;
    let Ok(mut reader) = png::Decoder::new(std::io::BufReader::new(file)).read_info() else {
        return Ok(Texts::default());
    };
    // Chunks after the pixels count too; a damaged end hides only those.
    let _ = reader.finish();
    let info = reader.info();
    let chunk = |keyword: &str| {
        let latin = info.uncompressed_latin1_text.iter().find(|c| c.keyword == keyword);
        let packed = info.compressed_latin1_text.iter().find(|c| c.keyword == keyword);
        let unicode = info.utf8_text.iter().find(|c| c.keyword == keyword);
        latin
            .map(|c| c.text.clone())
            .or_else(|| packed.and_then(|c| c.get_text().ok()))
            .or_else(|| unicode.and_then(|c| c.get_text().ok()))
    };
    Ok(Texts {
        parameters: chunk(PARAMETERS),
        record: chunk(RECORD).and_then(|text| serde_json::from_str(&text).ok()),
    })
}

/// The prompt that a PNG says it was made from, by this program or by others.
///
/// # Errors
/// As [`read_texts`].
pub fn read_prompt(path: &Path) -> Result<Option<String>> {
    let Texts { parameters, record } = read_texts(path)?;
    let own = record.as_ref().and_then(|record| record["prompt"].as_str()).map(String::from);
    Ok(own.or_else(|| parameters.as_deref().and_then(prompt_in)))
}

/// One field of the last line: a key of letters, digits, spaces, `-` and `/`, then a quoted value or all up
/// to the next comma.
static FIELD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"\s*\w[\w \-/]+:\s*(?:"(?:\\.|[^\\"])+"|[^,]*)(?:,|$)"#).expect("a valid expression")
});

/// The prompt of a `parameters` text as AUTOMATIC1111's own reader finds it: every line before the negative
/// prompt. The last line is no part of it if it begins with `Steps: ` or holds three fields or more. Forks
/// that write a JSON object there instead have the prompt at its top or in `sui_image_params`.
pub fn prompt_in(text: &str) -> Option<String> {
    let text = text.trim();
    if let Ok(Value::Object(object)) = serde_json::from_str(text) {
        let nested = object.get("sui_image_params").and_then(|inner| inner.get("prompt"));
        return nested.or(object.get("prompt")).and_then(Value::as_str).map(String::from);
    }
    let mut lines: Vec<&str> = text.split('\n').map(str::trim).collect();
    let fields = |last: &&str| last.starts_with("Steps: ") || FIELD.find_iter(last).count() >= 3;
    if lines.last().is_some_and(fields) {
        lines.pop();
    }
    let prompt = lines.into_iter().take_while(|line| !line.starts_with("Negative prompt:"));
    Some(prompt.collect::<Vec<_>>().join("\n"))
}
