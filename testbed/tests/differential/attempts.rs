//! Which requests are tried again, how often, and how long each may take: by the same TrafficPolicy at both proxies, against a backend that does what
//! the request's own script says.

use anyhow::ensure;

use super::client::Asked;
use super::rig::{Rig, asked, route};

/// One request under a policy: what both proxies answer, and how often the backend saw it.
struct Case {
    /// What of a TrafficPolicy's `spec` holds.
    policy: &'static str,
    method: &'static str,
    fields: &'static [(&'static str, &'static str)],
    script: &'static str,
    status: u16,
    seen: usize,
}

const KEY: &[(&str, &str)] = &[("idempotency-key", "k")];
const CASES: &[Case] = &[
    // Without a policy: what broke is repeated where that is safe, and answers are passed on.
    Case { policy: "", method: "GET", fields: &[], script: "close,200", status: 200, seen: 2 },
    Case { policy: "", method: "POST", fields: &[], script: "close,200", status: 503, seen: 1 },
    Case { policy: "", method: "POST", fields: KEY, script: "close,200", status: 200, seen: 2 },
    Case { policy: "", method: "GET", fields: &[], script: "close", status: 503, seen: 3 },
    Case { policy: "", method: "GET", fields: &[], script: "503,200", status: 503, seen: 1 },
    // Conditions.
    Case {
        policy: "retries: {attempts: 3, on: [GatewayError]}",
        method: "GET",
        fields: &[],
        script: "503,502,504,200",
        status: 200,
        seen: 4,
    },
    Case { policy: "retries: {attempts: 3, on: [GatewayError]}", method: "GET", fields: &[], script: "500,200", status: 500, seen: 1 },
    Case { policy: "retries: {attempts: 3, on: [GatewayError]}", method: "POST", fields: &[], script: "503,200", status: 503, seen: 1 },
    Case { policy: "retries: {attempts: 3, on: [GatewayError]}", method: "PATCH", fields: KEY, script: "503,200", status: 200, seen: 2 },
    Case { policy: "retries: {attempts: 1, on: [ServerError]}", method: "PUT", fields: &[], script: "501,500,200", status: 500, seen: 2 },
    Case {
        policy: "retries: {attempts: 2, on: [], statusCodes: [409]}",
        method: "DELETE",
        fields: &[],
        script: "409,200",
        status: 200,
        seen: 2,
    },
    Case {
        policy: "retries: {attempts: 2, on: [], statusCodes: [409]}",
        method: "DELETE",
        fields: &[],
        script: "close,200",
        status: 503,
        seen: 1,
    },
    Case { policy: "retries: {attempts: 0}", method: "GET", fields: &[], script: "close,200", status: 503, seen: 1 },
    Case {
        policy: "retries: {attempts: 2, on: [GatewayError, Reset], nonIdempotent: true}",
        method: "POST",
        fields: &[],
        script: "503,close,200",
        status: 200,
        seen: 3,
    },
    Case { policy: "retries: {attempts: 1, statusCodes: [503]}", method: "GET", fields: &[], script: "503/1,200", status: 200, seen: 2 },
    // Times.
    Case { policy: "timeouts: {request: 300ms}", method: "GET", fields: &[], script: "hang", status: 504, seen: 1 },
    Case { policy: "timeouts: {perTry: 300ms}", method: "GET", fields: &[], script: "hang,200", status: 200, seen: 2 },
    Case { policy: "timeouts: {perTry: 300ms}", method: "GET", fields: &[], script: "hang", status: 504, seen: 3 },
    Case { policy: "timeouts: {perTry: 300ms}", method: "POST", fields: &[], script: "hang,200", status: 504, seen: 1 },
    Case { policy: "timeouts: {perTry: 400ms, request: 600ms}", method: "GET", fields: &[], script: "hang", status: 504, seen: 2 },
    Case { policy: "timeouts: {stream: 300ms}", method: "GET", fields: &[], script: "hang", status: 504, seen: 1 },
];

pub(crate) async fn run() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::start(&["a"]).await? else { return Ok(()) };
    let mut found = Vec::new();
    let mut policy = None;
    for (index, case) in CASES.iter().enumerate() {
        if policy != Some(case.policy) {
            // One name for all: each replaces the last.
            let spec = if case.policy.is_empty() { "limits: {pending: 1023}" } else { case.policy };
            let text = format!(
                "apiVersion: lorica.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{targetRefs: [{{kind: Service, name: a}}], ejection: {{mode: Disabled}}, {spec}}}\n---\n"
            );
            rig.apply(&(text + &route("r", "r.example", "[{backendRefs: [{name: a, port: 80}]}]"))).await?;
            policy = Some(case.policy);
        }
        let fields =
            case.fields.iter().copied().chain([("x-script", case.script)]).map(|(name, value)| (name.to_owned(), value.to_owned()));
        let request = Asked { fields: fields.collect(), ..asked(case.method, "/", "r.example") };
        let answers = rig.pair.send(&request, &format!("attempts-{index}")).await?;
        for ((answer, id), who) in answers.iter().zip(["Lorica", "Envoy"]) {
            let seen = rig.backends.seen(id).len();
            if (answer.status, seen) != (case.status, case.seen) {
                found.push(format!(
                    "{who}: {} {:?} script {} under `{}`: {} after {seen} attempts in place of {} after {}",
                    case.method, case.fields, case.script, case.policy, answer.status, case.status, case.seen
                ));
            }
        }
    }
    ensure!(found.is_empty(), "{}", found.join("\n"));
    rig.finish().await
}
