//! A segment: a file that is only ever appended to, and the index of its records in memory.
//!
//! In: records, staged in a buffer and then written at once. Out: looks at what is written, which nothing changes any more. What could not be
//! written is forgotten whole: the file is cut to what it was.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use prost::Message as _;

use super::frame::{self, HEAD, MAGIC, Name, Part, Source, Stored};
use super::growing::{Growing, Grown};

/// The most records of a segment: what its index may take, 48 bytes each.
pub(super) const MAX_ENTRIES: usize = 65_536;
/// The most names of a segment, and the most sources.
pub(super) const MAX_NAMES: usize = 4096;

/// What the index has of a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    trace: [u64; 2],
    /// When it began, in nanoseconds since 1970.
    pub(super) time: u64,
    /// How long it took, in nanoseconds.
    pub(super) duration: u64,
    /// Where its message is, and how long.
    offset: u32,
    length: u32,
    /// The number of its name.
    pub(super) name: u32,
    pub(super) failed: bool,
}

impl Entry {
    pub(super) fn trace(&self) -> u128 {
        u128::from(self.trace[0]) << 64 | u128::from(self.trace[1])
    }

    fn of(stored: &Stored, offset: usize, length: usize) -> Self {
        Self {
            trace: [stored.trace_high, stored.trace_low],
            time: stored.time,
            duration: stored.duration,
            // Segments are far smaller than what these can say.
            offset: u32::try_from(offset).unwrap_or(u32::MAX),
            length: u32::try_from(length).unwrap_or(u32::MAX),
            name: stored.name,
            failed: stored.failed,
        }
    }
}

/// A record on its way into a segment.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) trace: u128,
    pub(super) time: u64,
    pub(super) duration: u64,
    pub(super) failed: bool,
    pub(super) body: Bytes,
}

/// The segment that is written.
#[derive(Debug)]
pub(super) struct OpenSegment {
    pub(super) number: u64,
    path: PathBuf,
    file: Arc<File>,
    /// Bytes on disk.
    written: usize,
    /// Bytes to be written, with how many records, names and sources there were before them.
    staged: Vec<u8>,
    before: [usize; 3],
    entries: Growing<Entry>,
    names: Growing<Arc<Name>>,
    known_names: HashMap<Arc<Name>, u32, foldhash::fast::RandomState>,
    sources: Growing<Place>,
    known_sources: HashMap<Bytes, u32, foldhash::fast::RandomState>,
    times: Times,
    pub(super) begun: SystemTime,
}

/// Where a message is, and how long.
type Place = (u32, u32);

/// From when to when the records of a segment began.
#[derive(Debug, Clone, Copy)]
struct Times {
    earliest: u64,
    latest: u64,
}

impl OpenSegment {
    /// Makes a new file.
    pub(super) fn create(directory: &Path, number: u64, now: SystemTime) -> io::Result<Self> {
        let path = path(directory, number);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let segment = Self::new(number, path, file, MAGIC.len(), now);
        if let Err(error) = segment.file.write_all_at(&MAGIC, 0) {
            // One without its first bytes is of no use to anybody.
            let _: io::Result<()> = std::fs::remove_file(&segment.path);
            return Err(error);
        }
        Ok(segment)
    }

    fn new(number: u64, path: PathBuf, file: File, written: usize, begun: SystemTime) -> Self {
        Self {
            number,
            path,
            file: Arc::new(file),
            written,
            staged: Vec::new(),
            before: [0; 3],
            entries: Growing::default(),
            names: Growing::default(),
            known_names: HashMap::default(),
            sources: Growing::default(),
            known_sources: HashMap::default(),
            times: Times { earliest: u64::MAX, latest: 0 },
            begun,
        }
    }

    /// Reads a file back. What follows the last whole frame is cut off; how many bytes that were.
    ///
    /// # Errors
    /// When it cannot be read, or is no segment: `InvalidData`.
    pub(super) fn recover(directory: &Path, number: u64) -> io::Result<(Self, usize)> {
        let path = path(directory, number);
        let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        if content.get(..MAGIC.len()) != Some(&MAGIC) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not begin as a segment of this version does"));
        }
        // What was written last tells how old it is.
        let begun = file.metadata()?.modified()?;
        let mut rest = Bytes::from(content);
        let whole = rest.len();
        let _magic = rest.split_to(MAGIC.len());
        let mut segment = Self::new(number, path, file, MAGIC.len(), begun);
        while let Some(part) = frame::next(&mut rest) {
            let (begin, end) = (segment.written, whole - rest.len());
            if !segment.has(&part) {
                break;
            }
            segment.know(part, begin, end - begin - HEAD);
            segment.written = end;
        }
        let torn = whole - segment.written;
        if torn > 0 {
            segment.file.set_len(segment.written as u64)?;
        }
        segment.before = segment.counts();
        Ok((segment, torn))
    }

    /// Whether what a frame refers to is there.
    fn has(&self, part: &Part) -> bool {
        match part {
            Part::Source(_) | Part::Name(_) => true,
            Part::Record(stored) => (stored.source as usize) < self.sources.len() && (stored.name as usize) < self.names.len(),
        }
    }

    /// Takes a frame into the index.
    fn know(&mut self, part: Part, begin: usize, length: usize) {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        match part {
            Part::Source(source) => {
                self.known_sources.insert(source.encode_to_vec().into(), number(self.sources.len()));
                self.sources.push((number(begin + HEAD), number(length)));
            }
            Part::Name(name) => {
                let name = Arc::new(name);
                self.known_names.insert(name.clone(), number(self.names.len()));
                self.names.push(name);
            }
            Part::Record(stored) => {
                self.times.earliest = self.times.earliest.min(stored.time);
                self.times.latest = self.times.latest.max(stored.time);
                self.entries.push(Entry::of(&stored, begin + HEAD, length));
            }
        }
    }

    fn counts(&self) -> [usize; 3] {
        [self.entries.len(), self.names.len(), self.sources.len()]
    }

    /// Whether a further record is to go into the next one.
    pub(super) fn is_full(&self, bytes: usize) -> bool {
        let [entries, names, sources] = self.counts();
        self.length() >= bytes || entries >= MAX_ENTRIES || names >= MAX_NAMES || sources >= MAX_NAMES
    }

    /// Bytes of the file, those that are still to be written among them.
    pub(super) fn length(&self) -> usize {
        self.written + self.staged.len()
    }

    /// Bytes that are still to be written.
    pub(super) fn staged(&self) -> usize {
        self.staged.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.len() == 0
    }

    fn stage(&mut self, part: Part) {
        let begin = self.length();
        let length = frame::append(&mut self.staged, part.clone());
        self.know(part, begin, length);
    }

    /// Stages a record. `source` is an encoded [`Source`], as `described` decodes it.
    pub(super) fn add(&mut self, source: &Bytes, described: &Source, name: &Name, record: Incoming) {
        let source = match self.known_sources.get(source) {
            Some(number) => *number,
            None => {
                self.stage(Part::Source(described.clone()));
                u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let name = match self.known_names.get(name) {
            Some(number) => *number,
            None => {
                self.stage(Part::Name(name.clone()));
                u32::try_from(self.names.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let Incoming { trace, time, duration, failed, body } = record;
        let (trace_high, trace_low) = ((trace >> 64) as u64, trace as u64);
        self.stage(Part::Record(Stored { source, name, trace_high, trace_low, time, duration, failed, body }));
    }

    /// Writes what is staged. How many records that were.
    ///
    /// # Errors
    /// How many records are lost, and why: they are forgotten.
    pub(super) fn commit(&mut self) -> Result<usize, (usize, io::Error)> {
        let records = self.entries.len() - self.before[0];
        if self.staged.is_empty() {
            return Ok(0);
        }
        match self.file.write_all_at(&self.staged, self.written as u64) {
            Ok(()) => {
                self.written += self.staged.len();
                self.staged.clear();
                self.before = self.counts();
                Ok(records)
            }
            Err(error) => {
                self.forget();
                Err((records, error))
            }
        }
    }

    fn forget(&mut self) {
        let [entries, names, sources] = self.before;
        self.entries.forget_past(entries);
        self.names.forget_past(names);
        self.sources.forget_past(sources);
        self.known_names.retain(|_, number| (*number as usize) < names);
        self.known_sources.retain(|_, number| (*number as usize) < sources);
        self.staged.clear();
        // If it fails, what is left there is written over by what comes next, and cut off when it is read back.
        let _: io::Result<()> = self.file.set_len(self.written as u64);
    }

    /// The segment as it is on disk now.
    pub(super) fn look(&mut self) -> Segment {
        Segment {
            number: self.number,
            path: self.path.clone(),
            file: self.file.clone(),
            bytes: self.written as u64,
            entries: self.entries.look(),
            names: self.names.look(),
            sources: self.sources.look(),
            by_trace: None,
            times: self.times,
            until: SystemTime::now(),
        }
    }

    /// The segment when nothing more is written to it.
    pub(super) fn seal(mut self) -> io::Result<Segment> {
        let synced = self.file.sync_data();
        let mut segment = self.look();
        let mut order: Vec<u32> = (0..u32::try_from(segment.entries.len()).unwrap_or(u32::MAX)).collect();
        order.sort_by_key(|index| segment.entries.get(*index as usize).map(Entry::trace));
        segment.by_trace = Some(order);
        synced.map(|()| segment)
    }
}

/// A segment as it was at some moment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    path: PathBuf,
    file: Arc<File>,
    pub(super) bytes: u64,
    entries: Grown<Entry>,
    names: Grown<Arc<Name>>,
    sources: Grown<Place>,
    /// The numbers of entries in the order of their traces, once nothing is added.
    by_trace: Option<Vec<u32>>,
    times: Times,
    /// Nothing was written to it since.
    pub(super) until: SystemTime,
}

impl Segment {
    /// Removes its file. Whoever reads it goes on reading.
    pub(super) fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// As it is said when it was last written before this process.
    pub(super) fn written(mut self, until: SystemTime) -> Self {
        self.until = until;
        self
    }

    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entry(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<Name>> {
        self.names.iter()
    }

    pub(super) fn name(&self, number: u32) -> Option<&Arc<Name>> {
        self.names.get(number as usize)
    }

    /// Whether something in it may have begun within these nanoseconds since 1970.
    pub(super) fn may_have(&self, from: u64, to: u64) -> bool {
        self.times.earliest <= to && self.times.latest >= from
    }

    /// When the last of its records began.
    pub(super) fn latest(&self) -> u64 {
        self.times.latest
    }

    /// The records of these traces, in the order of the file.
    pub(super) fn of_traces(&self, traces: &HashSet<u128>) -> Vec<usize> {
        let trace_of = |index: usize| self.entries.get(index).map(Entry::trace);
        let Some(order) = &self.by_trace else {
            return self.entries.iter().enumerate().filter(|(_, entry)| traces.contains(&entry.trace())).map(|(index, _)| index).collect();
        };
        let mut found = Vec::new();
        for trace in traces {
            let first = order.partition_point(|index| trace_of(*index as usize) < Some(*trace));
            let same = order.iter().skip(first).map(|index| *index as usize).take_while(|index| trace_of(*index) == Some(*trace));
            found.extend(same);
        }
        found.sort_unstable();
        found
    }

    pub(super) fn reader(&self) -> Reader<'_> {
        Reader { segment: self, window: Bytes::new(), begin: 0, sources: HashMap::new() }
    }
}

/// How much is read at once.
const WINDOW: usize = 256 * 1024;

/// Reads records of one segment; those beside each other with one call of the system.
pub(super) struct Reader<'s> {
    segment: &'s Segment,
    window: Bytes,
    begin: usize,
    sources: HashMap<u32, Arc<Source>>,
}

impl Reader<'_> {
    /// The bytes of an entry's message.
    pub(super) fn message(&mut self, entry: &Entry) -> io::Result<Bytes> {
        self.bytes(entry.offset as usize, entry.length as usize)
    }

    fn bytes(&mut self, offset: usize, length: usize) -> io::Result<Bytes> {
        let end = offset + length;
        if offset < self.begin || end > self.begin + self.window.len() {
            // The record somewhere in the middle, as some go through a segment forwards and others backwards.
            let half = WINDOW.saturating_sub(length) / 2;
            let begin = offset.saturating_sub(half);
            let until = (end + half).min(usize::try_from(self.segment.bytes).unwrap_or(usize::MAX)).max(end);
            let mut window = vec![0; until - begin];
            self.segment.file.read_exact_at(&mut window, begin as u64)?;
            (self.window, self.begin) = (window.into(), begin);
        }
        Ok(self.window.slice(offset - self.begin..end - self.begin))
    }

    /// The record of a message.
    pub(super) fn stored(&self, message: Bytes) -> io::Result<Stored> {
        match frame::Frame::decode(message).map(|frame| frame.part) {
            Ok(Some(Part::Record(stored))) => Ok(stored),
            _ => Err(damaged("what should be a record is none")),
        }
    }

    /// Where a record comes from.
    pub(super) fn source(&mut self, number: u32) -> io::Result<Arc<Source>> {
        if let Some(source) = self.sources.get(&number) {
            return Ok(source.clone());
        }
        let (offset, length) = *self.segment.sources.get(number as usize).ok_or_else(|| damaged("a record's source is missing"))?;
        // Past the window, which is where the records are.
        let mut message = vec![0; length as usize];
        self.segment.file.read_exact_at(&mut message, u64::from(offset))?;
        let Ok(Some(Part::Source(source))) = frame::Frame::decode(Bytes::from(message)).map(|frame| frame.part) else {
            return Err(damaged("what should be a source is none"));
        };
        let source = Arc::new(source);
        self.sources.insert(number, source.clone());
        Ok(source)
    }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:012}.segment"))
}

/// The number of a file that is a segment by its name.
pub(super) fn number(name: &std::ffi::OsStr) -> Option<u64> {
    name.to_str()?.strip_suffix(".segment").filter(|digits| digits.len() == 12)?.parse().ok()
}
