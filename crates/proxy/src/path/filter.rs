//! filter: what a rule changes in requests and answers, and the answers that it gives by itself. Pure functions of head and rule.

use std::borrow::Cow;

use lorica_model::head::{Edits, Fields, RequestHead};
use lorica_model::snapshot::{Cors, HeaderEdits, HttpRule, PathEdit, Redirect, WeightedBackend, without_port};

use super::respond::OwnAnswer;

/// What a rule, and the backend that was drawn of it, change in a request: on top of the edits that it has already.
pub fn request(head: &RequestHead, rule: &HttpRule, backend: &WeightedBackend, edits: &mut Edits) {
    apply(&head.fields, &rule.filters.request, edits);
    apply(&head.fields, &backend.request, edits);
    let Some(forward) = rule.forward() else { return };
    if let Some(host) = backend.host.as_ref().or(forward.host.as_ref()) {
        edits.authority = Some(host.clone());
    }
    if let Some(path) = &forward.path {
        edits.path_and_query = Some(replaced(head, path).into_owned());
    }
}

/// The same for an answer: the backend's, or the rule's own.
#[must_use]
pub fn response(head: &RequestHead, rule: &HttpRule, backend: Option<&WeightedBackend>, fields: &Fields) -> Edits {
    let mut edits = Edits::default();
    apply(fields, &rule.filters.response, &mut edits);
    if let Some(backend) = backend {
        apply(fields, &backend.response, &mut edits);
    }
    if let Some(cors) = &rule.filters.cors {
        for (name, value) in allowance(cors, head) {
            edits.set(fields, name, value);
        }
        // Whoever keeps the answer must not show it to another origin, whether this one was allowed or not.
        edits.add("vary", "Origin");
    }
    edits
}

fn apply(fields: &Fields, changes: &HeaderEdits, edits: &mut Edits) {
    let HeaderEdits { remove, set, add } = changes;
    for name in remove {
        edits.remove(fields, name);
    }
    for (name, value) in set {
        edits.set(fields, name, value);
    }
    for (name, value) in add {
        edits.add(name, value);
    }
}

/// Path and query with the path replaced.
fn replaced<'h>(head: &'h RequestHead, edit: &'h PathEdit) -> Cow<'h, str> {
    let path = match edit {
        PathEdit::Full(path) => Cow::Borrowed(path.as_str()),
        PathEdit::Prefix { matched, replacement } => {
            // Empty, or from the slash on at which the matched elements end.
            let rest = head.path().strip_prefix(matched.as_str()).unwrap_or_default();
            let first = replacement.trim_end_matches('/');
            match (rest, first) {
                ("", "") => Cow::Borrowed("/"),
                ("", first) => Cow::Borrowed(first),
                (rest, "") => Cow::Borrowed(rest),
                (rest, first) => Cow::Owned(format!("{first}{rest}")),
            }
        }
    };
    match head.query() {
        Some(query) => Cow::Owned(format!("{path}?{query}")),
        None => path,
    }
}

/// The answer that sends the caller elsewhere. `scheme`: by which it came.
#[must_use]
pub fn redirect(head: &RequestHead, redirect: &Redirect, scheme: &str) -> OwnAnswer {
    let scheme = redirect.scheme.as_deref().unwrap_or(scheme);
    let host = redirect.host.as_deref().unwrap_or_else(|| without_port(head.authority()));
    let port = redirect.port.map(|port| format!(":{port}")).unwrap_or_default();
    let path = match &redirect.path {
        Some(edit) => replaced(head, edit),
        None => Cow::Borrowed(head.path_and_query()),
    };
    let location = format!("{scheme}://{host}{port}{path}");
    OwnAnswer { status: redirect.status, fields: vec![("location", location)], body: String::new(), as_it_is: false }
}

/// An answer of nothing but a status.
#[must_use]
pub fn status(status: u16) -> OwnAnswer {
    OwnAnswer { status, fields: Vec::new(), body: String::new(), as_it_is: false }
}

/// Whether a browser asks by a request whether a script may call, which its rule answers: nobody is asked for a token or a permission yet.
#[must_use]
pub fn is_preflight(head: &RequestHead, rule: Option<&HttpRule>) -> bool {
    rule.and_then(|rule| rule.filters.cors.as_ref()).is_some_and(|cors| preflight(head, cors).is_some())
}

/// The answer to a question of a browser whether a script may call (a preflight), where that is what the request is. The backend is not asked.
#[must_use]
pub fn preflight(head: &RequestHead, cors: &Cors) -> Option<OwnAnswer> {
    let asked = head.fields.get_str("access-control-request-method")?;
    if !head.is_method("OPTIONS") || head.fields.get("origin").is_none() {
        return None;
    }
    let mut fields = allowance(cors, head);
    if !fields.is_empty() {
        let listed = |list: &[String], asked: &str| match list {
            list if list.iter().any(|item| item == "*") => asked.to_owned(),
            list => list.join(", "),
        };
        let methods = listed(&cors.methods, asked);
        let headers = listed(&cors.headers, head.fields.get_str("access-control-request-headers").unwrap_or_default());
        fields.extend(
            [("access-control-allow-methods", methods), ("access-control-allow-headers", headers)]
                .into_iter()
                .filter(|(_, list)| !list.is_empty()),
        );
        fields.push(("access-control-max-age", cors.max_age.to_string()));
    }
    Some(OwnAnswer { status: 200, fields, body: String::new(), as_it_is: true })
}

/// What an answer tells a browser about the script that called; nothing where its origin is not meant.
#[must_use]
pub fn allowance(cors: &Cors, head: &RequestHead) -> Vec<(&'static str, String)> {
    let Some(origin) = head.fields.get_str("origin").filter(|origin| cors.origins.iter().any(|known| known.takes(origin))) else {
        return Vec::new();
    };
    let mut fields = vec![("access-control-allow-origin", origin.to_owned())];
    if cors.credentials {
        fields.push(("access-control-allow-credentials", "true".to_owned()));
    }
    if !cors.expose.is_empty() {
        fields.push(("access-control-expose-headers", cors.expose.join(", ")));
    }
    fields
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use lorica_model::head::{HeadBuilder, Version};
    use lorica_model::snapshot::OriginMatch;

    fn head(method: &str, target: &str, fields: &[(&str, &str)]) -> RequestHead {
        let mut builder = HeadBuilder::with_capacity(256);
        for (name, value) in fields {
            builder.field(name.as_bytes(), value.as_bytes()).unwrap();
        }
        builder.request(Version::Http11, method, target, "a.example:8080", None).unwrap()
    }

    #[test]
    fn a_prefix_is_replaced_by_whole_elements() {
        let edit = |matched: &str, replacement: &str| PathEdit::Prefix { matched: matched.to_owned(), replacement: replacement.to_owned() };
        for (target, edit, expected) in [
            ("/a/b?q=1", edit("/a", "/x"), "/x/b?q=1"),
            ("/a", edit("/a", "/x"), "/x"),
            ("/a/", edit("/a", "/x"), "/x/"),
            ("/a//b", edit("/a", "/x/"), "/x//b"),
            ("/a/", edit("/a", ""), "/"),
            ("/", edit("", "/x"), "/x/"),
            ("/a/b", edit("/a", "/"), "/b"),
            ("/a/b", edit("/a", ""), "/b"),
            ("/a", edit("/a", ""), "/"),
            ("/b", edit("", "/x"), "/x/b"),
            ("/b", edit("", "/x/"), "/x/b"),
            ("/a/b?q", PathEdit::Full("/c".to_owned()), "/c?q"),
        ] {
            assert_eq!(replaced(&head("GET", target, &[]), &edit), expected, "{target} {edit:?}");
        }
    }

    #[test]
    fn a_redirect_keeps_what_it_does_not_say() {
        let bare = Redirect { scheme: None, host: None, port: None, path: None, status: 302 };
        let location = |rule: &Redirect| redirect(&head("GET", "/a?b=c", &[]), rule, "http").fields.remove(0).1;
        assert_eq!(location(&bare), "http://a.example/a?b=c");
        assert_eq!(
            location(&Redirect { scheme: Some("https".to_owned()), host: Some("b.example".to_owned()), port: Some(8443), ..bare }),
            "https://b.example:8443/a?b=c"
        );
    }

    #[test]
    fn a_browser_is_told_what_it_asked() {
        let cors = Cors {
            origins: vec![OriginMatch::Wildcard { before: "https://".to_owned(), after: ".example".to_owned() }],
            methods: vec!["GET".to_owned(), "PUT".to_owned()],
            headers: vec!["*".to_owned()],
            expose: Vec::new(),
            credentials: false,
            max_age: 5,
        };
        let asks = |origin: &str| {
            let fields = [("Origin", origin), ("Access-Control-Request-Method", "PUT"), ("Access-Control-Request-Headers", "x-a")];
            preflight(&head("OPTIONS", "/", &fields), &cors).unwrap()
        };
        let told = asks("https://a.example");
        assert_eq!(told.status, 200);
        for expected in [
            ("access-control-allow-origin", "https://a.example"),
            ("access-control-allow-methods", "GET, PUT"),
            ("access-control-allow-headers", "x-a"),
            ("access-control-max-age", "5"),
        ] {
            assert!(told.fields.iter().any(|(name, value)| (*name, value.as_str()) == expected), "{expected:?}");
        }
        assert!(asks("https://example").fields.is_empty());
        assert!(preflight(&head("OPTIONS", "/", &[("Origin", "https://a.example")]), &cors).is_none(), "an ordinary OPTIONS");
    }
}
