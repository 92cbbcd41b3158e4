//! An existing rate limit service is asked for each request. In flow what proxies ask by the standard protocol; out flow their callers' answers,
//! from Lorica's proxy and from a stock Envoy alike.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use lorica_xds::wire::rate_limit_response::{Code, DescriptorStatus};
use lorica_xds::wire::rate_limit_service_server::{RateLimitService, RateLimitServiceServer};
use lorica_xds::wire::{RateLimitRequest, RateLimitResponse};
use testbed::{EchoServer, Envoy, Mesh, PATIENCE, eventually, run_gateway};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::{ask, edge, policy, statuses};

/// A rate limit service in the test: two requests for each descriptor.
#[derive(Clone, Default)]
struct Two(Arc<Mutex<HashMap<String, u32>>>);

#[tonic::async_trait]
impl RateLimitService for Two {
    async fn should_rate_limit(&self, request: Request<RateLimitRequest>) -> Result<Response<RateLimitResponse>, Status> {
        let RateLimitRequest { domain, descriptors, .. } = request.into_inner();
        if domain != "shop-limits" {
            return Err(Status::invalid_argument(format!("the domain {domain}")));
        }
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answer = RateLimitResponse { overall_code: Code::Ok.into(), ..RateLimitResponse::default() };
        for descriptor in descriptors {
            let key: Vec<String> = descriptor.entries.iter().map(|entry| format!("{}={}", entry.key, entry.value)).collect();
            let count = counts.entry(key.join(",")).or_default();
            *count += 1;
            let code = if *count > 2 { Code::OverLimit } else { Code::Ok };
            if code == Code::OverLimit {
                answer.overall_code = code.into();
            }
            answer.statuses.push(DescriptorStatus { code: code.into(), ..DescriptorStatus::default() });
        }
        Ok(Response::new(answer))
    }
}

impl Two {
    /// Where it listens. It ends with the test.
    async fn start(&self) -> anyhow::Result<SocketAddr> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let at = listener.local_addr()?;
        let serving = tonic::transport::Server::builder().add_service(RateLimitServiceServer::new(self.clone()));
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(at)
    }

    fn counts(&self) -> HashMap<String, u32> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whoever asks has a second: machines under test are slow.
const LIMITS: &str =
    "{targetRefs: [{kind: Gateway, name: edge}], service: {name: counter, port: 80, domain: shop-limits, timeout: 1s}, limits: [
  {name: per-user, scope: Service, key: [{header: x-user}], match: {path: {value: /user}}}]}";

#[tokio::test]
async fn a_proxy_asks_an_existing_service() -> anyhow::Result<()> {
    let mesh = Mesh::options().without_control()?;
    let (web, two) = (EchoServer::start("web").await?, Two::default());
    let counter = two.start().await?;
    let text = |limits: &str| edge(web.address()) + &testbed::service("counter", "grpc", counter) + &policy("edge", limits);
    let (proxy, at) = run_gateway(&mesh, &text(LIMITS), &[80], &[]).await?;
    assert_eq!(statuses(at[0], 3, "/user", &[("x-user", "ann")]).await?, [200, 200, 429]);
    assert_eq!(statuses(at[0], 1, "/user", &[("x-user", "ben")]).await?, [200]);
    assert_eq!(statuses(at[0], 4, "/free", &[]).await?, [200; 4]);
    let refused = ask(at[0], "/user", &[("x-user", "ann")]).await?;
    assert_eq!((refused.header("x-lorica-reason"), refused.header("retry-after")), (Some("rate_limited"), Some("1")));
    let expected = [("limit=per-user,header:x-user=ann", 4), ("limit=per-user,header:x-user=ben", 1)];
    assert_eq!(two.counts(), expected.map(|(key, count)| (key.to_owned(), count)).into());
    proxy.running.stop().await?;

    // One that does not answer lets requests pass, or none, as the policy says.
    for (limits, status) in [(LIMITS.to_owned(), 200), (LIMITS.replace("timeout: 1s", "timeout: 1s, failOpen: false"), 500)] {
        let gone = edge(web.address()) + &testbed::service("counter", "grpc", testbed::Port::free()?.address()) + &policy("edge", &limits);
        let (proxy, at) = run_gateway(&mesh, &gone, &[80], &[]).await?;
        let reply = ask(at[0], "/user", &[("x-user", "ann")]).await?;
        assert_eq!(reply.status, status, "{}", reply.text());
        proxy.running.stop().await?;
    }
    mesh.finish().await
}

#[tokio::test]
async fn envoy_asks_the_same_service_the_same() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let (web, two) = (EchoServer::start("web").await?, Two::default());
    let counter = two.start().await?;
    mesh.apply(&(edge(web.address()) + &testbed::service("counter", "grpc", counter) + &policy("edge", LIMITS))).await?;
    let Some(envoy) = Envoy::start(&mesh, &["--gateway", "edge.shop", "--bind", "80=0"]).await? else { return mesh.finish().await };
    let at = envoy.bound(80)?;
    eventually("the gateway serves", PATIENCE, || async {
        let reply = ask(at, "/free", &[]).await?;
        anyhow::ensure!(reply.status == 200, "{}", reply.status);
        Ok(())
    })
    .await?;
    assert_eq!(statuses(at, 3, "/user", &[("x-user", "ann")]).await?, [200, 200, 429]);
    assert_eq!(ask(at, "/user", &[("x-user", "ann")]).await?.header("x-lorica-reason"), Some("rate_limited"));
    assert_eq!(two.counts(), [("limit=per-user,header:x-user=ann".to_owned(), 4)].into());
    envoy.refused_nothing(&mesh, &["listener_manager.lds.", ".rds."]).await?;
    envoy.running.stop().await?;
    mesh.finish().await
}
