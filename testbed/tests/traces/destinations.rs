//! Which exchanges give a span, where it goes, and what it costs that somebody takes none.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{EchoServer, HttpConnection, Mesh, PATIENCE, eventually, http_get};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::collector::{By, Collector};
use crate::{metric, proxy};

#[tokio::test]
async fn a_span_reaches_every_destination_in_its_language() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (server, collector) = (EchoServer::start("web").await?, Collector::start().await?);
    let http = format!("{}/v1/traces", collector.http);
    let sent_to = ["--otlp", &collector.grpc, "--otlp", &http, "--zipkin", &collector.http, "--trace-sampling", "1"];
    let proxy = proxy(&mesh, server.address(), &sent_to).await?;
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros();
    let request = Request::get("/x?secret=1").header("host", "web.shop").header("x-request-id", "the-request").body(Full::default())?;
    testbed::http_send(proxy.address(), request).await?;
    let mut spans = collector.so_many(3).await?;
    spans.sort();
    assert_eq!(spans.iter().map(|span| span.by).collect::<Vec<_>>(), [By::Grpc, By::Http, By::Zipkin]);
    for span in &spans {
        assert_eq!((&span.trace, &span.id, span.parent.as_ref()), (&spans[0].trace, &spans[0].id, None), "{span:#?}");
        assert_eq!((span.kind.as_str(), span.name.as_str(), span.failed), ("CLIENT", "GET Service/web.shop rule 0", false), "{span:#?}");
        for (tag, value) in
            [("guid:x-request-id", "the-request"), ("url.path", "/x"), ("server.address", "web.shop.mesh"), ("peer.service", "web")]
        {
            assert_eq!(span.tags.get(tag).map(String::as_str), Some(value), "{tag}: {span:#?}");
        }
        let (start, _) = span.time;
        assert!(u128::from(start) >= before && u128::from(start) < before + 60_000_000, "no microseconds: {start} after {before}");
    }
    for url in [&collector.grpc, &http, &collector.http] {
        eventually("what was sent is counted", PATIENCE, || async {
            anyhow::ensure!(metric(&proxy, &format!("lorica_spans_sent_total{{destination=\"{url}\"}}")).await? == Some(1), "{url}");
            Ok(())
        })
        .await?;
        assert_eq!(metric(&proxy, &format!("lorica_spans_dropped_total{{destination=\"{url}\"}}")).await?, Some(0));
    }
    mesh.finish().await
}

#[tokio::test]
async fn what_fails_or_is_slow_gives_a_span_though_nothing_is_sampled() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (server, collector) = (EchoServer::start("web").await?, Collector::start().await?);
    let paths = |spans: Vec<crate::collector::Seen>| spans.into_iter().map(|span| span.tags["url.path"].clone()).collect::<BTreeSet<_>>();
    let calls = async |more: &[&str]| -> anyhow::Result<BTreeSet<String>> {
        let told = collector.seen().len();
        let arguments = ["--otlp", &collector.grpc, "--trace-sampling", "0"];
        let proxy = proxy(&mesh, server.address(), &[&arguments, more].concat()).await?;
        let mut flags = BTreeSet::new();
        for path in ["/well", "/status/404", "/status/503", "/delay/100", "/cut"] {
            let reply = http_get(proxy.address(), "web.shop", path).await?;
            if let Ok(echo) = reply.json::<testbed::Echo>() {
                flags.insert(echo.header("traceparent").unwrap_or_default().rsplit('-').next().unwrap_or_default().to_owned());
            }
        }
        assert_eq!(flags, ["00".to_owned()].into(), "what is kept decides for nobody else");
        // What was handed over is sent before it ends.
        proxy.running.stop().await?.success()?;
        Ok(paths(collector.seen().split_off(told)))
    };
    let set = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<BTreeSet<_>>();
    // On a busy machine the others may be slow, too.
    let slow = calls(&["--trace-slower-than", "100ms"]).await?;
    assert!(slow.is_superset(&set(&["/status/503", "/delay/100", "/cut"])), "{slow:?}");
    let slow = calls(&["--trace-slower-than", "100ms", "--no-trace-failed"]).await?;
    assert!(slow.contains("/delay/100"), "{slow:?}");
    assert_eq!(calls(&["--trace-slower-than", "1h"]).await?, set(&["/status/503", "/cut"]));
    assert_eq!(calls(&["--trace-slower-than", "off", "--no-trace-failed"]).await?, set(&[]));
    mesh.finish().await
}

/// A place where nobody listens.
async fn nobody() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}

#[tokio::test]
async fn destinations_that_are_gone_or_silent_harm_no_request_and_no_other() -> anyhow::Result<()> {
    const REQUESTS: u64 = 4000;
    let mesh = Mesh::options().without_control()?;
    let (server, collector) = (EchoServer::start("web").await?, Collector::start().await?);
    // Takes connections, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let (gone, silent_url) = (format!("http://{}", nobody().await?), format!("http://{}", silent.local_addr()?));
    let gone_zipkin = format!("http://{}/api/v2/spans", nobody().await?);
    let sent_to = ["--otlp", &gone, "--otlp", &silent_url, "--zipkin", &gone_zipkin, "--zipkin", &collector.http, "--trace-sampling", "1"];
    let proxy = proxy(&mesh, server.address(), &sent_to).await?;
    let mut connection = HttpConnection::open(proxy.address()).await?;
    for number in 0..REQUESTS {
        let request = Request::get(format!("/{number}")).header("host", "web.shop").body(Full::<Bytes>::default())?;
        assert_eq!(connection.send(request).await?.status, 200, "{number}");
    }
    let spans = collector.so_many(usize::try_from(REQUESTS)?).await?;
    assert_eq!(spans.iter().map(|span| &span.id).collect::<BTreeSet<_>>().len() as u64, REQUESTS, "one each");
    // Of those who take nothing, each has what its queue and its hands hold; the rest is counted.
    for url in [&gone, &silent_url, &gone_zipkin] {
        let dropped = metric(&proxy, &format!("lorica_spans_dropped_total{{destination=\"{url}\"}}")).await?;
        assert!(dropped.is_some_and(|dropped| (REQUESTS - 2048 - 512..=REQUESTS).contains(&dropped)), "{url}: {dropped:?}");
        assert_eq!(metric(&proxy, &format!("lorica_spans_sent_total{{destination=\"{url}\"}}")).await?, Some(0), "{url}");
    }
    let said = proxy.running.stop().await?.success()?.stderr;
    assert!(said.contains(&gone) && said.matches("cannot be sent").count() <= 3, "said once of each: {said}");
    mesh.finish().await
}

#[tokio::test]
async fn a_destination_that_cannot_be_is_refused_at_the_start() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let server = EchoServer::start("web").await?;
    for (arguments, why) in [
        (["--otlp", "collector:4317"], "hint: write http://HOST:4317"),
        (["--zipkin", "ftp://zipkin"], "hint: write http://HOST:9411"),
        (["--otlp-protocol", "soap"], "write grpc or http"),
        (["--trace-sampling", "2"], "write 0 to 1"),
    ] {
        let error = format!("{:#}", proxy(&mesh, server.address(), &arguments).await.unwrap_err());
        assert!(error.contains(arguments[1]) && error.contains(why), "{error}");
    }
    mesh.finish().await
}

/// TLS before a plain server: what comes in goes on to it. Out flow where it is, and its certificate.
async fn tls_before(server: &str) -> anyhow::Result<(SocketAddr, String)> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = made.signing_key.serialize_der().try_into().map_err(anyhow::Error::msg)?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await?);
    let (address, server) = (listener.local_addr()?, server.trim_start_matches("http://").to_owned());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, server) = (acceptor.clone(), server.clone());
            tokio::spawn(async move {
                // Whoever does not trust it ends the handshake, and says so itself.
                let mut inside = acceptor.accept(stream).await?;
                let mut plain = TcpStream::connect(server).await?;
                tokio::io::copy_bidirectional(&mut inside, &mut plain).await
            });
        }
    });
    Ok((address, made.cert.pem()))
}

#[tokio::test]
async fn spans_go_by_tls_to_whom_the_systems_roots_vouch_for() -> anyhow::Result<()> {
    let (server, collector) = (EchoServer::start("web").await?, Collector::start().await?);
    let (grpc, grpc_root) = tls_before(&collector.grpc).await?;
    let (http, http_root) = tls_before(&collector.http).await?;
    let roots = tempfile::NamedTempFile::new()?;
    std::fs::write(roots.path(), grpc_root + &http_root)?;
    let mesh = Mesh::options().env("SSL_CERT_FILE", roots.path()).without_control()?;
    let by_name = |address: SocketAddr, path: &str| format!("https://localhost:{}{path}", address.port());
    let (grpc, http, zipkin) = (by_name(grpc, ""), by_name(http, "/v1/traces"), by_name(http, ""));
    // Of another name than its certificate says.
    let stranger = zipkin.replace("localhost", "127.0.0.1");
    let sent_to = ["--otlp", &grpc, "--otlp", &http, "--zipkin", &zipkin, "--zipkin", &stranger, "--trace-sampling", "1"];
    let proxy = proxy(&mesh, server.address(), &sent_to).await?;
    http_get(proxy.address(), "web.shop", "/").await?;
    let mut by: Vec<By> = collector.so_many(3).await?.into_iter().map(|span| span.by).collect();
    by.sort();
    assert_eq!(by, [By::Grpc, By::Http, By::Zipkin]);
    let said = proxy.running.line("spans cannot be sent").await?;
    assert!(said.contains(&stranger) && said.contains("certificate"), "{said}");
    assert_eq!(collector.seen().len(), 3);
    mesh.finish().await
}
