//! A Lorica proxy from files and a stock Envoy under a control plane, with the same resources.

use anyhow::{Context as _, ensure};
use testbed::{EchoServer, Envoy, HttpConnection, Mesh, PATIENCE, Port, Proxy, eventually};

use super::{asked, service, workload};

/// Weights and places of the endpoints behind each hash.
const ENDPOINTS: [(u32, &str); 5] = [(1, "b"), (2, "a"), (3, "c"), (1, "a"), (5, "b")];

/// Services by how their endpoints are chosen.
const HASHED: [(&str, &str); 6] = [
    ("ring", "balancing: {algorithm: RingHash, hashOn: [{header: x-user}]}"),
    // So few places that somebody gets an odd one.
    ("small-ring", "balancing: {algorithm: RingHash, minimumRingSize: 40, hashOn: [{header: x-user}]}"),
    ("maglev", "balancing: {algorithm: Maglev, hashOn: [{header: x-user}]}"),
    ("small-maglev", "balancing: {algorithm: Maglev, tableSize: 251, hashOn: [{header: x-user}]}"),
    ("mixed", "balancing: {algorithm: Maglev, hashOn: [{header: x-user}, {query: id}, {cookie: {name: who}}, {source: Address}]}"),
    ("near", "balancing: {algorithm: Maglev, prefer: Zone, hashOn: [{header: x-user}]}"),
];

/// How many keys are tried with each.
const KEYS: usize = 1000;

#[tokio::test]
async fn a_key_has_the_same_endpoint_behind_either_proxy() -> anyhow::Result<()> {
    let mesh = Mesh::start().await?;
    let mut servers = Vec::new();
    for number in 0..ENDPOINTS.len() {
        servers.push(EchoServer::start(&format!("w{number}")).await?);
    }
    let mut resources = String::new();
    for (name, policy) in HASHED {
        resources += &service(name, policy);
        for (number, (server, (weight, zone))) in servers.iter().zip(ENDPOINTS).enumerate() {
            let more = format!("weight: {weight}, locality: {{region: eu, zone: {zone}}}");
            resources += &workload(name, number, server.address(), &more);
        }
    }
    mesh.apply(&resources).await?;
    mesh.write("mesh.yaml", &resources)?;
    let ports = HASHED.iter().map(|_| Port::free()).collect::<anyhow::Result<Vec<_>>>()?;
    let upstreams: Vec<String> = HASHED.iter().zip(&ports).map(|((name, _), port)| format!("{name}.shop:80={}", port.address())).collect();
    let mut options = vec!["--namespace", "shop", "--locality", "eu/b"];
    upstreams.iter().for_each(|upstream| options.extend(["--upstream", upstream.as_str()]));
    let Some(envoy) = Envoy::start(&mesh, &options).await? else { return mesh.finish().await };
    let mut arguments = ["--config", "mesh.yaml", "--namespace", "shop", "--locality", "eu/b"].map(str::to_owned).to_vec();
    arguments.extend(HASHED.iter().flat_map(|(name, _)| ["--upstream".to_owned(), format!("{name}.shop:80=127.0.0.1:0")]));
    let lorica = Proxy::start(&mesh, arguments).await?;

    for (index, (name, _)) in HASHED.iter().enumerate() {
        let mut to_envoy = HttpConnection::open(ports[index].address()).await?;
        let mut to_lorica = HttpConnection::open(lorica.addresses[index]).await?;
        let mut taken = [0; ENDPOINTS.len()];
        for key in 0..KEYS {
            let (path, user, cookie) = (format!("/a?x=1&id=i%20{key}"), format!("user-{key}"), format!("a=b; who=w{key}"));
            let mut fields = vec![("x-user", user.as_str())];
            // Some have two values, in either order, and some lack what others have.
            match key % 5 {
                0 => fields.push(("x-user", "admin")),
                1 => fields.insert(0, ("x-user", "admin")),
                2 => fields.push(("cookie", &cookie)),
                3 if *name == "mixed" => fields.clear(),
                _ => {}
            }
            let path = if key % 2 == 0 { path.as_str() } else { "/a" };
            let ours = asked(&mut to_lorica, path, &fields).await?.0.server;
            let theirs = asked(&mut to_envoy, path, &fields).await?.0.server;
            assert_eq!(ours, theirs, "{name}: key {key} {path} {fields:?}");
            taken[ours.trim_start_matches('w').parse::<usize>()?] += 1;
        }
        let near = *name == "near";
        let expected = ENDPOINTS.map(|(_, zone)| !near || zone == "b");
        assert_eq!(taken.map(|count| count > 0), expected, "{name}: {taken:?}");
    }
    assert_eq!(lorica.running.stop().await?.code(), 0);
    envoy.running.stop().await?;
    mesh.finish().await
}

/// A call to a port without a server ejects it for good, and to no other.
const EJECTING: &str = "balancing: {algorithm: Random, prefer: Zone, panicPercent: 0}, retries: {attempts: 0},
  ejection: {consecutiveLocalErrors: 1, baseTime: 300s, maxTime: 300s, maxPercent: 100}";

/// Services by how many endpoints are well, and how many there are, in the caller's zone, in its region and elsewhere; and what each level gets.
const LEVELS: [(&str, [(usize, usize); 3], [f64; 3]); 3] = [
    ("half", [(1, 2), (0, 0), (2, 2)], [70.0, 0.0, 30.0]),
    ("third", [(1, 3), (1, 1), (1, 1)], [46.0, 54.0, 0.0]),
    ("three", [(0, 1), (1, 2), (1, 1)], [0.0, 70.0, 30.0]),
];

/// What chi-square exceeds once in 100,000 times, with two degrees of freedom at most.
const ONE_IN_100_000: f64 = 23.03;

#[tokio::test]
async fn an_envoy_shares_calls_between_levels_as_the_arithmetic_says() -> anyhow::Result<()> {
    const CALLS: f64 = 2000.0;
    let mesh = Mesh::start().await?;
    let (mut resources, mut servers, mut dead) = (String::new(), Vec::new(), Vec::new());
    for (name, levels, _) in LEVELS {
        resources += &service(name, EJECTING);
        let mut number = 0;
        for ((well, all), locality) in levels.iter().zip(["{region: eu, zone: a}", "{region: eu, zone: b}", "{region: us, zone: a}"]) {
            for index in 0..*all {
                let address = if index < *well {
                    servers.push(EchoServer::start(locality).await?);
                    servers.last().context("one was added")?.address()
                } else {
                    dead.push(Port::free()?);
                    dead.last().context("one was added")?.address()
                };
                resources += &workload(name, number, address, &format!("locality: {locality}"));
                number += 1;
            }
        }
    }
    mesh.apply(&resources).await?;
    let ports = LEVELS.iter().map(|_| Port::free()).collect::<anyhow::Result<Vec<_>>>()?;
    let upstreams: Vec<String> = LEVELS.iter().zip(&ports).map(|((name, ..), port)| format!("{name}.shop:80={}", port.address())).collect();
    let mut options = vec!["--namespace", "shop", "--locality", "eu/a"];
    upstreams.iter().for_each(|upstream| options.extend(["--upstream", upstream.as_str()]));
    let Some(envoy) = Envoy::start(&mesh, &options).await? else { return mesh.finish().await };
    for ((name, levels, shares), port) in LEVELS.iter().zip(&ports) {
        let gone = levels.iter().map(|(well, all)| all - well).sum::<usize>() as u64;
        let mut connection = HttpConnection::open(port.address()).await?;
        // Those that are dead are found out by calls.
        let counter = format!("cluster.{name}.shop.mesh_80.outlier_detection.ejections_enforced_total");
        while envoy.counter(&counter).await? < gone {
            connection.send(super::get("/", &[])?).await?;
        }
        // Envoy's worker hears of it a moment after it is counted.
        let heard = eventually("no call goes to who is ejected", PATIENCE, || async {
            let mut connection = HttpConnection::open(port.address()).await?;
            for _ in 0..50 {
                asked(&mut connection, "/", &[]).await?;
            }
            Ok(())
        });
        heard.await?;
        let mut counts = [0.0; 3];
        for _ in 0..CALLS as usize {
            let (echo, _) = asked(&mut connection, "/", &[]).await?;
            let level = if echo.server.contains("us") { 2 } else { usize::from(echo.server.contains("zone: b")) };
            counts[level] += 1.0;
        }
        let distance: f64 = counts
            .iter()
            .zip(shares)
            .filter(|(_, share)| **share > 0.0)
            .map(|(count, share)| (count - CALLS * share / 100.0).powi(2) / (CALLS * share / 100.0))
            .sum();
        assert!(distance < ONE_IN_100_000, "{name}: {counts:?} for {shares:?}: {distance}");
        assert!(counts.iter().zip(shares).all(|(count, share)| *share > 0.0 || *count == 0.0), "{name}: {counts:?} for {shares:?}");
    }
    // A policy that prefers none takes hold without a restart.
    mesh.apply(&service("half", &EJECTING.replace("prefer: Zone", "prefer: Anywhere"))).await?;
    eventually("a far endpoint gets more than its level did", PATIENCE, || async {
        let mut connection = HttpConnection::open(ports[0].address()).await?;
        let mut far = 0;
        for _ in 0..100 {
            let reply = connection.send(super::get("/", &[])?).await?;
            far += usize::from(reply.text().contains("region: us"));
        }
        ensure!(far > 50, "{far} of 100");
        Ok(())
    })
    .await?;
    envoy.refused_nothing(&mesh, &["cluster_manager.cds."]).await?;
    envoy.running.stop().await?;
    mesh.finish().await
}
