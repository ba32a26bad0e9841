//! Where the cache is, who is asked and as whom: the variables of the environment that `huggingface_hub`
//! reads, with its defaults.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// The hub where no other is named.
const ENDPOINT: &str = "https://huggingface.co";

/// A user's token. It is printed by nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token in `text`, white space around it left out; `None` where nothing is left.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(text.to_string()))
    }

    /// The value of the header that carries it; `None` where it has characters that no header may have.
    #[cfg(feature = "hub")]
    pub(super) fn header(&self) -> Option<String> {
        self.0.chars().all(|c| c.is_ascii_graphic()).then(|| format!("Bearer {}", self.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

/// Where the cache is, who is asked and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The folder with a folder `models--OWNER--NAME` for each repository.
    pub cache: PathBuf,
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Whom to ask as; `None` for nobody in particular.
    pub token: Option<Token>,
    /// Whether nobody is to be asked.
    pub offline: bool,
}

impl Settings {
    /// From the environment: `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_ENDPOINT`, `HF_TOKEN`,
    /// `HF_TOKEN_PATH` and `HF_HUB_OFFLINE`; and the older names `HUGGINGFACE_HUB_CACHE`,
    /// `HUGGING_FACE_HUB_TOKEN` and `TRANSFORMERS_OFFLINE`.
    pub fn from_env() -> Settings {
        Settings::from(&|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(var: &dyn Fn(&str) -> Option<String>) -> Settings {
        let home = env::home_dir().unwrap_or_default();
        let path = |name: &str| var(name).map(|text| expand(&text, &home));
        let hf_home = path("HF_HOME").unwrap_or_else(|| {
            path("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache")).join("huggingface")
        });
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = || Token::new(&fs::read_to_string(&token_file).ok()?);
        let yes = |text: String| ["1", "true", "yes", "on"].contains(&text.to_ascii_lowercase().as_str());
        Settings {
            cache: path("HF_HUB_CACHE")
                .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| hf_home.join("hub")),
            endpoint: var("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into()).trim_end_matches('/').to_string(),
            token: var("HF_TOKEN")
                .or_else(|| var("HUGGING_FACE_HUB_TOKEN"))
                .and_then(|text| Token::new(&text))
                .or_else(token),
            offline: var("HF_HUB_OFFLINE").or_else(|| var("TRANSFORMERS_OFFLINE")).is_some_and(yes),
        }
    }
}

/// `~/x` is below the user's home.
fn expand(text: &str, home: &Path) -> PathBuf {
    match text.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => PathBuf::from(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> Settings {
        Settings::from(&|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn the_environment_decides_as_for_other_programs() {
        let cache = |vars: &[(&str, &str)]| settings(vars).cache;
        let home = env::home_dir().unwrap();
        assert_eq!(cache(&[]), home.join(".cache/huggingface/hub"));
        assert_eq!(cache(&[("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HF_HOME", "~/h"), ("XDG_CACHE_HOME", "/x")]), home.join("h/hub"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")]), Path::new("/c"));
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/c"), ("HF_HOME", "/h")]), Path::new("/c"));
        assert_eq!(settings(&[]).endpoint, ENDPOINT);
        assert_eq!(settings(&[("HF_ENDPOINT", "http://mirror/")]).endpoint, "http://mirror");
        for (text, offline) in [("1", true), ("Yes", true), ("TRUE", true), ("0", false), ("no", false)] {
            assert_eq!(settings(&[("HF_HUB_OFFLINE", text)]).offline, offline, "{text}");
            assert_eq!(settings(&[("TRANSFORMERS_OFFLINE", text)]).offline, offline, "{text}");
        }
    }

    #[test]
    fn a_token_comes_from_the_variable_or_a_file_and_is_never_printed() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        fs::write(dir.path().join("other"), "hf_other").unwrap();
        let other = dir.path().join("other");
        let token = |more: &[(&str, &str)]| settings(&[&[("HF_HOME", home)], more].concat()).token;
        assert_eq!(token(&[]), Token::new("hf_file"));
        assert_eq!(token(&[("HF_TOKEN_PATH", other.to_str().unwrap())]), Token::new("hf_other"));
        assert_eq!(token(&[("HF_TOKEN", " hf_var ")]), Token::new("hf_var"));
        assert_eq!(token(&[("HUGGING_FACE_HUB_TOKEN", "hf_old")]), Token::new("hf_old"));
        assert_eq!(Token::new(" \n"), None);
        let shown = format!("{:?}", settings(&[("HF_TOKEN", "hf_secret")]));
        assert!(!shown.contains("secret") && shown.contains("hidden"), "{shown}");
    }
}
