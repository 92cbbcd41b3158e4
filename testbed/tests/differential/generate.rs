//! Route sets and requests made by chance: routes of both kinds that overlap on hosts and paths, with every filter on rules and backends, and for
//! each set requests that hit what it says or just miss it. Random draws have no place here (`shares.rs` has them): of a rule's backends at
//! most one has a weight.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};

use super::client::Asked;

/// A set of routes, and requests told by what they aim at.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) routes: Vec<Route>,
    pub(crate) recipes: Vec<Recipe>,
}

#[derive(Debug, Clone)]
pub(crate) struct Route {
    grpc: bool,
    /// The listener; none: all.
    section: Option<&'static str>,
    hosts: Vec<&'static str>,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    matches: Vec<Match>,
    filters: Vec<Filter>,
    backends: Vec<Backend>,
}

/// What a rule takes. Of gRPC `path` is a method.
#[derive(Debug, Clone)]
struct Match {
    path: Option<(Form, &'static str)>,
    method: Option<&'static str>,
    fields: Vec<Wanted>,
    query: Vec<Wanted>,
}

/// A name, and what its value must be.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    name: &'static str,
    value: &'static str,
    regex: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Exact,
    Prefix,
    Regex,
}

#[derive(Debug, Clone)]
enum Filter {
    Request(Edits),
    Response(Edits),
    Rewrite {
        host: Option<&'static str>,
        path: Option<(bool, &'static str)>,
    },
    Redirect {
        scheme: Option<&'static str>,
        host: Option<&'static str>,
        port: Option<u16>,
        path: Option<(bool, &'static str)>,
        status: u16,
    },
    Mirror {
        to: &'static str,
        percent: Option<u8>,
    },
    Cors {
        origins: Vec<&'static str>,
        methods: Vec<&'static str>,
        headers: Vec<&'static str>,
        expose: Vec<&'static str>,
        credentials: bool,
    },
}

#[derive(Debug, Clone)]
struct Edits {
    set: Vec<(&'static str, &'static str)>,
    add: Vec<(&'static str, &'static str)>,
    remove: Vec<&'static str>,
}

#[derive(Debug, Clone)]
struct Backend {
    to: &'static str,
    weighs: bool,
    filters: Vec<Filter>,
}

/// How a request is made of what a route says.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    aim: (Index, Index, Index),
    at: Index,
    host: HostTwist,
    path: PathTwist,
    fields: FieldTwist,
    query: QueryTwist,
    method: Option<&'static str>,
    origin: Option<(&'static str, bool)>,
    body: bool,
}

#[derive(Debug, Clone)]
enum HostTwist {
    None,
    Upper,
    Port,
    Dot,
    Deeper,
    Other(&'static str),
}

#[derive(Debug, Clone)]
enum PathTwist {
    None,
    Append(&'static str),
    Double,
    Encode(bool),
    Case,
    Chop,
    Dots(&'static str),
    Other(&'static str),
    Long,
}

#[derive(Debug, Clone)]
enum FieldTwist {
    None,
    Drop,
    Other(&'static str),
    Repeat(&'static str),
    Before(&'static str),
    Upper,
    Spaced,
}

#[derive(Debug, Clone)]
enum QueryTwist {
    None,
    Drop,
    Other(&'static str),
    Repeat(&'static str),
    Before(&'static str),
    Encode,
    Bare,
    Extra(&'static str),
}

const HOSTS: &[&str] = &[
    "a.example",
    "*.example",
    "b.a.example",
    "*.a.example",
    "a.wild.example",
    "*.wild.example",
    "*.a.wild.example",
    "one.wild.example",
    "*.one.wild.example",
];
const ASKED_HOSTS: &[&str] = &[
    "a.example",
    "x.example",
    "b.a.example",
    "c.b.a.example",
    "example",
    "a.wild.example",
    "b.a.wild.example",
    "wild.example",
    "one.wild.example",
    "two.one.wild.example",
    "other.test",
    "10.0.0.1",
    "[::1]",
    ".example",
    "a..example",
];
const SECTIONS: &[Option<&str>] = &[None, None, None, Some("any"), Some("wild"), Some("one")];
const PATHS: &[&str] = &["/", "/a", "/a/", "/a/b", "/a/b/", "/ab", "/A", "/a%20b", "/a.b", "/a;x=1", "/a/b/c", "/b"];
/// Expressions, and texts that they take.
const PATTERNS: &[(&str, &[&str])] = &[
    ("/a.*", &["/a", "/a/b", "/abc"]),
    ("/(a|b)/[0-9]+", &["/a/1", "/b/42"]),
    ("/[^/]+/b", &["/a/b", "/x/b"]),
    (".*", &["/", "/a", "/a/b"]),
    ("/a/?", &["/a", "/a/"]),
    ("/a/(b/)?c", &["/a/c", "/a/b/c"]),
    ("(?i)/A", &["/a", "/A"]),
];
const METHODS: &[&str] = &["GET", "POST", "DELETE", "OPTIONS", "HEAD"];
const FIELDS: &[(&str, &[&str])] = &[("x-a", &["1", "2", "a,b", "1,2"]), ("X-B", &["1", "two words", "100%"])];
const FIELD_PATTERNS: &[(&str, &[&str])] =
    &[("1|2", &["1", "2"]), ("[0-9]+", &["7", "12"]), (".*", &["", "x"]), ("a.*", &["a", "abc"]), ("1(,2)?", &["1", "1,2"])];
const QUERIES: &[(&str, &[&str])] = &[("q", &["1", "2", "ab"]), ("r", &["1", "x-y"])];
const QUERY_PATTERNS: &[(&str, &[&str])] = &[("[0-9]+", &["7", "12"]), (".*", &["", "x"]), ("a|b", &["a", "b"])];
const SERVICES: &[&str] = &["p.A", "p.B", "q.A"];
const CALLS: &[&str] = &["Get", "List"];
const EDITED: &[(&str, &str)] = &[("x-a", "9"), ("X-Set", "s"), ("x-multi", "three"), ("x-e", "e"), ("user-agent", "u%20%"), ("vary", "x")];
const REMOVED: &[&str] = &["x-a", "X-B", "x-multi", "vary", "accept"];
const ORIGINS: &[&str] = &["https://a.test", "https://*.test", "*", "http://b.test:8080"];
const ASKED_ORIGINS: &[&str] = &["https://a.test", "https://b.test", "https://A.test", "http://b.test:8080", "http://b.test", "null"];

fn edits() -> impl Strategy<Value = Edits> {
    let pairs = || prop::collection::vec(select(EDITED), 0..3).prop_map(unique);
    (pairs(), pairs(), prop::collection::vec(select(REMOVED), 0..3)).prop_map(|(set, add, mut remove)| {
        remove.dedup();
        Edits { set, add, remove }
    })
}

fn unique<T: Copy>(mut pairs: Vec<(&'static str, T)>) -> Vec<(&'static str, T)> {
    pairs.sort_by_key(|(name, _)| *name);
    pairs.dedup_by_key(|(name, _)| *name);
    pairs
}

fn path_edit() -> impl Strategy<Value = Option<(bool, &'static str)>> {
    prop::option::of((any::<bool>(), select(&["/", "/n", "/n/", "/n/m", "/n%20", "/n\\1"][..])))
}

fn filter(grpc: bool) -> BoxedStrategy<Filter> {
    let host = || prop::option::of(select(&["inner.example", "other.test"][..]));
    let to = if grpc { &["gm"][..] } else { &["m", "n", "gone"][..] };
    let percent = prop_oneof![Just(None), Just(Some(100)), Just(Some(0))];
    let common = prop_oneof![
        edits().prop_map(Filter::Request),
        edits().prop_map(Filter::Response),
        (select(to), percent).prop_map(|(to, percent)| Filter::Mirror { to, percent }),
    ];
    if grpc {
        return common.boxed();
    }
    let redirect = (
        prop::option::of(select(&["http", "https"][..])),
        host(),
        prop::option::of(select(&[80u16, 443, 8080][..])),
        path_edit(),
        select(&[301u16, 302, 303, 307, 308][..]),
    );
    // What takes all stands alone.
    let words = |from: &'static [&'static str]| {
        prop::sample::subsequence(from.to_vec(), 0..=from.len()).prop_map(|mut words| {
            if words.len() > 1 {
                words.retain(|word| *word != "*");
            }
            words
        })
    };
    let cors = (words(ORIGINS), words(&["GET", "PUT", "*"]), words(&["X-A", "x-c", "*"]), words(&["x-multi", "vary"]), any::<bool>());
    prop_oneof![
        6 => common,
        2 => (host(), path_edit()).prop_map(|(host, path)| Filter::Rewrite { host, path }),
        1 => redirect.prop_map(|(scheme, host, port, path, status)| Filter::Redirect { scheme, host, port, path, status }),
        2 => cors.prop_map(|(origins, methods, headers, expose, credentials)| Filter::Cors { origins, methods, headers, expose, credentials }),
    ]
    .boxed()
}

fn wanted(
    exact: &'static [(&'static str, &'static [&'static str])],
    patterns: &'static [(&'static str, &'static [&'static str])],
) -> impl Strategy<Value = Wanted> {
    select(exact).prop_flat_map(move |(name, values)| {
        prop_oneof![
            3 => select(values).prop_map(move |value| Wanted { name, value, regex: false }),
            1 => select(patterns).prop_map(move |(value, _)| Wanted { name, value, regex: true }),
        ]
    })
}

fn all_wanted(
    exact: &'static [(&'static str, &'static [&'static str])],
    patterns: &'static [(&'static str, &'static [&'static str])],
) -> impl Strategy<Value = Vec<Wanted>> {
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(wanted(exact, patterns), 1..3)].prop_map(|mut wanted| {
        wanted.sort_by_key(|one| one.name);
        wanted.dedup_by_key(|one| one.name);
        wanted
    })
}

fn matched(grpc: bool) -> BoxedStrategy<Match> {
    let fields = || all_wanted(FIELDS, FIELD_PATTERNS);
    if grpc {
        let path = prop::option::of((select(&[Form::Exact, Form::Prefix, Form::Regex][..]), select(SERVICES)));
        return (path, prop::option::of(select(CALLS)), fields())
            .prop_map(|(path, method, fields)| Match { path, method, fields, query: Vec::new() })
            .boxed();
    }
    let path = prop_oneof![
        3 => select(PATHS).prop_map(|path| (Form::Prefix, path)),
        2 => select(PATHS).prop_map(|path| (Form::Exact, path)),
        1 => select(PATTERNS).prop_map(|(pattern, _)| (Form::Regex, pattern)),
    ];
    let method = prop_oneof![4 => Just(None), 1 => select(METHODS).prop_map(Some)];
    (prop::option::weighted(0.8, path), method, fields(), all_wanted(QUERIES, QUERY_PATTERNS))
        .prop_map(|(path, method, fields, query)| Match { path, method, fields, query })
        .boxed()
}

fn rule(grpc: bool) -> impl Strategy<Value = Rule> {
    let to = if grpc { &["ga", "gb", "gone"][..] } else { &["a", "b", "c", "gone", "no-port", "no-grant"][..] };
    let backend = (select(to), any::<bool>(), prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(filter(grpc), 1..3)])
        .prop_map(|(to, weighs, filters)| Backend { to, weighs, filters });
    let filters = prop_oneof![1 => Just(Vec::new()), 1 => prop::collection::vec(filter(grpc), 1..4)];
    (prop::collection::vec(matched(grpc), 0..3), filters, prop::collection::vec(backend, 0..3))
        .prop_map(|(matches, filters, backends)| Rule { matches, filters, backends })
}

fn route() -> impl Strategy<Value = Route> {
    prop::bool::weighted(0.2).prop_flat_map(|grpc| {
        (select(SECTIONS), prop::sample::subsequence(HOSTS.to_vec(), 0..3), prop::collection::vec(rule(grpc), 1..4))
            .prop_map(move |(section, hosts, rules)| Route { grpc, section, hosts, rules })
    })
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let host = prop_oneof![
        8 => Just(HostTwist::None),
        1 => Just(HostTwist::Upper),
        1 => Just(HostTwist::Port),
        1 => Just(HostTwist::Dot),
        1 => Just(HostTwist::Deeper),
        2 => select(ASKED_HOSTS).prop_map(HostTwist::Other),
    ];
    let path = prop_oneof![
        8 => Just(PathTwist::None),
        3 => select(&["/", "x", "/x", "/x/y", "%2Fx", ";v=1", "%", "?", "%00", "//"][..]).prop_map(PathTwist::Append),
        1 => Just(PathTwist::Double),
        1 => any::<bool>().prop_map(PathTwist::Encode),
        1 => Just(PathTwist::Case),
        1 => Just(PathTwist::Chop),
        1 => select(&["/.", "/..", "/./x", "/../a", "/%2e%2e/a"][..]).prop_map(PathTwist::Dots),
        1 => select(PATHS).prop_map(PathTwist::Other),
        1 => Just(PathTwist::Long),
    ];
    let values = || select(&["", "1", "2", "zz", "a,b", "é"][..]);
    let fields = prop_oneof![
        8 => Just(FieldTwist::None),
        1 => Just(FieldTwist::Drop),
        1 => values().prop_map(FieldTwist::Other),
        1 => values().prop_map(FieldTwist::Repeat),
        1 => values().prop_map(FieldTwist::Before),
        1 => Just(FieldTwist::Upper),
        1 => Just(FieldTwist::Spaced),
    ];
    let values = || select(&["", "1", "2", "zz", "a=b"][..]);
    let query = prop_oneof![
        8 => Just(QueryTwist::None),
        1 => Just(QueryTwist::Drop),
        1 => values().prop_map(QueryTwist::Other),
        1 => values().prop_map(QueryTwist::Repeat),
        1 => values().prop_map(QueryTwist::Before),
        1 => Just(QueryTwist::Encode),
        1 => Just(QueryTwist::Bare),
        1 => select(&["z", "z=1", "q", "&", "=", "q=1;r=1", "z=a+b", "%71=1", "/../?"][..]).prop_map(QueryTwist::Extra),
    ];
    let method = prop_oneof![6 => Just(None), 1 => select(METHODS).prop_map(Some)];
    let origin = prop::option::weighted(0.3, (select(ASKED_ORIGINS), any::<bool>()));
    let aim = (any::<Index>(), any::<Index>(), any::<Index>());
    (aim, any::<Index>(), host, path, fields, query, method, origin, prop::bool::weighted(0.2)).prop_map(
        |(aim, at, host, path, fields, query, method, origin, body)| Recipe { aim, at, host, path, fields, query, method, origin, body },
    )
}

/// Any case.
pub(crate) fn case() -> impl Strategy<Value = Case> {
    // What stands first is made smaller first: the one request that differs is found before its routes are looked at.
    (prop::collection::vec(recipe(), 1..32), prop::collection::vec(route(), 1..5)).prop_map(|(recipes, routes)| Case { routes, recipes })
}

/// How many routes of each kind a case has at most: what a smaller one has not takes nothing.
const SLOTS: usize = 4;

impl Case {
    /// The resources.
    pub(crate) fn resources(&self) -> String {
        let of_kind = |grpc: bool| {
            let unused = move |slot: usize| Route {
                grpc,
                section: None,
                hosts: vec!["unused.invalid"],
                rules: vec![Rule {
                    matches: vec![Match {
                        path: Some((Form::Exact, if grpc { UNUSED_CALLS[slot] } else { UNUSED[slot] })),
                        method: None,
                        fields: Vec::new(),
                        query: Vec::new(),
                    }],
                    filters: Vec::new(),
                    backends: Vec::new(),
                }],
            };
            let routes: Vec<Route> = self.routes.iter().filter(|route| route.grpc == grpc).cloned().collect();
            (0..SLOTS).map(move |slot| {
                routes
                    .get(slot)
                    .cloned()
                    .unwrap_or_else(|| unused(slot))
                    .json(&format!("{}{slot}", if grpc { "g" } else { "r" }))
                    .to_string()
            })
        };
        of_kind(false).chain(of_kind(true)).collect::<Vec<_>>().join("\n---\n") + "\n"
    }

    /// The requests.
    pub(crate) fn requests(&self) -> Vec<Asked> {
        self.recipes.iter().map(|recipe| recipe.asked(&self.routes)).collect()
    }
}

const UNUSED: [&str; SLOTS] = ["/0", "/1", "/2", "/3"];
const UNUSED_CALLS: [&str; SLOTS] = ["unused.A", "unused.B", "unused.C", "unused.D"];

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let used = self.resources();
        let used: Vec<&str> = used.lines().filter(|line| line.starts_with('{') && !line.contains("unused.invalid")).collect();
        writeln!(f, "routes:\n  {}\nrequests:", used.join("\n  "))?;
        self.requests().iter().try_for_each(|asked| writeln!(f, "  {asked:?}"))
    }
}

fn wanted_json(wanted: &[Wanted]) -> Value {
    wanted
        .iter()
        .map(|one| json!({ "name": one.name, "value": one.value, "type": if one.regex { "RegularExpression" } else { "Exact" } }))
        .collect()
}

impl Route {
    fn json(&self, name: &str) -> Value {
        let mut parent = json!({ "name": "edge" });
        if let Some(section) = self.section {
            parent["sectionName"] = section.into();
        }
        let rules: Vec<Value> = self.rules.iter().map(|rule| rule.json(self.grpc)).collect();
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": if self.grpc { "GRPCRoute" } else { "HTTPRoute" },
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "parentRefs": [parent], "hostnames": self.hosts, "rules": rules },
        })
    }
}

impl Rule {
    fn json(&self, grpc: bool) -> Value {
        let by_prefix = matches!(self.matches.as_slice(), [Match { path: None | Some((Form::Prefix, _)), .. }] if !grpc);
        let filters = filters_json(&self.filters, by_prefix, true);
        let redirects = self.filters.iter().any(|filter| matches!(filter, Filter::Redirect { .. }));
        let mut rule = Map::new();
        if !self.matches.is_empty() {
            rule.insert("matches".to_owned(), self.matches.iter().map(|one| one.json(grpc)).collect());
        }
        rule.insert("filters".to_owned(), filters);
        if !redirects {
            let mut weighed = false;
            let one = |backend: &Backend| {
                let weight = u8::from(backend.weighs && !weighed);
                weighed |= backend.weighs;
                let (name, namespace, port) = match backend.to {
                    "no-port" => ("a", "shop", 81),
                    "no-grant" => ("a", "other", 80),
                    name => (name, "shop", 80),
                };
                json!({ "name": name, "namespace": namespace, "port": port, "weight": weight, "filters": filters_json(&backend.filters, by_prefix, false) })
            };
            rule.insert("backendRefs".to_owned(), self.backends.iter().map(one).collect());
        }
        rule.into()
    }
}

impl Match {
    fn json(&self, grpc: bool) -> Value {
        let mut matched = Map::new();
        if grpc {
            let mut method = Map::new();
            let regex = matches!(self.path, Some((Form::Regex, _)));
            if let Some((_, service)) = self.path {
                method.insert("service".to_owned(), service.into());
            }
            if let Some(call) = self.method {
                method.insert("method".to_owned(), call.into());
            }
            if !method.is_empty() {
                method.insert("type".to_owned(), if regex { "RegularExpression" } else { "Exact" }.into());
                matched.insert("method".to_owned(), method.into());
            }
        } else {
            if let Some((form, path)) = self.path {
                let form = match form {
                    Form::Exact => "Exact",
                    Form::Prefix => "PathPrefix",
                    Form::Regex => "RegularExpression",
                };
                matched.insert("path".to_owned(), json!({ "type": form, "value": path }));
            }
            if let Some(method) = self.method {
                matched.insert("method".to_owned(), method.into());
            }
            matched.insert("queryParams".to_owned(), wanted_json(&self.query));
        }
        matched.insert("headers".to_owned(), wanted_json(&self.fields));
        matched.into()
    }
}

/// Filters as far as they go together: one of a kind, a redirect without a rewrite, a prefix replaced only where one is matched.
fn filters_json(filters: &[Filter], by_prefix: bool, on_rule: bool) -> Value {
    let redirects = filters.iter().any(|filter| matches!(filter, Filter::Redirect { .. }));
    let mut kinds = Vec::new();
    let mut made = Vec::new();
    for filter in filters {
        let kind = std::mem::discriminant(filter);
        let several = matches!(filter, Filter::Mirror { .. }) && on_rule;
        let out_of_place = redirects && matches!(filter, Filter::Rewrite { .. } | Filter::Mirror { .. });
        if (!several && kinds.contains(&kind)) || out_of_place {
            continue;
        }
        kinds.push(kind);
        made.push(filter.json(by_prefix));
    }
    made.into()
}

fn edits_json(edits: &Edits) -> Value {
    let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(name, value)| json!({ "name": name, "value": value })).collect::<Vec<_>>();
    json!({ "set": pairs(&edits.set), "add": pairs(&edits.add), "remove": edits.remove })
}

impl Filter {
    fn json(&self, by_prefix: bool) -> Value {
        let path_json = |(full, path): (bool, &str)| {
            if full || !by_prefix {
                json!({ "type": "ReplaceFullPath", "replaceFullPath": path })
            } else {
                json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": path })
            }
        };
        let mut said = Map::new();
        let mut say = |name: &str, value: Option<Value>| drop(value.and_then(|value| said.insert(name.to_owned(), value)));
        match self {
            Self::Request(edits) => json!({ "type": "RequestHeaderModifier", "requestHeaderModifier": edits_json(edits) }),
            Self::Response(edits) => json!({ "type": "ResponseHeaderModifier", "responseHeaderModifier": edits_json(edits) }),
            Self::Rewrite { host, path } => {
                say("hostname", host.map(Value::from));
                say("path", path.map(path_json));
                json!({ "type": "URLRewrite", "urlRewrite": said })
            }
            Self::Redirect { scheme, host, port, path, status } => {
                say("scheme", scheme.map(Value::from));
                say("hostname", host.map(Value::from));
                say("port", port.map(Value::from));
                say("path", path.map(path_json));
                say("statusCode", Some(Value::from(*status)));
                json!({ "type": "RequestRedirect", "requestRedirect": said })
            }
            Self::Mirror { to, percent } => {
                say("backendRef", Some(json!({ "name": to, "port": 80 })));
                say("percent", percent.map(Value::from));
                json!({ "type": "RequestMirror", "requestMirror": said })
            }
            Self::Cors { origins, methods, headers, expose, credentials } => json!({
                "type": "CORS",
                "cors": { "allowOrigins": origins, "allowMethods": methods, "allowHeaders": headers, "exposeHeaders": expose, "allowCredentials": credentials, "maxAge": 7 },
            }),
        }
    }
}

/// A text that an expression takes.
fn sample(patterns: &'static [(&'static str, &'static [&'static str])], pattern: &str, at: Index) -> &'static str {
    patterns.iter().find(|(known, _)| *known == pattern).map_or("", |(_, samples)| *at.get(samples))
}

impl Recipe {
    fn asked(&self, routes: &[Route]) -> Asked {
        let route = self.aim.0.get(routes);
        let rule = self.aim.1.get(&route.rules);
        let everything = Match { path: None, method: None, fields: Vec::new(), query: Vec::new() };
        let aim = if rule.matches.is_empty() { &everything } else { self.aim.2.get(&rule.matches) };
        let host = self.host(route);
        if route.grpc {
            let service = aim.path.map_or("p.A", |(_, service)| service);
            let target = self.twisted(&format!("/{service}/{}", aim.method.unwrap_or("Get")));
            let mut fields = self.fields(aim);
            // Hyper would not send these.
            fields.retain(|(_, value)| value.is_ascii());
            fields.push(("content-type".to_owned(), "application/grpc".to_owned()));
            fields.push(("te".to_owned(), "trailers".to_owned()));
            let fits = target.parse::<http::uri::PathAndQuery>().is_ok() && host.parse::<http::uri::Authority>().is_ok();
            let (target, host) = if fits { (target, host) } else { ("/p.A/Get".to_owned(), "a.example".to_owned()) };
            return Asked { method: "POST".to_owned(), target, host: Some(host), fields, body: "a message".to_owned(), grpc: true };
        }
        let path = match aim.path {
            None => "/".to_owned(),
            Some((Form::Exact, path)) => path.to_owned(),
            Some((Form::Prefix, path)) => format!("{path}{}", self.at.get(&["", "/", "/x", "/x/y"])),
            Some((Form::Regex, pattern)) => sample(PATTERNS, pattern, self.at).to_owned(),
        };
        let mut target = self.twisted(&path);
        let query = self.query(aim);
        if !query.is_empty() {
            target = format!("{target}?{query}");
        }
        let mut method = self.method.or(aim.method).unwrap_or("GET");
        let mut fields = self.fields(aim);
        if let Some((origin, preflight)) = self.origin {
            fields.push(("origin".to_owned(), origin.to_owned()));
            if preflight {
                method = "OPTIONS";
                fields.push(("access-control-request-method".to_owned(), (*self.at.get(&["GET", "PUT", "DELETE"])).to_owned()));
                if self.body {
                    fields.push(("access-control-request-headers".to_owned(), "x-a, x-z".to_owned()));
                }
            }
        }
        let body = if self.body && method != "HEAD" { "a body" } else { "" };
        Asked { method: method.to_owned(), target, host: Some(host), fields, body: body.to_owned(), grpc: false }
    }

    fn host(&self, route: &Route) -> String {
        let aim = match (route.hosts.as_slice(), route.section) {
            ([], Some("one")) => "one.wild.example",
            ([], Some("wild")) => "x.wild.example",
            ([], _) => "any.test",
            (hosts, _) => self.at.get(hosts),
        };
        let host = aim.replace('*', ["w", "v.w", "b.a"][self.at.index(3)]);
        match &self.host {
            HostTwist::None => host,
            HostTwist::Upper => host.to_ascii_uppercase(),
            HostTwist::Port => format!("{host}:{}", self.at.get(&["80", "8080", "443"])),
            HostTwist::Dot => format!("{host}."),
            HostTwist::Deeper => format!("deep.{host}"),
            HostTwist::Other(other) => (*other).to_owned(),
        }
    }

    fn twisted(&self, path: &str) -> String {
        let slash = || {
            let slashes: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
            *self.at.get(&slashes)
        };
        let letters: Vec<usize> = path.char_indices().filter(|(_, c)| c.is_ascii_alphanumeric()).map(|(at, _)| at).collect();
        match &self.path {
            PathTwist::None => path.to_owned(),
            PathTwist::Append(more) => format!("{path}{more}"),
            PathTwist::Double => {
                let at = slash();
                format!("{}/{}", &path[..at], &path[at..])
            }
            PathTwist::Encode(lower) if !letters.is_empty() => {
                let at = *self.at.get(&letters);
                let byte = path.as_bytes()[at];
                let encoded = if *lower { format!("%{byte:02x}") } else { format!("%{byte:02X}") };
                format!("{}{encoded}{}", &path[..at], &path[at + 1..])
            }
            PathTwist::Case => {
                path.chars().map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }).collect()
            }
            PathTwist::Chop if path.len() > 1 => path[..path.len() - 1].to_owned(),
            PathTwist::Dots(more) => format!("{path}{more}"),
            PathTwist::Other(other) => (*other).to_owned(),
            PathTwist::Long => format!("{path}/{}", "l".repeat(4000)),
            PathTwist::Encode(_) | PathTwist::Chop => path.to_owned(),
        }
    }

    fn fields(&self, aim: &Match) -> Vec<(String, String)> {
        let value = |one: &Wanted| if one.regex { sample(FIELD_PATTERNS, one.value, self.at) } else { one.value };
        let mut fields: Vec<(String, String)> = aim.fields.iter().map(|one| (one.name.to_owned(), value(one).to_owned())).collect();
        let other = |value: &str| ("x-a".to_owned(), value.to_owned());
        match &self.fields {
            FieldTwist::None => {}
            FieldTwist::Drop => drop(fields.pop()),
            FieldTwist::Other(value) => {
                fields.retain(|(name, _)| name != "x-a");
                fields.push(other(value));
            }
            FieldTwist::Repeat(value) => fields.push(other(value)),
            FieldTwist::Before(value) => fields.insert(0, other(value)),
            FieldTwist::Upper => fields.iter_mut().for_each(|(name, _)| *name = name.to_ascii_uppercase()),
            FieldTwist::Spaced => fields.iter_mut().for_each(|(_, value)| *value = format!(" {value}\t")),
        }
        fields
    }

    fn query(&self, aim: &Match) -> String {
        let value = |one: &Wanted| if one.regex { sample(QUERY_PATTERNS, one.value, self.at) } else { one.value };
        let mut pairs: Vec<String> = aim.query.iter().map(|one| format!("{}={}", one.name, value(one))).collect();
        match &self.query {
            QueryTwist::None => {}
            QueryTwist::Drop => drop(pairs.pop()),
            QueryTwist::Other(value) => pairs = vec![format!("q={value}")],
            QueryTwist::Repeat(value) => pairs.push(format!("q={value}")),
            QueryTwist::Before(value) => pairs.insert(0, format!("q={value}")),
            QueryTwist::Encode => pairs.iter_mut().for_each(|pair| *pair = pair.replace('1', "%31").replace('a', "%61")),
            QueryTwist::Bare => pairs.push("q".to_owned()),
            QueryTwist::Extra(more) => pairs.push((*more).to_owned()),
        }
        pairs.join("&")
    }
}
