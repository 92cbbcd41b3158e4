//! Where telemetry is sent, as written on a command line: `http://HOST:4317`, `https://HOST/otlp`, `unix:///PATH`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tonic::transport::Channel;

use super::connect::{Dial, Place, Secure};
use super::post::Post;

/// What OTLP is spoken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OtlpProtocol {
    /// gRPC.
    Grpc,
    /// HTTP/1.1 with protobuf.
    Http,
}

impl FromStr for OtlpProtocol {
    type Err = String;
    /// `grpc` or `http`; besides, the words of `OTEL_EXPORTER_OTLP_PROTOCOL`. Who takes JSON takes protobuf, too.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http" | "http/protobuf" | "http/json" => Ok(Self::Http),
            _ => Err(format!("`{text}` is no protocol of OTLP: write grpc or http")),
        }
    }
}

/// A place that telemetry is sent to.
#[derive(Debug, Clone)]
pub struct Destination {
    pub(super) name: String,
    pub(super) way: Way,
    pub(super) quiet: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Way {
    /// OTLP by gRPC over a connection of its own.
    Grpc(Dial),
    /// OTLP by gRPC over a channel that is there.
    Channel(Channel),
    /// OTLP by HTTP, below this path.
    Http(Post, String),
    /// Zipkin's JSON, at this path.
    Zipkin(Post, String),
}

/// Why a text is no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct DestinationError {
    /// What was written.
    pub url: String,
    /// What is wrong with it.
    pub why: String,
    /// What to write.
    pub hint: &'static str,
}

impl fmt::Display for DestinationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "telemetry cannot be sent to `{}`: {}\nhint: {}", self.url, self.why, self.hint)
    }
}

/// Makes TLS with a host, by one protocol (ALPN), of plain connections.
pub type SecuredBy<'s> = &'s dyn Fn(&str, &'static [u8]) -> Result<Secure, String>;

const OTLP_HINT: &str = "write http://HOST:4317 for gRPC, http://HOST:4318 for HTTP, https://HOST/PATH, or unix:///PATH";
const ZIPKIN_HINT: &str = "write http://HOST:9411";
/// Where OTLP over HTTP listens.
const HTTP_PORT: u16 = 4318;
/// What collectors' paths end in; of a URL that names one, the others are found beside it.
const SIGNALS: [&str; 3] = ["/v1/traces", "/v1/logs", "/v1/metrics"];
/// Where Zipkin takes spans.
const SPANS: &str = "/api/v2/spans";

impl Destination {
    /// The control plane, over a channel that the proxy has. That it does not answer is told elsewhere.
    #[must_use]
    pub fn control_plane(channel: Channel) -> Self {
        Self { name: "control".to_owned(), way: Way::Channel(channel), quiet: true }
    }

    /// A collector. Unless `protocol` says otherwise, it is spoken to by HTTP where the URL has a path or port 4318, else by gRPC.
    ///
    /// # Errors
    /// When `url` names no place, or TLS cannot be had.
    pub fn otlp(url: &str, protocol: Option<OtlpProtocol>, secured: SecuredBy<'_>) -> Result<Self, DestinationError> {
        let fail = |why: String| DestinationError { url: url.to_owned(), why, hint: OTLP_HINT };
        let Url { place, host, path, tls } = Url::parse(url).map_err(fail)?;
        let by_http = !path.is_empty() || matches!(place, Place::Tcp(_, HTTP_PORT));
        let alpn: &[u8] = match protocol {
            Some(OtlpProtocol::Grpc) if !path.is_empty() => return Err(fail("gRPC has a path of its own".to_owned())),
            Some(OtlpProtocol::Grpc) => b"h2",
            None if !by_http => b"h2",
            Some(OtlpProtocol::Http) | None => b"http/1.1",
        };
        let secure = tls.then(|| secured(&host, alpn)).transpose().map_err(fail)?;
        let dial = Dial { place, host, secure };
        let base = SIGNALS.iter().find_map(|signal| path.strip_suffix(signal)).unwrap_or(&path).to_owned();
        let way = if alpn == b"h2" { Way::Grpc(dial) } else { Way::Http(Post::new(dial), base) };
        Ok(Self { name: url.to_owned(), way, quiet: false })
    }

    /// A Zipkin, or what takes its spans. A URL without a path means Zipkin's own.
    ///
    /// # Errors
    /// When `url` names no place, or TLS cannot be had.
    pub fn zipkin(url: &str, secured: SecuredBy<'_>) -> Result<Self, DestinationError> {
        let fail = |why: String| DestinationError { url: url.to_owned(), why, hint: ZIPKIN_HINT };
        let Url { place, host, path, tls } = Url::parse(url).map_err(fail)?;
        let secure = tls.then(|| secured(&host, b"http/1.1")).transpose().map_err(fail)?;
        let path = if path.is_empty() { SPANS.to_owned() } else { path };
        Ok(Self { name: url.to_owned(), way: Way::Zipkin(Post::new(Dial { place, host, secure }), path), quiet: false })
    }

    /// Whether it is the control plane.
    #[must_use]
    pub fn is_control_plane(&self) -> bool {
        matches!(self.way, Way::Channel(_))
    }

    /// Its name: `control`, or its URL.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A URL, as far as it names a place.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    place: Place,
    /// The host without its port, for TLS and `host`.
    host: String,
    /// Without a last slash.
    path: String,
    tls: bool,
}

impl Url {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            let place = Place::Unix(PathBuf::from(path));
            return if path.starts_with('/') {
                Ok(Self { place, host: "localhost".to_owned(), path: String::new(), tls: false })
            } else {
                Err("the path of a socket begins with a slash".to_owned())
            };
        }
        let uri: http::Uri = text.parse().map_err(|error| format!("it is no URL ({error})"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("it begins with neither http:// nor https://".to_owned()),
        };
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("it names no host")?;
        // They would stand in logs and metrics.
        if authority.contains('@') || uri.query().is_some() {
            return Err("neither a password nor a query is sent".to_owned());
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { place: Place::Tcp(host.clone(), port), host, path: uri.path().trim_end_matches('/').to_owned(), tls })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says where by panicking")]
    use super::*;

    fn no_tls(_: &str, _: &'static [u8]) -> Result<Secure, String> {
        Err("no TLS here".to_owned())
    }

    fn way(url: &str, protocol: Option<OtlpProtocol>) -> String {
        match Destination::otlp(url, protocol, &no_tls).unwrap().way {
            Way::Grpc(dial) => format!("gRPC to {}", dial.place),
            Way::Http(post, base) => format!("HTTP to {}{base}", post.dial.place),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_url_says_how_a_collector_is_spoken_to() {
        for (url, protocol, expected) in [
            ("http://collector:4317", None, "gRPC to collector:4317"),
            ("http://collector:4317/", None, "gRPC to collector:4317"),
            ("http://collector:4318", None, "HTTP to collector:4318"),
            ("http://collector:4318/v1/traces", None, "HTTP to collector:4318"),
            ("http://collector:9/otlp/v1/logs/", None, "HTTP to collector:9/otlp"),
            ("http://collector/otlp", None, "HTTP to collector:80/otlp"),
            ("http://collector:4318", Some(OtlpProtocol::Grpc), "gRPC to collector:4318"),
            ("http://collector:4317", Some(OtlpProtocol::Http), "HTTP to collector:4317"),
            ("http://[::1]:4317", None, "gRPC to ::1:4317"),
            ("unix:///run/otlp.sock", None, "gRPC to /run/otlp.sock"),
            ("unix:///run/otlp.sock", Some(OtlpProtocol::Http), "HTTP to /run/otlp.sock"),
        ] {
            assert_eq!(way(url, protocol), expected, "{url}");
        }
    }

    #[test]
    fn a_zipkin_has_a_path_of_its_own() {
        for (url, expected) in [("http://zipkin:9411", "/api/v2/spans"), ("http://zipkin:9411/custom", "/custom")] {
            let Way::Zipkin(_, path) = Destination::zipkin(url, &no_tls).unwrap().way else { panic!("{url}") };
            assert_eq!(path, expected, "{url}");
        }
    }

    #[test]
    fn what_is_no_destination_is_refused_where_it_is_written() {
        for (url, why) in [
            ("127.0.0.1:4317", "neither http:// nor https://"),
            ("collector", "neither http:// nor https://"),
            ("", "it is no URL"),
            ("http://[", "it is no URL"),
            ("ftp://collector", "neither http:// nor https://"),
            ("http://user:secret@collector:4317", "neither a password"),
            ("http://collector:4318/v1/traces?key=secret", "neither a password"),
            ("unix://otlp.sock", "begins with a slash"),
            ("https://collector:4317", "no TLS here"),
        ] {
            let error = Destination::otlp(url, None, &no_tls).unwrap_err().to_string();
            assert!(error.contains(&format!("`{url}`")) && error.contains(why) && error.contains("hint: "), "{error}");
            Destination::zipkin(url, &no_tls).unwrap_err();
        }
        let error = Destination::otlp("http://collector/otlp", Some(OtlpProtocol::Grpc), &no_tls).unwrap_err();
        assert_eq!(error.why, "gRPC has a path of its own");
    }

    #[test]
    fn protocols_read_as_opentelemetry_names_them() {
        for (text, expected) in [("grpc", OtlpProtocol::Grpc), ("http", OtlpProtocol::Http), ("http/protobuf", OtlpProtocol::Http)] {
            assert_eq!(text.parse(), Ok(expected));
        }
        "HTTP".parse::<OtlpProtocol>().unwrap_err();
    }
}
