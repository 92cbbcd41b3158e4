//! Which names the app was told for which addresses, so that a connection to an address can be led back to the name that it is for.
//!
//! In: answers of the host's resolvers that pass through our DNS. Out: the names of an address. Programs keep addresses for longer
//! than DNS says, so names are kept for longer as well.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;

/// How long a name is kept after it was told last, unless DNS says longer: there are programs that look up once and connect all day.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// The most addresses that are kept; of more, the one that was told longest ago goes.
const MOST_ADDRESSES: usize = 4096;
/// The most names of one address: front ends serve thousands, an app asks for few.
const MOST_NAMES: usize = 16;

/// What the app was told. Shared by the thread that answers DNS and those that connect; neither holds it for long.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashMap<IpAddr, Vec<(String, Instant)>>>);

impl Told {
    /// Takes note of an answer to the app. `now` is when it came.
    pub fn note(&self, answer: &[u8], now: Instant) {
        let Ok(message) = Message::from_vec(answer) else { return };
        let [question] = message.queries.as_slice() else { return };
        if message.metadata.response_code != ResponseCode::NoError {
            return;
        }
        // Aliases lead from the name that was asked for to the addresses, so all of these are that name's.
        let name = question.name().to_ascii().to_ascii_lowercase();
        let name = name.strip_suffix('.').unwrap_or(&name);
        for record in &message.answers {
            let address = match &record.data {
                RData::A(address) => IpAddr::V4(address.0),
                RData::AAAA(address) => IpAddr::V6(address.0),
                _ => continue,
            };
            self.put(address, name, now + KEPT.max(Duration::from_secs(record.ttl.into())));
        }
    }

    fn put(&self, address: IpAddr, name: &str, until: Instant) {
        // Every change of it is complete before the next line can fail.
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MOST_ADDRESSES && !told.contains_key(&address) {
            let newest = |names: &Vec<(String, Instant)>| names.iter().map(|(_, until)| *until).max();
            let oldest = told.iter().min_by_key(|(_, names)| newest(names)).map(|(address, _)| *address);
            oldest.into_iter().for_each(|oldest| drop(told.remove(&oldest)));
        }
        let names = told.entry(address).or_default();
        names.retain(|(known, _)| known != name);
        if names.len() >= MOST_NAMES {
            names.remove(0);
        }
        names.push((name.to_owned(), until));
    }

    /// The names of an address, the one told last first.
    #[must_use]
    pub fn names(&self, address: IpAddr, now: Instant) -> Vec<String> {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let names = told.get(&address).map(Vec::as_slice).unwrap_or_default();
        names.iter().rev().filter(|(_, until)| *until > now).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hickory_proto::op::{OpCode, Query};
    use hickory_proto::rr::rdata::{A, CNAME};
    use hickory_proto::rr::{Name, Record, RecordType};

    fn answer(asked: &str, addresses: &[[u8; 4]]) -> Vec<u8> {
        let mut message = Message::response(7, OpCode::Query);
        let (name, alias) = (Name::from_ascii(asked).unwrap(), Name::from_ascii("front.example.").unwrap());
        message.add_query(Query::query(name.clone(), RecordType::A));
        message.add_answer(Record::from_rdata(name, 60, RData::CNAME(CNAME(alias.clone()))));
        for address in addresses {
            message.add_answer(Record::from_rdata(alias.clone(), 60, RData::A(A((*address).into()))));
        }
        message.to_vec().unwrap()
    }

    #[test]
    fn an_address_is_led_back_to_the_names_asked_for() {
        let (told, now) = (Told::default(), Instant::now());
        told.note(&answer("API.example.", &[[203, 0, 113, 7], [203, 0, 113, 8]]), now);
        told.note(&answer("www.example.", &[[203, 0, 113, 7]]), now);
        assert_eq!(told.names([203, 0, 113, 7].into(), now), ["www.example", "api.example"]);
        assert_eq!(told.names([203, 0, 113, 8].into(), now), ["api.example"]);
        assert!(told.names([203, 0, 113, 9].into(), now).is_empty());
        assert!(told.names([203, 0, 113, 7].into(), now + KEPT * 2).is_empty());
        told.note(b"nonsense", now);
    }

    #[test]
    fn no_more_is_kept_than_fits() {
        let (told, now) = (Told::default(), Instant::now());
        for index in 0..MOST_ADDRESSES + 10 {
            let address = IpAddr::from([10, 0, u8::try_from(index / 256).unwrap(), u8::try_from(index % 256).unwrap()]);
            told.put(address, "a.example", now + Duration::from_millis(index.try_into().unwrap()));
        }
        assert_eq!(told.0.lock().unwrap().len(), MOST_ADDRESSES);
        assert!(told.names([10, 0, 0, 0].into(), now).is_empty(), "the oldest went");
        for index in 0..MOST_NAMES + 5 {
            told.put([1, 1, 1, 1].into(), &format!("{index}.example"), now + KEPT);
        }
        assert_eq!(told.names([1, 1, 1, 1].into(), now).len(), MOST_NAMES);
    }
}
