//! A table of fields seen before (RFC 7541, 2.3.2 and 4): the newest first, the oldest leave when room is needed.
//!
//! All text lies in one buffer, old text before new: a field that leaves only moves the buffer's beginning, and what has left
//! is cleared away once it is as much as a table holds.

use std::collections::VecDeque;
use std::ops::Range;

use super::TABLE;

/// What a field counts besides its text, in bytes (RFC 7541, 4.1).
const OVERHEAD: usize = 32;

#[derive(Debug)]
struct Entry<T> {
    at: u32,
    name: u32,
    value: u32,
    tag: T,
}

/// The table; each entry has a `T` with it.
#[derive(Debug)]
pub(super) struct Table<T> {
    text: Vec<u8>,
    /// The oldest first.
    entries: VecDeque<Entry<T>>,
    size: usize,
    most: usize,
    /// How many entries have left.
    left: u32,
}

impl<T: Copy> Table<T> {
    pub(super) fn new() -> Self {
        Self { text: Vec::new(), entries: VecDeque::new(), size: 0, most: TABLE, left: 0 }
    }

    /// The number of the entry that comes next, if entries are counted from the first ever.
    pub(super) fn next(&self) -> u32 {
        self.left.wrapping_add(self.entries.len() as u32)
    }

    /// The field at `index`, the newest being 0.
    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8], T)> {
        let entry = self.entries.get(self.entries.len().checked_sub(index + 1)?)?;
        let (name, value) = ranges(entry);
        Some((&self.text[name], &self.text[value], entry.tag))
    }

    /// The index of the entry that was the `number`th ever, if it is still there.
    pub(super) fn index_of(&self, number: u32) -> Option<usize> {
        let behind = self.next().wrapping_sub(number) as usize;
        (1..=self.entries.len()).contains(&behind).then(|| behind - 1)
    }

    /// Adds a field, its name given as text.
    pub(super) fn add(&mut self, name: &[u8], value: &[u8], tag: T) {
        let at = self.text.len();
        self.text.extend_from_slice(name);
        self.finish(at, name.len(), value, tag);
    }

    /// Adds a field that has its name from the entry at `index`, which may leave by this very addition.
    pub(super) fn add_named(&mut self, index: usize, value: &[u8], tag: T) {
        let Some(entry) = self.entries.len().checked_sub(index + 1).and_then(|at| self.entries.get(at)) else { return };
        let (name, _) = ranges(entry);
        let (at, length) = (self.text.len(), name.len());
        self.text.extend_from_within(name);
        self.finish(at, length, value, tag);
    }

    fn finish(&mut self, at: usize, name: usize, value: &[u8], tag: T) {
        let size = name + value.len() + OVERHEAD;
        if size > self.most {
            // RFC 7541, 4.4: it empties the table, and that is no error.
            self.shrink_to(0);
            return;
        }
        self.text.extend_from_slice(value);
        self.shrink_to(self.most - size);
        self.entries.push_back(Entry { at: at as u32, name: name as u32, value: value.len() as u32, tag });
        self.size += size;
        self.clear_away();
    }

    /// Changes how much it may hold.
    pub(super) fn resize(&mut self, most: usize) {
        self.most = most;
        self.shrink_to(most);
    }

    fn shrink_to(&mut self, most: usize) {
        while self.size > most {
            let Some(entry) = self.entries.pop_front() else { break };
            self.size -= (entry.name + entry.value) as usize + OVERHEAD;
            self.left = self.left.wrapping_add(1);
        }
        if self.entries.is_empty() && most == 0 {
            self.text.clear();
        }
    }

    fn clear_away(&mut self) {
        let dead = self.entries.front().map_or(self.text.len(), |entry| entry.at as usize);
        if dead >= TABLE {
            self.text.drain(..dead);
            self.entries.iter_mut().for_each(|entry| entry.at -= dead as u32);
        }
    }
}

fn ranges<T>(entry: &Entry<T>) -> (Range<usize>, Range<usize>) {
    let (at, name, value) = (entry.at as usize, entry.name as usize, entry.value as usize);
    (at..at + name, at + name..at + name + value)
}
