//! A log file that moves itself aside when it is large: `NAME` and `NAME.1`, never more.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file for one process: two that share one would each move the other's aside.
pub(super) struct Rotating {
    path: PathBuf,
    file: File,
    size: u64,
    /// What it may grow to, in bytes.
    limit: u64,
    /// Whether the last write broke off, perhaps within a line.
    torn: bool,
}

impl Rotating {
    /// Opens the file to add to it, readable by its owner alone; makes the folder that it is in.
    pub(super) fn open(path: &Path, limit: u64) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, limit, torn: false })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        match std::fs::rename(&self.path, aside) {
            // Somebody took it away: a new one is what they want.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                *self = Self::open(&self.path, self.limit)?;
                Ok(())
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Adds whole lines. They stay together in one file.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + lines.len() as u64 > self.limit {
            self.rotate()?;
        }
        let line_end: &[u8] = if self.torn { b"\n" } else { b"" };
        let written = self.append(line_end).and_then(|()| self.append(lines));
        self.torn = written.is_err();
        written
    }
}
