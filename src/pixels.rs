//! 8-bit pictures on the host: what is written to and read from image files, and what rewards that look at
//! bytes see. One rounding rule for all of them.

use std::path::Path;

use crate::error::{Error, Result};

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
        let reader = image::ImageReader::open(path).and_then(|r| r.with_guessed_format()).map_err(|e| {
            Error::io(format!("{}: cannot be read", path.display()))
                .because(e)
                .fix("check the path of the image")
        })?;
        if reader.format().is_none() {
            return Err(
                Error::io(format!("{}: not an image", path.display())).fix("give PNG, JPEG or WebP files")
            );
        }
        let rgb = reader
            .decode()
            .map_err(|e| fail(Box::new(e)).fix("give undamaged PNG, JPEG or WebP files"))?
            .into_rgb8();
        Ok(Picture::new(rgb.width() as usize, rgb.height() as usize, rgb.into_raw()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
