//! Join tokens and hosts, as they go over the API.

use std::net::IpAddr;

use lorica_model::name::{Label, ServiceName};
use serde::{Deserialize, Serialize};

/// A token to be made: `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRequest {
    /// The name that the host will have.
    pub host: Label,
    /// The services that it may claim; none: any.
    #[serde(default)]
    pub services: Vec<ServiceName>,
    /// How long the token holds, in seconds.
    pub seconds: u64,
    /// Where the host reaches the control plane; none: where that listens.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// A token that was made. Only this once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenReply {
    /// The token, for the host's eyes.
    pub token: String,
    /// What is listed of it.
    pub listed: ListedToken,
}

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedToken {
    /// Its id.
    pub id: String,
    /// The host that it is for.
    pub host: Label,
    /// The services that the host may claim; none: any.
    pub services: Vec<ServiceName>,
    /// When it was made, RFC 3339.
    pub created: String,
    /// When it is over.
    pub expires: String,
    /// What has become of it.
    pub state: TokenState,
}

/// What has become of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenState {
    /// A host may join with it.
    Open,
    /// A host has joined with it.
    Used,
    /// Nobody joined with it in time.
    Expired,
}

/// All tokens: `GET /v1/tokens`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenList {
    /// The tokens, oldest first.
    pub tokens: Vec<ListedToken>,
}

/// A token that was taken back: `POST /v1/tokens/ID/revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRevoked {
    /// The host that it was for.
    pub host: Label,
    /// Whether the host had joined with it; it was let go of then.
    pub joined: bool,
}

/// The host on which a socket is: `GET /v1/host`, of a control plane as of a host that joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThisHost {
    /// Its name in the mesh.
    pub name: Label,
    /// Where workloads of other hosts reach those of this one.
    pub advertise: IpAddr,
}
