//! The head of the aesthetic predictor: a stack of linear layers without activations between them, which is
//! one affine map of the image embedding (docs/spec.md 7.1). It is composed once, in f64, while loading.

use crate::error::{Error, Result};
use crate::mlp::Affine;
use crate::model::checkpoint::{Checkpoint, Weights};

/// `score = weight . embedding + bias`.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// One number per feature of the embedding.
    pub weight: Vec<f64>,
    /// Added to the product.
    pub bias: f64,
}

impl Head {
    /// Reads a head for embeddings of `width` numbers: LAION's `layers.{0,2,4,6,7}.{weight,bias}` (the
    /// numbers between are dropouts; any ascending numbers do), or one pair `weight`, `bias`.
    ///
    /// # Errors
    /// [`ErrorKind::Model`](crate::ErrorKind::Model), naming file and tensor: neither layout, layers that do
    /// not fit each other, another width, tensors left over.
    pub fn load(file: &Checkpoint, width: usize) -> Result<Head> {
        let head = Head::read(file, &file.root(), width)?;
        // Repositories of heads may have the tower that looks at the images in the same file.
        file.finish(&["vision_model.*", "visual_projection.*"])?;
        Ok(head)
    }

    /// The same from the place `root` of a file that holds more.
    ///
    /// # Errors
    /// As [`Head::load`], but for tensors left over.
    pub(super) fn read(file: &Checkpoint, root: &Weights<'_>, width: usize) -> Result<Head> {
        let layers: Vec<Weights<'_>> = match numbers(file, &root.full("layers.")) {
            numbers if !numbers.is_empty() => numbers.iter().map(|n| root.at("layers").at(n)).collect(),
            _ if root.has("weight") => vec![root.clone()],
            _ => {
                let names: Vec<&str> = file.names().take(4).collect();
                return Err(Error::model(format!(
                    "{}: no aesthetic head; it holds {}",
                    file.label(),
                    if names.is_empty() { "nothing".into() } else { names.join(", ") }
                ))
                .advice(
                    "give a safetensors file with layers.N.weight and layers.N.bias, or weight and bias",
                ));
            }
        };
        let mut inputs = width;
        let mut sizes = Vec::with_capacity(layers.len());
        for (i, layer) in layers.iter().enumerate() {
            let outputs = match layer.dims("weight") {
                // A layer without outputs is none; where 1 is expected the error will say so.
                Some([outputs, _]) if i + 1 < layers.len() => (*outputs).max(1),
                _ => 1,
            };
            sizes.push((outputs, inputs));
            inputs = outputs;
        }
        let mut read = Vec::with_capacity(layers.len());
        // From the last down: of a stack that does not fit, the last layer says so.
        for (layer, (outputs, inputs)) in layers.iter().zip(sizes).rev() {
            let weight = layer.tensor("weight", &[outputs, inputs])?;
            let bias = layer.tensor("bias", &[outputs])?;
            read.push((weight.data().to_f32().into_owned(), bias.data().to_f32().into_owned()));
        }
        read.reverse();
        let Affine { weight, bias, .. } = Affine::of(width, &read);
        let bias = bias.first().copied().unwrap_or_default();
        Ok(Head { weight, bias })
    }
}

/// The numbers in `layers.N.weight`, ascending; `layers` is the prefix `layers.` of the full names.
fn numbers(file: &Checkpoint, layers: &str) -> Vec<u32> {
    let number = |name: &str| name.strip_prefix(layers)?.strip_suffix(".weight")?.parse().ok();
    let mut numbers: Vec<u32> = file.names().filter_map(number).collect();
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    /// A safetensors file of f32 tensors, kept for the length of the test.
    fn file(tensors: &[(&str, &[usize], &[f32])]) -> Checkpoint {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|t| t.2.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
        let views = tensors
            .iter()
            .zip(&bytes)
            .map(|(t, b)| (t.0, TensorView::new(Dtype::F32, t.1.to_vec(), b).unwrap()));
        let file = safetensors::serialize(views, None).unwrap();
        Checkpoint::embedded("head", Vec::leak(file)).unwrap()
    }

    #[test]
    fn linear_layers_compose_into_one_map() {
        let stack = file(&[
            ("layers.0.weight", &[2, 3], &[1., 2., 3., 4., 5., 6.]),
            ("layers.0.bias", &[2], &[10., 20.]),
            // Ascending as numbers, not as text.
            ("layers.10.weight", &[1, 2], &[0.5, -1.0]),
            ("layers.10.bias", &[1], &[7.0]),
            ("layers.2.weight", &[2, 2], &[0., 1., 1., 0.]),
            ("layers.2.bias", &[2], &[1., 2.]),
        ]);
        // x -> (a, b) -> (b + 1, a + 2) -> (b + 1) / 2 - (a + 2) + 7
        let head = Head::load(&stack, 3).unwrap();
        assert_eq!(head.weight, [2.0 - 1.0, 2.5 - 2.0, 3.0 - 3.0]);
        assert_eq!(head.bias, 21.0 / 2.0 - 12.0 + 7.0);

        let pair = file(&[("weight", &[1, 2], &[3., 4.]), ("bias", &[1], &[5.])]);
        assert_eq!(Head::load(&pair, 2).unwrap(), Head { weight: vec![3.0, 4.0], bias: 5.0 });
    }

    #[test]
    fn a_head_that_does_not_fit_is_refused_by_name() {
        let says = |tensors: &[(&str, &[usize], &[f32])], width, what: &str| {
            let text = Head::load(&file(tensors), width).unwrap_err().to_string();
            assert!(text.contains("head") && text.contains(what), "{text}");
        };
        says(&[("weight", &[1, 2], &[3., 4.]), ("bias", &[1], &[5.])], 3, "weight");
        says(&[("w", &[1], &[3.])], 1, "no aesthetic head");
        says(&[("weight", &[2, 1], &[3., 4.]), ("bias", &[2], &[5., 5.])], 1, "weight");
        says(&[("weight", &[1, 1], &[3.]), ("bias", &[1], &[5.]), ("extra", &[1], &[5.])], 1, "extra");
        let empty: &[(&str, &[usize], &[f32])] = &[
            ("layers.0.weight", &[0, 1], &[]),
            ("layers.0.bias", &[0], &[]),
            ("layers.1.weight", &[1, 0], &[]),
            ("layers.1.bias", &[1], &[1.]),
        ];
        says(empty, 1, "layers.1.weight has shape [1, 0]");
        let gap: &[(&str, &[usize], &[f32])] = &[
            ("layers.0.weight", &[2, 1], &[1., 2.]),
            ("layers.0.bias", &[2], &[1., 2.]),
            ("layers.1.weight", &[1, 3], &[1., 2., 3.]),
            ("layers.1.bias", &[1], &[1.]),
        ];
        says(gap, 1, "layers.1.weight");
    }
}
