//! Addresses of other services as users write them: `http://HOST[:PORT]` and `HOST:PORT`. Nothing is looked up here.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::Scheme;

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Host name or IP address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Where an HTTP or gRPC service is: scheme `http`, no path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// What goes into `Host`: as written, so without the port if none was written.
    pub authority: String,
    /// What to connect to; port 80 unless written.
    pub connect: HostPort,
}

/// An address that cannot be used, and what one looks like.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// Not of the form that [`BaseUrl`] takes.
    #[error("expected http://HOST or http://HOST:PORT, without a path")]
    Url,
    /// Not of the form that [`HostPort`] takes.
    #[error("expected HOST:PORT")]
    HostPort,
}

impl FromStr for BaseUrl {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let uri: Uri = text.parse().map_err(|_| BadAddress::Url)?;
        let authority = uri.authority().ok_or(BadAddress::Url)?;
        let has_path = uri.path_and_query().is_some_and(|path| path.as_str() != "/");
        if uri.scheme() != Some(&Scheme::HTTP) || has_path || authority.as_str().contains('@') {
            return Err(BadAddress::Url);
        }
        let port = match (authority.port_u16(), authority.port()) {
            (Some(port), _) => port,
            (None, None) => 80,
            (None, Some(_)) => return Err(BadAddress::Url),
        };
        let host = without_brackets(authority.host()).to_owned();
        Ok(Self { authority: authority.to_string(), connect: HostPort { host, port } })
    }
}

impl FromStr for HostPort {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(BadAddress::HostPort)?;
        let bare = without_brackets(host);
        if bare.is_empty() || bare.contains('/') || (bare.contains(':') && bare == host) {
            return Err(BadAddress::HostPort);
        }
        let port = port.parse().map_err(|_| BadAddress::HostPort)?;
        Ok(Self { host: bare.to_owned(), port })
    }
}

fn without_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls() {
        let check = |text: &str, expected: Option<(&str, &str, u16)>| {
            let found = text.parse::<BaseUrl>().ok();
            let found = found.as_ref().map(|u| (u.authority.as_str(), u.connect.host.as_str(), u.connect.port));
            assert_eq!(found, expected, "{text}");
        };
        check("http://recording.contact", Some(("recording.contact", "recording.contact", 80)));
        check("http://recording.contact:8080/", Some(("recording.contact:8080", "recording.contact", 8080)));
        check("http://[::1]:8080", Some(("[::1]:8080", "::1", 8080)));
        check("recording.contact", None);
        check("https://recording.contact", None);
        check("http://recording.contact/v1", None);
        check("http://user@recording.contact", None);
        check("", None);
    }

    #[test]
    fn hosts_and_ports() {
        let check = |text: &str, expected: Option<&str>| {
            let found = text.parse::<HostPort>().ok().map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        check("analytics.contact:7000", Some("analytics.contact:7000"));
        check("[::1]:7000", Some("[::1]:7000"));
        check("::1:7000", None);
        check("analytics.contact", None);
        check(":7000", None);
        check("analytics:seventy", None);
    }
}
