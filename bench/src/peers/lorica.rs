//! Lorica from static configuration: `lorica proxy`.

use std::fs;
use std::path::Path;

use super::{Hop, Side, Speaks};

/// Its arguments, and the files that they name.
pub(crate) fn arguments(hop: &Hop<'_>, place: &Path) -> anyhow::Result<Vec<String>> {
    let (protocol, short) = match hop.wanted.speaks {
        Speaks::Http1 => ("http", "http"),
        Speaks::Http2 => ("kubernetes.io/h2c", "h2"),
        Speaks::Tcp => ("tcp", "tcp"),
    };
    let (transport, port) = (if hop.side == Side::Caller { "Lorica" } else { "Plaintext" }, hop.upstream.port());
    let config = format!(
        "apiVersion: lorica.io/v1alpha1\nkind: Service\nmetadata: {{name: web, namespace: bench}}\nspec:\n  ports: [{{port: 80, appProtocol: {protocol}}}]\n  accounts: [web]\n---\n\
         apiVersion: lorica.io/v1alpha1\nkind: Workload\nmetadata: {{name: web-1, namespace: bench}}\nspec:\n  service: web\n  address: 127.0.0.1\n  ports: [{{servicePort: 80, port: {port}}}]\n  transport: {transport}\n"
    );
    let path = place.join("mesh.yaml");
    fs::write(&path, config)?;
    let text = |path: &Path| path.display().to_string();
    let mut arguments = vec!["proxy".to_owned(), "--config".to_owned(), text(&path)];
    arguments.extend(["--access-log".to_owned(), text(&place.join("access.log")), "--workers".to_owned(), hop.wanted.workers.to_string()]);
    let certificates = hop.wanted.certificates;
    match hop.side {
        Side::Alone | Side::Caller => arguments.extend(["--upstream".to_owned(), format!("web.bench:80={}", hop.listen)]),
        Side::Callee => arguments.extend([
            "--service".to_owned(),
            "web.bench".to_owned(),
            "--port".to_owned(),
            format!("80:{port}/{short}"),
            "--inbound".to_owned(),
            format!("{port}={}", hop.listen),
        ]),
    }
    match hop.side {
        Side::Alone => {}
        Side::Caller => arguments.extend(["--identity".to_owned(), text(&certificates.client.directory)]),
        Side::Callee => arguments.extend(["--identity".to_owned(), text(&certificates.server.directory)]),
    }
    Ok(arguments)
}
