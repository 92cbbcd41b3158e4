//! What flows between the services, looked at each second: the proxies' metrics in, a rate an edge out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lorica_api::Status;
use lorica_observe::summary::{self, Edge, Rate, Totals};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one proxy may take to answer a scrape.
const SCRAPE: Duration = Duration::from_secs(2);
/// The largest scrape that is read, in bytes.
const MAX_SCRAPE: u64 = 16 * 1024 * 1024;

/// The edges as they were, and as they are.
#[derive(Default)]
pub(crate) struct Sight {
    /// Totals by proxy, so that one that ended does not make the sum fall.
    before: BTreeMap<SocketAddr, BTreeMap<Edge, Totals>>,
    at: Option<Instant>,
    /// What flows now.
    pub(crate) rates: Vec<(Edge, Rate)>,
    /// How many proxies answered.
    pub(crate) proxies: usize,
}

impl Sight {
    /// Looks at every proxy that the control plane knows.
    pub(crate) async fn look(&mut self, status: &Status) {
        let now = Instant::now();
        let mut after = BTreeMap::new();
        for address in status.proxies.iter().filter_map(|proxy| proxy.metrics) {
            // A proxy that ends between two looks is missing from this one.
            if let Ok(Ok(text)) = timeout(SCRAPE, scrape(address)).await {
                let mut edges = BTreeMap::new();
                summary::add(&mut edges, &text);
                after.insert(address, edges);
            }
        }
        let seconds = self.at.map_or(1.0, |at| now.duration_since(at).as_secs_f64());
        let (mut old, mut new): (BTreeMap<Edge, Totals>, BTreeMap<Edge, Totals>) = Default::default();
        for (address, edges) in &after {
            // A proxy's first look is what its numbers are counted from.
            let before = self.before.get(address).unwrap_or(edges);
            edges.iter().for_each(|(edge, totals)| new.entry(edge.clone()).or_default().add(totals));
            edges
                .keys()
                .filter_map(|edge| Some((edge, before.get(edge)?)))
                .for_each(|(edge, totals)| old.entry(edge.clone()).or_default().add(totals));
        }
        self.rates = new.iter().map(|(edge, totals)| (edge.clone(), summary::rate(old.get(edge), totals, seconds))).collect();
        self.proxies = after.len();
        self.before = after;
        self.at = Some(now);
    }
}

async fn scrape(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nhost: proxy\r\n\r\n").await?;
    let mut text = String::new();
    stream.take(MAX_SCRAPE).read_to_string(&mut text).await?;
    Ok(text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}
