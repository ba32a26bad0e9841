//! The typed tables of `src/cuda` against the text of `kernels/*.cu`: every kernel has one declaration in
//! Rust with the same arguments in the same order, and the structs passed by value have the same fields.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// A list of (name, type), types as Rust names them.
type Fields = Vec<(String, String)>;

/// All files under `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Text of all files under `dir` with one of the endings, comments removed, by path, `.cu` left out.
fn texts(dir: &str, endings: &[&str]) -> BTreeMap<String, String> {
    let comments = Regex::new(r"(?s)//[^\n]*|/\*.*?\*/").unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let ours = |p: &PathBuf| p.extension().is_some_and(|e| endings.iter().any(|w| e == *w));
    let files = files(&root).into_iter().filter(ours);
    files
        .map(|p| {
            let text = fs::read_to_string(&p).unwrap();
            let stem = p.file_stem().unwrap().to_string_lossy().into_owned();
            let key = if p.extension().unwrap() == "cuh" { format!("{stem}.cuh") } else { stem };
            (key, comments.replace_all(&text, "").into_owned())
        })
        .collect()
}

/// The text up to the bracket that closes an open one.
fn until_closed(text: &str) -> &str {
    let mut depth = 1;
    for (i, c) in text.char_indices() {
        depth += match c {
            '(' | '{' => 1,
            ')' | '}' => -1,
            _ => 0,
        };
        if depth == 0 {
            return &text[..i];
        }
    }
    panic!("a bracket that never closes")
}

/// `float` as Rust's `f32`.
fn number(c: &str) -> String {
    match c {
        "int32_t" => "i32",
        "int64_t" => "i64",
        "uint32_t" => "u32",
        "uint64_t" => "u64",
        "uint8_t" => "u8",
        "float" => "f32",
        "double" => "f64",
        other => other,
    }
    .to_string()
}

/// `const Act* __restrict__ x, float* y, Params p` as `x: In<Act>, y: Out<f32>, p: Params`.
fn c_arguments(text: &str) -> Fields {
    let text = text.replace("__restrict__", " ").replace('*', " * ");
    text.split(',')
        .map(|argument| {
            let words: Vec<&str> = argument.split_whitespace().collect();
            match words[..] {
                ["const", kind, "*", name] => (name.into(), format!("In<{}>", number(kind))),
                [kind, "*", name] => (name.into(), format!("Out<{}>", number(kind))),
                [kind, name] => (name.into(), number(kind)),
                _ => panic!("an argument this test does not read: {argument}"),
            }
        })
        .collect()
}

/// `int32_t n, c; float a[4];` as fields.
fn c_fields(text: &str) -> Fields {
    let mut fields = Fields::new();
    for declaration in text.split(';').map(str::trim).filter(|d| !d.is_empty()) {
        let (kind, names) = declaration.split_once(char::is_whitespace).unwrap();
        for name in names.split(',').map(str::trim) {
            let array = name.split_once('[').map(|(name, len)| (name, len.trim_end_matches(']')));
            fields.push(match array {
                Some((name, len)) => (name.into(), format!("[{}; {len}]", number(kind))),
                None => (name.into(), number(kind)),
            });
        }
    }
    fields
}

/// `x: In<Act>, p: Params` as fields; attributes and `pub` are left out.
fn rust_fields(text: &str) -> Fields {
    let field = Regex::new(r"(?:pub )?(\w+):\s*(\[[^\]]*\]|[\w]+(?:<[^>]*>)?)\s*(?:,|$)").unwrap();
    let lifetimes = Regex::new(r"'\w+,\s*").unwrap();
    field.captures_iter(text.trim()).map(|c| (c[1].into(), lifetimes.replace_all(&c[2], "").into())).collect()
}

/// Kernels of the `.cu` files, as `file.name`. A macro `#define FAMILY(name, ...) KERNEL(name, ...)` declares
/// a kernel for each of its uses.
fn c_kernels(texts: &BTreeMap<String, String>) -> BTreeMap<String, Fields> {
    let head = Regex::new(r"KERNEL\((\w+),\s*(?:\([^)]*\)|\w+),\s*\(").unwrap();
    let family = Regex::new(r"#define (\w+)\(name,[^)]*\)\s*$").unwrap();
    let mut all = BTreeMap::new();
    for (file, text) in texts.iter().filter(|(file, _)| !file.ends_with(".cuh")) {
        let text = text.replace("\\\n", "\n");
        for found in head.captures_iter(&text) {
            let at = found.get(0).unwrap();
            let arguments = c_arguments(until_closed(&text[at.end()..]));
            let names = match family.captures(&text[..at.start()]) {
                None => vec![found[1].to_string()],
                Some(family) => {
                    let uses = Regex::new(&format!(r"(?m)^{}\((\w+),", &family[1])).unwrap();
                    uses.captures_iter(&text).map(|name| name[1].to_string()).collect()
                }
            };
            assert!(!names.is_empty(), "{file}.cu: a family without kernels");
            for name in names {
                let known = all.insert(format!("{file}.{name}"), arguments.clone());
                assert!(known.is_none(), "{file}.cu: two kernels are called {name}");
            }
        }
    }
    all
}

/// Kernels of the tables, as `file.name`.
fn rust_kernels(texts: &BTreeMap<String, String>) -> BTreeMap<String, Fields> {
    let table = Regex::new(r#"pub struct \w+ from "(\w+)" \{"#).unwrap();
    let head = Regex::new(r"(?:fn (\w+)|family \w+\s*\[([^\]]*)\])\s*\(").unwrap();
    let mut all = BTreeMap::new();
    for text in texts.values() {
        for found in table.captures_iter(text) {
            let body = until_closed(&text[found.get(0).unwrap().end()..]);
            for kernel in head.captures_iter(body) {
                let arguments = rust_fields(until_closed(&body[kernel.get(0).unwrap().end()..]));
                let names = kernel.get(1).or(kernel.get(2)).unwrap().as_str();
                for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                    all.insert(format!("{}.{name}", &found[1]), arguments.clone());
                }
            }
        }
    }
    all
}

#[test]
fn every_kernel_is_declared_as_it_is_defined() {
    let defined = c_kernels(&texts("kernels", &["cu"]));
    let declared = rust_kernels(&texts("src/cuda", &["rs"]));
    assert!(defined.len() > 2, "found only {defined:?}");
    let names = |all: &BTreeMap<String, Fields>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&defined), names(&declared), "kernels in kernels/*.cu, and in the tables of src/cuda");
    for (name, arguments) in &defined {
        assert_eq!(arguments, &declared[name], "{name}: as defined, and as declared");
    }
}

#[test]
fn structs_passed_by_value_have_the_same_fields() {
    let (c, rust) = (texts("kernels", &["cu", "cuh"]), texts("src/cuda", &["rs"]));
    let name = Regex::new(r"pub struct (\w+Params) \{").unwrap();
    let mut seen = 0;
    for text in rust.values() {
        for found in name.captures_iter(text) {
            let fields = rust_fields(until_closed(&text[found.get(0).unwrap().end()..]));
            let head = Regex::new(&format!(r"struct {} \{{", &found[1])).unwrap();
            let mut definitions = c
                .values()
                .filter_map(|text| head.find(text).map(|at| c_fields(until_closed(&text[at.end()..]))));
            let Some(defined) = definitions.next() else { panic!("{} is in no .cu file", &found[1]) };
            assert_eq!(defined, fields, "{}: in C, and in Rust", &found[1]);
            assert!(definitions.next().is_none(), "{} is defined twice", &found[1]);
            seen += 1;
        }
    }
    assert!(seen > 0, "no structs found");
}

#[test]
fn the_readers_see_what_they_should() {
    let c = "KERNEL(f, (256, 2), (const Act* __restrict__ x, float *y, int64_t n, FParams p)) { g(); }\n\
             struct FParams { int32_t n, c; float a[4]; uint64_t seed; };";
    let rust = "kernels! { pub struct Table from \"t\" { /// f\n fn f(x: In<'_, Act>, y: Out<f32>, n: i64, p: FParams); } }\n\
                params! { pub struct FParams { pub n: i32, pub c: i32, pub a: [f32; 4], pub seed: u64, } }";
    let files = |text: &str| BTreeMap::from([("t".to_string(), text.to_string())]);
    let defined = c_kernels(&files(c));
    assert_eq!(defined, rust_kernels(&files(rust)));
    let kinds: Vec<&str> = defined["t.f"].iter().map(|(_, kind)| kind.as_str()).collect();
    assert_eq!(kinds, ["In<Act>", "Out<f32>", "i64", "FParams"]);
    let fields = rust_fields(until_closed(&rust[rust.find("FParams {").unwrap() + 9..]));
    assert_eq!(fields, c_fields(until_closed(&c[c.find("FParams {").unwrap() + 9..])));
    assert_eq!(fields[2], ("a".to_string(), "[f32; 4]".to_string()));
    // Swapped arguments differ.
    assert_ne!(rust_fields("x: In<Act>, y: In<Act>"), rust_fields("y: In<Act>, x: In<Act>"));
}

/// Integer constants of a text: `const NAME: usize = 4;` of Rust, `constexpr int NAME = 4, OTHER = 2 * NAME;`
/// of C, in or outside a function, with the operators * / + - and <<. What is not such a number is left out.
fn constants(text: &str, known: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    let rust = Regex::new(r"const (\w+): \w+ = ([^;]+);").unwrap();
    let c = Regex::new(r"constexpr int ([^;]+);").unwrap();
    let mut found = known.clone();
    let mut add = |name: &str, value: &str| {
        if let Some(value) = number_of(value, &found) {
            found.insert(name.trim().to_string(), value);
        }
    };
    rust.captures_iter(text).for_each(|m| add(&m[1], &m[2]));
    for declaration in c.captures_iter(text) {
        for part in declaration[1].split(',') {
            if let Some((name, value)) = part.split_once('=') {
                add(name, value);
            }
        }
    }
    found
}

/// The value of `a * b + c`, all operators from left to right within a sum.
fn number_of(text: &str, known: &BTreeMap<String, i64>) -> Option<i64> {
    let term = |text: &str| -> Option<i64> {
        let mut value = None;
        let mut operator = "*";
        for word in Regex::new(r"<<|[*/]|[\w]+").unwrap().find_iter(text).map(|m| m.as_str()) {
            if matches!(word, "<<" | "*" | "/") {
                operator = word;
                continue;
            }
            let x = word.parse().ok().or_else(|| known.get(word).copied())?;
            value = Some(match (value, operator) {
                (None, _) => x,
                (Some(v), "/") => v / x,
                (Some(v), "<<") => v << x,
                (Some(v), _) => v * x,
            });
        }
        value
    };
    if text.contains(['(', '?', '.', '-', '&']) {
        return None;
    }
    text.split('+').map(term).sum()
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Names of an enum's items, in order and in lower case; what is not in `known` must be plain names.
fn items(text: &str, head: &str) -> Vec<String> {
    let at = text.find(head).unwrap_or_else(|| panic!("{head} is not found")) + head.len();
    let comments = Regex::new(r"//[^\n]*|#\[[^\]]*\]").unwrap();
    let body = comments.replace_all(until_closed(&text[at..]), "").into_owned();
    body.split(',').map(|item| item.trim().to_lowercase()).filter(|item| !item.is_empty()).collect()
}

#[test]
fn constants_of_both_sides_are_equal() {
    // A constant below src/cuda or of src, and the one of kernels/ that it repeats.
    let pairs = [
        ("../tensor.rs", "PACKET", "act.cuh", "PACKET"),
        ("ops/layout.rs", "IN_FLIGHT", "access.cuh", "IN_FLIGHT"),
        ("ops/norm.rs", "SAVED", "group.cuh", "SAVED"),
        ("matmul/problem.rs", "CLASSES", "product.cuh", "CLASSES"),
        ("matmul/tile.rs", "STEP", "tensor.cu", "BK"),
        ("matmul/tile.rs", "STAGES", "tensor.cu", "STAGES"),
        ("matmul/simt.rs", "TILE", "gemm.cu", "TILE"),
        ("attention/flash.rs", "WARPS", "attention.cuh", "WARPS"),
        ("smc/particle.rs", "BLOCK", "particle.cu", "BLOCK"),
        ("smc/weigh.rs", "ONE_LAUNCH", "weigh.cu", "MOST"),
        ("smc/weigh.rs", "HEAD", "weigh.cu", "HEAD"),
        ("smc/resample.rs", "BLOCK", "lookback.cuh", "BLOCK"),
        ("smc/resample.rs", "TILE", "lookback.cuh", "TILE"),
        ("smc/resample.rs", "ITEMS", "resample.cu", "ITEMS"),
    ];
    let none = BTreeMap::new();
    let shared = constants(&read("kernels/lookback.cuh"), &none);
    for (rust, name, c, other) in pairs {
        let ours = constants(&read(&format!("src/cuda/{rust}")), &none).get(name).copied();
        let known = if c == "resample.cu" { &shared } else { &none };
        let theirs = constants(&read(&format!("kernels/{c}")), known).get(other).copied();
        assert!(ours.is_some() && theirs.is_some(), "{rust} {name} {ours:?}, {c} {other} {theirs:?}");
        assert_eq!(ours, theirs, "{name} of {rust}, and {other} of {c}");
    }
    // Numbers that kernels choose by.
    let product = constants(&read("kernels/product.cuh"), &none);
    let code = Regex::new(r"Epilogue::(?:Activate\(Activation::)?(\w+)\)?, _\)\) => (\d+)").unwrap();
    let codes: Vec<(String, i64)> = code
        .captures_iter(&read("src/cuda/matmul/problem.rs"))
        .map(|m| (m[1].to_lowercase(), m[2].parse().unwrap()))
        .collect();
    assert_eq!(codes.len(), 4, "{codes:?}");
    for (name, code) in codes {
        let of = product.iter().find(|(n, _)| n.replace('_', "").to_lowercase() == name);
        assert_eq!(of.map(|(_, code)| *code), Some(code), "the epilogue {name}");
    }
    let rules = items(&read("kernels/offspring.cuh"), "enum Resampler {");
    assert_eq!(rules, items(&read("src/smc/resample.rs"), "pub enum Resampler {"), "the resamplers' numbers");
    // Words before the statuses, and scans.
    let control = items(&read("kernels/resample.cu"), "enum Control {");
    let ours = constants(&read("src/cuda/smc/resample.rs"), &none);
    assert_eq!(control.last().unwrap(), &format!("statuses = counters + {}", ours["SCANS"]));
    assert_eq!(ours["CONTROL"], control.len() as i64 - 2 + ours["SCANS"]);
}

/// The numbers of every use of a macro, as `(name, numbers)`.
fn uses(text: &str, name: &str) -> Vec<(String, Vec<usize>)> {
    let of = Regex::new(&format!(r"(?m)^{name}\((\w+), (.*)\)$")).unwrap();
    let number = Regex::new(r"\d+").unwrap();
    let numbers = |m: &str| number.find_iter(m).map(|n| n.as_str().parse().unwrap()).collect();
    of.captures_iter(text).map(|m| (m[1].to_string(), numbers(&m[2]))).collect()
}

#[test]
fn tiles_of_both_sides_are_equal() {
    let tile = Regex::new(r"Tile \{ rows: (\d+), columns: (\d+), threads: (\d+), resident: (\d+)").unwrap();
    let ours: Vec<[usize; 4]> = tile
        .captures_iter(&read("src/cuda/matmul/tile.rs"))
        .map(|m| [1, 2, 3, 4].map(|i| m[i].parse().unwrap()))
        .collect();
    let products = uses(&read("kernels/tensor.cu"), "PRODUCT");
    assert_eq!(products.len(), 2 * ours.len());
    for ((name, numbers), [rows, columns, threads, resident]) in products.iter().zip(ours.iter().cycle()) {
        assert_eq!(numbers[..4], [*threads, *resident, *rows, *columns], "{name}, and TILES of tile.rs");
    }
    let heads = read("src/cuda/attention/flash.rs");
    let head = Regex::new(r"head\((\d+), (\d+), (\d+)\)").unwrap();
    let tables = [
        ("flash.cu", "FLASH", "FORWARD"),
        ("flash_vjp.cu", "FLASH_KEYS_VJP", "KEYS_VJP"),
        ("flash_vjp.cu", "FLASH_QUERIES_VJP", "QUERIES_VJP"),
    ];
    for (file, of, table) in tables {
        let start = heads.find(&format!("const {table}:")).unwrap();
        let text = &heads[start..][..heads[start..].find("];").unwrap()];
        let ours: Vec<Vec<usize>> =
            head.captures_iter(text).map(|m| [1, 2, 3].map(|i| m[i].parse().unwrap()).to_vec()).collect();
        let theirs: Vec<_> =
            uses(&read(&format!("kernels/{file}")), of).into_iter().map(|(_, n)| n).collect();
        assert!(ours.len() > 2, "{table}: {ours:?}");
        assert_eq!(theirs, ours, "{of} of {file}, and {table} of flash.rs");
    }
    // The tiles of products with a score matrix.
    let own = Regex::new(r"\((\d+), (\d+)\) \} else \{ \((\d+), (\d+)\) \}").unwrap();
    let products = read("src/cuda/attention/by_products.rs");
    let own = own.captures(&products).expect("tiles of by_products.rs");
    let theirs = Regex::new(r"ROWS = (\d+), COLUMNS = (\d+);").unwrap();
    let theirs: Vec<String> = theirs
        .captures_iter(&read("kernels/attention_product.cuh"))
        .flat_map(|m| [m[1].to_string(), m[2].to_string()])
        .collect();
    assert_eq!(theirs, [1, 2, 3, 4].map(|i| own[i].to_string()), "tiles of attention_product.cuh");
}
