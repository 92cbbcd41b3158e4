//! Join tokens: made, shown, used up, revoked.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime};

use lorica_identity::host_api::Admitted;
use lorica_identity::join_token::{JoinToken, RootPin, Secret};
use lorica_model::name::{Label, ServiceName};
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use super::{HostRecord, Hosts, host_key, seconds, unavailable, write};
use crate::store::{Expected, StoreError, Table, Write};
use crate::workload_api::own_host;

/// The longest that a token holds.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long a token that was used, or is over, is remembered: who shows it then is told what it is.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most tokens that are remembered at once.
const MAX_TOKENS: usize = 10_000;

/// A token as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The host that it is for.
    pub host: Label,
    /// The services that the host may claim; none: any.
    pub services: Vec<ServiceName>,
    /// The digest of its secret.
    pub digest: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// When it is over.
    pub expires: u64,
    /// When it was used.
    pub used: Option<u64>,
}

/// Why no token is made or taken back.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The name is the control plane's own.
    #[error("`{0}` is the name of the control plane's own host, which needs no token")]
    OwnName(Label),
    /// It would hold for too long, or not at all.
    #[error("a join token holds for at least a second and at most 168h")]
    Lifetime,
    /// There are too many.
    #[error("there are {MAX_TOKENS} join tokens; `lorica token revoke` takes some away")]
    TooMany,
    /// There is no such token.
    #[error("there is no join token `{0}`; `lorica token list` shows those there are")]
    Unknown(String),
    /// There is no randomness.
    #[error("no join token can be made: {0}")]
    Make(String),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Hosts {
    /// Makes a token. Waits for the disk.
    ///
    /// # Errors
    /// Where it would hold too long, or cannot be stored.
    pub fn create(
        &self,
        host: Label,
        services: Vec<ServiceName>,
        lifetime: Duration,
        addresses: Vec<String>,
        now: SystemTime,
    ) -> Result<(JoinToken, TokenRecord), TokenError> {
        if own_host().as_ref() == Some(&host) {
            return Err(TokenError::OwnName(host));
        }
        if lifetime < Duration::from_secs(1) || lifetime > MAX_TOKEN_LIFETIME {
            return Err(TokenError::Lifetime);
        }
        self.forget(now)?;
        let authority = self.ca.authority();
        let make = |error: &dyn std::fmt::Display| TokenError::Make(error.to_string());
        let token = JoinToken {
            id: JoinToken::draw_id().map_err(|error| make(&error))?,
            host: host.clone(),
            addresses,
            trust_domain: authority.trust_domain().clone(),
            root: RootPin::of(authority.root()).map_err(|error| make(&error))?,
            secret: Secret::draw().map_err(|error| make(&error))?,
        };
        let record = TokenRecord {
            host,
            services,
            digest: token.secret.digest(),
            created: seconds(now),
            expires: seconds(now + lifetime),
            used: None,
        };
        self.store.write(&[write(token_key(&token.id), Some(&record), Expected::Absent)?])?;
        tracing::info!(token = token.id, host = %record.host, expires = record.expires, "a join token was made");
        Ok((token, record))
    }

    /// All tokens that are remembered, by their ids.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn tokens(&self) -> Result<Vec<(String, TokenRecord)>, StoreError> {
        let all = self.store.list(Table::Hosts)?.into_iter();
        let tokens = all.filter_map(|(key, record)| Some((key.strip_prefix(TOKEN)?.to_owned(), serde_json::from_slice(&record).ok()?)));
        Ok(tokens.collect())
    }

    /// Takes a token back; a host that joined with it is let go of: it is refused from now on, and its connections end. Waits for the disk.
    ///
    /// # Errors
    /// Where there is none, or the store refuses.
    pub fn revoke(&self, id: &str) -> Result<(TokenRecord, bool), TokenError> {
        let record: TokenRecord = self.read(&token_key(id))?.ok_or_else(|| TokenError::Unknown(id.to_owned()))?;
        let host: Option<HostRecord> = self.read(&host_key(&record.host))?;
        let joined = host.is_some_and(|host| host.token == id);
        let mut writes = vec![Write { table: Table::Hosts, key: token_key(id), value: None, expected: Expected::Anything }];
        if joined {
            writes.push(Write { table: Table::Hosts, key: host_key(&record.host), value: None, expected: Expected::Anything });
        }
        self.store.write(&writes)?;
        if joined {
            self.ca.strike_host(&record.host)?;
            self.mesh.host_gone(&record.host);
        }
        tracing::info!(token = id, host = %record.host, joined, "a join token was revoked");
        // Its connections look again, and end.
        self.mesh.identities.send_replace(());
        Ok((record, joined))
    }

    /// Forgets tokens that nobody is to be told of any more.
    fn forget(&self, now: SystemTime) -> Result<(), TokenError> {
        let tokens = self.tokens()?;
        let is_old = |record: &TokenRecord| record.expires + REMEMBERED.as_secs() < seconds(now);
        let old: Vec<Write> = tokens
            .iter()
            .filter(|(_, record)| is_old(record))
            .map(|(id, _)| Write { table: Table::Hosts, key: token_key(id), value: None, expected: Expected::Anything })
            .collect();
        if tokens.len() - old.len() >= MAX_TOKENS {
            return Err(TokenError::TooMany);
        }
        if !old.is_empty() {
            self.store.write(&old)?;
        }
        Ok(())
    }

    /// The host that a token admits, and the token as it is stored.
    fn shown(&self, id: &str, secret: &Secret, now: SystemTime) -> Result<(TokenRecord, Vec<u8>), Status> {
        // Who has not the secret learns nothing of a token.
        let unknown = || Status::unauthenticated("the join token is not known here: it was revoked, is long over, or is of another mesh");
        let stored = self.store.get(Table::Hosts, &token_key(id)).map_err(unavailable)?.ok_or_else(unknown)?;
        let record: TokenRecord = serde_json::from_slice(&stored).map_err(|error| Status::internal(error.to_string()))?;
        if record.digest != secret.digest() {
            tracing::warn!(token = id, host = %record.host, "a join token was shown with another secret");
            return Err(unknown());
        }
        let time = |seconds| crate::timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        if let Some(used) = record.used {
            let used = time(used);
            tracing::error!(
                token = id,
                host = %record.host,
                used,
                "a join token was shown a second time: one of the two that had it is not the host that it was made for; `lorica token revoke {id}` lets go of the first"
            );
            return Err(Status::permission_denied(format!(
                "the join token was used at {used}, and admits one host once; if that was not this host, somebody else has joined as {}: lorica token revoke {id}",
                record.host
            )));
        }
        if record.expires <= seconds(now) {
            return Err(Status::permission_denied(format!(
                "the join token ended at {}; make a new one: lorica token create --host {}",
                time(record.expires),
                record.host
            )));
        }
        Ok((record, stored))
    }

    /// Uses a token up for a host at `address`. Wrong secrets are counted by that.
    pub(super) fn redeem_at(
        &self,
        address: Option<IpAddr>,
        id: &str,
        secret: &Secret,
        csr_der: &[u8],
        now: SystemTime,
    ) -> Result<(Label, Admitted), Status> {
        let Some(address) = address else { return self.redeem(id, secret, csr_der, now) };
        let guesses = || self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        if !guesses().may(address, Instant::now()) {
            return Err(Status::resource_exhausted(
                "too many join tokens were shown from this address that are none; try again in a minute",
            ));
        }
        let redeemed = self.redeem(id, secret, csr_der, now);
        if redeemed.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated) {
            guesses().wrong(address, Instant::now());
        }
        redeemed
    }

    /// Uses a token up for a host. What was signed is given only after that is on the disk; what would not be signed uses none up.
    pub(super) fn redeem(&self, id: &str, secret: &Secret, csr_der: &[u8], now: SystemTime) -> Result<(Label, Admitted), Status> {
        let (record, stored) = self.shown(id, secret, now)?;
        let admitted = self.admit(&record.host, csr_der, now)?;
        let used = TokenRecord { used: Some(seconds(now)), ..record.clone() };
        let host = HostRecord { services: record.services, joined: seconds(now), token: id.to_owned() };
        let encoded = |error: StoreError| Status::internal(error.to_string());
        let writes = [
            write(token_key(id), Some(&used), Expected::Value(stored)).map_err(encoded)?,
            write(host_key(&used.host), Some(&host), Expected::Anything).map_err(encoded)?,
        ];
        match self.store.write(&writes) {
            Ok(_) => Ok((used.host, admitted)),
            // Another was faster with the same token, and the next look says so.
            Err(StoreError::Conflict { .. }) => match self.shown(id, secret, now) {
                Err(status) => Err(status),
                Ok(_) => Err(Status::unavailable("the join token was changed meanwhile; try again")),
            },
            Err(error) => Err(unavailable(error)),
        }
    }
}

const TOKEN: &str = "token/";

fn token_key(id: &str) -> String {
    format!("{TOKEN}{id}")
}
