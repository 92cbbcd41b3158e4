//! Who calls what, as this worker saw it since it last told: what is alike is counted, so that a request costs a look into a table.
//!
//! Bounded: past it, calls are told without their path, and past twice of it not at all; metrics have them all.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};

use lorica_model::head::RequestHead;
use lorica_model::name::ServicePort;
use lorica_xds::observed::{Observation, Observer, Verdict, is_variable, template};

use crate::path::caller::{Caller, Entry};

/// How many different calls are told with their path.
const MOST: usize = 1024;

/// What a worker saw.
#[derive(Debug)]
pub struct Observed {
    observer: Option<Observer>,
    hasher: foldhash::fast::RandomState,
    seen: RefCell<HashMap<u64, (Observation, u64), foldhash::fast::RandomState>>,
}

impl Observed {
    /// Nothing yet. `observer`: who is told; none: nobody.
    #[must_use]
    pub fn new(observer: Option<Observer>) -> Self {
        Self { observer, hasher: foldhash::fast::RandomState::default(), seen: RefCell::default() }
    }

    /// A call came. `head`: of a request; none of a connection whose bytes are not looked at.
    pub fn saw(&self, caller: &Caller, port: &ServicePort, head: Option<&RequestHead>, verdict: Verdict) {
        if self.observer.is_none() {
            return;
        }
        let mut seen = self.seen.borrow_mut();
        let shortened = seen.len() >= MOST;
        let mut hasher = self.hasher.build_hasher();
        let peer = caller.entry.peer();
        match peer {
            Some(peer) => peer.certificate_sha256.hash(&mut hasher),
            None => (caller.remote.ip(), matches!(caller.entry, Entry::Inbound { published: true, .. })).hash(&mut hasher),
        }
        (port.port, &verdict, shortened).hash(&mut hasher);
        if let Some(head) = head {
            head.method().hash(&mut hasher);
            if !shortened {
                head.path()
                    .split('/')
                    .for_each(|segment| if is_variable(segment) { "{id}".hash(&mut hasher) } else { segment.hash(&mut hasher) });
            }
        }
        let key = hasher.finish();
        if let Some((_, times)) = seen.get_mut(&key) {
            *times += 1;
            return;
        }
        if seen.len() >= 2 * MOST {
            return;
        }
        let request = head.map(|head| (head.method().to_owned(), if shortened { "/*".to_owned() } else { template(head.path()) }));
        // Who comes to a published port need not prove anything; of others, who does not is looked for.
        let published = matches!(caller.entry, Entry::Inbound { published: true, .. });
        let address = (peer.is_none() && !published).then(|| caller.remote.ip());
        seen.insert(key, (Observation { caller: peer.map(|peer| peer.id.clone()), address, port: port.clone(), request, verdict }, 1));
    }

    /// Tells what was seen since the last time.
    pub fn tell(&self) {
        let seen = std::mem::take(&mut *self.seen.borrow_mut());
        if let (Some(observer), false) = (&self.observer, seen.is_empty()) {
            observer.saw(seen.into_values().collect());
        }
    }
}
