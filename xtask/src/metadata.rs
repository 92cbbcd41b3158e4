//! What cargo knows about the workspace: `cargo metadata`, read once. In flows its JSON; out flow packages and their direct dependencies.
//! It judges nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The workspace and all that it is built from.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// A package, of the workspace or from a registry.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    pub(crate) manifest: PathBuf,
    /// Whether it belongs to this workspace.
    pub(crate) ours: bool,
    /// What it names in its manifest.
    pub(crate) dependencies: Vec<Dependency>,
}

/// A line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    /// The package's name, also where the manifest renames it.
    pub(crate) name: String,
    /// Whether only tests see it.
    pub(crate) for_tests: bool,
}

/// The workspace's root, as cargo tells those that it starts.
pub(crate) fn root() -> anyhow::Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").context("this runs under cargo: `cargo xtask …`")?;
    let root = Path::new(&manifest).parent().context("the manifest has no directory above it")?;
    Ok(root.to_owned())
}

/// The cargo that started this, else the one of the path.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    // What cargo set for xtask is not for what xtask builds: it would change fingerprints of build scripts.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST") {
            command.env_remove(&name);
        }
    }
    command
}

impl Metadata {
    /// Asks cargo; the registry is read only if Cargo.lock names something that is not there yet.
    pub(crate) fn load(root: &Path) -> anyhow::Result<Self> {
        let output =
            cargo(root).args(["metadata", "--format-version", "1"]).stderr(Stdio::inherit()).output().context("cargo cannot be started")?;
        if !output.status.success() {
            bail!("cargo metadata failed ({}): see above", output.status);
        }
        Self::read(&serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?)
    }

    fn read(value: &Value) -> anyhow::Result<Self> {
        let members: BTreeSet<&str> = array(value, "workspace_members")?.iter().filter_map(Value::as_str).collect();
        let mut packages = Vec::new();
        for package in array(value, "packages")? {
            let dependencies = array(package, "dependencies")?
                .iter()
                .map(|dependency| Ok(Dependency { name: text(dependency, "name")?.to_owned(), for_tests: dependency["kind"] == "dev" }))
                .collect::<anyhow::Result<_>>()?;
            packages.push(Package {
                name: text(package, "name")?.to_owned(),
                version: text(package, "version")?.to_owned(),
                license: package["license"].as_str().map(str::to_owned),
                manifest: text(package, "manifest_path")?.into(),
                ours: members.contains(text(package, "id")?),
                dependencies,
            });
        }
        Ok(Self { root: text(value, "workspace_root")?.into(), target: text(value, "target_directory")?.into(), packages })
    }

    /// A path as a developer names it: relative to the workspace.
    pub(crate) fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(&self.root).unwrap_or(path)
    }
}

fn array<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a Vec<Value>> {
    value[name].as_array().with_context(|| format!("cargo metadata has no list `{name}`"))
}

fn text<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    value[name].as_str().with_context(|| format!("cargo metadata has no text `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_and_their_direct_dependencies_are_read() {
        let value = serde_json::json!({
            "workspace_root": "/w", "target_directory": "/w/target", "workspace_members": ["path+file:///w/a#0.1.0"],
            "packages": [
                {"name": "a", "version": "0.1.0", "id": "path+file:///w/a#0.1.0", "license": "MIT", "manifest_path": "/w/a/Cargo.toml",
                 "dependencies": [{"name": "b", "kind": null}, {"name": "t", "kind": "dev"}, {"name": "c", "kind": "build"}]},
                {"name": "b", "version": "1.0.0", "id": "registry#b@1.0.0", "license": null, "manifest_path": "/r/b/Cargo.toml", "dependencies": []},
            ],
        });
        let metadata = Metadata::read(&value).unwrap();
        let [a, b] = metadata.packages.as_slice() else { panic!("{metadata:?}") };
        assert!(a.ours && !b.ours);
        let dependency = |name: &str, for_tests| Dependency { name: name.to_owned(), for_tests };
        assert_eq!(a.dependencies, [dependency("b", false), dependency("t", true), dependency("c", false)]);
        assert_eq!(metadata.relative(&a.manifest), Path::new("a/Cargo.toml"));
        assert_eq!(b.license, None);
    }
}
