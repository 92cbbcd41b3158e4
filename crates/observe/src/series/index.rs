//! All series, in memory: their labels, the samples that are in no segment yet, and where in segments the others are. No I/O
//! but reading what is asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use prost::Message;

use super::chunk::{self, Chunk, TIMES};
use super::labels::{Labels, NAME, Numbered, Symbol, Symbols};
use super::matcher::{Matcher, Wanted};
use super::wire::{About, Entry, Kept, Named};
use super::{Found, Incoming, Sample, SelectError, Taken, frames};

/// How far ahead of this clock a sample's time may be, in milliseconds.
const AHEAD: i64 = 5 * 60 * 1000;
/// The most families of which type and meaning are kept.
const MAX_FAMILIES: usize = 10_000;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The number of a series.
pub(super) type SeriesNumber = u32;

/// What a series is to the store.
#[derive(Debug)]
struct Known {
    labels: Numbered,
    /// What is in no segment yet.
    head: Chunk,
    /// When it began, as far as is known.
    first: i64,
    /// The time of its newest sample.
    last: i64,
    /// How many segments have samples of it.
    segments: u32,
    /// Whether the log names it already.
    named: bool,
}

/// A series in a segment: its number, where its frame begins, and what is in it but the samples.
pub(super) type Placed = (SeriesNumber, u64, Kept);

/// A segment's file.
#[derive(Debug)]
pub(super) struct SegmentFile {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u64,
}

/// A segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    file: Arc<File>,
    pub(super) bytes: u64,
    pub(super) last: i64,
    places: Map<SeriesNumber, Place>,
}

/// Where in a segment a series is.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: u64,
    first: i64,
    last: i64,
    count: u32,
}

/// Samples that were judged and are about to be written.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) entry: Entry,
    samples: Vec<(SeriesNumber, Sample)>,
    /// The newest time of each before, should the log not take them.
    before: Vec<(SeriesNumber, i64)>,
    texts: Vec<Symbol>,
    pub(super) taken: Taken,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    symbols: Symbols,
    series: Vec<Option<Known>>,
    free: Vec<SeriesNumber>,
    by_labels: Map<Numbered, SeriesNumber>,
    by_name: Map<Symbol, BTreeSet<SeriesNumber>>,
    segments: BTreeMap<u64, Segment>,
    abouts: BTreeMap<String, About>,
    /// Which texts the log has already.
    logged: BTreeSet<Symbol>,
}

impl Index {
    /// How many series there are.
    pub(super) fn len(&self) -> usize {
        self.by_labels.len()
    }

    pub(super) fn segments(&self) -> &BTreeMap<u64, Segment> {
        &self.segments
    }

    pub(super) fn abouts(&self) -> &BTreeMap<String, About> {
        &self.abouts
    }

    /// Judges samples: what is to be written of them. `oldest` is the time before which nothing is taken any more.
    pub(super) fn judge(&mut self, incoming: &[Incoming], now: i64, oldest: i64, most: usize) -> Pending {
        let mut pending = Pending::default();
        for Incoming { labels, at, start, samples } in incoming {
            if !TIMES.contains(at) || *at > now + AHEAD || *at < oldest {
                pending.taken.untimely += samples.len() as u64;
                continue;
            }
            for sample in samples {
                let label = sample.label.as_ref().map(|(label, value)| (label.as_str(), value.as_str()));
                let of_family = labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                let all = of_family.chain([(NAME, sample.name.as_str())]).chain(label);
                let Some(number) = self.number_of(all, most) else {
                    pending.taken.no_room += 1;
                    continue;
                };
                // Whoever began to count at a time had counted nothing then; a counter that began anew says so by it.
                let zero = start.filter(|start| TIMES.contains(start) && *start >= oldest && start < at);
                let zero = zero.map(|at| Sample { at, value: 0.0 });
                if let Some(zero) = zero {
                    self.queue(&mut pending, number, zero);
                }
                if !self.queue(&mut pending, number, Sample { at: *at, value: sample.value }) {
                    pending.taken.late += 1;
                } else {
                    pending.taken.samples += 1;
                }
            }
        }
        pending
    }

    /// Puts a sample among those to be written, if it is newer than what there is.
    fn queue(&mut self, pending: &mut Pending, number: SeriesNumber, sample: Sample) -> bool {
        let Some(known) = self.series.get_mut(number as usize).and_then(Option::as_mut).filter(|known| sample.at > known.last) else {
            return false;
        };
        pending.before.push((number, known.last));
        known.last = sample.at;
        if !known.named {
            known.named = true;
            let labels: Vec<u32> = known.labels.iter().flat_map(|(name, value)| [*name, *value]).collect();
            for text in &labels {
                if self.logged.insert(*text) {
                    pending.texts.push(*text);
                    pending.entry.text_numbers.push(*text);
                    pending.entry.texts.push(self.symbols.text(*text).to_string());
                }
            }
            pending.entry.named.push(Named { number, labels });
        }
        let previous = pending.samples.last().map_or(0, |(_, last)| last.at);
        pending.entry.series.push(number);
        pending.entry.times.push(sample.at - previous);
        pending.entry.values.push(sample.value);
        pending.samples.push((number, sample));
        true
    }

    /// The log has them: now they can be found.
    pub(super) fn commit(&mut self, pending: Pending) -> Taken {
        for (number, sample) in pending.samples {
            if let Some(known) = self.series.get_mut(number as usize).and_then(Option::as_mut) {
                known.first = known.first.min(sample.at);
                known.head.push(sample);
            }
        }
        pending.entry.abouts.into_iter().for_each(|about| self.about(about));
        pending.taken
    }

    /// The log did not take them.
    pub(super) fn withdraw(&mut self, pending: &Pending) {
        for (number, last) in pending.before.iter().rev() {
            if let Some(known) = self.series.get_mut(*number as usize).and_then(Option::as_mut) {
                known.last = *last;
            }
        }
        for named in &pending.entry.named {
            if let Some(known) = self.series.get_mut(named.number as usize).and_then(Option::as_mut) {
                known.named = false;
            }
        }
        for text in &pending.texts {
            self.logged.remove(text);
        }
    }

    /// What is new of what is said of families.
    pub(super) fn news(&self, abouts: Vec<About>) -> Vec<About> {
        abouts.into_iter().filter(|about| self.abouts.get(&about.name) != Some(about)).collect()
    }

    fn about(&mut self, about: About) {
        if self.abouts.len() < MAX_FAMILIES || self.abouts.contains_key(&about.name) {
            self.abouts.insert(about.name.clone(), about);
        }
    }

    /// The number of a series, a new one if there is room.
    fn register(&mut self, labels: Numbered, most: usize) -> Option<SeriesNumber> {
        if let Some(number) = self.by_labels.get(&labels) {
            return Some(*number);
        }
        if self.len() >= most {
            return None;
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.series.push(None);
                SeriesNumber::try_from(self.series.len() - 1).ok()?
            }
        };
        if let Some(name) = self.name_of(&labels) {
            self.by_name.entry(name).or_default().insert(number);
        }
        self.by_labels.insert(labels.clone(), number);
        let known = Known { labels, head: Chunk::default(), first: i64::MAX, last: i64::MIN, segments: 0, named: false };
        *self.series.get_mut(number as usize)? = Some(known);
        Some(number)
    }

    /// The number of a series by its texts. Where there is no room for another, no text is kept either.
    fn number_of<'t>(&mut self, labels: impl Iterator<Item = (&'t str, &'t str)>, most: usize) -> Option<SeriesNumber> {
        let full = self.len() >= most;
        let mut number = |text: &str| if full { self.symbols.known(text) } else { Some(self.symbols.number(text)) };
        let mut all = labels.map(|(name, value)| Some((number(name)?, number(value)?))).collect::<Option<Vec<_>>>()?;
        all.sort_unstable();
        self.register(all.into(), most)
    }

    fn name_of(&self, labels: &Numbered) -> Option<Symbol> {
        let name = self.symbols.known(NAME)?;
        labels.iter().find(|(label, _)| *label == name).map(|(_, value)| *value)
    }

    /// Takes in what the log had, at the start.
    pub(super) fn replay(&mut self, entry: Entry, texts: &mut Map<u32, String>, numbers: &mut Map<u32, SeriesNumber>, most: usize) {
        texts.extend(entry.text_numbers.into_iter().zip(entry.texts));
        for named in &entry.named {
            if let Some(number) = self.register_texts(&named.labels, |text| texts.get(&text).map(String::as_str), most) {
                numbers.insert(named.number, number);
            }
        }
        let mut at = 0_i64;
        for ((of, step), value) in entry.series.iter().zip(entry.times).zip(entry.values) {
            at = at.saturating_add(step);
            let known = numbers.get(of).and_then(|number| self.series.get_mut(*number as usize)).and_then(Option::as_mut);
            if let Some(known) = known.filter(|known| at > known.last && TIMES.contains(&at)) {
                known.first = known.first.min(at);
                known.last = at;
                known.head.push(Sample { at, value });
            }
        }
        entry.abouts.into_iter().for_each(|about| self.about(about));
    }

    fn register_texts<'t>(&mut self, labels: &[u32], text: impl Fn(u32) -> Option<&'t str>, most: usize) -> Option<SeriesNumber> {
        let pairs = labels.as_chunks::<2>().0.iter();
        let pairs = pairs.map(|[name, value]| Some((text(*name)?, text(*value)?))).collect::<Option<Vec<_>>>()?;
        self.number_of(pairs.into_iter(), most)
    }

    /// What a segment of all that is in none yet consists of: its texts, and each series.
    pub(super) fn unsegmented(&self) -> (Vec<String>, impl Iterator<Item = (SeriesNumber, Kept)>) {
        let mut numbers: Map<Symbol, u32> = Map::default();
        let mut texts = Vec::new();
        let live = || {
            let numbered = self.series.iter().enumerate();
            let with_samples =
                numbered.filter_map(|(number, known)| Some((number, known.as_ref().filter(|known| known.head.count() > 0)?)));
            with_samples.filter_map(|(number, known)| Some((SeriesNumber::try_from(number).ok()?, known)))
        };
        for symbol in live().flat_map(|(_, known)| known.labels.iter()).flat_map(|(name, value)| [name, value]) {
            numbers.entry(*symbol).or_insert_with(|| {
                texts.push(self.symbols.text(*symbol).to_string());
                u32::try_from(texts.len() - 1).unwrap_or(u32::MAX)
            });
        }
        let kept = live().map(move |(number, known)| {
            let labels = known.labels.iter().flat_map(|(name, value)| [numbers[name], numbers[value]]).collect();
            let (head, last) = (&known.head, known.head.last().map_or(0, |sample| sample.at));
            (number, Kept { labels, first: head.first(), last, count: head.count(), samples: head.bytes().to_vec() })
        });
        (texts, kept)
    }

    /// A segment was written, and with it all that was in none.
    pub(super) fn segmented(&mut self, file: SegmentFile, places: Vec<Placed>) {
        for known in self.series.iter_mut().flatten() {
            known.head = Chunk::default();
            known.named = false;
        }
        self.logged.clear();
        self.add_segment(file, places);
        // A series that was registered for a sample that then was not taken.
        self.let_go();
    }

    /// A segment was found at the start: `texts`, and each series with where it is.
    pub(super) fn found(&mut self, file: SegmentFile, texts: &[String], kept: Vec<(u64, Kept)>, most: usize) {
        let mut places = Vec::with_capacity(kept.len());
        for (at, kept) in kept {
            let text = |number: u32| texts.get(number as usize).map(String::as_str);
            if let Some(series) = self.register_texts(&kept.labels, text, most) {
                places.push((series, at, kept));
            }
        }
        self.add_segment(file, places);
    }

    fn add_segment(&mut self, file: SegmentFile, found: Vec<Placed>) {
        let SegmentFile { number, path, file, bytes } = file;
        let mut places = Map::default();
        let mut newest = i64::MIN;
        for (series, at, Kept { first, last, count, .. }) in found {
            newest = newest.max(last);
            if let Some(known) = self.series.get_mut(series as usize).and_then(Option::as_mut) {
                known.first = known.first.min(first);
                known.last = known.last.max(last);
                known.segments += 1;
                places.insert(series, Place { at, first, last, count });
            }
        }
        self.segments.insert(number, Segment { path, file: Arc::new(file), bytes, last: newest, places });
    }

    /// Takes the oldest segment away: its file is to be deleted.
    pub(super) fn take_oldest(&mut self) -> Option<Segment> {
        let (_, segment) = self.segments.pop_first()?;
        for series in segment.places.keys() {
            if let Some(known) = self.series.get_mut(*series as usize).and_then(Option::as_mut) {
                known.segments = known.segments.saturating_sub(1);
            }
        }
        self.let_go();
        Some(segment)
    }

    /// Forgets series of which nothing is left, and texts that none has.
    fn let_go(&mut self) {
        let empty = |known: &&Known| known.segments == 0 && known.head.count() == 0;
        let gone: Vec<(usize, Numbered)> = self
            .series
            .iter()
            .enumerate()
            .filter_map(|(number, known)| known.as_ref().filter(empty).map(|known| (number, known.labels.clone())))
            .collect();
        if gone.is_empty() {
            return;
        }
        for (number, labels) in gone {
            self.series[number] = None;
            self.by_labels.remove(&labels);
            let Ok(number) = SeriesNumber::try_from(number) else { continue };
            if let Some(name) = self.name_of(&labels)
                && let Some(numbers) = self.by_name.get_mut(&name)
            {
                numbers.remove(&number);
                if numbers.is_empty() {
                    self.by_name.remove(&name);
                }
            }
            self.free.push(number);
        }
        self.symbols.keep(self.by_labels.keys());
    }

    /// The series of which these hold, and which have samples between these times.
    fn matching(&self, matchers: &[Matcher], from: i64, to: i64) -> Vec<SeriesNumber> {
        let by_name = |matcher: &&Matcher| matcher.name == NAME;
        let named = matchers.iter().filter(by_name);
        let exact = named.clone().find_map(|matcher| match &matcher.wanted {
            Wanted::Equal(name) => Some(name),
            _ => None,
        });
        let names: Vec<&BTreeSet<SeriesNumber>> = match exact {
            Some(name) => self.symbols.known(name).and_then(|name| self.by_name.get(&name)).into_iter().collect(),
            None => {
                let takes = |name: &Symbol| named.clone().all(|matcher| matcher.takes(&self.symbols.text(*name)));
                self.by_name.iter().filter(|(name, _)| takes(name)).map(|(_, numbers)| numbers).collect()
            }
        };
        let mut others: Vec<Asked<'_>> = matchers.iter().map(|matcher| Asked::new(matcher, &self.symbols)).collect();
        let mut found = Vec::new();
        for number in names.into_iter().flatten() {
            let Some(known) = self.series.get(*number as usize).and_then(Option::as_ref) else { continue };
            if known.last >= from && known.first <= to && others.iter_mut().all(|asked| asked.holds(&known.labels, &self.symbols)) {
                found.push(*number);
            }
        }
        found
    }

    /// The labels of series that have samples between these times.
    pub(super) fn labels(&self, matchers: &[Matcher], from: i64, to: i64) -> Vec<Labels> {
        let numbers = self.matching(matchers, from, to);
        let known = numbers.iter().filter_map(|number| self.series.get(*number as usize)?.as_ref());
        known.map(|known| self.symbols.labels(&known.labels)).collect()
    }

    /// Where the samples of series are, between these times.
    pub(super) fn find(&self, matchers: &[Matcher], from: i64, to: i64, room: &mut usize) -> Result<Vec<Parts>, SelectError> {
        let mut all = Vec::new();
        for number in self.matching(matchers, from, to) {
            let Some(known) = self.series.get(number as usize).and_then(Option::as_ref) else { continue };
            let mut parts = Parts { labels: self.symbols.labels(&known.labels), kept: Vec::new(), head: Vec::new() };
            let mut count = 0;
            for segment in self.segments.values().filter(|segment| segment.last >= from) {
                if let Some(place) = segment.places.get(&number).filter(|place| place.last >= from && place.first <= to) {
                    parts.kept.push((segment.file.clone(), place.at));
                    count += place.count as usize;
                }
            }
            if known.head.count() > 0 && known.head.first() <= to {
                parts.head = known.head.bytes().to_vec();
                count += known.head.count() as usize;
            }
            *room = room.checked_sub(count).ok_or(SelectError::TooMuch)?;
            if count > 0 {
                all.push(parts);
            }
        }
        Ok(all)
    }
}

/// Where the samples of a series are.
#[derive(Debug)]
pub(super) struct Parts {
    labels: Labels,
    kept: Vec<(Arc<File>, u64)>,
    head: Vec<u8>,
}

impl Parts {
    /// Its samples between these times. Reads segments.
    pub(super) fn read(self, from: i64, to: i64) -> io::Result<Found> {
        let mut samples = Vec::new();
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "a segment of the store of series is broken");
        for (file, at) in &self.kept {
            let frame = frames::read_at(file, *at)?.ok_or_else(broken)?;
            let kept = Kept::decode(frame.as_slice()).map_err(|_| broken())?;
            chunk::decode(&kept.samples, &mut samples).ok_or_else(broken)?;
        }
        chunk::decode(&self.head, &mut samples).ok_or_else(broken)?;
        samples.retain(|sample| (from..=to).contains(&sample.at));
        Ok(Found { labels: self.labels, samples })
    }
}

/// A condition about to be held against many series: each text is looked at once.
struct Asked<'m> {
    matcher: &'m Matcher,
    name: Option<Symbol>,
    known: Map<Symbol, bool>,
    without: bool,
}

impl<'m> Asked<'m> {
    fn new(matcher: &'m Matcher, symbols: &Symbols) -> Self {
        Self { matcher, name: symbols.known(&matcher.name), known: Map::default(), without: matcher.takes("") }
    }

    fn holds(&mut self, labels: &Numbered, symbols: &Symbols) -> bool {
        let value = labels.iter().find(|(name, _)| Some(*name) == self.name).map(|(_, value)| *value);
        let Some(value) = value else { return self.without };
        *self.known.entry(value).or_insert_with(|| self.matcher.takes(&symbols.text(value)))
    }
}
