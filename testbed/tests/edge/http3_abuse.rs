//! Clients of HTTP/3 that break its rules: each ends its own stream or connection with the right code, and nobody else's.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, ReadError, VarInt};
use testbed::{EchoServer, Mesh, PATIENCE, eventually, gateway, route, run_gateway};
use tokio::time::timeout;
use tokio_rustls::rustls::{self, RootCertStore};

use crate::http3::LISTENERS;
use crate::{Trusted, service};

/// A client that says by itself what goes over its streams.
fn endpoint(trusted: &Trusted, alpn: &[u8]) -> anyhow::Result<Endpoint> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der.clone())?;
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(config)?)));
    Ok(endpoint)
}

async fn connect(endpoint: &Endpoint, at: SocketAddr, name: &str) -> anyhow::Result<Connection> {
    Ok(timeout(PATIENCE, endpoint.connect(at, name)?).await??)
}

/// A head for `/`, of the fixed table alone but for the host.
const HEAD: &[u8] = b"\x01\x10\0\0\xd1\xd7\x50\x09a.example\xc1";

/// Asks for `/` on a connection, and gives the first bytes of the answer.
async fn ask(connection: &Connection) -> anyhow::Result<Vec<u8>> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(HEAD).await?;
    send.finish()?;
    Ok(timeout(PATIENCE, receive.read_to_end(1 << 20)).await??)
}

/// HEADERS, whose block begins with `:status: 200` of the fixed table.
fn is_ok(answer: &[u8]) -> bool {
    answer.first() == Some(&1) && answer.windows(3).any(|part| part == b"\0\0\xd9")
}

/// Opens a one-way stream that says this, and leaves it open.
async fn one_way(connection: &Connection, said: &[u8]) -> anyhow::Result<quinn::SendStream> {
    let mut stream = connection.open_uni().await?;
    stream.write_all(said).await?;
    Ok(stream)
}

/// The code with which the server ends a connection.
async fn code(connection: &Connection) -> anyhow::Result<u64> {
    match timeout(PATIENCE, connection.closed()).await? {
        ConnectionError::ApplicationClosed(close) => Ok(close.error_code.into_inner()),
        other => bail!("{other}"),
    }
}

#[tokio::test]
async fn who_breaks_the_protocol_is_told_how() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let one = EchoServer::start("one").await?;
    let trusted = Trusted::new(&["a.example"])?;
    let text = service("one", "http", one.address())
        + &trusted.secret("a")
        + &gateway(LISTENERS)
        + &route("HTTPRoute", "all", "  rules: [{backendRefs: [{name: one, port: 80}]}]\n");
    let (proxy, at) = run_gateway(&mesh, &text, &[443], &[]).await?;
    let endpoint = endpoint(&trusted, b"h3")?;
    let good = connect(&endpoint, at[0], "a.example").await?;
    ensure!(is_ok(&ask(&good).await?), "{}", mesh.last_words());

    // On one-way streams: what is said, and the code that ends the connection.
    for (said, expected) in [
        (&[&b"\0\x04\0"[..], b"\0\x04\0"][..], 0x103), // two streams of control
        (&[b"\0\x07\x01\0"], 0x10a),                   // no settings first
        (&[b"\0\x04\0\x04\0"], 0x105),                 // settings twice
        (&[b"\0\x04\0\x01\0"], 0x105),                 // a head there
        (&[b"\0\x04\0\x06\0"], 0x105),                 // HTTP/2's PING
        (&[b"\0\x04\x02\x02\x01"], 0x109),             // a setting of HTTP/2
        (&[b"\0\x04\x04\x06\x01\x06\x01"], 0x109),     // a setting twice
        (&[b"\0\x04\x01\x06"], 0x106),                 // a setting without its value
        (&[b"\0\x04\0\x07\x02\0\0"], 0x106),           // GOAWAY with two numbers
        (&[b"\0\x04\0\x03\x01\0"], 0x108),             // nothing was pushed
        (&[b"\0\x04\x80\x01\0\0"], 0x107),             // settings without end
        (&[b"\x01"], 0x103),                           // a client pushes
        (&[b"\x02\x3f\xe1\x1f"], 0x201),               // a table that was not offered
        (&[b"\x03\x80"], 0x202),                       // nothing needs confirming
    ] {
        let connection = connect(&endpoint, at[0], "a.example").await?;
        let mut open = Vec::new();
        for said in said {
            // The connection may be over before the last is said.
            open.push(one_way(&connection, said).await);
        }
        assert_eq!(code(&connection).await.with_context(|| format!("{said:?}"))?, expected, "{said:?}");
    }
    // A stream of control that ends.
    let connection = connect(&endpoint, at[0], "a.example").await?;
    one_way(&connection, b"\0\x04\0").await?.finish()?;
    assert_eq!(code(&connection).await?, 0x104);

    // On streams of requests.
    for (said, expected) in [
        (&b"\0\x01a"[..], 0x105),       // a body before its head
        (b"\x04\0", 0x105),             // settings
        (b"\x0d\x01\0", 0x105),         // MAX_PUSH_ID
        (b"\x01\x03\x01\0\x80", 0x200), // a dynamic table
        (b"\x01\x02\0", 0x106),         // cut off
        (b"\x21\x40", 0x106),           // an unknown frame cut off
    ] {
        let connection = connect(&endpoint, at[0], "a.example").await?;
        let (mut send, _receive) = connection.open_bi().await?;
        send.write_all(said).await?;
        send.finish()?;
        assert_eq!(code(&connection).await.with_context(|| format!("{said:?}"))?, expected, "{said:?}");
    }
    // What concerns one stream alone.
    for said in [&b""[..], b"\x21\x02ab"] {
        let (mut send, mut receive) = good.open_bi().await?;
        send.write_all(said).await?;
        send.finish()?;
        let read = timeout(PATIENCE, receive.read_to_end(1024)).await?;
        let incomplete = matches!(&read, Err(quinn::ReadToEndError::Read(ReadError::Reset(code))) if code.into_inner() == 0x10d);
        assert!(incomplete, "{said:?}: {read:?}");
    }
    // A HEAD is answered by a head alone.
    let (mut send, mut receive) = good.open_bi().await?;
    send.write_all(&HEAD.iter().map(|byte| if *byte == 0xd1 { 0xd2 } else { *byte }).collect::<Vec<u8>>()).await?;
    send.finish()?;
    let answer = timeout(PATIENCE, receive.read_to_end(1 << 20)).await??;
    assert!(is_ok(&answer) && answer.len() < 300 && !answer.windows(8).any(|part| part == b"\"server\""), "{answer:?}");
    // Frames and streams that nobody knows are passed over.
    drop(one_way(&good, b"\x21anything").await?);
    let (mut send, mut receive) = good.open_bi().await?;
    send.write_all(&[&b"\x21\x02ab"[..], HEAD].concat()).await?;
    send.finish()?;
    assert!(is_ok(&timeout(PATIENCE, receive.read_to_end(1 << 20)).await??));
    assert!(is_ok(&ask(&good).await?), "others' mistakes are not its own");
    proxy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn noise_and_half_handshakes_keep_nobody_away() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let one = EchoServer::start("one").await?;
    let trusted = Trusted::new(&["a.example"])?;
    let text = service("one", "http", one.address())
        + &trusted.secret("a")
        + &gateway(LISTENERS)
        + &route("HTTPRoute", "all", "  rules: [{backendRefs: [{name: one, port: 80}]}]\n");
    let (proxy, at) = run_gateway(&mesh, &text, &[443], &[]).await?;
    let noise = UdpSocket::bind("127.0.0.1:0")?;
    let mut seed = 7_u32;
    for length in (0..1400).step_by(7) {
        let mut datagram: Vec<u8> = (0..length)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 24) as u8
            })
            .collect();
        // Half of them look like the first packet of a handshake.
        if let (Some(first), true) = (datagram.first_mut(), length % 2 == 0) {
            *first |= 0xc0;
        }
        noise.send_to(&datagram, at[0])?;
    }
    // More handshakes than are begun without a proof of the address: each says its first words, and hears nothing of what is answered.
    let mut unfinished = Vec::new();
    for _ in 0..100 {
        let (near, far) = (tokio::net::UdpSocket::bind("127.0.0.1:0").await?, tokio::net::UdpSocket::bind("127.0.0.1:0").await?);
        let (deaf, to) = (endpoint(&trusted, b"h3")?, at[0]);
        let connecting = deaf.connect(near.local_addr()?, "a.example")?;
        let relay = tokio::spawn(async move {
            let mut datagram = [0; 2048];
            loop {
                let length = near.recv(&mut datagram).await?;
                far.send_to(&datagram[..length], to).await?;
            }
            #[allow(unreachable_code, reason = "only an error ends it")]
            anyhow::Ok(())
        });
        unfinished.push((deaf, connecting, relay));
    }
    eventually("addresses are to be proved", PATIENCE, || async {
        let metrics = testbed::http_get(proxy.metrics, "metrics", "/metrics").await?.text();
        let retries = metrics.lines().find_map(|line| line.strip_prefix("lorica_quic_retries_total ")).context("none counted")?;
        ensure!(retries.trim().parse::<f64>()? >= 1.0, "{retries}");
        Ok(())
    })
    .await?;
    let h3 = endpoint(&trusted, b"h3")?;
    let connection = connect(&h3, at[0], "a.example").await?;
    assert!(is_ok(&ask(&connection).await?), "{}", mesh.last_words());
    unfinished.iter().for_each(|(_, _, relay)| relay.abort());
    // Nobody who asks for something else is served.
    assert!(connect(&endpoint(&trusted, b"hq-interop")?, at[0], "a.example").await.is_err());
    assert!(connect(&h3, at[0], "b.example").await.is_err());
    proxy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn who_does_not_read_or_gives_up_at_once_costs_little() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let one = EchoServer::start("one").await?;
    let trusted = Trusted::new(&["a.example"])?;
    let text = service("one", "http", one.address())
        + &trusted.secret("a")
        + &gateway(LISTENERS)
        + &route(
            "HTTPRoute",
            "all",
            "  rules: [{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /bytes/40000000}}}], backendRefs: [{name: one, port: 80}]}]\n",
        );
    let (proxy, at) = run_gateway(&mesh, &text, &[443], &[]).await?;
    let endpoint = endpoint(&trusted, b"h3")?;
    let resident = || -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.running.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
    };
    let connection = connect(&endpoint, at[0], "a.example").await?;
    let before = resident()?;
    // Forty million bytes each, of which the client takes the first only.
    let mut readers = Vec::new();
    for _ in 0..8 {
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(HEAD).await?;
        send.finish()?;
        let first = timeout(PATIENCE, receive.read_chunk(1, true)).await??;
        ensure!(first.is_some());
        readers.push(receive);
    }
    // Whoever reads gets all of it, whatever the others leave unread.
    let other = connect(&endpoint, at[0], "a.example").await?;
    let (mut send, mut receive) = other.open_bi().await?;
    send.write_all(HEAD).await?;
    send.finish()?;
    let mut read = 0;
    while let Some(chunk) = timeout(PATIENCE, receive.read_chunk(usize::MAX, true)).await?? {
        read += chunk.bytes.len();
    }
    ensure!(read > 40_000_000, "{read}");
    let grown = resident()?.saturating_sub(before);
    ensure!(grown < 64 << 20, "{grown} bytes more are held for answers that nobody reads");
    drop(readers);

    // Requests given up before they are answered: an attack, once there are more than any client has.
    let connection = connect(&endpoint, at[0], "a.example").await?;
    let flood = async {
        loop {
            let (mut send, mut receive) = connection.open_bi().await?;
            send.write_all(HEAD).await?;
            send.reset(VarInt::from_u32(0x10c))?;
            receive.stop(VarInt::from_u32(0x10c))?;
        }
        #[allow(unreachable_code, reason = "only an error ends it")]
        anyhow::Ok(())
    };
    timeout(PATIENCE * 2, flood).await.context("it goes on and on")?.unwrap_err();
    assert_eq!(code(&connection).await?, 0x107);
    proxy.running.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_client_that_changes_its_address_keeps_its_connection() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let one = EchoServer::start("one").await?;
    let trusted = Trusted::new(&["a.example"])?;
    let text = service("one", "http", one.address())
        + &trusted.secret("a")
        + &gateway(LISTENERS)
        + &route("HTTPRoute", "all", "  rules: [{backendRefs: [{name: one, port: 80}]}]\n");
    // By addresses the kernel would spread packets over both.
    let (proxy, at) = run_gateway(&mesh, &text, &[443], &["--workers", "2"]).await?;
    let endpoint = endpoint(&trusted, b"h3")?;
    let connection = connect(&endpoint, at[0], "a.example").await?;
    for _ in 0..8 {
        endpoint.rebind(UdpSocket::bind("127.0.0.1:0")?)?;
        assert!(is_ok(&ask(&connection).await?), "{}", mesh.last_words());
    }
    proxy.running.stop().await?;
    mesh.finish().await
}
