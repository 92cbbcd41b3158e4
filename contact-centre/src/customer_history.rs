//! customer-history: who a customer is and which calls he made, over HTTP.
//!
//! `GET /customers/{id}` and `POST /customers/{id}/calls`. The customers are there from the start, the same in every
//! instance; only their calls are added, the oldest making room. It calls nobody.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::flags::Flags;
use crate::program::{Failure, run_service};
use crate::refusal::{Refusal, check_name};
use crate::serving::{router, serve_http};

/// Calls kept per customer; the oldest goes first.
const MOST_CALLS: usize = 20;

const FIRST_NAMES: [&str; 8] = ["Ada", "Bilal", "Chiara", "Deniz", "Elif", "Felix", "Grace", "Hugo"];
const LAST_NAMES: [&str; 7] = ["Aksoy", "Berger", "Costa", "Dubois", "Evans", "Fischer", "García"];
const LANGUAGES: [&str; 5] = ["en", "de", "tr", "es", "fr"];
const TIERS: [&str; 3] = ["standard", "silver", "gold"];

/// How the service is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many customers there are: `c0001` and on.
    pub customers: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { customers: 1000 }
    }
}

/// A customer, as `GET /customers/{id}` answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Customer {
    /// `c0001` and on.
    pub id: String,
    /// First and last name.
    pub name: String,
    /// Two-letter code of the language to speak.
    pub language: String,
    /// `standard`, `silver` or `gold`.
    pub tier: String,
    /// The last calls, oldest first.
    pub last_calls: VecDeque<PastCall>,
}

/// A call that a customer made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PastCall {
    /// The call.
    pub call_id: String,
    /// What it was about.
    pub skill: String,
    /// How long it took.
    pub seconds: u32,
}

#[derive(Clone)]
struct Customers(Arc<Mutex<HashMap<String, Customer>>>);

/// The name of the customer with this number, counted from 1.
pub fn customer_id(number: u32) -> String {
    format!("c{number:04}")
}

/// Serves until `shutdown` resolves and requests in flight are answered.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: TcpListener, config: Config, shutdown: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let router = router()
        .route("/customers/{id}", get(show))
        .route("/customers/{id}/calls", post(add_call))
        .with_state(Customers::new(config.customers));
    serve_http(listener, router, shutdown).await
}

pub(crate) fn start(args: impl Iterator<Item = String>) -> Result<(), Failure> {
    let flags = Flags::parse("customer-history", &["listen", "customers"], args)?;
    let listen: SocketAddr = flags.get_or("listen", "0.0.0.0:80")?;
    let config = Config { customers: flags.get_or("customers", "1000")? };
    if !(1..=100_000).contains(&config.customers) {
        return Err(Failure::Usage("`--customers` must be 1 to 100000".to_owned()));
    }
    run_service("customer-history", listen, |listener, stop| serve(listener, config, stop))
}

async fn show(State(customers): State<Customers>, Path(id): Path<String>) -> Result<Json<Customer>, Refusal> {
    customers.lock().get(&id).cloned().map(Json).ok_or_else(|| unknown(&id))
}

async fn add_call(
    State(customers): State<Customers>,
    Path(id): Path<String>,
    call: Result<Json<PastCall>, JsonRejection>,
) -> Result<(StatusCode, Json<Customer>), Refusal> {
    let Json(call) = call?;
    check_name("call_id", &call.call_id)?;
    check_name("skill", &call.skill)?;
    let mut customers = customers.lock();
    let customer = customers.get_mut(&id).ok_or_else(|| unknown(&id))?;
    if customer.last_calls.len() == MOST_CALLS {
        customer.last_calls.pop_front();
    }
    customer.last_calls.push_back(call);
    Ok((StatusCode::CREATED, Json(customer.clone())))
}

fn unknown(id: &str) -> Refusal {
    Refusal::not_found(format!("no customer `{id}`"))
}

impl Customers {
    fn new(count: u32) -> Self {
        let pick = |list: &[&str], number: u32| {
            let index = number as usize % list.len();
            list.get(index).copied().unwrap_or_default().to_owned()
        };
        let customer = |number: u32| Customer {
            id: customer_id(number),
            // The list lengths have no common divisor, so that names repeat late.
            name: format!("{} {}", pick(&FIRST_NAMES, number), pick(&LAST_NAMES, number)),
            language: pick(&LANGUAGES, number),
            tier: pick(&TIERS, number),
            last_calls: VecDeque::new(),
        };
        let all = (1..=count).map(customer).map(|customer| (customer.id.clone(), customer)).collect();
        Self(Arc::new(Mutex::new(all)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Customer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
