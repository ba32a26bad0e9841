//! Prompts of the shapes world: what they say of objects and ground. The definition is `parse` of
//! `tools/shapes/captions.py`. Words that it does not know are ignored.

use super::world::{COLOURS, GROUNDS};

/// What is said of an object, or found: positions in the lists of sizes, colours, shapes and places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object {
    pub size: Option<usize>,
    pub colour: Option<usize>,
    pub shape: Option<usize>,
    pub place: Option<usize>,
}

/// What a prompt says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    /// One or two.
    pub objects: Vec<Object>,
    /// Position in the list of grounds.
    pub ground: Option<usize>,
}

/// Words for the sizes, the smallest first.
const SIZE_WORDS: [&[&str]; 3] = [&["small", "little", "tiny"], &["medium"], &["large", "big"]];
/// Words for the shapes, in the order of the list of shapes.
const SHAPE_WORDS: [&[&str]; 6] =
    [&["circle", "disk"], &["square"], &["triangle"], &["star"], &["ring"], &["cross", "plus"]];
/// Phrases for the places, in the order of their list; the first is no place.
const PLACE_PHRASES: [&[&str]; 7] = [
    &[],
    &["in the middle", "in the center"],
    &["on the left"],
    &["on the right"],
    &["at the top"],
    &["at the bottom"],
    &["in the corner"],
];

/// Reads a prompt such as "a small red star on the left and a ring on a blue background".
pub fn parse(prompt: &str) -> Caption {
    let letter = |c: char| if c.is_ascii_lowercase() || c == ',' { c } else { ' ' };
    let text: String = prompt.to_lowercase().chars().map(letter).collect();
    let text = text.replace("grey", "gray");
    let (head, ground) = match split_ground(&text) {
        Some((head, ground)) => (head, Some(ground)),
        None => (text.as_str(), None),
    };
    Caption { objects: head.split(" and ").take(2).map(object).collect(), ground }
}

/// What stands before the ground, and the ground, of texts that end with " on a COLOUR background",
/// " on COLOUR" or ", COLOUR background".
fn split_ground(text: &str) -> Option<(&str, usize)> {
    let text = text.trim_end_matches(' ');
    let text = text.strip_suffix(" background").unwrap_or(text);
    let (before, ground) = GROUNDS
        .iter()
        .enumerate()
        .find_map(|(ground, (name, _))| Some((text.strip_suffix(name)?, ground)))?;
    // "on" is a word of its own: not the end of "moon".
    let after_on = |end| before.strip_suffix(end).filter(|head: &&str| !head.ends_with(char::is_alphabetic));
    let head = [", ", ","].into_iter().find_map(|end| before.strip_suffix(end));
    let head = head.or_else(|| ["on a ", "on "].into_iter().find_map(after_on))?;
    Some((head, ground))
}

/// Where several words of one kind are there, the last of the list counts.
fn object(part: &str) -> Object {
    let words: Vec<&str> = part.split_whitespace().collect();
    let said = |group: &[&str]| group.iter().any(|word| words.contains(word));
    Object {
        size: SIZE_WORDS.iter().rposition(|group| said(group)),
        colour: COLOURS.iter().rposition(|(name, _)| said(&[name])),
        shape: SHAPE_WORDS.iter().rposition(|group| said(group)),
        place: PLACE_PHRASES.iter().rposition(|group| group.iter().any(|phrase| part.contains(phrase))),
    }
}
