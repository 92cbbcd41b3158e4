//! The resources that are asked, and answers with the place of the rule that decides.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};
use lorica_api::{ApiClient, NamedText};
use lorica_model::claims::Claims;
use lorica_model::compile::{self, Registry, World};
use lorica_model::head::{HeadBuilder, RequestHead, Version};
use lorica_model::name::{Namespace, ServicePort};
use lorica_model::resource::{self, Diagnostic, Document, Kind, Resources, Spec};
use lorica_model::snapshot::{Access, AccessCaller, ByPolicy, Denial, Permissions};
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use serde_json::{Map, Value};

use crate::args::{AskerArg, CallArg, ClaimArg, ResourcesArgs};
use crate::files::files;

/// What somebody wants to do.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) caller: AskerArg,
    /// The method, or `TCP`.
    pub(super) method: String,
    pub(super) call: CallArg,
    pub(super) headers: Vec<(String, String)>,
    /// What the verified token says; none: it has no token.
    pub(super) claims: Option<Claims>,
    pub(super) host: Option<String>,
    pub(super) address: IpAddr,
}

impl Question {
    /// The caller as people read it.
    pub(super) fn caller(&self) -> String {
        match &self.caller {
            AskerArg::Account(namespace, account) => format!("{account}.{namespace}"),
            AskerArg::Id(id) => id.to_string(),
            AskerArg::Nobody => "nobody".to_owned(),
        }
    }

    /// The call as people read it.
    pub(super) fn call(&self) -> String {
        let CallArg { service, port, path } = &self.call;
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        if self.is_of_bytes() { format!("connect to {service}{port}") } else { format!("{} {service}{port}{path}", self.method) }
    }

    fn is_of_bytes(&self) -> bool {
        self.method.eq_ignore_ascii_case("tcp")
    }

    fn head(&self) -> anyhow::Result<RequestHead> {
        let mut builder = HeadBuilder::with_capacity(256);
        for (name, value) in &self.headers {
            builder.field(name.as_bytes(), value.as_bytes()).with_context(|| format!("the header `{name}`"))?;
        }
        let host = self.host.clone().unwrap_or_else(|| self.call.service.to_string());
        builder.request(Version::Http11, &self.method, &self.call.path, &host, None).with_context(|| self.call())
    }
}

/// What a token says whose claims are told one by one; none where none is.
pub(super) fn claims(told: &[ClaimArg]) -> anyhow::Result<Option<Claims>> {
    let mut members = Map::new();
    for ClaimArg { name, value } in told {
        let mut steps: Vec<&str> = name.split('.').collect();
        let last = steps.pop().unwrap_or_default();
        let mut at = &mut members;
        for step in steps {
            let below = at.entry(step).or_insert_with(|| Value::Object(Map::new()));
            at = below.as_object_mut().with_context(|| format!("`--claim {name}=…`: `{step}` is no object, by another `--claim`"))?;
        }
        ensure!(
            at.insert(last.to_owned(), value.clone()).is_none(),
            "`--claim {name}=…` is there twice\nhint: a list is {name}='[\"a\",\"b\"]'"
        );
    }
    if told.is_empty() { Ok(None) } else { token(&members).map(Some) }
}

/// What a token with these claims says.
pub(super) fn token(claims: &Map<String, Value>) -> anyhow::Result<Claims> {
    Claims::read(&serde_json::to_vec(claims)?).context("the claims are none that a token can have")
}

/// What becomes of it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    /// In one sentence.
    pub(super) why: String,
    /// The policy that decides: `NAME.NAMESPACE`.
    pub(super) by: Option<String>,
    /// Its rule.
    pub(super) rule: Option<String>,
    /// Where that stands: `FILE:LINE:COLUMN`.
    pub(super) place: Option<String>,
}

/// The resources that are asked.
pub(super) struct Written {
    resources: Resources,
    /// With their places, where they came from files.
    documents: Vec<Document>,
    texts: Vec<NamedText>,
    trust_domain: TrustDomain,
}

impl Written {
    /// Those of files, or of the control plane.
    pub(super) async fn of(client: impl Fn() -> anyhow::Result<ApiClient>, from: &ResourcesArgs) -> anyhow::Result<Self> {
        let mut written =
            Self { resources: Resources::default(), documents: Vec::new(), texts: Vec::new(), trust_domain: from.trust_domain.clone() };
        if from.files.is_empty() {
            let client = client()?;
            written.trust_domain = client.status().await?.trust_domain.parse().context("the control plane's trust domain")?;
            for kind in [Kind::Service, Kind::Workload, Kind::AuthorizationPolicy] {
                for item in client.list(kind, None).await?.items {
                    let read = resource::stored(&item);
                    let read = read.map_err(|found| anyhow::anyhow!("a {kind} of the control plane is not understood: {found:?}"))?;
                    written.resources.insert(read);
                }
            }
            return Ok(written);
        }
        written.texts = files(&from.files)?;
        let mut wrong = Vec::new();
        for text in &written.texts {
            match resource::read(&text.name, &text.text) {
                Ok(documents) => written.documents.extend(documents),
                Err(found) => wrong.extend(found.into_iter().map(|found| found.render(&text.text, false))),
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
        for document in &written.documents {
            written.resources.insert(document.resource.clone());
        }
        Ok(written)
    }

    /// The accounts of all services, for whom nobody is named.
    pub(super) fn accounts(&self) -> impl Iterator<Item = AskerArg> {
        let of_services = self.resources.services().flat_map(|(metadata, service)| {
            let own = metadata.name.label().filter(|_| service.subset.is_none());
            own.into_iter().chain(service.accounts.iter().cloned()).map(|account| AskerArg::Account(metadata.namespace.clone(), account))
        });
        let mut accounts: Vec<AskerArg> = of_services.collect();
        accounts.dedup();
        accounts.into_iter()
    }

    /// What becomes of a call.
    pub(super) fn answer(&self, question: &Question) -> anyhow::Result<Answer> {
        let service = &question.call.service;
        let Some((_, spec)) = self.resources.service(service) else {
            let names: Vec<String> = self.resources.services().filter_map(|(metadata, _)| Some(metadata.service()?.to_string())).collect();
            let hint = resource::nearest(&service.to_string(), names.iter().map(String::as_str));
            bail!("there is no service {service}{}", hint.map(|near| format!("\nhint: did you mean `{near}`?")).unwrap_or_default());
        };
        let ports: Vec<u16> = spec.ports.iter().map(|port| port.port).collect();
        let port = match (question.call.port, ports.as_slice()) {
            (Some(port), _) => port,
            (None, [only]) => *only,
            (None, []) => 80,
            (None, _) => bail!("{service} has the ports {ports:?}\nhint: name one, as in {service}:{}", ports[0]),
        };
        let registry = Registry::default();
        let world = World { resources: &self.resources, registry: &registry, trust_domain: &self.trust_domain };
        let identity = match &question.caller {
            AskerArg::Account(namespace, account) => Some(SpiffeId::of_account(&self.trust_domain, namespace, account)),
            AskerArg::Id(id) => Some(id.clone()),
            AskerArg::Nobody => None,
        };
        let caller = AccessCaller { identity: identity.as_ref(), address: question.address, trust_domain: &self.trust_domain };
        let server_name = identity.as_ref().map(|_| ServicePort { service: service.clone(), port }.sni());
        let permissions = Permissions::of(Arc::new(compile::authorization(&world, service)), &caller);
        let head = if question.is_of_bytes() { None } else { Some(question.head()?) };
        let access = Access {
            head: head.as_ref(),
            port,
            claims: question.claims.as_ref(),
            time: SystemTime::now(),
            identity: identity.as_ref(),
            address: SocketAddr::new(question.address, 0),
            server_name: server_name.as_deref(),
        };
        let verdict = permissions.judge(&access, |_| ());
        let allowed = verdict.is_ok();
        let without_result = verdict.as_ref().err().and_then(|denial| permissions.without_result(denial, &access));
        let because = without_result.map(|(by, error)| format!("; the condition of {by} has no result: {error}")).unwrap_or_default();
        let (why, by) = match verdict {
            Ok(None) => ("no AuthorizationPolicy is about it".to_owned(), None),
            Ok(Some(by)) => (format!("{by} allows it"), Some(by)),
            Err(Denial::Denied(by)) => (format!("{by} denies it"), Some(by)),
            Err(Denial::NotAllowed(by)) => (format!("no AuthorizationPolicy allows it; {by} does not"), Some(by)),
            Err(Denial::Foreign) => ("it is of another trust domain, and no AuthorizationPolicy names it".to_owned(), None),
            Err(Denial::Ambiguous { why }) => (format!("its path has {why}, and policies look at paths"), None),
        };
        Ok(Answer {
            allowed,
            why: why + &because,
            by: by.map(|by| by.policy.name()),
            rule: by.and_then(|by| by.rule).map(|rule| rule.name.clone()),
            place: by.and_then(|by| self.place(by)),
        })
    }

    /// Where a policy or its rule stands.
    fn place(&self, by: ByPolicy<'_>) -> Option<String> {
        let origin = &by.policy.origin;
        let namespace = Namespace::new(&origin.namespace).ok()?;
        // Of two of one name the later counts.
        let document = self.documents.iter().rev().find(|document| {
            let resource = &document.resource;
            resource.kind == Kind::AuthorizationPolicy
                && resource.metadata.namespace == namespace
                && resource.metadata.name.as_str() == origin.name
        })?;
        let Spec::AuthorizationPolicy(policy) = &document.resource.spec else { return None };
        let rule = by.rule.and_then(|rule| by.policy.rules.iter().position(|known| std::ptr::eq(known, rule)));
        let span = rule.and_then(|at| policy.rules.get(at)).map_or_else(|| document.name_span.clone(), |rule| rule.span.clone());
        let text = self.texts.iter().find(|text| text.name == document.file)?;
        let found = Diagnostic::error(&document.file, &text.text, span, "");
        Some(format!("{}:{}:{}", found.file, found.line, found.column))
    }
}
