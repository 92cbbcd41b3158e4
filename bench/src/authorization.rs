//! What it costs to judge a request by many rules, and to work out once what a caller may do on its connection.

use std::fs;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::Context as _;
use lorica_model::head::{HeadBuilder, RequestHead, Version};
use lorica_model::snapshot::{Access, AccessCaller, Authorization, Permissions};
use lorica_model::spiffe::SpiffeId;
use serde_json::{Value, json};

use crate::report;

/// How many requests a figure is made of.
const REQUESTS: usize = 20_000;

/// The markers between which docs/performance.md is written anew.
const MARKERS: (&str, &str) = ("<!-- authorization: written by `cargo xtask bench authorization` -->\n", "<!-- end of authorization -->\n");

/// Writes a table: rules, nanoseconds a request.
pub(crate) fn run(docs: &Path) -> anyhow::Result<()> {
    let desk = "spiffe://mesh.local/ns/contact/sa/desk".parse()?;
    let mut table = String::from(
        "| rules | one caller's, by path: ns a request | none of them allows it: ns | a caller each: ns | one caller's, by header alone: ns | worked out for a connection: µs |\n|---|---|---|---|---|---|\n",
    );
    for count in [10, 100, 1_000, 4_000] {
        let by_path = policies(
            count,
            |_| "desk".to_owned(),
            |rule| json!({"methods": {"any": ["GET"]}, "paths": {"any": [format!("/service-{rule}/items/{{id}}")]}}),
        )?;
        let by_caller = policies(
            count,
            |rule| if rule == 0 { "desk".to_owned() } else { format!("caller-{rule}") },
            |_| json!({"paths": {"any": ["/*"]}}),
        )?;
        let by_header = policies(
            count,
            |_| "desk".to_owned(),
            |rule| json!({"headers": [{"name": "x-tenant", "value": {"exact": format!("tenant-{rule}")}}]}),
        )?;
        let heads = |path: &dyn Fn(usize) -> String| -> anyhow::Result<Vec<RequestHead>> {
            (0..64).map(|request| request * 37 % count).map(|rule| head(&path(rule), rule)).collect()
        };
        let (known, unknown) = (heads(&|rule| format!("/service-{rule}/items/7"))?, heads(&|rule| format!("/elsewhere-{rule}/items/7"))?);
        let figures = [
            time(&by_path, &desk, &known, true)?,
            time(&by_path, &desk, &unknown, false)?,
            time(&by_caller, &desk, &known, true)?,
            time(&by_header, &desk, &known, true)?,
        ];
        let worked_out = shortest(|| drop(black_box(Permissions::of(by_path.clone(), black_box(&caller(&desk))))));
        let figures: String = figures.map(|figure| format!(" {figure:.0} |")).concat();
        table.push_str(&format!("| {count} |{figures} {:.0} |\n", worked_out / 1e3));
    }
    print!("{table}");
    let page = docs.join("performance.md");
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    fs::write(&page, report::replaced(&text, MARKERS, &table)?)?;
    println!("written: docs/performance.md");
    Ok(())
}

/// Nanoseconds that one of these requests takes, all of which must be let pass or all be denied.
fn time(authorization: &Arc<Authorization>, identity: &SpiffeId, heads: &[RequestHead], passes: bool) -> anyhow::Result<f64> {
    let (address, time) = (SocketAddr::from((Ipv4Addr::LOCALHOST, 4000)), SystemTime::now());
    let permissions = Permissions::of(authorization.clone(), &caller(identity));
    let judge = |head| {
        permissions
            .judge(&Access { head: Some(head), port: 80, claims: None, time, identity: Some(identity), address, server_name: None }, |_| ())
            .is_ok()
    };
    anyhow::ensure!(heads.iter().all(|head| judge(head) == passes), "a request is not judged as it should be");
    let all = shortest(|| {
        for head in heads.iter().cycle().take(REQUESTS) {
            black_box(judge(black_box(head)));
        }
    });
    Ok(all / REQUESTS as f64)
}

/// The shortest of five times in nanoseconds, as whatever else runs only makes it longer.
fn shortest(once: impl Fn()) -> f64 {
    let timed = |_| {
        let begun = Instant::now();
        once();
        begun.elapsed().as_secs_f64() * 1e9
    };
    (0..5).map(timed).fold(f64::INFINITY, f64::min)
}

fn caller(identity: &SpiffeId) -> AccessCaller<'_> {
    AccessCaller { identity: Some(identity), address: IpAddr::V4(Ipv4Addr::LOCALHOST), trust_domain: identity.trust_domain() }
}

/// A policy that allows: so many rules, each with a caller and what it may do.
fn policies(count: usize, account: impl Fn(usize) -> String, operation: impl Fn(usize) -> Value) -> anyhow::Result<Arc<Authorization>> {
    let rules: Vec<Value> = (0..count)
        .map(|rule| {
            let identity = format!("spiffe://mesh.local/ns/contact/sa/{}", account(rule));
            json!({"name": rule.to_string(), "from": [{"identities": {"any": [{"exact": identity}]}}], "to": [operation(rule)]})
        })
        .collect();
    let origin = json!({"kind": "AuthorizationPolicy", "namespace": "contact", "name": "many", "generation": 1, "rule": 0, "matched": 0});
    Ok(Arc::new(serde_json::from_value(json!([{"origin": origin, "action": "allow", "rules": rules}]))?))
}

fn head(path: &str, tenant: usize) -> anyhow::Result<RequestHead> {
    let mut builder = HeadBuilder::with_capacity(256);
    let tenant = format!("tenant-{tenant}");
    for (name, value) in [("Host", "recording.contact"), ("User-Agent", "bench"), ("Accept", "*/*"), ("X-Tenant", tenant.as_str())] {
        builder.field(name.as_bytes(), value.as_bytes())?;
    }
    Ok(builder.request(Version::Http11, "GET", path, "recording.contact", None)?)
}
