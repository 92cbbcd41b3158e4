//! Segments one after another, the oldest of which go when there are too many bytes, or when they are too old.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::Bounds;
use super::frame::{Name, Source};
use super::segment::{self, Incoming, OpenSegment, Segment};

/// Into how many segments the bytes are divided: what goes at once is one of them.
const SHARES: u64 = 16;
/// The most segments: their indexes are in memory.
const MAX_SEGMENTS: usize = 32;
/// How many bytes are staged before they are written.
const STAGED: usize = 256 * 1024;
/// The smallest and the largest segment, in bytes.
const SIZES: (u64, u64) = (16 * 1024, 64 * 1024 * 1024);

/// What became of records since the last commit.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    /// They are on disk.
    pub(super) stored: u64,
    /// They could not be written.
    pub(super) lost: u64,
}

/// The segments of one kind of records.
#[derive(Debug)]
pub(super) struct Sequence {
    directory: PathBuf,
    bounds: Bounds,
    sealed: Vec<Arc<Segment>>,
    open: Option<OpenSegment>,
    next: u64,
    done: Done,
    /// Since the last commit a file could not be made.
    hopeless: bool,
    failing: bool,
}

impl Sequence {
    /// Reads back what is in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// When it can be neither made nor read.
    pub(super) fn open(directory: &Path, bounds: Bounds, now: SystemTime) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut numbers = Vec::new();
        for entry in fs::read_dir(directory)? {
            numbers.extend(segment::number(&entry?.file_name()));
        }
        numbers.sort_unstable();
        let mut sequence = Self {
            directory: directory.to_owned(),
            bounds,
            sealed: Vec::new(),
            open: None,
            next: numbers.last().map_or(0, |last| last + 1),
            done: Done::default(),
            hopeless: false,
            failing: false,
        };
        let last = numbers.last().copied();
        for number in numbers {
            let segment = match OpenSegment::recover(directory, number) {
                Ok((segment, 0)) => segment,
                Ok((segment, torn)) => {
                    tracing::warn!(segment = number, bytes = torn, "the end of a telemetry segment was not whole, and is cut off");
                    segment
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(segment = number, %error, "a file among the telemetry is no segment, and is removed");
                    fs::remove_file(directory.join(format!("{number:012}.segment")))?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if last == Some(number) && !segment.is_full(sequence.segment_bytes()) {
                sequence.open = Some(segment);
            } else {
                let written = segment.begun;
                sequence.sealed.push(Arc::new(segment.seal()?.written(written)));
            }
        }
        sequence.bound(now);
        Ok(sequence)
    }

    fn segment_bytes(&self) -> usize {
        usize::try_from((self.bounds.bytes / SHARES).clamp(SIZES.0, SIZES.1)).unwrap_or(usize::MAX)
    }

    /// Takes a record, to be written with others. `source` is an encoded [`Source`], as `described` says it.
    pub(super) fn add(&mut self, source: &Bytes, described: &Source, name: &Name, record: Incoming, now: SystemTime) {
        let bytes = self.segment_bytes();
        if self.open.as_ref().is_some_and(|open| open.is_full(bytes)) {
            self.write();
            self.seal();
        }
        if self.open.is_none() && !self.hopeless {
            match OpenSegment::create(&self.directory, self.next, now) {
                Ok(segment) => {
                    self.next += 1;
                    self.open = Some(segment);
                }
                Err(error) => {
                    self.hopeless = true;
                    self.failed(&error);
                }
            }
        }
        match &mut self.open {
            Some(open) => {
                open.add(source, described, name, record);
                if open.staged() >= STAGED {
                    self.write();
                }
            }
            None => self.done.lost += 1,
        }
    }

    /// Writes what was taken, and lets go of what is too much or too old. What became of the records since the last time.
    pub(super) fn commit(&mut self, now: SystemTime) -> Done {
        self.write();
        self.hopeless = false;
        let span = self.bounds.age / u32::try_from(SHARES).unwrap_or(16);
        if self.open.as_ref().is_some_and(|open| !open.is_empty() && older(open.begun, span, now)) {
            self.seal();
        }
        self.bound(now);
        std::mem::take(&mut self.done)
    }

    fn write(&mut self) {
        let Some(open) = &mut self.open else { return };
        match open.commit() {
            Ok(0) => {}
            Ok(records) => {
                self.done.stored += records as u64;
                if std::mem::take(&mut self.failing) {
                    tracing::info!(directory = %self.directory.display(), "telemetry can be written again");
                }
            }
            Err((records, error)) => {
                self.done.lost += records as u64;
                self.failed(&error);
            }
        }
    }

    /// Said once, not once a batch.
    fn failed(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(directory = %self.directory.display(), %error, "telemetry cannot be written; it is dropped until it can");
        }
    }

    fn seal(&mut self) {
        let Some(open) = self.open.take() else { return };
        match open.seal() {
            Ok(segment) => self.sealed.push(Arc::new(segment)),
            Err(error) => self.failed(&error),
        }
    }

    /// Lets go of the oldest segments.
    fn bound(&mut self, now: SystemTime) {
        let open = self.open.as_ref().map_or(0, |open| open.length() as u64);
        let mut bytes = self.sealed.iter().map(|segment| segment.bytes).sum::<u64>() + open;
        // The one that is open may grow to its full size.
        let room = self.bounds.bytes.saturating_sub((self.segment_bytes() as u64).saturating_sub(open));
        let mut gone = 0;
        for segment in &self.sealed {
            let many = self.sealed.len() - gone >= MAX_SEGMENTS;
            if !many && bytes <= room && !older(segment.until, self.bounds.age, now) {
                break;
            }
            if let Err(error) = segment.remove() {
                // It is tried again with the next commit.
                tracing::warn!(segment = segment.number, %error, "a telemetry segment cannot be removed");
                break;
            }
            bytes -= segment.bytes;
            gone += 1;
        }
        self.sealed.drain(..gone);
    }

    /// All segments as they are on disk now, the oldest first.
    pub(super) fn look(&mut self) -> Vec<Arc<Segment>> {
        let open = self.open.as_mut().map(|open| Arc::new(open.look()));
        self.sealed.iter().cloned().chain(open).collect()
    }

    /// Ends: what was taken is on disk.
    pub(super) fn close(mut self, now: SystemTime) -> Done {
        let done = self.commit(now);
        self.seal();
        done
    }
}

fn older(time: SystemTime, age: Duration, now: SystemTime) -> bool {
    now.duration_since(time).is_ok_and(|since| since > age)
}
