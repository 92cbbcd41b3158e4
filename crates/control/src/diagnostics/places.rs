//! Where what decided stands: the object that a proxy names, found among the resources and in the file that it was applied from.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use lorica_api::explain::{Hop, Place};
use lorica_model::name::{Namespace, ObjectName};
use lorica_model::resource::{Document, Key, Kind, Resources};

/// For how many resources it is remembered from where they were applied; of more, those of the first names.
const MOST: usize = 20_000;

/// From which file and line resources were applied last, as the user named it. In memory: a control plane that starts anew knows the objects alone.
#[derive(Debug, Default)]
pub struct Files(Mutex<BTreeMap<Key, String>>);

impl Files {
    /// These documents were applied; `text` is that of a file.
    pub fn applied<'t>(&self, documents: &[Document], text: impl Fn(&str) -> &'t str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for document in documents {
            let before = text(&document.file).get(..document.name_span.start).unwrap_or_default();
            let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
            let key = document.resource.key();
            if known.len() < MOST || known.contains_key(&key) {
                known.insert(key, format!("{}:{line}", document.file));
            }
        }
    }

    fn of(&self, key: &Key) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

/// Says of every place in what a hop tells where it stands.
pub fn settle(hop: &mut Hop, resources: &Resources, files: &Files) {
    let Hop { rule, candidates, policies, .. } = hop;
    rule.iter_mut().chain(candidates.iter_mut().map(|candidate| &mut candidate.by)).for_each(|place| find(place, resources, files));
    for decision in policies {
        find(&mut decision.by, resources, files);
        if decision.rule.is_none() {
            decision.rule = decision.by.rule.and_then(|rule| rule_name(&decision.by, rule, resources));
        }
    }
}

fn key(place: &Place) -> Option<Key> {
    let kind = Kind::named(&place.kind)?;
    Some(Key { kind, namespace: Namespace::new(&place.namespace).ok()?, name: ObjectName::new(&place.name).ok()? })
}

fn find(place: &mut Place, resources: &Resources, files: &Files) {
    let Some(key) = key(place) else { return };
    let Some(resource) = resources.get(&key) else {
        place.now = Some(0);
        return;
    };
    place.file = files.of(&key);
    if resource.metadata.generation != place.generation {
        place.now = Some(resource.metadata.generation);
    }
    let rules = resource.document.pointer("/spec/rules").and_then(serde_json::Value::as_array);
    let rule = place.rule.and_then(|at| rules.and_then(|rules| rules.get(usize::try_from(at).ok()?)).map(|rule| (at, rule)));
    place.path = Some(match rule {
        None => "spec".to_owned(),
        Some((at, rule)) => match rule.pointer("/matches").and_then(serde_json::Value::as_array) {
            Some(matches) if !matches.is_empty() => format!("spec.rules[{at}].matches[{}]", place.matched),
            _ => format!("spec.rules[{at}]"),
        },
    });
}

fn rule_name(place: &Place, rule: u32, resources: &Resources) -> Option<String> {
    let resource = resources.get(&key(place)?)?;
    let name = resource.document.pointer(&format!("/spec/rules/{rule}/name"))?;
    name.as_str().map(str::to_owned)
}
