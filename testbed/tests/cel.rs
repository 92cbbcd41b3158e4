//! Conditions in the Common Expression Language mean the same to a stock Envoy: each is asked of one request at an Envoy, as the `condition` of a
//! rule that allows, and evaluated here. In flow expressions; out flow 200 or 403. Envoy itself is not changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use envoy_types::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap::StaticResources};
use envoy_types::pb::envoy::config::core::v3::{Address, DataSource, SocketAddress, address, data_source, socket_address::PortSpecifier};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac as Rules, permission::Rule, principal::Identifier, rbac::Action,
};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, Route, RouteConfiguration, RouteMatch, VirtualHost, header_matcher::HeaderMatchSpecifier,
    route::Action as RouteAction, route_match::PathSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::{Rbac, RbacPerRoute};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::http::set_metadata::v3::{Config, Metadata};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager::RouteSpecifier, http_filter::ConfigType,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::google::protobuf::{Any, Struct, Value, value::Kind};
use http::Request;
use http_body_util::Full;
use lorica_model::cel::{Attributes, Expression};
use lorica_model::claims::Claims;
use lorica_model::head::{HeadBuilder, Version};
use lorica_xds::encode::cel::condition;
use prost::{Message, Name};
use serde_json::{Map, Value as Json, json};
use testbed::{PATIENCE, Peer, Port, eventually, http_send, left_out, peer};

const RBAC: &str = "envoy.filters.http.rbac";
const PATH: &str = "/recordings/42?part=1&of=2";
const HOST: &str = "recording.contact.mesh:80";
/// Which condition is asked.
const CASE: &str = "x-case";
const FIELDS: [(&str, &str); 4] = [("x-tier", "gold"), ("x-empty", ""), ("x-count", "42"), ("x-large", "9223372036854775807")];
/// Under which name Envoy keeps claims.
const KEPT: &str = "claims";

/// What is held to be the same.
const EXPRESSIONS: &[&str] = &[
    // Attributes, there or not.
    "request.path == '/recordings/42?part=1&of=2'",
    "request.url_path == '/recordings/42' && request.query == 'part=1&of=2'",
    "request.host == 'recording.contact.mesh:80' && request.method == 'GET' && request.protocol == 'HTTP/1.1'",
    "request.headers['x-tier'] == 'gold'",
    "request.headers['X-Tier'] == 'gold'",
    "request.headers.host == request.host",
    "request.headers['x-none'] == 'gold'",
    "request.headers['x-none'] != 'gold'",
    "!(request.headers['x-none'] == 'gold')",
    "request.headers['x-empty'] == ''",
    "'x-tier' in request.headers",
    "'X-Tier' in request.headers",
    "'x-none' in request.headers",
    "!('x-none' in request.headers)",
    "has(request.headers.via)",
    "!has(request.headers.via)",
    "has(request.headers.host)",
    "request.time > timestamp('2020-01-01T00:00:00Z') && request.time < timestamp('9999-01-01T00:00:00Z')",
    "request.time - timestamp('2020-01-01T00:00:00Z') > duration('1h')",
    "source.port > 0 && source.address.startsWith('127.0.0.1:')",
    "!connection.mtls && connection.requested_server_name == ''",
    "connection.mtls",
    "source.identity != 'spiffe://mesh.example/ns/contact/sa/a'",
    "has(source.identity)",
    "!has(source.identity)",
    // Claims.
    "claims.sub == 'alice'",
    "claims['sub'] == 'alice' && has(claims.sub)",
    "has(claims.email)",
    "!has(claims.email)",
    "claims.email == 'a'",
    "claims.email != 'a'",
    "claims.level == 3",
    "claims.level > 2 && claims.level < 3.5 && claims.level + 1.0 == 4.0",
    "claims.level + 1 == 4",
    "'agents' in claims.groups && claims.groups[1] == 'leads' && size(claims.groups) == 2",
    "claims.groups[2] == 'x'",
    "claims.groups[-1] == 'x'",
    "claims.org.name == 'contact' && 'name' in claims.org",
    "!claims.admin",
    "claims.sub",
    "claims.sub == 3",
    "claims.sub != 3",
    "claims.sub < 3",
    "claims.none == null",
    "'sub' in claims",
    // What decides outweighs what fails.
    "request.headers['x-none'] == 'a' || request.method == 'GET'",
    "request.method == 'GET' || request.headers['x-none'] == 'a'",
    "!(request.headers['x-none'] == 'a' && request.method == 'POST')",
    "request.headers['x-none'] == 'a' && request.method == 'GET'",
    "1 / int(request.headers['x-count']) == 0 ? request.method == 'GET' : request.headers['x-none'] == 'a'",
    "dyn('a') || true",
    // Numbers.
    "1 + 2 * 3 - 4 / 2 % 3 == 5",
    "-7 / 2 == -3 && -7 % 3 == -1",
    "int(request.headers['x-count']) == 42 && uint(request.headers['x-count']) == 42u && double(request.headers['x-count']) == 42.0",
    "int(request.headers['x-large']) + 1 > 0",
    "int(request.headers['x-large']) * 2 != 0",
    "1 / (int(request.headers['x-count']) - 42) == 1",
    "1u - uint(request.headers['x-count']) > 0u",
    "int(request.headers['x-tier']) == 1",
    "int(1.9) == 1 && int(-7.9) == -7 && uint(25.5) == 25u",
    "int(1e99) == 1",
    "uint(-1) == 1u",
    "1 < 2u && 1u <= 1.0 && 2.5 > 2 && -1 < 0u",
    "dyn(1) == 1u && dyn(1.0) == 1 && dyn(1) != 'a'",
    "dyn(1) == 'a'",
    "0x1F == 31 && 1e3 == 1000.0",
    "double('NaN') == double('NaN')",
    "1.0 / 0.0 > 1e308",
    // Texts and bytes.
    "request.path.startsWith('/rec') && request.path.endsWith('of=2') && request.path.contains('42')",
    r"request.path.matches(r'^/recordings/\d+') && !request.path.matches('^ecordings') && matches(request.method, 'E')",
    r"'aé😀' == '\x61\u00e9\U0001F600' && size('aé😀') == 3 && size(b'é') == 2 && bytes('ÿ') == b'\303\277'",
    "'a' < 'b' && 'a' < 'aa' && 'B' < 'a' && b'a' < b'b' && false < true",
    "request.method + '-' + request.headers['x-tier'] == 'GET-gold'",
    "request.method.lowerAscii() == 'get' && request.headers['x-tier'].upperAscii() == 'GOLD'",
    "string(source.port) != '' && string(42) == '42' && string(true) == 'true' && string(7u) == '7'",
    "bool('true') && !bool('f')",
    "bool(request.method)",
    "string(1.5) == '1.5' && string(1000000.0) == '1e+06' && string(0.00001) == '1e-05' && string(0.30000000000000004) == '0.30000000000000004'",
    "string(duration('1.5s')) == '1.500s' && string(timestamp('2009-02-13T23:31:30.5001Z')) == '2009-02-13T23:31:30.500100Z'",
    "bool('T')",
    "int(' 1') == 1 && uint('1 ') == 1u && double(' 1.5') == 1.5 && int('+1') == 1",
    "type(claims.level) == double && type(claims.groups) == list && type(claims.org) == map && type(request.path) == string",
    "type(claims.sub) == int || type(null) != null_type",
    // Lists and maps.
    "request.method in ['GET', 'HEAD']",
    "request.method in ['POST']",
    "[1, 2] == [1, 2] && [1] != [2] && {'a': 1} == {'a': 1} && [] == []",
    "{'a': {'b': 2}}.a.b == 2 && {'a': 1}['a'] == 1 && 'a' in {'a': 1} && size({'a': 1}) == 1",
    "{'a': 1}[request.method] == 1",
    "{request.method: 1, 'GET': 2}.GET == 2",
    "{1: 'a'}[dyn(1u)] == 'a' && 1 in {1: 2}",
    "[1, 2][int(request.headers['x-count'])] == 1",
    "has({'a': 1}.a) && !has({'a': 1}.b)",
    // Time.
    "timestamp('2009-02-13T23:31:30Z').getFullYear() == 2009 && timestamp('2009-02-13T23:31:30Z').getMonth() == 1",
    "timestamp('2009-02-13T23:31:30Z').getDate() == 13 && timestamp('2009-02-13T23:31:30Z').getDayOfMonth() == 12",
    "timestamp('2009-02-13T23:31:30Z').getDayOfWeek() == 5 && timestamp('2009-02-13T23:31:30Z').getDayOfYear() == 43",
    "timestamp('2009-02-13T23:31:30.25Z').getHours() == 23 && timestamp('2009-02-13T23:31:30.25Z').getMilliseconds() == 250",
    "timestamp('2009-02-13T23:31:30Z').getHours('+02:00') == 1 && timestamp('2009-02-13T23:31:30Z').getDayOfMonth('-02:30') == 12",
    "timestamp('2009-02-13T23:31:30Z').getHours('02:00') == 1 && timestamp('2009-02-13T23:31:30Z').getHours('UTC') == 23",
    "timestamp('2009-02-14T01:31:30+02:00') == timestamp(1234567890) && int(timestamp('2009-02-13T23:31:30Z')) == 1234567890",
    "duration('1h2m3.5s') == duration('3723500ms') && duration('10000s').getHours() == 2 && duration('3730s').getMinutes() == 62",
    "timestamp(0) + duration('1s') - timestamp(0) == duration('1s') && duration('2s') - duration('1s') < duration('1.5s')",
    "duration(request.method) == duration('1s')",
    "timestamp(request.method) == timestamp(0)",
];

/// What becomes of a condition here.
fn evaluated(text: &str, claims: Option<&Claims>) -> Result<bool, String> {
    let mut builder = HeadBuilder::with_capacity(256);
    for (name, value) in FIELDS {
        builder.field(name.as_bytes(), value.as_bytes()).map_err(|error| error.to_string())?;
    }
    let head = builder.request(Version::Http11, "GET", PATH, HOST, None).map_err(|error| error.to_string())?;
    let source = SocketAddr::from(([127, 0, 0, 1], 40_123));
    let attributes =
        Attributes { head: Some(&head), time: SystemTime::now(), claims, source, identity: None, server_name: None, exchange: None };
    let expression = Expression::parse(text).map_err(|wrong| format!("{wrong:?}"))?;
    expression.evaluate(&attributes).map_err(|error| error.to_string())
}

/// An Envoy of the test's own, which ends with it.
struct Alone(Child);

impl Drop for Alone {
    fn drop(&mut self) {
        // Nothing is left to end, if it fails.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn packed<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn metadata(json: &Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(elements) => {
            let values = elements.iter().map(metadata).collect();
            Kind::ListValue(envoy_types::pb::google::protobuf::ListValue { values })
        }
        Json::Object(fields) => Kind::StructValue(structure(fields)),
    };
    Value { kind: Some(kind) }
}

fn structure(fields: &Map<String, Json>) -> Struct {
    Struct { fields: fields.iter().map(|(name, value)| (name.clone(), metadata(value))).collect() }
}

/// A route that its case leads to, and that only its condition allows.
fn route(case: usize, text: &str) -> Route {
    let expression = Expression::parse(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
    let said = condition(&expression).unwrap_or_else(|| panic!("{text} has a macro"));
    let policy = Policy {
        permissions: vec![Permission { rule: Some(Rule::Any(true)) }],
        principals: vec![Principal { identifier: Some(Identifier::Any(true)) }],
        condition: Some(said.expression),
        cel_config: said.allowed,
        ..Policy::default()
    };
    let rules = Rules { action: Action::Allow.into(), policies: HashMap::from([("condition".to_owned(), policy)]), ..Rules::default() };
    let per_route = RbacPerRoute { rbac: Some(Rbac { rules: Some(rules), ..Rbac::default() }) };
    let exact = StringMatcher { match_pattern: Some(MatchPattern::Exact(case.to_string())), ..StringMatcher::default() };
    let headers = vec![HeaderMatcher {
        name: CASE.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact)),
        ..HeaderMatcher::default()
    }];
    let matched = RouteMatch { path_specifier: Some(PathSpecifier::Prefix("/".to_owned())), headers, ..RouteMatch::default() };
    let body = DataSource { specifier: Some(data_source::Specifier::InlineString("allowed".to_owned())), ..DataSource::default() };
    Route {
        r#match: Some(matched),
        action: Some(RouteAction::DirectResponse(DirectResponseAction {
            status: 200,
            body: Some(body),
            ..DirectResponseAction::default()
        })),
        typed_per_filter_config: HashMap::from([(RBAC.to_owned(), packed(&per_route))]),
        ..Route::default()
    }
}

fn filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(config)), ..HttpFilter::default() }
}

/// Asks each condition by its route. `claims`: what a filter before it leaves of a token; none: it finds none.
fn listener(port: u16, claims: Option<&Claims>) -> Listener {
    let routes = EXPRESSIONS.iter().enumerate().map(|(case, text)| route(case, text)).collect();
    let host = VirtualHost { name: "all".to_owned(), domains: vec!["*".to_owned()], routes, ..VirtualHost::default() };
    let tokens = claims.map(|claims| {
        let kept = Value { kind: Some(Kind::StructValue(structure(claims.as_object()))) };
        let value = Some(Struct { fields: HashMap::from([(KEPT.to_owned(), kept)]) });
        let tokens = Metadata { metadata_namespace: "envoy.filters.http.jwt_authn".to_owned(), value, ..Metadata::default() };
        filter("tokens", packed(&Config { metadata: vec![tokens], ..Config::default() }))
    });
    let judge = [filter(RBAC, packed(&Rbac::default())), filter("envoy.filters.http.router", packed(&Router::default()))];
    let manager = HttpConnectionManager {
        stat_prefix: "conditions".to_owned(),
        http_filters: tokens.into_iter().chain(judge).collect(),
        route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
            virtual_hosts: vec![host],
            ..RouteConfiguration::default()
        })),
        ..HttpConnectionManager::default()
    };
    let manager = Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(packed(&manager))),
    };
    let socket = SocketAddress {
        address: "127.0.0.1".to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    Listener {
        name: format!("conditions at {port}"),
        address: Some(Address { address: Some(address::Address::SocketAddress(socket)) }),
        filter_chains: vec![FilterChain { filters: vec![manager], ..FilterChain::default() }],
        ..Listener::default()
    }
}

async fn asked(address: SocketAddr, case: usize) -> anyhow::Result<u16> {
    let mut request = Request::builder().uri(PATH).header("host", HOST).header(CASE, case.to_string());
    for (name, value) in FIELDS {
        request = request.header(name, value);
    }
    Ok(http_send(address, request.body(Full::new(Bytes::new()))?).await?.status.as_u16())
}

#[tokio::test]
async fn conditions_mean_the_same_to_envoy() -> anyhow::Result<()> {
    let binary = match peer(Peer::Envoy) {
        Ok(binary) => binary,
        Err(why) => {
            left_out(&format!("conditions at an Envoy: {why}"));
            return Ok(());
        }
    };
    let claims = json!({
        "sub": "alice", "level": 3, "groups": ["agents", "leads"], "admin": false, "none": null, "org": {"name": "contact"},
    });
    let claims = Claims::read(claims.to_string().as_bytes())?;
    let places = [(Port::free()?, Some(&claims)), (Port::free()?, None)];
    let listeners = places.iter().map(|(port, claims)| listener(port.number(), *claims)).collect();
    let bootstrap =
        Bootstrap { static_resources: Some(StaticResources { listeners, ..StaticResources::default() }), ..Bootstrap::default() };
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("bootstrap.pb");
    std::fs::write(&file, bootstrap.encode_to_vec())?;
    let own = ["--disable-hot-restart", "--concurrency", "1", "--log-level", "error"];
    let mut envoy = Alone(Command::new(binary).arg("-c").arg(&file).args(own).stdout(Stdio::null()).spawn()?);
    let mut differing = Vec::new();
    for (port, claims) in places {
        let ready = eventually("Envoy listens", PATIENCE, || async { asked(port.address(), 0).await });
        ready.await.with_context(|| format!("{:?}", envoy.0.try_wait()))?;
        for (case, text) in EXPRESSIONS.iter().enumerate() {
            let there = asked(port.address(), case).await?;
            let found = evaluated(text, claims);
            let wanted = if found == Ok(true) { 200 } else { 403 };
            if there != wanted {
                differing.push(format!("{text}: {found:?} here, {there} at Envoy, with {claims:?}"));
            }
        }
    }
    ensure!(differing.is_empty(), "{}", differing.join("\n"));
    Ok(())
}
