//! What is told of exchanges: the metadata says it, and the fields beside it must say the same to Envoy.

use envoy_types::pb::envoy::config::accesslog::v3::{AccessLog, access_log::ConfigType};
use envoy_types::pb::envoy::config::listener::v3::{Filter, filter};
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::StdoutAccessLog;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::google::protobuf::Any;
use lorica_model::snapshot::Telemetry;
use prost::Name;

use super::{At, Fault, unpack};
use crate::encode::{policy_logs, tracing};
use crate::node::Dialect;
use crate::resource::pack;

/// Checks what a connection manager tells, and takes it out of it.
pub(super) fn of_manager(at: &At<'_>, manager: &mut HttpConnectionManager, telemetry: Option<&Telemetry>) -> Result<(), Fault> {
    logs(at, std::mem::take(&mut manager.access_log), telemetry)?;
    at.equal("tracing", &manager.tracing.take(), &tracing(telemetry))
}

/// Checks what is logged.
pub(super) fn logs(at: &At<'_>, found: Vec<AccessLog>, telemetry: Option<&Telemetry>) -> Result<(), Fault> {
    let log = telemetry.and_then(|telemetry| telemetry.access_log.as_ref());
    let expected = log.map(|log| policy_logs(log, Dialect::Lorica, None)).unwrap_or_default();
    if found.len() != expected.len() {
        return Err(at.field("access_log").fault(format!("has {} logs, and the metadata says {}", found.len(), expected.len())));
    }
    for (index, (found, expected)) in found.into_iter().zip(expected).enumerate() {
        let at = at.index("access_log", index);
        let AccessLog { name, filter, config_type } = found;
        at.equal("name", &name, &expected.name)?;
        at.equal("filter", &filter, &expected.filter)?;
        let at = at.field("typed_config");
        let (Some(ConfigType::TypedConfig(found)), Some(ConfigType::TypedConfig(expected))) = (config_type, expected.config_type) else {
            return Err(at.fault("is missing".to_owned()));
        };
        if found == expected {
            continue;
        }
        // The same object may be written in another order.
        let is_same = found.type_url == StdoutAccessLog::type_url()
            && expected.type_url == found.type_url
            && unpack::<StdoutAccessLog>(&at, &found)? == unpack::<StdoutAccessLog>(&at, &expected)?;
        if !is_same {
            return Err(at.fault("is not what the metadata says".to_owned()));
        }
    }
    Ok(())
}

/// Takes what is told out of filters, and gives it beside them.
pub(super) fn taken(at: &At<'_>, filters: Vec<Filter>) -> Result<(Vec<Filter>, Told), Fault> {
    let mut told = Told::default();
    let mut left = Vec::with_capacity(filters.len());
    for (index, mut filter) in filters.into_iter().enumerate() {
        let at = at.index("filters", index);
        if let Some(filter::ConfigType::TypedConfig(config)) = &mut filter.config_type {
            *config = told.of(&at.field("typed_config"), config)?;
        }
        left.push(filter);
    }
    Ok((left, told))
}

/// What filters tell.
#[derive(Default)]
pub(super) struct Told {
    logs: Vec<AccessLog>,
    tracing: HttpConnectionManager,
}

impl Told {
    fn of(&mut self, at: &At<'_>, config: &Any) -> Result<Any, Fault> {
        if config.type_url == HttpConnectionManager::type_url() {
            let mut manager: HttpConnectionManager = unpack(at, config)?;
            self.logs.append(&mut manager.access_log);
            self.tracing.tracing = manager.tracing.take();
            return Ok(pack(&manager));
        }
        if config.type_url == TcpProxy::type_url() {
            let mut proxy: TcpProxy = unpack(at, config)?;
            self.logs.append(&mut proxy.access_log);
            return Ok(pack(&proxy));
        }
        Ok(config.clone())
    }

    /// Checks that it is what `telemetry` says. `http`: of a connection manager, which tells of traces, too.
    pub(super) fn check(self, at: &At<'_>, telemetry: Option<&Telemetry>, http: bool) -> Result<(), Fault> {
        logs(at, self.logs, telemetry)?;
        at.equal("tracing", &self.tracing.tracing, &tracing(telemetry).filter(|_| http))
    }
}
