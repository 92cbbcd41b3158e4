//! Datagrams at a gateway: by listener, by the oldest route, with grants, each sender answered for itself.

use futures_util::future::try_join_all;
use serde_json::{Value, json};
use testbed::{Mesh, PATIENCE};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::super::echo::Log;
use super::super::gateways::Gateways;
use super::super::traffic::{datagram, fits};
use super::{GROUP, apply, at_parent, edge, gateway, route, service, start, status};

fn listener(name: &str, port: u16) -> Value {
    json!({ "name": name, "port": port, "protocol": "UDP", "allowedRoutes": { "kinds": [{ "kind": "UDPRoute" }] } })
}

fn to(backends: &Value) -> Value {
    json!({ "rules": [{ "backendRefs": backends }] })
}

fn at(section: &str) -> Value {
    json!({ "name": "edge", "sectionName": section })
}

async fn server(address: std::net::SocketAddr) -> anyhow::Result<String> {
    Ok(datagram(address, PATIENCE).await?["service"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn datagrams_go_where_the_listeners_route_says() -> anyhow::Result<()> {
    let (mesh, log) = (Mesh::options().start().await?, Log::default());
    let one = |name: &str| to(&json!([{ "name": name, "port": 53 }]));
    let mut documents = vec![
        gateway(
            &json!([listener("by-port", 5300), listener("by-section", 5301), listener("by-both", 5302), listener("far", 5303), { "name": "bytes", "port": 5304, "protocol": "TCP" }]),
        ),
        route("UDPRoute", "by-port", &json!({ "name": "edge", "port": 5300 }), &one("a")),
        route("UDPRoute", "by-section", &at("by-section"), &one("b")),
        route("UDPRoute", "by-both", &json!({ "name": "edge", "sectionName": "by-both", "port": 5302 }), &one("c")),
        route("UDPRoute", "far", &at("far"), &to(&json!([{ "name": "far", "namespace": "vault", "port": 53 }]))),
        route("UDPRoute", "not-bytes", &at("bytes"), &one("a")),
        route("UDPRoute", "gone", &at("gone"), &one("a")),
    ];
    for name in ["a", "b", "c"] {
        documents.extend(service(name, "shop", &log).await?);
    }
    documents.extend(service("far", "vault", &log).await?);
    apply(&mesh, &documents).await?;
    // Of two at one listener both are accepted, and the older one is asked.
    apply(&mesh, &[route("UDPRoute", "late", &at("by-section"), &one("c"))]).await?;
    let gateways = Gateways::new(&mesh);
    let [by_port, by_section, by_both, far] = start(&gateways, [5300, 5301, 5302, 5303]).await?;
    for (address, expected) in [(by_port, "a"), (by_section, "b"), (by_both, "c")] {
        assert_eq!(server(address).await?, expected);
    }
    let accepted = ("True".to_owned(), "Accepted".to_owned());
    for name in ["by-port", "by-section", "by-both", "late", "far"] {
        assert_eq!(at_parent(&mesh, "UDPRoute", name, "Accepted").await?, accepted, "{name}");
    }
    assert_eq!(at_parent(&mesh, "UDPRoute", "not-bytes", "Accepted").await?, ("False".to_owned(), "NotAllowedByListeners".to_owned()));
    assert_eq!(at_parent(&mesh, "UDPRoute", "gone", "Accepted").await?, ("False".to_owned(), "NoMatchingParent".to_owned()));
    assert_eq!(at_parent(&mesh, "UDPRoute", "far", "ResolvedRefs").await?, ("False".to_owned(), "RefNotPermitted".to_owned()));
    let told = status(&mesh, "Gateway", "edge", "shop").await?;
    let counts: Vec<Value> = (0..5).map(|index| told["listeners"][index]["attachedRoutes"].clone()).collect();
    assert_eq!(counts, [1, 2, 1, 1, 0]);
    assert_eq!(told["listeners"][0]["supportedKinds"], json!([{ "group": GROUP, "kind": "UDPRoute" }]));

    let grant = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ReferenceGrant", "metadata": { "name": "far", "namespace": "vault" },
        "spec": { "from": [{ "group": GROUP, "kind": "UDPRoute", "namespace": "shop" }], "to": [{ "group": "", "kind": "Service" }] },
    });
    apply(&mesh, &[grant]).await?;
    assert_eq!(at_parent(&mesh, "UDPRoute", "far", "ResolvedRefs").await?.0, "True");
    assert_eq!(server(far).await?, "far");
    gateways.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn each_sender_gets_its_own_answers() -> anyhow::Result<()> {
    let (mesh, log) = (Mesh::options().start().await?, Log::default());
    let shares = to(&json!([{ "name": "a", "port": 53, "weight": 3 }, { "name": "b", "port": 53, "weight": 1 }]));
    let mut documents = vec![gateway(&json!([listener("dns", 53)])), route("UDPRoute", "dns", &edge(), &shares)];
    documents.extend(service("a", "shop", &log).await?);
    documents.extend(service("b", "shop", &log).await?);
    apply(&mesh, &documents).await?;
    let gateways = Gateways::new(&mesh);
    let [address] = start(&gateways, [53]).await?;
    // As resolvers do: each question with a number of its own, several on the way at once.
    let sender = |sender: usize| async move {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(address).await?;
        let questions: Vec<String> = (0..4).map(|number| format!("question {number} of {sender}")).collect();
        for question in &questions {
            socket.send(question.as_bytes()).await?;
        }
        let (mut answered, mut servers, mut buffer) = (Vec::new(), Vec::new(), [0; 1024]);
        while answered.len() < questions.len() {
            let length = timeout(PATIENCE, socket.recv(&mut buffer)).await??;
            let told: Value = serde_json::from_slice(&buffer[..length])?;
            answered.push(told["request"].as_str().unwrap_or_default().to_owned());
            servers.push(told["service"].as_str().unwrap_or_default().to_owned());
        }
        answered.sort();
        assert_eq!(answered, questions);
        servers.dedup();
        anyhow::ensure!(servers.len() == 1, "a sender's datagrams go to one backend, not to {servers:?}");
        Ok(servers.remove(0))
    };
    let mut counts = [("a".to_owned(), 0, 0.75), ("b".to_owned(), 0, 0.25)];
    for round in 0..20 {
        for server in try_join_all((0..20).map(|number| sender(round * 20 + number))).await? {
            counts.iter_mut().filter(|(name, ..)| *name == server).for_each(|(_, count, _)| *count += 1);
        }
    }
    fits(&counts)?;
    gateways.stop().await?;
    mesh.finish().await
}
