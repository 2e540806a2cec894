//! Images by the digests that the source runs with: a tag may mean another image by now, and the guest's disk would be another one.
//!
//! The kubelet says what it has pulled: `imageID` of each container, and for volumes `imageRef` of the mount, where it knows that
//! (Kubernetes' feature ImageVolumeWithDigest). Both are `repository@sha256:…` for what was pulled from a registry.

use hawser_manifest::{FieldPath, Report, quoted};
use serde_json::{Map, Value};

use crate::source::text_at;

/// Before a reference, where the runtime was dockerd.
const PULLABLE: &str = "docker-pullable://";
const DIGEST: &str = "@sha256:";

/// Replaces tags by digests; without `keep_tags`, refuses those that no digest is known of.
pub(crate) fn pin(pod: &Value, spec: &mut Map<String, Value>, keep_tags: bool, report: &mut Report) {
    if keep_tags {
        return;
    }
    for (list, statuses) in [
        ("initContainers", "initContainerStatuses"),
        ("containers", "containerStatuses"),
    ] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for (index, container) in containers.into_iter().flatten().enumerate() {
            let status = text_at(container, "/name").and_then(|name| named(pod, statuses, name));
            let known = status.and_then(|status| text_at(status, "/imageID"));
            let path = FieldPath::of("spec").key(list).index(index).key("image");
            pinned(container.get_mut("image"), known, path, report);
        }
    }
    let volumes = spec.get_mut("volumes").and_then(Value::as_array_mut);
    for (index, volume) in volumes.into_iter().flatten().enumerate() {
        let Some(name) = text_at(volume, "/name").map(str::to_owned) else {
            continue;
        };
        let Some(image) = volume.get_mut("image") else {
            continue;
        };
        let path = FieldPath::of("spec.volumes")
            .index(index)
            .key("image")
            .key("reference");
        pinned(image.get_mut("reference"), of_volume(pod, &name), path, report);
    }
}

fn pinned(reference: Option<&mut Value>, known: Option<&str>, path: FieldPath, report: &mut Report) {
    let Some(reference) = reference else {
        return;
    };
    let written = reference.as_str().unwrap_or_default();
    if written.contains(DIGEST) {
        return;
    }
    let known = known.map(|known| known.strip_prefix(PULLABLE).unwrap_or(known));
    match known.filter(|known| known.split_once(DIGEST).is_some_and(|(repository, _)| !repository.is_empty())) {
        Some(known) => *reference = known.into(),
        None => report.refuse(
            path,
            format!(
                "{} may mean another image by now, and the pod's status does not say which digest the source runs with: \
                 name it by its digest in the manifest, or allow tags with --keep-tags",
                quoted(written)
            ),
        ),
    }
}

fn named<'a>(pod: &'a Value, statuses: &str, name: &str) -> Option<&'a Value> {
    let statuses = pod.get("status")?.get(statuses)?.as_array()?;
    statuses
        .iter()
        .find(|status| text_at(status, "/name") == Some(name))
}

/// What the kubelet says of a volume, in the status of any container that mounts it.
fn of_volume<'a>(pod: &'a Value, volume: &str) -> Option<&'a str> {
    let statuses = ["initContainerStatuses", "containerStatuses"].into_iter();
    statuses
        .filter_map(|list| pod.get("status")?.get(list)?.as_array())
        .flatten()
        .filter_map(|status| status.get("volumeMounts")?.as_array())
        .flatten()
        .filter(|mount| text_at(mount, "/name") == Some(volume))
        .find_map(|mount| text_at(mount, "/volumeStatus/image/imageRef"))
}
