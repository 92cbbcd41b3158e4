//! nginx as a reverse proxy for HTTP/1.

use std::fs;
use std::path::Path;

use super::{Hop, Side};

/// Its arguments, and the file that they name.
pub(crate) fn arguments(hop: &Hop<'_>, place: &Path) -> anyhow::Result<Vec<String>> {
    let certificates = hop.wanted.certificates;
    let authority = certificates.authority.display();
    let (listen, tls_in) = match hop.side {
        Side::Callee => (
            " ssl",
            format!(
                "ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {authority}; ssl_verify_client on; ssl_protocols TLSv1.3;",
                certificates.server.certificate.display(),
                certificates.server.key.display()
            ),
        ),
        Side::Alone | Side::Caller => ("", String::new()),
    };
    let (scheme, tls_out) = match hop.side {
        Side::Caller => (
            "https",
            format!(
                "proxy_ssl_certificate {}; proxy_ssl_certificate_key {}; proxy_ssl_trusted_certificate {authority}; proxy_ssl_verify on; proxy_ssl_name web.bench.mesh; proxy_ssl_protocols TLSv1.3;",
                certificates.client.certificate.display(),
                certificates.client.key.display()
            ),
        ),
        Side::Alone | Side::Callee => ("http", String::new()),
    };
    let (place_text, upstream, address) = (place.display(), hop.upstream, hop.listen);
    let config = format!(
        "daemon off; master_process off; worker_processes 1; pid {place_text}/pid; error_log {place_text}/error.log;\nevents {{ worker_connections 8192; }}\n\
         http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s;\n\
         upstream next {{ server {upstream}; keepalive 256; keepalive_requests 100000000; }}\n\
         server {{ listen {address}{listen} backlog=4096; {tls_in}\n\
         location / {{ proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_pass {scheme}://next; {tls_out} }} }} }}\n"
    );
    let path = place.join("nginx.conf");
    fs::write(&path, config)?;
    Ok(vec!["-c".to_owned(), path.display().to_string(), "-p".to_owned(), place.display().to_string()])
}
