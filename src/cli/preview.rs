//! `--preview`: what the particles are about to become, as a picture every few steps. A run does not know of
//! it: an evaluation of the UNet more, and nothing else.

use image::imageops::{FilterType, resize};

use super::options::Options;
use crate::assets::SHAPES;
use crate::error::{Error, Result};
use crate::pixels::Picture;
use crate::run::{RunDir, grid};
use crate::sampler::Step;
use crate::session::{Run, Session};

/// Most pixels of a side of a particle in a preview.
const SIDE: usize = 256;

/// Red, green and blue in [0, 1] as a linear map of the four channels of a latent (docs/spec.md 6.4).
#[derive(Debug, PartialEq)]
struct Colours {
    factors: [[f32; 4]; 3],
    offset: [f32; 3],
}

/// Of the autoencoder of Stable Diffusion 1.x and 2.x. Published for values in [-1, 1], halved here.
static STABLE_DIFFUSION: Colours = Colours {
    factors: [
        [0.298 / 2.0, 0.187 / 2.0, -0.158 / 2.0, -0.184 / 2.0],
        [0.207 / 2.0, 0.286 / 2.0, 0.189 / 2.0, -0.271 / 2.0],
        [0.208 / 2.0, 0.173 / 2.0, 0.264 / 2.0, -0.473 / 2.0],
    ],
    offset: [0.5; 3],
};

/// Of that of XL. Published for values up to 255.
static XL: Colours = Colours {
    factors: [
        [60.0 / 255.0, -60.0 / 255.0, 25.0 / 255.0, -70.0 / 255.0],
        [60.0 / 255.0, -5.0 / 255.0, 15.0 / 255.0, -50.0 / 255.0],
        [60.0 / 255.0, 10.0 / 255.0, -5.0 / 255.0, -35.0 / 255.0],
    ],
    offset: [150.0 / 255.0, 140.0 / 255.0, 130.0 / 255.0],
};

/// The pipeline of Stable Diffusion XL.
const XL_CLASS: &str = "StableDiffusionXLPipeline";

/// When previews are written, and how.
#[derive(Debug)]
pub struct Preview {
    /// Steps from one to the next.
    every: usize,
    /// `None`: by the decoder.
    colours: Option<&'static Colours>,
    /// Pixels of a latent's side.
    scale: usize,
}

impl Preview {
    /// As the options ask; `None` where they ask for none.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for a model whose latents no map to colours is known of.
    pub fn new(options: &Options, session: &Session) -> Result<Option<Preview>> {
        let Some(every) = options.preview else { return Ok(None) };
        let scale = session.pipeline().decoder.scale();
        let channels = session.size(&options.sample)?.latent.c;
        // That of `shapes` is smaller than any map would be worth.
        if options.preview_decoder || session.model_name() == SHAPES {
            return Ok(Some(Preview { every, colours: None, scale }));
        }
        if channels != 4 {
            return Err(Error::usage(format!(
                "--preview: no colours are known of latents of {channels} channels"
            ))
            .advice("add --preview-decoder"));
        }
        let xl = session.folder().family().class == XL_CLASS;
        Ok(Some(Preview { every, colours: Some(if xl { &XL } else { &STABLE_DIFFUSION }), scale }))
    }

    /// Writes the preview after a step, if one is due. After the last there is the result.
    ///
    /// # Errors
    /// From the device, and of the file.
    pub fn write(&self, run: &Run<'_>, step: &Step, folder: &RunDir) -> Result<()> {
        let (done, transitions) = (step.step + 1, run.steps() - 1);
        if !done.is_multiple_of(self.every) || done >= transitions {
            return Ok(());
        }
        let latents = run.predicted()?;
        let pictures = match self.colours {
            None => run.decode(&latents)?,
            Some(colours) => {
                let shape = latents.shape();
                let values = run.download(&latents)?;
                values.chunks(shape.sample()).map(|one| colours.picture(shape.w, shape.h, one)).collect()
            }
        };
        let scale = if self.colours.is_some() { self.scale } else { 1 };
        let pictures: Vec<Picture> = pictures.iter().map(|picture| sized(picture, scale)).collect();
        let population = (run.populations() > 1).then(|| run.population());
        folder.write_png(&RunDir::preview_name(population, done), &grid(&pictures, None), None).map(drop)
    }
}

impl Colours {
    /// The picture of a latent `(h, w, 4)`, a pixel for each of its places.
    fn picture(&self, width: usize, height: usize, latent: &[f32]) -> Picture {
        let pixel = |x: &[f32]| -> [f32; 3] {
            std::array::from_fn(|c| {
                self.offset[c] + self.factors[c].iter().zip(x).map(|(factor, x)| factor * x).sum::<f32>()
            })
        };
        let pixels: Vec<f32> = latent.chunks_exact(4).flat_map(pixel).collect();
        Picture::from_floats(width, height, &pixels)
    }
}

/// The picture `scale` times as large, or as large as previews are at most.
fn sized(picture: &Picture, scale: usize) -> Picture {
    let longest = picture.width.max(picture.height);
    let wanted = (longest * scale).min(SIDE);
    let side = |pixels: usize| ((pixels * wanted).div_ceil(longest)) as u32;
    let size = (picture.width as u32, picture.height as u32);
    let Some(whole) = image::RgbImage::from_raw(size.0, size.1, picture.rgb.clone()) else {
        return picture.clone();
    };
    let scaled = resize(&whole, side(picture.width), side(picture.height), FilterType::Triangle);
    Picture::new(scaled.width() as usize, scaled.height() as usize, scaled.into_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: the first channel alone at 1 is 0.5 + 0.149 red, and so on; 255 times that, rounded.
    #[test]
    fn colours_are_those_that_were_published() {
        let picture = STABLE_DIFFUSION.picture(2, 1, &[0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        assert_eq!(picture.rgb, [128, 128, 128, 165, 154, 154]);
        assert_eq!(XL.picture(1, 1, &[0.0; 4]).rgb, [150, 140, 130]);
        assert_eq!(XL.picture(1, 1, &[0.0, 1.0, 0.0, 0.0]).rgb, [90, 135, 140]);
    }

    #[test]
    fn previews_are_as_large_as_pictures_and_never_too_large() {
        let size = |w: usize, h: usize, scale: usize| {
            let picture = sized(&Picture::new(w, h, vec![7; 3 * w * h]), scale);
            assert!(picture.rgb.iter().all(|value| *value == 7));
            (picture.width, picture.height)
        };
        assert_eq!([size(8, 4, 8), size(64, 64, 8), size(64, 128, 8)], [(64, 32), (256, 256), (128, 256)]);
        assert_eq!([size(64, 64, 1), size(1024, 512, 1)], [(64, 64), (256, 128)]);
    }
}
