//! What stands on a page: clean for Prometheus' own check, bounded, with examples, and no burden where its reader is slow.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use testbed::{Connection, Mesh, PATIENCE, Peer, Port, Proxy, eventually, http_get, left_out, peer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use crate::centre::Centre;
use crate::scrape::{self, sum};

/// Istio's name for durations is in milliseconds, and tools read it by that name; promtool would rather have seconds.
const KEPT: &str = "istio_request_duration_milliseconds";

#[tokio::test]
async fn promtool_finds_nothing_but_istios_milliseconds() -> anyhow::Result<()> {
    let promtool = match peer(Peer::Promtool) {
        Ok(promtool) => promtool,
        Err(why) => {
            left_out(&format!("promtool's check of the pages: {why}"));
            return Ok(());
        }
    };
    let mesh = Mesh::as_nobody().control_option("--telemetry").control_option("127.0.0.1:0").start().await?;
    let mut centre = Centre::start(&mesh).await?;
    let (_customers, report) = centre.customers(20, 1)?;
    eventually("the customers' report", PATIENCE, || async { Ok(std::fs::metadata(&report)?) }).await?;
    let mut pages = vec![scrape::telemetry(&mesh).await?];
    pages.extend(scrape::proxies(&mesh).await?);
    let mut kept = 0;
    for at in pages {
        let page = http_get(at, "scraper", "/metrics").await?.text();
        let mut check = Command::new(&promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut stdin = check.stdin.take().context("no stdin")?;
        stdin.write_all(page.as_bytes()).await?;
        drop(stdin);
        let checked = check.wait_with_output().await?;
        let said = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
        let (known, other): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.starts_with(KEPT));
        ensure!(other.is_empty() && known.len() <= 1, "{said}");
        kept += known.len();
    }
    // It did read the pages.
    ensure!(kept > 1, "promtool says nothing of any page");
    mesh.finish().await
}

/// A web service that answers with the status that is asked for: `/404`.
async fn statuses() -> anyhow::Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut head, mut piece) = (Vec::new(), [0; 4096]);
                while let Ok(read @ 1..) = stream.read(&mut piece).await {
                    head.extend_from_slice(&piece[..read]);
                    while let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(&head[..end]).into_owned();
                        let status = text.split(['/', ' ']).nth(2).unwrap_or("500").to_owned();
                        head.drain(..end + 4);
                        if stream.write_all(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok(at)
}

/// A proxy from files, before a service that answers as it is asked to.
async fn proxy(mesh: &Mesh, options: &[&str]) -> anyhow::Result<Proxy> {
    let config = mesh.write("web.yaml", testbed::service("web", "http", statuses().await?))?;
    let arguments = ["--config".to_owned(), config.display().to_string(), "--upstream".to_owned(), "web.shop:80=127.0.0.1:0".to_owned()];
    Proxy::start(mesh, arguments.into_iter().chain(options.iter().map(|option| (*option).to_owned()))).await
}

async fn ask(proxy: &Proxy, status: u16) -> anyhow::Result<()> {
    let reply = http_get(proxy.address(), "web.shop", &format!("/{status}")).await?;
    ensure!(reply.status == status, "{reply:?}");
    Ok(())
}

#[tokio::test]
async fn past_the_bound_calls_count_together() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let proxy = proxy(&mesh, &["--metrics-series", "2"]).await?;
    for status in [200, 201, 404, 405, 503, 200] {
        ask(&proxy, status).await?;
    }
    eventually("all calls are counted", PATIENCE, || async {
        let page = scrape::page(proxy.metrics).await?;
        let of =
            |service: &str, code: &str| sum(&page, "istio_requests_total", &[("destination_service", service), ("response_code", code)]);
        let counts = [of("web.shop.mesh", "200"), of("web.shop.mesh", "201"), of("other", "400"), of("other", "500")];
        ensure!(counts == [2.0, 1.0, 2.0, 1.0], "{counts:?}");
        let dropped = sum(&page, "lorica_metrics_dropped_series_total", &[("family", "istio_request")]);
        ensure!(dropped == 3.0, "{dropped}");
        Ok(())
    })
    .await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_series_that_is_idle_ends() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let proxy = proxy(&mesh, &["--metrics-idle", "1s"]).await?;
    ask(&proxy, 200).await?;
    eventually("the series ends", PATIENCE, || async {
        let page = scrape::page(proxy.metrics).await?;
        let (left, ended) =
            (sum(&page, "istio_requests_total", &[]), sum(&page, "lorica_metrics_expired_series_total", &[("family", "istio_request")]));
        ensure!((left, ended) == (0.0, 1.0), "{left} {ended}");
        Ok(())
    })
    .await?;
    ask(&proxy, 200).await?;
    eventually("it begins anew", PATIENCE, || async {
        ensure!(sum(&scrape::page(proxy.metrics).await?, "istio_requests_total", &[]) >= 1.0);
        Ok(())
    })
    .await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_sampled_call_is_an_example_with_the_trace_that_it_is_of() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let proxy = proxy(&mesh, &["--trace-sampling", "0"]).await?;
    ask(&proxy, 200).await?;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let mut connection = Connection::open(proxy.address()).await?;
    let request = format!("GET /200 HTTP/1.1\r\nhost: web.shop\r\ntraceparent: 00-{trace}-b7ad6b7169203331-01\r\n\r\n");
    connection.write(request.as_bytes()).await?;
    connection.read_until(b"\r\n\r\n").await?;
    let page = eventually("the call is counted", PATIENCE, || async {
        let page = scrape::open_page(proxy.metrics).await?;
        ensure!(page.contains("# {trace_id="), "{page}");
        Ok(page)
    })
    .await?;
    let examples: Vec<&str> = page.lines().filter(|line| line.contains(" # {")).collect();
    ensure!(examples.len() == 1 && examples[0].contains(&format!("# {{trace_id=\"{trace}\",span_id=\"")), "{examples:?}");
    ensure!(examples[0].starts_with("istio_request_duration_milliseconds_bucket{") && page.ends_with("# EOF\n"));
    mesh.finish().await
}

#[tokio::test]
async fn scrapers_that_do_not_read_hold_up_no_call() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let proxy = proxy(&mesh, &[]).await?;
    // A page of megabytes: more than sockets hold.
    for status in 200..600 {
        ask(&proxy, status).await?;
    }
    let mut slow = Vec::new();
    for _ in 0..12 {
        let mut stream = TcpStream::connect(proxy.metrics).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: scraper\r\n\r\n").await?;
        // It has begun to come.
        stream.readable().await?;
        slow.push(stream);
    }
    for _ in 0..100 {
        ask(&proxy, 200).await?;
    }
    // Nor another scrape.
    let page = scrape::page(proxy.metrics).await?;
    ensure!(sum(&page, "istio_requests_total", &[]) >= 499.0);
    drop(slow);
    mesh.finish().await
}

#[tokio::test]
async fn what_the_control_plane_refuses_is_counted() -> anyhow::Result<()> {
    let door = Port::free()?;
    let options = ["--telemetry".to_owned(), "127.0.0.1:0".to_owned(), "--listen".to_owned(), door.address().to_string()];
    let mesh = options.into_iter().fold(Mesh::as_nobody(), testbed::MeshOptions::control_option).start().await?;
    let telemetry = scrape::telemetry(&mesh).await?;
    mesh.apply("apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {ports: [{port: 80, appProtocol: http}]}\n").await?.success()?;
    // A workload that contradicts the Service gets no session, and whoever speaks no TLS does not pass the door.
    let refused = mesh.service("web.shop").no_capture().port("81:9/http").output(["true"]).await?;
    ensure!(refused.code() == 1, "{}", refused.stderr);
    mesh.client().no_capture().output(["true"]).await?.success()?;
    let mut stranger = TcpStream::connect(door.address()).await?;
    stranger.write_all(b"GET / HTTP/1.1\r\nhost: door\r\n\r\n").await?;
    eventually("both are counted", PATIENCE, || async {
        let page = scrape::page(telemetry).await?;
        let count = |name: &str, label: &str, value: &str| sum(&page, name, &[(label, value)]);
        let refusals = [
            count("lorica_control_sessions_begun_total", "result", "refused"),
            count("lorica_control_door_refusals_total", "reason", "handshake"),
        ];
        ensure!(refusals == [1.0, 1.0], "{refusals:?}");
        let issued = count("lorica_control_certificate_requests_total", "result", "issued");
        ensure!(issued == 1.0, "{issued}");
        ensure!(count("lorica_control_resources", "kind", "Service") == 1.0);
        ensure!(count("lorica_control_store_records", "table", "resources") == 1.0);
        Ok(())
    })
    .await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_failed_call_names_the_service_that_was_meant() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let nobody = Port::free()?;
    let config = mesh.write("web.yaml", testbed::service("web", "http", nobody.address()))?;
    let arguments = ["--config".to_owned(), config.display().to_string(), "--upstream".to_owned(), "web.shop:80=127.0.0.1:0".to_owned()];
    let proxy = Proxy::start(&mesh, arguments).await?;
    let failed = http_get(proxy.address(), "web.shop", "/").await?;
    ensure!(failed.status == 503, "{failed:?}");
    eventually("the call is counted", PATIENCE, || async {
        let page = scrape::page(proxy.metrics).await?;
        let line = page.iter().find(|line| line.name == "istio_requests_total").context("none is")?;
        for (label, value) in [
            ("reporter", "source"),
            ("destination_service", "web.shop.mesh"),
            ("destination_service_name", "web"),
            ("destination_service_namespace", "shop"),
            ("response_flags", "UF"),
            ("response_code", "503"),
            // No route is attached: the service itself says where its calls go.
            ("route_kind", "Service"),
            ("route_name", "web"),
        ] {
            ensure!(line.label(label) == value, "{label}: {line:?}");
        }
        ensure!(line.labels.iter().all(|(name, value)| !value.is_empty() || name == "grpc_response_status"), "{line:?}");
        Ok(())
    })
    .await?;
    mesh.finish().await
}
