//! The checkpoint of a run that has not ended: a safetensors file with one entry of JSON in its header, which
//! says what the run is, and bytes of the caller's, one tensor for each population that has begun.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};

use super::file::FIX_REPORT;
use super::record::SCHEMA;
use crate::error::{Error, Result};
use crate::hash::sha256;
use crate::regular;

/// Name of the header's entry.
const HEADER: &str = "das-cuda checkpoint";
/// The entry in it with the SHA-256 of the JSON without this entry, followed by all tensors.
const HASH: &str = "sha256";
/// Most bytes of a checkpoint that are read.
const MOST: u64 = 1 << 36;
/// What to do about a checkpoint that cannot be used.
const ANEW: &str = "remove the file to begin this prompt anew";

/// What a checkpoint is of, and its part for each population.
pub type Parts = (Map<String, Value>, Vec<Vec<u8>>);

/// A checkpoint as the bytes of its file: what it is of, and a part for each population.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where it cannot be encoded, which no input should cause.
pub fn encode_checkpoint(about: &Map<String, Value>, parts: &[Vec<u8>]) -> Result<Vec<u8>> {
    let fail = |e| Error::io("a checkpoint cannot be encoded").because(e).advice(FIX_REPORT);
    let views = parts.iter().enumerate().map(|(number, part)| {
        let view = TensorView::new(Dtype::U8, vec![part.len()], part);
        view.map(|view| (name(number), view)).map_err(fail)
    });
    let views: Vec<_> = views.collect::<Result<_>>()?;
    let mut header = Map::from_iter([("schema".to_string(), json!(SCHEMA))]);
    header.extend(about.clone());
    header.insert(HASH.into(), json!(hash(&header, parts)));
    let header = HashMap::from([(HEADER.to_string(), Value::Object(header).to_string())]);
    safetensors::serialize(views, Some(header)).map_err(fail)
}

/// Of everything that a checkpoint holds.
fn hash(header: &Map<String, Value>, parts: &[Vec<u8>]) -> String {
    let header = json!(header).to_string().into_bytes();
    sha256(&[header, parts.concat()].concat())
}

fn name(number: usize) -> String {
    format!("population.{number}")
}

/// What a checkpoint is of, and its parts; `None` where the file is not there.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file: not readable, no checkpoint, damaged, of another
/// layout.
pub fn read_checkpoint(path: &Path) -> Result<Option<Parts>> {
    let refused = |what: String| Error::io(format!("{}: {what}", path.display())).advice(ANEW);
    let bytes = match regular::read(path, MOST) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(|e| refused("cannot be read".into()).because(e))?,
    };
    let damaged = || refused("this checkpoint is damaged, or is none".into());
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged().because(e))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged().because(e))?;
    let header = metadata.metadata().as_ref().and_then(|map| map.get(HEADER)).ok_or_else(damaged)?;
    let mut about: Map<String, Value> = serde_json::from_str(header).map_err(|e| damaged().because(e))?;
    let schema = about.get("schema").cloned().unwrap_or_default();
    if schema != SCHEMA {
        return Err(refused(format!(
            "a checkpoint of version {schema}; this program reads version {SCHEMA}"
        )));
    }
    let part = |number| file.tensor(&name(number)).map(|view| view.data().to_vec());
    let parts: Vec<Vec<u8>> =
        (0..file.len()).map(part).collect::<Result<_, _>>().map_err(|e| damaged().because(e))?;
    let written = about.shift_remove(HASH);
    if parts.is_empty() || written != Some(json!(hash(&about, &parts))) {
        return Err(damaged());
    }
    about.shift_remove("schema");
    Ok(Some((about, parts)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_checkpoint_is_read_as_it_was_written_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint.safetensors");
        assert!(read_checkpoint(&path).unwrap().is_none());
        let about = Map::from_iter([("step".to_string(), json!(3)), ("seconds".to_string(), json!(0.1))]);
        let parts = vec![b"first".to_vec(), b"2".to_vec()];
        let bytes = encode_checkpoint(&about, &parts).unwrap();
        fs::write(&path, &bytes).unwrap();
        assert_eq!(read_checkpoint(&path).unwrap(), Some((about, parts)));
        // Cut at any byte, or with a header or a tensor that is not the one hashed.
        for end in 0..bytes.len() {
            fs::write(&path, &bytes[..end]).unwrap();
            assert!(read_checkpoint(&path).is_err(), "{end} bytes were taken for a checkpoint");
        }
        let header = String::from_utf8_lossy(&bytes).find("step").expect("the entry");
        for at in (header..header + 20).chain(bytes.len() - 6..bytes.len()) {
            let mut other = bytes.clone();
            other[at] ^= 1;
            fs::write(&path, other).unwrap();
            let error = read_checkpoint(&path).unwrap_err().to_string();
            assert!(error.contains("checkpoint.safetensors: ") && error.contains("fix: remove"), "{error}");
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let newer = text.replace("\\\"schema\\\":1", "\\\"schema\\\":9");
        assert_ne!(newer, text);
        fs::write(&path, newer).unwrap();
        let error = read_checkpoint(&path).unwrap_err().to_string();
        assert!(error.contains("version 9"), "{error}");
    }
}
