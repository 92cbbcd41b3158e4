//! Rules as people read them: what they take, and where that goes.

use std::fmt::{self, Display, Formatter};

use super::{Action, Backend, FieldMatch, Forward, PathEdit, PathMatch, Redirect, RouteMatch, Share, ValueMatch, WeightedBackend};

impl Display for PathMatch {
    /// `/a`, `/a/*`, `~ /a[0-9]+`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(prefix) => write!(f, "{}/*", prefix.strip_suffix('/').unwrap_or(prefix)),
            Self::Regex(pattern) => write!(f, "~ {}", pattern.as_str()),
        }
    }
}

impl Display for FieldMatch {
    /// `x-user=ann`, `x-user ~ a.*`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.value {
            ValueMatch::Exact(value) => write!(f, "{}={value}", self.name),
            ValueMatch::Regex(pattern) => write!(f, "{} ~ {}", self.name, pattern.as_str()),
        }
    }
}

impl Display for Share {
    /// `12.5 %`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) / 10_000.0)
    }
}

impl Display for RouteMatch {
    /// `GET /list/* with x-user=ann and ?page=1, to 10 %`. Shares of rules that follow each other are cumulative.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(method) = &self.method {
            write!(f, "{method} ")?;
        }
        self.path.fmt(f)?;
        let headers = self.headers.iter().map(ToString::to_string);
        for (index, field) in headers.chain(self.query.iter().map(|field| format!("?{field}"))).enumerate() {
            write!(f, " {} {field}", if index == 0 { "with" } else { "and" })?;
        }
        match &self.share {
            Some(share) => write!(f, ", to {share}"),
            None => Ok(()),
        }
    }
}

impl Display for Backend {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => port.fmt(f),
            Self::Missing { name } => write!(f, "{name} (missing)"),
        }
    }
}

/// Backends with their shares: `web-v1.shop.mesh:80 90 %, web-v2.shop.mesh:80 10 %`; `nowhere` where none has any.
#[must_use]
pub fn backends(backends: &[WeightedBackend]) -> String {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    match backends.iter().filter(|backend| backend.weight > 0).collect::<Vec<_>>().as_slice() {
        [] => "nowhere".to_owned(),
        [only] => only.backend.to_string(),
        several => {
            let share = |backend: &&WeightedBackend| format!("{} {}", backend.backend, Share::of(backend.weight.into(), total));
            several.iter().map(share).collect::<Vec<_>>().join(", ")
        }
    }
}

impl Display for Action {
    /// Where a request goes: `recording.contact.mesh:80`, `redirect 301 to https://`, `answer 421`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward(forward) => forward.fmt(f),
            Self::Redirect(redirect) => redirect.fmt(f),
            Self::Respond(status) => write!(f, "answer {status}"),
        }
    }
}

impl Display for Forward {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&backends(&self.backends))?;
        match &self.path {
            Some(PathEdit::Full(path)) => write!(f, ", path {path}")?,
            Some(PathEdit::Prefix { matched, replacement }) => write!(f, ", path {matched} becomes {replacement}")?,
            None => {}
        }
        if let Some(host) = &self.host {
            write!(f, ", host {host}")?;
        }
        self.mirrors.iter().try_for_each(|mirror| match mirror.share {
            Share::ALL => write!(f, ", copy to {}", mirror.backend),
            share => write!(f, ", copy of {share} to {}", mirror.backend),
        })
    }
}

impl Display for Redirect {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "redirect {}", self.status)?;
        if let Some(scheme) = &self.scheme {
            write!(f, " to {scheme}")?;
        }
        if let Some(host) = &self.host {
            write!(f, " at {host}")?;
        }
        if let Some(port) = self.port {
            write!(f, ", port {port}")?;
        }
        match &self.path {
            Some(PathEdit::Full(path)) => write!(f, ", path {path}"),
            Some(PathEdit::Prefix { matched, replacement }) => write!(f, ", path {matched} becomes {replacement}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::snapshot::{Mirror, Pattern};

    fn field(name: &str, value: &str) -> FieldMatch {
        FieldMatch { name: name.to_owned(), value: ValueMatch::Exact(value.to_owned()) }
    }

    #[test]
    fn a_match_reads_well() {
        let mut matches = RouteMatch::any();
        assert_eq!(matches.to_string(), "/*");
        matches.path = PathMatch::Prefix("/list/".to_owned());
        matches.method = Some("GET".to_owned());
        matches.headers = vec![field("x-user", "ann")];
        matches.query = vec![FieldMatch { name: "page".to_owned(), value: ValueMatch::Regex(Pattern::new("[0-9]+").unwrap()) }];
        matches.share = Some(Share::of(1, 8));
        assert_eq!(matches.to_string(), "GET /list/* with x-user=ann and ?page ~ [0-9]+, to 12.5 %");
    }

    #[test]
    fn where_it_goes_reads_well() {
        let port = |name: &str| Backend::Port(format!("{name}.shop.mesh:80").parse().unwrap());
        let mut forward = Forward { backends: vec![WeightedBackend::plain(1, port("web"))], ..Forward::default() };
        assert_eq!(forward.to_string(), "web.shop.mesh:80");
        forward.backends = vec![
            WeightedBackend::plain(90, port("web-v1")),
            WeightedBackend::plain(10, Backend::Missing { name: "web-v2".to_owned() }),
            WeightedBackend::plain(0, port("web-v3")),
        ];
        forward.mirrors = vec![Mirror { backend: port("shadow"), share: Share::of(1, 10) }];
        forward.path = Some(PathEdit::Prefix { matched: "/a".to_owned(), replacement: "/b".to_owned() });
        let expected = "web-v1.shop.mesh:80 90 %, web-v2 (missing) 10 %, path /a becomes /b, copy of 10 % to shadow.shop.mesh:80";
        assert_eq!(forward.to_string(), expected);
        assert_eq!(Forward::default().to_string(), "nowhere");
        let redirect =
            Redirect { scheme: Some("https".to_owned()), host: Some("a.example".to_owned()), port: Some(8443), path: None, status: 301 };
        assert_eq!(Action::Redirect(redirect).to_string(), "redirect 301 to https at a.example, port 8443");
    }
}
