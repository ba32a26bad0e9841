use std::io::Write;
use std::path::{Path, PathBuf};

use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::super::Checkpoint;
use super::*;
use crate::tensor::HostSlice;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/torch").join(name)
}

/// A zip archive as `torch.save` makes it, with a storage `0` of four floats.
fn archive(pickle: &[u8]) -> Vec<u8> {
    archive_with(pickle, &[0; 16])
}

/// The same with any bytes in the storage.
fn archive_with(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("a/data.pkl", pickle), ("a/byteorder", b"little"), ("a/data/0", storage)] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn read(bytes: &[u8]) -> Result<Vec<(String, Found)>> {
    super::read(bytes, &mut BTreeMap::new())
}

#[track_caller]
fn fails(bytes: &[u8], words: &[&str]) {
    let error = read(bytes).map(|found| found.len()).expect_err("must fail");
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
    assert!(text.contains("fix:"), "{text}");
}

/// A dictionary that holds one tensor `x` of storage, offset, sizes and strides as pickled.
fn tensor(class: &str, key: &str, offset: &[u8], dims: &[u8], strides: &[u8]) -> Vec<u8> {
    let text = |text: &str| [&[0x8c, text.len() as u8], text.as_bytes()].concat();
    [
        b"\x80\x02}",
        text("x").as_slice(),
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text("storage"),
        format!("ctorch\n{class}\n").as_bytes(),
        &text(key),
        &text("cpu"),
        b"K\x04tQ",
        offset,
        dims,
        strides,
        b"\x89}tRs.",
    ]
    .concat()
}

#[test]
fn every_way_of_saving_gives_the_same_tensors() {
    for name in
        ["zip.pt", "protocol4.pt", "legacy.pt", "legacy4.pt", "checkpoint.ckpt", "module.pt", "attributes.pt"]
    {
        let file = Checkpoint::open(&golden(name), None).unwrap();
        let names: Vec<&str> = file.names().collect();
        let expected = [
            "conv",
            "double",
            "empty",
            "half.bias",
            "half.weight",
            "part",
            "scalar",
            "steps",
            "tied",
            "trained",
            "turned",
            "whole",
        ];
        assert_eq!(names, expected, "{name}");
        let root = file.root();
        for (tensor, dims) in [
            ("whole", &[3, 4][..]),
            ("half.weight", &[2, 3]),
            ("half.bias", &[3]),
            ("double", &[2]),
            ("turned", &[3, 4]),
            ("conv", &[2, 3, 2, 2]),
            ("part", &[3, 4]),
            ("tied", &[3, 4]),
            ("trained", &[2]),
            ("scalar", &[]),
            ("empty", &[0, 4]),
        ] {
            let found = root.tensor(tensor, dims).unwrap();
            let expected: Vec<f32> = (0..dims.iter().product()).map(|i: usize| i as f32 - 3.0).collect();
            assert_eq!(&*found.data().to_f32(), expected, "{tensor} of {name}");
        }
        // In the type of the file, and no copy where none is needed.
        assert!(matches!(root.tensor("half.weight", &[2, 3]).unwrap().data(), HostSlice::F16(_)));
        assert!(matches!(root.tensor("half.bias", &[3]).unwrap().data(), HostSlice::BF16(_)));
        let steps = root.tensor("steps", &[2]).unwrap_err().to_string();
        assert!(steps.contains("I64") && steps.contains(name), "{steps}");
    }
}

#[test]
fn nothing_that_may_be_a_tensor_is_left_out_in_silence() {
    let fails = |name: &str, words: &[&str]| fails(&std::fs::read(golden(name)).unwrap(), words);
    fails("float8.pt", &["tensor a.weight", "torch.float8_e4m3fn"]);
    fails("numpy.pt", &["tensor a.weight", "numpy"]);
    fails("alpha.pt", &["a.alpha is a number", "torch.tensor(alpha)"]);
}

#[test]
fn a_pickled_network_is_named() {
    let bytes = std::fs::read(golden("network.pt")).unwrap();
    fails(&bytes, &["torch.nn.modules.linear.Linear", "state_dict()"]);
}

#[test]
fn what_a_pickle_would_run_is_named_and_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("mark");
    let command = format!("touch {}", mark.display());
    let text = [&[b'X'][..], &(command.len() as u32).to_le_bytes(), command.as_bytes()].concat();
    for (name, call) in [
        ("os.system", [b"\x80\x02cos\nsystem\n", text.as_slice(), b"\x85R."].concat()),
        ("posix.system", [b"\x80\x04\x8c\x05posix\x8c\x06system\x93", text.as_slice(), b"\x85R."].concat()),
        ("builtins.exec", [b"\x80\x02}\x8c\x01xcbuiltins\nexec\n", text.as_slice(), b"\x85Rs."].concat()),
        ("subprocess.Popen", [b"\x80\x02csubprocess\nPopen\n", text.as_slice(), b"\x85R."].concat()),
    ] {
        let error = read(&archive(&call)).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(!mark.exists(), "{name} was run");
        assert!(error.contains(name) && error.contains("nothing of it was run"), "{error}");
    }
}

#[test]
fn a_tensor_that_is_not_in_its_storage_is_refused() {
    let good = tensor("FloatStorage", "0", b"K\x00", b"K\x02K\x02\x86", b"K\x02K\x01\x86");
    let found = read(&archive(&good)).unwrap();
    assert_eq!((found[0].0.as_str(), found[0].1.dims.as_slice()), ("x", &[2, 2][..]));

    let (none, two, ones) = (b"K\x00", b"K\x02K\x02\x86", b"K\x02K\x01\x86");
    let float = "FloatStorage";
    let huge = [&b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"[..], b"K\x02\x86"].concat();
    for (pickle, word) in [
        (tensor(float, "0", b"K\x01", two, ones), "outside"),
        (tensor(float, "0", none, b"K\x03K\x02\x86", ones), "outside"),
        (tensor(float, "0", none, two, b"K\x03K\x01\x86"), "outside"),
        (tensor(float, "0", none, &huge, ones), "outside"),
        (tensor(float, "0", none, two, &huge), "outside"),
        (
            tensor(
                float,
                "0",
                none,
                &[b"(K\x00", &huge[..10], &huge[..10], b"t"].concat(),
                b"(K\x00K\x00K\x00t",
            ),
            "outside",
        ),
        (tensor(float, "0", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", two, ones), "outside"),
        (tensor(float, "0", b"J\xff\xff\xff\xff", two, ones), "no whole numbers"),
        (tensor(float, "0", none, b"J\xff\xff\xff\xff\x85", b"K\x01\x85"), "no whole numbers"),
        (tensor(float, "0", none, two, b"K\x01\x85"), "as many strides"),
        (tensor(float, "0", none, b"K\x7fK\x7f\x86", b"K\x00K\x00\x86"), "overlap"),
        (tensor(float, "1", none, two, ones), "storage 1 is missing"),
        (tensor("QInt8Storage", "0", none, two, ones), "torch.QInt8Storage"),
    ] {
        fails(&archive(&pickle), &["tensor x", word]);
    }
}

#[test]
fn no_input_makes_the_reader_recurse_or_grow() {
    // A dictionary that holds itself, lists in lists, and lists of the same list: each short, each endless to
    // who follows it.
    fails(&archive(b"\x80\x02}q\x00\x8c\x01ah\x00s."), &["without tensors"]);
    let deep = [&b"\x80\x02"[..], &b"]".repeat(1 << 20), &b"a".repeat((1 << 20) - 1), b"."].concat();
    fails(&archive(&deep), &["without tensors"]);
    let mut wide = b"\x80\x02(".to_vec();
    wide.extend(b"N".repeat(100));
    wide.extend(b"lq\x00");
    for _ in 0..7 {
        wide.extend(b"0(");
        wide.extend(b"h\x00".repeat(100));
        wide.extend(b"lq\x00");
    }
    wide.push(b'.');
    fails(&archive(&wide), &["holds itself"]);
    // Two dictionaries each of which says that the weights are in the other.
    fails(&archive(b"\x80\x02}q\x00\x8c\x05modelq\x01}q\x02h\x01h\x00ss."), &["without tensors"]);
    // A list of itself, many times.
    let itself = [&b"\x80\x02]q\x00("[..], &b"h\x00".repeat(1 << 19), b"e."].concat();
    fails(&archive(&itself), &["holds itself"]);
    // A long key of many tensors, and many sizes of one.
    let one = tensor("FloatStorage", "0", b"K\x00", b"K\x02\x85", b"K\x01\x85");
    let key = [&b"X"[..], &100_000u32.to_le_bytes(), &vec![b'k'; 100_000], b"q\x00"].concat();
    let same =
        [&one[..2], b"}(", &key, &one[6..one.len() - 2], b"q\x01", &b"h\x00h\x01".repeat(50_000), b"u."];
    fails(&archive(&same.concat()), &["names for the most part"]);
    let sizes = [&b"("[..], &b"K\x01".repeat(1 << 19), b"t"].concat();
    fails(&archive(&tensor("FloatStorage", "0", b"K\x00", &sizes, &sizes)), &["more than 8"]);
    // A name for each of a thousand ordered dictionaries of one list of a thousand pairs.
    let mut copies = b"\x80\x02((NN\x86q\x01".to_vec();
    copies.extend(b"h\x01".repeat(999));
    copies.extend(b"lq\x00ccollections\nOrderedDict\nq\x02");
    copies.extend(b"h\x02h\x00\x85R".repeat(1000));
    copies.extend(b"t.");
    fails(&archive(&copies), &["without tensors"]);
}

#[test]
fn a_long_name_of_a_module_is_not_copied_again_and_again() {
    // Each of the ten thousand names would be a copy of 2 MiB.
    let text = [&b"X"[..], &(1u32 << 20).to_le_bytes(), &b"a".repeat(1 << 20)].concat();
    let names = [&b"\x80\x04"[..], &text, b"q\x00(", &b"h\x00h\x00\x93".repeat(10_000), b"l."].concat();
    fails(&archive(&names), &["damaged"]);
}

/// Every second of four numbers: as many elements as the sizes say, whether they are looked at or not.
#[test]
fn a_view_with_gaps_has_the_elements_of_its_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gaps.pt");
    let pickle = tensor("FloatStorage", "0", b"K\x00", b"K\x02\x85", b"K\x02\x85");
    std::fs::write(&path, archive(&pickle)).unwrap();
    let file = Checkpoint::open(&path, None).unwrap();
    let views = [file.root().tensor("x", &[2]).unwrap(), file.root().unseen("x", &[2]).unwrap()];
    assert!(views.iter().all(|view| view.data().len() == 2));
}

#[test]
fn a_number_too_large_is_named_in_a_view_with_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gaps.pt");
    let pickle = tensor("DoubleStorage", "0", b"K\x00", b"K\x02\x85", b"K\x02\x85");
    let storage: Vec<u8> = [1.0_f64, 2.0, -1e300, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    std::fs::write(&path, archive_with(&pickle, &storage)).unwrap();
    let file = Checkpoint::open(&path, None).unwrap();
    let error = file.root().tensor("x", &[2]).map(|view| view.data().len()).expect_err("too large");
    assert!(
        error.to_string().contains("tensor x contains -1e300 (element 1), which is too large"),
        "{error}"
    );
}

#[test]
fn a_tensor_without_elements_may_have_any_strides() {
    // Three rows of none, 2^61 elements apart: query, key and value as a text encoder takes them.
    let strides = b"\x8a\x08\0\0\0\0\0\0\0\x20K\x01\x86";
    let rows = read(&archive(&tensor("HalfStorage", "0", b"K\x00", b"K\x03K\x00\x86", strides))).unwrap();
    assert_eq!((rows[0].1.dims.as_slice(), &rows[0].1.strides), (&[3, 0][..], &None));
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    for name in ["zip.pt", "legacy.pt", "checkpoint.ckpt"] {
        let whole = std::fs::read(golden(name)).unwrap();
        for length in 0..whole.len() {
            assert!(read(&whole[..length]).is_err(), "{name} cut to {length}");
        }
        let mut bytes = whole.clone();
        for at in 0..whole.len() {
            for value in [0, 1, 0x28, 0x52, 0x7f, 0x80, 0xff] {
                bytes[at] = value;
                if let Ok(found) = read(&bytes) {
                    assert!(found.iter().all(|(_, tensor)| tensor.range.end <= bytes.len()));
                }
            }
            bytes[at] = whole[at];
        }
    }
}

#[test]
fn other_archives_are_named() {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file(
        "word/document.xml",
        SimpleFileOptions::default().compression_method(CompressionMethod::Stored),
    )
    .unwrap();
    fails(&zip.finish().unwrap().into_inner(), &["data.pkl"]);
    fails(b"PK\x03\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", &["zip"]);
    // An index of tensors of a machine of the other order, and a program.
    let with = |name: &str, content: &[u8]| {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
        for (name, bytes) in [("a/data.pkl", &b"\x80\x02}."[..]), (name, content)] {
            zip.start_file(name, stored).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap().into_inner()
    };
    fails(&with("a/byteorder", b"big"), &["big-endian"]);
    fails(&with("a/constants.pkl", b""), &["TorchScript"]);
}
