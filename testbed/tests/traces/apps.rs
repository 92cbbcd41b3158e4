//! Apps that trace themselves, one by Zipkin's library and one by OpenTelemetry's, and the proxies between them: one trace of them all.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use testbed::{EchoServer, Mesh, PATIENCE, Peer, Port, Run, eventually, left_out, peer, python_server_path};

use crate::collector::{Collector, Seen, one_trace};

/// Without the system's own packages: an older one of them does not go with a newer one of ours.
const ALONE: &str = "-S";

/// Python and the packages of both tracers.
fn tracers() -> Result<(PathBuf, OsString), String> {
    let paths = [python_server_path("opentelemetry")?, python_server_path("py_zipkin")?];
    Ok((peer(Peer::Python)?, std::env::join_paths(paths).map_err(|error| error.to_string())?))
}

/// Its proxy sends spans by this way, and begins no trace of itself.
fn traced<'m>(run: Run<'m>, by: [&str; 2]) -> Run<'m> {
    by.into_iter().chain(["--trace-sampling", "0"]).fold(run, Run::option)
}

/// Who made a span and of which side it is.
fn who(span: &Seen) -> (&str, &str) {
    let who = if span.tags.contains_key("lorica.attempts") { "proxy of" } else { "app" };
    (who, span.service.as_str())
}

#[tokio::test]
async fn apps_and_proxies_are_one_trace() -> anyhow::Result<()> {
    let (python, packages) = match tracers() {
        Ok(found) => found,
        Err(why) => {
            left_out(&format!("apps that trace themselves: {why}"));
            return Ok(());
        }
    };
    let mesh = Mesh::start().await?;
    let (collector, price) = (Collector::start().await?, EchoServer::start("price").await?);
    let stock_app = mesh.write("stock.py", include_str!("stock.py"))?;
    let order_app = mesh.write("order.py", include_str!("order.py"))?;
    let [stock_port, to_price, to_stock] = [Port::free()?, Port::free()?, Port::free()?];

    let price_port = format!("80:{}/http", price.address().port());
    let run = mesh.service("price.shop").no_capture().port(&price_port);
    let _price = traced(run, ["--otlp", &collector.grpc]).start(["sleep", "1000"])?;
    mesh.announced("price.shop", 1).await?;
    let at = stock_port.address().port().to_string();
    let run = mesh.service("stock.shop").port(&format!("80:{at}/http")).upstream(&format!("price.shop:80={}", to_price.address()));
    let run = traced(run, ["--otlp", &format!("{}/v1/traces", collector.http)]).env("PYTHONPATH", &packages);
    let price_url = format!("http://{}/", to_price.address());
    let words = [python.as_os_str(), ALONE.as_ref(), stock_app.as_os_str(), at.as_ref(), price_url.as_ref(), collector.http.as_ref()];
    let _stock = run.start(words)?;
    mesh.announced("stock.shop", 1).await?;

    let run = mesh.service("order.shop").upstream(&format!("stock.shop:80={}", to_stock.address()));
    let run = traced(run, ["--zipkin", &collector.http]).env("PYTHONPATH", &packages);
    let stock_url = format!("http://{}/", to_stock.address());
    let words = [python.as_os_str(), ALONE.as_ref(), order_app.as_os_str(), stock_url.as_ref(), collector.http.as_ref()];
    let output = run.output(words).await?.success()?;
    // The last app answers with what it was sent, through all of them.
    assert!(output.stdout.contains("\"server\":\"price\""), "{}", output.stdout);
    // Whether the control plane takes spans or not, its proxies are no louder for it.
    assert!(!output.stderr.contains("cannot be sent"), "{}", output.stderr);

    // Of each app its spans, and of each proxy one: of the call that it let out, of the call that it let in.
    let spans = eventually("all spans are there", PATIENCE, || async {
        let spans = collector.seen();
        one_trace(&spans)?;
        anyhow::ensure!(spans.len() == 8, "{} spans: {spans:#?}", spans.len());
        Ok(spans)
    })
    .await?;
    let by_id: BTreeMap<&str, &Seen> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    let last = spans.iter().find(|span| who(span) == ("proxy of", "price")).unwrap();
    let mut way = vec![last];
    while let Some(parent) = way.last().and_then(|span| span.parent.as_deref()) {
        way.push(by_id[parent]);
    }
    let way: Vec<_> = way.into_iter().rev().map(|span| (who(span), span.kind.as_str())).collect();
    assert_eq!(
        way,
        [
            (("app", "order"), "SERVER"),
            (("app", "order"), "CLIENT"),
            (("proxy of", "order"), "CLIENT"),
            (("proxy of", "stock"), "SERVER"),
            (("app", "stock"), "SERVER"),
            (("app", "stock"), "CLIENT"),
            (("proxy of", "stock"), "CLIENT"),
            (("proxy of", "price"), "SERVER"),
        ]
    );
    mesh.finish().await
}
