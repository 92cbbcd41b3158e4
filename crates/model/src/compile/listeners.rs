//! The listeners of a gateway, its own and those of ListenerSets: which of them hold, and which routes each takes.

use std::collections::BTreeMap;

use crate::name::GatewayName;
use crate::resource::{
    GATEWAY_GROUP, Gateway, HttpRoute, Kind, Listener, ListenerProtocol, ListenerSet, Metadata, ObjectRef, ParentRef, Resource, Spec,
    TlsMode, Validation,
};
use crate::snapshot::{Certificate, ClientValidation, HostPattern};

use super::World;
use super::reference::Problem;
use super::rules::{Route, age};

/// The controller that our GatewayClasses name, and that status names.
pub const CONTROLLER: &str = "lorica.io/gateway";
/// The class that is ours without a resource that says so.
pub const CLASS: &str = "lorica";

/// A gateway of ours with all that belongs to it.
pub(super) struct Frame<'w> {
    pub(super) metadata: &'w Metadata,
    pub(super) gateway: &'w Gateway,
    /// The ListenerSets that name it, and whether it lets them in. The oldest first.
    pub(super) sets: Vec<(&'w Metadata, &'w ListenerSet, bool)>,
    /// Its own listeners, then those of sets that it lets in.
    pub(super) listeners: Vec<Bound<'w>>,
    /// HTTPRoutes and GRPCRoutes that give way to one of the other kind, each at one of the listeners.
    displaced: Vec<Displaced<'w>>,
}

/// A route at a listener, with the hosts that it is for there.
type Placed<'w> = ((Kind, &'w Metadata), Vec<HostPattern>);

/// A route that gives way at a listener.
struct Displaced<'w> {
    /// The listener, by its place among the gateway's.
    at: usize,
    route: (Kind, &'w Metadata),
    /// The route to which it gives way.
    by: (Kind, &'w Metadata),
}

/// A listener of a gateway, and how it stands.
pub(super) struct Bound<'w> {
    /// Whose it is: the gateway's or a ListenerSet's.
    pub(super) owner: (Kind, &'w Metadata),
    pub(super) listener: &'w Listener,
    /// Why it is not taken.
    pub(super) refused: Option<Problem>,
    /// Whether it is another that keeps it from being taken.
    pub(super) conflicted: bool,
    /// The kinds of routes that it takes.
    pub(super) kinds: Vec<Kind>,
    /// What it refers to that cannot be used.
    pub(super) unresolved: Option<Problem>,
    pub(super) certificates: Vec<Certificate>,
    pub(super) client: Option<ClientValidation>,
    /// Whether HTTP/3 is asked for, and why it is not served all the same.
    pub(super) http3: Option<Result<(), Problem>>,
}

impl Bound<'_> {
    /// Whether connections come in by it.
    pub(super) fn is_programmed(&self) -> bool {
        let needs_certificate = self.needs_certificate() && self.certificates.is_empty();
        self.refused.is_none() && !needs_certificate && (self.unresolved.is_none() || !self.kinds.is_empty())
    }

    /// Another listener keeps it from being taken, unless something else does already.
    fn conflicts(&mut self, clash: Option<Problem>) {
        if self.refused.is_none() && clash.is_some() {
            (self.refused, self.conflicted) = (clash, true);
        }
    }

    fn needs_certificate(&self) -> bool {
        match self.listener.protocol {
            ListenerProtocol::Https => true,
            ListenerProtocol::Tls => self.mode() == TlsMode::Terminate,
            _ => false,
        }
    }

    /// Whether its TLS ends at the gateway.
    pub(super) fn mode(&self) -> TlsMode {
        self.listener.tls.as_ref().map_or(TlsMode::Terminate, |tls| tls.mode)
    }

    /// Whether routes may attach to it: an unreadable certificate does not keep them away, a listener that is not taken does.
    pub(super) fn takes_routes(&self) -> bool {
        self.refused.is_none()
    }
}

impl World<'_> {
    /// Whether gateways of a class are ours to carry out.
    pub(super) fn is_our_class(&self, class: &str) -> bool {
        let named = self.resources.of_kind(Kind::GatewayClass).find(|resource| resource.metadata.name.as_str() == class);
        match named.map(|resource| &resource.spec) {
            Some(Spec::GatewayClass(class)) => class.controller == CONTROLLER,
            _ => class == CLASS,
        }
    }
}

impl<'w> Frame<'w> {
    /// The gateway of a name, if it is there and ours.
    pub(super) fn of(world: &World<'w>, name: &GatewayName) -> Option<Self> {
        let (metadata, gateway) = world.resources.gateway(&name.namespace, &name.name)?;
        world.is_our_class(&gateway.class).then(|| Self::new(world, metadata, gateway))
    }

    fn new(world: &World<'w>, metadata: &'w Metadata, gateway: &'w Gateway) -> Self {
        let sets = sets(world, metadata, gateway);
        let own = ((Kind::Gateway, metadata), gateway.listeners.as_slice());
        let added = sets.iter().filter(|(_, _, allowed)| *allowed).map(|(metadata, set, _)| {
            let owner: (Kind, &'w Metadata) = (Kind::ListenerSet, metadata);
            let set: &'w ListenerSet = set;
            (owner, set.listeners.as_slice())
        });
        let mut listeners: Vec<Bound<'w>> = Vec::new();
        for (owner, written) in std::iter::once(own).chain(added) {
            let mut new: Vec<Bound<'w>> = written.iter().map(|listener| bound(world, (metadata, gateway), owner, listener)).collect();
            // Those of the gateway win over those of sets, older sets over younger ones.
            for bound in &mut new {
                let clash =
                    listeners.iter().filter(|known| known.refused.is_none()).find_map(|known| clash(known.listener, bound.listener));
                bound.conflicts(clash);
            }
            // Among those of one resource there is no winner: none of them is taken.
            let taken: Vec<&'w Listener> = new.iter().filter(|bound| bound.refused.is_none()).map(|bound| bound.listener).collect();
            for bound in new.iter_mut().filter(|bound| bound.refused.is_none()) {
                let others = taken.iter().filter(|other| !std::ptr::eq(**other, bound.listener));
                let clash = others.into_iter().find_map(|other| clash(other, bound.listener));
                bound.conflicts(clash);
            }
            listeners.append(&mut new);
        }
        let datagrams: Vec<u16> = listeners
            .iter()
            .filter(|bound| bound.refused.is_none() && bound.listener.protocol == ListenerProtocol::Udp)
            .map(|bound| bound.listener.port)
            .collect();
        for bound in listeners.iter_mut().filter(|bound| datagrams.contains(&bound.listener.port)) {
            if let Some(http3 @ Ok(())) = &mut bound.http3 {
                *http3 = Err(Problem::new("Programmed", "HTTP/3 is not served, as a listener for UDP has its port"));
            }
        }
        let mut frame = Self { metadata, gateway, sets, listeners, displaced: Vec::new() };
        frame.displaced = frame.conflicts(world);
        frame
    }

    /// Of an HTTPRoute and a GRPCRoute whose hosts meet at a listener exactly one is accepted there: the older one, then the one whose
    /// name comes first. Rules of both are never merged.
    fn conflicts(&self, world: &World<'w>) -> Vec<Displaced<'w>> {
        let meant = |route: &HttpRoute| route.parents.iter().any(|parent| self.is_meant(&parent.object));
        let mut routes: Vec<Route<'w>> = world.resources.routes().filter(|(_, _, route)| meant(route)).collect();
        let has = |wanted: Kind| routes.iter().any(|(kind, _, _)| *kind == wanted);
        if !(has(Kind::HttpRoute) && has(Kind::GrpcRoute)) {
            return Vec::new();
        }
        routes.sort_by(|(_, one, _), (_, other, _)| age(one).cmp(&age(other)));
        let mut displaced: Vec<Displaced<'w>> = Vec::new();
        // What was accepted so far, with its hosts, by listener.
        let mut accepted: Vec<Vec<Placed<'w>>> = self.listeners.iter().map(|_| Vec::new()).collect();
        for (kind, metadata, route) in routes {
            let mut hosts: BTreeMap<usize, Vec<HostPattern>> = BTreeMap::new();
            for parent in route.parents.iter().filter(|parent| self.is_meant(&parent.object)) {
                for (bound, patterns) in self.attach(world, (kind, metadata), parent, &route.hostnames).unwrap_or_default() {
                    hosts.extend(self.place(bound).map(|at| (at, patterns)));
                }
            }
            for (at, hosts) in hosts {
                let Some(accepted) = accepted.get_mut(at) else { continue };
                let meets = |known: &[HostPattern]| known.iter().any(|known| hosts.iter().any(|host| host.meet(known).is_some()));
                match accepted.iter().find(|((other, _), known)| *other != kind && meets(known)) {
                    Some((by, _)) => displaced.push(Displaced { at, route: (kind, metadata), by: *by }),
                    None => accepted.push(((kind, metadata), hosts)),
                }
            }
        }
        displaced
    }

    /// The place of a listener among the gateway's.
    fn place(&self, bound: &Bound<'w>) -> Option<usize> {
        self.listeners.iter().position(|known| std::ptr::eq(known.listener, bound.listener))
    }

    /// To which route another gives way at a listener.
    fn displaced(&self, route: (Kind, &Metadata), bound: &Bound<'w>) -> Option<(Kind, &'w Metadata)> {
        let same = |known: &(Kind, &Metadata)| known.0 == route.0 && known.1.name == route.1.name && known.1.namespace == route.1.namespace;
        let mut of_route = self.displaced.iter().filter(|known| same(&known.route)).peekable();
        of_route.peek()?;
        let at = self.place(bound)?;
        of_route.find(|known| known.at == at).map(|known| known.by)
    }

    /// The listeners that a route is accepted at by one of its parents, with the hosts that it is for at each.
    ///
    /// # Errors
    /// Why it is accepted at none.
    pub(super) fn attach(
        &self,
        world: &World<'_>,
        route: (Kind, &Metadata),
        parent: &ParentRef,
        hostnames: &[HostPattern],
    ) -> Result<Vec<(&Bound<'w>, Vec<HostPattern>)>, Problem> {
        let mut taken = self.selected(world, route, parent, hostnames)?;
        taken.retain(|(bound, _)| bound.takes_routes());
        if taken.is_empty() {
            return Err(Problem::new(
                "NotAllowedByListeners",
                "no listener of it that takes the route holds itself; their status says why",
            ));
        }
        let by = taken.iter().find_map(|(bound, _)| self.displaced(route, bound));
        taken.retain(|(bound, _)| self.displaced(route, bound).is_none());
        match by {
            Some((kind, by)) if taken.is_empty() => Err(Problem::new(
                "Conflicted",
                format!(
                    "the older {kind} {}.{} has hosts of it there, and an HTTPRoute and a GRPCRoute never share one",
                    by.name, by.namespace
                ),
            )),
            _ => Ok(taken),
        }
    }

    /// The listeners that a route selects by one of its parents and that let it in, whether or not they hold themselves, with the hosts that
    /// it is for at each.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn selected(
        &self,
        world: &World<'_>,
        (kind, metadata): (Kind, &Metadata),
        parent: &ParentRef,
        hostnames: &[HostPattern],
    ) -> Result<Vec<(&Bound<'w>, Vec<HostPattern>)>, Problem> {
        let meant = |bound: &&Bound<'w>| {
            let (owner_kind, owner) = bound.owner;
            owner_kind.as_str() == parent.object.kind
                && owner.name == parent.object.name
                && owner.namespace == parent.object.namespace
                && parent.section.as_ref().is_none_or(|section| *section == bound.listener.name)
                && parent.port.is_none_or(|port| port == bound.listener.port)
        };
        let named: Vec<_> = self.listeners.iter().filter(meant).collect();
        if named.is_empty() {
            return Err(Problem::new("NoMatchingParent", format!("{} {} has no such listener", parent.object.kind, parent.object.name)));
        }
        let labels = world.resources.namespace_labels(&metadata.namespace);
        let allowed: Vec<_> = named
            .into_iter()
            .filter(|bound| bound.kinds.contains(&kind))
            .filter(|bound| bound.listener.allowed.namespaces.allows(&bound.owner.1.namespace, &metadata.namespace, labels))
            .collect();
        if allowed.is_empty() {
            let why = format!("no listener of it takes a {kind} from the namespace {}", metadata.namespace);
            return Err(Problem::new("NotAllowedByListeners", why));
        }
        let hosts = |bound: &Bound<'w>| -> Vec<HostPattern> {
            match hostnames {
                [] => vec![bound.listener.hostname.clone()],
                written => {
                    let mut hosts: Vec<_> = written.iter().filter_map(|host| host.meet(&bound.listener.hostname)).collect();
                    hosts.sort();
                    hosts.dedup();
                    hosts
                }
            }
        };
        let attached: Vec<_> = allowed.into_iter().map(|bound| (bound, hosts(bound))).filter(|(_, hosts)| !hosts.is_empty()).collect();
        if attached.is_empty() {
            return Err(Problem::new("NoMatchingListenerHostname", "no listener of it takes any of the route's host names"));
        }
        Ok(attached)
    }

    /// Whether an object is this gateway or one of the ListenerSets that belong to it.
    pub(super) fn is_meant(&self, object: &ObjectRef) -> bool {
        let is = |kind: Kind, metadata: &Metadata| {
            object.group == GATEWAY_GROUP
                && object.kind == kind.as_str()
                && object.name == metadata.name
                && object.namespace == metadata.namespace
        };
        is(Kind::Gateway, self.metadata) || self.sets.iter().any(|(metadata, _, _)| is(Kind::ListenerSet, metadata))
    }
}

/// The gateway that an object means: itself, or that of a ListenerSet.
///
/// # Errors
/// What is missing; nothing where the object is of a kind that has no listeners at all.
pub(super) fn gateway_of(world: &World<'_>, object: &ObjectRef) -> Result<GatewayName, Option<Problem>> {
    let (kind, name) = (&object.kind, format!("{}.{}", object.name, object.namespace));
    let missing = |what: String| Err(Some(Problem::new("NoMatchingParent", format!("there is no {what}"))));
    let gateway = match (object.group.as_str(), kind.as_str()) {
        (GATEWAY_GROUP, "Gateway") => GatewayName::new(object.namespace.clone(), object.name.clone()),
        (GATEWAY_GROUP, "ListenerSet") => match world.resources.of(Kind::ListenerSet, &object.namespace, &object.name) {
            Some(Resource { spec: Spec::ListenerSet(set), .. }) => GatewayName::new(set.parent.namespace.clone(), set.parent.name.clone()),
            _ => return missing(format!("ListenerSet {name}")),
        },
        _ => return Err(None),
    };
    match world.resources.gateway(&gateway.namespace, &gateway.name) {
        Some(_) => Ok(gateway),
        None => missing(format!("Gateway {gateway}")),
    }
}

fn sets<'w>(world: &World<'w>, metadata: &Metadata, gateway: &Gateway) -> Vec<(&'w Metadata, &'w ListenerSet, bool)> {
    let mut sets: Vec<_> = world
        .resources
        .of_kind(Kind::ListenerSet)
        .filter_map(|resource| if let Spec::ListenerSet(set) = &resource.spec { Some((&resource.metadata, set)) } else { None })
        .filter(|(_, set)| set.parent.kind == "Gateway" && set.parent.name == metadata.name && set.parent.namespace == metadata.namespace)
        .map(|(own, set)| {
            let labels = world.resources.namespace_labels(&own.namespace);
            (own, set, gateway.listener_sets.allows(&metadata.namespace, &own.namespace, labels))
        })
        .collect();
    sets.sort_by(|(one, _, _), (other, _, _)| age(one).cmp(&age(other)));
    sets
}

/// Why a listener cannot stand beside another.
fn clash(earlier: &Listener, later: &Listener) -> Option<Problem> {
    use ListenerProtocol::{Egress, Http, Https, Tcp, Tls, Udp};
    if earlier.port != later.port {
        return None;
    }
    let class = |listener: &Listener| match &listener.protocol {
        Http => 0,
        Https | Tls => 1,
        Tcp => 2,
        Udp => 3,
        Egress => 4,
        ListenerProtocol::Other(_) => 5,
    };
    // TCP and UDP ports of one number have nothing to do with each other.
    if (class(earlier) == 3) != (class(later) == 3) {
        return None;
    }
    let name = &earlier.name;
    if class(earlier) != class(later) {
        return Some(Problem::new("ProtocolConflict", format!("the listener {name} has port {} for another protocol", earlier.port)));
    }
    let equal = class(earlier) >= 2 || earlier.hostname == later.hostname;
    equal.then(|| Problem::new("HostnameConflict", format!("the listener {name} takes the same hosts on port {}", earlier.port)))
}

fn bound<'w>(
    world: &World<'w>,
    (gateway_metadata, gateway): (&'w Metadata, &'w Gateway),
    owner: (Kind, &'w Metadata),
    listener: &'w Listener,
) -> Bound<'w> {
    let mode = listener.tls.as_ref().map_or(TlsMode::Terminate, |tls| tls.mode);
    let (fitting, refused): (&[Kind], _) = match &listener.protocol {
        ListenerProtocol::Http => (&[Kind::HttpRoute, Kind::GrpcRoute], None),
        ListenerProtocol::Https if mode == TlsMode::Passthrough => {
            (&[], Some(Problem::new("UnsupportedValue", "HTTPS ends at the gateway; write protocol TLS to pass it through")))
        }
        ListenerProtocol::Https => (&[Kind::HttpRoute, Kind::GrpcRoute], None),
        ListenerProtocol::Tls => (&[Kind::TlsRoute], None),
        ListenerProtocol::Tcp => (&[Kind::TcpRoute], None),
        ListenerProtocol::Udp => (&[Kind::UdpRoute], None),
        // What policies lead through it passes; no route does.
        ListenerProtocol::Egress => (&[], None),
        ListenerProtocol::Other(name) => (&[], Some(Problem::new("UnsupportedProtocol", format!("the protocol {name} is not known here")))),
    };
    let mut unresolved = None;
    let kinds = match listener.allowed.kinds.as_slice() {
        [] => fitting.to_vec(),
        asked => {
            let known = |(group, kind): &(String, String)| {
                fitting.iter().copied().find(|fitting| (group.is_empty() || group == GATEWAY_GROUP) && fitting.as_str() == kind)
            };
            if let Some((_, kind)) = asked.iter().find(|asked| known(asked).is_none()) {
                unresolved = Some(Problem::new("InvalidRouteKinds", format!("a listener of this protocol takes no {kind}")));
            }
            asked.iter().filter_map(known).collect()
        }
    };
    let mut certificates = Vec::new();
    if matches!(listener.protocol, ListenerProtocol::Https | ListenerProtocol::Tls) && mode == TlsMode::Terminate {
        let named = listener.tls.as_ref().map(|tls| tls.certificates.as_slice()).unwrap_or_default();
        for object in named {
            match world.certificate(owner, object, "InvalidCertificateRef") {
                Ok(certificate) => certificates.push(certificate),
                Err(problem) => drop(unresolved.get_or_insert(problem)),
            }
        }
        if named.is_empty() {
            unresolved.get_or_insert(Problem::new("InvalidCertificateRef", "TLS that ends here needs a certificate"));
        }
    }
    let mut refused = refused;
    let mut client = None;
    if listener.protocol == ListenerProtocol::Https {
        let by_port = gateway.port_client_validation.iter().find(|(port, _)| *port == listener.port).map(|(_, validation)| validation);
        if let Some(validation) = by_port.or(gateway.client_validation.as_ref()) {
            let (found, problem) = client_validation(world, gateway_metadata, validation);
            if found.roots.is_empty() {
                refused.get_or_insert(Problem::new("NoValidCACertificate", "none of the roots for clients' certificates can be read"));
            }
            if let Some(problem) = problem {
                unresolved.get_or_insert(problem);
            }
            client = Some(found);
        }
    }
    let asked = listener.tls.as_ref().is_some_and(|tls| tls.http3.is_some());
    let http3 = asked.then(|| match &client {
        // Which certificates clients must show is said before the server name is known.
        Some(_) => Err(Problem::new("Programmed", "HTTP/3 is not served where clients must show certificates")),
        None => Ok(()),
    });
    Bound { owner, listener, refused, conflicted: false, kinds, unresolved, certificates, client, http3 }
}

fn client_validation(world: &World<'_>, metadata: &Metadata, validation: &Validation) -> (ClientValidation, Option<Problem>) {
    let (roots, problem) = world.roots((Kind::Gateway, metadata), &validation.roots);
    let problem = problem.map(|problem| match problem.reason {
        "InvalidKind" => Problem { reason: "InvalidCACertificateKind", ..problem },
        _ => problem,
    });
    (ClientValidation { roots, optional: validation.optional }, problem)
}
