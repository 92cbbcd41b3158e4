//! Envoy's rate limit service (`envoy.service.ratelimit.v3`), on both of its sides: as the control plane serves it, and as a proxy asks
//! an existing one.
//!
//! The control plane answers two domains. Of [`DOMAIN`], each question is a request, as Envoys ask. Of [`LEASE_DOMAIN`], each descriptor is
//! a proxy's question for tokens that it may spend by itself: `hits_addend` of them, answered with a `quota`; two entries more say how many
//! it still holds, and how many it gives back unspent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::envoy::extensions::common::ratelimit::v3::{RateLimitDescriptor, rate_limit_descriptor::Entry};
use envoy_types::pb::envoy::service::ratelimit::v3::{
    RateLimitRequest, RateLimitResponse,
    rate_limit_response::{Code, DescriptorStatus, Quota as Lent},
    rate_limit_service_client::RateLimitServiceClient,
    rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
};
use envoy_types::pb::google::protobuf::{self, UInt64Value};
use lorica_model::name::WorkloadName;
use lorica_model::snapshot::whole_seconds;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::encode;
use crate::grpc::{framed, unframed};
use crate::value::{from_struct, to_struct};

/// What Envoys ask about.
pub const DOMAIN: &str = "lorica";
/// What Lorica's proxies ask about.
pub const LEASE_DOMAIN: &str = "lorica/leases";
/// The entry of a descriptor that names the limit. Always the first.
pub const LIMIT_ENTRY: &str = "limit";
const HELD: &str = "held";
const RETURNED: &str = "returned";
/// By which a proxy says who asks.
const WORKLOAD: &str = "lorica-workload";
/// The path of the one method.
pub const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
/// The largest question that is taken, in bytes: a batch of keys of the longest values.
const MAX_REQUEST_BYTES: usize = 1024 * 1024;

/// What counts together: a limit's id, and the parts of its key with what a request had of each.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Descriptor {
    /// The limit's id.
    pub limit: String,
    /// The parts of its key.
    pub key: Vec<(String, String)>,
}

/// A proxy's question for tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Of what.
    pub of: Descriptor,
    /// How many it wants to have, those that it holds counted.
    pub wanted: u64,
    /// How many it holds.
    pub held: u64,
    /// How many it had and gives back.
    pub returned: u64,
}

/// What a proxy is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// How many tokens it may spend more; none: there is no such limit.
    pub tokens: Option<u64>,
    /// After what time it is worth to ask again, where it got none.
    pub wait: Duration,
    /// How many proxies ask for the limit.
    pub proxies: u32,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// There is no such limit.
    Unknown,
    /// It passes; so many more would.
    Passes(u64),
    /// It does not.
    Over {
        /// After what time one would pass.
        wait: Duration,
        /// What its caller is told.
        told: Vec<(&'static str, String)>,
    },
}

/// Who counts. Must not block.
pub trait Ledger: Send + Sync + 'static {
    /// `hits` requests came to an Envoy.
    fn take(&self, of: &Descriptor, hits: u64) -> Taken;
    /// A proxy asks for tokens.
    fn lend(&self, proxy: &WorkloadName, ask: &Ask) -> Grant;
}

/// The service that proxies ask.
pub fn service<L: Ledger>(ledger: Arc<L>) -> RateLimitServiceServer<impl RateLimitService> {
    RateLimitServiceServer::new(Service(ledger)).max_decoding_message_size(MAX_REQUEST_BYTES)
}

struct Service<L>(Arc<L>);

#[tonic::async_trait]
impl<L: Ledger> RateLimitService for Service<L> {
    async fn should_rate_limit(&self, request: Request<RateLimitRequest>) -> Result<Response<RateLimitResponse>, Status> {
        let proxy = request.metadata().get(WORKLOAD).and_then(|name| name.to_str().ok()).and_then(|name| name.parse().ok());
        let RateLimitRequest { domain, descriptors, hits_addend } = request.into_inner();
        match (domain.as_str(), proxy) {
            (DOMAIN, _) => Ok(Response::new(counted(&*self.0, descriptors, hits_addend))),
            (LEASE_DOMAIN, Some(proxy)) => Ok(Response::new(lent(&*self.0, &proxy, descriptors))),
            (LEASE_DOMAIN, None) => Err(Status::invalid_argument(format!("`{WORKLOAD}` names no workload"))),
            _ => Err(Status::invalid_argument(format!("the domain `{domain}` is none that is counted here; write `{DOMAIN}`"))),
        }
    }
}

pub(crate) fn counted(ledger: &impl Ledger, descriptors: Vec<RateLimitDescriptor>, hits: u32) -> RateLimitResponse {
    let mut answer = RateLimitResponse { overall_code: Code::Ok.into(), ..RateLimitResponse::default() };
    for descriptor in descriptors {
        let hits = descriptor.hits_addend.map_or(u64::from(hits), |hits| hits.value).max(1);
        let taken = split(descriptor.entries).map_or(Taken::Unknown, |(of, _)| ledger.take(&of, hits));
        let mut status = DescriptorStatus::default();
        match taken {
            Taken::Unknown => {}
            Taken::Passes(remaining) => {
                status.code = Code::Ok.into();
                status.limit_remaining = u32::try_from(remaining).unwrap_or(u32::MAX);
            }
            Taken::Over { wait, told } => {
                status.code = Code::OverLimit.into();
                status.duration_until_reset = Some(encode::duration(Duration::from_secs(whole_seconds(wait))));
                answer.overall_code = Code::OverLimit.into();
                let header = |(key, value): (&str, String)| HeaderValue { key: key.to_owned(), value, ..HeaderValue::default() };
                answer.response_headers_to_add.extend(told.into_iter().map(header));
            }
        }
        answer.statuses.push(status);
    }
    answer
}

pub(crate) fn lent(ledger: &impl Ledger, proxy: &WorkloadName, descriptors: Vec<RateLimitDescriptor>) -> RateLimitResponse {
    let mut answer = RateLimitResponse { overall_code: Code::Ok.into(), ..RateLimitResponse::default() };
    let mut proxies: BTreeMap<String, u32> = BTreeMap::new();
    for descriptor in descriptors {
        let wanted = descriptor.hits_addend.map_or(0, |hits| hits.value);
        let mut status = DescriptorStatus::default();
        if let Some((of, extra)) = split(descriptor.entries) {
            let number = |key: &str| extra.iter().find(|entry| entry.key == key).and_then(|entry| entry.value.parse().ok()).unwrap_or(0);
            let ask = Ask { of, wanted, held: number(HELD), returned: number(RETURNED) };
            let grant = ledger.lend(proxy, &ask);
            if let Some(tokens) = grant.tokens {
                status.code = if tokens > 0 || ask.wanted <= ask.held { Code::Ok.into() } else { Code::OverLimit.into() };
                status.quota = Some(Lent { requests: u32::try_from(tokens).unwrap_or(u32::MAX), ..Lent::default() });
                status.duration_until_reset = Some(encode::duration(grant.wait));
                proxies.insert(ask.of.limit, grant.proxies);
            }
        }
        answer.statuses.push(status);
    }
    answer.dynamic_metadata = Some(to_struct(&proxies));
    answer
}

/// What counts together, and entries that say something of the question.
fn split(entries: Vec<Entry>) -> Option<(Descriptor, Vec<Entry>)> {
    let mut entries = entries.into_iter();
    let limit = entries.next().filter(|entry| entry.key == LIMIT_ENTRY)?.value;
    let (extra, key): (Vec<Entry>, Vec<Entry>) = entries.partition(|entry| matches!(entry.key.as_str(), HELD | RETURNED));
    Some((Descriptor { limit, key: key.into_iter().map(|entry| (entry.key, entry.value)).collect() }, extra))
}

fn entries(of: &Descriptor) -> Vec<Entry> {
    let limit = Entry { key: LIMIT_ENTRY.to_owned(), value: of.limit.clone() };
    let key = of.key.iter().map(|(key, value)| Entry { key: key.clone(), value: value.clone() });
    std::iter::once(limit).chain(key).collect()
}

/// By which a proxy asks the control plane for tokens.
#[derive(Debug, Clone)]
pub struct Borrower {
    client: RateLimitServiceClient<Channel>,
    workload: Option<AsciiMetadataValue>,
}

impl Borrower {
    /// Asks as `workload`; `channel` leads to the control plane.
    #[must_use]
    pub fn new(workload: &WorkloadName, channel: Channel) -> Self {
        Self { client: RateLimitServiceClient::new(channel), workload: workload.to_string().parse().ok() }
    }

    /// What the control plane lends, one answer a question, within `limit`.
    ///
    /// # Errors
    /// Where there is no answer, or not one to each question.
    pub async fn ask(&mut self, asks: &[Ask], limit: Duration) -> Result<Vec<Grant>, Status> {
        let descriptor = |ask: &Ask| {
            let mut entries = entries(&ask.of);
            let extra = [(HELD, ask.held), (RETURNED, ask.returned)].into_iter().filter(|(_, count)| *count > 0);
            entries.extend(extra.map(|(key, count)| Entry { key: key.to_owned(), value: count.to_string() }));
            RateLimitDescriptor { entries, hits_addend: Some(UInt64Value { value: ask.wanted }), ..RateLimitDescriptor::default() }
        };
        let descriptors = asks.iter().map(descriptor).collect();
        let mut request = Request::new(RateLimitRequest { domain: LEASE_DOMAIN.to_owned(), descriptors, hits_addend: 0 });
        if let Some(workload) = &self.workload {
            request.metadata_mut().insert(WORKLOAD, workload.clone());
        }
        let answer = tokio::time::timeout(limit, self.client.should_rate_limit(request)).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded("the control plane did not answer in time"))??.into_inner();
        if answer.statuses.len() != asks.len() {
            return Err(Status::internal(format!("{} answers to {} questions", answer.statuses.len(), asks.len())));
        }
        let proxies: BTreeMap<String, u32> = answer.dynamic_metadata.as_ref().and_then(|told| from_struct(told).ok()).unwrap_or_default();
        let grant = |(ask, status): (&Ask, DescriptorStatus)| Grant {
            tokens: status.quota.map(|quota| u64::from(quota.requests)),
            wait: status.duration_until_reset.as_ref().map(time).unwrap_or_default(),
            proxies: proxies.get(&ask.of.limit).copied().unwrap_or(1),
        };
        Ok(asks.iter().zip(answer.statuses).map(grant).collect())
    }
}

fn time(duration: &protobuf::Duration) -> Duration {
    let seconds = u64::try_from(duration.seconds).unwrap_or(0);
    Duration::new(seconds, u32::try_from(duration.nanos).unwrap_or(0).min(999_999_999))
}

/// The question for an existing service, as the body of a call of gRPC.
#[must_use]
pub fn question(domain: &str, descriptors: &[Descriptor]) -> Bytes {
    let descriptors = descriptors.iter().map(|of| RateLimitDescriptor { entries: entries(of), ..RateLimitDescriptor::default() });
    let request = RateLimitRequest { domain: domain.to_owned(), descriptors: descriptors.collect(), hits_addend: 0 };
    framed(&request)
}

/// What an existing service said of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Which of the descriptors are over their limit, and for how long.
    pub over: Vec<(usize, Duration)>,
    /// Whether the request is to be refused.
    pub refused: bool,
    /// What its caller is told then.
    pub told: Vec<(String, String)>,
}

/// The answer in the body of a call of gRPC; none where it is not one whole message.
#[must_use]
pub fn said(body: &[u8]) -> Option<Said> {
    let answer: RateLimitResponse = unframed(body)?;
    let over = answer.statuses.iter().enumerate().filter(|(_, status)| status.code == i32::from(Code::OverLimit));
    let over = over.map(|(index, status)| (index, status.duration_until_reset.as_ref().map(time).unwrap_or_default())).collect();
    let told = answer.response_headers_to_add.into_iter().map(|header| (header.key, header.value)).collect();
    Some(Said { over, refused: answer.overall_code == i32::from(Code::OverLimit), told })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prost::Message;

    use super::*;
    use crate::grpc::PREFIX;

    struct One;

    impl Ledger for One {
        fn take(&self, of: &Descriptor, hits: u64) -> Taken {
            match of.limit.as_str() {
                "p.n/l" if hits <= 5 => Taken::Passes(5 - hits),
                "p.n/l" => Taken::Over { wait: Duration::from_millis(1500), told: vec![("retry-after", "2".to_owned())] },
                _ => Taken::Unknown,
            }
        }
        fn lend(&self, _: &WorkloadName, ask: &Ask) -> Grant {
            let tokens = (ask.of.limit == "p.n/l").then(|| ask.wanted - ask.held + ask.returned);
            Grant { tokens, wait: Duration::from_millis(3), proxies: 4 }
        }
    }

    fn descriptor(limit: &str) -> Descriptor {
        Descriptor { limit: limit.to_owned(), key: vec![("path".to_owned(), "/a".to_owned())] }
    }

    fn request(domain: &str, descriptors: &[(Descriptor, u64)]) -> Request<RateLimitRequest> {
        let one = |(of, hits): &(Descriptor, u64)| RateLimitDescriptor {
            entries: entries(of),
            hits_addend: Some(UInt64Value { value: *hits }),
            ..RateLimitDescriptor::default()
        };
        Request::new(RateLimitRequest { domain: domain.to_owned(), descriptors: descriptors.iter().map(one).collect(), hits_addend: 0 })
    }

    #[tokio::test]
    async fn each_descriptor_is_answered() {
        let service = Service(Arc::new(One));
        let asked = request(DOMAIN, &[(descriptor("p.n/l"), 2), (descriptor("p.n/l"), 6), (descriptor("p.n/none"), 1)]);
        let answer = service.should_rate_limit(asked).await.unwrap().into_inner();
        assert_eq!(answer.overall_code, i32::from(Code::OverLimit));
        let codes: Vec<_> = answer.statuses.iter().map(|status| (status.code, status.limit_remaining)).collect();
        assert_eq!(codes, [(1, 3), (2, 0), (0, 0)]);
        assert_eq!(answer.statuses[1].duration_until_reset.as_ref().map(time), Some(Duration::from_secs(2)));
        assert_eq!(answer.response_headers_to_add[0].key, "retry-after");
        let message = service.should_rate_limit(request("envoy", &[])).await.unwrap_err().message().to_owned();
        assert!(message.contains("`envoy`"), "{message}");
        service.should_rate_limit(request(LEASE_DOMAIN, &[])).await.unwrap_err();
    }

    #[test]
    fn a_question_for_tokens_says_what_is_held() {
        let mut asked = entries(&descriptor("p.n/l"));
        asked.push(Entry { key: HELD.to_owned(), value: "3".to_owned() });
        asked.push(Entry { key: RETURNED.to_owned(), value: "1".to_owned() });
        let descriptor =
            |entries| RateLimitDescriptor { entries, hits_addend: Some(UInt64Value { value: 10 }), ..RateLimitDescriptor::default() };
        let answer = lent(&One, &"a-1.n".parse().unwrap(), vec![descriptor(asked), descriptor(Vec::new())]);
        assert_eq!(answer.statuses[0].quota.as_ref().map(|quota| quota.requests), Some(8));
        assert_eq!(answer.statuses[1].quota, None);
        let proxies: BTreeMap<String, u32> = from_struct(&answer.dynamic_metadata.unwrap()).unwrap();
        assert_eq!(proxies, [("p.n/l".to_owned(), 4)].into());
    }

    #[test]
    fn an_existing_service_is_asked_and_understood() {
        let body = question("shop", &[descriptor("per-user")]);
        let asked = RateLimitRequest::decode(&body[PREFIX..]).unwrap();
        assert_eq!((asked.domain.as_str(), split(asked.descriptors[0].entries.clone()).unwrap().0), ("shop", descriptor("per-user")));
        let answer = RateLimitResponse {
            overall_code: Code::OverLimit.into(),
            statuses: vec![DescriptorStatus {
                code: Code::OverLimit.into(),
                duration_until_reset: Some(encode::duration(Duration::from_secs(7))),
                ..DescriptorStatus::default()
            }],
            ..RateLimitResponse::default()
        };
        let mut body = vec![0; PREFIX];
        body[4] = u8::try_from(answer.encoded_len()).unwrap();
        body.extend(answer.encode_to_vec());
        assert_eq!(said(&body), Some(Said { over: vec![(0, Duration::from_secs(7))], refused: true, told: Vec::new() }));
        for broken in [&body[..body.len() - 1], &body[..3], &[1, 0, 0, 0, 0], &[]] {
            assert_eq!(said(broken), None);
        }
    }
}
