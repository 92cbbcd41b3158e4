//! The rotation of the root, carried on: what is seen of the proxies goes into the state machine; what it says is stored, then published.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use lorica_api::{CaStatus, HeldUp, RootStatus, SvidList, SvidStatus};
use lorica_identity::Authority;
use lorica_identity::intermediate::OwnCa;
use lorica_identity::root_rotation::{Observed, Phase, RootRotation};

use super::{Ca, CaError, Held, ROTATION, RotationRecord, authority_record};
use crate::mesh::trust::Trusting;
use crate::store::{Expected, Table, Write};
use crate::timestamp;

/// What is known at one moment.
struct Seen {
    connected: Vec<Trusting>,
    observed: Observed,
    /// All that the phase waits or waited for.
    concerned: BTreeSet<String>,
}

impl Ca {
    /// Begins to rotate to a root of the user's, or to one made here.
    ///
    /// # Errors
    /// When a rotation is under way, or the new root is not as it should be.
    pub fn rotate(&self, own: Option<&OwnCa>, now: SystemTime) -> Result<(), CaError> {
        let _changing = self.changing();
        let held = self.held();
        if held.under_way().is_some() {
            return Err(CaError::Refused(
                "a rotation is under way\nhint: `lorica ca status` shows how far it is, `lorica ca rotate --rollback` turns it back"
                    .to_owned(),
            ));
        }
        let trust_domain = self.trust_domain();
        let new = match own {
            Some(own) => Authority::own(&trust_domain, own, now)?,
            None => Authority::create(trust_domain, now)?,
        };
        if new.root_id() == held.issuing.root_id() {
            return Err(CaError::Refused("that root is this mesh's already\nhint: `lorica ca status` shows the roots".to_owned()));
        }
        let rotation = RootRotation::begin(held.issuing.root_id(), new.root_id(), now);
        self.take(rotation, Some(Arc::new(new)), now)?;
        self.begun.notify_one();
        Ok(())
    }

    /// Turns a rotation back.
    ///
    /// # Errors
    /// When none is under way, or the store refuses.
    pub fn roll_back(&self, now: SystemTime) -> Result<(), CaError> {
        let _changing = self.changing();
        let held = self.held();
        let rotation = held.rotation.clone().ok_or_else(none)?;
        let back = rotation.roll_back(now).map_err(|error| CaError::Refused(error.to_string()))?;
        self.take(back, held.other, now)
    }

    /// Does not wait for a workload or host any more.
    ///
    /// # Errors
    /// When no rotation is under way, or it does not wait for that one.
    pub fn waive(&self, name: &str, now: SystemTime) -> Result<(), CaError> {
        let _changing = self.changing();
        let held = self.held();
        let rotation = held.under_way().ok_or_else(none)?;
        let waiting = rotation.held_up_by(&self.seen(&held, rotation, now).observed);
        if !waiting.contains(name) {
            let list = waiting.iter().take(20).cloned().collect::<Vec<_>>().join(", ");
            let hint = if list.is_empty() { "nobody holds it up".to_owned() } else { format!("it waits for {list}") };
            return Err(CaError::Refused(format!("the rotation does not wait for {name}\nhint: {hint}")));
        }
        self.take(rotation.waiving(name), held.other, now)
    }

    /// Carries a rotation on as far as it goes at `now`.
    pub(super) fn advance(&self, now: SystemTime) -> Result<(), CaError> {
        let _changing = self.changing();
        loop {
            let held = self.held();
            let Some(rotation) = held.under_way() else { return Ok(()) };
            let seen = self.seen(&held, rotation, now);
            // Other meshes have to have fetched the new root, too.
            let early = self.distributes_until(rotation).is_some_and(|until| now < until);
            // Who goes away later has the roots nevertheless.
            let newly = seen.connected.iter().filter(|proxy| proxy.acknowledged).map(|proxy| proxy.name.clone());
            self.held.write().unwrap_or_else(PoisonError::into_inner).acknowledged.extend(newly);
            let next = if early { None } else { rotation.step(&seen.observed, self.lifetime, now) };
            let Some(next) = next else { return Ok(()) };
            let held = self.held();
            self.take(next, held.other, now)?;
        }
    }

    /// Until when the new root is only told; none: that depends on nobody but the mesh's own proxies.
    fn distributes_until(&self, rotation: &RootRotation) -> Option<SystemTime> {
        (rotation.phase == Phase::Distributing && !self.ahead.is_zero()).then(|| rotation.since + self.ahead)
    }

    fn seen(&self, held: &Held, rotation: &RootRotation, now: SystemTime) -> Seen {
        let connected = self.mesh.trusting();
        let svids = self.svids();
        let holding: Vec<_> = svids.holding(now).collect();
        let from_old = holding.iter().filter(|(_, svid)| svid.root == rotation.old).map(|(name, _)| (*name).clone()).collect();
        let names: BTreeSet<&String> = connected.iter().map(|proxy| &proxy.name).collect();
        // Who is away and may come back with a certificate of the old root has to know the new one as well.
        let away = holding.iter().map(|(name, _)| *name).filter(|name| !names.contains(name) && !held.acknowledged.contains(*name));
        let unacknowledged =
            connected.iter().filter(|proxy| !proxy.acknowledged).map(|proxy| proxy.name.clone()).chain(away.cloned()).collect();
        let all = holding.iter().map(|(name, _)| (*name).clone());
        let concerned = match rotation.phase {
            Phase::Distributing => all.chain(connected.iter().map(|proxy| proxy.name.clone())).collect(),
            Phase::Issuing | Phase::Withdrawing => all.collect(),
            Phase::Done => BTreeSet::new(),
        };
        drop(svids);
        Seen { observed: Observed { unacknowledged, from_old }, concerned, connected }
    }

    /// Stores where the rotation is now, lets the right authority sign, and publishes whom to trust.
    fn take(&self, rotation: RootRotation, other: Option<Arc<Authority>>, now: SystemTime) -> Result<(), CaError> {
        let held = self.held();
        let signs = if rotation.phase == Phase::Distributing { &rotation.old } else { &rotation.new };
        let (issuing, other) = match other {
            Some(other) if other.root_id() == *signs => (other, Some(held.issuing.clone())),
            other => (held.issuing.clone(), other),
        };
        let other = other.filter(|_| rotation.phase != Phase::Done);
        let record = RotationRecord { rotation: rotation.clone(), other: other.as_ref().map(|other| other.to_record()) };
        let value = serde_json::to_vec(&record).map_err(|error| CaError::Broken(error.to_string()))?;
        let rotation_record = Write { table: Table::Mesh, key: ROTATION.to_owned(), value: Some(value), expected: Expected::Anything };
        let changed = held.rotation.as_ref().map(|before| (before.phase, &before.new)) != Some((rotation.phase, &rotation.new));
        if changed {
            let waived: Vec<_> = rotation.waived.iter().cloned().collect();
            tracing::info!(
                phase = rotation.phase.word(),
                to = rotation.new,
                rolled_back = rotation.rolled_back,
                ?waived,
                "the rotation of the root goes on"
            );
        }
        // The right to sign changes while nobody signs, and only once it is stored.
        let mut held_now = self.held.write().unwrap_or_else(PoisonError::into_inner);
        self.store.write(&[rotation_record, authority_record(&issuing)?])?;
        held_now.issuing = issuing;
        held_now.other = other;
        held_now.rotation = Some(rotation);
        let roots = held_now.roots();
        if *self.mesh.trusted().roots != roots {
            held_now.acknowledged.clear();
        }
        drop(held_now);
        self.publish(now).map(drop)
    }

    /// The newest certificate of each workload.
    #[must_use]
    pub fn svid_list(&self, now: SystemTime) -> SvidList {
        let svids = self.svids();
        let one = |(workload, svid): (&String, &super::IssuedSvid)| SvidStatus {
            workload: workload.clone(),
            identity: svid.identity.to_string(),
            not_before: timestamp(svid.not_before),
            not_after: timestamp(svid.not_after),
        };
        SvidList { svids: svids.holding(now).map(one).collect() }
    }

    /// How the CA stands.
    #[must_use]
    pub fn status(&self, now: SystemTime) -> CaStatus {
        let held = self.held();
        let issuing = &held.issuing;
        let root = |authority: &Authority, issuing: bool| RootStatus {
            id: authority.root_id(),
            name: authority.root_name(),
            certificate: authority.to_record().root_certificate_pem,
            issuing,
            not_after: timestamp(authority.root_end()),
            key_here: authority.has_root_key(),
        };
        let roots = std::iter::once(root(issuing, true)).chain(held.other.iter().map(|other| root(other, false))).collect();
        let (begin, end) = issuing.intermediate_validity();
        let mut status = CaStatus {
            trust_domain: issuing.trust_domain().to_string(),
            roots,
            intermediate_not_before: timestamp(begin),
            intermediate_not_after: timestamp(end),
            svid_lifetime_seconds: self.lifetime.as_secs(),
            phase: held.rotation.as_ref().map(|rotation| rotation.phase.word().to_owned()),
            since: held.rotation.as_ref().map(|rotation| timestamp(rotation.since)),
            rolled_back: held.rotation.as_ref().is_some_and(|rotation| rotation.rolled_back),
            revocations: self.revocations(now),
            ..CaStatus::default()
        };
        let Some(rotation) = held.under_way() else { return status };
        let seen = self.seen(&held, rotation, now);
        let waiting = rotation.held_up_by(&seen.observed);
        status.concerned = seen.concerned.difference(&rotation.waived).count();
        status.acknowledged = status.concerned.saturating_sub(waiting.len());
        status.waived = rotation.waived.iter().cloned().collect();
        status.distributes_until = self.distributes_until(rotation).filter(|until| *until > now).map(timestamp);
        status.withdraws_at = rotation.withdraws_at(self.lifetime).map(timestamp);
        let svids = self.svids();
        let connected: BTreeSet<&String> = seen.connected.iter().map(|proxy| &proxy.name).collect();
        let ends: std::collections::BTreeMap<&String, String> =
            svids.holding(now).map(|(name, svid)| (name, timestamp(svid.not_after))).collect();
        let held_up = waiting.into_iter().map(|workload| HeldUp {
            connected: connected.contains(&workload),
            svid_not_after: ends.get(&workload).cloned(),
            workload,
        });
        status.held_up_by = held_up.collect();
        status
    }
}

fn none() -> CaError {
    CaError::Refused("no rotation is under way\nhint: `lorica ca rotate` begins one".to_owned())
}
