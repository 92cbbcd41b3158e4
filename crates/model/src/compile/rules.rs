//! The rules of routes for HTTP, in the order in which they are tried.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::name::{Namespace, SUFFIX, ServicePort};
use crate::resource::{ANY_SERVICE, BackendRef, HttpFilter, HttpRoute, Kind, Metadata, PathModifier, RouteRule};
use crate::snapshot::{
    Action, Backend, Filters, Forward, HttpRule, Mirror, Origin, PathEdit, PathMatch, Protocol, Redirect, RouteMatch, Share,
    WeightedBackend,
};

use super::World;
use super::traffic::{Attempts, ByRule, Policies};

/// Where rules are to hold: redirects that name no port lead to this one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entrance<'e> {
    /// The port that callers use.
    pub(super) port: u16,
    /// Whether they use TLS on it.
    pub(super) tls: bool,
    /// The service port whose calls are routed; none at gateways.
    pub(super) called: Option<&'e ServicePort>,
}

impl<'e> Entrance<'e> {
    /// The namespace of the service whose calls are routed.
    fn home(self) -> Option<&'e Namespace> {
        self.called.map(|port| &port.service.namespace)
    }
}

/// A route for HTTP with what tells it apart.
pub(super) type Route<'w> = (Kind, &'w Metadata, &'w HttpRoute);

/// One rule a match, in the Gateway API's order: exact path, longest prefix, method, most headers, most query parameters;
/// then the oldest route, its name, and its own order. Regular expressions come after both other forms of path.
pub(super) fn merged<'w>(world: &World<'w>, routes: &[Route<'w>], entrance: Entrance<'_>) -> Vec<HttpRule> {
    let mut rules = Vec::new();
    for (kind, metadata, route) in routes {
        for (index, rule) in route.rules.iter().enumerate() {
            for (matched, (matches, _)) in rule.matches.iter().enumerate() {
                let key = (precedence(*kind, matches), age(metadata), index, matched);
                let place = Place { world, kind: *kind, metadata, index, matched, entrance };
                rules.push((key, place.compiled(rule, matches)));
            }
        }
    }
    rules.sort_by_key(|(key, _)| *key);
    rules.into_iter().flat_map(|(_, rules)| rules).collect()
}

/// What decides between equals: who is older, then whose name comes first. A resource not stored yet is the youngest. Without its `Z` a
/// time sorts as text: `…:00` before `…:00.5`.
pub(super) fn age(metadata: &Metadata) -> (bool, &str, &str, &str) {
    (metadata.created_at.is_empty(), metadata.created_at.trim_end_matches('Z'), metadata.namespace.as_str(), metadata.name.as_str())
}

/// Smaller comes first. What a GRPCRoute says of services and methods is there as a path: with both an exact one, with a service alone a
/// prefix, else an expression; what names neither comes last.
fn precedence(kind: Kind, matches: &RouteMatch) -> (u8, Reverse<usize>, bool, Reverse<usize>, Reverse<usize>) {
    let (form, length) = match &matches.path {
        PathMatch::Exact(path) => (0, path.len()),
        PathMatch::Prefix(prefix) if kind == Kind::GrpcRoute && prefix == "/" => (4, 0),
        // `/a/` takes what `/a` takes.
        PathMatch::Prefix(prefix) => (1, prefix.trim_end_matches('/').len()),
        PathMatch::Regex(pattern) if kind == Kind::GrpcRoute && pattern.as_str().starts_with(ANY_SERVICE) => (3, pattern.as_str().len()),
        PathMatch::Regex(pattern) => (2, pattern.as_str().len()),
    };
    (form, Reverse(length), matches.method.is_none(), Reverse(matches.headers.len()), Reverse(matches.query.len()))
}

/// One match of one rule of one route.
struct Place<'p, 'w> {
    world: &'p World<'w>,
    kind: Kind,
    metadata: &'p Metadata,
    index: usize,
    matched: usize,
    entrance: Entrance<'p>,
}

/// What a list of filters says.
#[derive(Debug, Clone, Default)]
struct Said {
    filters: Filters,
    host: Option<String>,
    path: Option<PathEdit>,
    mirrors: Vec<Mirror>,
    redirect: Option<Redirect>,
    /// One of them is not known: what it would have done cannot be left out, so there is no answer but 500.
    unknown: bool,
}

impl Said {
    /// Whether it says more than xDS can say of one of several weighted clusters.
    fn needs_a_rule(&self) -> bool {
        let Self { filters, host: _, path, mirrors, redirect, unknown } = self;
        filters.cors.is_some() || path.is_some() || !mirrors.is_empty() || redirect.is_some() || *unknown
    }
}

impl Place<'_, '_> {
    /// The rules of one match: one, or one a backend where a backend's filters ask for it.
    fn compiled(&self, rule: &RouteRule, matches: &RouteMatch) -> Vec<HttpRule> {
        let mut said = self.said(&rule.filters, matches);
        let made =
            |matches: RouteMatch, filters: Filters, action: Action| HttpRule { origin: Arc::new(self.origin()), matches, filters, action };
        if said.unknown {
            return vec![made(matches.clone(), Filters::default(), Action::Respond(500))];
        }
        if let Some(redirect) = said.redirect {
            return vec![made(matches.clone(), said.filters, Action::Redirect(redirect))];
        }
        said.filters.grpc_web = self.translates_grpc_web(rule);
        let backends: Vec<(WeightedBackend, Said)> = rule
            .backends
            .iter()
            .map(|backend| {
                let said = self.said(&backend.filters, matches);
                (self.weighted(backend, &said), said)
            })
            .collect();
        let attempts: Vec<Option<Attempts>> = backends.iter().map(|(backend, _)| self.attempts(rule, backend)).collect();
        // What nothing is sent to says nothing of how it is sent.
        let shared = attempts.iter().flatten().next().cloned().unwrap_or_else(|| Policies::none().attempts(Some(rule)));
        let attempts: Vec<Attempts> = attempts.into_iter().map(|attempts| attempts.unwrap_or_else(|| shared.clone())).collect();
        let forward = |backends: Vec<WeightedBackend>, attempts: Attempts| Forward {
            path: said.path.clone(),
            host: said.host.clone(),
            mirrors: said.mirrors.clone(),
            ..attempts.forward(backends)
        };
        let all_same = attempts.windows(2).all(|pair| pair[0] == pair[1]);
        if all_same && !backends.iter().any(|(_, said)| said.needs_a_rule()) {
            let backends = backends.into_iter().map(|(backend, _)| backend).collect();
            return vec![made(matches.clone(), said.filters, Action::Forward(forward(backends, shared)))];
        }
        let total: u64 = backends.iter().map(|(backend, _)| u64::from(backend.weight)).sum();
        let mut sum = 0;
        let mut rules = Vec::new();
        for ((backend, own), attempts) in backends.into_iter().zip(attempts).filter(|((backend, _), _)| backend.weight > 0) {
            sum += u64::from(backend.weight);
            let share = (sum < total).then(|| Share::of(sum, total));
            let mut filters = said.filters.clone();
            filters.cors = own.filters.cors.or(filters.cors);
            let action = match own.redirect {
                _ if own.unknown => Action::Respond(500),
                Some(redirect) => Action::Redirect(redirect),
                None => {
                    let mut forward = forward(vec![WeightedBackend { weight: 1, ..backend }], attempts);
                    forward.path = own.path.or(forward.path);
                    forward.mirrors.extend(own.mirrors);
                    Action::Forward(forward)
                }
            };
            filters.grpc_web &= matches!(action, Action::Forward(_));
            rules.push(made(RouteMatch { share, ..matches.clone() }, filters, action));
        }
        if rules.is_empty() {
            rules.push(made(matches.clone(), said.filters.clone(), Action::Forward(forward(Vec::new(), shared))));
        }
        rules
    }

    /// How requests of the rule to one of its backends are timed and tried again; nothing where none are sent.
    fn attempts(&self, rule: &RouteRule, backend: &WeightedBackend) -> Option<Attempts> {
        let Backend::Port(port) = &backend.backend else { return None };
        if backend.weight == 0 {
            return None;
        }
        let by = ByRule { kind: self.kind, route: self.metadata, rule: rule.name.as_deref(), called: self.entrance.called };
        Some(Policies::of(self.world, port, Some(by)).attempts(Some(rule)))
    }

    /// Whether the rule takes gRPC-Web for gRPC: at gateways, where browsers call, if its route says gRPC or all of its backends speak nothing else.
    fn translates_grpc_web(&self, rule: &RouteRule) -> bool {
        if self.entrance.called.is_some() {
            return false;
        }
        let declared = |backend: &BackendRef| match self.backend(backend) {
            Backend::Port(port) => self.world.port(&port).map(|found| found.port.protocol),
            Backend::Missing { .. } => None,
        };
        // One that is gone says nothing of those that are left.
        let mut known = rule.backends.iter().filter_map(declared).peekable();
        self.kind == Kind::GrpcRoute || (known.peek().is_some() && known.all(|protocol| protocol == Protocol::Grpc))
    }

    fn origin(&self) -> Origin {
        let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Origin {
            kind: self.kind.to_string(),
            namespace: self.metadata.namespace.to_string(),
            name: self.metadata.name.to_string(),
            generation: self.metadata.generation,
            rule: number(self.index),
            matched: number(self.matched),
        }
    }

    fn said(&self, filters: &[(HttpFilter, std::ops::Range<usize>)], matches: &RouteMatch) -> Said {
        let mut said = Said::default();
        for (filter, _) in filters {
            match filter {
                HttpFilter::RequestHeaders(edits) => said.filters.request = edits.clone(),
                HttpFilter::ResponseHeaders(edits) => said.filters.response = edits.clone(),
                HttpFilter::Cors(cors) => said.filters.cors = Some(cors.clone()),
                HttpFilter::Mirror { backend, share } => said.mirrors.push(Mirror { backend: self.backend(backend), share: *share }),
                HttpFilter::Rewrite { host, path } => {
                    said.host.clone_from(host);
                    said.path = path.as_ref().map(|path| edit(path, matches));
                }
                HttpFilter::Redirect { scheme, host, port, path, status } => {
                    said.redirect = Some(Redirect {
                        scheme: scheme.clone(),
                        host: host.clone(),
                        port: self.redirect_port(scheme.as_deref(), *port),
                        path: path.as_ref().map(|path| edit(path, matches)),
                        status: *status,
                    });
                }
                HttpFilter::Unknown { .. } => said.unknown = true,
            }
        }
        said
    }

    /// The port that a redirect writes: the one named, else the scheme's where one is named, else the one that the request came to;
    /// never one that goes without saying.
    fn redirect_port(&self, scheme: Option<&str>, port: Option<u16>) -> Option<u16> {
        let spoken = scheme.unwrap_or(if self.entrance.tls { "https" } else { "http" });
        let port = port.or_else(|| scheme.is_none().then_some(self.entrance.port));
        port.filter(|port| !matches!((spoken, port), ("http", 80) | ("https", 443)))
    }

    fn weighted(&self, backend: &BackendRef, said: &Said) -> WeightedBackend {
        WeightedBackend {
            weight: backend.weight,
            backend: self.backend(backend),
            request: said.filters.request.clone(),
            response: said.filters.response.clone(),
            host: said.host.clone(),
        }
    }

    fn backend(&self, backend: &BackendRef) -> Backend {
        led(self.world, (self.kind, self.metadata), self.entrance.home(), backend)
    }
}

/// Where a backend leads, missing ones to nowhere.
pub(super) fn led(world: &World<'_>, from: (Kind, &Metadata), home: Option<&Namespace>, backend: &BackendRef) -> Backend {
    world.backend(from, home, backend).map_or_else(
        |_| {
            let port = backend.port.map(|port| format!(":{port}")).unwrap_or_default();
            let object = &backend.object;
            Backend::Missing { name: format!("{}.{}.{SUFFIX}{port}", object.name, object.namespace) }
        },
        Backend::Port,
    )
}

/// A prefix is replaced where one was matched; the reader lets nothing else in.
fn edit(path: &PathModifier, matches: &RouteMatch) -> PathEdit {
    match (path, &matches.path) {
        (PathModifier::Full(path), _) => PathEdit::Full(path.clone()),
        (PathModifier::Prefix(replacement), PathMatch::Prefix(matched)) => {
            PathEdit::Prefix { matched: matched.trim_end_matches('/').to_owned(), replacement: replacement.clone() }
        }
        (PathModifier::Prefix(replacement), _) => PathEdit::Full(replacement.clone()),
    }
}
