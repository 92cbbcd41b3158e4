//! Workloads come and go: registered by their streams, let go of when these have been down for too long.
//!
//! In: what proxies say of themselves, and the time. Out: the registry's newest state, stored and published. It never opens
//! or reads a stream.

use std::collections::BTreeSet;
use std::time::{Instant, SystemTime};

use lorica_model::compile::{RegisteredGateway, RegisteredPort, RegisteredWorkload, VirtualAddresses};
use lorica_model::name::{ServiceName, WorkloadName};
use lorica_model::resource::Resource;
use lorica_model::snapshot::Transport;
use lorica_xds::NodeMetadata;

use super::{GRACE, Lost, Mesh, NotTaken, Proxy, Registered, State, address, workload_key};
use crate::store::{Expected, StoreError, Table, Write};

impl Mesh {
    /// A workload that is registered, with its stream up or not.
    #[must_use]
    pub fn registered(&self, name: &WorkloadName) -> Option<RegisteredWorkload> {
        self.state().registry.workloads.get(name).cloned()
    }

    /// Takes a workload in, or what is new about it. Waits for the disk.
    ///
    /// # Errors
    /// Where it contradicts what a user wrote, or cannot be stored.
    pub fn register(&self, name: &WorkloadName, node: &NodeMetadata) -> Result<Registered, NotTaken> {
        in_its_namespace(name, node)?;
        let writing = self.writing();
        if let Some(resource) = self.declared(node)? {
            self.change_in_order(&writing, vec![resource], &[])?;
        }
        let mut state = self.state();
        let known = state.addresses.known(&workload_key(name));
        let (addresses, remember) = state.addresses.take(&workload_key(name), SystemTime::now()).ok_or(NotTaken::NoAddress)?;
        let before = state.registry.workloads.get(name);
        let workload = RegisteredWorkload {
            service: node.service.clone(),
            account: node.account.clone(),
            version: node.version.clone(),
            weight: 1,
            transport: if node.streams { Transport::Lorica } else { Transport::MutualTls },
            locality: node.locality.clone(),
            addresses,
            ports: node.ports.iter().map(|port| registered(port, node)).collect(),
            gateway: node.gateway.clone().map(|name| RegisteredGateway {
                name,
                binds: node.gateway_binds.clone(),
                elsewhere: node.gateway_listen,
            }),
            draining: node.draining,
            withdrawn: before.is_some_and(|before| before.withdrawn) && node.draining,
        };
        let same = before == Some(&workload);
        let record =
            serde_json::to_vec(&workload).map_err(|error| StoreError::Failed { path: name.to_string(), error: error.to_string() })?;
        let mut writes =
            vec![Write { table: Table::Registrations, key: name.to_string(), value: Some(record), expected: Expected::Anything }];
        writes.extend(remember.map(|remember| address(&workload_key(name), &remember)));
        drop(state);
        let written = if same { Ok(None) } else { self.store.write(&writes).map(Some) };
        let mut state = self.state();
        match written {
            Ok(revision) => state.revision = revision.unwrap_or(state.revision),
            Err(error) => {
                state.addresses.restore(&workload_key(name), known);
                return Err(error.into());
            }
        }
        let proxy = state.proxies.entry(name.clone()).or_insert_with(Proxy::unseen);
        proxy.metrics = node.metrics;
        if proxy.session.is_none() {
            // Until its stream is there, it lives as one whose stream broke.
            state.lost.entry(name.clone()).or_insert_with(|| Lost { since: Instant::now() });
        }
        let publication = if same {
            state.latest()
        } else {
            state.workloads(|workloads| drop(workloads.insert(name.clone(), workload)));
            self.announce(&mut state)
        };
        drop(state);
        self.said.notify_waiters();
        Ok(Registered { addresses, publication })
    }

    /// Keeps virtual addresses for a workload that is about to register. Waits for the disk.
    ///
    /// # Errors
    /// Where there is none left, or it cannot be stored.
    pub fn reserve(&self, name: &WorkloadName, node: &NodeMetadata) -> Result<VirtualAddresses, NotTaken> {
        in_its_namespace(name, node)?;
        let _writing = self.writing();
        let mut state = self.state();
        let known = state.addresses.known(&workload_key(name));
        let (addresses, remember) = state.addresses.take(&workload_key(name), SystemTime::now()).ok_or(NotTaken::NoAddress)?;
        drop(state);
        let written = remember.map(|remember| self.store.write(&[address(&workload_key(name), &remember)])).transpose();
        let mut state = self.state();
        match written {
            Ok(revision) => state.revision = revision.unwrap_or(state.revision),
            Err(error) => {
                state.addresses.restore(&workload_key(name), known);
                return Err(error.into());
            }
        }
        if !state.registry.workloads.contains_key(name) {
            state.lost.entry(name.clone()).or_insert_with(|| Lost { since: Instant::now() });
        }
        Ok(addresses)
    }

    /// The Service that a workload declares: one where no resource does, or more ports of one that was declared so.
    fn declared(&self, node: &NodeMetadata) -> Result<Option<Resource>, NotTaken> {
        let Some(service) = &node.service else { return Ok(None) };
        let resources = self.state().resources.clone();
        crate::declare::declared(&resources, service, &node.ports).map_err(NotTaken::Contradicts)
    }

    /// Lets go of workloads whose streams have been down too long, or that said that they end. Waits for the disk.
    pub fn expire(&self, now: Instant) {
        let _writing = self.writing();
        let mut state = self.state();
        let today = SystemTime::now();
        state.certificates.retain(|_, not_after| *not_after > today);
        let workloads = &state.registry.workloads;
        let ends = |name: &WorkloadName| workloads.get(name).is_some_and(|workload| workload.draining);
        let over = state.lost.iter().filter(|(name, lost)| ends(name) || now.duration_since(lost.since) >= GRACE);
        let over: Vec<WorkloadName> = over.map(|(name, _)| name.clone()).collect();
        let (over, held): (Vec<_>, Vec<_>) = over.into_iter().partition(|name| !state.is_last_of_many(name));
        let held: BTreeSet<ServiceName> = held.iter().filter_map(|name| state.registry.workloads.get(name)?.service.clone()).collect();
        for service in held.difference(&state.held_back) {
            tracing::warn!(%service, "all endpoints were lost at once; the last ones known are kept until one comes back");
        }
        state.held_back = held;
        if over.is_empty() {
            return;
        }
        let known: Vec<_> = over.iter().map(|name| (workload_key(name), state.addresses.known(&workload_key(name)))).collect();
        let rested: Vec<_> =
            over.iter().filter_map(|name| Some((workload_key(name), state.addresses.give_back(&workload_key(name), today)?))).collect();
        let mut writes: Vec<Write> = over
            .iter()
            .map(|name| Write { table: Table::Registrations, key: name.to_string(), value: None, expected: Expected::Anything })
            .collect();
        writes.extend(rested.iter().map(|(key, taken)| address(key, taken)));
        drop(state);
        let written = self.store.write(&writes);
        let mut state = self.state();
        match written {
            Ok(revision) => state.revision = revision,
            Err(error) => {
                known.into_iter().for_each(|(key, before)| state.addresses.restore(&key, before));
                // They expire again at the next look; a stale endpoint is avoided by callers in the meantime.
                tracing::warn!(%error, "workloads that ended could not be removed from the store");
                return;
            }
        }
        let drained = over.iter().filter(|name| state.registry.workloads.get(*name).is_some_and(|workload| workload.draining));
        let drained: Vec<WorkloadName> = drained.cloned().collect();
        state.ended_in_order.extend(drained);
        for name in &over {
            // One whose stream came back meanwhile is told so by its stream's end: it connects and registers anew.
            let session = state.proxies.remove(name).and_then(|proxy| proxy.session);
            session.into_iter().for_each(|id| drop(state.sessions.remove(&id)));
            state.lost.remove(name);
        }
        state.workloads(|workloads| workloads.retain(|name, _| !over.contains(name)));
        self.announce(&mut state);
        drop(state);
        self.said.notify_waiters();
    }

    /// Every caller's proxy knows that a workload ends: it may stop answering.
    pub fn withdraw(&self, name: &WorkloadName) {
        let mut state = self.state();
        let draining = state.registry.workloads.get(name).is_some_and(|workload| workload.draining && !workload.withdrawn);
        if draining {
            state.workloads(|workloads| {
                if let Some(workload) = workloads.get_mut(name) {
                    workload.withdrawn = true;
                }
            });
            self.announce(&mut state);
        }
    }
}

impl State {
    /// Whether letting go of a workload would leave its service without an endpoint although it had several, all of them
    /// lost and none of them ended: a broken network or host looks so, and stale endpoints are better than none.
    fn is_last_of_many(&self, name: &WorkloadName) -> bool {
        let is_endpoint = |workload: &RegisteredWorkload| !workload.draining && workload.ports.iter().any(|port| port.listening);
        let Some(workload) = self.registry.workloads.get(name).filter(|workload| is_endpoint(workload)) else { return false };
        let Some(service) = &workload.service else { return false };
        let others: Vec<_> = self
            .registry
            .workloads
            .iter()
            .filter(|(other, known)| *other != name && known.service.as_ref() == Some(service) && is_endpoint(known))
            .collect();
        !others.is_empty() && others.iter().all(|(other, _)| self.lost.contains_key(*other))
    }
}

fn registered(port: &lorica_xds::NodePort, node: &NodeMetadata) -> RegisteredPort {
    RegisteredPort {
        service_port: port.service_port,
        app_port: port.app_port,
        protocol: port.protocol,
        address: port.address,
        listening: node.listening.contains(&port.app_port),
    }
}

/// A workload is in one namespace: its own, its service's, and the one that its identity is of.
fn in_its_namespace(name: &WorkloadName, node: &NodeMetadata) -> Result<(), NotTaken> {
    let service = node.service.as_ref().map(|service| &service.namespace);
    match [Some(&node.namespace), service].into_iter().flatten().find(|namespace| **namespace != name.namespace) {
        Some(other) => Err(NotTaken::Wrong(format!(
            "the workload {name} is in namespace {}, and says that it is in {other}; a workload and its service are in one namespace",
            name.namespace
        ))),
        None => Ok(()),
    }
}
