//! What holds for calls to a service: TrafficPolicies put together, each value with whoever said it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use lorica_api::{EffectivePort, EffectiveRule, EffectiveSetting, EffectiveTraffic};
use lorica_model::compile::{self, Effective, SaidBy};
use lorica_model::name::{Label, Namespace, ServiceName, ServicePort};
use lorica_model::resource::{Kind, nearest};

use super::Failure;
use super::request::Path;
use crate::ControlPlane;

pub(super) async fn effective(
    State(control): State<Arc<ControlPlane>>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<EffectiveTraffic>, Failure> {
    let bad = |error: lorica_model::name::NameError| Failure::new(StatusCode::BAD_REQUEST, error.to_string(), None);
    let service = ServiceName::new(Namespace::new(&namespace).map_err(bad)?, Label::new(&name).map_err(bad)?);
    let published = control.mesh.seen().published;
    let world = published.world();
    if world.resources.service(&service).is_none() {
        let known = world.resources.services().filter(|(metadata, _)| metadata.namespace == service.namespace);
        let near = nearest(service.name.as_str(), known.map(|(metadata, _)| metadata.name.as_str()));
        let hint = near.map_or_else(|| "`lorica get services -A` lists what there is".to_owned(), |near| format!("did you mean `{near}`?"));
        return Err(Failure::new(StatusCode::NOT_FOUND, format!("there is no service `{service}`"), Some(&hint)));
    }
    let ports = compile::outbound_ports(&world).filter(|port| port.service == service).filter_map(|port| of_port(&world, &port));
    Ok(Json(EffectiveTraffic { service: service.to_string(), ports: ports.collect() }))
}

fn of_port(world: &compile::World<'_>, port: &ServicePort) -> Option<EffectivePort> {
    let (settings, rules) = compile::effective(world, port)?;
    let rule = |rule: compile::EffectiveRule| {
        let route = format!("{} {}.{}", rule.kind, rule.name, rule.namespace);
        let settings = rule.settings.into_iter().map(|one| setting(one, &route)).collect();
        EffectiveRule { rule: rule.rule.unwrap_or_else(|| format!("#{}", rule.index)), settings, route }
    };
    let settings = settings.into_iter().map(|one| setting(one, "")).collect();
    Some(EffectivePort { port: port.port, settings, rules: rules.into_iter().map(rule).collect() })
}

fn setting(Effective { setting, value, by }: Effective, route: &str) -> EffectiveSetting {
    let from = match by {
        SaidBy::Default => "default".to_owned(),
        SaidBy::Rule => route.to_owned(),
        SaidBy::Policy(namespace, name) => format!("{} {name}.{namespace}", Kind::TrafficPolicy),
    };
    EffectiveSetting { setting: setting.to_owned(), value, from }
}
