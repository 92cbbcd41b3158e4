//! `lorica envoy bootstrap`: a stock Envoy joins the mesh. A key is made here and stays here; its certificate and the roots go
//! into files that the printed bootstrap names, and that Envoy watches.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use lorica_cli::args::{EnvoyArgs, Global};
use lorica_cli::places::Places;
use lorica_cli::printer::Printer;
use lorica_identity::ca_api::request_certificate;
use lorica_identity::{Bundle, KeyPair, Svid, rotation};
use lorica_model::name::{ServicePort, WorkloadName};
use lorica_model::reason::Reason;
use lorica_model::snapshot::Protocol;
use lorica_model::spiffe::{SpiffeId, TrustDomain};
use lorica_proxy::identity::control_channel;
use lorica_xds::encode::{
    ACCESS_FILTERS, ACCESS_HTTP_FILTERS, ACCESS_LOG, CONTROL_CLUSTER, GLOBAL_LIMITS, LIMIT_TIMEOUT, LOCAL_LIMITS, inbound_filter_name,
    inbound_routes_name,
};
use lorica_xds::observed;
use lorica_xds::rate_limit::DOMAIN;
use lorica_xds::{NodeMetadata, NodePort};
use serde_json::{Value, json};

/// How long the control plane may take to sign.
const ISSUE: Duration = Duration::from_secs(10);
/// How often it is looked whether certificates come from another root.
const LOOK: Duration = Duration::from_secs(5);

/// Prints a bootstrap, and with `--watch` stays to renew the SVID.
pub(crate) fn bootstrap(arguments: EnvoyArgs, global: &Global, printer: &mut Printer) -> anyhow::Result<ExitCode> {
    crate::logging::start("warn", global.verbose);
    let places = Places::from_environment();
    places.make()?;
    let socket = lorica_cli::server::socket(global.server.as_deref(), &places)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let trust_domain: TrustDomain =
            lorica_api::ApiClient::new(lorica_api::Server::Unix(socket.clone())).status().await?.trust_domain.parse()?;
        let member = Member::new(&arguments, &places, socket)?;
        let mut svid = member.renew(&trust_domain).await?;
        let client = lorica_api::ApiClient::new(lorica_api::Server::Unix(member.socket.clone()));
        printer.data(&serde_json::to_string_pretty(&member.bootstrap(&arguments)?)?);
        if !arguments.watch {
            return Ok(ExitCode::SUCCESS);
        }
        loop {
            let due = rotation::renew_at(svid.not_before(), svid.not_after(), f64::from(std::process::id() % 1000) / 1000.0);
            let left = due.duration_since(SystemTime::now()).unwrap_or_default();
            // Nobody calls it when the root has changed: it looks.
            tokio::time::sleep(left.min(LOOK)).await;
            if left > LOOK && !moved(&client, &svid).await {
                continue;
            }
            let mut failures = 0;
            svid = loop {
                match member.renew(&trust_domain).await {
                    Ok(svid) => break svid,
                    Err(error) => {
                        failures += 1;
                        printer.warning(&format!("the SVID could not be renewed: {error:#}"));
                        tokio::time::sleep(rotation::pause(failures, 0.5)).await;
                    }
                }
            };
        }
    })
}

/// Whether certificates come from another root than this one does.
async fn moved(client: &lorica_api::ApiClient, svid: &Svid) -> bool {
    // One that does not answer now is asked again soon.
    let Ok(status) = client.ca().await else { return false };
    let issuing = status
        .roots
        .iter()
        .find(|root| root.issuing)
        .and_then(|root| Bundle::from_pem(svid.id().trust_domain().clone(), &root.certificate).ok());
    issuing.is_some_and(|issuing| !issuing.roots().iter().any(|root| svid.is_from(root)))
}

/// An Envoy as a workload of the mesh.
struct Member {
    workload: WorkloadName,
    metadata: NodeMetadata,
    directory: PathBuf,
    socket: PathBuf,
}

impl Member {
    fn new(arguments: &EnvoyArgs, places: &Places, socket: PathBuf) -> anyhow::Result<Self> {
        let (namespace, account) = match &arguments.gateway {
            Some(gateway) => (gateway.namespace.clone(), gateway.account()),
            None => crate::run::belonging(arguments.service.as_ref(), arguments.namespace.as_ref(), arguments.account.as_ref())?,
        };
        let stem = match (&arguments.service, &arguments.gateway) {
            (Some(service), _) => service.name.as_str(),
            (None, Some(gateway)) => gateway.name.as_str(),
            (None, None) => "envoy",
        };
        let workload = WorkloadName::new(namespace.clone(), crate::run::unique(stem)?);
        let directory = arguments.directory.clone().unwrap_or_else(|| places.state.join("envoy").join(workload.to_string()));
        let directory = std::path::absolute(directory)?;
        fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
        let mut metadata = NodeMetadata::client(namespace, account);
        metadata.service.clone_from(&arguments.service);
        metadata.locality = arguments.locality.clone().unwrap_or_default();
        metadata.secrets_directory = Some(directory.clone());
        metadata.upstreams = arguments.upstreams.iter().map(|upstream| (upstream.port.clone(), upstream.local)).collect();
        for (index, port) in arguments.ports.iter().enumerate() {
            let address = arguments.inbound.get(index).copied().unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            let address = settled(address).with_context(|| format!("--inbound {address}"))?;
            metadata.ports.push(NodePort { service_port: port.service_port, app_port: port.app_port, protocol: port.protocol, address });
        }
        if let Some(gateway) = &arguments.gateway {
            metadata.gateway = Some(gateway.clone());
            metadata.gateway_listen = Some(arguments.listen);
            for bind in &arguments.binds {
                let address = SocketAddr::new(bind.address.unwrap_or(arguments.listen), bind.bound);
                metadata.gateway_binds.insert(bind.port, settled(address).with_context(|| format!("--bind {}={address}", bind.port))?);
            }
        }
        metadata.access_log = Some(arguments.access_log.clone()).filter(|target| target != "off");
        Ok(Self { workload, metadata, directory, socket })
    }

    /// Makes a key, has it signed, and writes both where Envoy looks.
    async fn renew(&self, trust_domain: &TrustDomain) -> anyhow::Result<Svid> {
        let key = KeyPair::generate()?;
        let identity = SpiffeId::of_account(trust_domain, &self.workload.namespace, &self.metadata.account);
        let node = json!({ "id": self.workload, "metadata": self.metadata }).to_string();
        let request = key.request_pem(&identity)?;
        let issued = request_certificate(control_channel(&self.socket), request, &node, None, ISSUE).await;
        let issued = issued.map_err(|status| anyhow::anyhow!("the control plane issued no certificate: {}", status.message()))?;
        let svid = Svid::new(&issued.chain, key)?;
        self.write("svid.pem", svid.chain_pem().as_bytes())?;
        self.write("key.pem", svid.key().to_pem().expose().as_bytes())?;
        let file = |name: &str| json!({ "filename": self.directory.join(name) });
        let secret = |name: &str, what: Value| {
            let mut secret = json!({ "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "name": name });
            merge(&mut secret, what);
            json!({ "resources": [secret] }).to_string()
        };
        let watched = json!({ "path": self.directory });
        self.write("svid.yaml", secret("svid", json!({ "tls_certificate": { "certificate_chain": file("svid.pem"), "private_key": file("key.pem"), "watched_directory": watched } })).as_bytes())?;
        Ok(svid)
    }

    /// Writes a file for its owner alone, and moves it into place, which is what Envoy watches for.
    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let (new, place) = (self.directory.join(format!(".{name}.new")), self.directory.join(name));
        let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
        std::io::Write::write_all(&mut file, bytes)?;
        fs::rename(&new, &place).with_context(|| format!("{} cannot be written", place.display()))
    }

    /// The bootstrap. JSON is YAML, and Envoy takes either.
    fn bootstrap(&self, arguments: &EnvoyArgs) -> anyhow::Result<Value> {
        let mut bootstrap = json!({
            "node": { "id": self.workload, "cluster": self.metadata.service.as_ref().map_or_else(|| self.workload.namespace.to_string(), ToString::to_string), "metadata": { "lorica": self.metadata } },
            "dynamic_resources": {
                "ads_config": { "api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [{ "envoy_grpc": { "cluster_name": CONTROL_CLUSTER } }] },
                "lds_config": { "ads": {}, "resource_api_version": "V3" },
                "cds_config": { "ads": {}, "resource_api_version": "V3" },
            },
            "layered_runtime": { "layers": [{ "name": "lorica", "static_layer": {
                // A rule's expressions were bounded when it was applied.
                "re2.max_program_size.error_level": 1_000_000,
                "re2.max_program_size.warn_level": 1_000_000,
                // Several fields of one name are one value, as RFC 9110, 5.3 has it.
                "envoy.reloadable_features.match_headers_individually": false,
            } }] },
            "static_resources": {
                "clusters": [{
                    "name": CONTROL_CLUSTER,
                    "type": "STATIC",
                    "connect_timeout": "5s",
                    "typed_extension_protocol_options": http2(),
                    "load_assignment": { "cluster_name": CONTROL_CLUSTER, "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": { "pipe": { "path": self.socket } } } }] }] },
                }],
                "listeners": [],
            },
        });
        if let Some(admin) = arguments.admin {
            merge(&mut bootstrap, json!({ "admin": { "address": address(admin) } }));
        }
        for port in &self.metadata.ports {
            let service = self.metadata.service.as_ref().context("--port without --service")?;
            let service_port = ServicePort { service: service.clone(), port: port.service_port };
            if let Some(listeners) = bootstrap["static_resources"]["listeners"].as_array_mut() {
                listeners.push(self.inbound(&service_port, port));
            }
            if let Some(clusters) = bootstrap["static_resources"]["clusters"].as_array_mut() {
                clusters.push(app(port));
            }
        }
        Ok(bootstrap)
    }

    /// A listener that takes mutual TLS from the mesh and passes on to the app.
    fn inbound(&self, service_port: &ServicePort, port: &NodePort) -> Value {
        let name = format!("inbound-{}", port.app_port);
        let source = |secret: &str| json!({ "name": secret, "sds_config": { "path_config_source": { "path": self.directory.join(format!("{secret}.yaml")), "watched_directory": { "path": self.directory } }, "resource_api_version": "V3" } });
        let bytes = matches!(port.protocol, Protocol::Tcp | Protocol::Detect);
        let access_log: Vec<Value> =
            access_log(self.metadata.access_log.as_deref()).into_iter().chain([seen(service_port, bytes)]).collect();
        let filter = match port.protocol {
            Protocol::Tcp | Protocol::Detect => {
                json!({ "name": "envoy.filters.network.tcp_proxy", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": name, "cluster": name, "access_log": access_log } })
            }
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
                json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": name,
                "access_log": access_log,
                "forward_client_cert_details": "SANITIZE_SET",
                "set_current_client_cert_details": { "uri": true },
                // Everything goes to the app, as far as policies let it.
                "rds": { "config_source": { "ads": {}, "resource_api_version": "V3" }, "route_config_name": inbound_routes_name(&self.workload, port.app_port) },
                "http_filters": access().into_iter().chain(limits()).chain([json!({ "name": "envoy.filters.http.router", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } })]).collect::<Vec<_>>(),
            } })
            }
        };
        // Who may connect, where bytes are not looked at; requests are judged by the connection manager's own filters.
        let judged = ACCESS_FILTERS.map(|word| {
            json!({ "name": inbound_filter_name(&self.workload, port.app_port, word), "config_discovery": {
                "config_source": { "ads": {}, "resource_api_version": "V3" },
                "type_urls": ["type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC"],
            } })
        });
        let filters: Vec<Value> = judged.into_iter().filter(|_| bytes).chain([filter]).collect();
        let alpn: &[&str] = if bytes { &[] } else { &["h2", "http/1.1"] };
        json!({
            "name": name,
            "address": address(port.address),
            "listener_filters": [{ "name": "envoy.filters.listener.tls_inspector", "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" } }],
            "filter_chains": [{
                "filter_chain_match": { "server_names": [service_port.sni()] },
                "filters": filters,
                "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    "require_client_certificate": true,
                    "common_tls_context": {
                        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
                        "alpn_protocols": alpn,
                        "tls_certificate_sds_secret_configs": [source("svid")],
                        // By the stream, so that Envoy acknowledges what it trusts.
                        "validation_context_sds_secret_config": { "name": "bundle", "sds_config": { "ads": {}, "resource_api_version": "V3" } },
                    },
                } },
            }],
        })
    }
}

/// An address with a port; where none is named, one that is free now.
fn settled(address: SocketAddr) -> std::io::Result<SocketAddr> {
    if address.port() == 0 { std::net::TcpListener::bind(address)?.local_addr() } else { Ok(address) }
}

/// Where Envoy logs what its inbound handles: as the control plane has it log the rest.
fn access_log(target: Option<&str>) -> Option<Value> {
    const LOGGERS: &str = "type.googleapis.com/envoy.extensions.access_loggers";
    let keys: serde_json::Map<String, Value> = ACCESS_LOG.iter().map(|(key, command)| ((*key).to_owned(), (*command).into())).collect();
    let format = json!({ "omit_empty_values": true, "json_format": keys });
    target.map(|target| match target {
        "stdout" => {
            json!({ "name": "envoy.access_loggers.stdout", "typed_config": { "@type": format!("{LOGGERS}.stream.v3.StdoutAccessLog"), "log_format": format } })
        }
        "stderr" => {
            json!({ "name": "envoy.access_loggers.stderr", "typed_config": { "@type": format!("{LOGGERS}.stream.v3.StderrAccessLog"), "log_format": format } })
        }
        path => {
            json!({ "name": "envoy.access_loggers.file", "typed_config": { "@type": format!("{LOGGERS}.file.v3.FileAccessLog"), "path": path, "log_format": format } })
        }
    })
}

/// How the control plane hears who calls, as it does from Lorica's proxies.
fn seen(service_port: &ServicePort, bytes: bool) -> Value {
    let (kind, config) = if bytes { ("tcp_grpc", "TcpGrpcAccessLogConfig") } else { ("http_grpc", "HttpGrpcAccessLogConfig") };
    json!({ "name": format!("envoy.access_loggers.{kind}"), "typed_config": {
        "@type": format!("type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.{config}"),
        "common_config": {
            "log_name": observed::LOG,
            "transport_api_version": "V3",
            "grpc_service": { "envoy_grpc": { "cluster_name": CONTROL_CLUSTER } },
            "custom_tags": [
                { "tag": observed::PORT_TAG, "literal": { "value": service_port.to_string() } },
                { "tag": observed::ENDED_TAG, "value": "%CONNECTION_TERMINATION_DETAILS%" },
            ],
        },
    } })
}

/// The filters that say who may do what, which do what routes say and nothing else.
fn access() -> [Value; 3] {
    ACCESS_HTTP_FILTERS
        .map(|name| json!({ "name": name, "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC" } }))
}

/// The filters for limits, which do what routes say and nothing else.
fn limits() -> [Value; 2] {
    const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.http";
    [
        json!({ "name": LOCAL_LIMITS, "typed_config": { "@type": format!("{FILTERS}.local_ratelimit.v3.LocalRateLimit"), "stat_prefix": "rate_limits" } }),
        json!({ "name": GLOBAL_LIMITS, "typed_config": {
            "@type": format!("{FILTERS}.ratelimit.v3.RateLimit"),
            "domain": DOMAIN,
            "stage": 1,
            "timeout": format!("{}s", LIMIT_TIMEOUT.as_secs_f64()),
            "rate_limited_as_resource_exhausted": true,
            "enable_retry_after_header": true,
            "response_headers_to_add": [{ "header": { "key": "x-lorica-reason", "value": Reason::RateLimited.meaning().word } }],
            "rate_limit_service": { "transport_api_version": "V3", "grpc_service": { "envoy_grpc": { "cluster_name": CONTROL_CLUSTER } } },
        } }),
    ]
}

/// The app beside Envoy.
fn app(port: &NodePort) -> Value {
    let name = format!("inbound-{}", port.app_port);
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, port.app_port));
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address(local) } }] }] },
    });
    if matches!(port.protocol, Protocol::Http2 | Protocol::Grpc) {
        merge(&mut cluster, json!({ "typed_extension_protocol_options": http2() }));
    }
    cluster
}

fn http2() -> Value {
    json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": { "http2_protocol_options": { "connection_keepalive": { "interval": "10s", "timeout": "5s" } } },
    } })
}

fn address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip(), "port_value": address.port() } })
}

fn merge(into: &mut Value, more: Value) {
    if let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) {
        into.extend(more);
    }
}
