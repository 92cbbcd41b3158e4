//! Lorica's proxy held against a stock Envoy: one control plane, the same resources, the same requests; what becomes of each must be the same.
//!
//! Compared are the answer's status and fields, the backend that answered and the request as it saw it, copies, and what both access logs say. What
//! is by nature each one's own is left out by name (`rig.rs`), what differs on purpose by name and reason (`deliberate.rs`, docs/gateways.md).
//! What is drawn by chance is compared by statistics (`shares.rs`).
//!
//! `LORICA_DIFFERENTIAL_CASES` asks for more route sets than the usual run has, `LORICA_DIFFERENTIAL_SEED` for those of another run.

mod attempts;
mod backends;
mod client;
mod deliberate;
mod generate;
mod limited;
mod picked;
mod rig;
mod shares;
mod sidecars;

use anyhow::{Context as _, bail};
use lorica_model::resource::{Options, Resources, Severity, check, read};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use rig::Rig;

/// How many route sets a usual run has: about 20 s.
const CASES: u32 = 80;

#[tokio::test]
async fn requests_picked_by_hand() -> anyhow::Result<()> {
    picked::run().await
}

#[tokio::test]
async fn retries_and_times_of_a_policy() -> anyhow::Result<()> {
    attempts::run().await
}

#[tokio::test]
async fn limits_and_ejection_of_a_policy() -> anyhow::Result<()> {
    limited::run().await
}

#[tokio::test]
async fn weights_and_percentages() -> anyhow::Result<()> {
    shares::run().await
}

#[tokio::test]
async fn sidecars_by_routes_of_producer_and_consumer() -> anyhow::Result<()> {
    sidecars::run().await
}

#[test]
#[expect(clippy::print_stdout, reason = "a run that is ended from outside says no other way what it did")]
fn generated_routes_and_requests() -> anyhow::Result<()> {
    let asked = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().with_context(|| format!("{name}={text}"))).transpose();
    let seed = asked("LORICA_DIFFERENTIAL_SEED")?.map_or_else(fresh, Ok)?;
    let cases = asked("LORICA_DIFFERENTIAL_CASES")?.map_or(Ok(CASES), u32::try_from)?;
    println!("LORICA_DIFFERENTIAL_SEED={seed} LORICA_DIFFERENTIAL_CASES={cases}");

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Some(rig) = runtime.block_on(Rig::start(&["a", "b", "c", "m", "n", "ga", "gb", "gm"]))? else { return Ok(()) };
    let world = world(&Rig::base(&rig.backends))?;
    let rig = tokio::sync::Mutex::new(rig);
    let differences = |case: &generate::Case| {
        runtime.block_on(async {
            let mut rig = rig.lock().await;
            rig.apply(&case.resources()).await?;
            anyhow::Ok(deliberate::differences(&rig.compare(&case.requests()).await?))
        })
    };
    let config = Config { cases, failure_persistence: None, max_global_rejects: cases * 100, max_shrink_iters: 600, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let ran = runner.run(&generate::case(), |case| {
        if !is_taken(&case.resources(), &world) {
            return Err(TestCaseError::reject("it would be refused"));
        }
        match differences(&case) {
            Ok(found) if found.is_empty() => Ok(()),
            Ok(found) => Err(TestCaseError::fail(found.join("\n"))),
            Err(error) => Err(TestCaseError::fail(format!("{error:#}"))),
        }
    });
    match ran {
        Ok(()) => runtime.block_on(rig.into_inner().finish()),
        Err(TestError::Fail(why, case)) => bail!("with LORICA_DIFFERENTIAL_SEED={seed}:\n{case:?}\n{why}"),
        Err(TestError::Abort(why)) => bail!("with LORICA_DIFFERENTIAL_SEED={seed}: {why}"),
    }
}

/// A seed that no run had before.
fn fresh() -> anyhow::Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_nanos() % 1_000_000_007)?)
}

fn world(text: &str) -> anyhow::Result<Resources> {
    let mut world = Resources::default();
    let documents = read("base", text).map_err(|found| anyhow::anyhow!("{found:?}"))?;
    documents.into_iter().for_each(|document| drop(world.insert(document.resource)));
    Ok(world)
}

/// Whether `lorica apply --allow-missing` would take it: what a user could not write is no case.
fn is_taken(text: &str, world: &Resources) -> bool {
    read("case", text).is_ok_and(|documents| {
        let found = check(&documents, world, Options { allow_missing: true }, |_| text.to_owned());
        found.iter().all(|found| found.severity == Severity::Warning)
    })
}
