//! Two services in the mesh, `front` and `back`: the app of the first calls the second for each request. And what came to them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use testbed::{Mesh, Output, PATIENCE, Port, Running, eventually, http_send};
use tokio::net::TcpListener;

/// What an app does with a request, and what came to it.
#[derive(Clone)]
pub(crate) struct App {
    /// Whom it calls.
    next: Option<SocketAddr>,
    /// The next statuses of its answers; 200 after these.
    pub(crate) statuses: Arc<Mutex<VecDeque<u16>>>,
    /// The names and values of fields that came, all in a row.
    pub(crate) fields: Arc<Mutex<Vec<(String, String)>>>,
}

impl App {
    async fn start(next: Option<SocketAddr>) -> anyhow::Result<(SocketAddr, Self)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let app = Self { next, statuses: Arc::default(), fields: Arc::default() };
        let serving = app.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let app = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let app = app.clone();
                        async move { Ok::<_, Infallible>(app.answer(request).await) }
                    });
                    // A proxy may close whenever it likes.
                    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Ok((address, app))
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        self.fields.lock().unwrap().extend(request.headers().iter().map(|(name, value)| (name.to_string(), text(value))));
        let status = self.statuses.lock().unwrap().pop_front().unwrap_or(200);
        let Some(next) = self.next else {
            return Response::builder()
                .status(status)
                .header("set-cookie", "secret=answer")
                .header("x-app", "back")
                .body(Full::default())
                .unwrap();
        };
        let id = request.headers().get("x-request-id").map(text).unwrap_or_default();
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let onward = Request::get(path).header("host", "back.shop").header("x-request-id", id).body(Full::default()).unwrap();
        match http_send(next, onward).await {
            Ok(reply) => Response::builder().status(reply.status).body(Full::default()).unwrap(),
            Err(_) => Response::builder().status(599).body(Full::default()).unwrap(),
        }
    }

    pub(crate) fn saw(&self, name: &str) -> Vec<String> {
        let fields = self.fields.lock().unwrap();
        fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }
}

/// The two of them, with addresses at which a client's proxy takes calls to them.
pub(crate) struct Shop {
    pub(crate) mesh: Mesh,
    pub(crate) front: App,
    pub(crate) back: App,
    pub(crate) to_front: Port,
    pub(crate) to_back: Port,
    running: Vec<Running>,
    _front_to_back: Port,
}

impl Shop {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let mesh = Mesh::start().await?;
        let (to_front, to_back, front_to_back) = (Port::free()?, Port::free()?, Port::free()?);
        let (back_at, back) = App::start(None).await?;
        let (front_at, front) = App::start(Some(front_to_back.address())).await?;
        let mut running = Vec::new();
        let serving = mesh.service("back.shop").no_capture().port(&format!("80:{}/http", back_at.port()));
        running.push(serving.start(["sleep", "1000"])?);
        let upstream = format!("back.shop:80={}", front_to_back.address());
        let serving = mesh.service("front.shop").no_capture().port(&format!("80:{}/http", front_at.port())).upstream(&upstream);
        running.push(serving.start(["sleep", "1000"])?);
        mesh.announced("back.shop", 1).await?;
        mesh.announced("front.shop", 1).await?;
        Ok(Self { mesh, front, back, to_front, to_back, running, _front_to_back: front_to_back })
    }

    /// A client in the mesh that does nothing by itself: its proxy takes the test's calls.
    pub(crate) async fn client(&mut self) -> anyhow::Result<()> {
        let (front, back) = (self.to_front.address(), self.to_back.address());
        let client = self.mesh.client().upstream(&format!("front.shop:80={front}")).upstream(&format!("back.shop:80={back}"));
        self.running.push(client.start(["sleep", "1000"])?);
        for address in [front, back] {
            eventually("there is a way in", PATIENCE, || async { Ok(tokio::net::TcpStream::connect(address).await.map(drop)?) }).await?;
        }
        Ok(())
    }

    /// `lorica explain -- curl` of a path of `front` or `back`, with further arguments of curl.
    pub(crate) async fn explain(&self, service: &str, path: &str, format: &str, curl: &[&str]) -> anyhow::Result<Output> {
        let at = if service == "front" { &self.to_front } else { &self.to_back }.address();
        let (upstream, url, host) = (format!("{service}.shop:80={at}"), format!("http://{at}{path}"), format!("host: {service}.shop"));
        // Proxies have patience, too: what they tell is waited for, and not for longer than it takes.
        let words = ["explain", "--upstream", &upstream, "--wait", "20s", "-o", format, "--", "curl", "-sS", "-D", "-", "-H", &host, &url];
        self.mesh.lorica(words.iter().chain(curl)).await
    }

    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        drop(self.running);
        self.mesh.finish().await
    }
}

/// The hops of a story.
pub(crate) fn hops(story: &Value) -> Vec<&Value> {
    story["hops"].as_array().map(|hops| hops.iter().collect()).unwrap_or_default()
}

/// A hop in short: how deep it is, whose, which side, and its status.
pub(crate) fn short(story: &Value) -> Vec<String> {
    let stem = |proxy: &Value| proxy.as_str().and_then(|proxy| proxy.split('-').next()).unwrap_or_default().to_owned();
    let line =
        |hop: &&Value| format!("{} {} {} {}", hop["depth"], stem(&hop["proxy"]), hop["side"].as_str().unwrap_or_default(), hop["status"]);
    hops(story).iter().map(line).collect()
}
