//! Files of frames: the length of what follows, a checksum, and what it is of. A frame that was written in part, or that the
//! disk changed, is told from one that is whole.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use lorica_model::xxh64::xxh64;

/// What stands before the bytes of a frame.
const HEAD: usize = 8;
/// The largest frame that is believed, in bytes.
const LARGEST: u32 = 64 * 1024 * 1024;

/// Writes a frame: how many bytes it takes.
pub(super) fn write(out: &mut impl Write, bytes: &[u8]) -> io::Result<u64> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= LARGEST);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "too much for one frame"))?;
    let mut frame = Vec::with_capacity(HEAD + bytes.len());
    frame.extend(length.to_le_bytes());
    frame.extend(checksum(bytes));
    frame.extend(bytes);
    // In one piece: nothing comes between.
    out.write_all(&frame)?;
    Ok(frame.len() as u64)
}

/// Reads a file from its begin: each whole frame is told with where it begins. How far it is whole.
pub(super) fn scan(path: &Path, mut told: impl FnMut(u64, &[u8])) -> io::Result<u64> {
    let mut file = BufReader::with_capacity(256 * 1024, File::open(path)?);
    let mut at = 0;
    let mut bytes = Vec::new();
    loop {
        let mut head = [0; HEAD];
        if !whole(file.read_exact(&mut head))? {
            return Ok(at);
        }
        let Some((length, sum)) = parts(head) else { return Ok(at) };
        bytes.resize(length, 0);
        if !whole(file.read_exact(&mut bytes))? || checksum(&bytes) != sum {
            return Ok(at);
        }
        told(at, &bytes);
        at += (HEAD + length) as u64;
    }
}

/// The frame that begins at `at`. None where it is not whole.
pub(super) fn read_at(file: &File, at: u64) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; HEAD];
    if !whole(file.read_exact_at(&mut head, at))? {
        return Ok(None);
    }
    let Some((length, sum)) = parts(head) else { return Ok(None) };
    let mut bytes = vec![0; length];
    let read = whole(file.read_exact_at(&mut bytes, at + HEAD as u64))?;
    Ok((read && checksum(&bytes) == sum).then_some(bytes))
}

/// Whether all was read; the end of the file came first otherwise.
fn whole(read: io::Result<()>) -> io::Result<bool> {
    match read {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn parts(head: [u8; HEAD]) -> Option<(usize, [u8; 4])> {
    let [a, b, c, d, sum @ ..] = head;
    let length = u32::from_le_bytes([a, b, c, d]);
    (length <= LARGEST).then_some((length as usize, sum))
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = xxh64(bytes, 0).to_le_bytes();
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that fails says where by panicking")]
    use super::*;

    fn read(path: &Path) -> (u64, Vec<Vec<u8>>) {
        let mut all = Vec::new();
        let end = scan(path, |_, bytes| all.push(bytes.to_vec())).unwrap();
        (end, all)
    }

    #[test]
    fn a_file_is_read_as_far_as_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frames");
        let mut bytes = Vec::new();
        let first = write(&mut bytes, b"one").unwrap();
        write(&mut bytes, b"").unwrap();
        let all = write(&mut bytes, b"three").unwrap() + first + 8;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(read(&path), (all, vec![b"one".to_vec(), Vec::new(), b"three".to_vec()]));
        for end in first..all {
            std::fs::write(&path, &bytes[..usize::try_from(end).unwrap()]).unwrap();
            let expected = if end < first + 8 { first } else { first + 8 };
            assert_eq!(read(&path).0, expected, "cut at {end}");
        }
        for changed in 0..bytes.len() {
            let mut other = bytes.clone();
            other[changed] ^= 0x10;
            std::fs::write(&path, &other).unwrap();
            assert!(read(&path).0 < all, "changed at {changed}");
        }
    }

    #[test]
    fn a_frame_is_found_by_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frames");
        let mut bytes = Vec::new();
        let first = write(&mut bytes, b"one").unwrap();
        write(&mut bytes, b"two").unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(read_at(&file, first).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(read_at(&file, first + 1).unwrap(), None);
        assert_eq!(read_at(&file, 1000).unwrap(), None);
    }
}
