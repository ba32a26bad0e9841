//! JPEG size as a reward (docs/spec.md 7.5): `jpeg` prefers images that compress well, `incompressibility`
//! those that do not. The unit is kB, 1000 bytes, of a baseline JPEG of quality 95, chroma 4:2:0, standard
//! Huffman tables. The size in bytes is that of Pillow 13 with libjpeg-turbo, whatever the sides: colours and
//! what lies beyond the edges of a picture, up to whole units of 16x16, are made here as libjpeg makes them.
//! One difference is left: `jpeg_encoder` divides coefficients by reciprocals of 15 bits, which round a few
//! of more than 124 otherwise. That takes noise of nearly full contrast (measured on black and white noise:
//! up to 0.1 %).

use jpeg_encoder::{ChromaSubsamplingMethod, Encoder, ImageBuffer, JpegColorType, SamplingFactor};

use crate::error::{Error, Result};
use crate::pixels::Picture;

/// The size in kB, 1000 bytes.
///
/// # Errors
/// As [`jpeg_size`].
pub(super) fn kilobytes(picture: &Picture) -> Result<f64> {
    Ok(jpeg_size(picture)? as f64 / 1000.0)
}

const QUALITY: u8 = 95;
/// Divisor of a luma block's mean at this quality; the sum of its 64 pixels is divided by eight times as
/// much.
const LUMA_STEP: i32 = 2;

/// Sides of a block and of a unit of 4:2:0: four luma blocks and one of either chroma.
const BLOCK: usize = 8;
const UNIT: usize = 16;
/// The last whole unit that 16 bits can count.
const LARGEST_SIDE: usize = 65520;

/// Bytes of the JPEG file.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a picture that is empty or too large.
pub fn jpeg_size(picture: &Picture) -> Result<usize> {
    let sides = 1..=LARGEST_SIDE;
    if !sides.contains(&picture.width) || !sides.contains(&picture.height) {
        return Err(Error::usage(format!(
            "a JPEG file of a picture of {}x{}, expected sides of 1 to {LARGEST_SIDE} pixels",
            picture.width, picture.height
        ))
        .advice("score smaller pictures, or leave this reward out"));
    }
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder.set_chroma_subsampling_method(ChromaSubsamplingMethod::Average);
    encoder.encode_image(Planes::from_picture(picture)).map_err(|e| {
        Error::usage("a picture that cannot be encoded as JPEG").because(e).advice("leave this reward out")
    })?;
    Ok(file.len())
}

/// A picture in whole units, Y, Cb, Cr. The header states these sides rather than the true ones, in as many
/// bytes.
struct Planes {
    width: usize,
    height: usize,
    planes: [Vec<u8>; 3],
}

impl Planes {
    fn from_picture(picture: &Picture) -> Planes {
        let (w, h) = (picture.width, picture.height);
        let (width, height) = (w.next_multiple_of(UNIT), h.next_multiple_of(UNIT));
        let [mut luma, mut cb, mut cr] = [(); 3].map(|()| Vec::with_capacity(width * height));
        for y in 0..height {
            // Chroma is halved before it goes on below the edge: it is the last two rows that do, not the
            // last one.
            let row = if y < h { y } else { ((h - 1) & !1 | y & 1).min(h - 1) };
            for x in 0..width {
                let at = 3 * (row * w + x.min(w - 1));
                let colour = ycbcr([0, 1, 2].map(|c| i32::from(picture.rgb[at + c])));
                luma.push(if y < h { colour[0] } else { luma[(h - 1) * width + x] });
                cb.push(colour[1]);
                cr.push(colour[2]);
            }
        }
        let mut planes = Planes { width, height, planes: [luma, cb, cr] };
        planes.flatten_beyond(w.div_ceil(BLOCK), h.div_ceil(BLOCK));
        planes
    }

    /// Luma blocks wholly beyond the edges: libjpeg repeats the mean of the block before, without any detail.
    fn flatten_beyond(&mut self, columns: usize, rows: usize) {
        for row in 0..self.height / BLOCK {
            for column in 0..self.width / BLOCK {
                if row >= rows {
                    // Before a lower block of a unit comes its upper right one.
                    self.flatten(column, row, self.mean(column | 1, row - 1));
                } else if column >= columns {
                    self.flatten(column, row, self.mean(column - 1, row));
                }
            }
        }
    }

    /// The mean of a luma block as the file has it: in steps, halves away from zero.
    fn mean(&self, column: usize, row: usize) -> i32 {
        let sum: i32 = self.block(column, row).map(|at| i32::from(self.planes[0][at]) - 128).sum();
        let step = LUMA_STEP * BLOCK as i32;
        (sum.abs() + step / 2) / step * sum.signum()
    }

    /// A luma block of this mean, with detail so fine that none of it is left in the file: of the pixels in a
    /// square of two by two as many are one higher as the mean has quarters.
    fn flatten(&mut self, column: usize, row: usize, mean: i32) {
        const ORDER: [i32; 4] = [3, 1, 0, 2];
        for (i, at) in self.block(column, row).enumerate() {
            let quarters = ORDER[2 * (i / BLOCK % 2) + i % 2];
            self.planes[0][at] = (128 + (mean + quarters).div_euclid(4)).clamp(0, 255) as u8;
        }
    }

    /// Where the pixels of a block are.
    fn block(&self, column: usize, row: usize) -> impl Iterator<Item = usize> + use<> {
        let width = self.width;
        let first = BLOCK * (row * width + column);
        (0..BLOCK * BLOCK).map(move |i| first + i / BLOCK * width + i % BLOCK)
    }
}

/// libjpeg's conversion, in 65536ths: halves go up in Y and down in Cb and Cr. (That of `jpeg_encoder` takes
/// them down in Y too.)
fn ycbcr([r, g, b]: [i32; 3]) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let y = 19595 * r + 38470 * g + 7471 * b + HALF;
    let cb = -11059 * r - 21709 * g + 32768 * b + (128 << 16) + HALF - 1;
    let cr = 32768 * r - 27439 * g - 5329 * b + (128 << 16) + HALF - 1;
    [y, cb, cr].map(|x| (x >> 16) as u8)
}

impl ImageBuffer for Planes {
    fn get_jpeg_color_type(&self) -> JpegColorType {
        JpegColorType::Ycbcr
    }
    fn width(&self) -> u16 {
        self.width as u16
    }
    fn height(&self) -> u16 {
        self.height as u16
    }
    fn fill_buffers(&self, y: u16, buffers: &mut [Vec<u8>; 4]) {
        let row = usize::from(y) * self.width..(usize::from(y) + 1) * self.width;
        for (buffer, plane) in buffers.iter_mut().zip(&self.planes) {
            buffer.extend_from_slice(&plane[row.clone()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sixteen means in a row that are as long to write: if one of them left detail in the file, it would be
    /// longer.
    #[test]
    fn a_flat_block_of_any_mean_has_no_detail() {
        for first in [-512, -500, -272, -144, -80, -48, 32, 64, 112, 240, 492] {
            let sizes = (first..first + 16).map(|mean| {
                let mut planes = Planes { width: 16, height: 16, planes: [(); 3].map(|()| vec![128; 256]) };
                let blocks = [(0, 0), (1, 0), (0, 1), (1, 1)];
                blocks.into_iter().for_each(|(column, row)| planes.flatten(column, row, mean));
                assert!(blocks.into_iter().all(|(column, row)| planes.mean(column, row) == mean));
                let mut file = Vec::new();
                let mut encoder = Encoder::new(&mut file, QUALITY);
                encoder.set_sampling_factor(SamplingFactor::F_2_2);
                encoder.encode_image(planes).unwrap();
                file.len()
            });
            let sizes: Vec<usize> = sizes.collect();
            assert!(sizes.iter().all(|size| *size == sizes[0]), "{first}: {sizes:?}");
        }
    }
}
