//! What may leave the mesh. The rules stand in the metadata; the chains beside them, which say the same to Envoy, must be theirs.

use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::google::protobuf::Any;
use lorica_model::name::{Label, Namespace};
use lorica_model::snapshot::{EgressRule, EgressUnit};

use super::{At, Fault, Rejected, facts, open};
use crate::Kind;
use crate::encode::{Context, egress_listener, gateway_chain};
use crate::node::{Dialect, NodeMetadata};

/// Reads the listener that says what the app beside a workload's proxy may call.
///
/// # Errors
/// Names the first field that is not understood.
pub fn egress(name: &str, body: &Any) -> Result<EgressUnit, Rejected> {
    open(Kind::Listener, name, body, |at, listener: Listener| {
        let unit: EgressUnit = facts(at, listener.metadata.clone())?;
        at.equal("name", &listener.name.as_str(), &name)?;
        let expected = egress_listener(&unit);
        at.equal("filter_chains", &listener.filter_chains, &expected.filter_chains)?;
        at.equal("default_filter_chain", &listener.default_filter_chain, &expected.default_filter_chain)?;
        if listener == expected { Ok(unit) } else { Err(at.fault("has fields that are not understood by this proxy".to_owned())) }
    })
}

/// The chain of an egress gateway's listener must be that of its rules.
pub(super) fn gateway(at: &At<'_>, name: &str, rules: &[EgressRule], chains: &Vec<FilterChain>) -> Result<(), Fault> {
    // In the dialect of Lorica's proxy nothing depends on the node.
    let unnamed = |error: lorica_model::name::NameError| at.fault(error.to_string());
    let node = NodeMetadata::client(Namespace::default(), Label::new("gateway").map_err(unnamed)?);
    at.equal("filter_chains", chains, &vec![gateway_chain(name, rules, None, Dialect::Lorica, Context::of(&node))])
}
