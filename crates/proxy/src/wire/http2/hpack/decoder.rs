//! The reading side of HPACK: blocks in, fields out, each with what it means to HTTP/2.

use super::huffman;
use super::names::{self, STATIC, Tag};
use super::table::Table;
use super::{TABLE, form, take_number};

/// The longest name or value that is read, in bytes; a longer one could stand in no head that we take.
const LONGEST: usize = lorica_model::head::MAX_HEAD_BYTES + 1;

/// A block that is none: what follows could not be understood any more, so the connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Undecodable;

/// Reads blocks of fields. What each field means is kept with the table, so that a field seen before is not looked at again.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table<Tag>,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Where a name comes from.
enum Name<'b> {
    Text(&'b [u8]),
    Dynamic(usize),
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { table: Table::new(), name: Vec::new(), value: Vec::new() }
    }

    /// Gives back what only a block under way needs.
    pub(crate) fn rest(&mut self) {
        (self.name, self.value) = (Vec::new(), Vec::new());
    }

    /// Reads one whole block; each field goes to `field` as name, value and meaning.
    ///
    /// # Errors
    /// Where the block is none.
    pub(crate) fn decode(&mut self, mut block: &[u8], mut field: impl FnMut(&[u8], &[u8], Tag)) -> Result<(), Undecodable> {
        let block = &mut block;
        let mut begun = false;
        while let Some(first) = block.first().copied() {
            if first & form::INDEXED.0 != 0 {
                let index = take_number(block, form::INDEXED.1).ok_or(Undecodable)?;
                if (1..=STATIC.len()).contains(&index) {
                    let (name, value) = STATIC[index - 1];
                    field(name.as_bytes(), value.as_bytes(), names::tag_of_static(index));
                } else {
                    let (name, value, tag) = index.checked_sub(STATIC.len() + 1).and_then(|at| self.table.get(at)).ok_or(Undecodable)?;
                    field(name, value, tag);
                }
            } else if first & form::INDEXING.0 != 0 {
                self.literal(block, form::INDEXING.1, true, &mut field)?;
            } else if first & form::SIZE_UPDATE.0 != 0 {
                let size = take_number(block, form::SIZE_UPDATE.1).ok_or(Undecodable)?;
                if begun || size > TABLE {
                    return Err(Undecodable);
                }
                self.table.resize(size);
                continue;
            } else {
                self.literal(block, form::PLAIN.1, false, &mut field)?;
            }
            begun = true;
        }
        Ok(())
    }

    fn literal(
        &mut self,
        block: &mut &[u8],
        bits: u32,
        indexing: bool,
        field: &mut impl FnMut(&[u8], &[u8], Tag),
    ) -> Result<(), Undecodable> {
        let index = take_number(block, bits).ok_or(Undecodable)?;
        let (name, tag) = match index {
            0 => {
                let name = string(block, &mut self.name)?;
                (Name::Text(name), names::tag_of_name(name))
            }
            1..=61 => (Name::Text(STATIC[index - 1].0.as_bytes()), names::tag_of_static(index)),
            _ => {
                let at = index - STATIC.len() - 1;
                let (name, _, tag) = self.table.get(at).ok_or(Undecodable)?;
                // A value that was malformed says nothing of its name.
                (Name::Dynamic(at), if tag == Tag::Malformed { names::tag_of_name(name) } else { tag })
            }
        };
        let value = string(block, &mut self.value)?;
        let tag = names::with_value(tag, value);
        match name {
            Name::Text(name) => {
                field(name, value, tag);
                if indexing {
                    self.table.add(name, value, tag);
                }
            }
            Name::Dynamic(at) => {
                let (name, ..) = self.table.get(at).ok_or(Undecodable)?;
                field(name, value, tag);
                if indexing {
                    self.table.add_named(at, value, tag);
                }
            }
        }
        Ok(())
    }
}

/// Takes a string: where it stands, or, of Huffman code, in `buffer`.
fn string<'s, 'b: 's>(block: &mut &'b [u8], buffer: &'s mut Vec<u8>) -> Result<&'s [u8], Undecodable> {
    let huffman = block.first().ok_or(Undecodable)? & form::HUFFMAN.0 != 0;
    let length = take_number(block, form::HUFFMAN.1).ok_or(Undecodable)?;
    let (text, rest) = block.split_at_checked(length).ok_or(Undecodable)?;
    *block = rest;
    if !huffman {
        return Ok(text);
    }
    buffer.clear();
    if huffman::decode(text, buffer, LONGEST) { Ok(buffer) } else { Err(Undecodable) }
}
