//! gRPC at a gateway: which call goes where, what is changed on the way, and what a caller is told where nothing answers.

use serde_json::{Value, json};
use testbed::{Mesh, PATIENCE, eventually, http_get};

use super::super::echo::{Log, Told};
use super::super::gateways::Gateways;
use super::super::traffic::{call, fits};
use super::{GROUP, apply, at_parent, edge, gateway, route, service, start, status, to};

const OK: u32 = 0;
const UNIMPLEMENTED: u32 = 12;
const UNAVAILABLE: u32 = 14;

fn server(told: &Told) -> &str {
    told.pod.trim_end_matches("-0")
}

fn seen<'t>(told: &'t Told, name: &str) -> Vec<&'t str> {
    told.headers.iter().filter(|field| field.name == name).map(|field| field.value.as_str()).collect()
}

#[tokio::test]
async fn services_and_methods_decide_where_a_call_goes() -> anyhow::Result<()> {
    let (mesh, log) = (Mesh::options().start().await?, Log::default());
    let method = |method: Value, to: &str| json!({ "matches": [{ "method": method }], "backendRefs": [{ "name": to, "port": 9000 }] });
    let field = |name: &str, value: &str| json!([{ "name": name, "value": value }]);
    // In the order in which nobody would try them.
    let rules = json!([
        { "matches": [{ "headers": field("probe", "1") }], "backendRefs": to("b", 9000) },
        method(json!({ "method": "Watch" }), "c"),
        method(json!({ "type": "RegularExpression", "service": "shop[.]v[0-9]+[.]Stock", "method": "Get.*" }), "a"),
        method(json!({ "service": "shop.v1.Orders" }), "b"),
        { "name": "places", "matches": [{ "method": { "service": "shop.v1.Orders", "method": "Place" } }], "backendRefs": to("a", 9000) },
        {
            "matches": [{ "method": { "service": "shop.v1.Orders", "method": "Cancel" }, "headers": field("tier", "gold") }],
            "backendRefs": to("c", 9000),
        },
    ]);
    let mut documents = vec![
        gateway(&json!([{ "name": "http", "port": 80, "protocol": "HTTP" }])),
        route("GRPCRoute", "calls", &edge(), &json!({ "hostnames": ["calls.example"], "rules": rules })),
    ];
    for name in ["a", "b", "c"] {
        documents.extend(service(name, "shop", &log).await?);
    }
    apply(&mesh, &documents).await?;
    let gateways = Gateways::new(&mesh);
    let [at] = start(&gateways, [80]).await?;
    for (path, metadata, expected) in [
        ("/shop.v1.Orders/Place", json!({}), Ok("a")),
        ("/shop.v1.Orders/List", json!({}), Ok("b")),
        ("/shop.v1.Orders/Cancel", json!({}), Ok("b")),
        ("/shop.v1.Orders/Cancel", json!({ "tier": "gold" }), Ok("c")),
        // A service that is named goes before a method that is.
        ("/shop.v1.Orders/Watch", json!({}), Ok("b")),
        ("/shop.v1.Others/Watch", json!({}), Ok("c")),
        ("/shop.v2.Stock/GetAll", json!({}), Ok("a")),
        ("/shop.v2.Stock/Put", json!({}), Err(UNIMPLEMENTED)),
        ("/x.Y/Watch", json!({ "probe": "1" }), Ok("c")),
        ("/x.Y/Z", json!({ "probe": "1" }), Ok("b")),
        ("/x.Y/Z", json!({}), Err(UNIMPLEMENTED)),
        // Names have case.
        ("/shop.v1.orders/Place", json!({}), Err(UNIMPLEMENTED)),
    ] {
        let (status, message, told) = call(at, "calls.example", path, &metadata).await?;
        let found = if status == OK { Ok(server(&told)) } else { Err(status) };
        assert_eq!(found, expected, "{path} {metadata}: {message}");
        assert!(status != OK || (told.method == path && told.authority == "calls.example"), "{told:?}");
    }
    let elsewhere = call(at, "other.example", "/shop.v1.Orders/Place", &json!({})).await?;
    assert_eq!(elsewhere.0, UNIMPLEMENTED);
    gateways.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn calls_are_changed_copied_and_shared_out() -> anyhow::Result<()> {
    let (mesh, log) = (Mesh::options().start().await?, Log::default());
    let on = |service: &str, mut rule: Value| {
        rule["matches"] = json!([{ "method": { "service": service } }]);
        rule
    };
    let edits = json!({ "set": [{ "name": "X-Set", "value": "s" }], "add": [{ "name": "X-Add", "value": "b" }], "remove": ["X-Gone"] });
    let rules = json!([
        on(
            "t.Changed",
            json!({
                "filters": [
                    { "type": "RequestHeaderModifier", "requestHeaderModifier": edits },
                    { "type": "RequestMirror", "requestMirror": { "backendRef": { "name": "c", "port": 9000 } } },
                ],
                "backendRefs": to("a", 9000),
            })
        ),
        on(
            "t.Shared",
            json!({ "backendRefs": [
            { "name": "a", "port": 9000, "weight": 7 }, { "name": "b", "port": 9000, "weight": 3 }, { "name": "c", "port": 9000, "weight": 0 },
        ] })
        ),
        on(
            "t.Own",
            json!({ "backendRefs": [{
            "name": "a", "port": 9000,
            "filters": [{ "type": "RequestHeaderModifier", "requestHeaderModifier": { "set": [{ "name": "x-own", "value": "a" }] } }],
        }] })
        ),
        on("t.Gone", json!({ "backendRefs": to("gone", 9000) })),
        on("t.Elsewhere", json!({ "backendRefs": [{ "name": "far", "namespace": "vault", "port": 9000 }] })),
    ]);
    let calls = route("GRPCRoute", "calls", &edge(), &json!({ "rules": rules }));
    let mut documents = vec![gateway(&json!([{ "name": "http", "port": 80, "protocol": "HTTP" }])), calls];
    for name in ["a", "b", "c"] {
        documents.extend(service(name, "shop", &log).await?);
    }
    documents.extend(service("far", "vault", &log).await?);
    apply(&mesh, &documents).await?;
    let gateways = Gateways::new(&mesh);
    let [at] = start(&gateways, [80]).await?;

    let (status, _, told) = call(at, "x", "/t.Changed/M", &json!({ "x-gone": "1", "x-add": "a", "x-set": "0" })).await?;
    assert_eq!((status, server(&told)), (OK, "a"));
    assert_eq!((seen(&told, "x-set"), seen(&told, "x-gone"), seen(&told, "x-add").join(",")), (vec!["s"], vec![], "a,b".to_owned()));
    eventually("the copy arrives", PATIENCE, || async {
        anyhow::ensure!(log.answers("c", "/t.Changed/M") == 1);
        Ok(())
    })
    .await?;

    let mut counts = [("a".to_owned(), 0, 0.7), ("b".to_owned(), 0, 0.3), ("c".to_owned(), 0, 0.0)];
    for _ in 0..400 {
        let (_, _, told) = call(at, "x", "/t.Shared/M", &json!({})).await?;
        let count = counts.iter_mut().find(|(name, ..)| name == server(&told));
        count.ok_or_else(|| anyhow::anyhow!("{told:?}"))?.1 += 1;
    }
    fits(&counts)?;

    let (_, _, told) = call(at, "x", "/t.Own/M", &json!({ "x-own": "mine" })).await?;
    assert_eq!(seen(&told, "x-own"), ["a"]);
    for path in ["/t.Gone/M", "/t.Elsewhere/M"] {
        assert_eq!(call(at, "x", path, &json!({})).await?.0, UNAVAILABLE, "{path}");
    }
    assert_eq!(at_parent(&mesh, "GRPCRoute", "calls", "ResolvedRefs").await?, ("False".to_owned(), "BackendNotFound".to_owned()));
    let grant = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ReferenceGrant", "metadata": { "name": "far", "namespace": "vault" },
        "spec": {
            "from": [{ "group": GROUP, "kind": "GRPCRoute", "namespace": "shop" }],
            "to": [{ "group": "", "kind": "Service", "name": "far" }],
        },
    });
    apply(&mesh, &[grant]).await?;
    eventually("the grant holds", PATIENCE, || async {
        let (status, message, told) = call(at, "x", "/t.Elsewhere/M", &json!({})).await?;
        anyhow::ensure!((status, server(&told), told.namespace.as_str()) == (OK, "far", "vault"), "{status} {message} {told:?}");
        Ok(())
    })
    .await?;
    gateways.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn an_http_route_and_a_grpc_route_never_share_a_host() -> anyhow::Result<()> {
    let (mesh, log) = (Mesh::options().start().await?, Log::default());
    let listeners = json!([{ "name": "http", "port": 80, "protocol": "HTTP" }, { "name": "own", "port": 80, "protocol": "HTTP", "hostname": "own.example" }]);
    let mut documents = vec![
        gateway(&listeners),
        route(
            "HTTPRoute",
            "older",
            &json!({ "name": "edge", "sectionName": "http" }),
            &json!({ "hostnames": ["*.example"], "rules": [{ "backendRefs": to("a", 80) }] }),
        ),
    ];
    documents.extend(service("a", "shop", &log).await?);
    documents.extend(service("b", "shop", &log).await?);
    apply(&mesh, &documents).await?;
    let spec = json!({ "hostnames": ["calls.example"], "rules": [{ "backendRefs": to("b", 9000) }] });
    let younger = route("GRPCRoute", "younger", &json!({ "name": "edge", "sectionName": "http" }), &spec);
    // At a listener where no host of the other kind meets it, the same hosts hold.
    let apart = route("GRPCRoute", "apart", &edge(), &json!({ "hostnames": ["own.example"], "rules": [{ "backendRefs": to("b", 9000) }] }));
    apply(&mesh, &[younger, apart]).await?;
    let gateways = Gateways::new(&mesh);
    let [at] = start(&gateways, [80]).await?;

    let accepted = ("True".to_owned(), "Accepted".to_owned());
    assert_eq!(at_parent(&mesh, "HTTPRoute", "older", "Accepted").await?, accepted);
    assert_eq!(at_parent(&mesh, "GRPCRoute", "younger", "Accepted").await?, ("False".to_owned(), "Conflicted".to_owned()));
    assert_eq!(at_parent(&mesh, "GRPCRoute", "younger", "ResolvedRefs").await?.0, "True");
    assert_eq!(at_parent(&mesh, "GRPCRoute", "apart", "Accepted").await?, accepted);
    assert_eq!(http_get(at, "calls.example", "/").await?.status, 200);
    assert_eq!(server(&call(at, "calls.example", "/x.Y/Z", &json!({})).await?.2), "a", "the older one's backend speaks gRPC as well");
    assert_eq!(server(&call(at, "own.example", "/x.Y/Z", &json!({})).await?.2), "b");
    let listeners = status(&mesh, "Gateway", "edge", "shop").await?["listeners"].clone();
    // All that select a listener count, whatever becomes of them.
    assert_eq!(listeners[0]["attachedRoutes"], 3, "{listeners}");
    assert_eq!(listeners[1]["attachedRoutes"], 1, "{listeners}");

    mesh.lorica(["delete", "httproute", "older", "-n", "shop"]).await?.success()?;
    assert_eq!(at_parent(&mesh, "GRPCRoute", "younger", "Accepted").await?, accepted);
    assert_eq!(server(&call(at, "calls.example", "/x.Y/Z", &json!({})).await?.2), "b");
    gateways.stop().await?;
    mesh.finish().await
}

#[tokio::test]
async fn a_parent_that_is_missing_is_told() -> anyhow::Result<()> {
    let mesh = Mesh::options().start().await?;
    let rules = json!({ "rules": [{ "backendRefs": to("a", 80) }] });
    let other = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "Gateway", "metadata": { "name": "theirs", "namespace": "shop" },
        "spec": { "gatewayClassName": "other", "listeners": [{ "name": "http", "port": 80, "protocol": "HTTP" }] },
    });
    apply(
        &mesh,
        &[
            other,
            gateway(&json!([{ "name": "http", "port": 80, "protocol": "HTTP" }])),
            route("HTTPRoute", "gone", &json!({ "name": "gone" }), &rules),
            route("HTTPRoute", "set", &json!({ "kind": "ListenerSet", "name": "gone" }), &rules),
            route("HTTPRoute", "service", &json!({ "kind": "Service", "group": "", "name": "gone" }), &rules),
            route("HTTPRoute", "section", &json!({ "name": "edge", "sectionName": "gone" }), &rules),
            route("HTTPRoute", "port", &json!({ "name": "edge", "sectionName": "http", "port": 81 }), &rules),
            route("HTTPRoute", "theirs", &json!({ "name": "theirs" }), &rules),
        ],
    )
    .await?;
    for name in ["gone", "set", "service", "section", "port"] {
        let found = at_parent(&mesh, "HTTPRoute", name, "Accepted").await?;
        assert_eq!(found, ("False".to_owned(), "NoMatchingParent".to_owned()), "{name}");
        assert_eq!(at_parent(&mesh, "HTTPRoute", name, "ResolvedRefs").await?.1, "BackendNotFound");
    }
    // Of a gateway of somebody else's its own controller tells.
    assert_eq!(status(&mesh, "HTTPRoute", "theirs", "shop").await?["parents"], json!([]));
    mesh.finish().await
}
