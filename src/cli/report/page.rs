//! The page as a whole: one file that asks no network and runs no script but its own.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::hash::digest;

/// What every page begins with.
pub const START: &str = "<!DOCTYPE html>";

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// What browsers let the page do: show what is in it, in the style and with the script of these hashes. Were
/// a text of a file ever taken for code, it would be refused.
fn policy() -> String {
    let [style, script] = [STYLE, SCRIPT].map(|text| BASE64_STANDARD.encode(digest(text.as_bytes())));
    format!(
        "default-src 'none'; img-src data:; style-src 'sha256-{style}'; script-src 'sha256-{script}'; \
         base-uri 'none'; form-action 'none'"
    )
}

/// The page of these sections.
pub fn page(title: &str, sections: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content=(concat!("das-cuda ", env!("CARGO_PKG_VERSION")));
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main { h1 { "das-cuda report" } (sections) }
                footer {
                    p {
                        "Made by das-cuda " (env!("CARGO_PKG_VERSION")) ". Logarithms are natural. "
                        "Steps run from noise (0) to the picture."
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A style or script that held its own end tag would end there.
    #[test]
    fn what_is_embedded_stays_within_its_tag() {
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</") && !SCRIPT.contains("<!--"));
        // Browsers hash what is between the tags, byte by byte.
        let page = page("t", &html! {});
        assert!(page.contains(&format!("<script>{SCRIPT}</script>")));
        assert!(page.contains(&format!("<style>{STYLE}</style>")));
    }
}
