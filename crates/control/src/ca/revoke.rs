//! Revocation: who gets no certificate any more, and whose certificates are refused. What is decided is stored, then published.
//!
//! The CA refuses until the revocation is taken back. Proxies hold it until the last certificate that it concerns has ended.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::PoisonError;
use std::time::SystemTime;

use lorica_api::RevocationStatus;
use lorica_model::name::WorkloadName;
use lorica_model::snapshot::{Revoked, TrustBundle};
use lorica_model::spiffe::SpiffeId;
use serde::{Deserialize, Serialize};

use super::issued::{self, IssuedBook};
use super::{Ca, CaError, Held};
use crate::store::{Expected, Table, Write};
use crate::timestamp;

/// The most that are revoked at a time: the list travels to every proxy.
const MOST: usize = 2000;
/// The longest reason, in characters.
const LONGEST_REASON: usize = 200;

/// Who is revoked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Whoever has this identity.
    Identity(SpiffeId),
    /// This workload.
    Workload(WorkloadName),
}

impl FromStr for Subject {
    type Err = CaError;

    fn from_str(text: &str) -> Result<Self, CaError> {
        let wrong = |error: &dyn fmt::Display| {
            CaError::Refused(format!(
                "`{text}` is neither a workload nor an identity: {error}\nhint: write NAME.NAMESPACE as `lorica status` shows it, or spiffe://…"
            ))
        };
        if text.starts_with("spiffe://") {
            text.parse().map(Self::Identity).map_err(|error| wrong(&error))
        } else {
            text.parse().map(Self::Workload).map_err(|error| wrong(&error))
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(id) => id.fmt(f),
            Self::Workload(name) => name.fmt(f),
        }
    }
}

/// A revocation as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Revocation {
    subject: Subject,
    reason: String,
    at: SystemTime,
    /// When the last certificate that it concerns has ended; none: it is not known, as another mesh signs them.
    until: Option<SystemTime>,
}

/// Those that are revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Revocations(BTreeMap<Subject, Revocation>);

impl Revocations {
    /// Reads them back from the store's records.
    pub(super) fn read(records: Vec<(String, Vec<u8>)>) -> Result<Self, serde_json::Error> {
        let one = |(_, record): (String, Vec<u8>)| {
            serde_json::from_slice::<Revocation>(&record).map(|revocation| (revocation.subject.clone(), revocation))
        };
        records.into_iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// What proxies are to hold at `now`: what concerns a certificate that may hold.
    pub(super) fn held(&self, now: SystemTime) -> Revoked {
        let mut revoked = Revoked::default();
        for revocation in self.0.values().filter(|revocation| revocation.until.is_none_or(|until| until > now)) {
            match &revocation.subject {
                Subject::Identity(id) => drop(revoked.identities.insert(id.clone())),
                Subject::Workload(name) => drop(revoked.workloads.insert(name.clone())),
            }
        }
        revoked
    }

    /// Whether it gets no certificate, whatever became of those that it had.
    pub(super) fn refuse(&self, identity: &SpiffeId, workload: Option<&WorkloadName>) -> bool {
        self.0.contains_key(&Subject::Identity(identity.clone()))
            || workload.is_some_and(|workload| self.0.contains_key(&Subject::Workload(workload.clone())))
    }
}

impl Ca {
    /// Revokes. The number of the publication that tells the proxies.
    ///
    /// # Errors
    /// When it is revoked already, or too many are; when the store refuses.
    pub fn revoke(&self, subject: Subject, reason: &str, now: SystemTime) -> Result<u64, CaError> {
        let _changing = self.changing();
        let mut revocations = (*self.held().revocations).clone();
        if revocations.0.contains_key(&subject) {
            return Err(CaError::Refused(format!("{subject} is revoked already\nhint: `lorica ca revocations` lists who is")));
        }
        if revocations.0.len() >= MOST {
            return Err(CaError::Refused(format!(
                "{MOST} are revoked already\nhint: `lorica ca reinstate` takes back those that are gone for good"
            )));
        }
        if reason.chars().count() > LONGEST_REASON {
            return Err(CaError::Refused(format!("the reason is longer than {LONGEST_REASON} characters")));
        }
        // Nobody is signed for while the list changes: what was signed before is in the books, what is asked for afterwards is refused.
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        let revocation = Revocation { until: self.last_end(&subject, now), subject: subject.clone(), reason: reason.to_owned(), at: now };
        let value = serde_json::to_vec(&revocation).map_err(|error| CaError::Broken(error.to_string()))?;
        self.store.write(&[record(&subject, Some(value))])?;
        tracing::warn!(%subject, reason, "revoked");
        revocations.0.insert(subject, revocation);
        held.revocations = revocations.into();
        drop(held);
        self.publish(now)
    }

    /// Takes a revocation back. The number of the publication that tells the proxies; none: they do not hold it any more.
    ///
    /// # Errors
    /// When it is not revoked, or the store refuses.
    pub fn reinstate(&self, subject: &Subject, now: SystemTime) -> Result<Option<u64>, CaError> {
        let _changing = self.changing();
        let mut revocations = (*self.held().revocations).clone();
        if revocations.0.remove(subject).is_none() {
            return Err(CaError::Refused(format!("{subject} is not revoked\nhint: `lorica ca revocations` lists who is")));
        }
        self.store.write(&[record(subject, None)])?;
        tracing::warn!(%subject, "reinstated");
        self.held.write().unwrap_or_else(PoisonError::into_inner).revocations = revocations.into();
        self.publish_changed(now)
    }

    /// When the last certificate of `subject` ends.
    fn last_end(&self, subject: &Subject, now: SystemTime) -> Option<SystemTime> {
        let mut revoked = Revoked::default();
        match subject {
            Subject::Identity(id) if *id.trust_domain() != self.mesh.trusted().trust_domain => return None,
            Subject::Identity(id) => drop(revoked.identities.insert(id.clone())),
            Subject::Workload(name) => drop(revoked.workloads.insert(name.clone())),
        }
        let issued = self.issued();
        let last = issued.of(&revoked).map(|(_, issued)| issued.not_after).max();
        // The books may have lost one that was signed a moment before a crash, and it may have begun a moment ago.
        Some(last.unwrap_or(now).max(now + self.lifetime))
    }

    /// Publishes whom the mesh trusts and who is revoked all the same; the number of the publication.
    pub(super) fn publish(&self, now: SystemTime) -> Result<u64, CaError> {
        let own = bundle(&self.held(), &self.issued(), now)?;
        let federated = self.mesh.trusted().federated.clone();
        Ok(self.mesh.trust(TrustBundle { federated, ..own }))
    }

    /// Publishes if proxies hold another list than they are to: also once a revocation concerns no certificate any more.
    fn publish_changed(&self, now: SystemTime) -> Result<Option<u64>, CaError> {
        if self.mesh.trusted().revoked == self.held().revocations.held(now) { Ok(None) } else { self.publish(now).map(Some) }
    }

    /// Takes back from proxies what concerns no certificate any more.
    pub(super) fn forget_revocations(&self, now: SystemTime) -> Result<(), CaError> {
        let _changing = self.changing();
        self.publish_changed(now).map(drop)
    }

    /// Whether who asks gets no certificate.
    #[must_use]
    pub fn is_revoked(&self, identity: &SpiffeId, workload: Option<&WorkloadName>) -> bool {
        self.held().revocations.refuse(identity, workload)
    }

    /// Who is revoked, the latest first.
    pub(super) fn revocations(&self, now: SystemTime) -> Vec<RevocationStatus> {
        let held = self.held();
        let mut all: Vec<_> = held.revocations.0.values().collect();
        all.sort_by_key(|revocation| std::cmp::Reverse(revocation.at));
        let one = |revocation: &Revocation| RevocationStatus {
            subject: revocation.subject.to_string(),
            reason: revocation.reason.clone(),
            at: timestamp(revocation.at),
            held_by_proxies: revocation.until.is_none_or(|until| until > now),
            until: revocation.until.map(timestamp),
        };
        all.into_iter().map(one).collect()
    }
}

fn record(subject: &Subject, value: Option<Vec<u8>>) -> Write {
    Write { table: Table::Revocations, key: subject.to_string(), value, expected: Expected::Anything }
}

/// Whom the mesh trusts, and who is revoked all the same.
pub(super) fn bundle(held: &Held, issued: &IssuedBook, now: SystemTime) -> Result<TrustBundle, CaError> {
    let revoked = held.revocations.held(now);
    let revocation_lists = if revoked.is_empty() { Vec::new() } else { revocation_lists(held, issued, &revoked, now)? };
    Ok(TrustBundle { revoked, revocation_lists, ..TrustBundle::new(held.issuing.trust_domain().clone(), held.roots()) })
}

/// What stock Envoys are told; nothing where an authority has no list, as they refuse every chain without.
fn revocation_lists(held: &Held, issued: &IssuedBook, revoked: &Revoked, now: SystemTime) -> Result<Vec<Vec<u8>>, CaError> {
    let mut serials: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for (serial, svid) in issued.of(revoked) {
        let serial = issued::bytes(serial).ok_or_else(|| CaError::Broken(format!("`{serial}` is no serial number")))?;
        serials.entry(svid.issuer.clone()).or_default().push(serial);
    }
    let mut all = Vec::new();
    for authority in std::iter::once(&held.issuing).chain(&held.other) {
        match authority.revocation_lists(&serials, now)? {
            Some(lists) => all.extend(lists),
            None => {
                tracing::warn!(root = authority.root_name(), "an authority has no list of revocations: stock Envoys are told of none");
                return Ok(Vec::new());
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;

    #[test]
    fn proxies_hold_it_until_its_last_certificate_has_ended_and_the_ca_refuses_until_it_is_taken_back() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let mut revocations = Revocations::default();
        for (subject, until) in [("web-1.shop", Some(at(10))), ("spiffe://other.example/ns/a/sa/b", None)] {
            let subject: Subject = subject.parse().unwrap();
            let revocation = Revocation { subject: subject.clone(), reason: String::new(), at: at(0), until };
            revocations.0.insert(subject, revocation);
        }
        assert_eq!(revocations.held(at(9)).len(), 2);
        let later = revocations.held(at(10));
        assert!(later.workloads.is_empty() && later.identities.len() == 1);
        let identity: SpiffeId = "spiffe://mesh.local/ns/shop/sa/web".parse().unwrap();
        assert!(revocations.refuse(&identity, Some(&"web-1.shop".parse().unwrap())));
        assert!(!revocations.refuse(&identity, Some(&"web-2.shop".parse().unwrap())) && !revocations.refuse(&identity, None));
        let record = |revocation: &Revocation| (revocation.subject.to_string(), serde_json::to_vec(revocation).unwrap());
        assert_eq!(Revocations::read(revocations.0.values().map(record).collect()).unwrap(), revocations);
    }

    #[test]
    fn what_is_neither_is_told_what_to_write() {
        for text in ["we b", "spiffe://", ""] {
            let error = text.parse::<Subject>().unwrap_err().to_string();
            assert!(error.contains("is neither a workload nor an identity") && error.contains("hint: "), "{error}");
        }
    }
}
