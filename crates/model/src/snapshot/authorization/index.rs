//! What one caller may do, with an index over paths, so that a thousand rules cost little more than ten.

use std::collections::HashMap;
use std::sync::Arc;

use super::path::Segment;
use super::{Access, AccessAction, AccessCaller, Authorization, ByPolicy, Denial, Noted, Operation, Reading, Source};
use crate::cel::{Attribute, EvaluationError, Steps};

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
        let (mut allowing, mut shadows, mut looks_at_paths) = (None, Vec::new(), false);
        let (mut in_force_looks_at_paths, mut conditions_look_at_paths, mut further) = (false, false, Vec::new());
        for (policy_at, policy) in (0_u32..).zip(&authorization.policies) {
            if policy.action == AccessAction::Allow && !policy.shadow {
                allowing.get_or_insert(policy_at);
            }
            let mut own = Meant::new(policy.action == AccessAction::Deny);
            let meant = match (policy.shadow, policy.action) {
                (true, _) => &mut own,
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
            if policy.shadow {
                shadows.push((policy_at, own));
            }
        }
        Self {
            authorization,
            deny,
            allow,
            audit,
            allowing,
            shadows,
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
        !self.foreign && self.allowing.is_none() && self.deny.is_empty() && self.audit.is_empty() && self.shadows.is_empty()
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
                    AccessAction::Audit => None,
                };
                noted(would.map_or(Noted::WouldPass(policy), Noted::WouldDeny));
            }
        }
        verdict
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
            Denial::Foreign | Denial::Ambiguous { .. } => None,
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
        if let Some(place) = meant.anywhere.iter().find(done) {
            return Some(*place);
        }
        match path {
            Some(path) if meant.loosely => meant.find(&path.to_ascii_lowercase(), done),
            Some(path) => meant.find(path, done),
            // Of bytes no path is known; who denies by paths denies them all.
            None if meant.loosely => meant.nodes.iter().flat_map(|node| node.here.iter().chain(&node.below)).find(done).copied(),
            None => None,
        }
    }
}

/// What rules mean, by path.
#[derive(Debug)]
struct Meant {
    /// Whether rather too much is meant: denials take paths in any case of letters.
    loosely: bool,
    /// What names no path.
    anywhere: Vec<Place>,
    /// A tree of segments, its root first; empty where no rule names a path.
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    any: Option<u32>,
    /// What means just this path.
    here: Vec<Place>,
    /// What means all below.
    below: Vec<Place>,
}

impl Meant {
    fn new(loosely: bool) -> Self {
        Self { loosely, anywhere: Vec::new(), nodes: Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.anywhere.is_empty() && self.nodes.is_empty()
    }

    fn add(&mut self, place: Place, operation: Option<&Operation>) {
        let Some(operation) = operation.filter(|operation| !operation.paths.any.is_empty()) else {
            return self.anywhere.push(place);
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
                places.push(place);
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

    /// The first place, along the path, that `done` takes.
    fn find(&self, path: &str, done: impl Fn(&&Place) -> bool + Copy) -> Option<Place> {
        let root = self.nodes.first()?;
        match path.strip_prefix('/') {
            Some(rest) => self.descend(root, Some(rest), done),
            // `OPTIONS *`.
            None => root.below.iter().find(done).copied(),
        }
    }

    fn descend(&self, node: &Node, rest: Option<&str>, done: impl Fn(&&Place) -> bool + Copy) -> Option<Place> {
        let Some(rest) = rest else {
            let below = if self.loosely { node.below.as_slice() } else { &[] };
            return node.here.iter().chain(below).find(done).copied();
        };
        if let Some(place) = node.below.iter().find(done) {
            return Some(*place);
        }
        // With a slash at the end, which a denial means, too.
        if self.loosely
            && rest.is_empty()
            && let Some(place) = node.here.iter().find(done)
        {
            return Some(*place);
        }
        let (segment, rest) = rest.split_once('/').map_or((rest, None), |(segment, rest)| (segment, Some(rest)));
        let literal = node.literal.get(segment);
        let any = node.any.as_ref().filter(|_| !segment.is_empty());
        [literal, any]
            .into_iter()
            .flatten()
            .filter_map(|child| self.nodes.get(*child as usize))
            .find_map(|node| self.descend(node, rest, done))
    }
}
