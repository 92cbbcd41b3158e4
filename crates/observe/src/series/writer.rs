//! The one thread that writes: log, segments, and what is deleted of them.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime};

use prost::Message;
use tokio::sync::oneshot;

use super::index::{Index, Placed, Segment, SegmentFile};
use super::wire::{Entry, Kept, Opening};
use super::{About, Bounds, Incoming, Shared, Taken, WriteError, frames, milliseconds};

/// How often bounds are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Which share of all bytes the log may take before it becomes a segment.
const LOG_SHARE: u64 = 16;
/// How long to wait after a segment could not be written.
const AGAIN: Duration = Duration::from_secs(30);

/// What is to be done.
#[derive(Debug)]
pub(super) enum Job {
    /// Write samples.
    Write { incoming: Vec<Incoming>, abouts: Vec<About>, reply: oneshot::Sender<Result<Taken, WriteError>> },
    /// Make a segment.
    Cut { reply: oneshot::Sender<Result<(), WriteError>> },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Writer {
    directory: PathBuf,
    bounds: Bounds,
    shared: Arc<Shared>,
    log: Log,
    /// When it has to become a segment.
    due: Instant,
    failing: bool,
}

/// What came since the last segment.
#[derive(Debug)]
struct Log {
    number: u64,
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Log {
    fn open(directory: &Path, number: u64) -> io::Result<Self> {
        let path = directory.join(format!("log-{number:010}"));
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { number, path, file, bytes })
    }

    /// Adds a frame; one that did not fit is taken back.
    fn append(&mut self, entry: &Entry) -> io::Result<()> {
        match frames::write(&mut self.file, &entry.encode_to_vec()) {
            Ok(bytes) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(error) => {
                self.file.set_len(self.bytes)?;
                Err(error)
            }
        }
    }
}

impl Writer {
    /// Finds again what is in the directory.
    pub(super) fn open(directory: &Path, bounds: Bounds, shared: Arc<Shared>) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let (mut segments, mut logs) = (BTreeMap::new(), BTreeMap::new());
        for file in fs::read_dir(directory)? {
            let path = file?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let number = |kind: &str| name.strip_prefix(kind).and_then(|number| number.parse::<u64>().ok());
            if let Some(number) = number("segment-") {
                segments.insert(number, path);
            } else if let Some(number) = number("log-") {
                logs.insert(number, path);
            } else if name.ends_with(".new") {
                // It was not finished, and what was to be in it is in its log.
                fs::remove_file(&path)?;
            }
        }
        let mut index = shared.index.write().unwrap_or_else(PoisonError::into_inner);
        for (number, path) in &segments {
            find_segment(&mut index, *number, path, bounds.series)?;
        }
        let newest = segments.keys().last().copied().unwrap_or(0);
        let mut last = newest + 1;
        for (number, path) in logs {
            if number <= newest {
                // Its segment was finished, and it was to be deleted next.
                fs::remove_file(path)?;
                continue;
            }
            replay(&mut index, &path, bounds.series)?;
            last = number;
        }
        drop(index);
        let log = Log::open(directory, last)?;
        let writer = Self { directory: directory.to_owned(), bounds, shared, log, due: Instant::now() + bounds.segment, failing: false };
        writer.bound()?;
        Ok(writer)
    }

    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            match jobs.recv_timeout(TICK) {
                Ok(Job::Write { incoming, abouts, reply }) => {
                    // Whoever asked may have gone.
                    let _: Result<(), _> = reply.send(self.write(&incoming, abouts));
                }
                Ok(Job::Cut { reply }) => {
                    let _: Result<(), _> = reply.send(self.cut().map_err(|error| WriteError::Disk(error.to_string())));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.keep();
        }
    }

    fn index(&self) -> RwLockWriteGuard<'_, Index> {
        self.shared.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes after which a log becomes a segment.
    fn log_limit(&self) -> u64 {
        (self.bounds.bytes / LOG_SHARE).max(4096)
    }

    fn write(&mut self, incoming: &[Incoming], abouts: Vec<About>) -> Result<Taken, WriteError> {
        if self.log.bytes > 2 * self.log_limit() {
            // It should have become a segment, and could not.
            return Err(WriteError::Disk("no segment can be written, and the log is full".to_owned()));
        }
        let now = milliseconds(SystemTime::now());
        let oldest = now.saturating_sub(i64::try_from(self.bounds.age.as_millis()).unwrap_or(i64::MAX));
        let mut pending = {
            let mut index = self.index();
            let mut pending = index.judge(incoming, now, oldest, self.bounds.series);
            pending.entry.abouts = index.news(abouts);
            pending
        };
        if pending.entry == Entry::default() {
            return Ok(pending.taken);
        }
        let entry = std::mem::take(&mut pending.entry);
        let written = self.log.append(&entry);
        pending.entry = entry;
        let mut index = self.index();
        match written {
            Ok(()) => Ok(index.commit(pending)),
            Err(error) => {
                index.withdraw(&pending);
                drop(index);
                self.tell(&error);
                Err(WriteError::Disk(error.to_string()))
            }
        }
    }

    /// Makes a segment where one is due, and deletes what is over the bounds.
    fn keep(&mut self) {
        let due = self.log.bytes > self.log_limit() || (self.log.bytes > 0 && Instant::now() >= self.due);
        if due && !(self.failing && Instant::now() < self.due) {
            match self.cut() {
                Ok(()) => self.failing = false,
                Err(error) => {
                    self.due = Instant::now() + AGAIN;
                    self.tell(&error);
                }
            }
        }
        if let Err(error) = self.bound() {
            tracing::warn!(%error, "an old segment of the store of series cannot be deleted");
        }
    }

    /// Said once, not each time.
    fn tell(&mut self, error: &io::Error) {
        if !self.failing {
            tracing::warn!(%error, "series cannot be written; they are dropped until they can");
        }
        self.failing = true;
    }

    /// Puts all that is in no segment into one, and begins a new log.
    fn cut(&mut self) -> io::Result<()> {
        let number = self.log.number;
        let path = self.directory.join(format!("segment-{number:010}"));
        let new = path.with_extension("new");
        let written = self.write_segment(&new);
        let (places, bytes) = written.inspect_err(|_| drop(fs::remove_file(&new)))?;
        fs::rename(&new, &path)?;
        File::open(&self.directory)?.sync_all()?;
        let file = File::open(&path)?;
        let log = Log::open(&self.directory, number + 1)?;
        let old = std::mem::replace(&mut self.log, log);
        self.index().segmented(SegmentFile { number, path, file, bytes }, places);
        self.due = Instant::now() + self.bounds.segment;
        remove(&old.path)
    }

    fn write_segment(&self, path: &Path) -> io::Result<(Vec<Placed>, u64)> {
        let mut out = BufWriter::new(File::create(path)?);
        // Only this thread changes the index, so others may read it meanwhile.
        let index = self.shared.index();
        let (texts, kept) = index.unsegmented();
        let opening = Opening { texts, abouts: index.abouts().values().cloned().collect() };
        let mut bytes = frames::write(&mut out, &opening.encode_to_vec())?;
        let mut places = Vec::new();
        for (series, mut kept) in kept {
            let at = bytes;
            bytes += frames::write(&mut out, &kept.encode_to_vec())?;
            kept.samples = Vec::new();
            kept.labels = Vec::new();
            places.push((series, at, kept));
        }
        out.flush()?;
        out.get_ref().sync_all()?;
        Ok((places, bytes))
    }

    /// Deletes the oldest segments until what is left is within the bounds.
    fn bound(&self) -> io::Result<()> {
        let oldest = milliseconds(SystemTime::now()).saturating_sub(i64::try_from(self.bounds.age.as_millis()).unwrap_or(i64::MAX));
        loop {
            let is_over = {
                let index = self.shared.index();
                let bytes = index.segments().values().map(|segment| segment.bytes).sum::<u64>() + self.log.bytes;
                let aged = index.segments().values().next().is_some_and(|segment| segment.last < oldest);
                aged || (bytes > self.bounds.bytes && !index.segments().is_empty())
            };
            if !is_over {
                return Ok(());
            }
            let Some(Segment { path, .. }) = self.index().take_oldest() else { return Ok(()) };
            remove(&path)?;
        }
    }
}

/// Deletes a file; one that is gone already is no mistake.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn find_segment(index: &mut Index, number: u64, path: &Path, most: usize) -> io::Result<()> {
    let (mut opening, mut kept, mut is_first) = (Opening::default(), Vec::new(), true);
    let whole = frames::scan(path, |at, bytes| {
        if std::mem::take(&mut is_first) {
            opening = Opening::decode(bytes).unwrap_or_default();
        } else if let Ok(mut found) = Kept::decode(bytes) {
            found.samples = Vec::new();
            kept.push((at, found));
        }
    })?;
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    if whole < bytes {
        tracing::warn!(segment = %path.display(), whole, bytes, "a segment of the store of series is broken: what comes behind is lost");
    }
    let entry = Entry { abouts: std::mem::take(&mut opening.abouts), ..Entry::default() };
    index.replay(entry, &mut Default::default(), &mut Default::default(), most);
    index.found(SegmentFile { number, path: path.to_owned(), file, bytes }, &opening.texts, kept, most);
    Ok(())
}

/// Reads a log as far as it is whole, and cuts off the rest.
fn replay(index: &mut Index, path: &Path, most: usize) -> io::Result<()> {
    let (mut texts, mut numbers) = Default::default();
    let whole = frames::scan(path, |_, bytes| match Entry::decode(bytes) {
        Ok(entry) => index.replay(entry, &mut texts, &mut numbers, most),
        Err(error) => tracing::warn!(%error, "a frame of the log of series cannot be read"),
    })?;
    let file = OpenOptions::new().write(true).open(path)?;
    if whole < file.metadata()?.len() {
        tracing::info!(log = %path.display(), whole, "the log of series was cut off in the middle of a write; all before is there");
        file.set_len(whole)?;
    }
    Ok(())
}
