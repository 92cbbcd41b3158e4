//! The names of a namespace.

use std::net::{Ipv4Addr, Ipv6Addr};

use envoy_types::pb::envoy::data::dns::v3::{
    DnsTable,
    dns_table::{AddressList, DnsEndpoint, DnsVirtualDomain, dns_endpoint::EndpointConfig},
};
use envoy_types::pb::google::protobuf::Any;
use lorica_model::name::{NameError, Namespace, ServiceName};
use lorica_model::snapshot::{NameRecord, NameTable};

use super::{At, Fault, Rejected, apart, open, present};
use crate::Kind;

/// Reads the names of the namespace `name`.
///
/// # Errors
/// Names the first field that is not understood.
pub fn names(name: &str, body: &Any) -> Result<NameTable, Rejected> {
    open(Kind::Names, name, body, |at, table: DnsTable| {
        let namespace = Namespace::new(name).map_err(|error: NameError| at.field("name").fault(error.to_string()))?;
        apart!(at, table => DnsTable { virtual_domains } unset { external_retry_count, known_suffixes });
        let record = |(index, domain)| record(&at.index("virtual_domains", index), domain, &namespace);
        let records = virtual_domains.into_iter().enumerate().map(record).collect::<Result<_, _>>()?;
        Ok(NameTable { namespace, records })
    })
}

fn record(at: &At<'_>, domain: DnsVirtualDomain, namespace: &Namespace) -> Result<NameRecord, Fault> {
    apart!(at, domain => DnsVirtualDomain { name, endpoint } unset { answer_ttl });
    let service = ServiceName::from_fqdn(&name).filter(|service| service.namespace == *namespace);
    let service = service.ok_or_else(|| at.field("name").fault(format!("`{name}` is no service of namespace {namespace}")))?;
    let at = at.field("endpoint");
    let DnsEndpoint { endpoint_config } = present(&at, endpoint)?;
    let Some(EndpointConfig::AddressList(AddressList { address })) = endpoint_config else {
        return Err(at.fault("is no address_list".to_owned()));
    };
    let at = at.field("address_list");
    let read = || match address.as_slice() {
        [v4, v6] => Some((v4.parse::<Ipv4Addr>().ok()?, v6.parse::<Ipv6Addr>().ok()?)),
        _ => None,
    };
    let (v4, v6) = read().ok_or_else(|| at.fault("is not one IPv4 and one IPv6 address".to_owned()))?;
    Ok(NameRecord { name: service.name, v4, v6 })
}
