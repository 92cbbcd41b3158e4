//! Faults as Envoy's fault filter has them, and so gRPC's. A filter makes one fault, so there are several, each off until a route says what it
//! is to do. What Envoy has no word for it is not told: resets, and the end, at which the control plane takes the fault away.

use std::borrow::Cow;
use std::collections::HashMap;

use envoy_types::pb::envoy::config::route::v3::FilterConfig;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{
    FaultDelay, FaultRateLimit, fault_delay::FaultDelaySecifier, fault_rate_limit,
};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault, fault_abort::ErrorType};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{HttpFilter, http_filter};
use envoy_types::pb::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use envoy_types::pb::google::protobuf::Any;
use lorica_model::name::ServicePort;
use lorica_model::snapshot::{AbortAnswer, Action, Backend, Fault, Hosts, HttpRule, OutboundUnit, RuleTable, Share, VirtualHost};

use super::{duration, route};
use crate::node::{Dialect, NodeMetadata};
use crate::resource::pack;

/// The filters' names. A rule's faults beyond these are for Lorica's proxy alone.
const FILTERS: [&str; 4] =
    ["envoy.filters.http.fault", "envoy.filters.http.fault.2", "envoy.filters.http.fault.3", "envoy.filters.http.fault.4"];

/// The filters, which do nothing but where a route says what.
pub(super) fn filters(dialect: Dialect) -> Vec<HttpFilter> {
    let one = |name: &str| HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(pack(&HttpFault::default()))),
        disabled: true,
        // Clients of gRPC that have none go on without.
        is_optional: dialect == Dialect::Grpc,
    };
    FILTERS.into_iter().map(one).collect()
}

/// What `faults` say to the filters of a rule (`to` none), or of that of its shares which goes to a service port.
pub(crate) fn per_filter(faults: &[Fault], to: Option<&ServicePort>) -> HashMap<String, Any> {
    // What is tried does nothing, and has no filter.
    let met = faults.iter().filter(|fault| !fault.shadow);
    let slots = FILTERS.into_iter().zip(met).filter(|(_, fault)| fault.to.as_ref() == to);
    let config = |fault: &Fault| Some(FilterConfig { config: Some(pack(&made(fault)?)), is_optional: true, ..FilterConfig::default() });
    slots.filter_map(|(name, fault)| Some((name.to_owned(), pack(&config(fault)?)))).collect()
}

/// The same for a backend.
pub(crate) fn per_backend(faults: &[Fault], backend: &Backend) -> HashMap<String, Any> {
    match backend {
        Backend::Port(port) => per_filter(faults, Some(port)),
        Backend::Missing { .. } => HashMap::new(),
    }
}

fn made(fault: &Fault) -> Option<HttpFault> {
    let delay = fault.delay.map(|delay| FaultDelay {
        percentage: percentage(delay.share),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(delay.time.mean()))),
    });
    let abort = fault.abort.map(|abort| FaultAbort {
        percentage: percentage(abort.share),
        error_type: Some(match abort.answer {
            AbortAnswer::Http(status) => ErrorType::HttpStatus(status.into()),
            AbortAnswer::Grpc(code) => ErrorType::GrpcStatus(code),
        }),
        ..FaultAbort::default()
    });
    let response_rate_limit = fault.bandwidth.map(|bandwidth| FaultRateLimit {
        percentage: percentage(bandwidth.share),
        limit_type: Some(fault_rate_limit::LimitType::FixedLimit(fault_rate_limit::FixedLimit {
            limit_kbps: bandwidth.bytes_per_second.div_ceil(1024).max(1),
        })),
    });
    if delay.is_none() && abort.is_none() && response_rate_limit.is_none() {
        return None;
    }
    Some(HttpFault {
        delay,
        abort,
        response_rate_limit,
        headers: fault.headers.iter().map(route::field).collect(),
        // Else every caller's name would make counters of its own.
        disable_downstream_cluster_stats: true,
        ..HttpFault::default()
    })
}

fn percentage(share: Share) -> Option<FractionalPercent> {
    Some(FractionalPercent { numerator: share.0, denominator: DenominatorType::Million.into() })
}

/// The unit with those faults alone that calls of this client meet. Lorica's proxy settles that by itself.
pub(super) fn unit<'u>(unit: &'u OutboundUnit, dialect: Dialect, node: &NodeMetadata) -> Cow<'u, OutboundUnit> {
    if dialect == Dialect::Lorica || (unit.faults.is_empty() && !unit.rules.iter().any(|rule| has_faults(rule))) {
        return Cow::Borrowed(unit);
    }
    Cow::Owned(OutboundUnit { rules: rules(&unit.rules, node), faults: Vec::new(), ..unit.clone() })
}

/// The same of the rules of a gateway.
pub(super) fn hosts<'h>(hosts: &'h Hosts, dialect: Dialect, node: &NodeMetadata) -> Cow<'h, Hosts> {
    if dialect == Dialect::Lorica || !hosts.all().iter().flat_map(|host| host.rules.iter()).any(|rule| has_faults(rule)) {
        return Cow::Borrowed(hosts);
    }
    let own = hosts.all().iter().map(|host| VirtualHost { host: host.host.clone(), rules: rules(&host.rules, node) });
    Cow::Owned(Hosts::new(own.collect()))
}

fn has_faults(rule: &HttpRule) -> bool {
    rule.forward().is_some_and(|forward| !forward.faults.is_empty())
}

fn rules(rules: &RuleTable, node: &NodeMetadata) -> RuleTable {
    let own = rules.iter().map(|rule| {
        let mut rule = HttpRule::clone(rule);
        if let Action::Forward(forward) = &mut rule.action {
            forward.faults.retain(|fault| !fault.shadow && fault.concerns(&node.namespace, &node.account));
        }
        rule
    });
    own.collect::<Vec<_>>().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use envoy_types::pb::envoy::config::route::v3::{RouteConfiguration, route::Action as RouteAction, route_action::ClusterSpecifier};
    use lorica_model::snapshot::{Abort, Bandwidth, Delay, DelayTime, EgressCaller, Origin};
    use prost::Message;

    use super::*;
    use crate::encode::{self, Context};
    use crate::{Kind, samples};

    fn fault(name: &str) -> Fault {
        let origin = Origin { kind: String::new(), namespace: String::new(), name: name.to_owned(), generation: 1, rule: 0, matched: 0 };
        let (headers, callers) = (Vec::new(), Vec::new());
        let abort = Some(Abort { share: Share(200_000), answer: AbortAnswer::Http(503) });
        let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        Fault {
            origin: Arc::new(origin),
            ends,
            to: None,
            headers,
            callers,
            delay: None,
            reset: None,
            abort,
            bandwidth: None,
            shadow: false,
        }
    }

    fn config(any: &Any) -> HttpFault {
        let config = FilterConfig::decode(any.value.as_slice()).unwrap();
        HttpFault::decode(config.config.unwrap().value.as_slice()).unwrap()
    }

    /// What the first route and each of its clusters are told, by filter.
    fn told(faults: Vec<Fault>) -> Vec<HashMap<String, HttpFault>> {
        let mut unit = samples::unit("recording.contact.mesh:80", &["a.contact.mesh:80", "b.contact.mesh:80"]);
        samples::change(&mut unit, |rule| samples::forward(rule).faults = faults);
        let resources = encode::outbound(&unit, Dialect::Envoy, Context::of(&samples::metadata()));
        let body = &resources.iter().find(|resource| resource.kind == Kind::Route).unwrap().body;
        let mut routes = RouteConfiguration::decode(body.value.as_slice()).unwrap();
        let route = routes.virtual_hosts.remove(0).routes.remove(0);
        let read = |configs: HashMap<String, Any>| configs.iter().map(|(name, any)| (name.clone(), config(any))).collect();
        let mut told = vec![read(route.typed_per_filter_config)];
        let Some(RouteAction::Route(action)) = route.action else { panic!("{:?}", route.action) };
        if let Some(ClusterSpecifier::WeightedClusters(weighted)) = action.cluster_specifier {
            told.extend(weighted.clusters.into_iter().map(|cluster| read(cluster.typed_per_filter_config)));
        }
        told
    }

    #[test]
    fn each_fault_has_a_filter_where_it_is_met() {
        let to = |name: &str| Some(samples::port(name));
        let faults = vec![fault("one"), Fault { to: to("b.contact.mesh:80"), ..fault("two") }];
        let told: Vec<Vec<String>> = told(faults).into_iter().map(|configs| configs.into_keys().collect()).collect();
        assert_eq!(told, [vec![FILTERS[0].to_owned()], vec![], vec![FILTERS[1].to_owned()]]);
        let many = (0..6).map(|_| fault("many")).collect();
        assert_eq!(self::told(many)[0].len(), FILTERS.len());
    }

    #[test]
    fn only_callers_that_meet_a_fault_are_told_of_it() {
        let caller = |account: &str| vec![EgressCaller { namespace: None, account: Some(account.parse().unwrap()) }];
        let count = |callers| told(vec![Fault { callers, ..fault("one") }])[0].len();
        // As `samples::metadata` says of itself.
        assert_eq!((count(caller("caller")), count(caller("other")), count(Vec::new())), (1, 0, 1));
    }

    #[test]
    fn envoys_words_say_what_they_can() {
        let time = DelayTime::Uniform { from: Duration::from_millis(100), to: Duration::from_millis(300) };
        let made = made(&Fault {
            delay: Some(Delay { share: Share(1), time }),
            bandwidth: Some(Bandwidth { share: Share::ALL, bytes_per_second: 1025 }),
            ..fault("one")
        });
        let made = made.unwrap();
        assert_eq!(made.delay.unwrap().fault_delay_secifier, Some(FaultDelaySecifier::FixedDelay(duration(Duration::from_millis(200)))));
        assert_eq!(made.abort.unwrap().percentage, percentage(Share(200_000)));
        let limit = made.response_rate_limit.unwrap().limit_type;
        assert_eq!(limit, Some(fault_rate_limit::LimitType::FixedLimit(fault_rate_limit::FixedLimit { limit_kbps: 2 })));
        assert_eq!(self::made(&Fault { abort: None, reset: Some(Share::ALL), ..fault("one") }), None);
    }
}
