//! SHA-256, in one place: of bytes and of files that are read a block at a time.

mod kept;

use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::regular;

pub use kept::sha256_of_weights;

/// Bytes of a file that are held in memory at a time.
const BLOCK: usize = 1 << 20;

/// SHA-256 of `bytes`, in lower-case hexadecimal as `sha256sum` prints it.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&digest(bytes))
}

/// SHA-256 of `bytes`, as bytes.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Length in bytes and SHA-256, as [`sha256`] writes it, of the file at `path`.
///
/// # Errors
/// Of the system, where the file cannot be opened or read; for what is no regular file.
pub fn sha256_of_file(path: &Path) -> io::Result<(u64, String)> {
    sha256_of_reader(regular::open(path)?)
}

/// The same of what is left to read.
fn sha256_of_reader(mut file: impl Read) -> io::Result<(u64, String)> {
    let (mut hash, mut block, mut length) = (Sha256::new(), vec![0; BLOCK], 0);
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok((length, hex(&hash.finalize()))),
            Ok(n) => {
                hash.update(&block[..n]);
                length += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Whether `text` is so many hexadecimal digits, in lower case as hashes are written here.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_files_have_the_published_hash() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), abc);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(sha256_of_file(&path).unwrap(), (3, abc.to_string()));
        let long = vec![7; 3 * BLOCK + 1];
        std::fs::write(&path, &long).unwrap();
        assert_eq!(sha256_of_file(&path).unwrap(), (long.len() as u64, sha256(&long)));
        assert!(sha256_of_file(dir.path()).is_err());
    }
}
