//! Attacks, and where each is held. None gets in: what is refused is refused by the real binary, and what the app behind it saw is the proof.
//!
//! | what an attacker tries | held by |
//! | --- | --- |
//! | another workload's certificate without its key, behind one's own, or signing with one's own | [`certificates`] |
//! | expired, not yet valid, of another trust domain or authority, self-signed | [`certificates`]; each with its words: `crates/identity/tests/handshake.rs` |
//! | two URIs, none, or one that is no SPIFFE ID | [`certificates`] |
//! | `CA:TRUE` or signing rights on a leaf, name constraints, an unknown critical extension, a wrong purpose | [`certificates`]; an own CA's: `crates/identity/tests/own_ca.rs` |
//! | a server that is another workload | `testbed/tests/standalone.rs`, `crates/identity/tests/handshake.rs` |
//! | a session of TLS resumed after its certificate ended, or by another identity | `crates/identity/tests/handshake.rs` |
//! | TLS 1.2, plaintext, the server name of another service | [`certificates`] |
//! | a protocol that ALPN did not settle, or nobody knows | [`certificates`] |
//! | a request for a certificate that says who one is | `crates/identity/tests/authority.rs` |
//! | a join token used twice | `crates/control/tests/`, with the tests of hosts |
//! | CL.TE, TE.CL, CL.0, TE.TE, several lengths, lengths that are none | [`framing`]; as bytes by chance beside hyper: `crates/proxy/src/wire/tests/beside_hyper.rs` |
//! | obs-fold, bare LF, bare CR, NUL, a space before a colon, odd first lines | [`framing`] |
//! | chunk extensions, sizes that overflow, data past its size, trailers that frame | [`framing`] |
//! | two hosts, a user in a host, a host beside another target | [`framing`], [`paths`] |
//! | `Upgrade: h2c`, what proxies alone say to each other | [`framing`], [`http2`] |
//! | CR, LF, NUL and spaces in names, values and pseudo-fields of HTTP/2 | [`http2`]; of HTTP/3: `testbed/tests/edge/http3_abuse.rs` |
//! | lengths that lie in HTTP/2, fields of a connection, pseudo-fields twice or late | [`http2`] |
//! | resets, floods and tables of HTTP/2 and HTTP/3 that cost more than they should | `crates/proxy/src/wire/http2/tests/`, `testbed/tests/edge/http3_abuse.rs` |
//! | `//`, `/./`, `%2e`, `%2f`, `;`, case, backslashes, fragments, absolute targets around a denial or into a permission | [`paths`]; with each verdict: `crates/model/src/snapshot/authorization/tests.rs` |
//! | the same to get by another route to an app, around the policies of its own | [`paths`]; `crates/model/src/snapshot/evasion.rs` |
//! | methods in another case, hosts with a dot at the end | [`paths`] |
//! | `x-forwarded-client-cert` in any spelling | [`headers`] |
//! | `x-lorica-*`, `x-forwarded-for`, `x-forwarded-proto`, traceparent and B3 | [`headers`] |
//! | naming the mesh's fields in `Connection`, sending them as trailers | [`headers`], [`tokens`] |
//! | `alg: none`, key confusion, `kid` that leads elsewhere, no `exp`, clock skew, two tokens, `jwk` | `testbed/tests/authentication/attacks.rs`; every case of Wycheproof: `crates/identity/tests/wycheproof.rs` |
//! | `jku`, `x5u`, `x5c` | [`tokens`] |
//! | claims that the caller says beside its token, or takes away | [`tokens`] |
//! | key sets at private, local, mapped or oddly spelled addresses | [`fetches`]; address by address: `crates/control/src/key_sets/reach.rs` |
//! | key sets behind redirects, at a cloud's metadata, endless, or secret | `testbed/tests/authentication/keys.rs` |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backend;
mod certificates;
mod doors;
mod fetches;
mod framing;
mod headers;
mod http2;
#[path = "../authentication/issuer.rs"]
#[expect(dead_code, reason = "the attacks beside it use the rest")]
mod issuer;
mod paths;
mod tokens;
