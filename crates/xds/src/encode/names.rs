//! The names of a namespace.

use envoy_types::pb::envoy::data::dns::v3::{
    DnsTable,
    dns_table::{AddressList, DnsEndpoint, DnsVirtualDomain, dns_endpoint::EndpointConfig},
};
use lorica_model::name::ServiceName;
use lorica_model::snapshot::{NameTable, Version};

use crate::{Kind, Resource};

/// The resource of `table`. Its name is the namespace; each record has one IPv4 and one IPv6 address, in this order.
#[must_use]
pub fn names(table: &NameTable) -> Resource {
    let domain = |record: &lorica_model::snapshot::NameRecord| {
        let address = vec![record.v4.to_string(), record.v6.to_string()];
        DnsVirtualDomain {
            name: ServiceName::new(table.namespace.clone(), record.name.clone()).fqdn(),
            endpoint: Some(DnsEndpoint { endpoint_config: Some(EndpointConfig::AddressList(AddressList { address })) }),
            answer_ttl: None,
        }
    };
    let message = DnsTable { virtual_domains: table.records.iter().map(domain).collect(), ..DnsTable::default() };
    Resource::new(Kind::Names, table.namespace.as_str(), Version::of(table), &message)
}
