//! What one caller may do, with an index over paths, hosts and values of header fields, so that a thousand rules cost little more than ten.

use std::collections::HashMap;
use std::sync::Arc;

use super::path::Segment;
use super::{Access, AccessAction, AccessCaller, Authorization, ByPolicy, Denial, Noted, Operation, Reading, Source, host_of};
use crate::cel::{Attribute, EvaluationError, Steps};
use crate::head::RequestHead;
use crate::snapshot::{HostPattern, ValueMatch, route};

/// What one caller may do at one place. Made once for a caller; its requests are held against it.
#[derive(Debug)]
pub struct Permissions {
    authorization: Arc<Authorization>,
    deny: Meant,
    allow: Meant,
    audit: Meant,
    /// The oldest policy that allows something and is in force.
    allowing: Option<u32>,
    /// Policies that are tried, each on its own.
    shadows: Vec<(u32, Meant)>,
    /// Policies that have a service asked, tried or in force, each on its own.
    external: Vec<(u32, Meant)>,
    looks_at_paths: bool,
    /// Whether the caller is of another trust domain.
    foreign: bool,
    /// Whether a policy in force does.
    in_force_looks_at_paths: bool,
    /// Whether a condition in force does, which sees a path as it came.
    conditions_look_at_paths: bool,
    /// What each request is to be held against.
    further: Vec<Further>,
}

/// Which operation of which rule of which policy; none: the rule is about anything.
#[derive(Debug, Clone, Copy)]
struct Place {
    policy: u32,
    rule: u32,
    operation: Option<u32>,
    /// What each request is to be held against besides, where there is something.
    further: Option<u32>,
}

/// What a rule asks of each request: claims, or its condition.
#[derive(Debug)]
struct Further {
    policy: u32,
    rule: u32,
    /// Which of its entries mean the caller; none: it is about anybody.
    sources: Vec<u32>,
}

impl Permissions {
    /// What `caller` may do.
    #[must_use]
    pub fn of(authorization: Arc<Authorization>, caller: &AccessCaller<'_>) -> Self {
        let (mut deny, mut allow, mut audit) = (Meant::new(true), Meant::new(false), Meant::new(false));
        let (mut allowing, mut shadows, mut external, mut looks_at_paths) = (None, Vec::new(), Vec::new(), false);
        let (mut in_force_looks_at_paths, mut conditions_look_at_paths, mut further) = (false, false, Vec::new());
        for (policy_at, policy) in (0_u32..).zip(&authorization.policies) {
            if policy.action == AccessAction::Allow && !policy.shadow {
                allowing.get_or_insert(policy_at);
            }
            // Who is asked too often loses time; who is not asked, a lock.
            let mut own = Meant::new(matches!(policy.action, AccessAction::Deny | AccessAction::External));
            let meant = match (policy.shadow, policy.action) {
                (true, _) | (false, AccessAction::External) => &mut own,
                (false, AccessAction::Deny) => &mut deny,
                (false, AccessAction::Allow) => &mut allow,
                (false, AccessAction::Audit) => &mut audit,
            };
            for (rule_at, rule) in (0_u32..).zip(&policy.rules) {
                let allows = policy.action == AccessAction::Allow;
                let means = |source: &Source| if allows { source.allows(caller) } else { source.takes(caller) };
                let anybody = rule.from.is_empty() && !(allows && caller.foreign().is_some());
                let sources: Vec<u32> = (0..).zip(&rule.from).filter(|(_, source)| means(source)).map(|(at, _)| at).collect();
                if !anybody && sources.is_empty() {
                    continue;
                }
                let asks = |at: &u32| rule.from.get(*at as usize).is_some_and(Source::asks_claims);
                let is_asked = rule.when.is_some() || (!sources.is_empty() && sources.iter().all(asks));
                let next = u32::try_from(further.len()).unwrap_or(u32::MAX);
                let further_at = is_asked.then(|| {
                    further.push(Further { policy: policy_at, rule: rule_at, sources });
                    next
                });
                let rule_looks_at_paths = rule.to.iter().any(|operation| !operation.paths.is_empty());
                let condition_looks_at_paths = rule
                    .when
                    .as_ref()
                    .is_some_and(|when| [Attribute::Path, Attribute::UrlPath].into_iter().any(|attribute| when.asks(attribute)));
                looks_at_paths |= rule_looks_at_paths;
                in_force_looks_at_paths |= rule_looks_at_paths && !policy.shadow;
                conditions_look_at_paths |= condition_looks_at_paths && !policy.shadow;
                let place = Place { policy: policy_at, rule: rule_at, operation: None, further: further_at };
                if rule.to.is_empty() {
                    meant.add(place, None);
                }
                for (operation_at, operation) in (0_u32..).zip(&rule.to) {
                    meant.add(Place { operation: Some(operation_at), ..place }, Some(operation));
                }
            }
            match (policy.action, policy.shadow) {
                (AccessAction::External, _) => external.push((policy_at, own)),
                (_, true) => shadows.push((policy_at, own)),
                (_, false) => {}
            }
        }
        Self {
            authorization,
            deny,
            allow,
            audit,
            allowing,
            shadows,
            external,
            looks_at_paths: looks_at_paths || conditions_look_at_paths,
            in_force_looks_at_paths: in_force_looks_at_paths || conditions_look_at_paths,
            conditions_look_at_paths,
            foreign: caller.foreign().is_some(),
            further,
        }
    }

    /// The policies that it was made of.
    #[must_use]
    pub fn authorization(&self) -> &Arc<Authorization> {
        &self.authorization
    }

    /// Whether nothing of what the caller does can be denied or is to be written down.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        !self.foreign
            && self.allowing.is_none()
            && self.deny.is_empty()
            && self.audit.is_empty()
            && self.shadows.is_empty()
            && self.external.is_empty()
    }

    /// Whether the caller may do this, and which rule allows it where one has to. `noted` is told what else is to be said of it.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, access: &Access<'_>, mut noted: impl FnMut(Noted<'_>)) -> Result<Option<ByPolicy<'_>>, Denial<'_>> {
        let path = access.head.map(crate::head::RequestHead::path);
        let reading = path.filter(|_| self.looks_at_paths).map_or(Reading::Plain, Reading::of);
        let (path, other) = match &reading {
            Reading::Plain => (path, None),
            Reading::Decoded(path) => (Some(path.as_str()), None),
            Reading::Twofold(..) if self.conditions_look_at_paths => {
                return Err(Denial::Ambiguous { why: "two readings, and a condition looks at it" });
            }
            Reading::Twofold(path, other) => (Some(path.as_str()), Some(other.as_str())),
            Reading::Ambiguous(why) if self.in_force_looks_at_paths => return Err(Denial::Ambiguous { why }),
            // Only policies that are tried look at paths, and none of them would let it pass.
            Reading::Ambiguous(_) => (None, None),
        };
        let asked = Asked { permissions: self, access, path, other, steps: Steps::default() };
        let denied = asked.any(&self.deny).map(|place| Denial::Denied(self.by(place)));
        let allowed = asked.all(&self.allow);
        let verdict = match (denied, self.allowing) {
            (Some(denial), _) => Err(denial),
            (None, None) if self.foreign => Err(Denial::Foreign),
            (None, Some(policy)) if allowed.is_none() => Err(Denial::NotAllowed(self.policy(policy))),
            (None, _) if access.head.is_none() => match self.external.iter().find_map(|(at, own)| asked.enforced(*at, own)) {
                Some(place) => Err(Denial::Unasked(self.by(place))),
                None => Ok(allowed.filter(|_| self.allowing.is_some()).map(|place| self.by(place))),
            },
            (None, _) => Ok(allowed.filter(|_| self.allowing.is_some()).map(|place| self.by(place))),
        };
        if let Some(place) = asked.any(&self.audit) {
            noted(Noted::Audited(self.by(place)));
        }
        // A trial says what would be different: of what is denied anyway, nothing.
        if verdict.is_ok() {
            for (at, own) in &self.shadows {
                let policy = &self.policy(*at).policy;
                let would = match policy.action {
                    AccessAction::Deny => asked.any(own).map(|place| self.by(place)),
                    AccessAction::Allow if allowed.is_some() || asked.all(own).is_some() => None,
                    AccessAction::Allow => Some(self.policy(*at)),
                    AccessAction::Audit | AccessAction::External => None,
                };
                noted(would.map_or(Noted::WouldPass(policy), Noted::WouldDeny));
            }
        }
        verdict
    }

    /// Whether policies have services asked, of this caller or of others: what only they may say is taken from what callers say.
    #[must_use]
    pub fn has_authorizers(&self) -> bool {
        !self.external.is_empty()
    }

    /// The policies whose services are to be asked of a request that [`Self::judge`] lets pass, the oldest first.
    #[must_use]
    pub fn external(&self, access: &Access<'_>) -> Vec<ByPolicy<'_>> {
        if self.external.is_empty() {
            return Vec::new();
        }
        let path = access.head.map(crate::head::RequestHead::path);
        let reading = path.filter(|_| self.looks_at_paths).map_or(Reading::Plain, Reading::of);
        let (path, other) = match &reading {
            // What is ambiguous is denied before anybody is asked.
            Reading::Plain | Reading::Ambiguous(_) => (path, None),
            Reading::Decoded(path) => (Some(path.as_str()), None),
            Reading::Twofold(path, other) => (Some(path.as_str()), Some(other.as_str())),
        };
        let asked = Asked { permissions: self, access, path, other, steps: Steps::default() };
        self.external.iter().filter_map(|(_, own)| asked.any(own)).map(|place| self.by(place)).collect()
    }

    /// Which rule's condition has no result, where that may be why something was denied: the one that denies, or the first that allows.
    #[must_use]
    pub fn without_result(&self, denial: &Denial<'_>, access: &Access<'_>) -> Option<(ByPolicy<'_>, EvaluationError)> {
        let mut asked = self.further.iter().map(|further| (further, self.by_rule(further.policy, further.rule)));
        let failed = |by: ByPolicy<'_>| {
            let when = by.rule?.when.as_ref()?;
            when.evaluate(&access.attributes()).err()
        };
        match denial {
            Denial::Denied(decided) => asked.find(|(_, by)| by == decided).and_then(|(_, by)| Some((by, failed(by)?))),
            Denial::NotAllowed(_) => asked.find_map(|(further, by)| {
                let allows = by.policy.action == AccessAction::Allow && !by.policy.shadow && further.is_told(by, access, false);
                Some((by, failed(by).filter(|_| allows)?))
            }),
            Denial::Unasked(_) | Denial::Foreign | Denial::Ambiguous { .. } => None,
        }
    }

    fn policy(&self, at: u32) -> ByPolicy<'_> {
        ByPolicy { policy: &self.authorization.policies[at as usize], rule: None }
    }

    fn by(&self, place: Place) -> ByPolicy<'_> {
        self.by_rule(place.policy, place.rule)
    }

    fn by_rule(&self, policy: u32, rule: u32) -> ByPolicy<'_> {
        let by = self.policy(policy);
        ByPolicy { rule: by.policy.rules.get(rule as usize), ..by }
    }

    fn operation(&self, place: Place) -> Option<&Operation> {
        self.by(place).rule?.to.get(place.operation? as usize)
    }
}

impl Further {
    /// Whether the token says what is asked for, where that is.
    fn is_told(&self, by: ByPolicy<'_>, access: &Access<'_>, loosely: bool) -> bool {
        let source = |at: &u32| by.rule.and_then(|rule| rule.from.get(*at as usize));
        self.sources.is_empty() || self.sources.iter().filter_map(source).any(|source| source.takes_claims(access, loosely))
    }
}

/// A request with the ways in which its path can be read.
struct Asked<'a> {
    permissions: &'a Permissions,
    access: &'a Access<'a>,
    path: Option<&'a str>,
    other: Option<&'a str>,
    steps: Steps,
}

impl Asked<'_> {
    /// The first rule that means it in any reading.
    fn any(&self, meant: &Meant) -> Option<Place> {
        self.found(meant, self.path).or_else(|| self.found(meant, Some(self.other?)))
    }

    /// The rule of a policy in force that means it.
    fn enforced(&self, policy: u32, own: &Meant) -> Option<Place> {
        self.any(own).filter(|_| !self.permissions.policy(policy).policy.shadow)
    }

    /// A rule that means it as it is, where some rule means it in the other reading too.
    fn all(&self, meant: &Meant) -> Option<Place> {
        let found = self.found(meant, self.path)?;
        if self.other.is_some() && self.found(meant, self.other).is_none() { None } else { Some(found) }
    }

    /// Whether what a rule asks of each request holds: claims and its condition.
    fn holds_further(&self, at: u32, loosely: bool) -> bool {
        let Some(further) = self.permissions.further.get(at as usize) else { return loosely };
        let by = self.permissions.by_rule(further.policy, further.rule);
        further.is_told(by, self.access, loosely) && by.rule.is_some_and(|rule| rule.holds(self.access, loosely, &self.steps))
    }

    fn found(&self, meant: &Meant, path: Option<&str>) -> Option<Place> {
        let done = |place: &&Place| {
            let operation = self.permissions.operation(**place);
            operation.is_none_or(|operation| operation.is_done(self.access, path, meant.loosely))
                && place.further.is_none_or(|further| self.holds_further(further, meant.loosely))
        };
        let seek = |places: &Places| places.find(self.access.head, meant.loosely, done);
        seek(&meant.anywhere).or_else(|| match path {
            Some(path) if meant.loosely => meant.find(&path.to_ascii_lowercase(), &seek),
            Some(path) => meant.find(path, &seek),
            // Of bytes no path is known; who denies by paths denies them all.
            None if meant.loosely => meant.nodes.iter().flat_map(|node| [&node.here, &node.below]).find_map(seek),
            None => None,
        })
    }
}

/// What rules mean, by path.
#[derive(Debug)]
struct Meant {
    /// Whether rather too much is meant: denials take paths in any case of letters.
    loosely: bool,
    /// What names no path.
    anywhere: Places,
    /// A tree of segments, its root first; empty where no rule names a path.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    any: Option<u32>,
    /// What means just this path.
    here: Places,
    /// What means all below.
    below: Places,
}

impl Meant {
    fn new(loosely: bool) -> Self {
        Self { loosely, anywhere: Places::default(), nodes: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.anywhere.is_empty() && self.nodes.is_empty()
    }

    fn add(&mut self, place: Place, operation: Option<&Operation>) {
        let Some(operation) = operation.filter(|operation| !operation.paths.any.is_empty()) else {
            return self.anywhere.add(place, operation);
        };
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        for pattern in &operation.paths.any {
            let mut at = 0;
            for segment in pattern.segments() {
                at = self.child(at, segment);
            }
            if let Some(node) = self.nodes.get_mut(at) {
                let places = if pattern.takes_below() { &mut node.below } else { &mut node.here };
                places.add(place, Some(operation));
            }
        }
    }

    fn child(&mut self, at: usize, segment: &Segment) -> usize {
        let next = self.nodes.len();
        let number = u32::try_from(next).unwrap_or(u32::MAX);
        let loosely = self.loosely;
        let Some(node) = self.nodes.get_mut(at) else { return at };
        let child = match segment {
            Segment::Literal(text) if loosely => *node.literal.entry(text.to_ascii_lowercase().into()).or_insert(number),
            Segment::Literal(text) => *node.literal.entry(text.as_str().into()).or_insert(number),
            Segment::Any => *node.any.get_or_insert(number),
        };
        if child == number {
            self.nodes.push(Node::default());
        }
        child as usize
    }

    /// The first place, along the path, that `seek` finds.
    fn find(&self, path: &str, seek: &impl Fn(&Places) -> Option<Place>) -> Option<Place> {
        let root = self.nodes.first()?;
        match path.strip_prefix('/') {
            Some(rest) => self.descend(root, Some(rest), seek),
            // `OPTIONS *`.
            None => seek(&root.below),
        }
    }

    fn descend(&self, node: &Node, rest: Option<&str>, seek: &impl Fn(&Places) -> Option<Place>) -> Option<Place> {
        let Some(rest) = rest else {
            return seek(&node.here).or_else(|| if self.loosely { seek(&node.below) } else { None });
        };
        // With a slash at the end, which a denial means, too.
        let here = || if self.loosely && rest.is_empty() { seek(&node.here) } else { None };
        if let Some(place) = seek(&node.below).or_else(here) {
            return Some(place);
        }
        let (segment, rest) = rest.split_once('/').map_or((rest, None), |(segment, rest)| (segment, Some(rest)));
        let literal = node.literal.get(segment);
        let any = node.any.as_ref().filter(|_| !segment.is_empty());
        [literal, any]
            .into_iter()
            .flatten()
            .filter_map(|child| self.nodes.get(*child as usize))
            .find_map(|node| self.descend(node, rest, seek))
    }
}

/// Places that are told apart by a value that they ask for, where they ask for one.
#[derive(Debug, Default)]
struct Places {
    /// What is asked one by one.
    plain: Vec<Place>,
    /// What asks for values of one thing, by these values.
    by_value: Vec<(Valued, ByValue)>,
}

type ByValue = HashMap<Box<str>, Vec<Place>, foldhash::fast::RandomState>;

/// Of what a value is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Valued {
    Host,
    Field(Box<str>),
}

impl Places {
    fn is_empty(&self) -> bool {
        self.plain.is_empty() && self.by_value.is_empty()
    }

    fn add(&mut self, place: Place, operation: Option<&Operation>) {
        let Some((of, values)) = operation.and_then(valued) else { return self.plain.push(place) };
        let at = self.by_value.iter().position(|(known, _)| *known == of).unwrap_or_else(|| {
            self.by_value.push((of, ByValue::default()));
            self.by_value.len() - 1
        });
        if let Some((_, places)) = self.by_value.get_mut(at) {
            for value in values {
                places.entry(value.into()).or_default().push(place);
            }
        }
    }

    /// The first place that `done` takes.
    fn find(&self, head: Option<&RequestHead>, loosely: bool, done: impl Fn(&&Place) -> bool + Copy) -> Option<Place> {
        let by_value = || match head {
            Some(head) => {
                self.by_value.iter().find_map(|(of, places)| of.find(head, loosely, |value| places.get(value)?.iter().find(done)))
            }
            // Of bytes no value is known, and who denies by values denies them all.
            None if loosely => {
                let places = self.by_value.iter().flat_map(|(_, places)| places.values().flatten()).filter(done);
                places.min_by_key(|place| (place.policy, place.rule, place.operation))
            }
            None => None,
        };
        self.plain.iter().find(done).or_else(by_value).copied()
    }
}

/// A value that an operation asks for without fail: one of these.
fn valued(operation: &Operation) -> Option<(Valued, Vec<&str>)> {
    let field = operation.headers.iter().find_map(|field| match &field.value {
        ValueMatch::Exact(value) => Some((Valued::Field(field.name.to_ascii_lowercase().into()), vec![value.as_str()])),
        ValueMatch::Regex(_) => None,
    });
    field.or_else(|| {
        let hosts = operation.hosts.any.iter().map(|host| match host {
            HostPattern::Exact(host) => Some(host.as_str()),
            HostPattern::Under(_) | HostPattern::Any => None,
        });
        let hosts: Vec<&str> = hosts.collect::<Option<_>>()?;
        (!hosts.is_empty()).then_some((Valued::Host, hosts))
    })
}

impl Valued {
    /// What `find` finds for a value that a request has.
    fn find<T>(&self, head: &RequestHead, loosely: bool, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        match self {
            Self::Host => find(&host_of(head)),
            Self::Field(name) => {
                let together = route::value_of(name, head).and_then(|value| find(&value));
                together.or_else(|| if loosely { route::values_one_by_one(name, head).find_map(find) } else { None })
            }
        }
    }
}
