//! All particles in one picture.

use crate::pixels::Picture;

/// Ground between the pictures, and the frame around the best.
const GROUND: [u8; 3] = [24, 24, 27];
const BEST: [u8; 3] = [255, 196, 0];

/// Tiles pictures of one size, row by row, as near to a square as their number allows. The gap is 1/32 of the
/// width, at least 2 pixels; the picture `best` is framed, half a gap wide.
#[track_caller]
pub fn grid(pictures: &[Picture], best: Option<usize>) -> Picture {
    let [first, ..] = pictures else { panic!("a grid of no pictures") };
    let (w, h) = (first.width, first.height);
    assert!(pictures.iter().all(|p| (p.width, p.height) == (w, h)), "a grid of pictures of unlike sizes");
    let gap = (w / 32).max(2);
    let columns = (1..).find(|c| c * c >= pictures.len()).unwrap_or(1);
    let rows = pictures.len().div_ceil(columns);
    let (width, height) = (columns * (w + gap) + gap, rows * (h + gap) + gap);
    let mut out = Picture::new(width, height, GROUND.repeat(width * height));
    for (i, picture) in pictures.iter().enumerate() {
        let (left, top) = (gap + i % columns * (w + gap), gap + i / columns * (h + gap));
        if best == Some(i) {
            let frame = gap.div_ceil(2);
            let line = BEST.repeat(w + 2 * frame);
            (top - frame..top + h + frame).for_each(|y| put(&mut out, left - frame, y, &line));
        }
        for (y, row) in picture.rgb.chunks_exact(3 * w).enumerate() {
            put(&mut out, left, top + y, row);
        }
    }
    out
}

fn put(out: &mut Picture, x: usize, y: usize, row: &[u8]) {
    let at = 3 * (y * out.width + x);
    out.rgb[at..at + row.len()].copy_from_slice(row);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(value: u8) -> Picture {
        Picture::new(8, 4, vec![value; 8 * 4 * 3])
    }
    fn pixel(picture: &Picture, x: usize, y: usize) -> &[u8] {
        &picture.rgb[3 * (y * picture.width + x)..][..3]
    }

    #[test]
    fn every_picture_has_its_place_and_the_best_a_frame() {
        let grid = grid(&[1, 2, 3, 4, 5].map(flat), Some(4));
        assert_eq!((grid.width, grid.height), (3 * 10 + 2, 2 * 6 + 2));
        for (i, (x, y)) in [(2, 2), (12, 2), (22, 2), (2, 8), (12, 8)].into_iter().enumerate() {
            assert_eq!(pixel(&grid, x, y), [i as u8 + 1; 3]);
            assert_eq!(pixel(&grid, x + 7, y + 3), [i as u8 + 1; 3]);
            let around = if i == 4 { BEST } else { GROUND };
            assert_eq!(pixel(&grid, x - 1, y), around, "left of picture {i}");
            assert_eq!(pixel(&grid, x + 8, y + 3), around, "right of picture {i}");
        }
        assert_eq!(pixel(&grid, 22, 8), GROUND, "an empty place");
    }

    #[test]
    fn one_picture_is_a_grid_too() {
        let grid = grid(&[flat(9)], None);
        assert_eq!((grid.width, grid.height), (12, 8));
        assert_eq!(pixel(&grid, 1, 1), GROUND);
    }
}
