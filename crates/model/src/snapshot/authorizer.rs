//! A service that is asked whether a request may be made: by Envoy's protocol of external authorization, over gRPC or over HTTP.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::ServicePort;

/// A service that is asked, and how.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorizer {
    /// Where it is.
    pub port: ServicePort,
    /// How it is asked.
    pub protocol: AuthorizerProtocol,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// Whether requests pass where it does not answer.
    pub fail_open: bool,
    /// The fields of a request that it is shown, by lower-case name. Over gRPC none means all; over HTTP `authorization` is always shown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shown: Vec<String>,
    /// The fields that it sets, by lower-case name. Over HTTP it sets no others. What callers say under these names never goes on, unless
    /// the service was shown it by name and so answers for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<String>,
    /// Whether it sees the body; none: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<ShownBody>,
}

/// How a service is asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum AuthorizerProtocol {
    /// `envoy.service.auth.v3.Authorization/Check`.
    Grpc,
    /// A request with the method and path of the one that came: 200 lets it pass.
    Http {
        /// What comes before the path; empty: nothing.
        path_prefix: String,
        /// The fields of its answer that callers see beside the service's own, where a request passes.
        told_on_allow: Vec<String>,
        /// The fields of its answer that callers see where a request is denied; none: all.
        told_on_deny: Option<Vec<String>>,
    },
}

/// How much of a body a service is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShownBody {
    /// The most bytes.
    pub most: u32,
    /// Whether it is shown the beginning of a longer one. Otherwise who sends more is answered with 413.
    pub partial: bool,
    /// Whether bytes need not be text (gRPC).
    pub bytes: bool,
}

impl Authorizer {
    /// How long it may take unless said otherwise: Envoy's default.
    pub const TIMEOUT: Duration = Duration::from_millis(200);

    /// The names under which nothing of a caller goes on.
    pub fn kept_from_callers(&self) -> impl Iterator<Item = &str> {
        self.sets.iter().map(String::as_str).filter(|name| !self.is_shown_by_name(name))
    }

    /// Whether it is shown a field because its name is said.
    fn is_shown_by_name(&self, name: &str) -> bool {
        self.shown.iter().any(|shown| shown == name) || (self.is_http() && name == "authorization")
    }

    /// Whether it is shown a field, by lower-case name.
    #[must_use]
    pub fn shows(&self, name: &str) -> bool {
        self.is_shown_by_name(name) || (!self.is_http() && self.shown.is_empty())
    }

    /// Whether it is asked over HTTP.
    #[must_use]
    pub fn is_http(&self) -> bool {
        matches!(self.protocol, AuthorizerProtocol::Http { .. })
    }
}

/// Whether no service may set or remove a field: it says how the message is framed, where it goes, or what only the mesh may say.
#[must_use]
pub fn is_beyond_authorizers(name: &str) -> bool {
    const FIXED: [&str; 10] = [
        "host",
        "connection",
        "content-length",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-client-cert",
    ];
    let ours = || name.get(..9).is_some_and(|prefix| prefix.eq_ignore_ascii_case("x-lorica-"));
    name.is_empty() || name.starts_with(':') || ours() || FIXED.iter().any(|fixed| name.eq_ignore_ascii_case(fixed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_was_not_shown_is_kept_from_callers() {
        let service = crate::name::ServiceName::new(
            crate::name::Namespace::new("auth").unwrap_or_else(|error| unreachable!("{error}")),
            crate::name::Label::new("door").unwrap_or_else(|error| unreachable!("{error}")),
        );
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let http = AuthorizerProtocol::Http { path_prefix: String::new(), told_on_allow: Vec::new(), told_on_deny: None };
        let grpc = Authorizer {
            port: ServicePort { service, port: 80 },
            protocol: AuthorizerProtocol::Grpc,
            timeout: Authorizer::TIMEOUT,
            fail_open: false,
            shown: Vec::new(),
            sets: list(&["x-user", "authorization"]),
            body: None,
        };
        assert_eq!(grpc.kept_from_callers().collect::<Vec<_>>(), ["x-user", "authorization"]);
        assert!(grpc.shows("x-user") && grpc.shows("anything"));
        let http = Authorizer { protocol: http, shown: list(&["x-user"]), ..grpc };
        assert_eq!(http.kept_from_callers().count(), 0, "it sees both");
        assert!(http.shows("authorization") && !http.shows("cookie"));
    }

    #[test]
    fn no_service_says_how_a_message_is_framed() {
        for name in ["", ":path", "Host", "Content-Length", "X-Lorica-Attempt", "x-forwarded-client-cert", "Transfer-Encoding"] {
            assert!(is_beyond_authorizers(name), "{name}");
        }
        assert!(!is_beyond_authorizers("x-user") && !is_beyond_authorizers("authorization"));
    }
}
