//! A browser that shows pages to nobody, where this machine has one. `DAS_BROWSER` names it; with
//! `DAS_BROWSER=require` one must be found.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness;

/// Names under which it is known.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// The program; where there is none, the calling test ends as ignored.
fn program() -> PathBuf {
    let asked = std::env::var("DAS_BROWSER").ok().filter(|name| !name.is_empty());
    if let Some(path) = asked.as_deref().filter(|name| *name != "require") {
        return path.into();
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .flat_map(|folder| NAMES.map(|name| folder.join(name)))
        .find(|path| path.is_file());
    match found {
        Some(path) => path,
        None if asked.is_some() => panic!("DAS_BROWSER=require, and there is none of {NAMES:?}"),
        None => harness::skip(format!("no browser here: none of {NAMES:?}")),
    }
}

/// What a browser makes of a page.
pub struct Shown {
    /// The elements, after all scripts have run.
    pub document: String,
    /// What was written to the console.
    pub console: Vec<String>,
}

/// One window at a time: several share the focus, and slow each other down.
static WINDOW: Mutex<()> = Mutex::new(());

/// Shows a page in a window of this width.
pub fn show(page: &Path, width: u32) -> Shown {
    let _window = WINDOW.lock().unwrap_or_else(PoisonError::into_inner);
    let profile = TempDir::new().expect("a temporary folder");
    let output = Command::new(program())
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom"])
        .args(["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=5000"])
        .arg(format!("--window-size={width},900"))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser starts");
    let (document, said) =
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
    assert!(document.contains("</html>"), "the browser showed nothing: {said}");
    let console = said.lines().filter(|line| line.contains("CONSOLE")).map(String::from).collect();
    Shown { document, console }
}

/// What `script`, which calls `answer` once, says within a page. The page's policy is taken out for it, which
/// would refuse it.
pub fn ask(page: &Path, width: u32, script: &str) -> Value {
    let text = fs::read_to_string(page).expect("the page");
    let policy = text.find("<meta http-equiv").expect("a policy");
    let end = policy + text[policy..].find('>').expect("its end") + 1;
    let answer = "const answer = (value) => { \
                  const said = document.createElement('pre'); said.id = 'answer'; \
                  said.textContent = btoa(JSON.stringify(value)); document.body.append(said); };";
    let changed = [&text[..policy], &text[end..]].concat();
    let changed = changed.replace("</body>", &format!("<script>{answer}{script}</script></body>"));
    let asked = page.with_extension("asked.html");
    fs::write(&asked, changed).expect("it can be written");
    // The browser's clock runs ahead while nothing but the decoding of pictures is under way, so that on a
    // busy machine a page may be given up before its script has its answer.
    const TRIES: usize = 8;
    for _ in 0..TRIES {
        let shown = show(&asked, width);
        assert!(shown.console.is_empty(), "{:?}", shown.console);
        let said = shown.document.split("<pre id=\"answer\">").nth(1).and_then(|rest| rest.split('<').next());
        let Some(said) = said else { continue };
        let bytes = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, said).expect("base64");
        return serde_json::from_slice(&bytes).expect("JSON");
    }
    panic!("no answer in {TRIES} tries");
}
