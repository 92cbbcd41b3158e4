//! The same exchanges against the `h2` crate, our client with its server and its client with ours.

use std::cell::RefCell;
use std::rc::Rc;

use lorica_model::head::{Field, Fields};
use proptest::prelude::*;

use super::*;

/// One exchange: bodies in pieces, trailers, and where the caller gives up.
#[derive(Debug, Clone)]
struct Plan {
    up: Vec<usize>,
    down: Vec<usize>,
    trailers: bool,
    declared: bool,
    /// The caller leaves after so many bytes of the answer.
    leaves: Option<usize>,
    name: String,
}

fn plan() -> impl Strategy<Value = Plan> {
    let pieces = || proptest::collection::vec(prop_oneof![0_usize..100, 2000_usize..3000, 10_000_usize..200_000], 0..6);
    (pieces(), pieces(), any::<bool>(), any::<bool>(), proptest::option::weighted(0.2, 0_usize..100_000), "[a-zA-Z0-9-]{0,40}")
        .prop_map(|(up, down, trailers, declared, leaves, name)| Plan { up, down, trailers, declared, leaves, name })
}

fn total(pieces: &[usize]) -> usize {
    pieces.iter().sum()
}

fn bytes(length: usize) -> Bytes {
    (0..length).map(|at| (at % 251) as u8).collect::<Vec<u8>>().into()
}

/// The pieces of a body, each going on where the one before ended.
fn cut(pieces: &[usize]) -> Vec<Bytes> {
    let mut all = bytes(total(pieces));
    pieces.iter().map(|length| all.split_to(*length)).collect()
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(async {
        tokio::time::timeout(std::time::Duration::from_secs(20), test).await.expect("nothing moves any more");
    }));
}

fn sum_of(trailers: Option<Fields>) -> Option<String> {
    trailers.map(|fields| fields.get_str("x-sum").unwrap().to_owned())
}

/// A server of the crate: takes a body, answers with the piece lengths that its `x-down` names.
async fn their_server(io: DuplexStream, window: u32) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(window).initial_connection_window_size(window.max(65_535));
    let mut server = builder.handshake::<_, Bytes>(io).await.unwrap();
    while let Some(Ok((request, mut respond))) = server.accept().await {
        spawn_local(async move {
            let plan: Vec<usize> =
                request.headers()["x-down"].to_str().unwrap().split('.').filter_map(|length| length.parse().ok()).collect();
            let trailers = request.headers().contains_key("x-trailers");
            let name = request.headers().get("x-name").cloned();
            let mut body = request.into_body();
            let mut all = 0;
            while let Some(data) = body.data().await {
                let Ok(data) = data else { return };
                assert_eq!(data, bytes(all + data.len()).slice(all..));
                all += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            let Ok(received) = body.trailers().await else { return };
            assert_eq!(received.map(|fields| fields["x-sum"].to_str().unwrap().to_owned()), trailers.then(|| all.to_string()));
            let mut response = http::Response::builder().header("x-up", all);
            if let Some(name) = name {
                response = response.header("x-name", name);
            }
            let Ok(mut stream) = respond.send_response(response.body(()).unwrap(), false) else { return };
            for mut data in cut(&plan) {
                while !data.is_empty() {
                    stream.reserve_capacity(data.len());
                    let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
                    let part = data.split_to(room.min(data.len()));
                    if stream.send_data(part, false).is_err() {
                        return;
                    }
                }
            }
            let mut map = http::HeaderMap::new();
            map.insert("x-sum", total(&plan).into());
            let _: Result<(), h2::Error> = if trailers { stream.send_trailers(map) } else { stream.send_data(Bytes::new(), true) };
        });
    }
}

/// The same with our server.
async fn our_server(io: DuplexStream) {
    let mut server = Http2Server::start(Stream::Memory(io), Bytes::new()).await.unwrap();
    while let Ok(Some((head, mut body, mut responder))) = server.next().await {
        spawn_local(async move {
            let plan: Vec<usize> = head.fields.get_str("x-down").unwrap().split('.').filter_map(|length| length.parse().ok()).collect();
            let trailers = head.fields.position("x-trailers").is_some();
            let (mut all, mut received) = (0, None);
            while let Some(frame) = body.frame().await {
                match frame {
                    Ok(Frame::Data(data)) => {
                        assert_eq!(data, bytes(all + data.len()).slice(all..));
                        all += data.len();
                    }
                    Ok(Frame::Trailers(fields)) => received = Some(fields),
                    Err(_) => return Ok(()),
                }
            }
            assert_eq!(sum_of(received), trailers.then(|| all.to_string()));
            let up = all.to_string();
            let name = head.fields.get("x-name").unwrap_or_default();
            responder.head(200, [(&b"x-up"[..], up.as_bytes()), (b"X-Name", name)].into_iter().map(Field::from), None, false)?;
            for data in cut(&plan) {
                responder.data(data).await?;
            }
            let mut builder = HeadBuilder::with_capacity(64);
            builder.field(b"x-sum", total(&plan).to_string().as_bytes())?;
            responder.end(trailers.then(|| builder.fields()).as_ref())
        });
    }
}

async fn our_exchange(client: &mut Http2Client, plan: Plan) {
    let mut builder = HeadBuilder::with_capacity(256);
    let down = plan.down.iter().map(usize::to_string).collect::<Vec<_>>().join(".");
    builder.field(b"X-Down", down.as_bytes()).unwrap();
    builder.field(b"x-name", plan.name.as_bytes()).unwrap();
    if plan.trailers {
        builder.field(b"x-trailers", b"1").unwrap();
    }
    let head = builder.request(Version::Http11, "POST", "/a", "x", None).unwrap();
    let up = total(&plan.up);
    let (mut sender, mut receiver) = begin(client, &head, (plan.declared && !plan.trailers).then_some(up as u64)).await.unwrap();
    let sending = async {
        for data in cut(&plan.up) {
            sender.data(data).await?;
        }
        let mut builder = HeadBuilder::with_capacity(64);
        builder.field(b"x-sum", up.to_string().as_bytes())?;
        sender.end(plan.trailers.then(|| builder.fields()).as_ref())
    };
    let receiving = async {
        let Answer::Final(head, mut body) = receiver.answer().await.unwrap() else { panic!() };
        assert_eq!(head.fields.get_str("x-up"), Some(&*up.to_string()));
        assert_eq!(head.fields.get_str("x-name"), Some(&*plan.name));
        let (mut all, mut trailers) = (0, None);
        while let Some(frame) = body.frame().await {
            match frame.unwrap() {
                Frame::Data(data) => {
                    assert_eq!(data, bytes(all + data.len()).slice(all..));
                    all += data.len();
                }
                Frame::Trailers(fields) => trailers = Some(fields),
            }
            if plan.leaves.is_some_and(|most| all >= most) {
                return;
            }
        }
        assert_eq!(all, total(&plan.down));
        assert_eq!(sum_of(trailers), plan.trailers.then(|| all.to_string()));
    };
    let (sent, ()) = tokio::join!(sending, receiving);
    sent.unwrap();
}

async fn their_exchange(client: h2::client::SendRequest<Bytes>, plan: Plan) {
    let down = plan.down.iter().map(usize::to_string).collect::<Vec<_>>().join(".");
    let up = total(&plan.up);
    let mut request = http::Request::post("http://x/a").header("x-down", down).header("x-name", &plan.name);
    if plan.trailers {
        request = request.header("x-trailers", "1");
    } else if plan.declared {
        request = request.header("content-length", up);
    }
    let (response, mut stream) = client.ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
    let sending = async {
        for mut data in cut(&plan.up) {
            while !data.is_empty() {
                stream.reserve_capacity(data.len());
                let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
                let part = data.split_to(room.min(data.len()));
                stream.send_data(part, false).unwrap();
            }
        }
        let mut map = http::HeaderMap::new();
        map.insert("x-sum", up.into());
        if plan.trailers { stream.send_trailers(map).unwrap() } else { stream.send_data(Bytes::new(), true).unwrap() }
    };
    let receiving = async {
        let response = response.await.unwrap();
        assert_eq!(response.headers()["x-up"], up.to_string());
        assert_eq!(response.headers()["x-name"], *plan.name);
        let mut body = response.into_body();
        let mut all = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            assert_eq!(data, bytes(all + data.len()).slice(all..));
            all += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
            if plan.leaves.is_some_and(|most| all >= most) {
                return;
            }
        }
        let trailers = body.trailers().await.unwrap().map(|fields| fields["x-sum"].to_str().unwrap().to_owned());
        assert_eq!((all, trailers), (total(&plan.down), plan.trailers.then(|| all.to_string())));
    };
    tokio::join!(sending, receiving);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn our_client_and_their_server_agree(
        plans in proptest::collection::vec(plan(), 1..12), window in 256_u32..100_000, room in 100_usize..100_000
    ) {
        run(async move {
            let (near, far) = duplex(room);
            spawn_local(their_server(far, window));
            let (client, driver) = Http2Client::start(Stream::Memory(near));
            let driver = spawn_local(driver);
            let mut exchanges = Vec::new();
            for plan in plans {
                let mut client = client.clone();
                exchanges.push(spawn_local(async move { our_exchange(&mut client, plan).await }));
            }
            for exchange in exchanges {
                exchange.await.unwrap();
            }
            // Nothing is left of them, and all of the window is back or about to be.
            drop(client);
            driver.await.unwrap();
        });
    }

    #[test]
    fn their_client_and_our_server_agree(
        plans in proptest::collection::vec(plan(), 1..12), window in 256_u32..100_000, room in 100_usize..100_000
    ) {
        run(async move {
            let (near, far) = duplex(room);
            spawn_local(our_server(far));
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(window).initial_connection_window_size(window.max(65_535));
            let (client, connection) = builder.handshake(near).await.unwrap();
            let ended = Rc::new(RefCell::new(None));
            let end = ended.clone();
            let driver = spawn_local(async move { *end.borrow_mut() = Some(connection.await) });
            let mut exchanges = Vec::new();
            for plan in plans {
                exchanges.push(spawn_local(their_exchange(client.clone(), plan)));
            }
            for exchange in exchanges {
                exchange.await.unwrap();
            }
            drop(client);
            driver.await.unwrap();
            assert!(matches!(ended.take(), Some(Ok(()))));
        });
    }

    #[test]
    fn our_client_and_our_server_agree(plans in proptest::collection::vec(plan(), 1..12), room in 1_usize..100_000) {
        run(async move {
            let (near, far) = duplex(room);
            spawn_local(our_server(far));
            let (client, driver) = Http2Client::start(Stream::Memory(near));
            let driver = spawn_local(driver);
            let mut exchanges = Vec::new();
            for plan in plans {
                let mut client = client.clone();
                exchanges.push(spawn_local(async move { our_exchange(&mut client, plan).await }));
            }
            for exchange in exchanges {
                exchange.await.unwrap();
            }
            drop(client);
            driver.await.unwrap();
        });
    }

    #[test]
    fn no_frames_break_a_server(
        frames in proptest::collection::vec((0_u8..11, any::<u8>(), 0_u32..8, proptest::collection::vec(any::<u8>(), 0..40)), 0..40)
    ) {
        run(async move {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, stream, payload)| frame(*kind, *flags, *stream, payload)).collect();
            answers(&bytes).await;
            answers(&[get(1), headers(3, false, HOLD), bytes].concat()).await;
        });
    }
}
