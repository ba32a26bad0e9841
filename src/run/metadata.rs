//! Generation parameters inside a PNG: the text chunk `parameters` in the layout that AUTOMATIC1111's web UI
//! writes and most viewers read. Prompt, negative prompt and one line of `Key: value` fields, the last of which is
//! `DAS: {json}` with everything needed to repeat the run.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::pixels::Picture;

/// What a picture says about its making.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    pub prompt: String,
    pub negative_prompt: String,
    /// In order, such as `("Steps", "50")`.
    pub fields: Vec<(String, String)>,
    /// The field `DAS`. Its entry `prompt`, if a string, is what [`Parameters::prompt_in`] returns.
    pub das: Value,
}

impl Parameters {
    /// The chunk's text. NUL cannot stand in it and is left out; line breaks of field values become spaces.
    pub fn text(&self) -> String {
        let mut text = self.prompt.clone();
        if !self.negative_prompt.is_empty() {
            text += &format!("\nNegative prompt: {}", self.negative_prompt);
        }
        text.push('\n');
        for (key, value) in &self.fields {
            let value = value.replace(['\r', '\n'], " ");
            // The quoting that readers of this layout undo.
            let quoted = value.contains([',', ':', '"']).then(|| Value::from(value.as_str()).to_string());
            text += &format!("{key}: {}, ", quoted.unwrap_or(value));
        }
        text += &format!("DAS: {}", self.das);
        text.retain(|c| c != '\0');
        text
    }

    /// The field `DAS` of a chunk's text.
    pub fn das_in(text: &str) -> Option<Value> {
        let last = text.rsplit('\n').next()?;
        let (_, json) = last.split_once("DAS: {")?;
        serde_json::from_str(&format!("{{{json}")).ok()
    }

    /// The prompt of a chunk's text: from the field `DAS` if there is one, else all before the negative prompt
    /// or the line of fields, as other programs write it.
    pub fn prompt_in(text: &str) -> Option<String> {
        if let Some(Value::String(prompt)) = Parameters::das_in(text).as_ref().and_then(|d| d.get("prompt")) {
            return Some(prompt.clone());
        }
        let end = text.find("\nNegative prompt: ").or_else(|| text.rfind("\nSteps: "))?;
        Some(text[..end].to_string())
    }
}

/// The picture as an 8-bit RGB PNG file, with `parameters` in a tEXt chunk, or in iTXt where Latin-1 cannot
/// hold them.
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
            encoder.add_text_chunk("parameters".into(), text)
        } else {
            encoder.add_itxt_chunk("parameters".into(), text)
        };
        added.map_err(|e| fail(e.into()))?;
    }
    let mut writer = encoder.write_header().map_err(|e| fail(e.into()))?;
    writer.write_image_data(&picture.rgb).map_err(|e| fail(e.into()))?;
    writer.finish().map_err(|e| fail(e.into()))?;
    Ok(file)
}

/// The text of a PNG's `parameters` chunk, of whichever kind; `None` if there is none or the file is no PNG.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) if the file cannot be opened.
pub fn read_parameters(path: &Path) -> Result<Option<String>> {
    let file = std::fs::File::open(path).map_err(|e| {
        Error::io(format!("{}: cannot be read", path.display())).because(e).fix("check the path of the image")
    })?;
    let Ok(mut reader) = png::Decoder::new(std::io::BufReader::new(file)).read_info() else {
        return Ok(None);
    };
    // Chunks after the pixels count too; a damaged end hides only those.
    let _ = reader.finish();
    let info = reader.info();
    let latin =
        info.uncompressed_latin1_text.iter().find(|c| c.keyword == "parameters").map(|c| c.text.clone());
    Ok(latin.or_else(|| {
        let packed = info.compressed_latin1_text.iter().find(|c| c.keyword == "parameters");
        let unicode = info.utf8_text.iter().find(|c| c.keyword == "parameters");
        packed.and_then(|c| c.get_text().ok()).or_else(|| unicode.and_then(|c| c.get_text().ok()))
    }))
}
