//! JPEG size as a reward (das-spec 7.5): `jpeg` prefers images that compress well, `incompressibility` those
//! that do not. The unit is kB, 1000 bytes, of a baseline JPEG of quality 95, chroma 4:2:0, standard Huffman
//! tables. Against Pillow 13 with libjpeg-turbo the size in bytes is equal where both sides are multiples of 16
//! (every latent model's default sizes); elsewhere the last row and column of blocks are padded differently and
//! files come out a little larger: measured 2.8 % at 67x45, 5.8 % at 8x8.

use jpeg_encoder::{ChromaSubsamplingMethod, ColorType, Encoder, SamplingFactor};

use super::host::HostReward;
use crate::error::{Error, Result};
use crate::pixels::Picture;

/// Minus the size in kB.
pub const fn compressibility() -> HostReward {
    HostReward::new("jpeg", 0.1, |picture| Ok(-kilobytes(picture)?))
}

/// The size in kB.
pub const fn incompressibility() -> HostReward {
    HostReward::new("incompressibility", 0.1, kilobytes)
}

fn kilobytes(picture: &Picture) -> Result<f64> {
    Ok(jpeg_size(picture)? as f64 / 1000.0)
}

/// Bytes of the JPEG file.
pub fn jpeg_size(picture: &Picture) -> Result<usize> {
    let (Ok(width), Ok(height)) = (u16::try_from(picture.width), u16::try_from(picture.height)) else {
        return Err(Error::usage(format!(
            "reward jpeg: {}x{} is larger than a JPEG can be (65535)",
            picture.width, picture.height
        )));
    };
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, 95);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder
        .encode(&picture.rgb, width, height, ColorType::Rgb)
        .map_err(|e| Error::usage("reward jpeg: image not encodable").because(e))?;
    Ok(file.len())
}
