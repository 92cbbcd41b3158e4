//! recording: keeps the recordings of calls, over HTTP, in two versions.
//!
//! Recordings are kept in memory, the oldest making room and being counted. Every answer names the version in
//! `x-recording-version`. Version 2 has a bug that can be switched on (`PUT /bug`): storing then fails with 500, while
//! everything else works. Version 1 has no such switch. It calls nobody.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use futures_util::stream;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::flags::Flags;
use crate::program::{Failure, run_service};
use crate::refusal::{Refusal, check_name};
use crate::serving::{router, serve_http};

/// The header that names the version on every answer.
pub const VERSION_HEADER: &str = "x-recording-version";
/// Recordings in one list, the newest.
const MOST_LISTED: usize = 100;
const AUDIO_CHUNK: usize = 8 * 1024;
const AUDIO_CHUNKS: u64 = 8;

/// Which of the two programs this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one that works.
    V1,
    /// The one with the bug.
    V2,
}

/// How the service is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Version; v1 unless told.
    pub version: Version,
    /// Whether the bug of version 2 is on from the start.
    pub bug: bool,
    /// Recordings kept. The default of 10,000 is some ten minutes of the demo, about 2 MiB.
    pub most_kept: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { version: Version::V1, bug: false, most_kept: 10_000 }
    }
}

/// A recording to store, as `POST /recordings` takes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewRecording {
    /// The call.
    pub call_id: String,
    /// Who called.
    pub customer: String,
    /// Who took the call; none if it waits in a queue.
    pub agent: Option<String>,
    /// Length of the call.
    pub seconds: u32,
}

/// A stored recording.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recording {
    /// Identifies the recording among those of all instances.
    pub id: String,
    /// What was stored.
    #[serde(flatten)]
    pub what: NewRecording,
}

/// What `GET /recordings` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Listing {
    /// The newest 100 that fit, oldest first.
    pub recordings: Vec<Recording>,
    /// Recordings that made room for newer ones since the start, of any customer.
    pub dropped: u64,
}

/// The switch, as `PUT /bug` takes and answers it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Bug {
    /// Whether storing fails.
    pub on: bool,
}

struct Archive {
    config: Config,
    bug: AtomicBool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    recordings: VecDeque<Recording>,
    dropped: u64,
}

type Shared = State<Arc<Archive>>;

/// Serves until `shutdown` resolves and requests in flight are answered.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let version = HeaderValue::from_static(config.version.name());
    let mut router = router()
        .route("/recordings", post(store).get(list))
        .route("/recordings/{id}", get(show))
        .route("/recordings/{id}/audio", get(play));
    if config.version == Version::V2 {
        router = router.route("/bug", put(switch_bug).get(show_bug));
    }
    let archive = Archive { bug: AtomicBool::new(config.bug), config, kept: Mutex::default() };
    let router = router.with_state(Arc::new(archive)).fallback(nothing_there).layer(map_response(move |mut response: Response| {
        response.headers_mut().insert(VERSION_HEADER, version.clone());
        std::future::ready(response)
    }));
    serve_http(listener, router, shutdown).await
}

pub(crate) fn start(args: impl Iterator<Item = String>) -> Result<(), Failure> {
    let flags = Flags::parse("recording", &["listen", "version", "bug"], args)?;
    let listen: SocketAddr = flags.get_or("listen", "0.0.0.0:80")?;
    let version: Version = flags.get_or("version", "v1")?;
    let bug = match flags.get::<String>("bug")?.as_deref() {
        None | Some("off") => false,
        Some("on") if version == Version::V2 => true,
        Some("on") => {
            return Err(Failure::Usage("`--bug on`: only v2 has the bug\nhint: add --version v2".to_owned()));
        }
        Some(other) => {
            return Err(Failure::Usage(format!("`--bug {other}`: expected on or off")));
        }
    };
    let title = format!("recording {version}");
    run_service(&title, listen, |listener, stop| serve(listener, Config { version, bug, ..Config::default() }, stop))
}

async fn store(State(archive): Shared, new: Result<Json<NewRecording>, JsonRejection>) -> Result<(StatusCode, Json<Recording>), Refusal> {
    let Json(what) = new?;
    check_name("call_id", &what.call_id)?;
    check_name("customer", &what.customer)?;
    if let Some(agent) = &what.agent {
        check_name("agent", agent)?;
    }
    if archive.bug.load(Ordering::Relaxed) {
        return Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the recording could not be stored"));
    }
    let recording = Recording { id: format!("rec-{:016x}", fastrand::u64(..)), what };
    archive.keep(recording.clone());
    Ok((StatusCode::CREATED, Json(recording)))
}

#[derive(Deserialize)]
struct Filter {
    customer: Option<String>,
}

async fn list(State(archive): Shared, filter: Result<Query<Filter>, QueryRejection>) -> Result<Json<Listing>, Refusal> {
    let Query(filter) = filter.map_err(|rejection| Refusal::bad_request(rejection.body_text()))?;
    let fits = |recording: &&Recording| filter.customer.as_ref().is_none_or(|wanted| *wanted == recording.what.customer);
    let kept = archive.kept();
    let mut recordings: Vec<Recording> = kept.recordings.iter().rev().filter(fits).take(MOST_LISTED).cloned().collect();
    recordings.reverse();
    Ok(Json(Listing { recordings, dropped: kept.dropped }))
}

async fn show(State(archive): Shared, Path(id): Path<String>) -> Result<Json<Recording>, Refusal> {
    archive.find(&id).map(Json)
}

/// 64 KiB in eight chunks, the same for the same recording.
async fn play(State(archive): Shared, Path(id): Path<String>) -> Result<Response, Refusal> {
    let recording = archive.find(&id)?;
    let seed = recording.id.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut noise = fastrand::Rng::with_seed(seed);
    let chunks = (0..AUDIO_CHUNKS).map(move |_| {
        let chunk: Vec<u8> = std::iter::repeat_with(|| noise.u8(..)).take(AUDIO_CHUNK).collect();
        Ok::<Bytes, Infallible>(Bytes::from(chunk))
    });
    Ok(([(CONTENT_TYPE, "audio/basic")], Body::from_stream(stream::iter(chunks))).into_response())
}

async fn switch_bug(State(archive): Shared, bug: Result<Json<Bug>, JsonRejection>) -> Result<Json<Bug>, Refusal> {
    let Json(bug) = bug?;
    archive.bug.store(bug.on, Ordering::Relaxed);
    Ok(Json(bug))
}

async fn show_bug(State(archive): Shared) -> Json<Bug> {
    Json(Bug { on: archive.bug.load(Ordering::Relaxed) })
}

async fn nothing_there() -> Refusal {
    Refusal::not_found("nothing at this path")
}

impl Archive {
    fn keep(&self, recording: Recording) {
        let mut kept = self.kept();
        kept.recordings.push_back(recording);
        if kept.recordings.len() > self.config.most_kept {
            kept.recordings.pop_front();
            kept.dropped += 1;
        }
    }

    fn find(&self, id: &str) -> Result<Recording, Refusal> {
        let kept = self.kept();
        let found = kept.recordings.iter().rev().find(|recording| recording.id == id);
        found.cloned().ok_or_else(|| Refusal::not_found(format!("no recording `{id}`")))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Version {
    /// `v1` or `v2`.
    pub const fn name(self) -> &'static str {
        match self {
            Version::V1 => "v1",
            Version::V2 => "v2",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Version {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "v1" => Ok(Version::V1),
            "v2" => Ok(Version::V2),
            _ => Err("expected v1 or v2"),
        }
    }
}
