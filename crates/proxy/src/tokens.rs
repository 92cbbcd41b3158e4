//! What a worker knows of tokens: the keys of each policy, prepared once, and the tokens that it has verified, so that a token that comes
//! again costs no signature. Of a worker alone: no exchange takes a lock for it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use lorica_identity::digest::sha256;
use lorica_identity::jwt::{TokenError, Verifier};
use lorica_model::claims::Claims;
use lorica_model::snapshot::{Authentication, TokenPlace};
use lorica_observe::metrics::TokenCounts;

use crate::worker::Worker;

/// How many tokens a worker remembers for certain; it may be twice as many. With claims of 8 KiB at most that is 32 MiB, for tokens of the
/// usual size a tenth of it.
const REMEMBERED: usize = 2048;
/// For how many policies a worker has keys prepared: the rules of a gateway may each have one.
const PREPARED: usize = 256;

/// What is known of tokens.
#[derive(Debug, Default)]
pub struct Tokens {
    prepared: RefCell<Vec<(Arc<Authentication>, Rc<Prepared>)>>,
    number: Cell<u64>,
    /// Those verified lately, and those before; the latter are forgotten once the former are too many.
    lately: RefCell<HashMap<Key, Rc<Good>>>,
    before: RefCell<HashMap<Key, Rc<Good>>>,
}

/// Which policy, and which token.
type Key = (u64, [u8; 32]);

/// A policy with its keys.
#[derive(Debug)]
pub struct Prepared {
    /// Tells it apart from every other, and from itself with other keys.
    number: u64,
    /// In the order of its providers; none of one whose keys cannot be read.
    verifiers: Vec<Option<Verifier>>,
    /// What is counted of it.
    pub counts: Arc<TokenCounts>,
}

/// A token that was verified.
#[derive(Debug)]
pub struct Good {
    /// What it says.
    pub claims: Rc<Claims>,
    /// Whose it is: which of the policy's providers.
    pub provider: usize,
    until: SystemTime,
}

impl Tokens {
    /// A policy with its keys.
    pub fn prepared(&self, worker: &Worker, of: &Arc<Authentication>) -> Rc<Prepared> {
        let mut known = self.prepared.borrow_mut();
        if let Some((_, prepared)) = known.iter().find(|(known, _)| Arc::ptr_eq(known, of)) {
            return prepared.clone();
        }
        // Rules that say the same have it in places of their own.
        let same = known.iter().find(|(known, _)| **known == **of).map(|(_, prepared)| prepared.clone());
        let prepared = same.unwrap_or_else(|| Rc::new(self.prepare(worker, of)));
        if known.len() >= PREPARED {
            known.clear();
        }
        known.push((of.clone(), prepared.clone()));
        prepared
    }

    fn prepare(&self, worker: &Worker, of: &Authentication) -> Prepared {
        self.number.set(self.number.get() + 1);
        let verifier = |provider| match Verifier::new(provider) {
            Ok(verifier) => Some(verifier),
            Err(error) => {
                tracing::warn!(policy = %of.origin.name, provider = provider.name, %error, "no token of this issuer can be verified");
                None
            }
        };
        let policy = format!("{}.{}", of.origin.name, of.origin.namespace);
        Prepared {
            number: self.number.get(),
            verifiers: of.providers.iter().map(verifier).collect(),
            counts: worker.telemetry.metrics.tokens(policy),
        }
    }

    /// What `token` says, which stood at `place`; and whether that was known already.
    ///
    /// # Errors
    /// Where no provider that takes tokens from there takes this one.
    pub fn verified(
        &self,
        of: &Authentication,
        prepared: &Prepared,
        (token, place): (&[u8], &TokenPlace),
        now: SystemTime,
    ) -> Result<(Rc<Good>, bool), TokenError> {
        let key = (prepared.number, sha256(token));
        let takes = |provider: usize| of.providers.get(provider).is_some_and(|provider| provider.places.contains(place));
        if let Some(good) = self.known(&key).filter(|good| now < good.until && takes(good.provider)) {
            return Ok((good, true));
        }
        let own = prepared.verifiers.iter().enumerate().filter(|(provider, _)| takes(*provider));
        let own: Vec<(usize, &Verifier)> = own.filter_map(|(provider, verifier)| Some((provider, verifier.as_ref()?))).collect();
        if own.is_empty() {
            return Err(TokenError::NoKeys);
        }
        let verifiers: Vec<&Verifier> = own.iter().map(|(_, verifier)| *verifier).collect();
        let (found, verified) = Verifier::verify_any(&verifiers, token, now)?;
        let provider = own.get(found).map(|(provider, _)| *provider).ok_or(TokenError::NoKeys)?;
        let good = Rc::new(Good { claims: Rc::new(verified.claims), provider, until: verified.until });
        self.remember(key, good.clone());
        Ok((good, false))
    }

    fn known(&self, key: &Key) -> Option<Rc<Good>> {
        if let Some(good) = self.lately.borrow().get(key) {
            return Some(good.clone());
        }
        let good = self.before.borrow_mut().remove(key)?;
        self.remember(*key, good.clone());
        Some(good)
    }

    fn remember(&self, key: Key, good: Rc<Good>) {
        let mut lately = self.lately.borrow_mut();
        if lately.len() >= REMEMBERED {
            self.before.replace(std::mem::take(&mut lately));
        }
        lately.insert(key, good);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_kept_and_the_rest_forgotten() {
        let tokens = Tokens::default();
        let key = |number: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            (1, hash)
        };
        let good = || Rc::new(Good { claims: Rc::default(), provider: 0, until: SystemTime::UNIX_EPOCH });
        tokens.remember(key(0), good());
        for number in 1..=REMEMBERED * 4 {
            tokens.remember(key(number), good());
            assert!(number % 1000 != 0 || tokens.known(&key(0)).is_some(), "it is asked for again and again");
            assert!(tokens.lately.borrow().len() + tokens.before.borrow().len() <= REMEMBERED * 2);
        }
        assert!(tokens.known(&key(1)).is_none() && tokens.known(&key(REMEMBERED * 4)).is_some());
    }
}
