//! Tokens: what else a request can say beside them, and where they would have keys looked up. The tokens themselves are tried in
//! `testbed/tests/authentication/attacks.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use testbed::{gateway, route};
use tokio::net::TcpListener;

use super::doors::{Door, Doors, status, text};
use super::issuer::{Issuer, claims};

const MORE: &str = ", claimsToHeaders: [{claim: sub, header: x-user}, {claim: role, header: x-role}]";

fn policies(issuer: &Issuer) -> String {
    let one = |kind, name| {
        format!(
            "apiVersion: lorica.io/v1alpha1\nkind: AuthenticationPolicy\nmetadata: {{name: users-{name}, namespace: shop}}\nspec: {{targetRefs: [{{kind: {kind}, name: {name}}}], jwt: {{providers: [{}]}}}}\n---\n",
            issuer.provider(MORE)
        )
    };
    one("Service", "web") + &one("Gateway", "edge")
}

const BOTH: [Door; 2] = [Door::Inbound, Door::Gateway];

async fn doors(issuer: &Issuer) -> anyhow::Result<Doors> {
    let routes = route("HTTPRoute", "web", "  rules: [{backendRefs: [{name: web, port: 80}]}]\n");
    // The honest request has no token; it goes by a way of its own.
    let honest = route("HTTPRoute", "honest", "  rules: [{matches: [{path: {value: /honest}}], backendRefs: [{name: web, port: 80}]}]\n");
    Doors::with(&BOTH, &(gateway("  - {name: http, port: 80, protocol: HTTP}\n") + &routes + &honest + &policies(issuer))).await
}

/// What a token says, nobody takes away or says beside it.
#[tokio::test]
async fn what_tokens_say_only_they_say() -> anyhow::Result<()> {
    let issuer = Issuer::new();
    let doors = doors(&issuer).await?;
    let token = issuer.token(json!({}));
    for door in BOTH {
        for lines in [
            "",
            "x-user: root\r\n",
            "X_User: root\r\nx_role: admin\r\n",
            "connection: x-user, x-role, authorization\r\n",
            "connection: X_User\r\n",
            "connection: x-user\r\nx-user: root\r\n",
        ] {
            let request = format!(
                "POST /attack HTTP/1.1\r\nhost: web.shop\r\nauthorization: Bearer {token}\r\nconnection: keep-alive\r\n{lines}transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-user: root\r\nX_Role: admin\r\n\r\n"
            );
            let mut stream = doors.connect(door, b"http/1.1").await?;
            let last = format!("GET /last HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n");
            tokio::io::AsyncWriteExt::write_all(&mut stream, format!("{request}{last}").as_bytes()).await?;
            let answer = super::doors::until_closed(&mut stream).await?;
            assert_eq!(status(&answer), Some(200), "{door:?}: {lines:?}: {}", text(&answer));
            let seen: Vec<_> = doors.backend.take().into_iter().collect::<Result<_, _>>().map_err(anyhow::Error::msg)?;
            let named = |name: &str| -> Vec<&str> {
                seen[0].fields.iter().filter(|(known, _)| known.replace('_', "-") == name).map(|(_, value)| value.as_str()).collect()
            };
            assert_eq!((named("x-user"), named("x-role")), (vec!["ada"], vec![]), "{door:?}: {lines:?}: {:?}", seen[0]);
            assert!(seen[0].trailers.is_empty() && seen[0].all("authorization").is_empty(), "{door:?}: {lines:?}: {:?}", seen[0]);
        }
    }
    doors.mesh.finish().await
}

/// Where a token says that its key is, nobody looks.
#[tokio::test]
async fn tokens_lead_nowhere() -> anyhow::Result<()> {
    let (issuer, other) = (Issuer::new(), Issuer::new());
    let doors = doors(&issuer).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let connections = Arc::new(AtomicU64::new(0));
    let counted = connections.clone();
    let task = tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let payload = claims(json!({})).to_string();
    let key = other.keys();
    let key = key.trim_start_matches("{\"keys\":[").trim_end_matches("]}");
    let url = format!("http://{at}/keys");
    for head in [
        json!({"alg": "ES256", "kid": "key-1", "jku": url}),
        json!({"alg": "ES256", "jku": url}),
        json!({"alg": "ES256", "kid": url}),
        json!({"alg": "ES256", "kid": "key-1", "x5u": url}),
        json!({"alg": "ES256", "kid": "key-1", "x5u": url, "jku": url, "jwk": serde_json::from_str::<serde_json::Value>(key)?}),
        json!({"alg": "ES256", "kid": "key-1", "x5c": ["MIIB"]}),
        json!({"alg": "ES256", "kid": "../../../dev/null"}),
        json!({"alg": "ES256", "kid": "key-1' OR '1'='1"}),
        json!({"alg": "ES256", "kid": ["key-1"]}),
        json!({"alg": "ES256", "kid": "key-1", "typ": "JWT", "cty": "JWT", "crit": ["jku"], "jku": url}),
    ] {
        let token = other.raw(&head.to_string(), &payload);
        for door in BOTH {
            let request = format!("GET /attack HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n");
            let answer = doors.send(door, request.as_bytes()).await?;
            assert_eq!(status(&answer), Some(401), "{door:?}: {head}: {}", text(&answer));
        }
    }
    assert!(doors.backend.take().is_empty());
    assert_eq!(connections.load(Ordering::Relaxed), 0, "a token's address was asked");
    task.abort();
    doors.mesh.finish().await
}
