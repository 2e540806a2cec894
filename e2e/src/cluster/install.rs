//! hawser in the cluster, as docs/kubernetes.md has it: the manifests of images/kubernetes, with the name of the image.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::api::Kubectl;

/// (its name, what it is)
const BASE: &[(&str, &str)] = &[
    (
        "kustomization.yaml",
        include_str!("../../../images/kubernetes/kustomization.yaml"),
    ),
    (
        "namespace.yaml",
        include_str!("../../../images/kubernetes/namespace.yaml"),
    ),
    (
        "device-plugin.yaml",
        include_str!("../../../images/kubernetes/device-plugin.yaml"),
    ),
    (
        "guests.yaml",
        include_str!("../../../images/kubernetes/guests.yaml"),
    ),
];

/// `scratch` is a directory to write the manifests to.
pub(super) fn install(kubectl: &Kubectl, image: &str, scratch: &Path) -> Result<()> {
    let base = scratch.join("base");
    let named = scratch.join("named");
    for dir in [&base, &named] {
        fs::create_dir_all(dir)?;
    }
    for (name, text) in BASE {
        fs::write(base.join(name), text)?;
    }
    let (name, tag) = image.rsplit_once(':').context("an image without a tag")?;
    let overlay = json!({
        "resources": ["../base"],
        "images": [{"name": "hawser", "newName": name, "newTag": tag}],
    });
    fs::write(named.join("kustomization.yaml"), overlay.to_string())?;
    kubectl
        .run(&["apply", "--kustomize", &named.display().to_string()])
        .map(drop)
}
