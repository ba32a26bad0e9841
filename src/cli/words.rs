//! Texts and numbers as pages and facts show them.

use maud::{Markup, html};
use serde_json::Value;

use super::output::printable;

/// What stands where there is nothing.
pub const NONE: &str = "\u{2013}";

/// A number in few digits.
pub fn number(x: f64) -> String {
    let size = x.abs();
    match x {
        _ if !x.is_finite() => NONE.into(),
        _ if size == 0.0 => "0".into(),
        _ if !(1e-3..1e6).contains(&size) => format!("{x:.2e}"),
        _ if size >= 1e3 => format!("{x:.0}"),
        _ if size >= 1e2 => format!("{x:.1}"),
        _ if size >= 10.0 => format!("{x:.2}"),
        _ => format!("{x:.3}"),
    }
}

/// A number as it was given, where that is short.
pub fn given(x: f64) -> String {
    if x == 0.0 || (1e-4..1e6).contains(&x.abs()) { x.to_string() } else { format!("{x:e}") }
}

/// A number, if there is one.
pub fn maybe(x: Option<f64>) -> String {
    x.map_or(NONE.into(), number)
}

/// A share of one, as a percentage where it is not tiny.
pub fn weight(x: f64) -> String {
    match x {
        _ if x >= 0.0995 => format!("{:.0} %", 100.0 * x),
        _ if x >= 0.001 => format!("{:.1} %", 100.0 * x),
        _ if x > 0.0 => format!("{x:.0e}"),
        _ => "0".into(),
    }
}

/// A whole number, digits in groups of three.
pub fn count(x: f64) -> String {
    let digits = format!("{x:.0}");
    let (sign, digits) = digits.split_at(usize::from(digits.starts_with('-')));
    let mut text = sign.to_string();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Bytes, in the unit that suits them.
pub fn bytes(x: f64) -> String {
    let (prefix, factor) = prefix(x);
    format!("{} {prefix}B", number(x / factor))
}

/// The largest prefix of units that leaves `most` a number of at least 1, and its factor.
pub fn prefix(most: f64) -> (&'static str, f64) {
    let prefixes = [("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)];
    prefixes.into_iter().find(|(_, factor)| most >= *factor).unwrap_or(("", 1.0))
}

/// Seconds, in the unit that suits them.
pub fn seconds(x: f64) -> String {
    match x {
        _ if x < 120.0 => format!("{x:.1} s"),
        _ if x < 7200.0 => format!("{:.0} min", x / 60.0),
        _ => format!("{:.1} h", x / 3600.0),
    }
}

/// A text of a file, made harmless: nothing in it can move a cursor or turn the direction of what follows.
pub fn clean(text: &str) -> String {
    text.lines().map(|line| printable(line, 1)).collect::<Vec<_>>().join("\n")
}

/// The same as a part of the page.
pub fn said(text: &str) -> Markup {
    html! { bdi { (clean(text)) } }
}

/// A text that is short: its beginning where it is long.
pub fn short(text: &str, most: usize) -> String {
    let text = clean(text).replace('\n', " ");
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['\u{2026}']).collect(),
        false => text,
    }
}

/// An entry of a record as a text.
pub fn entry(value: &Value) -> String {
    match value {
        Value::Null => NONE.into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => clean(text),
        Value::Number(number) => number.to_string(),
        Value::Array(list) if list.is_empty() => NONE.into(),
        Value::Array(list) => list.iter().map(entry).collect::<Vec<_>>().join(", "),
        Value::Object(map) => {
            let known = map.iter().filter(|(_, value)| !value.is_null());
            known
                .map(|(key, value)| format!("{}: {}", clean(key), entry(value)))
                .collect::<Vec<_>>()
                .join("; ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_whatever_their_size() {
        let shown = [0.0, 8.9183, 153.66, -12.345, 1600.0, 2.5e9, 1.5e-8, f64::NAN].map(number);
        assert_eq!(shown, ["0", "8.918", "153.7", "-12.35", "1600", "2.50e9", "1.50e-8", NONE]);
        assert_eq!([0.05, 5.0, 1e-40].map(given), ["0.05", "5", "1e-40"]);
        assert_eq!([0.5, 0.0, 1.4e-22].map(weight), ["50 %", "0", "1e-22"]);
        assert_eq!([82_549_240.0, 12.0].map(bytes), ["82.55 MB", "12.00 B"]);
        assert_eq!([1_600.0, 12.0, 1e7].map(count), ["1\u{202f}600", "12", "10\u{202f}000\u{202f}000"]);
    }

    #[test]
    fn a_text_of_a_file_is_shown_and_never_obeyed() {
        let shown = said("<script>alert(1)</script>\u{202e}\u{1b}[2J & \"x\"").into_string();
        assert!(
            shown.starts_with("<bdi>&lt;script&gt;alert(1)&lt;/script&gt;\\u{202e}\\u{1b}[2J &amp; "),
            "{shown}"
        );
        assert_eq!(clean("two\nlines"), "two\nlines");
        assert_eq!(short("a long prompt", 7), "a long\u{2026}");
    }
}
