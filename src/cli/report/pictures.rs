//! Pictures, embedded in the page.

use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use maud::{Markup, html};

use crate::cli::look::{Particle, Run, safe};
use crate::cli::save::BEST;
use crate::cli::words::{self, clean};
use crate::hash::sha256_of_file;
use crate::pixels::Picture;
use crate::regular;
use crate::run::PREVIEWS;

/// Pictures whose sides are no longer than this are embedded as they are; others are scaled down.
const LONGEST: usize = 512;
/// Of pictures that are scaled down.
const JPEG_QUALITY: u8 = 88;
/// Most previews of a run.
const MOST_PREVIEWS: usize = 16;
/// Most bytes of a file that is embedded as it is.
const MOST_BYTES: u64 = 1 << 22;

/// The picture in a file as a data URI; why there is none, in a few words.
pub fn embed(path: &Path) -> Result<String, &'static str> {
    let uri =
        |kind: &str, bytes: &[u8]| format!("data:image/{kind};base64,{}", BASE64_STANDARD.encode(bytes));
    if !path.exists() {
        return Err("the file is gone");
    }
    let picture = Picture::read(path).map_err(|_| "the file is damaged")?;
    let longest = picture.width.max(picture.height);
    if longest <= LONGEST {
        let whole = regular::read(path, MOST_BYTES).ok();
        if let Some((kind, bytes)) = whole.and_then(|bytes| Some((kind(&bytes)?, bytes))) {
            return Ok(uri(kind, &bytes));
        }
    }
    smaller(&picture).map(|bytes| uri("jpeg", &bytes)).ok_or("it cannot be made smaller")
}

/// The picture that a file of `folder` names as a data URI; why there is none.
pub fn embed_named(folder: &Path, named: &str) -> Result<String, &'static str> {
    safe(folder, named).map_or(Err("its path leads out of the folder"), |path| embed(&path))
}

/// A chart in a file of SVG as a data URI. As a picture it runs no script and asks nobody for anything.
pub fn embed_svg(path: &Path) -> Result<String, &'static str> {
    let bytes = regular::read(path, MOST_BYTES).map_err(|_| "the file cannot be read, or is too large")?;
    Ok(format!("data:image/svg+xml;base64,{}", BASE64_STANDARD.encode(bytes)))
}

/// What the bytes of a picture are, for browsers.
fn kind(bytes: &[u8]) -> Option<&'static str> {
    match image::guess_format(bytes).ok()? {
        image::ImageFormat::Png => Some("png"),
        image::ImageFormat::Jpeg => Some("jpeg"),
        image::ImageFormat::WebP => Some("webp"),
        _ => None,
    }
}

/// The picture as a JPEG whose sides are at most [`LONGEST`].
fn smaller(picture: &Picture) -> Option<Vec<u8>> {
    let side = |pixels: usize| u32::try_from(pixels).ok();
    let whole = image::RgbImage::from_raw(side(picture.width)?, side(picture.height)?, picture.rgb.clone())?;
    let scale = (LONGEST as f64 / picture.width.max(picture.height) as f64).min(1.0);
    let to = |pixels: usize| ((pixels as f64 * scale).round() as u32).max(1);
    let scaled = image::imageops::resize(&whole, to(picture.width), to(picture.height), FilterType::Lanczos3);
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY).encode_image(&scaled).ok()?;
    Some(bytes)
}

/// A picture, or in its place why there is none.
pub fn picture(embedded: &Result<String, &'static str>, alt: &str) -> Markup {
    html! {
        @match embedded {
            Ok(uri) => img src=(uri) alt=(clean(alt)) loading="lazy";,
            Err(why) => span.gone role="img" aria-label=(format!("{}: {why}", clean(alt))) { (why) },
        }
    }
}

/// The picture of a particle. That of the chosen one is there twice.
pub fn of_particle(run: &Run, particle: &Particle) -> Result<String, &'static str> {
    let own = match &particle.path {
        None => Err("not saved"),
        Some(named) => embed_named(&run.folder, named),
    };
    match own {
        Err(why) if particle.is_best => embed(&run.folder.join(BEST)).map_err(|_| why),
        own => own,
    }
}

/// Whether the particle's picture is there and is another file than the one that was recorded.
fn is_another(run: &Run, particle: &Particle) -> bool {
    let file = particle.path.as_ref().and_then(|named| safe(&run.folder, named));
    match (file.map(|path| sha256_of_file(&path)), &particle.sha256) {
        (Some(Ok((_, now))), Some(recorded)) => now != *recorded,
        _ => false,
    }
}

/// The pictures of a run, those of the largest weights first: `most` of them, beside the one that was chosen.
pub fn gallery(run: &Run, most: usize) -> Markup {
    let mut order: Vec<&Particle> = run.particles.iter().collect();
    order.sort_by(|a, b| {
        let key = |p: &Particle| (p.weight, p.target.unwrap_or(f64::NEG_INFINITY));
        key(b).partial_cmp(&key(a)).unwrap_or(std::cmp::Ordering::Equal).then(a.index.cmp(&b.index))
    });
    let chosen = order.iter().find(|p| p.is_best).copied();
    let left_out = order.len().saturating_sub(most);
    // The chosen one is there in any case.
    let shown: Vec<&Particle> =
        order.iter().enumerate().filter(|(i, p)| *i < most || p.is_best).map(|(_, p)| *p).collect();
    let others: Vec<String> =
        shown.iter().filter(|p| is_another(run, p)).map(|p| p.index.to_string()).collect();
    let heaviest = order.iter().map(|p| p.weight).fold(0.0, f64::max);
    let file = |p: &Particle| of_particle(run, p);
    html! {
        @if run.particles.is_empty() { @let best = embed(&run.folder.join(BEST));
            @if best.is_ok() {
                div.viewer { (picture(&best, &format!("the best picture so far, {}", run.text("prompt")))) }
            }
        } @else {
            div.gallery {
                @if let Some(best) = chosen {
                    figure.viewer {
                        (picture(&file(best), &format!("particle {}, the chosen one", best.index)))
                        figcaption { output aria-live="polite" { (about(best)) } }
                    }
                }
                ul.pictures aria-label="All particles, the largest weights first" {
                    @for p in shown {
                        li data-p=(p.index) data-say=(about(p)) class=[p.is_best.then_some("chosen")] {
                            button type="button" { (picture(&file(p), &about(p))) }
                            @let share = p.weight / heaviest.max(f64::MIN_POSITIVE);
                            svg.weight viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true" {
                                path.whole d="M0 2H100" {}
                                path d=(format!("M0 2H{:.1}", 100.0 * share)) {}
                            }
                            p {
                                b { (p.index) } @if p.is_best { " chosen" }
                                br;
                                (words::maybe(p.target)) span.soft { " w " (words::weight(p.weight)) }
                                @for (name, value) in &p.eval_rewards {
                                    br;
                                    span.soft { (words::short(name, 14)) " " (words::maybe(value.as_f64())) }
                                }
                            }
                        }
                    }
                }
            }
            @if !others.is_empty() {
                ul.notes { li.bad {
                    "Not the files that were recorded, by their hashes: pictures of particles " (others.join(", ")) "."
                } }
            }
            @if left_out > 0 {
                p.about {
                    (left_out) " particles of smaller weight are left out here; --pictures shows more."
                }
            }
        }
    }
}

/// What the particles were about to become, step after step, at most `most` pictures evenly spread.
pub fn previews(run: &Run, most: usize) -> Markup {
    let listed = std::fs::read_dir(run.folder.join(PREVIEWS)).into_iter().flatten().flatten();
    let mut names: Vec<String> = listed
        .filter_map(|entry| entry.file_name().into_string().ok()?.strip_suffix(".png").map(String::from))
        .collect();
    names.sort();
    let apart = names.len().div_ceil(most.clamp(1, MOST_PREVIEWS)).max(1);
    let said = |name: &str| match name.split_once('-') {
        Some((population, steps)) => {
            format!("population {population}, step {}", steps.trim_start_matches('0'))
        }
        None => format!("step {}", name.trim_start_matches('0')),
    };
    html! {
        @if !names.is_empty() {
            h3 { "On the way" }
            p.about { "The predicted clean pictures of all particles; the last ones are above." }
            ul.previews tabindex="0" aria-label="Previews" {
                @for name in names.iter().step_by(apart) {
                    @let embedded = embed(&run.folder.join(PREVIEWS).join(format!("{name}.png")));
                    li {
                        (picture(&embedded, &format!("all particles, {}", said(name))))
                        span.soft { (clean(&said(name))) }
                    }
                }
            }
        }
    }
}

/// A particle in a sentence.
pub fn about(p: &Particle) -> String {
    let chosen = if p.is_best { ", chosen" } else { "" };
    let held_out = p
        .eval_rewards
        .iter()
        .map(|(name, value)| format!(", {} {}", clean(name), words::maybe(value.as_f64())));
    format!(
        "particle {}{chosen}: reward {}{}, weight {}",
        p.index,
        words::maybe(p.target),
        held_out.collect::<String>(),
        words::weight(p.weight)
    )
}
