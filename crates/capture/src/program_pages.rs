//! Gives back the pages of the program's own code that only its start needed: argument parsing, YAML, relocation. In flows
//! nothing; out flows how many bytes of mappings were let go of. What runs on is read in again, from the page cache, as it runs.

use std::{fs, io};

/// The most of `/proc/self/maps` that is looked at: a process of ours has some hundred mappings.
const MOST_MAPPINGS: usize = 4096;

/// Lets go of all code pages in memory, once: for a process that has started and now does one thing for long.
///
/// # Errors
/// When the process may not look at its own mappings, or the kernel refuses.
pub fn release_start_pages() -> io::Result<usize> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let mut released = 0;
    for (start, length) in maps.lines().take(MOST_MAPPINGS).filter_map(code) {
        // SAFETY: `code` gives only private mappings of files that are executable and not writable. Nothing of ours writes
        // to code (there are no text relocations: RELRO is a mapping of its own, without `x`), so each page is what its file
        // holds, and the next access, from whatever thread, finds the same bytes. No reference into a page becomes invalid.
        if unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) } != 0 {
            return Err(io::Error::last_os_error());
        }
        released += length;
    }
    Ok(released)
}

/// Start and length of the mapping in a line of `/proc/self/maps`, where it is unchanged code of a file.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions, _offset, _device, inode) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    if permissions != "r-xp" || inode == "0" {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    Some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_unchanged_code_of_files_is_let_go_of() {
        assert_eq!(code("55ada6545000-55ada772d000 r-xp 005c9000 fe:00 10306711  /usr/bin/lorica"), Some((0x55ad_a654_5000, 0x011e_8000)));
        for other in [
            "55ada772d000-55ada77bc000 r--p 017b0000 fe:00 10306711  /usr/bin/lorica",
            "55ada77bc000-55ada77c4000 rw-p 0183e000 fe:00 10306711  /usr/bin/lorica",
            "7ffe6a5f8000-7ffe6a5fa000 r-xp 00000000 00:00 0  [vdso]",
            "7f0000000000-7f0000001000 rwxp 00000000 fe:00 5  /tmp/jit",
            "",
            "x-y r-xp 0 0 1",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn what_was_let_go_of_runs_on() {
        let before = format!("{:?}", std::time::Duration::from_millis(1500));
        assert!(release_start_pages().unwrap() > 0);
        assert_eq!(format!("{:?}", std::time::Duration::from_millis(1500)), before);
    }
}
