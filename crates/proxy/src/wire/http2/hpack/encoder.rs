//! The writing side of HPACK: fields in, blocks out.
//!
//! A field that was said before is one or two bytes, and costs its reader a copy. It enters the table the second time that it
//! is said within a short while: what never repeats (a request's id) would only push out what does. Secrets never enter it, so
//! that no length tells whether a guess was right; strings go out as they are, as Huffman code costs more than it saves.

use std::hash::{BuildHasher, Hasher};

use super::names::{static_field, static_name};
use super::table::Table;
use super::{TABLE, form, put_number};

/// The places in which an entry of the table is looked for by its hash; a power of two, and twice the entries of a full table.
const PLACES: usize = 256;
/// How many fields said once are remembered; a power of two, and more than three ordinary heads.
const ONCE: usize = 64;
/// The longest field that enters the table, name and value together, in bytes: an eighth of the table.
const LONGEST: usize = TABLE / 8;

/// Writes blocks of fields.
#[derive(Debug)]
pub(crate) struct Encoder {
    seen: Option<Box<Seen>>,
    hasher: foldhash::fast::RandomState,
    /// How much the peer's table may hold.
    most: usize,
    /// The peer said so and was not told yet: the least that it said meanwhile.
    least: Option<usize>,
    /// For names in upper case.
    name: Vec<u8>,
}

/// What was said before. Made with the first field that asks for it.
#[derive(Debug)]
struct Seen {
    table: Table<u32>,
    /// The number of the entry with this hash.
    places: [u32; PLACES],
    once: [u32; ONCE],
}

impl Encoder {
    pub(crate) fn new() -> Self {
        Self { seen: None, hasher: foldhash::fast::RandomState::default(), most: TABLE, least: None, name: Vec::new() }
    }

    /// Obeys the peer's SETTINGS_HEADER_TABLE_SIZE.
    pub(crate) fn resize(&mut self, most: usize) {
        let most = most.min(TABLE);
        if most != self.most || self.least.is_some() {
            self.least = Some(self.least.map_or(most, |least| least.min(most)));
            self.most = most;
        }
    }

    /// Begins a block: says how large the table is, where that has changed.
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        let Some(least) = self.least.take() else { return };
        for size in [least, self.most].into_iter().skip(usize::from(least == self.most)) {
            put_number(form::SIZE_UPDATE, size, out);
            if let Some(seen) = &mut self.seen {
                seen.table.resize(size);
            }
        }
    }

    /// Appends a field. Its name may be in any case.
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        // Without a branch for each byte, so that many are looked at at once.
        if name.iter().fold(false, |upper, byte| upper | byte.is_ascii_uppercase()) {
            let mut lower = std::mem::take(&mut self.name);
            lower.clear();
            lower.extend(name.iter().map(u8::to_ascii_lowercase));
            self.lower(&lower, value, out);
            self.name = lower;
        } else {
            self.lower(name, value, out);
        }
    }

    fn lower(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        let named = static_name(name);
        if let Some(index) = named.and_then(|first| static_field(first, value)) {
            return put_number(form::INDEXED, index, out);
        }
        if is_secret(name) {
            return literal(form::NEVER, named, name, value, out);
        }
        // What says a length or a time hardly repeats, and is short.
        if matches!(named, Some(28)) || self.most < TABLE / 4 || name.len() + value.len() > LONGEST {
            return literal(form::PLAIN, named, name, value, out);
        }
        let most = self.most;
        let seen = self.seen.get_or_insert_with(|| Seen::new(most));
        let mut hasher = self.hasher.build_hasher();
        hasher.write(name);
        hasher.write(value);
        let hash = hasher.finish();
        if let Some(index) = seen.find(hash, name, value) {
            return put_number(form::INDEXED, index + 62, out);
        }
        if seen.was_said(hash) {
            seen.add(hash, name, value);
            literal(form::INDEXING, named, name, value, out);
        } else {
            literal(form::PLAIN, named, name, value, out);
        }
    }
}

impl Seen {
    fn new(most: usize) -> Box<Self> {
        let mut table = Table::new();
        table.resize(most);
        Box::new(Self { table, places: [u32::MAX; PLACES], once: [0; ONCE] })
    }

    /// Where an entry of this hash may be: in one of two places, so that two frequent fields rarely contend for one.
    fn places(hash: u64) -> [usize; 2] {
        [(hash >> 40) as usize % PLACES, (hash >> 48) as usize % PLACES]
    }

    fn find(&self, hash: u64, name: &[u8], value: &[u8]) -> Option<usize> {
        Self::places(hash).into_iter().find_map(|place| {
            let index = self.table.index_of(self.places[place])?;
            let (said, with, known) = self.table.get(index)?;
            (known == hash as u32 && said == name && with == value).then_some(index)
        })
    }

    /// Whether it was said a short while ago; from now on it was.
    fn was_said(&mut self, hash: u64) -> bool {
        let short = hash as u32;
        std::mem::replace(&mut self.once[(hash >> 32) as usize % ONCE], short) == short
    }

    fn add(&mut self, hash: u64, name: &[u8], value: &[u8]) {
        let [first, second] = Self::places(hash);
        let free = self.table.index_of(self.places[first]).is_none();
        self.places[if free { first } else { second }] = self.table.next();
        self.table.add(name, value, hash as u32);
    }
}

/// Appends a field as it is, its name in any case, without any table: such a block may leave in any order with others.
pub(crate) fn plain(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    put_number(form::PLAIN, 0, out);
    put_number(form::STRING, name.len(), out);
    let at = out.len();
    out.extend_from_slice(name);
    out[at..].make_ascii_lowercase();
    put_number(form::STRING, value.len(), out);
    out.extend_from_slice(value);
}

fn literal(form: (u8, u32), named: Option<usize>, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.reserve(name.len() + value.len() + 12);
    match named {
        Some(index) => put_number(form, index, out),
        None => {
            put_number(form, 0, out);
            put_number(form::STRING, name.len(), out);
            out.extend_from_slice(name);
        }
    }
    put_number(form::STRING, value.len(), out);
    out.extend_from_slice(value);
}

/// Fields whose values no one may guess by the length of what follows (RFC 7541, 7.1).
fn is_secret(name: &[u8]) -> bool {
    matches!(name, b"authorization" | b"proxy-authorization" | b"cookie" | b"set-cookie")
}
