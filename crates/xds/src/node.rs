//! Who a client is: xDS's `Node`, read and written.
//!
//! In: a node as received, or a proxy's metadata. Out: checked metadata, the dialect, the level; or the node to send.
//! Whether the client may be who it says is decided elsewhere.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use envoy_types::pb::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use envoy_types::pb::google::protobuf::{Struct, Value, value};
use lorica_model::name::{GatewayName, Label, Namespace, ServiceName, ServicePort};
use lorica_model::snapshot::{Locality, Protocol};
use serde::{Deserialize, Serialize};

use crate::value::{from_struct, to_struct};

/// The key of [`NodeMetadata`] in `Node.metadata`, and of what Lorica adds to resources in their metadata.
pub(crate) const KEY: &str = "lorica";

/// What a client has Envoy's types mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dialect {
    /// Lorica's own proxy.
    Lorica,
    /// A stock Envoy.
    Envoy,
    /// A gRPC client or server without a proxy.
    Grpc,
}

impl Dialect {
    /// The dialect of a node. What is unknown is spoken to as Envoy, whose types they are.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        match node.user_agent_name.as_str() {
            "lorica" => Self::Lorica,
            name if name.starts_with("gRPC") => Self::Grpc,
            _ => Self::Envoy,
        }
    }

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lorica => "lorica",
            Self::Envoy => "envoy",
            Self::Grpc => "grpc",
        }
    }
}

/// How much of what units can express a Lorica proxy understands. The encoder writes no more than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u32);

impl Level {
    /// The level that this version speaks.
    pub const NEWEST: Self = Self(1);
    const PREFIX: &'static str = "lorica.level.";

    /// The highest level that both this version and the node speak; `None` for other software.
    #[must_use]
    pub fn of(node: &Node) -> Option<Self> {
        let levels = node.client_features.iter().filter_map(|feature| feature.strip_prefix(Self::PREFIX)?.parse().ok());
        levels.map(Self).max().map(|level| level.min(Self::NEWEST))
    }

    /// As `client_features` names it.
    #[must_use]
    pub fn feature(self) -> String {
        format!("{}{}", Self::PREFIX, self.0)
    }
}

/// What a proxy says of its workload, in `Node.metadata.lorica`. Unknown fields are passed over, as a newer proxy may have more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMetadata {
    /// The namespace from which it sees the mesh.
    pub namespace: Namespace,
    /// The service that it is an instance of; none for a mere client.
    #[serde(default)]
    pub service: Option<ServiceName>,
    /// The account whose identity it has.
    pub account: Label,
    /// Its version label: `v2`.
    #[serde(default)]
    pub version: Option<String>,
    /// The app ports that it takes calls for.
    #[serde(default)]
    pub ports: Vec<NodePort>,
    /// The app ports on which the app listens now. Only these are announced as endpoints.
    #[serde(default)]
    pub listening: Vec<u16>,
    /// Whether it is about to end and takes no new calls.
    #[serde(default)]
    pub draining: bool,
    /// Where its metrics are read.
    #[serde(default)]
    pub metrics: Option<SocketAddr>,
    /// Whether it takes HTTP/1 and TCP as streams of one connection, as Lorica's proxy does.
    #[serde(default)]
    pub streams: bool,
    /// Where it runs.
    #[serde(default)]
    pub locality: Locality,
    /// The gateway that it runs; none for a proxy beside an app.
    #[serde(default)]
    pub gateway: Option<GatewayName>,
    /// Where the gateway's listener ports are bound.
    #[serde(default)]
    pub gateway_binds: BTreeMap<u16, SocketAddr>,
    /// For Envoy: the address on which those of the gateway's listener ports are bound that `gateway_binds` does not name.
    #[serde(default)]
    pub gateway_listen: Option<IpAddr>,
    /// For Envoy: where its access log goes: `stdout`, `stderr` or a file.
    #[serde(default)]
    pub access_log: Option<String>,
    /// For Envoy: the local addresses to listen on, by the service port that each leads to.
    #[serde(default)]
    pub upstreams: BTreeMap<ServicePort, SocketAddr>,
    /// For Envoy: the directory with `svid.yaml`.
    #[serde(default)]
    pub secrets_directory: Option<PathBuf>,
}

/// An app port that a proxy takes calls for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePort {
    /// The port that callers name.
    pub service_port: u16,
    /// The port that the app listens on.
    pub app_port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Where the proxy takes calls for it.
    pub address: SocketAddr,
}

/// Why a node is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node `{id}`: {why}")]
pub struct NodeError {
    /// `Node.id`.
    pub id: String,
    /// What is wrong, and what to do.
    pub why: String,
}

impl NodeMetadata {
    /// A mere client in `namespace`.
    #[must_use]
    pub fn client(namespace: Namespace, account: Label) -> Self {
        Self {
            namespace,
            service: None,
            account,
            version: None,
            ports: Vec::new(),
            listening: Vec::new(),
            draining: false,
            metrics: None,
            streams: false,
            locality: Locality::default(),
            gateway: None,
            gateway_binds: BTreeMap::new(),
            gateway_listen: None,
            access_log: None,
            upstreams: BTreeMap::new(),
            secrets_directory: None,
        }
    }

    /// Reads a node's metadata. A client that sends none (a gRPC app with a bootstrap of its own) sees the mesh from the
    /// namespace that `Node.cluster` names, as account `default`.
    ///
    /// # Errors
    /// Says which field cannot be read.
    pub fn of(node: &Node) -> Result<Self, NodeError> {
        let fail = |why| NodeError { id: node.id.clone(), why };
        match node.metadata.as_ref().and_then(|metadata| metadata.fields.get(KEY)) {
            Some(Value { kind: Some(value::Kind::StructValue(fields)) }) => {
                from_struct(fields).map_err(|error| fail(format!("metadata.{KEY} cannot be read: {error}")))
            }
            Some(_) => Err(fail(format!("metadata.{KEY} is no object"))),
            None => {
                let namespace = node.cluster.rsplit('.').next().filter(|text| !text.is_empty());
                let namespace = namespace.map_or_else(|| Ok(Namespace::default()), Namespace::new);
                let account = Label::new("default").map_err(|error| fail(error.to_string()))?;
                Ok(Self::client(namespace.map_err(|error| fail(format!("cluster names no namespace: {error}")))?, account))
            }
        }
    }
}

/// The node that Lorica's client of `version` sends for the workload `id`.
#[must_use]
pub fn node(id: &str, version: &str, metadata: &NodeMetadata) -> Node {
    let fields = Value { kind: Some(value::Kind::StructValue(to_struct(metadata))) };
    Node {
        id: id.to_owned(),
        cluster: metadata.service.as_ref().map_or_else(|| metadata.namespace.to_string(), ToString::to_string),
        metadata: Some(Struct { fields: [(KEY.to_owned(), fields)].into() }),
        user_agent_name: Dialect::Lorica.as_str().to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(version.to_owned())),
        client_features: vec![Level::NEWEST.feature()],
        ..Node::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn metadata_reads_back_from_its_node() {
        let mut metadata = NodeMetadata::client(Namespace::new("contact").unwrap(), Label::new("recording").unwrap());
        metadata.service = Some("recording.contact".parse().unwrap());
        metadata.ports =
            vec![NodePort { service_port: 80, app_port: 8080, protocol: Protocol::Http2, address: "127.0.0.1:40001".parse().unwrap() }];
        metadata.listening = vec![8080];
        metadata.upstreams = [("agents.contact.mesh:80".parse().unwrap(), "127.0.0.1:9001".parse().unwrap())].into();
        let node = node("recording-7f3a2c.contact", "0.1.0", &metadata);
        assert_eq!(NodeMetadata::of(&node).unwrap(), metadata);
        assert_eq!((Dialect::of(&node), Level::of(&node)), (Dialect::Lorica, Some(Level::NEWEST)));
        assert_eq!(node.cluster, "recording.contact");
    }

    #[test]
    fn a_node_without_metadata_is_a_client_of_its_cluster() {
        let node = Node { id: "x".to_owned(), cluster: "contact".to_owned(), user_agent_name: "gRPC Go".to_owned(), ..Node::default() };
        let metadata = NodeMetadata::of(&node).unwrap();
        assert_eq!((metadata.namespace.as_str(), metadata.account.as_str()), ("contact", "default"));
        assert_eq!((Dialect::of(&node), Level::of(&node)), (Dialect::Grpc, None));
        NodeMetadata::of(&Node { cluster: "No Name".to_owned(), ..Node::default() }).unwrap_err();
    }

    #[test]
    fn what_cannot_be_read_names_the_field() {
        let fields = to_struct(&serde_json::json!({ "lorica": { "namespace": "contact", "account": "A_B" } }));
        let error = NodeMetadata::of(&Node { id: "x".to_owned(), metadata: Some(fields), ..Node::default() }).unwrap_err();
        assert!(error.to_string().contains("A_B"), "{error}");
    }
}
