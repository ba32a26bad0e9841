use std::fs;

use super::*;

fn wordpiece(context: usize) -> WordPiece {
    let tokens = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n,\nring\nun\n##known\nsmall\n中\nσ\n##σ\n";
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(FILE), tokens).unwrap();
    WordPiece::open(&Source::Dir(folder.path().to_path_buf()), context).unwrap()
}

#[test]
fn words_are_cut_as_bert_cuts_them() {
    let tokenizer = wordpiece(35);
    // Numbers are the lines above from 0; [DEC] and [ENC] follow the last line.
    for (text, ids) in [
        ("", &[][..]),
        ("Ring", &[6]),
        ("RÍNG,small", &[6, 5, 9]),
        ("unknown un known", &[7, 8, 7, 1]),
        ("中ring", &[10, 6]),
        ("ri\u{200b}ng\tsmall", &[6, 9]),
        ("ΣΣ", &[11, 12]),
        ("ring[DEC]small [ENC] [SEP] [sep]", &[6, 13, 9, 14, 3, 1, 1, 1]),
    ] {
        let found = tokenizer.encode(text);
        assert_eq!(found.ids, [&[2], ids, &[3]].concat(), "{text}");
        assert_eq!(found.dropped, None);
    }
    assert_eq!(tokenizer.size(), 15);
}

#[test]
fn what_does_not_fit_is_told() {
    let found = wordpiece(4).encode("ring ring, unknown");
    assert_eq!(found.ids, [2, 6, 6, 3]);
    let dropped = found.dropped.unwrap();
    assert_eq!((dropped.tokens, dropped.text.as_str()), (3, ", unknown"));
}

#[test]
fn a_file_that_is_no_vocabulary_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::Dir(folder.path().to_path_buf());
    let says = |what: &str| {
        let error = WordPiece::open(&source, 35).unwrap_err().to_string();
        assert!(error.contains("vocab.txt") && error.contains(what) && error.contains("fix:"), "{error}");
    };
    says("missing");
    fs::write(folder.path().join(FILE), "ring\n").unwrap();
    says("[UNK]");
    fs::write(folder.path().join(FILE), b"\xff\xfe").unwrap();
    says("UTF-8");
}
