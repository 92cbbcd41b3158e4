//! What an attacker may send, and whether it gets in. The same list is held against Lorica's proxy and a stock Envoy.

use std::net::SocketAddr;

use serde_json::json;
use testbed::http_send;

use super::issuer::{Issuer, claims, now};
use super::{bearer, request};

/// A request that an attacker, or somebody unlucky, sends.
pub(super) struct Attack {
    pub(super) name: &'static str,
    path: String,
    fields: Vec<(&'static str, String)>,
    /// What Lorica's proxy says of it; none: it is let in.
    pub(super) reason: Option<&'static str>,
}

const INVALID: Option<&str> = Some("token_invalid");
const MISSING: Option<&str> = Some("token_missing");

/// All that is tried against the keys of `issuer`. `other`: whose keys nobody knows. The leeway is 30 s; what is tried at its sides is far
/// enough from it for a slow machine.
pub(super) fn all(issuer: &Issuer, other: &Issuer) -> Vec<Attack> {
    let with = |name, token: String, reason| Attack { name, path: "/".to_owned(), fields: vec![("authorization", bearer(&token))], reason };
    let good = || issuer.token(json!({}));
    let payload = claims(json!({})).to_string();
    let headed = |head: &str| issuer.raw(head, &payload);
    let none = |alg: &str| {
        let token = headed(&format!("{{\"alg\":\"{alg}\"}}"));
        token.rsplit_once('.').map(|(input, _)| format!("{input}.")).unwrap_or_default()
    };
    let brought = other.keys();
    let brought = brought.trim_start_matches("{\"keys\":[").trim_end_matches("]}");
    let mut swapped: Vec<String> = good().split('.').map(str::to_owned).collect();
    swapped[1] = issuer.token(json!({"sub": "root"})).split('.').nth(1).unwrap_or_default().to_owned();
    let twice = format!("{{\"sub\":\"root\",{}", &payload[1..]);
    let mut attacks = vec![
        with("a good token", good(), None),
        with("alg none", none("none"), INVALID),
        with("alg None", none("None"), INVALID),
        with("alg nOnE", none("nOnE"), INVALID),
        with("key confusion with the key set", issuer.confused(issuer.keys().as_bytes()), INVALID),
        with("key confusion with the point", issuer.confused(issuer.point()), INVALID),
        with("the name of a file as kid", headed(r#"{"alg":"ES256","kid":"../../etc/passwd"}"#), INVALID),
        with("the null device as kid", headed(r#"{"alg":"ES256","kid":"/dev/null"}"#), INVALID),
        with("an unknown kid", headed(r#"{"alg":"ES256","kid":"key-2"}"#), INVALID),
        with(
            "a key that is brought along",
            other.raw(&format!("{{\"alg\":\"ES256\",\"kid\":\"key-1\",\"jwk\":{brought}}}"), &payload),
            INVALID,
        ),
        with("a critical extension", headed(r#"{"alg":"ES256","kid":"key-1","crit":["b64"],"b64":false}"#), INVALID),
        with("another's signature", other.token(json!({})), INVALID),
        with("another payload", swapped.join("."), INVALID),
        with("a claim that is there twice", issuer.raw(r#"{"alg":"ES256","kid":"key-1"}"#, &twice), INVALID),
        with("no exp", issuer.token(json!({"exp": null})), INVALID),
        with("exp as text", issuer.token(json!({"exp": "4102444800"})), INVALID),
        with("ended within the leeway", issuer.token(json!({"exp": now() - 5})), None),
        with("ended past the leeway", issuer.token(json!({"exp": now() - 40})), INVALID),
        with("begins within the leeway", issuer.token(json!({"nbf": now() + 20})), None),
        with("begins past the leeway", issuer.token(json!({"nbf": now() + 120})), INVALID),
        with("for another audience", issuer.token(json!({"aud": "till"})), INVALID),
        with("for no audience", issuer.token(json!({"aud": null})), INVALID),
        with("of another issuer", issuer.token(json!({"iss": "https://login.example.evil.example"})), INVALID),
        with("of no issuer", issuer.token(json!({"iss": null})), INVALID),
        with("no token at all", "x".to_owned(), INVALID),
        with("an empty token", String::new(), INVALID),
        with("too long", issuer.token(json!({"more": "x".repeat(9000)})), INVALID),
    ];
    let mut at = |name, path: String, fields, reason| attacks.push(Attack { name, path, fields, reason });
    at("none", "/".to_owned(), vec![], MISSING);
    at("in the query", format!("/?access_token={}", good()), vec![], MISSING);
    at("in a cookie", "/".to_owned(), vec![("cookie", format!("authorization={}", good()))], MISSING);
    at("in another header", "/".to_owned(), vec![("x-token", good())], MISSING);
    at("after another scheme", "/".to_owned(), vec![("authorization", format!("Basic {}", good()))], MISSING);
    let both = |one: String, two: String| vec![("authorization", bearer(&one)), ("authorization", bearer(&two))];
    at("a good one and a bad one", "/".to_owned(), both(good(), other.token(json!({}))), INVALID);
    at("a bad one and a good one", "/".to_owned(), both(other.token(json!({})), good()), INVALID);
    at("two in one field", "/".to_owned(), vec![("authorization", format!("Bearer {}, Bearer {}", good(), good()))], INVALID);
    attacks
}

/// What becomes of an attack: the status, and the word for it.
pub(super) async fn tried(at: SocketAddr, attack: &Attack) -> anyhow::Result<(u16, Option<String>, Option<String>)> {
    let fields: Vec<(&str, &str)> = attack.fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let reply = http_send(at, request(&attack.path, &fields)?).await?;
    let header = |name| reply.header(name).map(str::to_owned);
    Ok((reply.status.as_u16(), header("x-lorica-reason"), header("www-authenticate")))
}

/// Holds a proxy of Lorica's against all of it.
pub(super) async fn all_are_refused(at: SocketAddr, issuer: &Issuer) -> anyhow::Result<()> {
    for attack in all(issuer, &Issuer::new()) {
        let (status, reason, challenge) = tried(at, &attack).await?;
        assert_eq!((status, reason.as_deref()), (if attack.reason.is_some() { 401 } else { 200 }, attack.reason), "{}", attack.name);
        match attack.reason {
            None => assert_eq!(challenge, None),
            MISSING => assert_eq!(challenge.as_deref(), Some("Bearer"), "{}", attack.name),
            _ => {
                let challenge = challenge.unwrap_or_default();
                assert!(challenge.starts_with("Bearer error=\"invalid_token\", error_description=\""), "{}: {challenge}", attack.name);
            }
        }
    }
    Ok(())
}
