//! The embedded CA: a grant and a certificate request in, a signed chain out. It keeps a root, which may go
//! offline, and signs with an intermediate. Who may be granted what is decided by its caller; time is passed in.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, BundleError};
use crate::certificate::{Fields, hex, printable, sha256, signed_by, subject, time_text};
use crate::facts::{self, FactsError, WorkloadFacts};
use crate::pem::{self, SecretPem};
use crate::request::{CertificateRequest, RequestError};
use crate::revocation_list::{Former, FormerRecord};
use crate::svid::{key_pem, read_key};
use crate::tls::provider;
use crate::verify::{Role, verify};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long a root lives.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long an intermediate lives.
pub const INTERMEDIATE_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long an SVID lives, unless said otherwise.
pub const SVID_LIFETIME: Duration = DAY;
/// The shortest life of an SVID. A workload renews before half of it is over, a few times over if need be: below it a slow moment
/// would let one end.
pub const MIN_SVID_LIFETIME: Duration = Duration::from_secs(5);
/// The longest life of an SVID: for so long a revocation is held by every proxy.
pub const MAX_SVID_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// How far certificates begin before they are made, so that a peer whose clock is a little behind takes them. An SVID begins at most a
/// tenth of its life earlier, as it is renewed by how much of its life is over.
pub const BACKDATE: Duration = Duration::from_secs(30);

/// The last second of the year 9999, the last that a certificate can express.
const LAST_SECOND: u64 = 253_402_300_799;

/// Why an authority cannot be made or loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// Keys or certificates could not be made.
    #[error("the CA of {trust_domain} could not be made: {why}")]
    Make {
        /// Whose CA it was to be.
        trust_domain: TrustDomain,
        /// What went wrong.
        why: String,
    },
    /// A part of a stored or given authority is wrong.
    #[error("the {part} of the CA of {trust_domain} cannot be used: {why}")]
    Part {
        /// Whose CA it is.
        trust_domain: TrustDomain,
        /// `root certificate`, `root key`, `intermediate certificate`, `intermediate key`, `former intermediate`,
        /// `revocation list of the root` or `certificate request`.
        part: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The root is no trust anchor.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Why a request is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The request itself is refused.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It asks for another identity than its sender may have.
    #[error("the certificate request asks for `{asked}`, but its sender is {granted}")]
    OtherIdentity {
        /// What the request asks for.
        asked: String,
        /// What its sender may have.
        granted: SpiffeId,
    },
    /// The grant is for another trust domain.
    #[error("this CA signs for {trust_domain}, not for {id}")]
    OtherTrustDomain {
        /// The CA's trust domain.
        trust_domain: TrustDomain,
        /// The identity that was granted.
        id: SpiffeId,
    },
    /// The facts of the grant are of another namespace than its identity.
    #[error("{workload} is of another namespace than {id}")]
    OtherNamespace {
        /// The workload, as the facts name it.
        workload: String,
        /// The identity that was granted.
        id: SpiffeId,
    },
    /// The facts cannot be written.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The intermediate is over, or nearly.
    #[error("the intermediate certificate of the CA ends at {}: bring the root key and renew it", time_text(*.not_after))]
    IntermediateEnds {
        /// Its end.
        not_after: SystemTime,
    },
    /// The certificate could not be made, or does not verify.
    #[error("the certificate of {id} could not be made: {why}")]
    Make {
        /// Whose certificate it was to be.
        id: SpiffeId,
        /// What went wrong.
        why: String,
    },
}

/// What a workload may have, decided before it is signed.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Its identity.
    pub id: SpiffeId,
    /// What the CA says of it, from its registration.
    pub facts: Option<WorkloadFacts>,
    /// How long its SVID lives; held between 5 seconds and 7 days, and to the end of the intermediate.
    pub lifetime: Duration,
}

impl Grant {
    /// An identity for 24 hours, without facts.
    #[must_use]
    pub fn new(id: SpiffeId) -> Self {
        Self { id, facts: None, lifetime: SVID_LIFETIME }
    }

    /// With what the CA says of the workload.
    #[must_use]
    pub fn with_facts(mut self, facts: WorkloadFacts) -> Self {
        self.facts = Some(facts);
        self
    }
}

/// An authority as it is stored. Keys print as `[redacted]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRecord {
    /// Whose identities it signs.
    pub trust_domain: TrustDomain,
    /// The root.
    pub root_certificate_pem: String,
    /// Its key, unless it is kept offline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_key_pem: Option<SecretPem>,
    /// The intermediate, signed by the root.
    pub intermediate_certificate_pem: String,
    /// Its key.
    pub intermediate_key_pem: SecretPem,
    /// The root's own list of revocations, signed while its key was at hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_revocations_pem: Option<String>,
    /// Intermediates from before, for as long as what they signed may hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<FormerRecord>,
}

/// What came of the question whether the intermediate is to be renewed.
#[derive(Debug)]
pub enum Renewal {
    /// More than half of its life is left, or the root ends no later.
    NotDue,
    /// It is due, but the root key is offline. Signing ends with the intermediate.
    RootKeyAbsent {
        /// The end of the intermediate.
        not_after: SystemTime,
    },
    /// An authority with the same root and a new intermediate, to be stored and used from now on.
    Renewed(Box<Authority>),
}

/// A CA that signs SVIDs of one trust domain.
pub struct Authority {
    bundle: Bundle,
    pub(crate) root: CertificateDer<'static>,
    root_end: SystemTime,
    pub(crate) root_key: Option<rcgen::KeyPair>,
    pub(crate) intermediate: CertificateDer<'static>,
    intermediate_begin: SystemTime,
    intermediate_end: SystemTime,
    pub(crate) issuer: Issuer<'static, rcgen::KeyPair>,
    pub(crate) root_revocations: Option<Vec<u8>>,
    pub(crate) former: Vec<Former>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("trust_domain", self.trust_domain())
            .field("bundle", &self.bundle.version())
            .field("keys", &"[redacted]")
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new root (P-256, 10 years) and a new intermediate (P-256, 1 year).
    ///
    /// # Errors
    /// If the system has no randomness to give.
    pub fn create(trust_domain: TrustDomain, now: SystemTime) -> Result<Self, AuthorityError> {
        let made = || -> Result<_, String> {
            let key = rcgen::KeyPair::generate().map_err(text)?;
            let params = signing_params(&trust_domain, "root", now, now + ROOT_LIFETIME, 1)?;
            let root = params.self_signed(&key).map_err(text)?.der().clone();
            let intermediate = new_intermediate(&trust_domain, &root, &key, now)?;
            Ok((root, key, intermediate))
        };
        match made() {
            Ok((root, key, (intermediate, intermediate_key))) => {
                Self::assemble(trust_domain, root, Some(key), intermediate, intermediate_key)
            }
            Err(why) => Err(AuthorityError::Make { trust_domain, why }),
        }
    }

    /// Loads a stored authority, or one that a user brings.
    ///
    /// # Errors
    /// If a certificate or key cannot be read, the intermediate is not signed by the root, or a key is not its
    /// certificate's. An authority that is over loads: its bundle may still be asked for.
    pub fn from_record(record: &AuthorityRecord) -> Result<Self, AuthorityError> {
        let domain = &record.trust_domain;
        let part = |part: &'static str| move |why: String| AuthorityError::Part { trust_domain: domain.clone(), part, why };
        let one = |text: &str| match &pem::certificates(text)?[..] {
            [certificate] => Ok(certificate.clone()),
            several => Err(format!("it has {} certificates instead of one", several.len())),
        };
        let root = one(&record.root_certificate_pem).map_err(part("root certificate"))?;
        let root_key = record.root_key_pem.as_ref().map(read_key).transpose().map_err(part("root key"))?;
        let intermediate = one(&record.intermediate_certificate_pem).map_err(part("intermediate certificate"))?;
        let intermediate_key = read_key(&record.intermediate_key_pem).map_err(part("intermediate key"))?;
        let mut authority = Self::assemble(domain.clone(), root, root_key, intermediate, intermediate_key)?;
        authority.root_revocations = authority.read_root_list(record.root_revocations_pem.as_deref().unwrap_or_default())?;
        authority.former = record.former.iter().map(Former::read).collect::<Result<_, _>>().map_err(part("former intermediate"))?;
        Ok(authority)
    }

    /// The authority as it is stored.
    #[must_use]
    pub fn to_record(&self) -> AuthorityRecord {
        AuthorityRecord {
            trust_domain: self.trust_domain().clone(),
            root_certificate_pem: pem::encode("CERTIFICATE", &self.root),
            root_key_pem: self.root_key.as_ref().map(key_pem),
            intermediate_certificate_pem: pem::encode("CERTIFICATE", &self.intermediate),
            intermediate_key_pem: key_pem(self.issuer.key()),
            root_revocations_pem: self.root_revocations.as_deref().map(|list| pem::encode(pem::REVOCATION_LIST, list)),
            former: self.former.iter().map(Former::record).collect(),
        }
    }

    fn assemble(
        trust_domain: TrustDomain,
        root: CertificateDer<'static>,
        root_key: Option<rcgen::KeyPair>,
        intermediate: CertificateDer<'static>,
        intermediate_key: rcgen::KeyPair,
    ) -> Result<Self, AuthorityError> {
        let part = |part: &'static str, why: String| AuthorityError::Part { trust_domain: trust_domain.clone(), part, why };
        let bundle = Bundle::new(trust_domain.clone(), vec![root.clone()])?;
        let root_fields = Fields::read(&root).map_err(|why| part("root certificate", why))?;
        let fields = Fields::read(&intermediate).map_err(|why| part("intermediate certificate", why))?;
        if !fields.ca {
            return Err(part("intermediate certificate", "its basic constraints do not say CA".to_owned()));
        }
        signed_by(&intermediate, &root).map_err(|why| part("intermediate certificate", why))?;
        if root_key.as_ref().is_some_and(|key| key.subject_public_key_info() != root_fields.public_key) {
            return Err(part("root key", "it is not the key of the root certificate".to_owned()));
        }
        if intermediate_key.subject_public_key_info() != fields.public_key {
            return Err(part("intermediate key", "it is not the key of the intermediate certificate".to_owned()));
        }
        let issuer =
            Issuer::from_ca_cert_der(&intermediate, intermediate_key).map_err(|error| part("intermediate certificate", text(error)))?;
        Ok(Self {
            bundle,
            root,
            root_end: root_fields.not_after,
            root_key,
            intermediate,
            intermediate_begin: fields.not_before,
            intermediate_end: fields.not_after,
            issuer,
            root_revocations: None,
            former: Vec::new(),
        })
    }

    /// Whose identities it signs.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        self.bundle.trust_domain()
    }

    /// What its SVIDs are verified against.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The root certificate.
    #[must_use]
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The intermediate certificate.
    #[must_use]
    pub fn intermediate(&self) -> &CertificateDer<'static> {
        &self.intermediate
    }

    /// What the root is called for short: the SHA-256 of its certificate, in 64 hexadecimal digits.
    #[must_use]
    pub fn root_id(&self) -> String {
        hex(&sha256(&self.root))
    }

    /// The root's own name, for people.
    #[must_use]
    pub fn root_name(&self) -> String {
        subject(&self.root)
    }

    /// Whether the root's key is here.
    #[must_use]
    pub fn has_root_key(&self) -> bool {
        self.root_key.is_some()
    }

    /// When the root ends.
    #[must_use]
    pub fn root_end(&self) -> SystemTime {
        self.root_end
    }

    /// Begin and end of the intermediate's life.
    #[must_use]
    pub fn intermediate_validity(&self) -> (SystemTime, SystemTime) {
        (self.intermediate_begin, self.intermediate_end)
    }

    /// Takes the root key out, to be kept offline. From then on the intermediate cannot be renewed here.
    pub fn take_root_key(&mut self) -> Option<SecretPem> {
        self.root_key.take().map(|key| key_pem(&key))
    }

    /// Signs a request: a chain of leaf and intermediate, as a TLS peer presents it. Of the request only the public
    /// key is used; identity, facts and lifetime are the grant's. The leaf begins up to [`BACKDATE`] before `now`.
    ///
    /// # Errors
    /// If the request is refused, asks for another identity than the grant's, the grant is not this CA's to give,
    /// or the intermediate has less than [`MIN_SVID_LIFETIME`] left.
    pub fn sign(&self, csr_der: &[u8], grant: &Grant, now: SystemTime) -> Result<Vec<CertificateDer<'static>>, SignError> {
        let request = CertificateRequest::read(csr_der)?;
        let granted = grant.id.to_string();
        if let Some(asked) = request.uris().iter().find(|uri| **uri != granted) {
            return Err(SignError::OtherIdentity { asked: printable(asked), granted: grant.id.clone() });
        }
        if grant.id.trust_domain() != self.trust_domain() {
            return Err(SignError::OtherTrustDomain { trust_domain: self.trust_domain().clone(), id: grant.id.clone() });
        }
        let end = (now + grant.lifetime.clamp(MIN_SVID_LIFETIME, MAX_SVID_LIFETIME)).min(self.intermediate_end);
        if end < now + MIN_SVID_LIFETIME {
            return Err(SignError::IntermediateEnds { not_after: self.intermediate_end });
        }
        let facts = grant.facts.as_ref().map(|facts| checked_facts(facts, &grant.id)).transpose()?;
        let make = |why: String| SignError::Make { id: grant.id.clone(), why };
        let leaf = self.leaf(&request, granted, facts, now, end).map_err(make)?;
        // Nothing goes out that a peer with this CA's bundle would refuse.
        let time = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        for role in [Role::Server, Role::Client] {
            let peer = verify(&self.bundle, provider(), &leaf, std::slice::from_ref(&self.intermediate), time, role)
                .map_err(|error| make(error.to_string()))?;
            if peer.id != grant.id {
                return Err(make("it came out with another identity".to_owned()));
            }
        }
        Ok(vec![leaf, self.intermediate.clone()])
    }

    fn leaf(
        &self,
        request: &CertificateRequest,
        uri: String,
        facts: Option<Vec<u8>>,
        now: SystemTime,
        end: SystemTime,
    ) -> Result<CertificateDer<'static>, String> {
        let mut params = CertificateParams::default();
        // No subject: the name is the URI alone, which makes its extension critical.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(text)?)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        let backdate = BACKDATE.min(end.duration_since(now).unwrap_or_default() / 10);
        set_validity(&mut params, now.checked_sub(backdate).unwrap_or(now), end);
        params.custom_extensions.extend(facts.map(|facts| CustomExtension::from_oid_content(facts::OID, facts)));
        Ok(params.signed_by(request.key(), &self.issuer).map_err(text)?.der().clone())
    }

    /// Gives an authority with a new intermediate once less than half of the old one's life is left. SVIDs signed
    /// by the old one stay valid, as they carry it in their chain.
    ///
    /// # Errors
    /// If the new intermediate cannot be made.
    pub fn renew_intermediate(&self, now: SystemTime) -> Result<Renewal, AuthorityError> {
        let life = self.intermediate_end.duration_since(self.intermediate_begin).unwrap_or_default();
        let left = self.intermediate_end.duration_since(now).unwrap_or_default();
        // Under a root that ends with the intermediate, a new one would live no longer.
        if left >= life / 2 || self.root_end <= self.intermediate_end {
            return Ok(Renewal::NotDue);
        }
        let Some(root_key) = &self.root_key else {
            return Ok(Renewal::RootKeyAbsent { not_after: self.intermediate_end });
        };
        let make = |why: String| AuthorityError::Make { trust_domain: self.trust_domain().clone(), why };
        let (intermediate, key) = new_intermediate(self.trust_domain(), &self.root, root_key, now).map_err(make)?;
        let root_key = rcgen::KeyPair::try_from(root_key.serialize_der()).map_err(|error| make(text(error)))?;
        let renewed = Self::assemble(self.trust_domain().clone(), self.root.clone(), Some(root_key), intermediate, key)?;
        Ok(Renewal::Renewed(Box::new(renewed)))
    }
}

/// An intermediate of a year, or to the end of the root.
pub(crate) fn new_intermediate(
    trust_domain: &TrustDomain,
    root: &CertificateDer<'static>,
    root_key: &rcgen::KeyPair,
    now: SystemTime,
) -> Result<(CertificateDer<'static>, rcgen::KeyPair), String> {
    let root_end = Fields::read(root)?.not_after;
    if root_end <= now {
        return Err(format!("the root certificate ended at {}", time_text(root_end)));
    }
    let key = rcgen::KeyPair::generate().map_err(text)?;
    let mut params = signing_params(trust_domain, "intermediate", now, (now + INTERMEDIATE_LIFETIME).min(root_end), 0)?;
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_der(root, root_key).map_err(text)?;
    Ok((params.signed_by(&key, &issuer).map_err(text)?.der().clone(), key))
}

/// A signing certificate as X509-SVID asks for: the trust domain as URI, the right to sign certificates.
pub(crate) fn signing_params(
    trust_domain: &TrustDomain,
    kind: &str,
    now: SystemTime,
    end: SystemTime,
    path_length: u8,
) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, trust_domain.as_str());
    // Two roots of one trust domain differ by name, for people and for path building.
    name.push(DnType::CommonName, format!("Lorica {kind} {}", hex(&random::<4>()?)));
    params.distinguished_name = name;
    params.subject_alt_names = vec![SanType::URI(trust_domain.uri().try_into().map_err(text)?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial()?);
    set_validity(&mut params, now.checked_sub(BACKDATE).unwrap_or(now), end);
    Ok(params)
}

fn checked_facts(facts: &WorkloadFacts, id: &SpiffeId) -> Result<Vec<u8>, SignError> {
    match id.account() {
        Some((namespace, _)) if namespace != facts.workload.namespace.as_str() => {
            Err(SignError::OtherNamespace { workload: facts.workload.to_string(), id: id.clone() })
        }
        _ => Ok(facts.encode()?),
    }
}

/// 16 random bytes, positive and of full length.
fn serial() -> Result<SerialNumber, String> {
    let mut bytes = random::<16>()?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| "the system has no randomness to give".to_owned())?;
    Ok(bytes)
}

/// Sets begin and end, to the second. rcgen's type for times is reached by its own constructor.
fn set_validity(params: &mut CertificateParams, begin: SystemTime, end: SystemTime) {
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_1970(begin);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970(end);
}

/// The time since 1970 to the second, as far as a certificate can express it.
pub(crate) fn since_1970(time: SystemTime) -> Duration {
    Duration::from_secs(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs().min(LAST_SECOND))
}

pub(crate) fn text(error: rcgen::Error) -> String {
    error.to_string()
}
