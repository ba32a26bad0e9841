//! A prompt as part of a folder's name.

/// Longest name, in characters.
const LONGEST: usize = 40;

/// The prompt's ASCII letters and digits, lower case, everything between them one hyphen; at most 40
/// characters, cut between words where that loses less than half. A prompt without any is `untitled`.
pub fn slug(prompt: &str) -> String {
    let mut slug = String::new();
    for word in prompt.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        if !slug.is_empty() {
            slug.push('-');
        }
        slug.push_str(&word.to_ascii_lowercase());
        if slug.len() > LONGEST {
            let cut = slug[..=LONGEST].rfind('-').filter(|at| *at > LONGEST / 2).unwrap_or(LONGEST);
            slug.truncate(cut);
            break;
        }
    }
    if slug.is_empty() { "untitled".into() } else { slug }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_prompt_is_a_safe_name() {
        assert_eq!(slug("A photo of a cat"), "a-photo-of-a-cat");
        assert_eq!(slug("../../etc/passwd\0 \\ C:"), "etc-passwd-c");
        assert_eq!(slug("😀"), "untitled");
        assert_eq!(slug(""), "untitled");
        assert_eq!(slug("naïve café"), "na-ve-caf");
        assert_eq!(slug(&"x".repeat(5000)), "x".repeat(40));
        let words = slug("a large red star on a blue background with a small green ring");
        assert_eq!(words, "a-large-red-star-on-a-blue-background");
        // A word that ends exactly at the limit is kept whole.
        assert_eq!(slug(&format!("{} {} c", "a".repeat(20), "b".repeat(19))).len(), 40);
    }

    proptest::proptest! {
        #[test]
        fn a_slug_is_short_plain_and_never_empty(prompt in "\\PC*") {
            let slug = slug(&prompt);
            assert!((1..=40).contains(&slug.len()));
            assert!(slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'));
            assert!(!slug.starts_with('-') && !slug.ends_with('-'));
        }
    }
}
