//! Reads the manifest and the binding plugins that the command line or the environment names.

use std::io::Read;
use std::path::Path;

use crate::error::{ExitCode, Failure};
use crate::plugins::{self, Registry};
use crate::spec::policy::{self, MigrationPolicy};
use crate::spec::{self, Loaded};

/// Has the manifest as JSON where no file is named, as in KubeVirt's own launcher.
pub(crate) const VARIABLE: &str = "STANDALONE_VMI";

/// The manifest of `vmi` (`-` for standard input), else of STANDALONE_VMI, with the binding plugins of `bindings`.
///
/// # Errors
/// Everything that the manifest is refused for, in one go.
pub(crate) fn manifest(vmi: Option<&Path>, bindings: Option<&Path>) -> Result<Loaded, Failure> {
    let registry = match bindings {
        Some(path) => registry(path)?,
        None => Registry::default(),
    };
    let text = match vmi {
        Some(path) => text("the manifest", path)?,
        None => std::env::var(VARIABLE).map_err(|_| {
            Failure::new(ExitCode::Usage, "no manifest").remedy(
                "name one with --vmi FILE (- for standard input), or put it into STANDALONE_VMI as JSON",
            )
        })?,
    };
    let loaded = spec::load_with(&text, &registry).map_err(|refusals| {
        Failure::new(ExitCode::Manifest, format!("the manifest is refused\n{refusals}"))
    })?;
    for warning in &loaded.warnings {
        tracing::warn!(event = "manifest-warning", "{warning}");
    }
    Ok(loaded)
}

/// The MigrationPolicy of a file.
///
/// # Errors
/// Everything that it is refused for, in one go.
pub(crate) fn policy(path: &Path) -> Result<MigrationPolicy, Failure> {
    let text = text("the migration policy", path)?;
    let (policy, notes) = policy::parse(&text).map_err(|refusals| {
        let file = path.display();
        Failure::new(
            ExitCode::Manifest,
            format!("the migration policy of {file} is refused\n{refusals}"),
        )
    })?;
    for note in &notes {
        tracing::warn!(event = "migration-policy-note", "{note}");
    }
    Ok(policy)
}

/// Says what the pod has to have for this manifest, where hawser does not make the pod.
pub(crate) fn note_of_the_pod(loaded: &Loaded) {
    for note in &loaded.of_the_pod {
        tracing::warn!(event = "manifest-of-the-pod", "{note}");
    }
}

fn registry(path: &Path) -> Result<Registry, Failure> {
    let text = text("the binding plugins", path)?;
    let file = path.display().to_string();
    plugins::parse(&text, &file).map_err(|refusals| {
        Failure::new(
            ExitCode::Manifest,
            format!("the binding plugins of {file} are refused\n{refusals}"),
        )
    })
}

/// Reads one byte more than is accepted at most, so that the check for the size has something to refuse.
pub(crate) fn text(what: &str, path: &Path) -> Result<String, Failure> {
    let fail = |error: std::io::Error| {
        Failure::new(ExitCode::Manifest, format!("read {what} {}", path.display())).because(error)
    };
    let mut text = String::new();
    let limit = spec::MAX_BYTES as u64 + 1;
    let read = if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .map_err(fail)?
            .take(limit)
            .read_to_string(&mut text)
    };
    read.map_err(fail)?;
    Ok(text)
}
