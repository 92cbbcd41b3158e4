//! How many requests may come, and the arithmetic of it: pure functions of a limit, what is remembered of a key, and the time.
//!
//! A rate is a bucket of tokens that refills evenly. Of a key one number is remembered: the time at which its bucket will be full again
//! (GCRA's theoretical arrival time), so that a bucket which is full is one of which nothing need be remembered.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Origin, RouteMatch, route};
use crate::claims::Claims;
use crate::head::RequestHead;
use crate::name::ServicePort;
use crate::spiffe::SpiffeId;

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// The place it was written in.
    pub origin: Arc<Origin>,
    /// What tells it apart in the whole mesh: `POLICY.NAMESPACE/LIMIT`. Limits of one id count together, wherever in a proxy they stand.
    pub id: Arc<str>,
    /// What it counts, and who does.
    pub counted: Counted,
    /// What it counts apart; nothing: all requests together.
    pub key: Vec<KeyPart>,
    /// The requests that it is about; none: all. Its query and share say nothing.
    pub matches: Option<RouteMatch>,
    /// Whether requests past it are counted and passed on all the same.
    pub shadow: bool,
}

impl RateLimit {
    /// Its name in its policy.
    #[must_use]
    pub fn name(&self) -> &str {
        self.id.rsplit_once('/').map_or(&*self.id, |(_, name)| name)
    }

    /// `RateLimit-Policy`; none where only a service knows.
    #[must_use]
    pub fn policy(&self) -> Option<String> {
        let name = self.name();
        match &self.counted {
            Counted::Local(quota) | Counted::Global { quota, .. } => {
                Some(format!("\"{name}\";q={};w={}", quota.requests, whole_seconds(quota.per)))
            }
            Counted::Concurrent(most) => Some(format!("\"{name}\";q={most};qu=\"concurrent-requests\"")),
            Counted::Service(_) => None,
        }
    }

    /// The service that is asked for each request, if one is.
    #[must_use]
    pub fn service(&self) -> Option<&LimitService> {
        if let Counted::Service(service) = &self.counted { Some(service) } else { None }
    }

    /// Whether it is about a request.
    #[must_use]
    pub fn is_about(&self, head: &RequestHead) -> bool {
        self.matches.as_ref().is_none_or(|matches| route::mismatch(matches, head, 0.0).is_none())
    }
}

/// So many requests in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// How many.
    pub requests: u32,
    /// In what time.
    pub per: Duration,
    /// How many at once after a time without any: the size of the bucket.
    pub burst: u32,
}

impl Quota {
    /// As a bucket of tokens.
    #[must_use]
    pub fn rate(self) -> Rate {
        Rate::new(self.requests, self.per, self.burst)
    }
}

/// What a limit counts, and who does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Counted {
    /// Requests, by each proxy for itself.
    Local(Quota),
    /// Requests at all proxies together, by tokens that the control plane lends.
    Global {
        /// How many.
        quota: Quota,
        /// What holds while the control plane is away.
        unavailable: Unavailable,
    },
    /// Requests under way at once, by each proxy for itself.
    Concurrent(u32),
    /// Whatever a rate limit service counts that is asked for each request.
    Service(LimitService),
}

/// What holds for a global limit while the control plane is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unavailable {
    /// Each proxy lets its share through: the rate, divided by the number of proxies that was known last.
    #[default]
    LocalShare,
    /// Every request passes.
    Allow,
    /// None does.
    Deny,
}

/// An existing service that speaks `envoy.service.ratelimit.v3`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitService {
    /// Where it is.
    pub port: ServicePort,
    /// The domain that it is asked about.
    pub domain: String,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// Whether requests pass where it does not answer in time.
    pub fail_open: bool,
}

impl LimitService {
    /// How long it may take unless said otherwise: Envoy's default.
    pub const TIMEOUT: Duration = Duration::from_millis(20);
}

/// What of a request makes the key that it counts under.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum KeyPart {
    /// The SPIFFE ID that the caller proved.
    Caller,
    /// A header's value, by lower-case name. Several fields of the name are one value, joined by commas.
    Header(String),
    /// The path, without the query.
    Path,
    /// A claim of the token that was verified, by its path.
    Claim(String),
    /// The address that the connection came from.
    Source,
}

/// What stands for a part that a request does not have: requests without it count together, and so escape nothing.
pub const NO_VALUE: &str = "-";
/// The longest value that is told apart, in bytes: longer ones count by their beginning.
const MAX_VALUE_BYTES: usize = 256;

/// Who asks, as far as limits are keyed by it.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// The identity that the caller proved.
    pub caller: Option<&'a SpiffeId>,
    /// What its token says, where one was verified.
    pub claims: Option<&'a Claims>,
    /// The address that the connection came from.
    pub source: IpAddr,
}

impl KeyPart {
    /// The name of the part in descriptors of the rate limit service's protocol: `caller`, `header:x-user`, `path`, `remote_address`.
    #[must_use]
    pub fn entry(&self) -> Cow<'static, str> {
        match self {
            Self::Caller => "caller".into(),
            Self::Header(name) => format!("header:{name}").into(),
            Self::Path => "path".into(),
            Self::Claim(path) => format!("claim:{path}").into(),
            // As Envoy's own action calls it.
            Self::Source => "remote_address".into(),
        }
    }

    /// What a request has of it.
    #[must_use]
    pub fn value<'r>(&'r self, head: &'r RequestHead, asking: Asking<'r>) -> Cow<'r, str> {
        let value: Cow<'r, str> = match self {
            Self::Caller => asking.caller.map_or_else(|| NO_VALUE.into(), |caller| caller.to_string().into()),
            Self::Claim(path) => asking.claims.and_then(|claims| claims.text(path)).unwrap_or(NO_VALUE.into()),
            Self::Header(name) => {
                let mut values = head.fields.get_all(name);
                match (values.next(), values.next()) {
                    (None, _) => NO_VALUE.into(),
                    (Some(only), None) => String::from_utf8_lossy(only),
                    (Some(first), Some(second)) => {
                        let mut joined = [first, second].join(&b","[..]);
                        for value in values {
                            joined.push(b',');
                            joined.extend_from_slice(value);
                        }
                        String::from_utf8_lossy(&joined).into_owned().into()
                    }
                }
            }
            Self::Path => head.path().into(),
            Self::Source => asking.source.to_canonical().to_string().into(),
        };
        if value.len() <= MAX_VALUE_BYTES {
            return value;
        }
        let end = value.floor_char_boundary(MAX_VALUE_BYTES);
        match value {
            Cow::Borrowed(text) => text[..end].into(),
            Cow::Owned(mut text) => {
                text.truncate(end);
                text.into()
            }
        }
    }
}

/// Tokens that refill evenly. Times are nanoseconds since any moment that stays the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How long one token takes to come back. Never 0.
    interval: u64,
    /// How many a full bucket holds. Never 0.
    burst: u64,
}

impl Rate {
    /// So many requests in a time, as a bucket of `burst` tokens.
    #[must_use]
    pub fn new(requests: u32, per: Duration, burst: u32) -> Self {
        let per = u64::try_from(per.as_nanos()).unwrap_or(u64::MAX);
        Self { interval: (per / u64::from(requests.max(1))).max(1), burst: burst.max(1).into() }
    }

    /// The share of one of `proxies`. Where a bucket holds fewer tokens than there are proxies, each still has one.
    #[must_use]
    pub fn share(self, proxies: u32) -> Self {
        let proxies = u64::from(proxies.max(1));
        Self { interval: self.interval.saturating_mul(proxies), burst: (self.burst / proxies).max(1) }
    }

    /// How many tokens are there at `now`, of a bucket that is full again at `full`.
    #[must_use]
    pub fn available(self, full: u64, now: u64) -> u64 {
        let missing = full.saturating_sub(now).div_ceil(self.interval);
        self.burst.saturating_sub(missing)
    }

    /// Takes `tokens` at `now`: when the bucket is full again; or how long until there are as many, in nanoseconds.
    ///
    /// # Errors
    /// Where there are fewer. Of more than a bucket holds, the time until it is full.
    pub fn take(self, full: u64, tokens: u64, now: u64) -> Result<u64, u64> {
        let after = full.max(now).saturating_add(self.interval.saturating_mul(tokens));
        let most = now.saturating_add(self.interval.saturating_mul(self.burst));
        if after <= most { Ok(after) } else { Err((after - most).min(full.saturating_sub(now).max(1))) }
    }

    /// Gives `tokens` back: when the bucket is full again.
    #[must_use]
    pub fn give_back(self, full: u64, tokens: u64) -> u64 {
        full.saturating_sub(self.interval.saturating_mul(tokens))
    }

    /// How many tokens come back in a time, rounded up.
    #[must_use]
    pub fn in_time(self, time: Duration) -> u64 {
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).div_ceil(self.interval)
    }

    /// How long one token takes to come back.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_nanos(self.interval)
    }
}

/// What a caller is told who is past a limit: the fields of draft-ietf-httpapi-ratelimit-headers, and `Retry-After`.
/// `wait`: how long until a request would pass.
#[must_use]
pub fn told(limit: &RateLimit, wait: Duration) -> Vec<(&'static str, String)> {
    let seconds = whole_seconds(wait);
    let mut told = vec![("retry-after", seconds.to_string()), ("ratelimit", format!("\"{}\";r=0;t={seconds}", limit.name()))];
    told.extend(limit.policy().map(|policy| ("ratelimit-policy", policy)));
    told
}

/// Rounded up, and at least 1: a caller that comes back at once would be refused again.
#[must_use]
pub fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::head::{HeadBuilder, Version};

    const SECOND: u64 = 1_000_000_000;

    fn head(path: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut builder = HeadBuilder::with_capacity(256);
        fields.iter().for_each(|(name, value)| builder.field(name.as_bytes(), value.as_bytes()).unwrap());
        builder.request(Version::Http11, "GET", path, "x", None).unwrap()
    }

    /// How many of `asked` requests pass that come evenly within `time`, from a full bucket on.
    fn passed(rate: Rate, asked: u64, time: u64) -> u64 {
        let mut full = 0;
        let takes = |at| match rate.take(full, 1, at * time / asked) {
            Ok(after) => {
                full = after;
                1
            }
            Err(_) => 0,
        };
        (0..asked).map(takes).sum()
    }

    #[test]
    fn a_bucket_lets_its_burst_through_and_then_its_rate() {
        let rate = Rate::new(100, Duration::from_secs(1), 10);
        assert_eq!(passed(rate, 100_000, 60 * SECOND), 10 + 60 * 100 - 1);
        // Who stays below the rate is never refused.
        assert_eq!(passed(rate, 99 * 60, 60 * SECOND), 99 * 60);
    }

    #[test]
    fn who_is_refused_is_told_when_to_come_back() {
        let rate = Rate::new(10, Duration::from_secs(1), 2);
        let full = rate.take(0, 2, 0).unwrap();
        assert_eq!((full, rate.available(full, 0)), (SECOND / 5, 0));
        let wait = rate.take(full, 1, 0).unwrap_err();
        assert_eq!(wait, SECOND / 10);
        rate.take(full, 1, wait).unwrap();
        rate.take(full, 1, wait - 1).unwrap_err();
        assert_eq!(rate.available(full, wait), 1);
        assert_eq!(rate.available(rate.give_back(full, 2), 0), 2);
        // More than a bucket ever holds.
        assert_eq!(rate.take(full, 3, 0), Err(full));
        assert_eq!(rate.take(0, 3, 5), Err(1));
    }

    #[test]
    fn shares_come_to_no_more_than_the_whole() {
        let rate = Rate::new(1000, Duration::from_secs(1), 100);
        let one = rate.share(10);
        assert_eq!((one.interval(), one.burst), (Duration::from_millis(10), 10));
        assert_eq!(Rate::new(1, Duration::from_secs(1), 1).share(3).burst, 1);
        assert_eq!(rate.share(0), rate);
    }

    #[test]
    fn no_number_is_too_large() {
        let rate = Rate::new(1, Duration::MAX, u32::MAX);
        rate.take(u64::MAX, u64::MAX, u64::MAX).unwrap();
        assert_eq!(Rate::new(u32::MAX, Duration::ZERO, 0).interval, 1);
        assert_eq!(rate.available(0, u64::MAX), u64::from(u32::MAX));
    }

    #[test]
    fn a_request_counts_under_what_it_has() {
        let caller = "spiffe://mesh/ns/a/sa/b".parse().unwrap();
        let claims = Claims::read(br#"{"sub":"ada","a":{"b":["x","y"]}}"#).unwrap();
        let asking = Asking { caller: Some(&caller), claims: Some(&claims), source: "::ffff:192.0.2.1".parse().unwrap() };
        let request = head("/a?b=c", &[("X-User", "ann"), ("x-two", "1"), ("x-two", "2")]);
        let value = |part: &KeyPart| part.value(&request, asking).into_owned();
        assert_eq!(value(&KeyPart::Caller), "spiffe://mesh/ns/a/sa/b");
        assert_eq!(value(&KeyPart::Header("x-user".to_owned())), "ann");
        assert_eq!(value(&KeyPart::Header("x-two".to_owned())), "1,2");
        assert_eq!(value(&KeyPart::Header("x-none".to_owned())), NO_VALUE);
        assert_eq!(value(&KeyPart::Path), "/a");
        assert_eq!(value(&KeyPart::Claim("sub".to_owned())), "ada");
        assert_eq!(value(&KeyPart::Claim("a.b".to_owned())), "x,y");
        assert_eq!(value(&KeyPart::Claim("none".to_owned())), NO_VALUE);
        assert_eq!(value(&KeyPart::Source), "192.0.2.1");
        let long = head(&format!("/{}", "é".repeat(300)), &[]);
        assert_eq!(KeyPart::Path.value(&long, asking).len(), MAX_VALUE_BYTES - 1);
    }

    #[test]
    fn callers_are_told_in_the_drafts_words() {
        let mut limit = RateLimit {
            origin: Arc::new(Origin {
                kind: "RateLimitPolicy".to_owned(),
                namespace: "shop".to_owned(),
                name: "edge".to_owned(),
                generation: 1,
                rule: 0,
                matched: 0,
            }),
            id: "edge.shop/per-user".into(),
            counted: Counted::Local(Quota { requests: 100, per: Duration::from_secs(60), burst: 100 }),
            key: Vec::new(),
            matches: None,
            shadow: false,
        };
        let text =
            |limit: &RateLimit, wait| told(limit, wait).into_iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>();
        assert_eq!(
            text(&limit, Duration::from_millis(1600)),
            ["retry-after: 2", "ratelimit: \"per-user\";r=0;t=2", "ratelimit-policy: \"per-user\";q=100;w=60"]
        );
        limit.counted = Counted::Concurrent(5);
        assert_eq!(
            text(&limit, Duration::ZERO),
            ["retry-after: 1", "ratelimit: \"per-user\";r=0;t=1", "ratelimit-policy: \"per-user\";q=5;qu=\"concurrent-requests\""]
        );
    }
}
