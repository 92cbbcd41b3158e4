//! HTTP/1 beside hyper: the same bytes to both servers. What ours takes for a request hyper takes for the same, with the same body, so that
//! nothing is smuggled past one of them; and what hyper alone takes is odd in a way that is named here.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// A request as it was understood: method, target, host, body.
type Understood = (String, String, String, Vec<u8>);

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// Sends the bytes, says that no more come, and reads whatever is answered.
async fn send(bytes: &[u8], mut client: DuplexStream) {
    let _: Result<(), _> = client.write_all(bytes).await;
    let _: Result<(), _> = client.shutdown().await;
    let _: Result<usize, _> = client.read_to_end(&mut Vec::new()).await;
}

async fn ours(bytes: &[u8]) -> Vec<Understood> {
    let (near, client) = duplex(64 * 1024);
    let mut server = Http1Server::new(Stream::Memory(near), &[], HEAD_TIMEOUT);
    let reading = async {
        let mut seen = Vec::new();
        while let Ok(Some((head, mut body, responder))) = server.next().await {
            let Ok((all, _)) = whole(&mut body).await else { break };
            seen.push((head.method().to_owned(), head.path_and_query().to_owned(), head.authority().to_owned(), all));
            let mut responder = Responder::Http1(responder);
            responder.raw_head(204, none(), None, true).unwrap();
            responder.end(None).await.unwrap();
        }
        drop(server);
        seen
    };
    tokio::join!(send(bytes, client), reading).1
}

async fn hypers(bytes: &[u8]) -> Vec<Understood> {
    let (near, client) = duplex(64 * 1024);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: http::Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (parts, body) = request.into_parts();
            let all = body.collect().await?.to_bytes().to_vec();
            let host = parts.uri.authority().map(ToString::to_string);
            let host =
                host.or_else(|| parts.headers.get("host").and_then(|host| host.to_str().ok()).map(str::to_owned)).unwrap_or_default();
            let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
            seen.borrow_mut().push((parts.method.to_string(), target, host, all));
            let answer = http::Response::builder().status(204).body(Empty::<Bytes>::new()).unwrap_or_default();
            Ok::<_, hyper::Error>(answer)
        }
    });
    let serving = async {
        let served = hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(near), service);
        // It ends with an error where hyper refuses what comes.
        let _: Result<(), hyper::Error> = served.await;
        Ok::<(), Infallible>(())
    };
    let (_, served) = tokio::join!(send(bytes, client), serving);
    assert_eq!(served, Ok(()));
    seen.take()
}

/// One request, for the most part well formed.
fn request_text() -> impl Strategy<Value = String> {
    let odd = |usual: &'static str, odd: &'static [&'static str]| prop_oneof![6 => Just(usual), 1 => select(odd)];
    let line = (
        select(&["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "get", "M-SEARCH"][..]),
        odd("/a", &["/", "/a?b=c", "*", "a", "http://x/y", "HTTP://x", "//x/y", "/a b", "/a\tb", "/%00", "/é", "/a#b", "", "x:1"]),
        odd("HTTP/1.1", &["HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", ""]),
    );
    let host = odd("Host: x\r\n", &["", "Host: x\r\nHost: y\r\n", "Host:\r\n", "host:x\r\n", "Host : x\r\n", "Host: x\n", " Host: x\r\n"]);
    let framing = prop_oneof![
        4 => Just(""),
        4 => Just("Content-Length: 5\r\n"),
        4 => Just("Transfer-Encoding: chunked\r\n"),
        4 => select(
            &[
                "Content-Length: 5\r\nContent-Length: 5\r\n",
                "Content-Length: 5\r\nContent-Length: 6\r\n",
                "Content-Length: 5, 5\r\n",
                "Content-Length: +5\r\n",
                "Content-Length: 0x5\r\n",
                "Content-Length: 05\r\n",
                "Content-Length: -1\r\n",
                "Content-Length:\r\n",
                "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                "Transfer-Encoding: Chunked\r\n",
                "Transfer-Encoding: gzip, chunked\r\n",
                "Transfer-Encoding: chunked, gzip\r\n",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                "Transfer-Encoding: chunked, chunked\r\n",
                "Transfer-Encoding: identity\r\n",
                "Transfer-Encoding: xchunked\r\n",
                "Transfer-Encoding:\x0bchunked\r\n",
                "Transfer-Encoding : chunked\r\n",
                "Transfer_Encoding: chunked\r\n",
                "Transfer-Encoding: chunked\n",
                "X: y\r\n Transfer-Encoding: chunked\r\n",
                "Content-Length: 5\r\nX: y\r\n folded\r\n",
                "Content-Length: 99999999999999999999\r\n",
            ][..]
        ),
    ];
    let body = prop_oneof![
        3 => Just(""),
        3 => Just("hello"),
        3 => Just("5\r\nhello\r\n0\r\n\r\n"),
        3 => select(
            &[
                "5;a=b\r\nhello\r\n0\r\nSum: 1\r\n\r\n",
                "05\r\nhello\r\n00\r\n\r\n",
                "5 \r\nhello\r\n0\r\n\r\n",
                "5\nhello\n0\n\n",
                "0x5\r\nhello\r\n0\r\n\r\n",
                "+5\r\nhello\r\n0\r\n\r\n",
                "5\r\nhello0\r\n\r\n",
                "5\r\nhelloX\n0\r\n\r\n",
                "A\r\nhello\r\n0\r\n\r\n",
                "ffffffffffffffff1\r\nhello\r\n0\r\n\r\n",
                "\r\n0\r\n\r\n",
                "5\r\nhello\r\n0\r\nGET / HTTP/1.1\r\n\r\n",
                "5;\nGET /\r\nhello\r\n0\r\n\r\n",
            ][..]
        ),
    ];
    (line, host, framing, odd("", &["Connection: close\r\n", "A:\x01b\r\n", "A b: c\r\n", "A: b\rc\r\n", ": a\r\n", "A\r\n"]), body)
        .prop_map(|((method, target, version), host, framing, other, body)| {
            format!("{method} {target} {version}\r\n{host}{framing}{other}\r\n{body}")
        })
}

/// A name, and whether a request is odd in this way.
type Oddity = (&'static str, fn(&str) -> bool);

/// What ours refuses on purpose although hyper takes it.
const STRICTER: &[Oddity] = &[
    ("a host is named once", |text| text.lines().filter(|line| line.to_ascii_lowercase().starts_with("host:")).count() != 1),
    ("a target is a path or a URL, without what must be encoded", |text| {
        let target = text.split(' ').nth(1).unwrap_or_default();
        let is_url = target.to_ascii_lowercase().starts_with("http://");
        !(target.starts_with('/') || is_url) || target.contains('#') || !target.is_ascii()
    }),
    ("a length and a coding say two things", |text| text.contains("Content-Length") && text.contains("Transfer-Encoding")),
    ("a line ends in CR LF", |text| text.split('\n').rev().skip(1).any(|line| !line.ends_with('\r'))),
    ("the only coding is chunked, once", |text| text.contains("gzip") || text.matches("chunked").count() > 1),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_ours_takes_hyper_takes_for_the_same(requests in prop::collection::vec(request_text(), 1..4)) {
        let text = requests.concat();
        let (ours, hypers) = (run(ours(text.as_bytes())), run(hypers(text.as_bytes())));
        prop_assert!(hypers.starts_with(&ours), "{text:?}\n ours  {ours:?}\n hyper {hypers:?}");
    }

    #[test]
    fn what_hyper_alone_takes_is_odd_in_a_known_way(text in request_text()) {
        let (ours, hypers) = (run(ours(text.as_bytes())), run(hypers(text.as_bytes())));
        prop_assert!(!ours.is_empty() || hypers.is_empty() || STRICTER.iter().any(|(_, has)| has(&text)), "{text:?}\n hyper {hypers:?}");
    }
}
