//! The books on every SVID that may still hold: lists of revocations name certificates by serial number. Pure; the store holds a copy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use lorica_model::name::WorkloadName;
use lorica_model::snapshot::Revoked;
use lorica_model::spiffe::SpiffeId;
use serde::{Deserialize, Serialize};

use crate::store::{Expected, Table, Write};

/// The most SVIDs that are remembered. Past it, those that end first are forgotten: stock Envoys could not be told of them, Lorica's
/// proxies need no serial numbers.
const MOST: usize = 100_000;

/// An SVID that was signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Issued {
    /// Its identity.
    pub(super) identity: SpiffeId,
    /// The workload that it names; none: it names none.
    pub(super) workload: Option<WorkloadName>,
    /// The intermediate that signed it, by the SHA-256 of its certificate.
    pub(super) issuer: String,
    /// The end of its life.
    pub(super) not_after: SystemTime,
}

/// SVIDs by serial number, in hexadecimal.
#[derive(Debug, Default)]
pub(super) struct IssuedBook {
    all: BTreeMap<String, Issued>,
    /// The same by the end of their lives.
    ends: BTreeSet<(SystemTime, String)>,
    /// What the store does not have yet.
    unsaved: BTreeSet<String>,
}

impl IssuedBook {
    /// The book as the store has it.
    pub(super) fn new(all: BTreeMap<String, Issued>) -> Self {
        let ends = all.iter().map(|(serial, issued)| (issued.not_after, serial.clone())).collect();
        Self { all, ends, unsaved: BTreeSet::new() }
    }

    /// Enters an SVID.
    pub(super) fn enter(&mut self, serial: String, issued: Issued) {
        self.ends.insert((issued.not_after, serial.clone()));
        self.unsaved.insert(serial.clone());
        self.all.insert(serial, issued);
    }

    /// Strikes what is over at `now`, and what is too much; what the store is to be told since this was asked last.
    pub(super) fn changes(&mut self, now: SystemTime) -> Vec<(String, Option<Issued>)> {
        let mut changes = Vec::new();
        while let Some((end, _)) = self.ends.first()
            && (*end <= now || self.all.len() > MOST)
            && let Some((_, serial)) = self.ends.pop_first()
        {
            self.all.remove(&serial);
            self.unsaved.remove(&serial);
            changes.push((serial, None));
        }
        let entered = std::mem::take(&mut self.unsaved).into_iter();
        changes.extend(entered.filter_map(|serial| self.all.get(&serial).cloned().map(|issued| (serial, Some(issued)))));
        changes
    }

    /// These changes were not stored: they are told again.
    pub(super) fn not_stored(&mut self, changes: Vec<(String, Option<Issued>)>) {
        // What is struck here and not in the store is over, and struck again when the store is read.
        self.unsaved.extend(changes.into_iter().filter(|(_, issued)| issued.is_some()).map(|(serial, _)| serial));
    }

    /// Those of `revoked`: serial number, and what is known of each.
    pub(super) fn of<'a>(&'a self, revoked: &'a Revoked) -> impl Iterator<Item = (&'a String, &'a Issued)> {
        self.all.iter().filter(|(_, issued)| revoked.is_revoked(&issued.identity, issued.workload.as_ref()))
    }
}

/// A serial number as the books have it.
pub(super) fn hexadecimal(serial: &[u8]) -> String {
    serial.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a serial number; none: it is none.
pub(super) fn bytes(serial: &str) -> Option<Vec<u8>> {
    (0..serial.len()).step_by(2).map(|at| u8::from_str_radix(serial.get(at..at + 2)?, 16).ok()).collect()
}

/// A change as the store takes it.
pub(super) fn write((serial, issued): &(String, Option<Issued>)) -> Result<Write, serde_json::Error> {
    let value = issued.as_ref().map(serde_json::to_vec).transpose()?;
    Ok(Write { table: Table::Issued, key: serial.clone(), value, expected: Expected::Anything })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    fn issued(account: &str, workload: Option<&str>, end: u64) -> Issued {
        Issued {
            identity: format!("spiffe://mesh.local/ns/shop/sa/{account}").parse().unwrap(),
            workload: workload.map(|name| name.parse().unwrap()),
            issuer: "i".to_owned(),
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(end),
        }
    }

    #[test]
    fn what_is_over_is_struck_and_the_store_is_told_each_change_once() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut book = IssuedBook::default();
        book.enter("a".to_owned(), issued("web", Some("web-1.shop"), 10));
        book.enter("b".to_owned(), issued("web", None, 20));
        let changes = book.changes(at(5));
        assert_eq!(
            changes.iter().map(|(serial, issued)| (serial.as_str(), issued.is_some())).collect::<Vec<_>>(),
            [("a", true), ("b", true)]
        );
        assert!(book.changes(at(5)).is_empty());
        // What could not be stored is told again.
        book.not_stored(changes);
        assert_eq!(book.changes(at(5)).len(), 2);
        let changes = book.changes(at(10));
        assert_eq!(changes, [("a".to_owned(), None)]);
        let revoked = Revoked { identities: [issued("web", None, 0).identity].into(), ..Revoked::default() };
        assert_eq!(book.of(&revoked).map(|(serial, _)| serial.as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn serial_numbers_read_back() {
        assert_eq!(bytes(&hexadecimal(&[0, 7, 255])).unwrap(), [0, 7, 255]);
        assert_eq!(bytes("0"), None);
    }

    #[test]
    fn a_workload_is_found_by_its_name_alone() {
        let mut book = IssuedBook::default();
        book.enter("a".to_owned(), issued("web", Some("web-1.shop"), 10));
        book.enter("b".to_owned(), issued("web", Some("web-2.shop"), 10));
        let revoked = Revoked { workloads: ["web-2.shop".parse().unwrap()].into(), ..Revoked::default() };
        assert_eq!(book.of(&revoked).map(|(serial, _)| serial.as_str()).collect::<Vec<_>>(), ["b"]);
    }
}
