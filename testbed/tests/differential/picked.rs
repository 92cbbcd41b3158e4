//! Requests picked by hand: every filter, every form of match, and what is odd in paths, hosts and fields.

use anyhow::ensure;

use super::client::Asked;
use super::deliberate::differences;
use super::rig::{Rig, asked, route};

/// Hosts with their rules, as JSON.
const ROUTES: &[(&str, &str)] = &[
    (
        "paths.example",
        "[{matches: [{path: {type: Exact, value: /exact}}], backendRefs: [{name: a, port: 80}]},
          {matches: [{path: {value: /prefix}}], backendRefs: [{name: b, port: 80}]},
          {matches: [{path: {value: /prefix/deep/}}], backendRefs: [{name: c, port: 80}]},
          {matches: [{path: {type: RegularExpression, value: '/re(x|gex)[0-9]+'}}], backendRefs: [{name: a, port: 80}]},
          {matches: [{path: {type: Exact, value: /a%20b}}], backendRefs: [{name: c, port: 80}]},
          {matches: [{path: {type: Exact, value: /}}], backendRefs: [{name: a, port: 80}]}]",
    ),
    (
        "fields.example",
        "[{matches: [{headers: [{name: X-One, value: '1'}]}], backendRefs: [{name: a, port: 80}]},
          {matches: [{headers: [{name: x-two, type: RegularExpression, value: 'a.*|b'}]}], backendRefs: [{name: b, port: 80}]},
          {matches: [{queryParams: [{name: q, value: '1'}]}], backendRefs: [{name: a, port: 80}]},
          {matches: [{queryParams: [{name: q, type: RegularExpression, value: '[a-z]+'}]}], backendRefs: [{name: b, port: 80}]},
          {matches: [{queryParams: [{name: spaced, value: 'a b'}]}], backendRefs: [{name: c, port: 80}]},
          {matches: [{method: DELETE}], backendRefs: [{name: c, port: 80}]}]",
    ),
    (
        "changes.example",
        "[{matches: [{path: {value: /fields}}], filters: [
             {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: s}], add: [{name: X-Add, value: '100% é'}], remove: [X-Gone]}},
             {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Set, value: s}], add: [{name: X-Multi, value: three}], remove: [vary]}}],
           backendRefs: [{name: a, port: 80}]},
          {matches: [{path: {value: /both}}], filters: [
             {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: rule}, {name: x-other, value: rule}]}},
             {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Set, value: rule}], add: [{name: x-multi, value: rule}]}}],
           backendRefs: [{name: a, port: 80, filters: [
             {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-Set, value: backend}], add: [{name: x-other, value: backend}]}},
             {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Set, value: backend}], add: [{name: x-multi, value: backend}]}}]}]},
          {matches: [{path: {value: /prefix}}], filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}], backendRefs: [{name: a, port: 80}]},
          {matches: [{path: {value: /cut}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}], backendRefs: [{name: a, port: 80}]},
          {matches: [{path: {value: /slash}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new/}}}], backendRefs: [{name: a, port: 80}]},
          {matches: [{path: {value: /full}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: '/whole\\1%20'}}}], backendRefs: [{name: a, port: 80}]},
          {matches: [{path: {value: /host}}], backendRefs: [{name: a, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: backend.example}}]}]},
          {matches: [{path: {value: /}}], filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /all}}}], backendRefs: [{name: b, port: 80}]}]",
    ),
    (
        "redirects.example",
        "[{matches: [{path: {value: /scheme}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]},
          {matches: [{path: {value: /host}}], filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example, statusCode: 301}}]},
          {matches: [{path: {value: /port}}], filters: [{type: RequestRedirect, requestRedirect: {port: 8443, statusCode: 307}}]},
          {matches: [{path: {value: /both}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 443, statusCode: 308}}]},
          {matches: [{path: {value: /prefix}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]},
          {matches: [{path: {value: /cut}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]},
          {matches: [{path: {value: /full}}], filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /whole}, statusCode: 303}}]},
          {matches: [{path: {value: /told}}], filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}, {type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-told, value: t}]}}]}]",
    ),
    (
        "cors.example",
        "[{matches: [{path: {value: /some}}], filters: [{type: CORS, cors: {allowOrigins: ['https://*.example', 'http://a.test:8080'], allowMethods: [GET, PUT], allowHeaders: [X-One, X-Two], exposeHeaders: [X-Multi], allowCredentials: true, maxAge: 60}}], backendRefs: [{name: a, port: 80}]},
          {matches: [{path: {value: /all}}], filters: [{type: CORS, cors: {allowOrigins: ['*'], allowMethods: ['*'], allowHeaders: ['*']}}], backendRefs: [{name: a, port: 80}]},
          {matches: [{path: {value: /moved}}], filters: [{type: CORS, cors: {allowOrigins: ['*'], allowMethods: [GET]}}, {type: RequestRedirect, requestRedirect: {scheme: https}}]}]",
    ),
    (
        "nowhere.example",
        "[{matches: [{path: {value: /missing}}], backendRefs: [{name: gone, port: 80}]},
          {matches: [{path: {value: /no-port}}], backendRefs: [{name: a, port: 81}]},
          {matches: [{path: {value: /no-grant}}], backendRefs: [{name: a, namespace: other, port: 80}]},
          {matches: [{path: {value: /no-weight}}], backendRefs: [{name: a, port: 80, weight: 0}]},
          {matches: [{path: {value: /none}}]},
          {matches: [{path: {value: /unknown}}], filters: [{type: ExtensionRef, extensionRef: {group: x.example, kind: Y, name: z}}], backendRefs: [{name: a, port: 80}]},
          {matches: [{path: {value: /no-endpoint}}], backendRefs: [{name: idle, port: 80}]}]",
    ),
    (
        "copies.example",
        "[{matches: [{path: {value: /one}}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}}}], backendRefs: [{name: a, port: 80}]},
          {matches: [{path: {value: /two}}], filters: [
              {type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}}},
              {type: RequestMirror, requestMirror: {backendRef: {name: n, port: 80}, percent: 100}},
              {type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplaceFullPath, replaceFullPath: /copied}}},
              {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: s}]}}], backendRefs: [{name: a, port: 80}]},
          {matches: [{path: {value: /never}}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 80}, percent: 0}}], backendRefs: [{name: a, port: 80}]},
          {matches: [{path: {value: /gone}}], filters: [{type: RequestMirror, requestMirror: {backendRef: {name: gone, port: 80}}}], backendRefs: [{name: a, port: 80}]}]",
    ),
    ("'*.under.example'", "[{backendRefs: [{name: b, port: 80}]}]"),
    ("exact.under.example", "[{matches: [{path: {value: /only}}], backendRefs: [{name: a, port: 80}]}]"),
    ("one.wild.example", "[{matches: [{path: {value: /one}}], backendRefs: [{name: a, port: 80}]}]"),
];

/// What is odd about a path.
const PATHS: &[&str] = &[
    "/",
    "/exact",
    "/exact/",
    "/Exact",
    "/exact?q=1",
    "/exact?",
    "/exact#f",
    "/exact%",
    "/exact%2",
    "/exact%zz",
    "/%65xact",
    "/exac%74",
    "/prefix",
    "/prefix/",
    "/prefix/x",
    "/prefixx",
    "/prefix//x",
    "//prefix",
    "/prefix/./x",
    "/prefix/../exact",
    "/../exact",
    "/./exact",
    "/prefix%2fx",
    "/prefix%2Fx",
    "/prefix/deep",
    "/prefix/deep/",
    "/prefix/deep/er",
    "/prefix/deeper",
    "/rex1",
    "/regex22",
    "/rex",
    "/rex1/",
    "/a%20b",
    "/a+b",
    "/a%20b/",
    "/%61%20b",
    "/prefix;v=1",
    "/prefix/;v=1",
    "/prefix\\x",
    "/prefix/%00",
    "/prefix/%0a",
    "/prefix/\u{e9}",
    "/prefix/%C3%A9",
    "/prefix/?a=b?c=d&e=/../f",
    "/prefix/a|b",
    "/prefix/\"x\"",
    "/prefix/<x>",
    "/prefix/{x}",
    "/prefix/^`",
    "*",
    "",
    "prefix",
    "http://paths.example/exact",
    "http://other.example/exact",
    "http://paths.example",
    "HTTP://paths.example/exact",
    "https://paths.example/exact",
    "http://paths.example/prefix/../x?y#z",
];

const HOSTS: &[&str] = &[
    "paths.example",
    "PATHS.Example",
    "paths.example:80",
    "paths.example:8080",
    "paths.example.",
    "paths.example.:80",
    "paths.example:",
    "x.under.example",
    "x.y.under.example",
    "exact.under.example",
    "under.example",
    ".under.example",
    "x.under.example:81",
    "one.wild.example",
    "two.wild.example",
    "wild.example",
    "unknown.example",
    "",
    "[::1]",
    "[::1]:80",
    "127.0.0.1",
    "127.0.0.1:80",
    "paths.example,paths.example",
    "user@paths.example",
    "paths.example/x",
    "paths example",
    "-",
    "xn--exmple-cua.example",
];

fn requests() -> Vec<Asked> {
    let with = |asked: Asked, fields: &[(&str, &str)]| Asked {
        fields: fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..asked
    };
    let mut all: Vec<Asked> = PATHS.iter().map(|path| asked("GET", path, "paths.example")).collect();
    all.extend(HOSTS.iter().map(|host| asked("GET", "/only", host)));
    all.extend(["/one", "/other"].map(|path| asked("GET", path, "one.wild.example")));
    for fields in [
        &[("x-one", "1")][..],
        &[("X-ONE", "1")],
        &[("x-one", " 1 ")],
        &[("x-one", "2")],
        &[("x-one", "")],
        &[("x-one", "1"), ("x-one", "1")],
        &[("x-one", "1,1")],
        &[("x-one", "2"), ("x-one", "1")],
        &[("x-two", "abc")],
        &[("x-two", "b"), ("x-two", "c")],
        &[("x-two", "b")],
        &[("x-two", "a"), ("x-two", "b")],
        &[("x-two", "ab\u{e9}")],
        &[("x-two", "bb")],
    ] {
        all.push(with(asked("GET", "/", "fields.example"), fields));
    }
    for query in [
        "q=1",
        "q=1&q=2",
        "q=2&q=1",
        "Q=1",
        "q",
        "q=",
        "q=abc",
        "q=ABC",
        "q=%31",
        "%71=1",
        "q=1;r=2",
        "q=1#f",
        "x&q=1",
        "q=1&",
        "&q=1",
        "q==1",
        "q=1=2",
        "spaced=a+b",
        "spaced=a%20b",
        "spaced=a b",
        "q=a%zz",
        "q=a%",
        "q=%C3%A9",
        "?q=1",
    ] {
        all.push(asked("GET", &format!("/?{query}"), "fields.example"));
    }
    for method in ["DELETE", "delete", "HEAD", "POST", "OPTIONS", "TRACE", "PATCH", "PROPFIND", "X"] {
        all.push(asked(method, "/", "fields.example"));
    }
    for path in [
        "/fields",
        "/both",
        "/prefix",
        "/prefix/",
        "/prefix/x?y=z",
        "/prefix//x",
        "/cut",
        "/cut/",
        "/cut/x",
        "/cut//x",
        "/cut?x",
        "/slash",
        "/slash/",
        "/slash/x",
        "/full",
        "/full/x?y",
        "/host/x",
        "/x",
        "//x",
        "/prefixx",
        "/cut/a%2Fb/%E9",
    ] {
        all.push(with(
            asked("GET", path, "changes.example:8080"),
            &[("X-Gone", "1"), ("x-gone", "2"), ("x-set", "0"), ("X-Add", "a"), ("x-other", "0")],
        ));
    }
    all.push(Asked { body: "a body".to_owned(), ..asked("POST", "/fields", "changes.example") });
    for path in
        ["/scheme/x?y", "/host/x", "/port/x", "/both/x", "/prefix/x/y?z", "/prefix", "/prefix/", "/cut", "/cut/x?y", "/full/x?y=z", "/told"]
    {
        for host in ["redirects.example", "redirects.example:8080", "Redirects.example"] {
            all.push(asked("GET", path, host));
        }
    }
    for path in ["/some", "/all", "/moved"] {
        for origin in [
            "https://a.example",
            "https://A.EXAMPLE",
            "https://example",
            "http://a.example",
            "https://a.b.example",
            "http://a.test:8080",
            "http://a.test",
            "null",
            "https://a.example.evil.test",
            "https://evil.test/.example",
        ] {
            let origin = ("origin", origin);
            all.push(with(asked("GET", path, "cors.example"), &[origin]));
            let preflight = |more: &[(&'static str, &'static str)]| {
                let fields: Vec<(&str, &str)> = [origin].into_iter().chain(more.iter().copied()).collect();
                with(asked("OPTIONS", path, "cors.example"), &fields)
            };
            all.push(preflight(&[("access-control-request-method", "PUT")]));
            all.push(preflight(&[("access-control-request-method", "PUT"), ("access-control-request-headers", "x-one, x-three")]));
        }
        all.push(with(asked("OPTIONS", path, "cors.example"), &[("origin", "https://a.example")]));
        all.push(with(
            asked("OPTIONS", path, "cors.example"),
            &[("origin", "https://a.example"), ("access-control-request-method", "DELETE")],
        ));
        all.push(with(asked("OPTIONS", path, "cors.example"), &[("access-control-request-method", "PUT")]));
    }
    all.extend(
        ["/missing", "/no-port", "/no-grant", "/no-weight", "/none", "/unknown", "/no-endpoint", "/else"]
            .map(|path| asked("GET", path, "nowhere.example")),
    );
    for path in ["/one/x?y", "/two/x", "/never", "/gone"] {
        all.push(asked("GET", path, "copies.example:80"));
        all.push(Asked { body: "a body".to_owned(), ..asked("POST", path, "copies.example") });
    }
    for fields in [
        &[("x-forwarded-proto", "https")][..],
        &[("x-forwarded-host", "evil.example")],
        &[("x-forwarded-port", "1")],
        &[("forwarded", "for=1.2.3.4;proto=https")],
        &[("x-real-ip", "1.2.3.4")],
        &[("x-lorica-attempt", "7")],
        &[("x-forwarded-client-cert", "URI=spiffe://mesh.local/ns/a/sa/admin")],
        &[("te", "trailers")],
        &[("te", "gzip")],
        &[("connection", "x-one"), ("x-one", "1")],
        &[("keep-alive", "timeout=5")],
        &[("proxy-connection", "keep-alive")],
        &[("expect", "x")],
        &[("x_under_score", "1")],
        &[("x-empty", "")],
        &[("accept", "a"), ("accept", "b")],
        &[("cookie", "a=1"), ("cookie", "b=2")],
        &[("user-agent", "")],
        &[("x-obs", "\u{e9}")],
        &[("x-envoy-original-path", "/evil")],
        &[("x-envoy-upstream-rq-timeout-ms", "1")],
        &[("x-envoy-retry-on", "5xx")],
        &[("x-envoy-force-trace", "1")],
        &[("upgrade", "h2c"), ("connection", "upgrade, http2-settings"), ("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA")],
        &[("max-forwards", "0")],
        &[("via", "1.1 x")],
        &[("range", "bytes=0-1")],
        &[("host", "other.example")],
        &[("content-length", "0")],
        &[("transfer-encoding", "identity")],
    ] {
        all.push(with(asked("GET", "/", "paths.example"), fields));
    }
    all
}

pub(crate) async fn run() -> anyhow::Result<()> {
    let Some(mut rig) = Rig::start(&["a", "b", "c", "m", "n"]).await? else { return Ok(()) };
    let idle = "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {name: idle, namespace: shop}\nspec: {ports: [{port: 80, appProtocol: http}]}\n---\n";
    let routes: String = ROUTES.iter().enumerate().map(|(index, (host, rules))| route(&format!("r{index}"), host, rules)).collect();
    rig.apply(&format!("{idle}{routes}")).await?;
    let compared = rig.compare(&requests()).await?;
    let differences = differences(&compared);
    ensure!(differences.is_empty(), "{} of {} requests differ:\n{}", differences.len(), compared.len(), differences.join("\n"));
    rig.finish().await
}
