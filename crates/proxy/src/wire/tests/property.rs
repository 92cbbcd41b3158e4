//! What holds for every input: a head written and read back is itself, and how bytes are cut changes nothing.

use proptest::prelude::*;

use super::*;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// Parses all requests of a connection whose bytes come cut at `cuts`; what is wrong ends the list.
async fn all_requests(bytes: &[u8], cuts: &[usize]) -> Vec<String> {
    let (mut server, mut client) = server(&[]);
    let writing = async {
        let mut from = 0;
        for cut in cuts.iter().copied().filter(|cut| *cut < bytes.len()).chain([bytes.len()]) {
            if cut > from {
                // The server may have refused what came before.
                let _: Result<(), _> = client.write_all(&bytes[from..cut]).await;
                // It sees this piece alone.
                tokio::task::yield_now().await;
                from = cut;
            }
        }
        let _: Result<(), _> = client.shutdown().await;
        let mut answers = Vec::new();
        let _: Result<usize, _> = client.read_to_end(&mut answers).await;
    };
    let reading = async {
        let mut seen = Vec::new();
        loop {
            match server.next().await {
                Ok(Some((head, mut body, responder))) => {
                    let fields: Vec<_> = head.fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
                    let body = whole(&mut body).await.map(|(all, trailers)| (all, trailers.map(|trailers| format!("{trailers:?}"))));
                    let whole = body.is_ok();
                    seen.push(format!("{head:?} {fields:?} {body:?}"));
                    if !whole {
                        break;
                    }
                    let mut responder = Responder::Http1(responder);
                    responder.raw_head(204, none(), None, true).unwrap();
                    responder.end(None).await.unwrap();
                }
                Ok(None) => break,
                Err(error) => {
                    seen.push(format!("{error:?}"));
                    break;
                }
            }
        }
        drop(server);
        seen
    };
    tokio::join!(writing, reading).1
}

/// Pieces of requests, good and bad, of which streams are made.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()),
        Just("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello".to_owned()),
        Just(
            "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;e\r\nabc\r\nA\r\n0123456789\r\n0\r\nSum: 1\r\n\r\n"
                .to_owned()
        ),
        Just("POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()),
        Just("Content-Length: 3\r\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("0\r\n\r\n".to_owned()),
        "[ -~\r\n\t\\x00\\x7f]{0,24}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn how_bytes_are_cut_changes_nothing(pieces in prop::collection::vec(piece(), 1..6), mut cuts in prop::collection::vec(0usize..300, 0..12)) {
        let bytes = pieces.concat().into_bytes();
        cuts.sort_unstable();
        let whole = run(all_requests(&bytes, &[]));
        let cut = run(all_requests(&bytes, &cuts));
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn no_bytes_break_the_server(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        run(all_requests(&bytes, &[7, 100]));
    }

    #[test]
    fn a_head_written_and_read_back_is_itself(
        method in "[A-Z]{1,8}",
        path in "/[!-~&&[^#]]{0,40}",
        host in "[a-z0-9.-]{1,20}(:[0-9]{1,5})?",
        fields in prop::collection::vec(("x-[A-Za-z0-9_-]{1,12}", "([!-~]([ -~]{0,30}[!-~])?)?"), 0..20),
    ) {
        prop_assume!(method != "CONNECT");
        let mut builder = HeadBuilder::with_capacity(512);
        builder.field(b"Host", host.as_bytes()).unwrap();
        for (name, value) in &fields {
            builder.field(name.as_bytes(), value.as_bytes()).unwrap();
        }
        let head = builder.request(Version::Http11, &method, &path, &host, None).unwrap();
        let read = run(async {
            let (near, far) = duplex(64 * 1024);
            let mut client = Http1Client::new(Stream::Memory(near));
            let edits = Edits::default();
            let (mut sender, _receiver) = client.send(&Outgoing { head: &head, edits: &edits, length: Some(0), upgrade: None });
            sender.end(None).await.unwrap();
            Http1Server::new(Stream::Memory(far), &[], HEAD_TIMEOUT).next().await.unwrap().unwrap().0
        });
        prop_assert_eq!((read.method(), read.path_and_query(), read.authority()), (head.method(), head.path_and_query(), head.authority()));
        let (before, after): (Vec<_>, Vec<_>) = (head.fields.iter().collect(), read.fields.iter().collect());
        prop_assert_eq!(before, after);
    }

    #[test]
    fn a_body_written_and_read_back_is_itself(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..8), known in any::<bool>()) {
        let expected = pieces.concat();
        let head = request(Version::Http11, &[("Host", "x")]);
        let length = known.then_some(expected.len() as u64);
        let read = run(async {
            // A small pipe, so that every write and read is cut.
            let (near, far) = duplex(100);
            let mut client = Http1Client::new(Stream::Memory(near));
            let mut server = Http1Server::new(Stream::Memory(far), &[], HEAD_TIMEOUT);
            let edits = Edits::default();
            let (mut sender, _receiver) = client.send(&Outgoing { head: &head, edits: &edits, length, upgrade: None });
            let writing = async {
                for piece in pieces {
                    sender.data(piece.into()).await.unwrap();
                }
                sender.end(None).await.unwrap();
            };
            let reading = async {
                let (_, mut body, _responder) = server.next().await.unwrap().unwrap();
                whole(&mut body).await.unwrap().0
            };
            tokio::join!(writing, reading).1
        });
        prop_assert_eq!(read, expected);
    }
}
