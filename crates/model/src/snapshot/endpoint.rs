//! The endpoints of a service port: live, beside the units, so that what a proxy knows of them outlives a route's change.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Nearness;
use crate::name::{ServicePort, WorkloadName};

/// The endpoints of one service port that may be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSet {
    /// The service port.
    pub port: ServicePort,
    /// Ordered by workload, then address.
    pub endpoints: Vec<Endpoint>,
}

/// One address:port for exactly one workload and one of its app ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// The workload.
    pub workload: WorkloadName,
    /// Where its proxy (or, in plaintext, its app) is reached.
    pub address: SocketAddr,
    /// How it is reached: the registry's word, from which nothing falls back.
    pub transport: Transport,
    /// Its share of calls among equals; 1 unless said otherwise, never 0.
    pub weight: u32,
    /// The version label of the workload: `v2`.
    pub version: Option<String>,
    /// The workload's own virtual address.
    pub virtual_address: Option<Ipv4Addr>,
    /// Where it runs.
    pub locality: Locality,
}

/// How an endpoint is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Mutual TLS, with the identity checked on both sides.
    MutualTls,
    /// The same, by a Lorica proxy: it takes HTTP/1 and TCP as streams of one connection, so that a new stream costs no handshake.
    Lorica,
    /// Plaintext: the service is declared so, or the endpoint is outside the mesh.
    Plaintext,
}

/// Where an endpoint runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Locality {
    /// `eu-central`.
    pub region: String,
    /// `eu-central-1a`.
    pub zone: String,
}

impl Locality {
    /// The longest name of a region or a zone, in bytes; clouds' are below 40.
    const LONGEST: usize = 63;

    /// How far away `other` is for who prefers near ones: 0 the nearest. Where this one is not known, all are equally far.
    #[must_use]
    pub fn distance(&self, other: &Self, prefer: Nearness) -> u32 {
        let near = !self.region.is_empty() && self.region == other.region;
        match prefer {
            _ if self.region.is_empty() => 0,
            Nearness::Anywhere => 0,
            Nearness::Region => u32::from(!near),
            Nearness::Zone if near && !self.zone.is_empty() && self.zone == other.zone => 0,
            Nearness::Zone => {
                if near {
                    1
                } else {
                    2
                }
            }
        }
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.region)?;
        if self.zone.is_empty() { Ok(()) } else { write!(f, "/{}", self.zone) }
    }
}

/// What is no locality.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no locality: write REGION or REGION/ZONE, as in eu-central/eu-central-1a")]
pub struct LocalityError(String);

impl FromStr for Locality {
    type Err = LocalityError;
    fn from_str(text: &str) -> Result<Self, LocalityError> {
        let (region, zone) = text.split_once('/').map_or((text, None), |(region, zone)| (region, Some(zone)));
        let is_name = |name: &str| {
            (1..=Self::LONGEST).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if !is_name(region) || !zone.is_none_or(is_name) {
            return Err(LocalityError(text.to_owned()));
        }
        Ok(Self { region: region.to_owned(), zone: zone.unwrap_or_default().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_zone_is_nearer_than_the_region_and_that_than_the_rest() {
        let at = |text: &str| text.parse::<Locality>().unwrap();
        let others = [at("eu/a"), at("eu/b"), at("us/a"), Locality::default()];
        let from = |own: &Locality, prefer| others.iter().map(|other| own.distance(other, prefer)).collect::<Vec<_>>();
        assert_eq!(from(&at("eu/a"), Nearness::Zone), [0, 1, 2, 2]);
        assert_eq!(from(&at("eu/a"), Nearness::Region), [0, 0, 1, 1]);
        assert_eq!(from(&at("eu/a"), Nearness::Anywhere), [0, 0, 0, 0]);
        assert_eq!(from(&at("eu"), Nearness::Zone), [1, 1, 2, 2]);
        assert_eq!(from(&Locality::default(), Nearness::Zone), [0, 0, 0, 0]);
    }

    #[test]
    fn localities_read_as_they_are_written() {
        for text in ["eu", "eu-central/eu-central-1a", "dc1/rack_7"] {
            assert_eq!(text.parse::<Locality>().unwrap().to_string(), text);
        }
        for bad in ["", "/a", "eu/", "eu/a/b", "eu central", &"x".repeat(64)] {
            let error = bad.parse::<Locality>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
    }
}
