//! Latents as safetensors: one tensor `latents` of shape particles x channels x height x width, the order
//! every other program uses. In memory they are `(n, h, w, c)`.

use std::collections::HashMap;
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::file::{FIX_REPORT, write_atomic};
use super::record::SCHEMA;
use crate::error::{Error, Result};
use crate::regular;
use crate::tensor::Shape;

/// Most bytes of what stands before the numbers, and of other tensors beside them.
const MOST_OF_HEADER: u64 = 1 << 28;

/// Writes `latents`, `(n, h, w, c)` in memory, as f32.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
#[track_caller]
pub fn save_latents(path: &Path, shape: Shape, latents: &[f32]) -> Result<()> {
    assert_eq!(shape.len(), latents.len(), "latents of shape {shape}");
    let Shape { n, h, w, c } = shape;
    let moved = transpose(latents, n, h * w, c);
    let bytes: Vec<u8> = moved.iter().flat_map(|x| x.to_le_bytes()).collect();
    let fail = |e| Error::io(format!("{}: cannot be encoded", path.display())).because(e).advice(FIX_REPORT);
    let view = TensorView::new(Dtype::F32, vec![n, c, h, w], &bytes).map_err(fail)?;
    let metadata = HashMap::from([("schema".to_string(), SCHEMA.to_string())]);
    write_atomic(path, &safetensors::serialize([("latents", view)], Some(metadata)).map_err(fail)?)
}

/// Reads latents for `expected` `(n, h, w, c)`: returned in that order.
///
/// # Errors
/// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file: not readable, no safetensors file, no tensor
/// `latents`, elements other than f32, f16 or bf16, a value that is not finite.
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage), naming the flags that decide it, for another shape.
pub fn load_latents(path: &Path, expected: Shape) -> Result<Vec<f32>> {
    let fail = |what: String| {
        let Shape { n, h, w, c } = expected;
        Error::io(format!("`latents` {}: {what}", path.display())).option("latents").advice(format!(
            "give a safetensors file with one tensor \"latents\" of shape [{n}, {c}, {h}, {w}] \
             (particles, channels, height, width), as `save_latents` writes"
        ))
    };
    // As long as latents of any type may be, and a header.
    let most = (8 * expected.len() as u64).saturating_add(MOST_OF_HEADER);
    let bytes = regular::read(path, most).map_err(|e| fail("cannot be read".into()).because(e))?;
    let file =
        SafeTensors::deserialize(&bytes).map_err(|e| fail("not a safetensors file".into()).because(e))?;
    let view = file.tensor("latents").map_err(|_| {
        let names = file.names().into_iter().take(4).map(|n| format!("\"{n}\"")).collect::<Vec<_>>();
        match names.is_empty() {
            true => fail("holds no tensor".into()),
            false => fail(format!("holds no tensor \"latents\" but {}", names.join(", "))),
        }
    })?;
    let Shape { n, h, w, c } = expected;
    if view.shape() != [n, c, h, w] {
        return Err(unlike(path, view.shape(), expected));
    }
    let data = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::BF16 => data.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        other => {
            return Err(fail(format!("\"latents\" has elements of type {other:?}, not F32, F16 or BF16")));
        }
    };
    if let Some(at) = values.iter().position(|x| !x.is_finite()) {
        let particle = at / expected.sample().max(1);
        return Err(fail(format!("\"latents\" holds {} in particle {particle}", values[at])));
    }
    Ok(transpose(&values, n, c, h * w))
}

/// Latents of another shape than the options ask for.
fn unlike(path: &Path, found: &[usize], Shape { n, h, w, c }: Shape) -> Error {
    let fix = match *found {
        [particles, channels, height, width] if [channels, height, width] == [c, h, w] => {
            format!("give `particles` {particles}, or a file of {n} latents")
        }
        _ => "choose `particles`, `width`, `height` and the model as for the run that saved the latents"
            .to_string(),
    };
    Error::usage(format!(
        "`latents` {}: \"latents\" has shape {found:?}, and this run needs [{n}, {c}, {h}, {w}] \
         (particles, channels, height, width)",
        path.display()
    ))
    .option("latents")
    .advice(fix)
}

/// `(n, rows, columns) -> (n, columns, rows)`.
fn transpose(x: &[f32], n: usize, rows: usize, columns: usize) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    let size = rows * columns;
    for i in 0..n {
        for r in 0..rows {
            for c in 0..columns {
                y[i * size + c * rows + r] = x[i * size + r * columns + c];
            }
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape::new(2, 3, 5, 4);

    fn latents() -> Vec<f32> {
        (0..SHAPE.len()).map(|i| i as f32 * 0.37 - 20.0).collect()
    }

    #[test]
    fn latents_come_back_bit_for_bit_and_lie_channels_first_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("latents.safetensors");
        save_latents(&path, SHAPE, &latents()).unwrap();
        assert_eq!(load_latents(&path, SHAPE).unwrap(), latents());
        let bytes = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let view = file.tensor("latents").unwrap();
        assert_eq!(view.shape(), [2, 4, 3, 5]);
        // Channel 1 at (0, 0) of particle 0 stands after the 15 positions of channel 0.
        let second = &view.data()[15 * 4..16 * 4];
        assert_eq!(f32::from_le_bytes(second.try_into().unwrap()), latents()[1]);
    }

    #[test]
    fn half_precision_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.safetensors");
        let bytes: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F16, vec![1, 2, 1, 1], &bytes).unwrap();
        std::fs::write(&path, safetensors::serialize([("latents", view)], None).unwrap()).unwrap();
        assert_eq!(load_latents(&path, Shape::rows(1, 2)).unwrap(), [1.5, -2.0]);
    }

    #[test]
    fn what_cannot_be_used_is_named_with_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.safetensors");
        let error = |shape| load_latents(&path, shape).unwrap_err().to_string();
        assert!(error(SHAPE).contains("cannot be read"));
        std::fs::write(&path, "text").unwrap();
        assert!(error(SHAPE).contains("not a safetensors file"));
        save_latents(&path, SHAPE, &latents()).unwrap();
        let text = error(SHAPE.with_n(3));
        assert!(text.contains("[2, 4, 3, 5]") && text.contains("[3, 4, 3, 5]"), "{text}");
        assert!(text.contains("`particles` 2"), "{text}");
        assert!(
            error(Shape::new(2, 5, 3, 4)).contains("`width`, `height`"),
            "{}",
            error(Shape::new(2, 5, 3, 4))
        );
        let mut bad = latents();
        bad[70] = f32::NAN;
        save_latents(&path, SHAPE, &bad).unwrap();
        assert!(error(SHAPE).contains("NaN in particle 1"), "{}", error(SHAPE));
        let bytes = [0; 8];
        let view = TensorView::new(Dtype::I64, vec![1, 1, 1, 1], &bytes).unwrap();
        std::fs::write(&path, safetensors::serialize([("latents", &view)], None).unwrap()).unwrap();
        assert!(error(Shape::rows(1, 1)).contains("I64"));
        std::fs::write(&path, safetensors::serialize([("z", view)], None).unwrap()).unwrap();
        assert!(error(Shape::rows(1, 1)).contains("\"z\""));
    }
}
