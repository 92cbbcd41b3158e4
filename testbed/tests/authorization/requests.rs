//! Requests: each is judged by who makes it and what it asks for.

use http::Request;
use http_body_util::Full;
use testbed::{Connection, Mesh, http2_send};

use super::bytes_crate::Bytes;
use super::{answers, ask, caller, policy, scraped, web};

#[tokio::test]
async fn requests_are_allowed_by_who_makes_them_and_what_they_ask_for() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (_web, _listens) = web(&mesh, "http").await?;
    let (_ann, ann, _ann_port) = caller(&mesh, "shop", "ann")?;
    let (_ben, ben, _ben_port) = caller(&mesh, "till", "ben")?;
    // Without a policy everything is allowed.
    answers(ann, "/").await?;
    answers(ben, "/").await?;
    // Nothing but a name: the default deny of a namespace.
    mesh.apply(&policy("none", "{}")).await?;
    let refused = ask(ann, "GET", "/").await?;
    assert_eq!((refused.status.as_u16(), refused.header("x-lorica-reason")), (403, Some("access_denied")));
    assert_eq!(refused.header("x-lorica-policy"), Some("none.shop"), "who is of the mesh is told by whom");
    let call = Request::post("http://web.shop/a.B/C").header("content-type", "application/grpc").body(Full::<Bytes>::default())?;
    let refused = http2_send(ann, call).await?;
    assert_eq!((refused.status.as_u16(), refused.header("grpc-status")), (200, Some("7")));

    mesh.apply(&policy(
        "readers",
        "{targetRefs: [{name: web}], rules: [
          {name: read, from: [{identities: [ann, ben.till]}], to: [{methods: [GET], paths: [/list, '/items/{id}']}]},
          {name: write, from: [{namespaces: [shop]}], to: [{methods: [POST], paths: [/items/*]}]}]}",
    ))
    .await?;
    mesh.apply(&policy("secret", "{action: Deny, rules: [{name: admin, to: [{paths: [/items/admin]}]}]}")).await?;
    for (at, method, path, status) in [
        (ann, "GET", "/list", 200),
        (ben, "GET", "/list?all", 200),
        (ann, "GET", "/items/7", 200),
        (ann, "POST", "/items/7", 200),
        (ben, "POST", "/items/7", 403),
        (ann, "GET", "/", 403),
        (ann, "DELETE", "/items/7", 403),
        (ann, "GET", "/items/admin", 403),
        (ann, "GET", "/items/ADMIN", 403),
        (ann, "GET", "/items/%61dmin", 403),
        (ann, "GET", "/items//admin", 403),
        (ann, "GET", "/items/x/../admin", 403),
        (ann, "GET", "/items/admin;x", 403),
    ] {
        let reply = ask(at, method, path).await?;
        assert_eq!(reply.status.as_u16(), status, "{method} {path}: {}", reply.text());
    }
    assert_eq!(ask(ann, "GET", "/items/admin").await?.header("x-lorica-policy"), Some("secret.shop/admin"));
    assert_eq!(ask(ann, "GET", "/items/x/../admin").await?.header("x-lorica-reason"), Some("ambiguous_path"));
    mesh.finish().await
}

#[tokio::test]
async fn what_is_under_way_ends_when_its_permission_does() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (_web, _listens) = web(&mesh, "http").await?;
    let (_ann, ann, _ann_port) = caller(&mesh, "shop", "ann")?;
    answers(ann, "/").await?;
    // More than all buffers on the way hold: the answer is under way until it is read.
    let (mut denied, mut kept) = (Connection::open(ann).await?, Connection::open(ann).await?);
    for (connection, path) in [(&mut denied, "/bytes/24000000?denied"), (&mut kept, "/bytes/20000000?kept")] {
        connection.write(format!("GET {path} HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n").as_bytes()).await?;
        let head = connection.read_until(b"\r\n\r\n").await?;
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    }
    mesh.apply(&policy("long", "{action: Deny, rules: [{to: [{paths: [/bytes/24000000]}]}]}")).await?;
    // Cut off: neither silence nor a second head.
    let rest = denied.cut_off().await?;
    assert!(rest.len() < 24_000_000 && !rest.windows(8).any(|bytes| bytes == b"HTTP/1.1"), "{} bytes came", rest.len());
    let whole = kept.read_to_end().await?.len();
    assert!(whole >= 20_000_000, "what may go on does: {whole}");
    mesh.finish().await
}

#[tokio::test]
async fn a_trial_denies_nothing_and_counts() -> anyhow::Result<()> {
    let mesh = Mesh::as_nobody().start().await?;
    let (_web, _listens) = web(&mesh, "http").await?;
    let (_ann, ann, _ann_port) = caller(&mesh, "shop", "ann")?;
    answers(ann, "/").await?;
    mesh.apply(&policy("trial", "{mode: Shadow, rules: [{to: [{paths: [/list]}]}]}")).await?;
    for (path, times) in [("/list", 3), ("/other", 2)] {
        for _ in 0..times {
            assert_eq!(ask(ann, "GET", path).await?.status, 200);
        }
    }
    let metrics = scraped(&mesh).await?;
    for line in [
        "lorica_authorization_verdicts_total{policy=\"trial.shop\",verdict=\"would_deny\"} 2",
        "lorica_authorization_verdicts_total{policy=\"trial.shop\",verdict=\"would_pass\"} 3",
        "lorica_authorization_verdicts_total{policy=\"trial.shop\",verdict=\"denied\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    mesh.finish().await
}
