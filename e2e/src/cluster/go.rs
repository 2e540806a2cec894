//! The cluster's programs, built from Go modules: the versions and the sums of all that they are made of are in
//! e2e/cluster/go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::lab::cache::Cache;
use crate::lab::process::{output, progress};
use crate::report::Skip;

/// A Go module whose `tool` lines name the programs.
#[derive(Debug)]
struct Module {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    /// Whose version the programs are told to be: built as a module they know none, and their clients complain.
    of: &'static str,
    /// What is told, with `@` for the version.
    variables: &'static str,
    tags: &'static str,
    /// The name of its one program, where its package is called something else.
    program: Option<&'static str>,
}

const MODULES: &[Module] = &[
    Module {
        name: "etcd",
        files: &[
            ("go.mod", include_str!("../../cluster/go/etcd/go.mod")),
            ("go.sum", include_str!("../../cluster/go/etcd/go.sum")),
        ],
        of: "go.etcd.io/etcd/server/v3",
        variables: "",
        tags: "",
        program: Some("etcd"),
    },
    Module {
        name: "containerd",
        files: &[
            ("go.mod", include_str!("../../cluster/go/containerd/go.mod")),
            ("go.sum", include_str!("../../cluster/go/containerd/go.sum")),
        ],
        of: "github.com/containerd/containerd/v2",
        variables: "-X github.com/containerd/containerd/v2/version.Version=@",
        tags: "no_btrfs",
        program: None,
    },
    Module {
        name: "kubernetes",
        files: &[
            ("go.mod", include_str!("../../cluster/go/kubernetes/go.mod")),
            ("go.sum", include_str!("../../cluster/go/kubernetes/go.sum")),
        ],
        of: "k8s.io/kubernetes",
        variables: "-X k8s.io/component-base/version.gitVersion=@",
        tags: "",
        program: None,
    },
];

/// What only some scenarios need: built when the first of them begins.
const ADDONS: &[Module] = &[
    Module {
        name: "coredns",
        files: &[
            ("go.mod", include_str!("../../cluster/go/coredns/go.mod")),
            ("go.sum", include_str!("../../cluster/go/coredns/go.sum")),
            // Of its own, with the plugins that a cluster needs: the usual program has 50, and takes minutes to build.
            ("main.go", include_str!("../../cluster/go/coredns/main.go")),
        ],
        of: "github.com/coredns/coredns",
        variables: "",
        tags: "",
        program: Some("coredns"),
    },
    Module {
        name: "network-policies",
        files: &[
            ("go.mod", include_str!("../../cluster/go/network-policies/go.mod")),
            ("go.sum", include_str!("../../cluster/go/network-policies/go.sum")),
        ],
        of: "sigs.k8s.io/kube-network-policies",
        variables: "",
        tags: "",
        program: Some("kube-network-policies"),
    },
];

/// The program of an addon, from the cache or built.
pub(super) fn addon(cache: &Cache, program: &str) -> Result<PathBuf> {
    let module = ADDONS
        .iter()
        .find(|module| module.program == Some(program))
        .with_context(|| format!("no Go module has {program}"))?;
    Ok(module.get(cache)?.join(program))
}
/// Modules whose programs run on nodes alone.
const ON_NODES: &[&str] = &["containerd"];

/// Where the programs are.
#[derive(Debug)]
pub(super) struct Programs {
    directories: Vec<PathBuf>,
}

impl Programs {
    /// From the cache, or built: some minutes, once for each version. Where there is no Go that can, the error is a [`Skip`].
    /// Those that only nodes run are left out where there are none.
    pub(super) fn get(cache: &Cache, nodes: bool) -> Result<Self> {
        let directories = MODULES
            .iter()
            .filter(|module| nodes || !ON_NODES.contains(&module.name))
            .map(|module| module.get(cache))
            .collect::<Result<_>>()?;
        Ok(Self { directories })
    }

    pub(super) fn path(&self, program: &str) -> Result<PathBuf> {
        self.directories
            .iter()
            .map(|dir| dir.join(program))
            .find(|path| path.is_file())
            .with_context(|| format!("no Go module has {program}"))
    }
}

impl Module {
    fn get(&self, cache: &Cache) -> Result<PathBuf> {
        let version = self
            .version()
            .with_context(|| format!("{} names no {}", self.name, self.of))?;
        let flags = format!("-s -w {}", self.variables.replace('@', version));
        let mut recipe: Vec<&[u8]> = self.files.iter().map(|(_, text)| text.as_bytes()).collect();
        recipe.extend([flags.as_bytes(), self.tags.as_bytes()]);
        let dir = cache.entry(&format!("go-{}", self.name), &recipe, |dir| {
            let source = dir.join("source");
            fs::create_dir(&source)?;
            for (name, text) in self.files {
                fs::write(source.join(name), text)?;
            }
            let go = go(&source)?;
            progress(format!("building {} {version} with {go} (once)", self.name));
            let to = dir.join("bin").join(self.program.unwrap_or_default());
            fs::create_dir(dir.join("bin"))?;
            output(
                command(&source)
                    .args(["build", "-trimpath", "-tags", self.tags, "-ldflags", &flags, "-o"])
                    .arg(to)
                    .arg("tool"),
            )
            .with_context(|| format!("cannot build {}", self.name))?;
            Ok(())
        })?;
        Ok(dir.join("bin"))
    }

    fn version(&self) -> Option<&'static str> {
        let (_, text) = self.files.first()?;
        text.lines().find_map(|line| {
            let words = line.trim().trim_start_matches("require ");
            words.strip_prefix(self.of)?.strip_prefix(' ')?.split(' ').next()
        })
    }
}

/// Go's own words of its version, where it can build what is in `source`: older ones refuse, or get themselves a newer one.
fn go(source: &Path) -> Result<String> {
    let version = output(command(source).arg("version")).map_err(|error| {
        Skip::because(format!(
            "Kubernetes is built from Go modules, and there is no Go that can: {error:#}; \
             put one of at least the version of e2e/cluster/go/kubernetes/go.mod on PATH"
        ))
    })?;
    let words: Vec<&str> = version.split_whitespace().take(3).collect();
    Ok(words.join(" "))
}

fn command(source: &Path) -> Command {
    let mut command = Command::new("go");
    command
        .current_dir(source)
        // Static programs: they run in the node's system and on this machine alike.
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false")
        .env("GOWORK", "off");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_names_the_version_of_its_programs() {
        for module in MODULES.iter().chain(ADDONS) {
            let version = module.version().unwrap_or_default();
            assert!(version.starts_with('v'), "{}: {version:?}", module.name);
        }
    }
}
