//! What differs on purpose, by name: the table of docs/gateways.md ("What differs in Envoy") in code. Nothing else may differ.

use super::rig::{Compared, Outcome};

/// A difference with its name, and whether two outcomes differ by it alone.
type Deliberate = (&'static str, fn(&Compared) -> bool);

const DELIBERATE: &[Deliberate] = &[
    ("what is no request is refused by each in its own words", is_refused_by_both),
    ("a redirect keeps no port that the request names", redirects_to_another_port),
    ("query parameters are compared decoded", has_encoded_query),
    ("a browser whose script may not call is told nothing", is_denied_preflight),
    ("CORS holds for redirects, too", is_redirect_of_script),
    ("a call of gRPC is redirected as any request", is_redirect_of_call),
    ("a call of gRPC goes on as HTTP/2", is_call_to_an_undeclared_port),
    ("beside an app nothing is said of how the request came", is_told_to_have_come_by_http),
];

/// Neither passes on what is no request. What it was could not be read, so that logs say little of it.
fn is_refused_by_both(one: &Compared) -> bool {
    let refused = |outcome: &Outcome| outcome.seen.is_none() && outcome.copies.is_empty();
    refused(&one.lorica) && refused(&one.envoy) && one.lorica.status == 400 && [400, 403, 404].contains(&one.envoy.status)
}

fn redirects_to_another_port(one: &Compared) -> bool {
    (300..400).contains(&one.lorica.status) && keeps_no_port(one) == one.lorica
}

/// What Envoy answered, without the port that it keeps in a redirect.
fn keeps_no_port(one: &Compared) -> Outcome {
    let mut kept = one.envoy.clone();
    if let Some((_, port)) = one.asked.host.as_deref().and_then(|host| host.rsplit_once(':')) {
        for (_, place) in kept.fields.iter_mut().filter(|(name, _)| name == "location") {
            *place = place.replacen(&format!(":{port}/"), "/", 1);
        }
    }
    kept
}

fn has_encoded_query(one: &Compared) -> bool {
    one.asked.target.split_once('?').is_some_and(|(_, query)| query.contains(['%', '+']))
}

/// Envoy tells methods and fields, but no origin: the browser refuses as well.
fn is_denied_preflight(one: &Compared) -> bool {
    let mut silent = one.envoy.clone();
    silent.fields.retain(|(name, _)| !name.starts_with("access-control-"));
    let allowed = one.envoy.fields.iter().any(|(name, _)| name == "access-control-allow-origin");
    one.asked.method == "OPTIONS" && !allowed && silent == one.lorica
}

/// Envoy redirects without a look at the origin.
fn is_redirect_of_script(one: &Compared) -> bool {
    let asks = one.asked.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("origin"));
    let mut silent = one.lorica.clone();
    silent.fields.retain(|(name, _)| !name.starts_with("access-control-"));
    let preflight = one.asked.method == "OPTIONS" && one.lorica.seen.is_none() && one.lorica.status == 200;
    let same = silent == one.envoy || silent == keeps_no_port(one);
    asks && (300..400).contains(&one.envoy.status) && one.envoy.seen.is_none() && (preflight || same)
}

/// Envoy makes a gRPC status of its redirect's.
fn is_redirect_of_call(one: &Compared) -> bool {
    let is_redirect = (300..400).contains(&one.lorica.status) && one.envoy.status == 200 && one.envoy.seen.is_none();
    let place = |outcome: &Outcome| outcome.fields.iter().find(|(name, _)| name == "location").cloned();
    one.asked.grpc && is_redirect && place(&one.lorica) == place(&one.envoy)
}

/// Envoy speaks one version with a cluster: what an HTTPRoute leads to, and no port says better, is HTTP/1.
fn is_call_to_an_undeclared_port(one: &Compared) -> bool {
    one.asked.grpc && one.lorica.logged.flags == "UPE" && one.envoy.seen.is_some() && one.lorica.logged.rule == one.envoy.logged.rule
}

/// Envoy says so where nobody has, beside an app as at a gateway.
fn is_told_to_have_come_by_http(one: &Compared) -> bool {
    let mut silent = one.envoy.clone();
    for seen in silent.seen.iter_mut().chain(&mut silent.copies) {
        seen.fields.retain(|(name, value)| (name.as_str(), value.as_str()) != ("x-forwarded-proto", "http"));
    }
    silent == one.lorica
}

/// What differs and may not, for people; empty: nothing.
pub(crate) fn differences(compared: &[Compared]) -> Vec<String> {
    let on_purpose = |one: &&Compared| DELIBERATE.iter().any(|(_, holds)| holds(one));
    compared.iter().filter(|one| one.lorica != one.envoy).filter(|one| !on_purpose(one)).map(told).collect()
}

fn told(one: &Compared) -> String {
    let (lorica, envoy) = (one.lorica.lines(), one.envoy.lines());
    let mut text = format!("{:?}\n", one.asked);
    for (mark, of, other) in [("lorica", &lorica, &envoy), ("envoy ", &envoy, &lorica)] {
        let mut left = other.clone();
        for line in of {
            match left.iter().position(|known| known == line) {
                Some(at) => drop(left.remove(at)),
                None => text.push_str(&format!("    {mark} {line}\n")),
            }
        }
    }
    text
}
