//! The golden file is `tools/golden/checker.py`'s, made by the definition in Python.

use serde::Deserialize;

use super::*;
use crate::error::ErrorKind;

/// A description as in `tools/shapes/captions.py`: of each of two objects whether it is named, size, colour,
/// shape and place; then the ground. -1 is "not said".
type Numbers = [i32; 11];

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Prompt { prompt: String, said: Numbers },
    Image(Image),
}

/// A lossless WebP in base64, and noise that is added to it.
#[derive(Deserialize)]
struct Image {
    what: String,
    webp: String,
    noise: [u32; 2],
    found: Numbers,
    objects: usize,
    /// `None`: the prompt states nothing.
    judged: Vec<(String, Option<bool>)>,
}

fn lines() -> Vec<Line> {
    let file = include_str!("../../../tests/golden/checker.jsonl");
    file.lines().map(|line| serde_json::from_str(line).expect("a line of the golden file")).collect()
}

fn numbers(objects: &[Object], ground: Option<usize>) -> Numbers {
    let number = |attribute: Option<usize>| attribute.map_or(-1, |i| i as i32);
    let mut all = [-1; 11];
    for (slot, object) in all.chunks_mut(5).zip(objects) {
        let attributes = [object.size, object.colour, object.shape, object.place].map(number);
        slot[0] = 1;
        slot[1..].copy_from_slice(&attributes);
    }
    all[10] = number(ground);
    all
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        let value = DIGITS.iter().position(|d| *d == digit).expect("a digit of base64");
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

/// `noisy` of `tools/golden/checker.py`.
fn noise(at: usize, [seed, amplitude]: [u32; 2]) -> i32 {
    let h = (at as u32).wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(2_654_435_769));
    let h = (h ^ h >> 16).wrapping_mul(73_244_475);
    ((h ^ h >> 16) % (2 * amplitude + 1)) as i32 - amplitude as i32
}

fn picture(image: &Image) -> Picture {
    let format = image::ImageFormat::WebP;
    let rgb = image::load_from_memory_with_format(&base64(&image.webp), format).expect("a WebP").into_rgb8();
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    let bytes = rgb.into_raw().into_iter().enumerate();
    let moved = |(at, byte)| (i32::from(byte) + noise(at, image.noise)).clamp(0, 255) as u8;
    Picture::new(width, height, bytes.map(moved).collect())
}

#[test]
fn prompts_say_what_the_definition_reads_in_them() {
    let mut count = 0;
    for line in lines() {
        let Line::Prompt { prompt, said: expected } = line else { continue };
        let said = parse(&prompt);
        assert_eq!(numbers(&said.objects, said.ground), expected, "\"{prompt}\"");
        count += 1;
    }
    assert!(count >= 64, "found only {count} prompts");
}

/// The definition draws shapes in f32 and this port in f64, about 1e-7 apart: too little to change a word in
/// any picture of the file.
#[test]
fn pictures_show_what_the_definition_finds_in_them() {
    let (mut wrong, mut judged, mut held, mut unjudged) = (Vec::new(), 0, 0, 0);
    for line in lines() {
        let Line::Image(image) = line else { continue };
        let picture = picture(&image);
        let found = look(&picture);
        let described = (numbers(&found.objects, Some(found.ground)), found.count);
        if described != (image.found, image.objects) {
            wrong.push(format!("{}: {described:?}, not {:?}, {}", image.what, image.found, image.objects));
        }
        for (prompt, expected) in &image.judged {
            let said = parse(prompt);
            let judgement = states_something(&said).then(|| shows(&found, &said));
            if judgement != *expected {
                wrong.push(format!("{}: not {expected:?} for \"{prompt}\"", image.what));
            }
            judged += usize::from(expected.is_some());
            held += usize::from(*expected == Some(true));
            unjudged += usize::from(expected.is_none());
        }
    }
    assert!(wrong.is_empty(), "{} of {judged} disagree:\n{}", wrong.len(), wrong.join("\n"));
    assert!(judged >= 150 && held * 3 > judged && held * 3 < judged * 2, "{held} of {judged} hold");
    assert!(unjudged > 0, "no prompt that states nothing");
}

#[test]
fn pictures_of_another_size_are_refused() {
    for (width, height) in [(64, 63), (512, 512), (0, 0)] {
        let picture = Picture::new(width, height, vec![0; 3 * width * height]);
        let error = checker_score(&picture, "a star").expect_err("another size");
        assert_eq!((error.kind(), error.option_name()), (ErrorKind::Usage, None));
        let text = error.to_string();
        assert!(text.contains("reward checker") && text.contains(&format!("{width}x{height}")), "{text}");
    }
}

#[test]
fn sizes_and_places_change_at_their_bounds() {
    let place = |x, y| world::place_of([32.0 + x, 32.0 + y]);
    assert_eq!([place(4.0, -4.0), place(9.1, -9.1), place(0.0, f64::NAN)], [Some(1), Some(6), None]);
    assert_eq!([place(-8.0, 5.9), place(8.0, -6.0), place(5.0, 7.1)], [Some(2), None, Some(5)]);
    assert_eq!([9.49, 9.5, 13.74, 13.75].map(world::size_of), [0, 1, 1, 2]);
}
