//! 8-bit pictures on the host: what is written to and read from image files, and what rewards that look at
//! bytes see. One rounding rule for all of them.

use std::path::Path;

use crate::error::{Error, Result};
use crate::regular;

/// Most bytes of an image file. The decoder limits what its pixels may take.
const MOST_BYTES: u64 = 1 << 28;

/// An 8-bit RGB picture, rows from the top, `rgb.len() == 3 * width * height`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green and blue of each pixel.
    pub rgb: Vec<u8>,
}

/// `round(255 x)`, halves to even as PyTorch and NumPy do; outside [0, 1] clamped, NaN black.
pub fn byte(x: f32) -> u8 {
    (255.0 * x).round_ties_even().clamp(0.0, 255.0) as u8
}

impl Picture {
    /// A picture of these bytes. Panics unless there are `3 * width * height` of them.
    #[track_caller]
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Picture {
        assert_eq!(rgb.len(), 3 * width * height, "a picture of {width}x{height}");
        Picture { width, height, rgb }
    }

    /// From one image `(h, w, 3)` in [0, 1].
    pub fn from_floats(width: usize, height: usize, pixels: &[f32]) -> Picture {
        Picture::new(width, height, pixels.iter().map(|x| byte(*x)).collect())
    }

    /// `(h, w, 3)` in [0, 1]; [`Picture::from_floats`] inverts it exactly.
    pub fn to_floats(&self) -> Vec<f32> {
        self.rgb.iter().map(|b| f32::from(*b) / 255.0).collect()
    }

    /// Writes the picture as a PNG file.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let (path, size) = (path.as_ref(), (self.width as u32, self.height as u32));
        let png = image::ImageFormat::Png;
        image::save_buffer_with_format(path, &self.rgb, size.0, size.1, image::ExtendedColorType::Rgb8, png)
            .map_err(|e| {
                Error::io(format!("{}: cannot be written", path.display()))
                    .because(e)
                    .advice("choose a place that can be written and has room")
            })
    }

    /// A picture of which nothing but the size is known, for backends that do not compute.
    pub(crate) fn unseen(width: usize, height: usize) -> Picture {
        Picture { width, height, rgb: Vec::new() }
    }

    /// The picture as a PNG file in memory.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) for a picture that PNG cannot hold, such as one of no pixels.
    pub fn png(&self) -> Result<Vec<u8>> {
        use image::ImageEncoder;
        let mut file = Vec::new();
        let (width, height) = (self.width as u32, self.height as u32);
        image::codecs::png::PngEncoder::new(&mut file)
            .write_image(&self.rgb, width, height, image::ExtendedColorType::Rgb8)
            .map_err(|e| {
                Error::io(format!("a picture of {width}x{height} cannot be written as PNG")).because(e)
            })?;
        Ok(file)
    }

    /// Reads a PNG, JPEG or WebP file, whatever its name says. Grey becomes RGB, 16 bits become 8, an alpha
    /// channel is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](crate::ErrorKind::Io), naming the file: it cannot be opened, is no image, or is
    /// damaged.
    pub fn read(path: &Path) -> Result<Picture> {
        let fail = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::io(format!("{}: not readable as an image", path.display())).because(e)
        };
        let bytes = regular::read(path, MOST_BYTES).map_err(|e| {
            let fix = regular::fix(&e, "check the path of the image");
            Error::io(format!("{}: cannot be read", path.display())).because(e).advice(fix)
        })?;
        let format = image::guess_format(&bytes).map_err(|_| {
            Error::io(format!("{}: not an image", path.display())).advice("give PNG, JPEG or WebP files")
        })?;
        const UNDAMAGED: &str = "give undamaged PNG, JPEG or WebP files";
        if format == image::ImageFormat::Jpeg && !jpeg_is_whole(&bytes) {
            // The decoder would fill what is missing with grey.
            let what = format!("{}: a JPEG that ends before its picture does", path.display());
            return Err(Error::io(what).advice(UNDAMAGED));
        }
        let rgb = image::load_from_memory_with_format(&bytes, format)
            .map_err(|e| {
                let fix = match e {
                    image::ImageError::Limits(_) => {
                        "give a smaller picture: this one takes more than 512 MB to decode"
                    }
                    _ => UNDAMAGED,
                };
                fail(Box::new(e)).advice(fix)
            })?
            .into_rgb8();
        Ok(Picture::new(rgb.width() as usize, rgb.height() as usize, rgb.into_raw()))
    }
}

/// Whether the segments and scans of a JPEG are followed by its end-of-image marker (ITU T.81, annex B). What
/// comes behind that marker is of no matter, and neither is the end of a thumbnail inside a segment.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    const TEM: u8 = 0x01;
    const RST0: u8 = 0xd0;
    const RST7: u8 = 0xd7;
    const SOI: u8 = 0xd8;
    const EOI: u8 = 0xd9;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        // Between segments there are only markers; in a scan, anything up to the next marker is data.
        let Some(&code) = bytes.get(at + 1) else { return false };
        if byte != 0xff || matches!(code, 0x00 | 0xff) {
            at += 1;
            continue;
        }
        match code {
            EOI => return true,
            SOI | TEM | RST0..=RST7 => at += 2,
            _ => {
                // A scan's data follows its header; it is skipped byte by byte.
                let Some(length) = bytes.get(at + 2..at + 4) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A JPEG of noise, cut at every hundredth of its length.
    #[test]
    fn a_jpeg_that_is_cut_anywhere_is_refused() {
        let noise: Vec<u8> =
            (0..3 * 64 * 48_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let picture = image::RgbImage::from_raw(64, 48, noise).unwrap();
        let mut whole = Vec::new();
        image::codecs::jpeg::JpegEncoder::new_with_quality(&mut whole, 90).encode_image(&picture).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jpg");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Picture::read(&path)
        };
        assert_eq!(read(&whole).unwrap().width, 64);
        // Bytes behind the end, and a thumbnail's end inside a segment.
        assert!(read(&[&whole[..], b"\0\0trailer"].concat()).is_ok());
        let thumbnail =
            [&whole[..2], &[0xff, 0xe1, 0x00, 0x06, 0xff, 0xd8, 0xff, 0xd9], &whole[2..]].concat();
        assert!(read(&thumbnail).is_ok());
        for part in 1..100 {
            let error = read(&whole[..whole.len() * part / 100]).expect_err("cut").to_string();
            assert!(error.contains("p.jpg"), "{part} %: {error}");
        }
        let error = read(&whole[..whole.len() - 2]).expect_err("without its end").to_string();
        assert!(error.contains("ends before its picture does"), "{error}");
        assert!(read(&thumbnail[..thumbnail.len() * 2 / 3]).is_err());
    }

    #[test]
    fn bytes_are_rounded_not_truncated_and_survive_the_way_back() {
        assert_eq!([byte(0.9999), byte(0.0019), byte(0.002), byte(-3.0), byte(7.0)], [255, 0, 1, 0, 255]);
        assert_eq!([byte(0.1), byte(0.3)], [26, 76], "25.5 and 76.5 go to even");
        assert_eq!(byte(f32::NAN), 0);
        let all = Picture::new(16, 16, (0..=255).flat_map(|b| [b, 255 - b, b ^ 0x55]).collect());
        assert_eq!(Picture::from_floats(16, 16, &all.to_floats()), all);
    }

    #[test]
    fn files_that_are_no_images_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.png");
        let missing = Picture::read(&path).unwrap_err().to_string();
        assert!(missing.contains("notes.png"), "{missing}");
        std::fs::write(&path, "hello").unwrap();
        let text = Picture::read(&path).unwrap_err().to_string();
        assert!(text.contains("notes.png") && text.contains("fix:"), "{text}");
        // A PNG signature with nothing behind it.
        std::fs::write(&path, b"\x89PNG\r\n\x1a\n\0\0\0").unwrap();
        let cut = Picture::read(&path).unwrap_err().to_string();
        assert!(cut.contains("notes.png"), "{cut}");
    }
}
