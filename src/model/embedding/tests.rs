use super::*;

#[test]
fn a_path_may_have_a_name_before_it() {
    let read = |text: &str| text.parse::<Spec>().map(|spec| (spec.name, spec.path.display().to_string()));
    assert_eq!(read("a/b.pt").ok(), Some((None, "a/b.pt".into())));
    assert_eq!(read("<cat>=a/b.pt").ok(), Some((Some("<cat>".into()), "a/b.pt".into())));
    assert_eq!(read("two words=a=b.pt").ok(), Some((Some("two words".into()), "a=b.pt".into())));
    let long = format!("{}=a.pt", "x".repeat(257));
    for wrong in ["", "=a.pt", "cat=", " cat=a.pt", "cat\t=a.pt", "c\u{7}at=a.pt", "\u{a0}=a.pt", &*long] {
        let error = read(wrong).expect_err(wrong);
        assert_eq!(
            (error.kind(), error.option_name()),
            (crate::ErrorKind::Usage, Some("embedding")),
            "{wrong}"
        );
        assert!(error.advice_text().is_some_and(|fix| fix.contains("NAME=PATH")), "{error}");
    }
    // A file whose name has the sign is itself.
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("x=y");
    std::fs::write(&path, "").expect("a file");
    let text = path.display().to_string();
    assert_eq!(read(&text).ok(), Some((None, text.clone())));
    assert_eq!(read(&format!("<x>={text}")).ok(), Some((Some("<x>".into()), text)));
}
