//! What of a request decides on its endpoint: its hash, where the hash does, and the endpoint that a cookie names. Pure functions of head,
//! source address and rule; the hash is Envoy's, bit for bit.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use smallvec::SmallVec;

use super::{Affinity, HashOn};
use crate::head::RequestHead;
use crate::xxh64::xxh64;

/// The hash of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestHash {
    /// None where the request has nothing of what is hashed.
    pub hash: Option<u64>,
    /// Values of `Set-Cookie` for the answer, so that the caller's next requests have the same hash.
    pub cookies: SmallVec<[String; 1]>,
}

impl RequestHash {
    /// The hash of a request that came from `source`. Several parts are joined as Envoy joins them: what is there is rotated by one bit
    /// before the next is added, so that equal parts do not cancel each other out.
    #[must_use]
    pub fn of(on: &[HashOn], head: &RequestHead, source: SocketAddr) -> Self {
        let mut made = Self::default();
        for part in on {
            let hash = match part {
                HashOn::Header(name) => header(head, name),
                HashOn::Query(name) => query(head, name).map(|value| xxh64(value.as_bytes(), 0)),
                HashOn::SourceAddress => Some(self::source(source.ip())),
                HashOn::Cookie { name, ttl, path } => match (cookie(head, name), ttl) {
                    (Some(value), _) => Some(xxh64(value, 0)),
                    (None, None) => None,
                    (None, Some(ttl)) => {
                        // As long as its connection lasts, a caller that drops cookies gets the same one.
                        let value = format!("{:016x}", xxh64(source.to_string().as_bytes(), 0));
                        made.cookies.push(set_cookie(name, &value, path, Some(*ttl)));
                        Some(xxh64(value.as_bytes(), 0))
                    }
                },
            };
            if let Some(hash) = hash {
                made.hash = Some(made.hash.unwrap_or_default().rotate_left(1) ^ hash);
            }
        }
        made
    }
}

/// The hash of the address that a call comes from.
#[must_use]
pub fn source(address: IpAddr) -> u64 {
    xxh64(address.to_canonical().to_string().as_bytes(), 0)
}

/// All values of a field, in whatever order they came; pseudo-fields, too. The host goes by either of its names.
fn header(head: &RequestHead, name: &str) -> Option<u64> {
    let pseudo = match name {
        ":authority" | "host" => Some(head.authority()),
        ":path" => Some(head.path_and_query()),
        ":method" => Some(head.method()),
        _ => None,
    };
    if let Some(value) = pseudo {
        return Some(xxh64(value.as_bytes(), 0));
    }
    let mut values: SmallVec<[&[u8]; 2]> = head.fields.get_all(name).collect();
    values.sort_unstable();
    (!values.is_empty()).then(|| values.iter().fold(0, |hash, value| xxh64(value, hash)))
}

/// A query parameter's first value, as it stands in the path.
fn query<'h>(head: &'h RequestHead, name: &str) -> Option<&'h str> {
    let pairs = head.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
}

/// A cookie's value, without the quotes around it; none where it is empty.
#[must_use]
pub fn cookie<'h>(head: &'h RequestHead, name: &str) -> Option<&'h [u8]> {
    let mut crumbs = head.fields.get_all("cookie").flat_map(|field| field.split(|byte| *byte == b';'));
    let value = crumbs.find_map(|crumb| {
        let equals = crumb.iter().position(|byte| *byte == b'=')?;
        (crumb[..equals].trim_ascii() == name.as_bytes()).then(|| crumb[equals + 1..].trim_ascii())
    })?;
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    (!bare.is_empty()).then_some(bare)
}

/// The value of `Set-Cookie`. Scripts do not see the cookie. Without a time, or with 0, it holds for as long as the browser is open.
#[must_use]
pub fn set_cookie(name: &str, value: &str, path: &str, ttl: Option<Duration>) -> String {
    let mut text = format!("{name}={value}");
    if let Some(seconds) = ttl.map(|ttl| ttl.as_secs()).filter(|seconds| *seconds > 0) {
        text.push_str(&format!("; Max-Age={seconds}"));
    }
    if !path.is_empty() {
        text.push_str(&format!("; Path={path}"));
    }
    text + "; HttpOnly"
}

/// The token of an endpoint that a caller's cookie names; none where it names nothing that could be one.
#[must_use]
pub fn token(affinity: &Affinity, head: &RequestHead) -> Option<u64> {
    let value = cookie(head, &affinity.cookie).filter(|value| value.len() == TOKEN_DIGITS)?;
    u64::from_str_radix(std::str::from_utf8(value).ok()?, 16).ok()
}

/// How long a token is as text.
const TOKEN_DIGITS: usize = 16;

/// The value of `Set-Cookie` that names an endpoint by its token.
#[must_use]
pub fn stay(affinity: &Affinity, token: u64) -> String {
    set_cookie(&affinity.cookie, &format!("{token:0width$x}", width = TOKEN_DIGITS), &affinity.path, affinity.ttl)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::head::{HeadBuilder, Version};

    fn head(path: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut builder = HeadBuilder::with_capacity(256);
        for (name, value) in fields {
            builder.field(name.as_bytes(), value.as_bytes()).unwrap();
        }
        builder.request(Version::Http11, "GET", path, "recording.contact", None).unwrap()
    }

    fn hash(on: &[HashOn], head: &RequestHead) -> Option<u64> {
        RequestHash::of(on, head, "10.0.0.7:4711".parse().unwrap()).hash
    }

    fn on_cookie(ttl: Option<u64>) -> HashOn {
        HashOn::Cookie { name: "who".to_owned(), ttl: ttl.map(Duration::from_secs), path: "/a".to_owned() }
    }

    #[test]
    fn each_part_is_hashed_by_its_value() {
        let of = |text: &str| Some(xxh64(text.as_bytes(), 0));
        let request = head("/a?x=1&who=b%20c&who=d", &[("X-Who", "me"), ("Cookie", "a=b; who=\"you\"; who=no")]);
        let on_header = HashOn::Header("x-who".to_owned());
        assert_eq!(hash(std::slice::from_ref(&on_header), &request), of("me"));
        assert_eq!(hash(&[HashOn::Header(":authority".to_owned())], &request), of("recording.contact"));
        assert_eq!(hash(&[on_cookie(None)], &request), of("you"));
        assert_eq!(hash(&[HashOn::Query("who".to_owned())], &request), of("b%20c"));
        assert_eq!(hash(&[HashOn::SourceAddress], &request), of("10.0.0.7"));
        assert_eq!(source("::ffff:10.0.0.7".parse().unwrap()), of("10.0.0.7").unwrap());
        for absent in [HashOn::Header("x-other".to_owned()), HashOn::Query("y".to_owned())] {
            assert_eq!(hash(&[absent.clone()], &request), None);
            assert_eq!(hash(&[absent, on_header.clone()], &request), of("me"));
        }
        assert_eq!(hash(&[], &request), None);
    }

    #[test]
    fn several_are_joined_and_do_not_cancel_each_other_out() {
        let request = head("/", &[("x-who", "me")]);
        let part = HashOn::Header("x-who".to_owned());
        let one = xxh64(b"me", 0);
        assert_eq!(hash(&[part.clone(), part.clone()], &request), Some(one.rotate_left(1) ^ one));
        assert_eq!(hash(&[part, HashOn::SourceAddress], &request), Some(one.rotate_left(1) ^ xxh64(b"10.0.0.7", 0)));
    }

    #[test]
    fn the_order_of_values_does_not_matter() {
        let on = [HashOn::Header("x-who".to_owned())];
        let (ab, ba) = (head("/", &[("x-who", "a"), ("x-who", "b")]), head("/", &[("x-who", "b"), ("x-who", "a")]));
        assert_eq!(hash(&on, &ab), hash(&on, &ba));
        assert_eq!(hash(&on, &ab), Some(xxh64(b"b", xxh64(b"a", 0))));
    }

    #[test]
    fn a_caller_without_the_cookie_gets_one_and_keeps_its_hash() {
        let bare = head("/", &[("cookie", "who=")]);
        assert_eq!(hash(&[on_cookie(None)], &bare), None);
        let made = RequestHash::of(&[on_cookie(Some(60))], &bare, "10.0.0.7:4711".parse().unwrap());
        let [text] = made.cookies.as_slice() else { panic!("{made:?}") };
        let (pair, rest) = text.split_once("; ").unwrap();
        assert_eq!(rest, "Max-Age=60; Path=/a; HttpOnly");
        let next = head("/", &[("cookie", pair)]);
        let again = RequestHash::of(&[on_cookie(Some(60))], &next, "10.0.0.9:1".parse().unwrap());
        assert_eq!((again.hash, again.cookies.len()), (made.hash, 0));
        assert_eq!(set_cookie("a", "b", "", Some(Duration::ZERO)), "a=b; HttpOnly");
    }

    #[test]
    fn a_cookie_names_its_endpoint() {
        let affinity = Affinity { cookie: "stay".to_owned(), ttl: None, path: "/".to_owned() };
        let text = stay(&affinity, 0xab);
        assert_eq!(text, "stay=00000000000000ab; Path=/; HttpOnly");
        let asked = |value: &str| token(&affinity, &head("/", &[("cookie", value)]));
        assert_eq!(asked("x=y; stay=00000000000000ab"), Some(0xab));
        for bad in ["stay=ab", "stay=", "stay=zzzzzzzzzzzzzzzz", "other=00000000000000ab", "stay=00000000000000abcd"] {
            assert_eq!(asked(bad), None, "{bad}");
        }
    }
}
