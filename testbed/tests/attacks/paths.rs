//! Paths, hosts and methods that the proxy could read in one way and the app in another, where somebody decides by them.

use super::doors::{Door, Doors, status, text};

/// A policy of `shop`; `spec`: what it says.
fn policy(kind: &str, name: &str, spec: &str) -> String {
    format!("apiVersion: lorica.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n---\n")
}

/// An AuthorizationPolicy for the service and for the gateway.
fn authorization(spec: &str) -> String {
    let targeted = |kind, name| {
        policy("AuthorizationPolicy", &format!("admin-{name}"), &format!("{{targetRefs: [{{kind: {kind}, name: {name}}}], {spec}}}"))
    };
    targeted("Service", "web") + &targeted("Gateway", "edge")
}

/// Ways to write `/admin` that some app or other takes for it.
const ADMIN: [&str; 46] = [
    "/admin",
    "/admin/",
    "/admin/x",
    "/admin?x",
    "/admin?",
    "//admin",
    "///admin",
    "//admin//",
    "/./admin",
    "/admin/.",
    "/admin/./",
    "/x/../admin",
    "/x/..//admin",
    "/../admin",
    "/%61dmin",
    "/%61%64%6d%69%6e",
    "/%2fadmin",
    "/x%2f..%2fadmin",
    "/%2e/admin",
    "/%2e%2e/admin",
    "/x/%2e%2e/admin",
    "/x/.%2e/admin",
    "/x/%2E%2E/admin",
    "/%252e%252e/admin",
    "/%2561dmin",
    "/admin%2f",
    "/admin%2Fx",
    "/admin;x",
    "/admin;x=1/y",
    "/;/admin",
    "/;x/admin",
    "/x/..;/admin",
    "/x/..;x=1/admin",
    "/ADMIN",
    "/Admin/x",
    "/aDmIn",
    "/\\admin",
    "/x\\..\\admin",
    "/%5cadmin",
    "/x/..%5cadmin",
    "/admin%00",
    "/admin%20",
    "/admin%09",
    "/admin%0a",
    "/%c0%ae%c0%ae/admin",
    "/admin%ff",
];

/// What the path may be for the app to be asked for something else than `/admin`: nothing of it decodes to that.
fn is_refused(answer: &[u8]) -> bool {
    matches!(status(answer), Some(400 | 403 | 404))
}

async fn none_gets_to(doors: &Doors, doors_: &[Door], lines: &[(String, String)]) -> anyhow::Result<()> {
    let mut wrong = Vec::new();
    for door in doors_ {
        for (line, fields) in lines {
            let (answer, seen) = doors.attack(*door, format!("{line}\r\n{fields}\r\n").as_bytes()).await?;
            let reached = seen.iter().any(|seen| seen.path() != "/last");
            if reached || !is_refused(&answer) {
                wrong.push(format!("{door:?}: {line} {fields:?}: {:?}", text(&answer)));
            }
        }
    }
    anyhow::ensure!(wrong.is_empty(), "{} got in:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

fn get(target: &str) -> (String, String) {
    (format!("GET {target} HTTP/1.1"), "host: web.shop\r\n".to_owned())
}

const BOTH: [Door; 2] = [Door::Inbound, Door::Gateway];

#[tokio::test]
async fn no_spelling_of_a_path_gets_around_a_denial() -> anyhow::Result<()> {
    let doors = Doors::open(&BOTH, &authorization("action: Deny, rules: [{to: [{paths: [/admin, /admin/*]}]}]")).await?;
    // Spaces and the like at its end make another name of it for every app, or none.
    let others = ["/admin%20", "/admin%09", "/admin%0a", "/admin%00", "/admin%ff"];
    let mut lines: Vec<_> = ADMIN.iter().filter(|path| !others.contains(path)).map(|path| get(path)).collect();
    // The target in its other forms, and what Host says beside it.
    for target in [
        "http://web.shop/admin",
        "HTTP://web.shop/admin",
        "http://web.shop//admin",
        "http://web.shop/%61dmin",
        "http://other.shop/admin",
        "/admin#x",
        "/#/admin",
    ] {
        lines.push(get(target));
    }
    none_gets_to(&doors, &BOTH, &lines).await?;
    doors.mesh.finish().await
}

#[tokio::test]
async fn no_spelling_of_a_path_gets_into_a_permission() -> anyhow::Result<()> {
    let doors = Doors::open(&BOTH, &authorization("rules: [{to: [{paths: [/public/*, /last, /honest]}]}]")).await?;
    let mut lines: Vec<_> = ADMIN.iter().map(|path| get(path)).collect();
    for path in ADMIN {
        lines.push(get(&format!("/public/..{path}")));
        lines.push(get(&format!("/public/..;{path}")));
        lines.push(get(&format!("/public/%2e%2e{path}")));
        lines.push(get(&format!("/public%2f..{path}")));
        lines.push(get(&format!("/public\\..{path}")));
    }
    lines.push(get("http://web.shop/admin"));
    lines.push(get("/admin?/public/x"));
    lines.push(get("/admin#/public/x"));
    none_gets_to(&doors, &BOTH, &lines).await?;
    doors.mesh.finish().await
}

#[tokio::test]
async fn no_spelling_of_a_host_or_a_method_gets_around_a_denial() -> anyhow::Result<()> {
    let rules = "action: Deny, rules: [{to: [{hosts: [admin.shop]}]}, {to: [{methods: [DELETE]}]}]";
    let doors = Doors::open(&BOTH, &authorization(rules)).await?;
    let mut lines: Vec<_> = ["admin.shop", "ADMIN.shop", "admin.shop:80", "admin.shop:", "admin.shop.", "admin.shop.:80"]
        .iter()
        .map(|host| ("GET / HTTP/1.1".to_owned(), format!("host: {host}\r\n")))
        .collect();
    for target in ["http://admin.shop/", "http://ADMIN.shop:80/", "http://admin.shop./"] {
        lines.push(get(target));
    }
    for method in ["DELETE", "delete", "Delete"] {
        lines.push((format!("{method} / HTTP/1.1"), "host: web.shop\r\n".to_owned()));
    }
    none_gets_to(&doors, &BOTH, &lines).await?;
    // The app is told the host that was judged, whatever else the caller says.
    let (answer, seen) = doors.attack(Door::Gateway, b"GET http://web.shop/ HTTP/1.1\r\nhost: admin.shop\r\n\r\n").await?;
    assert_eq!((status(&answer), seen[0].all("host")), (Some(200), vec!["web.shop"]));
    doors.mesh.finish().await
}

/// A route of its own for what is protected, and one for all the rest, to the same app: the policy of the one must not be had around by the other.
#[tokio::test]
async fn no_spelling_of_a_path_takes_another_route() -> anyhow::Result<()> {
    use testbed::{gateway, route};
    let rule = |path: &str| format!("  rules: [{{matches: [{{path: {{value: {path}}}}}], backendRefs: [{{name: web, port: 80}}]}}]\n");
    let text = gateway("  - {name: http, port: 80, protocol: HTTP}\n")
        + &route("HTTPRoute", "admin", &rule("/admin"))
        + &route("HTTPRoute", "rest", &rule("/"))
        + &policy("AuthorizationPolicy", "admin", "{targetRefs: [{kind: HTTPRoute, name: admin}]}");
    let doors = Doors::with(&[Door::Gateway], &text).await?;
    let others = ["/admin%20", "/admin%09", "/admin%0a", "/admin%00", "/admin%ff"];
    let lines: Vec<_> = ADMIN.iter().filter(|path| !others.contains(path)).map(|path| get(path)).collect();
    none_gets_to(&doors, &[Door::Gateway], &lines).await?;
    for path in ["/", "/x", "/administration", "/x/admin", "/a%20b", "/x//y", "/x;y"] {
        let (answer, seen) = doors.attack(Door::Gateway, format!("GET {path} HTTP/1.1\r\nhost: web.shop\r\n\r\n").as_bytes()).await?;
        assert_eq!((status(&answer), seen[0].path()), (Some(200), path));
    }
    doors.mesh.finish().await
}
