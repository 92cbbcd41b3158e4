//! Any tokens that are asked for, and any policies of who may do what.

use lorica_model::cel::Expression;
use lorica_model::snapshot::{
    AccessAction, AccessPolicy, AccessRule, Authentication, Authorization, Authorizer, AuthorizerProtocol, ClaimHeader, ClaimMatch,
    HostPattern, IdentityPattern, Operation, PathPattern, ShownBody, Source, TokenAlgorithm, TokenPlace, TokenProvider,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::{any_among, any_duration, any_field, any_identity, any_namespace, any_origin, any_port};

fn any_authorizer() -> impl Strategy<Value = Authorizer> {
    let names = || vec("[a-z][a-z-]{0,6}", 0..3);
    let http = ("(/[a-z]{1,4})?", names(), option::of(names()))
        .prop_map(|(path_prefix, told_on_allow, told_on_deny)| AuthorizerProtocol::Http { path_prefix, told_on_allow, told_on_deny });
    let protocol = prop_oneof![Just(AuthorizerProtocol::Grpc), http];
    let body = (1..65_536_u32, any::<bool>(), any::<bool>()).prop_map(|(most, partial, bytes)| ShownBody { most, partial, bytes });
    (any_port(), protocol, any_duration(), any::<bool>(), names(), names(), option::of(body)).prop_map(
        |(port, protocol, timeout, fail_open, shown, sets, body)| Authorizer { port, protocol, timeout, fail_open, shown, sets, body },
    )
}

pub(super) fn any_authentication() -> impl Strategy<Value = std::sync::Arc<Authentication>> {
    let place = prop_oneof![
        ("[a-z-]{1,6}", "[A-Z a-z]{0,6}").prop_map(|(name, prefix)| TokenPlace::Header { name, prefix }),
        "[a-z]{1,6}".prop_map(TokenPlace::Cookie),
        "[a-z]{1,6}".prop_map(TokenPlace::Query),
    ];
    let header = ("[a-z-]{1,6}", "[a-z.]{1,6}").prop_map(|(name, claim)| ClaimHeader { name, claim });
    let names = ("[a-z]{1,6}", "[a-z:/.]{1,12}", vec("[a-z]{1,6}", 0..3), option::of("[a-z{}]{0,9}"));
    let lists = (vec(place, 1..3), vec(proptest::sample::select(TokenAlgorithm::ALL.to_vec()), 1..3), vec(header, 0..3));
    let provider = (names, lists, any_duration(), any::<bool>()).prop_map(
        |((name, issuer, audiences, keys), (places, algorithms, claim_headers), leeway, forward)| TokenProvider {
            name,
            issuer,
            audiences,
            keys: keys.map(Into::into),
            places,
            algorithms,
            leeway,
            forward,
            claim_headers,
        },
    );
    (any_origin(), vec(provider, 1..3), any::<bool>())
        .prop_map(|(origin, providers, optional)| std::sync::Arc::new(Authentication { origin: origin.into(), providers, optional }))
}

pub(super) fn any_authorization() -> impl Strategy<Value = Authorization> {
    let identity = prop_oneof![
        any_identity().prop_map(IdentityPattern::Exact),
        any_identity().prop_map(|id| IdentityPattern::TrustDomain(id.trust_domain().clone())),
        (any_identity(), any_namespace()).prop_map(|(id, namespace)| IdentityPattern::Namespace(id.trust_domain().clone(), namespace)),
        Just(IdentityPattern::Any),
    ]
    .boxed();
    let network = (any::<std::net::IpAddr>(), 0..=32u8).prop_map(|(address, length)| ipnet::IpNet::new(address, length).unwrap().trunc());
    let claim = ("[a-z.]{1,6}", vec("[a-z ]{1,4}", 0..2)).prop_map(|(name, values)| ClaimMatch { name, values });
    let claims = (vec(claim.clone(), 0..2), vec(claim, 0..2));
    let source = (any_among(identity.clone()), any_among(identity), any_among(network.boxed()), claims).prop_map(
        |(identities, namespaces, addresses, (claims, not_claims))| Source { identities, namespaces, addresses, claims, not_claims },
    );
    let path = "(/([a-c]|\\{id\\})){1,3}(/\\*)?".prop_map(|text| text.parse::<PathPattern>().unwrap()).boxed();
    let host = prop_oneof!["[a-z]{1,4}", "\\*\\.[a-z]{1,4}"].prop_map(|text| HostPattern::of(&text)).boxed();
    let method = "[A-Z]{1,5}".prop_map(String::from).boxed();
    let headers = vec(any_field("[a-z][a-z-]{0,8}"), 0..2);
    let operation = (any_among(method), any_among(path), any_among(host), any_among((1..=u16::MAX).boxed()), headers)
        .prop_map(|(methods, paths, hosts, ports, headers)| Operation { methods, paths, hosts, ports, headers });
    let when = option::of(proptest::sample::select(vec![
        "request.method == 'GET' && !(claims.sub == \"a\")",
        "source.address.startsWith('10.')",
        "claims.groups.exists(g, g == 'a') // only some",
    ]));
    let when = when.prop_map(|when| when.map(|text| Expression::parse(text).unwrap()));
    let rule = ("[a-z0-9]{1,4}", vec(source, 0..2), vec(operation, 0..2), when).prop_map(|(name, from, to, when)| AccessRule {
        name,
        from,
        to,
        when,
    });
    let action = prop_oneof![
        Just((AccessAction::Allow, None)),
        Just((AccessAction::Deny, None)),
        Just((AccessAction::Audit, None)),
        any_authorizer().prop_map(|asked| (AccessAction::External, Some(std::sync::Arc::new(asked)))),
    ];
    let policy = (any_origin(), action, any::<bool>(), vec(rule, 0..3)).prop_map(|(origin, (action, authorizer), shadow, rules)| {
        AccessPolicy { origin: std::sync::Arc::new(origin), action, shadow, rules, authorizer }
    });
    vec(policy, 0..3).prop_map(|policies| Authorization { policies })
}
