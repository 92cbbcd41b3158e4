//! clean: what goes on of a request's head, and what an app or a stranger may not tell the mesh.
//!
//! In: the head as received and who sent it. Out: edits. Hop-by-hop fields are the codec's business.

use std::borrow::Cow;
use std::net::IpAddr;

use bytes::Bytes;
use lorica_identity::PeerIdentity;
use lorica_model::head::{Edits, Fields, HeadBuilder, RequestHead};
use lorica_model::spiffe::SpiffeId;
use lorica_observe::trace::hexadecimal_128;

use super::explain::EXPLAIN;

/// The prefix of fields by which proxies tell each other things.
const OURS: &str = "x-lorica-";
/// By which a proxy tells an app who called (Envoy's format).
const CLIENT_CERTIFICATE: &str = "x-forwarded-client-cert";
/// Follows a request through all its hops.
pub const REQUEST_ID: &str = "x-request-id";
/// Why the mesh itself answered.
pub const REASON: &str = "x-lorica-reason";

/// Who a request came from.
#[derive(Clone, Copy)]
pub enum From<'a> {
    /// The app beside this proxy, which may claim nothing.
    App,
    /// A caller without an identity, which may claim nothing.
    Stranger,
    /// A workload of the mesh, to be named to the app by this [`client_certificate`].
    Peer(&'a Bytes),
}

/// By what the app is told that `peer` called `own`. Made once a connection.
#[must_use]
pub fn client_certificate(peer: &PeerIdentity, own: &SpiffeId) -> Bytes {
    format!("By={own};Hash={};URI={}", hex(&peer.certificate_sha256), peer.id).into()
}

/// The edits that make a received head fit to go on.
#[must_use]
pub fn edits(head: &RequestHead, from: From<'_>) -> Edits {
    let mut edits = Edits::default();
    let trusted = matches!(from, From::Peer(_));
    for (index, (name, _)) in head.fields.iter().enumerate() {
        if !matches!(name, [b'x' | b'X', b'-' | b'_', ..]) {
            continue;
        }
        // No proxy spells what it says with underscores.
        let ours = name.get(..OURS.len()).is_some_and(|start| reads_as(start, OURS));
        let is_alias = || name.contains(&b'_') && (ours || [FORWARDED_FOR, FORWARDED_PROTO].iter().any(|known| reads_as(name, known)));
        // The token goes on to proxies alone, as each of them decides.
        let is_token = ours && reads_as(name, EXPLAIN);
        if (ours && !trusted) || is_token || reads_as(name, CLIENT_CERTIFICATE) || is_alias() {
            edits.remove_at(index);
        }
    }
    if let From::Peer(certificate) = from {
        edits.add(CLIENT_CERTIFICATE, certificate);
    }
    edits
}

/// Whether some app takes `name` for `known`, which is in lower case: those that see fields as variables of their environment know no difference
/// between `x-user` and `x_user`.
#[must_use]
pub fn reads_as(name: &[u8], known: &str) -> bool {
    let folded = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    name.len() == known.len() && name.iter().zip(known.bytes()).all(|(byte, known)| folded(*byte) == folded(known))
}

/// The trailers of a request that go on. Some servers put them among the fields of its head, where they would say what nobody has judged: whatever
/// stands for the caller, the way or the form of a message stays behind, and so do those that are `barred` besides.
#[must_use]
pub fn trailers(trailers: &Fields, barred: &[String]) -> Fields {
    let decides = |name: &[u8]| {
        TRAILERS_BARRED.iter().any(|known| reads_as(name, known))
            || [OURS, "x-forwarded-"].iter().any(|start| name.get(..start.len()).is_some_and(|name| reads_as(name, start)))
            || barred.iter().any(|known| reads_as(name, known))
    };
    let mut builder = HeadBuilder::with_capacity(256);
    for (name, value) in trailers.iter().filter(|(name, _)| !decides(name)) {
        if builder.field(name, value).is_err() {
            break;
        }
    }
    builder.fields()
}

/// Fields that decide about a request, and come in its head or not at all.
const TRAILERS_BARRED: [&str; 19] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "content-type",
    "content-encoding",
    "content-range",
    "range",
    "expect",
    "forwarded",
    "x-real-ip",
    REQUEST_ID,
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

/// What a gateway tells the mesh of a caller from outside: its address, after those that it names itself, and how it came.
pub fn forwarded(head: &RequestHead, edits: &mut Edits, remote: IpAddr, tls: bool) {
    let mut addresses = String::new();
    for before in head.fields.get_all(FORWARDED_FOR).filter_map(|value| std::str::from_utf8(value).ok()) {
        addresses.push_str(before);
        addresses.push_str(", ");
    }
    addresses.push_str(&remote.to_string());
    edits.set(&head.fields, FORWARDED_FOR, addresses);
    edits.set(&head.fields, FORWARDED_PROTO, if tls { "https" } else { "http" });
}

/// Through which addresses a request has come.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Whether it came by TLS.
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// The id of a request: the caller's, or a new one which is added to the edits.
#[must_use]
pub fn request_id<'h>(head: &'h RequestHead, edits: &mut Edits) -> Cow<'h, str> {
    let given = head.fields.get_str(REQUEST_ID).filter(|id| !id.is_empty() && id.len() <= 128);
    given.map_or_else(
        || {
            let id = new_request_id();
            edits.set(&head.fields, REQUEST_ID, &id);
            Cow::Owned(id)
        },
        Cow::Borrowed,
    )
}

/// A random UUID (RFC 9562, version 4) as text. By hand, as every request gets one.
fn new_request_id() -> String {
    let bits = fastrand::u128(..) & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let digits = hexadecimal_128(bits);
    let mut text = [b'-'; 36];
    for (from, to) in [(0..8, 0..8), (8..12, 9..13), (12..16, 14..18), (16..20, 19..23), (20..32, 24..36)] {
        text[to].copy_from_slice(&digits[from]);
    }
    std::str::from_utf8(&text).map(str::to_owned).unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lorica_model::head::Version;
    use std::time::SystemTime;

    fn head() -> RequestHead {
        let mut builder = HeadBuilder::with_capacity(256);
        for (name, value) in [
            ("Host", "a"),
            ("X-Lorica-Attempt", "1"),
            ("X-Lorica-Explain", "token"),
            ("X-Forwarded-Client-Cert", "URI=spiffe://mesh.local/ns/a/sa/admin"),
            ("X-Request-Id", "7"),
        ] {
            builder.field(name.as_bytes(), value.as_bytes()).unwrap();
        }
        builder.request(Version::Http11, "GET", "/", "a", None).unwrap()
    }

    fn names(from: From<'_>) -> Vec<String> {
        let head = head();
        edits(&head, from)
            .apply(&head.fields)
            .map(|field| format!("{}={}", String::from_utf8_lossy(field.name), String::from_utf8_lossy(field.value)))
            .collect()
    }

    #[test]
    fn apps_and_strangers_cannot_claim_what_only_the_mesh_knows() {
        assert_eq!(names(From::App), ["Host=a", "X-Request-Id=7"]);
        assert_eq!(names(From::Stranger), ["Host=a", "X-Request-Id=7"]);
    }

    #[test]
    fn no_other_spelling_of_them_passes() {
        let mut builder = HeadBuilder::with_capacity(256);
        for name in [
            "X_Forwarded_Client_Cert",
            "x-forwarded_client-cert",
            "x_lorica_attempt",
            "X_LORICA-Reason",
            "X_Forwarded_For",
            "x-kept",
            "X_Kept",
            "x",
        ] {
            builder.field(name.as_bytes(), b"1").unwrap();
        }
        let head = builder.request(Version::Http11, "GET", "/", "a", None).unwrap();
        for from in [From::App, From::Stranger, From::Peer(&Bytes::from_static(b"By=us"))] {
            let edits = edits(&head, from);
            let names: Vec<_> = edits.kept(&head.fields).map(|field| String::from_utf8_lossy(field.name).into_owned()).collect();
            assert_eq!(names, ["x-kept", "X_Kept", "x"]);
        }
    }

    #[test]
    fn nothing_that_decides_comes_behind_a_body() {
        let mut builder = HeadBuilder::with_capacity(256);
        for name in [
            "x-sum",
            "X_Forwarded_Client_Cert",
            "x-forwarded-host",
            "X-Lorica-Attempt",
            "Authorization",
            "cookie",
            "x-role",
            "X_Role",
            "x-real",
        ] {
            builder.field(name.as_bytes(), b"1").unwrap();
        }
        let kept = trailers(&builder.fields(), &["x-role".to_owned()]);
        assert_eq!(kept.iter().map(|(name, _)| name.to_vec()).collect::<Vec<_>>(), [b"x-sum".to_vec(), b"x-real".to_vec()]);
    }

    #[test]
    fn the_app_is_told_who_called() {
        let peer = PeerIdentity {
            id: "spiffe://mesh.local/ns/contact/sa/caller".parse().unwrap(),
            facts: None,
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::UNIX_EPOCH,
            certificate_sha256: [0xab; 32],
        };
        let hash = "ab".repeat(32);
        let told = format!(
            "x-forwarded-client-cert=By=spiffe://mesh.local/ns/contact/sa/recording;Hash={hash};URI=spiffe://mesh.local/ns/contact/sa/caller"
        );
        let own = "spiffe://mesh.local/ns/contact/sa/recording".parse().unwrap();
        assert_eq!(names(From::Peer(&client_certificate(&peer, &own))), ["Host=a", "X-Lorica-Attempt=1", "X-Request-Id=7", &told]);
    }

    #[test]
    fn a_request_without_an_id_gets_one() {
        let head = head();
        let mut edits = Edits::default();
        assert_eq!(request_id(&head, &mut edits), "7");
        let bare = HeadBuilder::with_capacity(0).request(Version::Http11, "GET", "/", "a", None).unwrap();
        let id = request_id(&bare, &mut edits);
        let read: uuid::Uuid = id.parse().unwrap();
        assert_eq!((read.get_version_num(), read.get_variant(), read.to_string()), (4, uuid::Variant::RFC4122, id.to_string()));
        assert!(edits.apply(&bare.fields).any(|field| field.name == b"x-request-id" && field.value == id.as_bytes()));
    }
}
