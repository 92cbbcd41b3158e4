//! A whole control plane counts requests: for Envoys, which ask by the standard protocol, and for Lorica's proxies, which borrow.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use lorica_api::{ApiClient, ApplyRequest, NamedText, Server};
use lorica_control::ControlConfig;
use lorica_xds::rate_limit::{Ask, Borrower, Descriptor};
use lorica_xds::wire::rate_limit_descriptor::Entry;
use lorica_xds::wire::rate_limit_response::Code;
use lorica_xds::wire::rate_limit_service_client::RateLimitServiceClient;
use lorica_xds::wire::{RateLimitDescriptor, RateLimitRequest, RateLimitResponse};
use tokio::sync::oneshot;
use tonic::transport::Channel;

/// Only a test that fails waits as long.
const PATIENCE: Duration = Duration::from_secs(20);

const POLICY: &str = "
apiVersion: lorica.io/v1alpha1
kind: RateLimitPolicy
metadata: {name: all, namespace: shop}
spec:
  limits:
  - {name: per-user, scope: Global, requests: 3, per: 1h, key: [{header: x-user}]}
  - {name: only-seen, scope: Global, requests: 1, per: 1h, mode: Shadow}
  - {name: own, requests: 1, per: 1h}
";

fn channel(socket: PathBuf) -> Channel {
    tonic::transport::Endpoint::from_static("http://control.lorica").connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    }))
}

/// Runs a control plane with the policy while `test` goes on.
async fn with_policy(directory: &Path, test: impl AsyncFnOnce(Channel, &ApiClient)) {
    let config = ControlConfig {
        state_directory: directory.join("state"),
        socket: directory.join("control.sock"),
        workload_socket: directory.join("workload.sock"),
        trust_domain: None,
        svid_lifetime: lorica_control::SVID_LIFETIME,
        own_ca: None,
        telemetry: None,
        kept: lorica_control::telemetry::kept::KeptConfig::default(),
        listen: None,
        kubernetes: None,
        bundle_endpoint: None,
        bundle_refresh: Duration::from_secs(300),
    };
    let socket = config.socket.clone();
    let (ready, is_ready) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(lorica_control::run(config, move |_| ready.send(()).unwrap(), async move {
        stopped.await.ok();
    }));
    tokio::time::timeout(PATIENCE, is_ready).await.expect("it starts in time").expect("it starts");
    let api = ApiClient::new(Server::Unix(socket.clone()));
    apply(&api, POLICY).await;
    test(channel(socket), &api).await;
    stop.send(()).unwrap();
    tokio::time::timeout(PATIENCE, task).await.expect("it ends in time").unwrap().unwrap();
}

async fn apply(api: &ApiClient, text: &str) {
    let files = vec![NamedText { name: "limits.yaml".to_owned(), text: text.to_owned() }];
    api.apply(&ApplyRequest { files, ..ApplyRequest::default() }, PATIENCE).await.unwrap();
}

fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entry = |(key, value): &(&str, &str)| Entry { key: (*key).to_owned(), value: (*value).to_owned() };
    RateLimitDescriptor { entries: entries.iter().map(entry).collect(), ..RateLimitDescriptor::default() }
}

async fn ask(channel: &Channel, descriptors: &[RateLimitDescriptor]) -> RateLimitResponse {
    let request = RateLimitRequest { domain: "lorica".to_owned(), descriptors: descriptors.to_vec(), hits_addend: 0 };
    RateLimitServiceClient::new(channel.clone()).should_rate_limit(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn envoys_are_answered_by_the_standard_protocol() {
    let directory = tempfile::tempdir().unwrap();
    with_policy(directory.path(), async |channel, api| {
        let ann = descriptor(&[("limit", "all.shop/per-user"), ("header:x-user", "ann")]);
        let ben = descriptor(&[("limit", "all.shop/per-user"), ("header:x-user", "ben")]);
        for remaining in [2, 1, 0] {
            let answer = ask(&channel, std::slice::from_ref(&ann)).await;
            assert_eq!((answer.overall_code, answer.statuses[0].limit_remaining), (Code::Ok.into(), remaining));
        }
        let answer = ask(&channel, &[ben.clone(), ann.clone()]).await;
        assert_eq!(answer.overall_code, i32::from(Code::OverLimit));
        assert_eq!(answer.statuses.iter().map(|status| status.code).collect::<Vec<_>>(), [1, 2]);
        let told: Vec<_> = answer.response_headers_to_add.iter().map(|header| header.key.as_str()).collect();
        assert_eq!(told, ["retry-after", "ratelimit", "ratelimit-policy"]);
        assert_eq!(answer.response_headers_to_add[2].value, "\"per-user\";q=3;w=3600");
        // A shadow refuses nothing; what is no global limit is not counted here.
        let (seen, own) = (descriptor(&[("limit", "all.shop/only-seen")]), descriptor(&[("limit", "all.shop/own")]));
        for _ in 0..3 {
            let answer = ask(&channel, &[seen.clone(), own.clone(), descriptor(&[("user", "ann")])]).await;
            assert_eq!(answer.statuses.iter().map(|status| status.code).collect::<Vec<_>>(), [1, 0, 0]);
        }
        // A limit that is changed holds from the next question on, and begins anew.
        apply(api, &POLICY.replace("requests: 3", "requests: 1")).await;
        let codes =
            [ask(&channel, std::slice::from_ref(&ann)).await.overall_code, ask(&channel, std::slice::from_ref(&ann)).await.overall_code];
        assert_eq!(codes, [1, 2]);
    })
    .await;
}

#[tokio::test]
async fn proxies_borrow_and_envoys_ask_of_the_same_bucket() {
    let directory = tempfile::tempdir().unwrap();
    with_policy(directory.path(), async |channel, _| {
        let of = Descriptor { limit: "all.shop/per-user".to_owned(), key: vec![("header:x-user".to_owned(), "ann".to_owned())] };
        let mut one = Borrower::new(&"edge-1.shop".parse().unwrap(), channel.clone());
        let mut two = Borrower::new(&"edge-2.shop".parse().unwrap(), channel.clone());
        let asks = |wanted, returned| [Ask { of: of.clone(), wanted, held: 0, returned }];
        let got = one.ask(&asks(1, 0), PATIENCE).await.unwrap()[0];
        assert_eq!((got.tokens, got.proxies), (Some(1), 1));
        let got = two.ask(&asks(5, 0), PATIENCE).await.unwrap()[0];
        assert_eq!((got.tokens, got.proxies), (Some(1), 2));
        let ann = descriptor(&[("limit", "all.shop/per-user"), ("header:x-user", "ann")]);
        assert_eq!(ask(&channel, std::slice::from_ref(&ann)).await.overall_code, i32::from(Code::Ok));
        assert_eq!(ask(&channel, std::slice::from_ref(&ann)).await.overall_code, i32::from(Code::OverLimit));
        // What was not spent is there again.
        one.ask(&asks(0, 1), PATIENCE).await.unwrap();
        assert_eq!(ask(&channel, std::slice::from_ref(&ann)).await.overall_code, i32::from(Code::Ok));
        let gone = Ask { of: Descriptor { limit: "all.shop/none".to_owned(), key: Vec::new() }, wanted: 1, held: 0, returned: 0 };
        assert_eq!(one.ask(&[gone], PATIENCE).await.unwrap()[0].tokens, None);
    })
    .await;
}
