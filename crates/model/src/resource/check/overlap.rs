//! Rules that can never match, or that only a tie-break decides: settings that would silently do nothing.

use std::ops::Range;

use super::Checked;
use crate::name::ServiceName;
use crate::resource::diagnostic::{Diagnostic, Severity};
use crate::resource::kinds::{HttpRoute, ParentRef, TransportRoute};
use crate::resource::read::Document;
use crate::resource::{GATEWAY_GROUP, Kind, Metadata};
use crate::snapshot::{FieldMatch, HostPattern, PathMatch, RouteMatch};

/// One match of a route: its rule's number, itself, its place.
type Matched<'r> = (usize, &'r RouteMatch, &'r Range<usize>);

fn matches(route: &HttpRoute) -> impl Iterator<Item = Matched<'_>> + Clone {
    route.rules.iter().enumerate().flat_map(|(rule, spec)| spec.matches.iter().map(move |(found, span)| (rule, found, span)))
}

impl Checked<'_> {
    /// Matches that other rules leave nothing to, in this route and in others of the same calls.
    pub(super) fn overlaps(&mut self, metadata: &Metadata, route: &HttpRoute) {
        let kind = self.document.resource.kind;
        for (index, (rule, found, span)) in matches(route).enumerate() {
            let others = || matches(route).enumerate().filter(|(_, (other, ..))| *other != rule);
            if let Some((_, (before, _, first))) = others().find(|(at, (_, known, _))| *at < index && same(known, found)) {
                let wrong = self.wrong(span, format!("rule {rule} takes what rule {before} takes already, so it never matches"));
                self.found.push(wrong.related(first.clone(), "here it is taken").hint("remove one of them, or let them differ"));
            } else if let Some((_, (by, _, first))) =
                others().find(|(_, (_, known, _))| kind == Kind::HttpRoute && leaves_nothing(known, found))
            {
                let message =
                    format!("rule {rule} never gets a request: rule {by} takes all that it would, as expressions come after prefixes");
                let found = self.wrong(span, message).related(first.clone(), "here they are taken").hint(FOR_EXPRESSIONS);
                self.found.push(Diagnostic { severity: Severity::Warning, ..found });
            }
        }
        for (other_kind, other_metadata, other) in self.after.routes() {
            if (other_kind, &other_metadata.namespace, &other_metadata.name) == (kind, &metadata.namespace, &metadata.name) {
                continue;
            }
            let Some((parent, place)) = meeting(metadata, route, other_metadata, other) else { continue };
            if other_kind != kind {
                // Kinds are never merged. At a service port who writes the HTTPRoute is told; at a gateway the status tells which is older.
                if kind == Kind::HttpRoute && parent.object.is_service() {
                    let other = format!("GRPCRoute {}.{}", other_metadata.name, other_metadata.namespace);
                    let message = format!("at ports of {place} that {other} names too this route is not accepted");
                    self.warn(&parent.object.span, message, "let both be GRPCRoutes or HTTPRoutes, or name different ports");
                }
                continue;
            }
            let at = self.brought(other_metadata);
            if at > Some(self.index) {
                // Of two routes of one change the later is told.
                continue;
            }
            let by = at.and_then(|at| self.change.get(at));
            for (_, found, span) in matches(route) {
                let route = format!("{kind} {}.{}", other_metadata.name, other_metadata.namespace);
                let (rule, first, message, hint) = if let Some((rule, _, first)) = matches(other).find(|(_, known, _)| same(known, found)) {
                    let message = format!("takes the same requests of {place}; only their age decides between them");
                    (rule, first, message, format!("put the rules into one route, or let them differ from those of {route}"))
                } else if kind != Kind::HttpRoute {
                    continue;
                } else if let Some((rule, _, first)) = matches(other).find(|(_, known, _)| leaves_nothing(known, found)) {
                    let message = format!("takes all requests of {place} that this would, as expressions come after prefixes");
                    (rule, first, message, FOR_EXPRESSIONS.to_owned())
                } else if let Some((rule, _, first)) = matches(other).find(|(_, known, _)| leaves_nothing(found, known)) {
                    let message = format!("gets no request of {place} any more: this takes them first, as expressions come after prefixes");
                    (rule, first, message, FOR_EXPRESSIONS.to_owned())
                } else {
                    continue;
                };
                let found = self.met(span, &format!("rule {rule} of {route}"), &message, first, by);
                self.found.push(found.hint(hint));
            }
        }
    }

    /// Routes for bytes, of which a listener and name have one.
    pub(super) fn overlaps_of_bytes(&mut self, metadata: &Metadata, route: &TransportRoute) {
        let kind = self.document.resource.kind;
        for (other_kind, other_metadata, other) in self.after.transport_routes() {
            let is_other = (&other_metadata.namespace, &other_metadata.name) != (&metadata.namespace, &metadata.name);
            if other_kind != kind || !is_other || !share_a_host(&route.hostnames, &other.hostnames) {
                continue;
            }
            let at_one = route.parents.iter().find_map(|parent| {
                let known = other.parents.iter().find(|known| at_one_listener(parent, known))?;
                Some((parent, known))
            });
            let at = self.brought(other_metadata);
            let Some((parent, known)) = at_one.filter(|_| at <= Some(self.index)) else { continue };
            let by = at.and_then(|at| self.change.get(at));
            let who = format!("{kind} {}.{}", other_metadata.name, other_metadata.namespace);
            let message =
                format!("takes the same connections of {} `{}`; only the older of both gets any", parent.object.kind, parent.object.name);
            let found = self.met(&parent.object.span, &who, &message, &known.object.span, by);
            self.found.push(found.hint("attach one of them to a listener of its own"));
        }
    }

    /// Where in the change another route of this kind stands, if the change brings it.
    fn brought(&self, other: &Metadata) -> Option<usize> {
        let kind = self.document.resource.kind;
        self.change.iter().position(|known| {
            let metadata = &known.resource.metadata;
            known.resource.kind == kind && (&metadata.namespace, &metadata.name) == (&other.namespace, &other.name)
        })
    }

    /// A warning about what another route says; `by` is that route's document, where the change brings it.
    fn met(&self, span: &Range<usize>, who: &str, what: &str, first: &Range<usize>, by: Option<&Document>) -> Diagnostic {
        let place = match by {
            Some(by) if by.file != self.document.file => {
                let first = Diagnostic::error(&by.file, &(self.source)(&by.file), first.clone(), "");
                format!(" ({}:{}:{})", first.file, first.line, first.column)
            }
            _ => String::new(),
        };
        let found = Diagnostic { severity: Severity::Warning, ..self.wrong(span, format!("{who}{place} {what}")) };
        match by {
            Some(by) if by.file == self.document.file => found.related(first.clone(), "the other"),
            _ => found,
        }
    }
}

const FOR_EXPRESSIONS: &str = "let the prefix be an expression as well: of two expressions the longer goes first";

/// Where two routes hold for the same requests: by which parent of the first, and the place for people.
fn meeting<'r>(metadata: &Metadata, route: &'r HttpRoute, other_metadata: &Metadata, other: &HttpRoute) -> Option<(&'r ParentRef, String)> {
    // Routes of callers' namespaces replace the service's own for those callers, and never meet them.
    let same_side = |service: &ServiceName| {
        let producer = |metadata: &Metadata| metadata.namespace == service.namespace;
        producer(metadata) == producer(other_metadata) && (producer(metadata) || metadata.namespace == other_metadata.namespace)
    };
    route.parents.iter().find_map(|parent| {
        if let Some(service) = parent.object.service() {
            let is_same = |known: &&ParentRef| known.object.service().as_ref() == Some(&service) && ports_meet(parent, known);
            return (same_side(&service) && other.parents.iter().any(|known| is_same(&known)))
                .then(|| (parent, format!("service {service}")));
        }
        let meets = share_a_host(&route.hostnames, &other.hostnames) && other.parents.iter().any(|known| at_one_listener(parent, known));
        meets.then(|| (parent, format!("{} {}.{}", parent.object.kind, parent.object.name, parent.object.namespace)))
    })
}

fn ports_meet(one: &ParentRef, other: &ParentRef) -> bool {
    one.port.is_none() || other.port.is_none() || one.port == other.port
}

fn at_one_listener(one: &ParentRef, other: &ParentRef) -> bool {
    let object = |parent: &ParentRef| (parent.object.kind.clone(), parent.object.namespace.clone(), parent.object.name.clone());
    let sections_meet = one.section.is_none() || other.section.is_none() || one.section == other.section;
    let of_gateways = [one, other].iter().all(|parent| parent.object.group == GATEWAY_GROUP);
    of_gateways && object(one) == object(other) && ports_meet(one, other) && sections_meet
}

/// Between different host names the more specific decides, which is no tie.
fn share_a_host(one: &[HostPattern], other: &[HostPattern]) -> bool {
    (one.is_empty() && other.is_empty()) || one.iter().any(|host| other.contains(host))
}

/// Whether two matches take the same requests: the order of their fields says nothing, nor does a prefix's last slash.
fn same(one: &RouteMatch, other: &RouteMatch) -> bool {
    fn path(path: &PathMatch) -> (u8, &str) {
        match path {
            PathMatch::Exact(path) => (0, path),
            PathMatch::Prefix(prefix) => (1, prefix.trim_end_matches('/')),
            PathMatch::Regex(pattern) => (2, pattern.as_str()),
        }
    }
    // Names are unique among the fields of a match.
    let fields = |one: &[FieldMatch], other: &[FieldMatch]| one.len() == other.len() && one.iter().all(|field| other.contains(field));
    path(&one.path) == path(&other.path)
        && one.method == other.method
        && fields(&one.headers, &other.headers)
        && fields(&one.query, &other.query)
}

/// Whether `first` goes before `later` and takes all that it would. Of two forms of path that holds for a prefix before an expression only:
/// in every other case what takes less goes first.
fn leaves_nothing(first: &RouteMatch, later: &RouteMatch) -> bool {
    let (PathMatch::Prefix(prefix), PathMatch::Regex(pattern)) = (&first.path, &later.path) else { return false };
    let prefix = prefix.trim_end_matches('/');
    let within = prefix.is_empty() || begins(pattern.as_str()).strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    let fields = |first: &[FieldMatch], later: &[FieldMatch]| first.iter().all(|field| later.contains(field));
    within
        && (first.method.is_none() || first.method == later.method)
        && fields(&first.headers, &later.headers)
        && fields(&first.query, &later.query)
}

/// The plain text with which all begins that an expression takes; less than there is where that is not plain to see.
fn begins(pattern: &str) -> &str {
    if pattern.contains('|') || pattern.starts_with("(?") {
        return "";
    }
    let end = pattern.find(|c: char| r"\.+*?()[]{}^$".contains(c)).unwrap_or(pattern.len());
    let text = &pattern[..end];
    match pattern[end..].chars().next() {
        // What may be there any number of times may be missing.
        Some('?' | '*' | '{') => text.char_indices().next_back().map_or("", |(last, _)| &text[..last]),
        _ => text,
    }
}
