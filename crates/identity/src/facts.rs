//! What the CA says about a workload inside its SVID: [`WorkloadFacts`] in, the DER of a private, non-critical
//! certificate extension out, and back.
//!
//! The other side of a connection reads who it talks to (workload, service, version, virtual address) from the
//! certificate that was just verified, so nobody can forge it and nothing is looked up. Nothing is authorized by
//! it: that is the SPIFFE ID's part.
//!
//! ```text
//! WorkloadFacts ::= SEQUENCE {
//!     workload   [0] IMPLICIT UTF8String,                 -- NAME.NAMESPACE
//!     service    [1] IMPLICIT UTF8String OPTIONAL,        -- NAME.NAMESPACE
//!     version    [2] IMPLICIT UTF8String OPTIONAL,
//!     virtualV4  [3] IMPLICIT OCTET STRING (SIZE (4)) OPTIONAL,
//!     virtualV6  [4] IMPLICIT OCTET STRING (SIZE (16)) OPTIONAL,
//!     ... }                                               -- newer fields, with higher tags, are skipped
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use lorica_model::name::{ServiceName, WorkloadName};

use crate::der;

/// The object identifier of the extension: `2.25.1594306218.1.1`.
///
/// It is under the arc for UUIDs (X.667), which anyone may use without registration, with a number that no
/// generated UUID can have, as those have high bits set. A full UUID would be 128 bits long: Go's certificate
/// parser refuses whole certificates with an arc beyond 31 bits, and gRPC peers written in Go are part of the mesh.
pub const OID: &[u64] = &[2, 25, 1_594_306_218, 1, 1];

/// The most bytes of a text in the facts: that of a DNS name.
pub const MAX_TEXT: usize = 253;

/// The most bytes of the whole extension that are read.
const MAX_EXTENSION: usize = 4096;

const WORKLOAD: u8 = der::context(0);
const SERVICE: u8 = der::context(1);
const VERSION: u8 = der::context(2);
const VIRTUAL_V4: u8 = der::context(3);
const VIRTUAL_V6: u8 = der::context(4);

/// What the CA attests of a workload besides its SPIFFE ID, from the registration it checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkloadFacts {
    /// The workload, with its namespace.
    pub workload: WorkloadName,
    /// The service it is an instance of; `None` for one that only calls.
    pub service: Option<ServiceName>,
    /// The version it runs, as its owner named it: 1 to 253 bytes, no control characters.
    pub version: Option<String>,
    /// Its own virtual IPv4 address.
    pub virtual_v4: Option<Ipv4Addr>,
    /// Its own virtual IPv6 address.
    pub virtual_v6: Option<Ipv6Addr>,
}

/// Why facts cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// The bytes are not DER of the expected form.
    #[error("the workload facts of a certificate are malformed: {0}")]
    Malformed(&'static str),
    /// A field holds what it may not.
    #[error("the workload facts of a certificate name the {field} `{written}`: {why}")]
    Field {
        /// `workload`, `service` or `version`.
        field: &'static str,
        /// The value, with control characters escaped.
        written: String,
        /// What is wrong with it.
        why: String,
    },
}

impl WorkloadFacts {
    /// Writes the content of the extension.
    ///
    /// # Errors
    /// If the version is empty, longer than 253 bytes or has control characters.
    pub fn encode(&self) -> Result<Vec<u8>, FactsError> {
        let mut fields = Vec::with_capacity(128);
        der::put(&mut fields, WORKLOAD, self.workload.to_string().as_bytes());
        if let Some(service) = &self.service {
            der::put(&mut fields, SERVICE, service.to_string().as_bytes());
        }
        if let Some(version) = &self.version {
            check_text("version", version)?;
            der::put(&mut fields, VERSION, version.as_bytes());
        }
        if let Some(address) = &self.virtual_v4 {
            der::put(&mut fields, VIRTUAL_V4, &address.octets());
        }
        if let Some(address) = &self.virtual_v6 {
            der::put(&mut fields, VIRTUAL_V6, &address.octets());
        }
        let mut out = Vec::with_capacity(fields.len() + 4);
        der::put(&mut out, der::SEQUENCE, &fields);
        Ok(out)
    }

    /// Reads the content of the extension. Takes any bytes; fields it does not know are skipped.
    ///
    /// # Errors
    /// If the bytes are no such SEQUENCE, the workload is missing, fields are repeated or out of order, or a
    /// value is no name or address.
    pub fn decode(bytes: &[u8]) -> Result<Self, FactsError> {
        if bytes.len() > MAX_EXTENSION {
            return Err(FactsError::Malformed("they are longer than 4096 bytes"));
        }
        let mut outer = der::Reader::new(bytes);
        let Some((der::SEQUENCE, content)) = outer.next().map_err(FactsError::Malformed)? else {
            return Err(FactsError::Malformed("they are no SEQUENCE"));
        };
        if outer.next() != Ok(None) {
            return Err(FactsError::Malformed("bytes follow the SEQUENCE"));
        }

        let (mut workload, mut service, mut version, mut virtual_v4, mut virtual_v6) = (None, None, None, None, None);
        let mut fields = der::Reader::new(content);
        let mut last = None;
        while let Some((tag, value)) = fields.next().map_err(FactsError::Malformed)? {
            if tag & 0xc0 != 0x80 {
                return Err(FactsError::Malformed("a field has no context-specific tag"));
            }
            let number = tag & 0x1f;
            if last.is_some_and(|last| number <= last) {
                return Err(FactsError::Malformed("a field is repeated or out of order"));
            }
            last = Some(number);
            match tag {
                WORKLOAD => workload = Some(name("workload", value)?),
                SERVICE => service = Some(name("service", value)?),
                VERSION => version = Some(text("version", value)?.to_owned()),
                VIRTUAL_V4 => virtual_v4 = Some(Ipv4Addr::from(octets::<4>(value)?)),
                VIRTUAL_V6 => virtual_v6 = Some(Ipv6Addr::from(octets::<16>(value)?)),
                _ if number <= VIRTUAL_V6 & 0x1f => return Err(FactsError::Malformed("a field is constructed")),
                _ => {}
            }
        }
        let workload = workload.ok_or(FactsError::Malformed("the workload is missing"))?;
        Ok(Self { workload, service, version, virtual_v4, virtual_v6 })
    }
}

fn check_text(field: &'static str, text: &str) -> Result<(), FactsError> {
    let why = if text.is_empty() {
        "it is empty"
    } else if text.len() > MAX_TEXT {
        "it is longer than 253 bytes"
    } else if text.chars().any(char::is_control) {
        // It would reach logs and metric labels.
        "it has control characters"
    } else {
        return Ok(());
    };
    Err(FactsError::Field { field, written: shown(text), why: why.to_owned() })
}

fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_debug).collect()
}

fn text<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str, FactsError> {
    let text = std::str::from_utf8(bytes).map_err(|_| FactsError::Malformed("a text is no UTF-8"))?;
    check_text(field, text)?;
    Ok(text)
}

/// A name is written with its namespace, always: the default namespace is not the certificate's to choose.
fn name<T>(field: &'static str, bytes: &[u8]) -> Result<T, FactsError>
where
    T: std::str::FromStr<Err = lorica_model::name::NameError>,
{
    let text = text(field, bytes)?;
    let fail = |why: String| FactsError::Field { field, written: shown(text), why };
    if !text.contains('.') {
        return Err(fail("it names no namespace".to_owned()));
    }
    text.parse().map_err(|error: lorica_model::name::NameError| fail(error.why.to_owned()))
}

fn octets<const N: usize>(bytes: &[u8]) -> Result<[u8; N], FactsError> {
    bytes.try_into().map_err(|_| FactsError::Malformed("an address has the wrong length"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn facts() -> WorkloadFacts {
        WorkloadFacts {
            workload: "recording-7f3a2c.contact".parse().unwrap(),
            service: Some("recording.contact".parse().unwrap()),
            version: Some("v2".into()),
            virtual_v4: Some(Ipv4Addr::new(240, 0, 0, 9)),
            virtual_v6: None,
        }
    }

    #[test]
    fn newer_fields_are_skipped() {
        let mut content = Vec::new();
        der::put(&mut content, WORKLOAD, b"a.b");
        der::put(&mut content, der::context(5), b"from the future");
        der::put(&mut content, 0xa6, &[0x04, 0x00]);
        let mut bytes = Vec::new();
        der::put(&mut bytes, der::SEQUENCE, &content);
        assert_eq!(WorkloadFacts::decode(&bytes).unwrap().workload.to_string(), "a.b");
    }

    #[test]
    fn what_is_not_exactly_the_form_is_refused() {
        let good = facts().encode().unwrap();
        let sequence = |fields: &[(u8, &[u8])]| {
            let mut content = Vec::new();
            for (tag, value) in fields {
                der::put(&mut content, *tag, value);
            }
            let mut bytes = Vec::new();
            der::put(&mut bytes, der::SEQUENCE, &content);
            bytes
        };
        let long = [b'v'; 254];
        for bad in [
            vec![],
            [&good[..], &[0]].concat(),
            good[..good.len() - 1].to_vec(),
            sequence(&[]),
            sequence(&[(SERVICE, b"a.b")]),
            sequence(&[(WORKLOAD, b"a")]),
            sequence(&[(WORKLOAD, b"a.B")]),
            sequence(&[(WORKLOAD, b"a.b"), (WORKLOAD, b"a.b")]),
            sequence(&[(SERVICE, b"a.b"), (WORKLOAD, b"a.b")]),
            sequence(&[(WORKLOAD, b"a.b"), (VERSION, b"")]),
            sequence(&[(WORKLOAD, b"a.b"), (VERSION, b"v\n2")]),
            sequence(&[(WORKLOAD, b"a.b"), (VERSION, &[0xff])]),
            sequence(&[(WORKLOAD, b"a.b"), (VERSION, &long)]),
            sequence(&[(WORKLOAD, b"a.b"), (VIRTUAL_V4, &[1, 2, 3])]),
            sequence(&[(WORKLOAD, b"a.b"), (0xa3, &[1, 2, 3, 4])]),
            sequence(&[(WORKLOAD, b"a.b"), (0x04, b"x")]),
            vec![0x30; 5000],
        ] {
            assert!(WorkloadFacts::decode(&bad).is_err(), "{bad:x?}");
        }
        let mut unwritable = facts();
        unwritable.version = Some("a\u{7}b".into());
        assert!(unwritable.encode().unwrap_err().to_string().contains("control characters"));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            workload in "[a-z]([a-z0-9-]{0,61}[a-z0-9])?\\.[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
            service in proptest::option::of("[a-z][a-z0-9]{0,62}\\.[a-z][a-z0-9]{0,62}"),
            version in proptest::option::of("\\PC{1,60}"),
            virtual_v4 in any::<Option<[u8; 4]>>(),
            virtual_v6 in any::<Option<[u8; 16]>>(),
        ) {
            let facts = WorkloadFacts {
                workload: workload.parse().unwrap(),
                service: service.map(|service| service.parse().unwrap()),
                version,
                virtual_v4: virtual_v4.map(Ipv4Addr::from),
                virtual_v6: virtual_v6.map(Ipv6Addr::from),
            };
            prop_assert_eq!(WorkloadFacts::decode(&facts.encode().unwrap()).unwrap(), facts);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            // What is read is also what would be written, up to fields of the future.
            if let Ok(facts) = WorkloadFacts::decode(&bytes) {
                prop_assert_eq!(WorkloadFacts::decode(&facts.encode().unwrap()).unwrap(), facts);
            }
        }

        #[test]
        fn changed_bytes_are_read_or_refused(at in 0usize..60, value: u8) {
            let mut bytes = facts().encode().unwrap();
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = WorkloadFacts::decode(&bytes);
        }
    }
}
