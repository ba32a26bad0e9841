//! Weights for LPIPS that are numbers of a hash, as tools/golden/perceptual.py has them.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

/// Channels in and out, and side of the kernel, of AlexNet's convolutions; torchvision's places of them.
const CONVS: [(usize, usize, usize, &str); 5] =
    [(3, 64, 11, "0"), (64, 192, 5, "3"), (192, 384, 3, "6"), (384, 256, 3, "8"), (256, 256, 3, "10")];

/// Numbers in [0, 1): splitmix64 of the stream and the place.
pub fn hashed(stream: u64, count: usize) -> impl Iterator<Item = f64> {
    (0..count as u64).map(move |i| {
        let mut z = (i + (stream << 40) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f64 / 16_777_216.0
    })
}

/// Numbers around `middle`, as bytes of f32.
fn spread(stream: u64, count: usize, spread: f64, middle: f64) -> Vec<u8> {
    hashed(stream, count).flat_map(|u| ((middle + spread * (2.0 * u - 1.0)) as f32).to_le_bytes()).collect()
}

/// Which files the weights are in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// torchvision's network, and the channels' weights.
    Two,
    /// The package's whole network.
    One,
}

/// Writes the weights into `folder`; returns the file of the network and that of the channels' weights.
pub fn write(folder: &Path, layout: Layout) -> [PathBuf; 2] {
    let (mut network, mut linear) = (Vec::new(), Vec::new());
    for (i, (input, output, side, place)) in CONVS.into_iter().enumerate() {
        let name = match layout {
            Layout::Two => format!("features.{place}"),
            Layout::One => format!("net.slice{}.{place}", i + 1),
        };
        let fan = input * side * side;
        let kernel = spread(2 * i as u64, output * fan, (6.0 / fan as f64).sqrt(), 0.0);
        network.push((format!("{name}.weight"), vec![output, input, side, side], kernel));
        network.push((format!("{name}.bias"), vec![output], spread(2 * i as u64 + 1, output, 0.1, 0.0)));
        let weights = spread(20 + i as u64, output, 0.5, 0.5);
        linear.push((format!("lin{i}.model.1.weight"), vec![1, output, 1, 1], weights));
    }
    let save = |name: &str, tensors: &[(String, Vec<usize>, Vec<u8>)]| -> PathBuf {
        let views = tensors.iter().map(|(name, dims, bytes)| {
            (name.as_str(), TensorView::new(Dtype::F32, dims.clone(), bytes).expect("a tensor"))
        });
        let path = folder.join(name);
        serialize_to_file(views, None, &path).expect("a file");
        path
    };
    match layout {
        Layout::Two => [save("alexnet.safetensors", &network), save("alex.safetensors", &linear)],
        Layout::One => {
            let whole = save("lpips.safetensors", &[network, linear].concat());
            [whole.clone(), whole]
        }
    }
}
