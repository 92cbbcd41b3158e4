//! B3 beside W3C at a real proxy, over both versions of HTTP.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use testbed::{Echo, EchoServer, Mesh, http_send, http2_send};

use crate::proxy;

const TRACE: &str = "463ac35c9f6413ad48485a3953bb6124";
const SHORT: &str = "48485a3953bb6124";
const CALLER: &str = "a2fb4a1d1a96d312";

/// The parts of the one `traceparent` behind the proxy: trace, span, flags.
fn parts(echo: &Echo) -> (String, String, String) {
    let told = echo.header("traceparent").unwrap_or_default();
    let mut parts = told.split('-').skip(1).map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}

#[tokio::test]
async fn b3_goes_on_in_the_form_in_which_it_came_beside_w3c() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let server = EchoServer::start("web").await?;
    let proxy = proxy(&mesh, server.address(), &["--trace-sampling", "0"]).await?;
    let asked = async |fields: &[(&str, &str)], http2: bool| -> anyhow::Result<Echo> {
        let uri = if http2 { "http://web.shop/" } else { "/" };
        let request = fields.iter().fold(Request::get(uri), |request, (name, value)| request.header(*name, *value));
        let request = if http2 { request } else { request.header("host", "web.shop") }.body(Full::<Bytes>::default())?;
        let reply = if http2 { http2_send(proxy.address(), request).await? } else { http_send(proxy.address(), request).await? };
        reply.json()
    };
    for http2 in [false, true] {
        // In one field.
        let echo = asked(&[("b3", &format!("{TRACE}-{CALLER}-1"))], http2).await?;
        let (trace, span, flags) = parts(&echo);
        assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "01"));
        assert_eq!(echo.header("b3"), Some(format!("{TRACE}-{span}-1-{CALLER}").as_str()));
        assert_eq!(echo.header("x-b3-traceid"), None);
        // In several, with an id of 64 bits.
        let echo =
            asked(&[("x-b3-traceid", SHORT), ("x-b3-spanid", CALLER), ("x-b3-parentspanid", SHORT), ("x-b3-sampled", "1")], http2).await?;
        let (trace, span, flags) = parts(&echo);
        assert_eq!((trace, flags.as_str()), (format!("0000000000000000{SHORT}"), "01"));
        for (name, value) in [("x-b3-traceid", SHORT), ("x-b3-spanid", &span), ("x-b3-parentspanid", CALLER), ("x-b3-sampled", "1")] {
            assert_eq!(echo.header(name), Some(value), "{name}");
            assert_eq!(echo.headers.iter().filter(|(known, _)| known == name).count(), 1, "{name}");
        }
        assert_eq!(echo.header("b3"), None);
        // The decision alone, and all forms at once.
        let (.., flags) = parts(&asked(&[("b3", "d")], http2).await?);
        assert_eq!(flags, "01");
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let all = [("traceparent", parent), ("b3", &format!("{TRACE}-{CALLER}-1")), ("x-b3-traceid", SHORT), ("x-b3-spanid", CALLER)];
        let echo = asked(&all, http2).await?;
        let (trace, span, flags) = parts(&echo);
        assert_eq!((trace.as_str(), flags.as_str()), ("0af7651916cd43dd8448eb211c80319c", "00"));
        assert_eq!(echo.header("b3"), Some(format!("{trace}-{span}-0-b7ad6b7169203331").as_str()));
        assert_eq!((echo.header("x-b3-traceid"), echo.header("x-b3-sampled")), (Some(trace.as_str()), Some("0")));
        // Who speaks no B3 gets none.
        let echo = asked(&[], http2).await?;
        assert!(!echo.headers.iter().any(|(name, _)| name.contains("b3")), "{echo:?}");
    }
    mesh.finish().await
}
