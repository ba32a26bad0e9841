//! The pickle in a file of `torch.save`: the archive around it is made here, with storages `0` and `1`.
#![no_main]

use das_cuda::model::checkpoint::Checkpoint;
use das_cuda_fuzz::{bounded, embedded, names, read_all};

/// A zip archive of these files as they are. Checksums are left out: weights are mapped, not read twice.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut zip, mut directory) = (Vec::new(), Vec::new());
    let number = |n: usize| (n as u32).to_le_bytes();
    for (name, bytes) in files {
        // Method, time, date and checksum; sizes; lengths of the name and of nothing.
        let sizes = [number(bytes.len()), number(bytes.len()), number(name.len())].concat();
        let common = [&[10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &sizes].concat();
        let at = number(zip.len());
        zip.extend([b"PK\x03\x04", common.as_slice(), name.as_bytes(), bytes].concat());
        let rest = [&[0; 10][..], &at, name.as_bytes()].concat();
        directory.extend([b"PK\x01\x02\x0a\x00", common.as_slice(), &rest].concat());
    }
    let (count, at) = (files.len() as u8, number(zip.len()));
    let end = [b"PK\x05\x06\0\0\0\0", &[count, 0, count, 0][..], &number(directory.len()), &at, &[0, 0]];
    [zip, directory, end.concat()].concat()
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let storage: Vec<u8> = (0..64).collect();
    let files = [("a/data.pkl", input), ("a/data/0", &storage), ("a/data/1", &storage[..16])];
    let whole = archive(&files);
    bounded(whole.len(), 400, || match Checkpoint::embedded("a.pt", embedded(&whole)) {
        Ok(checkpoint) => read_all(&checkpoint, whole.len()),
        Err(error) => {
            names(&error, "a.pt");
            assert!(!error.message().contains("zip archive"), "the archive is sound: {error:?}");
        }
    })
});
