//! The types of resources that are spoken here, with what the protocol says of each.

use std::fmt;

/// A type of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Roots to trust: `envoy.extensions.transport_sockets.tls.v3.Secret`.
    Secret,
    /// How endpoints are reached: `envoy.config.cluster.v3.Cluster`.
    Cluster,
    /// Endpoints: `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    Endpoints,
    /// Listeners, outbound and inbound: `envoy.config.listener.v3.Listener`.
    Listener,
    /// Rules: `envoy.config.route.v3.RouteConfiguration`.
    Route,
    /// Names of a namespace: `envoy.data.dns.v3.DnsTable`.
    Names,
    /// What a filter of an Envoy's own listener says: `envoy.config.core.v3.TypedExtensionConfig`.
    Extension,
}

impl Kind {
    /// All kinds, in the order in which changes are sent: what is referred to goes before what refers to it.
    pub const ALL: [Self; 7] = [Self::Secret, Self::Cluster, Self::Endpoints, Self::Listener, Self::Route, Self::Names, Self::Extension];

    /// The type URL.
    #[must_use]
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Names => "type.googleapis.com/envoy.data.dns.v3.DnsTable",
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        }
    }

    /// The kind of a type URL; `None` for types that are not spoken here.
    #[must_use]
    pub fn from_type_url(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == text)
    }

    /// Whether a first request without names means all resources (the protocol's older form of `*`), and whether a state
    /// of the world answer holds them all, so that what is absent is gone. Both are so for listeners and clusters alone.
    #[must_use]
    pub const fn is_whole(self) -> bool {
        matches!(self, Self::Listener | Self::Cluster)
    }

    /// Whether it refers to clusters, directly or through a route.
    #[must_use]
    pub const fn refers(self) -> bool {
        matches!(self, Self::Listener | Self::Route)
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Kind {
    /// The message's short name: `Cluster`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.type_url();
        f.write_str(url.rsplit('.').next().unwrap_or(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_url_reads_back() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(Kind::from_type_url(kind.type_url()), Some(kind));
            assert_eq!(kind.index(), index);
        }
        assert_eq!(Kind::from_type_url("type.googleapis.com/envoy.service.runtime.v3.Runtime"), None);
        assert_eq!(Kind::Endpoints.to_string(), "ClusterLoadAssignment");
    }
}
