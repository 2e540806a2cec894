//! Devices that were claimed by Dynamic Resource Allocation: the metadata files that the driver puts into the container
//! (Kubernetes' KEP-5304, `metadata.resource.k8s.io`).
//!
//! A file holds the same data once for each version of its API, newest first, one JSON object behind the other; the first
//! of a version that is known here counts. The device is told by the standard attribute
//! `resource.kubernetes.io/pciBusID`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Error, text};
use crate::spec::{Claim, PciAddress, quoted};

/// Where the kubelet has them appear.
pub(crate) const CLAIMS: &str = "/var/run/kubernetes.io/dra-device-attributes";

const SUFFIX: &str = "-metadata.json";
const VERSIONS: [&str; 1] = ["metadata.resource.k8s.io/v1alpha1"];
const ADDRESS: &str = "resource.kubernetes.io/pciBusID";

/// The PCI device that a claim's request was given.
pub(crate) fn claimed(directory: &Path, claim: &Claim) -> Result<PciAddress, Error> {
    let (kind, name) = match &claim.existing {
        Some(existing) => ("resourceclaims", existing),
        None => ("resourceclaimtemplates", &claim.name),
    };
    let directory = directory.join(kind).join(name).join(&claim.request);
    let file = only_file(&directory)?;
    address(&text(&file)?, &claim.request).map_err(|what| Error::Claim { path: file, what })
}

/// One driver, one file. More of them would be devices of more than one driver.
fn only_file(directory: &Path) -> Result<PathBuf, Error> {
    let fail = |source| Error::Read {
        path: directory.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.file_name().to_string_lossy().ends_with(SUFFIX) {
            files.push(entry.path());
        }
    }
    files.sort();
    match files.as_slice() {
        [file] => Ok(file.clone()),
        files => Err(Error::Claim {
            path: directory.to_owned(),
            what: format!("expected one file *{SUFFIX}, found {}", files.len()),
        }),
    }
}

pub(crate) fn address(text: &str, request: &str) -> Result<PciAddress, String> {
    let mut versions = Vec::new();
    for object in serde_json::Deserializer::from_str(text).into_iter::<serde_json::Value>() {
        let object = object.map_err(|error| error.to_string())?;
        let version = object
            .get("apiVersion")
            .and_then(serde_json::Value::as_str)
            .unwrap_or_default();
        if !VERSIONS.contains(&version) {
            versions.push(version.to_owned());
            continue;
        }
        let metadata: Metadata = serde_json::from_value(object).map_err(|error| error.to_string())?;
        return of_request(metadata, request);
    }
    Err(format!(
        "no version that hawser reads ({}), found {versions:?}",
        VERSIONS.join(", ")
    ))
}

fn of_request(metadata: Metadata, request: &str) -> Result<PciAddress, String> {
    let names: Vec<_> = metadata
        .requests
        .iter()
        .map(|request| request.name.clone())
        .collect();
    let Some(found) = metadata.requests.into_iter().find(|found| found.name == request) else {
        return Err(format!("no request {request:?}, found {names:?}"));
    };
    let [device] = found.devices.as_slice() else {
        return Err(format!(
            "request {request:?} has {} devices: expected one",
            found.devices.len()
        ));
    };
    let value = device
        .attributes
        .get(ADDRESS)
        .and_then(|attribute| attribute.string.as_deref());
    let Some(value) = value else {
        return Err(format!(
            "device {} has no attribute {ADDRESS}",
            quoted(&device.name)
        ));
    };
    value
        .parse()
        .map_err(|form| format!("{ADDRESS}: {form}, found {}", quoted(value)))
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    requests: Vec<Request>,
}

#[derive(Deserialize)]
struct Request {
    name: String,
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    #[serde(default)]
    name: String,
    #[serde(default)]
    attributes: BTreeMap<String, Attribute>,
}

/// Exactly one of the types is there; an address is a string.
#[derive(Deserialize)]
struct Attribute {
    string: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
{"apiVersion": "metadata.resource.k8s.io/v2", "kind": "DeviceMetadata", "future": true}
{"apiVersion": "metadata.resource.k8s.io/v1alpha1", "kind": "DeviceMetadata", "metadata": {"name": "nets-x7"},
 "podClaimName": "nets", "requests": [
  {"name": "red", "devices": [{"driver": "sriov.example.com", "pool": "node", "name": "vf2", "attributes": {
    "resource.kubernetes.io/pciBusID": {"string": "0000:65:00.2"}, "example.com/vlan": {"int": 7}}}]},
  {"name": "pair", "devices": [{"name": "a"}, {"name": "b"}]},
  {"name": "bare", "devices": [{"name": "c"}]}]}"#;

    fn claim(existing: Option<&str>, request: &str) -> Claim {
        Claim {
            name: "nets".into(),
            request: request.into(),
            existing: existing.map(str::to_owned),
        }
    }

    #[test]
    fn a_claims_device_from_a_template_and_from_a_claim_that_was_there() {
        let dir = tempfile::tempdir().unwrap();
        for place in ["resourceclaimtemplates/nets/red", "resourceclaims/shared/red"] {
            std::fs::create_dir_all(dir.path().join(place)).unwrap();
            std::fs::write(
                dir.path().join(place).join("sriov.example.com-metadata.json"),
                FILE,
            )
            .unwrap();
        }
        for existing in [None, Some("shared")] {
            let address = claimed(dir.path(), &claim(existing, "red")).unwrap();
            assert_eq!(address.to_string(), "0000:65:00.2");
        }
        let error = claimed(dir.path(), &claim(Some("other"), "red")).unwrap_err();
        assert!(error.to_string().ends_with("resourceclaims/other/red"), "{error}");
        std::fs::write(dir.path().join("resourceclaims/shared/red/z-metadata.json"), FILE).unwrap();
        let error = claimed(dir.path(), &claim(Some("shared"), "red")).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("expected one file *-metadata.json, found 2"),
            "{error}"
        );
    }

    #[test]
    fn what_a_file_may_lack() {
        for (text, request, expected) in [
            (
                FILE,
                "green",
                "no request \"green\", found [\"red\", \"pair\", \"bare\"]",
            ),
            (FILE, "pair", "request \"pair\" has 2 devices: expected one"),
            (
                FILE,
                "bare",
                "device \"c\" has no attribute resource.kubernetes.io/pciBusID",
            ),
            (
                "{\"apiVersion\": \"v9\"}",
                "red",
                "no version that hawser reads (metadata.resource.k8s.io/v1alpha1), found [\"v9\"]",
            ),
        ] {
            assert_eq!(address(text, request).unwrap_err(), expected);
        }
        let wrong = FILE.replace("0000:65:00.2", "vf2");
        assert!(
            address(&wrong, "red")
                .unwrap_err()
                .contains("expected a PCI address")
        );
    }
}
