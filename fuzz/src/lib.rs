//! What the targets share: a limit of memory that grows with the input, and files made of inputs.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Once};

use das_cuda::Error;
use das_cuda::model::checkpoint::Checkpoint;

/// The system's allocator, which ends the process beyond a limit. libFuzzer reports the input that did it.
struct Limited;

#[global_allocator]
static MEMORY: Limited = Limited;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

impl Limited {
    fn grows(by: usize) {
        let before = IN_USE.fetch_add(by, Ordering::Relaxed);
        let limit = LIMIT.load(Ordering::Relaxed);
        if before.checked_add(by).is_none_or(|after| after > limit) {
            lift();
            eprintln!("{by} bytes more than the {before} in use: at most {limit} for this input");
            std::process::abort();
        }
    }
}

/// What is written about a failure takes memory too.
fn lift() {
    LIMIT.store(usize::MAX, Ordering::Relaxed);
}

// SAFETY: every block is the system's, of the layout that was asked for; only the sum of sizes is kept here.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Limited::grows(layout.size());
        // SAFETY: the caller's layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Limited::grows(layout.size());
        // SAFETY: the caller's layout is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Limited::grows(size);
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's block and layout are passed on.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's block and layout are passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

/// What any input may take: buffers, and tables that are made once.
const ROOM: usize = 8 << 20;

/// Runs `f`, which may hold at most 8 MiB and `per_byte` times the bytes of the input at any time.
pub fn bounded<T>(input: usize, per_byte: usize, f: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            lift();
            before(info);
        }));
    });
    LIMIT.store(IN_USE.load(Ordering::Relaxed) + ROOM + per_byte * input, Ordering::Relaxed);
    let made = f();
    lift();
    made
}

/// The input as a part of the program, for what reads such parts. It must be gone when the input is.
pub fn embedded(input: &[u8]) -> &'static [u8] {
    // SAFETY: the callers drop what they make of it before they return.
    unsafe { std::mem::transmute::<&[u8], &'static [u8]>(input) }
}

/// A folder of this process in the system's place for temporary files.
pub fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = std::env::temp_dir().join(format!("das-cuda-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        folder
    });
    &FOLDER
}

/// An error names the file that it is of.
pub fn names(error: &Error, file: &str) {
    assert!(error.message().contains(file), "{error}");
}

/// Reads all that a checkpoint of `bytes` bytes says it has: what comes out is what was stated, and no more
/// than there is.
pub fn read_all(checkpoint: &Checkpoint, bytes: usize) {
    let root = checkpoint.root();
    for name in checkpoint.names() {
        let dims = root.dims(name).expect("it was listed");
        match root.tensor(name, dims) {
            Ok(view) => {
                let count: usize = dims.iter().product();
                assert_eq!(view.data().len(), count, "{name}");
                assert!(2 * count <= bytes, "{name}: {count} elements in {bytes} bytes");
            }
            Err(error) => names(&error, checkpoint.label()),
        }
    }
    assert!(checkpoint.finish(&["*"]).is_ok());
}

/// A safetensors file of lines `NAME DTYPE SIZE SIZE...`, and `@KEY TEXT` for what its header says beside
/// tensors: header, and bytes of the tensors that follow it. So that the fuzzer finds names sooner than JSON
/// and offsets.
pub fn safetensors(text: &str) -> Option<(Vec<u8>, u64)> {
    let mut header = serde_json::Map::new();
    let (mut said, mut end) = (serde_json::Map::new(), 0u64);
    for line in text.lines() {
        if let Some((key, text)) = line.strip_prefix('@').and_then(|line| line.split_once(' ')) {
            said.insert(key.into(), text.into());
            continue;
        }
        let mut words = line.split(' ');
        let (name, dtype) = (words.next()?, words.next()?);
        let width = match dtype {
            "F64" => 8,
            "F32" => 4,
            "F16" | "BF16" => 2,
            _ => 1,
        };
        let dims = words.map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()?;
        let bytes = dims.iter().try_fold(width, |bytes: u64, dim| bytes.checked_mul(*dim))?;
        let start = end;
        end = end.checked_add(bytes).filter(|end| *end < 1 << 40)?;
        header.insert(
            name.into(),
            serde_json::json!({"dtype": dtype, "shape": dims, "data_offsets": [start, end]}),
        );
    }
    if !said.is_empty() {
        header.insert("__metadata__".into(), said.into());
    }
    let json = serde_json::Value::from(header).to_string();
    Some(([&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat(), end))
}

/// Tensors of more bytes are holes in their file, and are not to be read.
pub const MOST_BYTES: u64 = 1 << 16;

/// Writes what [`safetensors`] made, with small numbers, or for large tensors nothing, behind the header.
pub fn write(path: &Path, header: &[u8], bytes: u64) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).expect("a file in the temporary folder");
    file.write_all(header).expect("room for a header");
    match bytes <= MOST_BYTES {
        // Of 1.06 in F16, and of about 0.01 in the other types.
        true => file.write_all(&vec![0x3c; bytes as usize]).expect("room for the tensors"),
        false => file.set_len(header.len() as u64 + bytes).expect("a file with a hole"),
    }
}
