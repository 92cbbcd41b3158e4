//! A record as a line of the log: JSON, the same keys in the same order each time.
//!
//! Envoy's keys as Istio has them, so that what reads a mesh's logs today reads these, and ours. What is not known is
//! left out, as Envoy's `omit_empty_values` has it: a third of each line would be `null`. `response_code` is 0 where bytes were
//! not looked at. Every exchange pays for its line, so it is written by hand, without a copy of its texts.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lorica_model::reason::Reason;

use super::clock::Clock;

use crate::record::{Called, Party, Record, Reporter, Route, Security, UNKNOWN};
use crate::trace;

/// The most exchanges of one kind whose common end is remembered, some 500 bytes each; past it they are made anew.
const MAX_ENDS: usize = 1024;

/// Writes lines. It remembers what most lines share with others: the last second in words, and the end that says who called
/// whom by which rule.
#[derive(Debug, Default)]
pub(super) struct LineWriter {
    clock: Clock,
    ends: HashMap<EndKey, End, foldhash::fast::RandomState>,
}

/// What tells ends apart: the addresses of shared parts, which the [`End`] keeps alive.
#[derive(Debug, PartialEq, Eq, Hash)]
struct EndKey {
    parts: [usize; 3],
    route: usize,
    words: (Reporter, Security),
}

#[derive(Debug)]
struct End {
    text: Vec<u8>,
    _alive: (Arc<Party>, Arc<Party>, Arc<Called>, Option<Route>),
}

impl End {
    fn key(record: &Record<'_>) -> EndKey {
        EndKey {
            parts: [Arc::as_ptr(&record.source) as usize, Arc::as_ptr(&record.destination) as usize, Arc::as_ptr(&record.called) as usize],
            route: match &record.route {
                None => 0,
                Some(Route::Outside) => 1,
                Some(Route::Rule(origin)) => Arc::as_ptr(origin) as usize,
            },
            words: (record.reporter, record.security),
        }
    }

    fn of(record: &Record<'_>) -> Self {
        let mut end = Vec::new();
        let out = &mut end;
        text(out, br#","upstream_cluster":"#, known(&record.called.fqdn));
        displayed(out, br#","route_name":"#, record.route.as_ref());
        // Ours.
        text(out, br#","reporter":"#, Some(record.reporter.word()));
        text(out, br#","source_workload":"#, known(&record.source.workload));
        text(out, br#","source_namespace":"#, known(&record.source.namespace));
        text(out, br#","source_principal":"#, known(&record.source.principal));
        text(out, br#","destination_workload":"#, known(&record.destination.workload));
        text(out, br#","destination_namespace":"#, known(&record.destination.namespace));
        text(out, br#","destination_principal":"#, known(&record.destination.principal));
        text(out, br#","connection_security_policy":"#, Some(record.security.word()));
        out.extend_from_slice(b"}\n");
        let alive = (record.source.clone(), record.destination.clone(), record.called.clone(), record.route.clone());
        Self { text: end, _alive: alive }
    }
}

impl LineWriter {
    /// Appends `record` as one line.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, record: &Record<'_>) {
        let http = record.http.as_ref();
        let word = record.reason.map(|reason| reason.meaning().word);
        let detail = known(&record.detail);
        out.extend_from_slice(br#"{"start_time":"#);
        self.time(out, record.start);
        text(out, br#","method":"#, http.map(|http| http.method).and_then(known));
        text(out, br#","path":"#, http.map(|http| http.path).and_then(known));
        plain(out, br#","protocol":"#, http.map(|http| http.version).and_then(known));
        number(out, br#","response_code":"#, Some(http.map_or(0, |http| http.status).into()));
        plain(out, br#","response_flags":"#, Some(record.flag()));
        plain(out, br#","response_code_details":"#, details(record));
        text(out, br#","connection_termination_details":"#, detail.filter(|_| was_closed(record)));
        text(out, br#","upstream_transport_failure_reason":"#, detail.filter(|_| failed_to_connect(record)));
        number(out, br#","bytes_received":"#, Some(record.received));
        number(out, br#","bytes_sent":"#, Some(record.sent));
        number(out, br#","duration":"#, Some(milliseconds(record.duration)));
        number(out, br#","upstream_service_time":"#, http.and_then(|http| http.upstream_time).map(milliseconds));
        text(out, br#","x_forwarded_for":"#, http.and_then(|http| http.forwarded_for));
        text(out, br#","user_agent":"#, http.and_then(|http| http.user_agent));
        text(out, br#","request_id":"#, http.map(|http| &*http.request_id).and_then(known));
        text(out, br#","authority":"#, http.map(|http| http.authority).and_then(known));
        address(out, br#","upstream_host":"#, record.upstream);
        address(out, br#","downstream_local_address":"#, record.local);
        address(out, br#","downstream_remote_address":"#, record.remote);
        text(out, br#","requested_server_name":"#, record.server_name);
        // Ours.
        plain(out, br#","reason":"#, word);
        text(out, br#","detail":"#, detail);
        displayed(out, br#","fault":"#, record.fault.as_ref());
        number(out, br#","grpc_status":"#, http.and_then(|http| http.grpc_status).map(u64::from));
        number(out, br#","attempts":"#, http.map(|http| http.attempts.into()));
        let context = http.and_then(|http| http.span).map(|span| span.context);
        if let Some(context) = context {
            // As the next hop was told it.
            let mut ids = *br#","trace_id":"00000000000000000000000000000000","span_id":"0000000000000000""#;
            ids[13..45].copy_from_slice(&trace::hexadecimal_128(context.trace_id));
            ids[58..74].copy_from_slice(&trace::hexadecimal(context.span_id));
            out.extend_from_slice(&ids);
        }
        if self.ends.len() >= MAX_ENDS {
            self.ends.clear();
        }
        out.extend_from_slice(&self.ends.entry(End::key(record)).or_insert_with(|| End::of(record)).text);
    }

    fn time(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        match self.clock.written(time) {
            Some(written) => {
                out.push(b'"');
                out.extend_from_slice(written.seconds());
                out.extend_from_slice(&[b'.', written.milliseconds[0], written.milliseconds[1], written.milliseconds[2], b'Z', b'"']);
            }
            None => out.extend_from_slice(b"null"),
        }
    }
}

/// Words of ours, which have nothing to escape. Inlined, as all that write a key: its length is then known.
#[inline(always)]
fn plain(out: &mut Vec<u8>, key: &[u8], value: Option<&'static str>) {
    if let Some(value) = value {
        out.extend_from_slice(key);
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    }
}

#[inline(always)]
fn text(out: &mut Vec<u8>, key: &[u8], value: Option<&str>) {
    if let Some(value) = value {
        out.extend_from_slice(key);
        quoted(out, value);
    }
}

pub(super) fn quoted(out: &mut Vec<u8>, value: &str) {
    let odd = |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\');
    // Whole blocks without an early end, so that many bytes are looked at at once.
    let (blocks, rest) = value.as_bytes().as_chunks::<16>();
    let block = |block: &[u8; 16]| block.iter().fold(false, |any, byte| any | odd(*byte));
    if blocks.iter().any(block) || rest.iter().any(|byte| odd(*byte)) {
        let begin = out.len();
        if serde_json::to_writer(&mut *out, value).is_err() {
            // Writing to memory fails for no text; if it ever does, no half of one stays.
            out.truncate(begin);
            out.extend_from_slice(b"null");
        }
    } else {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    }
}

#[inline(always)]
fn number(out: &mut Vec<u8>, key: &[u8], value: Option<u64>) {
    if let Some(value) = value {
        out.extend_from_slice(key);
        decimal(out, value);
    }
}

pub(super) fn decimal(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[inline(always)]
fn address(out: &mut Vec<u8>, key: &[u8], value: Option<SocketAddr>) {
    match value {
        Some(SocketAddr::V4(address)) => {
            out.extend_from_slice(key);
            quoted_v4(out, address);
        }
        other => displayed(out, key, other.as_ref()),
    }
}

fn quoted_v4(out: &mut Vec<u8>, address: SocketAddrV4) {
    // A quote, `255.` four times of which the last point becomes the colon, a port, a quote.
    let mut text = [b'"'; 24];
    let mut length = 1;
    for octet in address.ip().octets() {
        let (digits, count) = OCTETS[usize::from(octet)];
        text[length..length + 4].copy_from_slice(&digits);
        length += usize::from(count);
    }
    text[length - 1] = b':';
    let mut buffer = itoa::Buffer::new();
    let port = buffer.format(address.port()).as_bytes();
    text[length..length + port.len()].copy_from_slice(port);
    length += port.len();
    text[length] = b'"';
    out.extend_from_slice(&text[..=length]);
}

/// Each octet with a point behind it, and how many bytes that is.
static OCTETS: [([u8; 4], u8); 256] = octets();

const fn octets() -> [([u8; 4], u8); 256] {
    let mut table = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let number = octet as u8;
        let (hundreds, tens, ones) = (number / 100, number / 10 % 10, number % 10);
        let (text, count) = if number >= 100 {
            ([b'0' + hundreds, b'0' + tens, b'0' + ones, b'.'], 4)
        } else if number >= 10 {
            ([b'0' + tens, b'0' + ones, b'.', b'.'], 3)
        } else {
            ([b'0' + ones, b'.', b'.', b'.'], 2)
        };
        table[octet] = (text, count);
        octet += 1;
    }
    table
}

/// What only `Display` can say.
fn displayed(out: &mut Vec<u8>, key: &[u8], value: Option<&impl Display>) {
    text(out, key, value.map(ToString::to_string).as_deref());
}

/// Metrics say `unknown` for what a log can leave open.
pub(super) fn known(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty() && *text != UNKNOWN)
}

pub(super) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Who answered, and why.
pub(super) fn details(record: &Record<'_>) -> Option<&'static str> {
    let of_http = || record.http.as_ref().map(|http| if http.attempts == 0 { "direct_response" } else { "via_upstream" });
    record.reason.map(|reason| reason.meaning().word).or_else(of_http)
}

/// Envoy tells by its own field what closed a connection that it had no answer for.
pub(super) fn was_closed(record: &Record<'_>) -> bool {
    record.http.is_none() && record.reason.is_some()
}

pub(super) fn failed_to_connect(record: &Record<'_>) -> bool {
    use Reason::{ConnectFailed, ConnectTimeout, OutsideFailed, UpstreamIdentity, UpstreamTls};
    matches!(record.reason, Some(ConnectFailed | ConnectTimeout | OutsideFailed | UpstreamIdentity | UpstreamTls))
}
