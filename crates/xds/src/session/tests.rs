//! Sessions told as a script: what the client says and the world does, what is sent, what happened.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use envoy_types::pb::google::protobuf::Any;

use super::*;

/// Resources by kind and name; the version is a text, the body the version.
#[derive(Default, Clone)]
struct World(BTreeMap<(Kind, String), Arc<Resource>>);

impl World {
    fn set(&mut self, kind: Kind, name: &str, version: &str) {
        let body = Any { type_url: kind.type_url().to_owned(), value: format!("{name}={version}").into_bytes() };
        self.0.insert((kind, name.to_owned()), Arc::new(Resource { kind, name: name.to_owned(), version: version.to_owned(), body }));
    }
    fn unset(&mut self, kind: Kind, name: &str) {
        self.0.remove(&(kind, name.to_owned()));
    }
    fn of(text: &str) -> Self {
        let mut world = Self::default();
        for word in text.split_whitespace() {
            let (kind, rest) = word.split_once('/').unwrap();
            let (name, version) = rest.split_once('=').unwrap();
            world.set(kind_of(kind), name, version);
        }
        world
    }
}

impl Catalog for World {
    fn get(&self, kind: Kind, name: &str) -> Option<Arc<Resource>> {
        self.0.get(&(kind, name.to_owned())).cloned()
    }
    fn all(&self, kind: Kind) -> Vec<Arc<Resource>> {
        self.0.iter().filter(|((other, _), _)| *other == kind).map(|(_, resource)| resource.clone()).collect()
    }
}

fn kind_of(word: &str) -> Kind {
    match word {
        "S" => Kind::Secret,
        "C" => Kind::Cluster,
        "E" => Kind::Endpoints,
        "L" => Kind::Listener,
        "R" => Kind::Route,
        "N" => Kind::Names,
        "X" => Kind::Extension,
        other => panic!("{other}"),
    }
}

fn word_of(type_url: &str) -> &'static str {
    ["S", "C", "E", "L", "R", "N", "X"][Kind::from_type_url(type_url).unwrap().index()]
}

struct Script {
    session: Session,
    world: World,
    revision: u64,
    nonces: BTreeMap<Kind, Vec<String>>,
    events: Vec<Event>,
}

impl Script {
    fn new(form: Form, world: &str) -> Self {
        let world = World::of(world);
        let session = Session::new(form, Arc::new(world.clone()), 1);
        Self { session, world, revision: 1, nonces: BTreeMap::new(), events: Vec::new() }
    }

    /// Everything that is sent now: `C:a=1,-b` is a response of clusters with `a` in version 1, and that `b` does not exist.
    fn sent(&mut self) -> String {
        let mut out = Vec::new();
        while let Some(response) = self.session.next_response() {
            let (type_url, nonce, mut parts) = match response {
                Response::Delta(response) => {
                    let there = response.resources.iter().map(|one| String::from_utf8(one.resource.clone().unwrap().value).unwrap());
                    let gone = response.removed_resources.iter().map(|name| format!("-{name}"));
                    (response.type_url.clone(), response.nonce.clone(), there.chain(gone).collect::<Vec<_>>())
                }
                Response::World(response) => {
                    let there = response.resources.iter().map(|one| String::from_utf8(one.value.clone()).unwrap());
                    (response.type_url.clone(), response.nonce.clone(), there.collect())
                }
            };
            parts.sort();
            self.nonces.entry(Kind::from_type_url(&type_url).unwrap()).or_default().push(nonce);
            out.push(format!("{}:{}", word_of(&type_url), parts.join(",")));
        }
        out.join(" ")
    }

    fn delta(&mut self, kind: &str, subscribe: &str, unsubscribe: &str, known: &str) -> String {
        let list = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let known = known.split_whitespace().map(|word| word.split_once('=').unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
        self.say(Request::Delta(DeltaDiscoveryRequest {
            type_url: kind_of(kind).type_url().to_owned(),
            resource_names_subscribe: list(subscribe),
            resource_names_unsubscribe: list(unsubscribe),
            initial_resource_versions: known,
            ..DeltaDiscoveryRequest::default()
        }))
    }

    fn want(&mut self, kind: &str, names: &str) -> String {
        self.delta(kind, names, "", "")
    }

    /// A request in the state-of-the-world form, with the newest nonce.
    fn world(&mut self, kind: &str, names: &str) -> String {
        let nonce = self.nonces.get(&kind_of(kind)).and_then(|nonces| nonces.last()).cloned().unwrap_or_default();
        self.world_at(kind, names, &nonce, None)
    }

    fn world_at(&mut self, kind: &str, names: &str, nonce: &str, error: Option<&str>) -> String {
        self.say(Request::World(DiscoveryRequest {
            type_url: kind_of(kind).type_url().to_owned(),
            resource_names: names.split_whitespace().map(str::to_owned).collect(),
            response_nonce: nonce.to_owned(),
            error_detail: error.map(status),
            ..DiscoveryRequest::default()
        }))
    }

    fn say(&mut self, request: Request) -> String {
        self.events = self.session.on_request(request).unwrap();
        self.sent()
    }

    /// Acknowledges the oldest response of a kind that was not yet.
    fn ack(&mut self, kind: &str) -> String {
        self.answer(kind, None)
    }

    fn nack(&mut self, kind: &str, message: &str) -> String {
        self.answer(kind, Some(message))
    }

    fn answer(&mut self, kind: &str, error: Option<&str>) -> String {
        let kind = kind_of(kind);
        let response_nonce = self.nonces.get_mut(&kind).unwrap().remove(0);
        let error_detail = error.map(status);
        self.say(Request::Delta(DeltaDiscoveryRequest {
            type_url: kind.type_url().to_owned(),
            response_nonce,
            error_detail,
            ..DeltaDiscoveryRequest::default()
        }))
    }

    /// Publishes the world after a change: `C/a=2` sets, `-C/a` removes.
    fn publish(&mut self, changes: &str) -> String {
        for word in changes.split_whitespace() {
            if let Some((kind, name)) = word.strip_prefix('-').and_then(|word| word.split_once('/')) {
                self.world.unset(kind_of(kind), name);
            } else {
                self.world.0.extend(World::of(word).0);
            }
        }
        self.revision += 1;
        self.events = self.session.publish(Arc::new(self.world.clone()), self.revision);
        self.sent()
    }

    /// What happened at the last step, without subscriptions: `published 2 concerned`, `reached 2`, `rejected a at 2`.
    fn happened(&self) -> String {
        let told = self.events.iter().filter_map(|event| match event {
            Event::Subscribed { .. } | Event::Unsubscribed { .. } => None,
            Event::Published { revision, concerned } => Some(format!("published {revision}{}", if *concerned { " concerned" } else { "" })),
            Event::Acknowledged { name, version } => Some(format!("has {name}={version}")),
            Event::Reached { revision } => Some(format!("reached {revision}")),
            Event::Rejected { name, revision, .. } => Some(format!("rejected {name} at {revision}")),
        });
        told.collect::<Vec<_>>().join(", ")
    }
}

fn status(message: &str) -> Status {
    Status { code: 3, message: message.to_owned(), ..Status::default() }
}

#[test]
fn names_are_answered_with_what_there_is_and_what_is_not() {
    let mut script = Script::new(Form::Delta, "C/a=1 C/b=1");
    assert_eq!(script.want("C", "a x"), "C:-x,a=1");
    assert_eq!(script.ack("C"), "");
    // Asking again is answered again.
    assert_eq!(script.want("C", "a"), "C:a=1");
    script.ack("C");
    assert_eq!(script.publish("C/x=1"), "C:x=1");
    script.ack("C");
    assert_eq!(script.delta("C", "", "a", ""), "");
    assert_eq!(script.publish("C/a=2"), "");
    assert_eq!(script.happened(), "published 3, reached 3");
}

#[test]
fn wildcards_are_as_the_protocol_has_them() {
    // The older form: a first request without names.
    let mut script = Script::new(Form::Delta, "C/a=1 E/a=1 N/contact=1");
    assert_eq!(script.want("C", ""), "C:a=1");
    script.ack("C");
    assert_eq!(script.publish("C/b=1"), "C:b=1");
    script.ack("C");
    assert_eq!(script.publish("-C/a"), "C:-a");
    script.ack("C");
    // For other kinds it means nothing.
    assert_eq!(script.want("E", ""), "");
    assert_eq!(script.want("N", "*"), "N:contact=1");
    script.ack("N");
    // By name, then without: nothing more, and the wildcard ends by its name.
    let mut script = Script::new(Form::Delta, "L/a=1 L/b=1");
    assert_eq!(script.want("L", "a"), "L:a=1");
    script.ack("L");
    assert_eq!(script.want("L", ""), "");
    assert_eq!(script.want("L", "*"), "L:b=1");
    script.ack("L");
    assert_eq!(script.delta("L", "", "a", ""), "L:a=1", "the wildcard covers what the client dropped");
    script.ack("L");
    assert_eq!(script.delta("L", "", "*", ""), "");
    assert_eq!(script.publish("L/b=2"), "");
    // Nothing there is an answer too: the client need not wait for it.
    let mut script = Script::new(Form::Delta, "");
    assert_eq!(script.want("C", "*"), "C:");
}

#[test]
fn who_comes_back_is_sent_what_changed_only() {
    let mut script = Script::new(Form::Delta, "C/a=1 C/b=2 L/p=1");
    assert_eq!(script.delta("C", "a b c", "", "a=1 b=1"), "C:-c,b=2");
    let mut script = Script::new(Form::Delta, "C/a=1 C/b=2");
    assert_eq!(script.delta("C", "*", "", "a=1 gone=1"), "C:-gone,b=2");
    script.ack("C");
    assert_eq!(script.publish(""), "");
    // What was known is no pending question: a change waits for the acknowledgement of the one before.
    assert_eq!(script.publish("C/a=2"), "C:a=2");
    assert_eq!(script.publish("C/a=3"), "");
    assert_eq!(script.ack("C"), "C:a=3");
}

#[test]
fn changes_coalesce_and_revisions_are_reached_in_order() {
    let mut script = Script::new(Form::Delta, "C/a=1 C/b=1");
    script.want("C", "a b");
    script.ack("C");
    assert_eq!(script.publish("C/a=2"), "C:a=2");
    assert_eq!(script.happened(), "published 2 concerned");
    assert_eq!(script.publish("C/a=3"), "");
    assert_eq!(script.publish("C/a=4 C/b=2"), "");
    assert_eq!(script.happened(), "published 4 concerned");
    assert_eq!(script.session.pending(), Some(2));
    assert_eq!(script.ack("C"), "C:a=4,b=2");
    assert_eq!(script.happened(), "reached 2");
    assert_eq!(script.publish("R/other=1"), "");
    assert_eq!(script.happened(), "published 5");
    assert_eq!(script.ack("C"), "");
    assert_eq!(script.happened(), "reached 5");
    assert_eq!(script.session.pending(), None);
    // There and back again before it was sent: nothing to wait for.
    assert_eq!(script.publish("C/a=5"), "C:a=5");
    assert_eq!(script.publish("C/b=3"), "");
    assert_eq!(script.publish("C/b=2"), "");
    assert_eq!(script.ack("C"), "");
    assert_eq!(script.happened(), "reached 8");
}

#[test]
fn what_is_newly_asked_for_does_not_wait() {
    let mut script = Script::new(Form::Delta, "R/a=1 R/b=1 C/b=1 L/b=1");
    script.want("R", "a");
    script.ack("R");
    assert_eq!(script.publish("R/a=2"), "R:a=2");
    assert_eq!(script.want("R", "b"), "R:b=1");
    // Either order of acknowledgements will do.
    script.nonces.get_mut(&Kind::Route).unwrap().reverse();
    assert_eq!(script.ack("R"), "");
    assert_eq!(script.session.pending(), Some(2));
    script.ack("R");
    assert_eq!(script.happened(), "reached 2");
}

#[test]
fn a_changed_cluster_is_followed_by_its_endpoints_where_clusters_are_warmed_up() {
    let begun = |warms| {
        let mut script = Script::new(Form::Delta, "C/a=1 C/b=1 E/a=1 E/b=1");
        script.session = Session::new(Form::Delta, Arc::new(script.world.clone()), 1).warming(warms);
        assert_eq!((script.want("C", ""), script.want("E", "a b")), ("C:a=1,b=1".to_owned(), "E:a=1,b=1".to_owned()));
        assert_eq!(script.ack("C") + &script.ack("E"), "");
        script
    };
    assert_eq!(begun(false).publish("C/a=2"), "C:a=2");
    let mut script = begun(true);
    assert_eq!(script.publish("C/a=2"), "C:a=2 E:a=1");
    assert_eq!(script.ack("C") + &script.ack("E"), "");
    assert_eq!(script.publish("E/b=2"), "E:b=2");
    // One that comes back has the endpoints, but may have an older cluster.
    let mut script = Script::new(Form::Delta, "C/a=2 C/b=1 E/a=1 E/b=1");
    script.session = Session::new(Form::Delta, Arc::new(script.world.clone()), 1).warming(true);
    assert_eq!(script.delta("C", "*", "", "a=1 b=1"), "C:a=2");
    assert_eq!(script.delta("E", "a b", "", "a=1 b=1"), "E:a=1");
}

#[test]
fn a_secret_leaves_after_what_showed_it() {
    let mut script = Script::new(Form::Delta, "C/a=1 S/old=1");
    assert_eq!((script.want("C", ""), script.want("S", "old")), ("C:a=1".to_owned(), "S:old=1".to_owned()));
    assert_eq!(script.ack("C") + &script.ack("S"), "");
    assert_eq!(script.publish("C/a=2 -S/old"), "C:a=2");
    assert_eq!(script.ack("C"), "S:-old");
}

#[test]
fn what_is_referred_to_goes_first_and_leaves_last() {
    let mut script = Script::new(Form::Delta, "C/a=1 E/a=1 L/a=1 R/a=1");
    for kind in ["C", "E", "L", "R"] {
        script.want(kind, "*");
        script.ack(kind);
    }
    // A cluster that waits for an acknowledgement holds back the route that needs it.
    assert_eq!(script.publish("C/a=2"), "C:a=2");
    assert_eq!(script.publish("C/b=1 E/b=1 R/a=2"), "E:b=1");
    assert_eq!(script.ack("C"), "C:b=1 R:a=2");
    for kind in ["C", "E", "R"] {
        script.ack(kind);
    }
    // The removal of a cluster waits for listener and route.
    assert_eq!(script.publish("-C/a -E/a -L/a -R/a"), "L:-a R:-a");
    assert_eq!(script.ack("L"), "");
    assert_eq!(script.ack("R"), "C:-a E:-a");
    script.ack("C");
    script.ack("E");
    assert_eq!(script.happened(), "reached 4");
}

#[test]
fn a_refused_response_is_narrowed_to_what_is_at_fault() {
    let mut script = Script::new(Form::Delta, "C/a=1 C/b=1 C/c=1");
    script.want("C", "a b c");
    script.ack("C");
    assert_eq!(script.publish("C/a=2 C/b=2 C/c=2"), "C:a=2,b=2,c=2");
    assert_eq!(script.nack("C", "b: no"), "C:a=2");
    assert_eq!(script.happened(), "");
    assert_eq!(script.ack("C"), "C:b=2");
    assert_eq!(script.nack("C", "b: no"), "C:c=2");
    assert_eq!(script.happened(), "rejected b at 2");
    assert_eq!(script.ack("C"), "");
    assert_eq!(script.happened(), "reached 2");
    // The same version is not sent again; another is.
    assert_eq!(script.publish("C/a=3"), "C:a=3");
    script.ack("C");
    assert_eq!(script.publish("C/b=3"), "C:b=3");
    script.ack("C");
    assert_eq!(script.publish("C/b=2"), "");
    assert_eq!(script.happened(), "published 5 concerned, rejected b at 5, reached 5");
}

#[test]
fn stale_nonces_say_nothing() {
    let mut script = Script::new(Form::Delta, "C/a=1");
    script.want("C", "a");
    script.nonces.insert(Kind::Cluster, vec!["999".to_owned()]);
    assert_eq!(script.nack("C", "no"), "");
    assert_eq!(script.happened(), "");
    assert_eq!(script.publish("C/a=2"), "", "the first response is still outstanding");
}

#[test]
fn too_many_names_end_the_session() {
    let mut script = Script::new(Form::Delta, "");
    let names = |from: usize, to: usize| (from..to).map(|number| number.to_string()).collect::<Vec<_>>();
    let request = |resource_names_subscribe| {
        Request::Delta(DeltaDiscoveryRequest {
            type_url: Kind::Cluster.type_url().to_owned(),
            resource_names_subscribe,
            ..DeltaDiscoveryRequest::default()
        })
    };
    script.session.on_request(request(names(0, MAX_SUBSCRIPTIONS))).unwrap();
    assert_eq!(
        script.session.on_request(request(names(MAX_SUBSCRIPTIONS, MAX_SUBSCRIPTIONS + 1))),
        Err(ProtocolError::TooManySubscriptions)
    );
    assert_eq!(script.session.on_request(Request::World(DiscoveryRequest::default())), Err(ProtocolError::WrongForm));
}

#[test]
fn an_unknown_type_is_passed_over() {
    let mut script = Script::new(Form::Delta, "");
    let type_url = "type.googleapis.com/envoy.service.runtime.v3.Runtime".to_owned();
    assert_eq!(script.say(Request::Delta(DeltaDiscoveryRequest { type_url, ..DeltaDiscoveryRequest::default() })), "");
}

#[test]
fn the_state_of_the_world_is_whole_for_listeners_and_clusters() {
    let mut script = Script::new(Form::StateOfTheWorld, "C/a=1 C/b=1 E/a=1 E/b=1");
    assert_eq!(script.world("C", ""), "C:a=1,b=1");
    assert_eq!(script.world("C", ""), "");
    assert_eq!(script.world("E", "a b"), "E:a=1,b=1");
    assert_eq!(script.world("E", "a b"), "");
    assert_eq!(script.publish("C/a=2 E/a=2"), "C:a=2,b=1 E:a=2");
    assert_eq!(script.happened(), "published 2 concerned");
    script.world("C", "");
    assert_eq!(script.world("E", "a b"), "");
    assert_eq!(script.happened(), "reached 2");
    // Gone: by absence where the whole is sent, not at all elsewhere.
    assert_eq!(script.publish("-C/b -E/b"), "C:a=2");
    script.world("C", "");
    assert_eq!(script.happened(), "reached 3");
    // Fewer names, then none: no wildcard any more.
    assert_eq!(script.world("C", "a"), "C:a=2");
    assert_eq!(script.world("C", "a"), "");
    assert_eq!(script.world("C", ""), "");
    assert_eq!(script.publish("C/a=3"), "");
}

#[test]
fn the_state_of_the_world_answers_for_names_that_do_not_exist() {
    let mut script = Script::new(Form::StateOfTheWorld, "");
    assert_eq!(script.world("L", "a"), "L:", "an absent listener is told by its absence");
    assert_eq!(script.world("R", "a"), "", "an absent route cannot be told");
    assert_eq!(script.publish("L/a=1 R/a=1"), "R:a=1", "the listener's response is outstanding");
    assert_eq!(script.world("L", "a"), "L:a=1");
}

#[test]
fn stale_requests_of_the_state_of_the_world_are_ignored() {
    let mut script = Script::new(Form::StateOfTheWorld, "E/a=1 E/b=1");
    assert_eq!(script.world("E", "a"), "E:a=1");
    assert_eq!(script.world_at("E", "a b", "other", None), "");
    assert_eq!(script.world("E", "a b"), "E:b=1");
}

#[test]
fn a_cluster_stays_in_the_whole_until_nothing_refers_to_it() {
    let mut script = Script::new(Form::StateOfTheWorld, "C/a=1 C/b=1 R/p=1");
    script.world("C", "");
    script.world("C", "");
    script.world("R", "p");
    script.world("R", "p");
    assert_eq!(script.publish("-C/a C/b=2 R/p=2"), "C:a=1,b=2 R:p=2");
    assert_eq!(script.world("C", ""), "");
    assert_eq!(script.world("R", "p"), "C:b=2");
    script.world("C", "");
    assert_eq!(script.happened(), "reached 2");
}

#[test]
fn a_refusal_of_the_whole_counts_for_what_it_names() {
    let mut script = Script::new(Form::StateOfTheWorld, "C/alpha=1 C/beta=1");
    script.world("C", "");
    script.world("C", "");
    assert_eq!(script.publish("C/alpha=2 C/beta=2"), "C:alpha=2,beta=2");
    let nonce = script.nonces[&Kind::Cluster].last().unwrap().clone();
    assert_eq!(script.world_at("C", "", &nonce, Some("beta: bad")), "");
    assert_eq!(script.happened(), "rejected beta at 2, reached 2");
    // Endpoints are narrowed as in the incremental form.
    let mut script = Script::new(Form::StateOfTheWorld, "E/alpha=1 E/beta=1");
    script.world("E", "alpha beta");
    let nonce = script.nonces[&Kind::Endpoints].last().unwrap().clone();
    assert_eq!(script.world_at("E", "alpha beta", &nonce, Some("bad")), "E:alpha=1");
    assert_eq!(script.world("E", "alpha beta"), "E:beta=1");
}

#[test]
fn who_has_which_secret_is_known() {
    let mut script = Script::new(Form::Delta, "S/bundle=1");
    script.want("S", "bundle");
    assert_eq!(script.happened(), "");
    script.ack("S");
    assert_eq!(script.happened(), "has bundle=1");
    // It has what it said that it has when it came back, until it acknowledges what is newer.
    let mut script = Script::new(Form::Delta, "S/bundle=2");
    assert_eq!(script.delta("S", "bundle", "", "bundle=1"), "S:bundle=2");
    assert_eq!(script.happened(), "has bundle=1");
    script.ack("S");
    assert_eq!(script.happened(), "has bundle=2");
}
