//! The Kubernetes objects that run a guest: what KubeVirt's controller would make of the same manifest, with hawser in the
//! place of virt-launcher.
//!
//! ```text
//! Loaded (the manifest) ───┐
//! Facts (of the launcher) ─┼──► render ──► objects, in the order to apply them; notes
//! Options (of the user) ───┘
//! ```
//!
//! It is a pure function: no cluster, no file, no clock. The same input gives the same output, byte for byte.
//!
//! 1. `volumes` decides what the pod mounts for each volume, `devices` which resources and claims it asks for.
//! 2. `form` chooses the containers, and their privileges, from what the guest and its volumes allow.
//! 3. `metadata`, `networks`, `probes`, `resources`, `scheduling` and `migration` make the parts of the pod; `pod` puts it together.
//! 4. `config`, `service`, `disruption` and `workload` make what stands around it.
//! 5. `podman` takes out what podman does not know, where the pod is for podman.
//!
//! `target_of` makes the target of a live migration of the source's pod, as the API server has it: with `target_metadata`, `pinned`
//! for the images, and `place` for the node.
//!
//! What cannot be rendered is refused by its field; what is rendered on an assumption has a note with its field.

mod config;
mod containers;
mod devices;
mod disruption;
mod form;
mod memory;
mod metadata;
mod migration;
mod names;
mod networks;
mod options;
mod pinned;
mod place;
mod pod;
mod podman;
mod probes;
mod resources;
mod run_strategy;
mod scheduling;
mod service;
mod sidecars;
mod source;
mod target_metadata;
mod target_of;
#[cfg(test)]
mod tests;
mod volumes;
mod workload;
mod yaml;

use hawser_manifest::{Loaded, Note, Refusals};
use serde_json::Value;

pub use memory::overhead;
pub use names::GUEST;
pub use options::{DeviceResources, Facts, Options, Workload};
pub use target_metadata::{
    JOB, MIGRATED_FROM, MIGRATED_FROM_UID, NODE_NAME, READY_TIMESTAMP, REQUESTED_NODE, guest_selector,
};
pub use target_of::{TargetOf, target_name, target_of};
pub use yaml::{NotYaml, stream};

use form::Form;
use source::Source;
use volumes::Volumes;

/// Objects of the Kubernetes API, and what the user should know about them.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// In the order in which they are to be applied: what the pod refers to comes before it.
    pub objects: Vec<Value>,
    /// In the order of the manifest.
    pub notes: Vec<Note>,
}

/// The objects that run this guest.
///
/// # Errors
/// Everything that no pod can be made of, in one go, by field path; an option's path is the option.
pub fn render(loaded: &Loaded, facts: &Facts, options: &Options) -> Result<Rendered, Refusals> {
    let mut report = loaded.report();
    let source = Source {
        guest: &loaded.spec,
        vmi: &loaded.vmi,
        manifest: &loaded.manifest,
        owner: loaded.owner(),
        facts,
        options,
    };
    let volumes = Volumes::of(&source, &mut report);
    let form = Form::choose(&source, &volumes, &mut report);
    networks::note(&source, &mut report);
    migration::check(&source, &mut report);
    let config = config::object(&source, &mut report);
    let mut pod = pod::template(&source, form, &volumes, &config.volume, &mut report);
    let mut objects = vec![config.object];
    if options.podman {
        podman::check(&source, &volumes, &mut report);
        podman::adapt(&source, &mut pod);
    } else {
        objects.extend(service::objects(&source, &mut report));
        objects.extend(disruption::budget(&source, &mut report));
        objects.extend(migration::policy(&source, &mut report));
    }
    objects.push(workload::wrap(&source, pod, &volumes, &mut report));
    let notes = report.finish(&loaded.manifest)?;
    Ok(Rendered { objects, notes })
}
