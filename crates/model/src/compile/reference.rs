//! References between resources: what a route, a listener or a policy names, if it is there and may be named.

use std::collections::BTreeSet;

use crate::name::{GatewayName, Label, Namespace, SecretName, ServiceName, ServicePort, WorkloadName};
use crate::resource::{BackendRef, GATEWAY_GROUP, Kind, Metadata, ObjectRef, Secret, Service, ServicePortSpec, Spec};
use crate::snapshot::{Certificate, PrivateKey};
use crate::spiffe::SpiffeId;

use super::{RegisteredWorkload, World};

/// Why something does not hold: a reason of the Gateway API's, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Problem {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The type of a Secret that holds the paths of files on the gateway's host, `certificate` and `key`, in place of texts.
pub const TLS_FILES: &str = "lorica.io/tls-files";

/// A port of a service as callers see it, and whose workloads stand behind it.
pub(super) struct Found<'w> {
    pub(super) port: &'w ServicePortSpec,
    /// The service whose workloads they are: another one where this one is a subset.
    pub(super) workloads_of: ServiceName,
    /// That service's accounts.
    pub(super) accounts: &'w [Label],
    /// Only workloads of this version.
    pub(super) version: Option<&'w str>,
}

impl<'w> World<'w> {
    /// The port of a service, through the service whose subset it is.
    pub(super) fn port(&self, port: &ServicePort) -> Option<Found<'w>> {
        let (_, service) = self.resources.service(&port.service)?;
        let found = |of: &ServiceName, base: &'w Service, version| {
            Some(Found { port: base.port(port.port)?, workloads_of: of.clone(), accounts: &base.accounts, version })
        };
        match &service.subset {
            None => found(&port.service, service, None),
            // A subset of a subset would be a riddle: only its own version would count.
            Some(subset) => {
                let (_, base) = self.resources.service(&subset.of)?;
                found(&subset.of, base, Some(subset.version.as_str())).filter(|_| base.subset.is_none())
            }
        }
    }

    /// The accounts of a service's workloads: those declared and those that are there; without any, its name.
    pub(super) fn accounts(&self, service: &ServiceName, declared: &[Label]) -> BTreeSet<Label> {
        let registered = self.registry.workloads.values().filter(|workload| workload.service.as_ref() == Some(service));
        let written = self.resources.workloads().filter(|(_, workload)| workload.service == *service);
        let foreign = self.foreign(service).next().is_some();
        let written = written.filter(|(_, workload)| workload.identity.is_none());
        let mut accounts: BTreeSet<_> = declared.iter().cloned().collect();
        accounts.extend(registered.map(|workload| workload.account.clone()));
        accounts.extend(written.map(|(_, workload)| workload.account.clone().unwrap_or_else(|| service.name.clone())));
        // A service of another mesh alone has no account here.
        if accounts.is_empty() && !foreign {
            accounts.insert(service.name.clone());
        }
        accounts
    }

    /// The identities of a service's workloads that are of other meshes.
    pub(super) fn foreign(&self, service: &ServiceName) -> impl Iterator<Item = SpiffeId> {
        let written = self.resources.workloads().filter(|(_, workload)| workload.service == *service);
        written.filter_map(|(_, workload)| workload.identity.as_ref().map(|identity| identity.id.clone()))
    }

    /// The proxies that run a gateway. Only those of its own namespace can.
    pub(super) fn proxies(&self, gateway: &GatewayName) -> impl Iterator<Item = (&WorkloadName, &RegisteredWorkload)> {
        self.registry.workloads.iter().filter(|(name, workload)| {
            name.namespace == gateway.namespace && workload.gateway.as_ref().is_some_and(|runs| runs.name == *gateway)
        })
    }

    /// The service port that a backend of a route means.
    ///
    /// `home`: the namespace of the service whose calls are routed. Its callers may call any other service as well, so a route of theirs needs
    /// no grant (GEP-1294); one of a gateway, which opens services to others, does.
    pub(super) fn backend(&self, from: (Kind, &Metadata), home: Option<&Namespace>, backend: &BackendRef) -> Result<ServicePort, Problem> {
        let object = &backend.object;
        if !object.is_service() {
            return Err(Problem::new("InvalidKind", format!("{} {} is no Service", object.kind, object.name)));
        }
        if home.is_none() {
            self.permitted(from, object)?;
        }
        let missing = |what: String| Problem::new("BackendNotFound", what);
        let service = object.service().filter(|service| self.resources.service(service).is_some());
        let service = service.ok_or_else(|| missing(format!("there is no service {}.{}", object.name, object.namespace)))?;
        let number = backend.port.ok_or_else(|| missing(format!("no port of {service} is named")))?;
        let port = ServicePort { service, port: number };
        match self.port(&port) {
            Some(_) => Ok(port),
            None => Err(missing(format!("{} has no port {number}", port.service))),
        }
    }

    fn permitted(&self, (kind, metadata): (Kind, &Metadata), object: &ObjectRef) -> Result<(), Problem> {
        if self.resources.grants((GATEWAY_GROUP, kind, &metadata.namespace), object) {
            return Ok(());
        }
        Err(Problem::new(
            "RefNotPermitted",
            format!(
                "no ReferenceGrant in {} lets a {kind} of {} refer to {} {}",
                object.namespace, metadata.namespace, object.kind, object.name
            ),
        ))
    }

    /// The certificate of a reference to a Secret.
    pub(super) fn certificate(&self, from: (Kind, &Metadata), object: &ObjectRef, invalid: &'static str) -> Result<Certificate, Problem> {
        if object.kind != "Secret" || !object.group.is_empty() {
            return Err(Problem::new(invalid, format!("{} {} is no Secret", object.kind, object.name)));
        }
        self.permitted(from, object)?;
        let name = SecretName::new(object.namespace.clone(), object.name.clone());
        let Some(Spec::Secret(secret)) = self.resources.of(Kind::Secret, &object.namespace, &object.name).map(|found| &found.spec) else {
            return Err(Problem::new(invalid, format!("there is no Secret {name}")));
        };
        certificate(&name, secret).ok_or_else(|| Problem::new(invalid, format!("Secret {name} holds no certificate with its key")))
    }

    /// The roots of references to ConfigMaps (or Secrets), as PEM: those that are there, and what is wrong with the first that is not.
    pub(super) fn roots(&self, from: (Kind, &Metadata), objects: &[ObjectRef]) -> (String, Option<Problem>) {
        let (mut roots, mut problem) = (String::new(), None);
        for object in objects {
            match self.root(from, object) {
                Ok(pem) => {
                    roots.push_str(pem.trim());
                    roots.push('\n');
                }
                Err(found) => drop(problem.get_or_insert(found)),
            }
        }
        (roots, problem)
    }

    fn root(&self, from: (Kind, &Metadata), object: &ObjectRef) -> Result<&'w str, Problem> {
        const KEY: &str = "ca.crt";
        let name = format!("{} {}.{}", object.kind, object.name, object.namespace);
        let kind = match (object.group.as_str(), object.kind.as_str()) {
            ("", "ConfigMap") => Kind::ConfigMap,
            ("", "Secret") => Kind::Secret,
            _ => return Err(Problem::new("InvalidKind", format!("{name} is no ConfigMap"))),
        };
        self.permitted(from, object)?;
        let pem = match self.resources.of(kind, &object.namespace, &object.name).map(|found| &found.spec) {
            Some(Spec::ConfigMap(map)) => map.data.get(KEY).map(String::as_str),
            Some(Spec::Secret(secret)) => secret.data.get(KEY).and_then(|bytes| std::str::from_utf8(bytes).ok()),
            _ => return Err(Problem::new("InvalidCACertificateRef", format!("there is no {name}"))),
        };
        pem.filter(|pem| is_pem(pem, "CERTIFICATE"))
            .ok_or_else(|| Problem::new("InvalidCACertificateRef", format!("{name} holds no certificate in `{KEY}`")))
    }
}

/// The certificate that a Secret holds with its key; none where it has not both, as PEM or as files.
#[must_use]
pub fn certificate(name: &SecretName, secret: &Secret) -> Option<Certificate> {
    let made = |chain, key, in_files| Certificate { secret: name.clone(), chain, key: PrivateKey(key), in_files };
    let text = |key: &str| secret.data.get(key).and_then(|bytes| String::from_utf8(bytes.clone()).ok());
    if secret.kind == TLS_FILES {
        return Some(made(text("certificate")?, text("key")?, true));
    }
    let chain = text("tls.crt").filter(|pem| is_pem(pem, "CERTIFICATE"))?;
    let key = text("tls.key").filter(|pem| is_pem(pem, "PRIVATE KEY"))?;
    Some(made(chain, key, false))
}

/// Whether a text holds a block of PEM whose label ends so. What is in it is read where keys are used.
fn is_pem(text: &str, label: &str) -> bool {
    let begins = text.lines().position(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{label}-----")));
    begins.is_some_and(|at| {
        let mut lines = text.lines().skip(at + 1).map(str::trim);
        let body: Vec<_> = lines.by_ref().take_while(|line| !line.starts_with("-----END ")).collect();
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
        !body.is_empty() && body.iter().all(|line| line.bytes().all(is_base64))
    })
}
