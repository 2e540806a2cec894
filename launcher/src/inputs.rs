//! What the command line names, read: the manifest, the binding plugins, and what the pod was given on each network.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use hawser_netsetup::interface_names;

use crate::cli::{Inputs, PodArgs};
use crate::error::{ExitCode, Failure};
use crate::plugins::{self, Registry};
use crate::pod::networks::{self, PodNetworks};
use crate::spec::{self, GuestSpec, Loaded};

/// The guest of the manifest, with the interfaces that the pod has on its networks.
pub(crate) fn guest(inputs: &Inputs, pod: &PodArgs, patience: Duration) -> Result<GuestSpec, Failure> {
    named(load(inputs)?.spec, pod, &interface_names(), patience)
}

pub(crate) fn named(
    guest: GuestSpec,
    pod: &PodArgs,
    there: &[String],
    patience: Duration,
) -> Result<GuestSpec, Failure> {
    let unfit = |error| {
        Failure::new(ExitCode::PodUnfit, "the pod's networks").because(error).remedy(
        "attach the pod to each network of the manifest, and give what Multus writes of them (the annotation \
         k8s.v1.cni.cncf.io/network-status, as a file of the downward API) with --network-status",
    )
    };
    let networks = PodNetworks::await_file(pod.network_status.as_deref(), patience).map_err(unfit)?;
    networks::named(guest, networks.as_ref(), there).map_err(unfit)
}

/// The manifest that the command line or the environment names, with the binding plugins that it names in turn.
pub(crate) fn load(inputs: &Inputs) -> Result<Loaded, Failure> {
    let registry = match &inputs.bindings {
        Some(path) => registry(path)?,
        None => Registry::default(),
    };
    let text = match &inputs.vmi {
        Some(path) => read("the manifest", path)?,
        None => std::env::var("STANDALONE_VMI").map_err(|_| {
            Failure::new(ExitCode::Usage, "no manifest").remedy(
                "name one with --vmi FILE (- for standard input), or put it into STANDALONE_VMI as JSON",
            )
        })?,
    };
    let loaded = spec::load_with(&text, &registry).map_err(|refusals| {
        Failure::new(ExitCode::Manifest, format!("the manifest is refused\n{refusals}"))
    })?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded)
}

fn registry(path: &Path) -> Result<Registry, Failure> {
    let text = read("the binding plugins", path)?;
    let file = path.display().to_string();
    plugins::parse(&text, &file).map_err(|refusals| {
        Failure::new(
            ExitCode::Manifest,
            format!("the binding plugins of {file} are refused\n{refusals}"),
        )
    })
}

/// One byte more than is accepted is read at most, so that the check for the size has something to refuse.
fn read(what: &str, path: &Path) -> Result<String, Failure> {
    let fail = |error: std::io::Error| {
        Failure::new(ExitCode::Manifest, format!("read {what} {}", path.display())).because(error)
    };
    let mut text = String::new();
    let most = spec::MAX_BYTES as u64 + 1;
    let read = if path == Path::new("-") {
        std::io::stdin().take(most).read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .map_err(fail)?
            .take(most)
            .read_to_string(&mut text)
    };
    read.map_err(fail)?;
    Ok(text)
}
