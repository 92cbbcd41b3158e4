//! One `lorica run`, put together in words of the domain. In flow service, ports, upstreams and the app; out flows the running workload, or the
//! output of an app that ends by itself.

use std::ffi::{OsStr, OsString};

use crate::process::{Output, Running};
use crate::{Mesh, PATIENCE};

/// What is to be run under `lorica run`.
#[derive(Debug)]
#[must_use = "nothing runs before `start` or `output`"]
pub struct Run<'a> {
    mesh: &'a Mesh,
    name: String,
    options: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(mesh: &'a Mesh, name: &str) -> Self {
        Self { mesh, name: name.to_owned(), options: Vec::new(), environment: Vec::new() }
    }

    /// `--port [SERVICE_PORT:]APP_PORT[/http|h2|grpc|tcp]`.
    pub fn port(self, port: &str) -> Self {
        self.option("--port").option(port)
    }

    /// `--upstream NAME:PORT=LOCAL`: an explicit listener; without capture.
    pub fn upstream(self, upstream: &str) -> Self {
        self.option("--upstream").option(upstream)
    }

    /// Without namespaces, for apps that call nobody.
    pub fn no_capture(self) -> Self {
        self.option("--no-capture")
    }

    /// Any further option of `lorica run`.
    pub fn option(mut self, option: impl Into<OsString>) -> Self {
        self.options.push(option.into());
        self
    }

    /// A variable for `lorica run` and, through it, for the app.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts it; the app need not be ready yet.
    ///
    /// # Errors
    /// The binary cannot be started.
    pub fn start(self, app: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<Running> {
        let arguments: Vec<OsString> = ["run".into()].into_iter().chain(self.options).chain(["--".into()]).collect();
        let app = app.into_iter().map(|word| word.as_ref().to_owned());
        self.mesh.start_binary(&self.name, arguments.into_iter().chain(app), self.environment, None)
    }

    /// Runs an app that ends by itself, and gives what it said and how it ended.
    ///
    /// # Errors
    /// The binary cannot be started, or the app runs on.
    pub async fn output(self, app: impl IntoIterator<Item = impl AsRef<OsStr>>) -> anyhow::Result<Output> {
        self.start(app)?.output(PATIENCE * 2).await
    }
}
