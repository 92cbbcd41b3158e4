//! How much is let through, and who is left out: by the same TrafficPolicy at both proxies, counted exactly.

use anyhow::ensure;
use testbed::{PATIENCE, eventually};

use super::client::{Asked, Client};
use super::rig::{Pair, Rig, asked, route};

/// Requests that are sent at once.
const BURST: usize = 12;

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: lorica.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{targetRefs: [{{kind: Service, name: a}}], retries: {{attempts: 0}}, {spec}}}\n---\n"
    ) + &route("r", "r.example", "[{backendRefs: [{name: a, port: 80}]}]")
}

fn scripted(script: &str) -> Asked {
    Asked { fields: vec![("x-script".to_owned(), script.to_owned())], ..asked("GET", "/", "r.example") }
}

pub(crate) async fn run() -> anyhow::Result<()> {
    // What shows that a change is in force asks the first, which no policy is about.
    let Some(mut rig) = Rig::start(&["b", "a"]).await? else { return Ok(()) };
    // Requests at once: what is over is answered at once, what is under way or waits runs into its time.
    for (index, (spec, first, taken)) in [
        ("limits: {requests: 5}, timeouts: {request: 2s}, ejection: {mode: Disabled}", 5, 5),
        ("limits: {connections: 2, pending: 3}, timeouts: {request: 2s}, ejection: {mode: Disabled}", 2, 5),
    ]
    .into_iter()
    .enumerate()
    {
        rig.apply(&policy(spec)).await?;
        for (who, at) in ["Lorica", "Envoy"].into_iter().zip(rig.pair.addresses()) {
            let send = |number: usize| {
                let id = format!("{who}-{index}-{number}");
                tokio::spawn(async move { anyhow::Ok(Client::new(at).send(&scripted("hang"), &id).await?.status) })
            };
            // Those that need connections first, as Envoy lets requests wait while these come about.
            let mut requests: Vec<_> = (0..first).map(send).collect();
            eventually("the first are under way", PATIENCE, || async {
                let under_way = (0..first).filter(|number| !rig.backends.seen(&format!("{who}-{index}-{number}")).is_empty()).count();
                ensure!(under_way == first, "{under_way}");
                Ok(())
            })
            .await?;
            requests.extend((first..BURST).map(send));
            let mut statuses = Vec::new();
            for request in requests {
                statuses.push(request.await??);
            }
            let of = |status: u16| statuses.iter().filter(|known| **known == status).count();
            ensure!((of(504), of(503)) == (taken, BURST - taken), "{who} under `{spec}`: {statuses:?}");
        }
    }
    // An endpoint that is ejected is called all the same while it is the only one: too few are well.
    rig.apply(&policy("ejection: {consecutiveGatewayErrors: 3, baseTime: 60s, maxPercent: 100}")).await?;
    both(&mut rig.pair, "503", 5, 503).await?;
    both(&mut rig.pair, "200", 3, 200).await?;
    // Without panic it is not.
    rig.apply(&policy(
        "ejection: {consecutiveGatewayErrors: 3, baseTime: 60s, maxPercent: 100}, balancing: {panicPercent: 0}, limits: {queueTimeout: 0s}",
    ))
    .await?;
    let pair = tokio::sync::Mutex::new(&mut rig.pair);
    eventually("both have ejected it", PATIENCE, || async {
        for _ in 0..3 {
            pair.lock().await.send(&scripted("503"), "eject").await?;
        }
        let before = rig.backends.seen("eject-l").len() + rig.backends.seen("eject-e").len();
        let again = pair.lock().await.send(&scripted("200"), "eject").await?;
        let after = rig.backends.seen("eject-l").len() + rig.backends.seen("eject-e").len();
        ensure!(again.iter().all(|(answer, _)| answer.status == 503) && before == after, "{before} before, {after} after: {again:?}");
        Ok(())
    })
    .await?;
    checked(&mut rig).await?;
    rig.finish().await
}

/// Who answers health checks as it should is called, who does not is not.
async fn checked(rig: &mut Rig) -> anyhow::Result<()> {
    for (statuses, status) in [("", 200), (", statuses: [204]", 503), (", statuses: [200-204]", 200)] {
        rig.apply(&policy(&format!(
            "healthCheck: {{http: {{path: /{statuses}}}, interval: 500ms, timeout: 500ms, unhealthyThreshold: 1, healthyThreshold: 1}}, ejection: {{mode: Disabled}}, balancing: {{panicPercent: 0}}, limits: {{queueTimeout: 0s}}"
        )))
        .await?;
        let pair = tokio::sync::Mutex::new(&mut rig.pair);
        eventually("both know how it is", PATIENCE, || async {
            let answers = pair.lock().await.send(&scripted("200"), "checked").await?;
            ensure!(answers.iter().all(|(answer, _)| answer.status == status), "no {status} under `{statuses}`: {answers:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Requests at both, one after another, each answered with this status.
async fn both(pair: &mut Pair, script: &str, count: usize, status: u16) -> anyhow::Result<()> {
    for number in 0..count {
        for (answer, id) in pair.send(&scripted(script), &format!("{script}-{number}")).await? {
            ensure!(answer.status == status, "{id}: {} in place of {status}", answer.status);
        }
    }
    Ok(())
}
