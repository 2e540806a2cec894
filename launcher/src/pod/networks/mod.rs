//! What the pod has been given on each network, as others have written it down: the CNI plugins' results, by Multus or
//! by KubeVirt; the device plugin's variables; the metadata of devices that were claimed.
//!
//! All of it is read before anything is touched, and none of it is a matter of the guest's. A pod sees its own
//! annotations as files only (Kubernetes' downward API), so a file is where most of it comes from:
//!
//! - KubeVirt's `kubevirt.io/network-info`: an object with `interfaces`, each by the name of the manifest's network.
//! - Multus' `k8s.v1.cni.cncf.io/network-status` (Network Plumbing Working Group, "Kubernetes Network Custom Resource
//!   Definition De-facto Standard"): a list, each by namespace and name of its NetworkAttachmentDefinition.
//!
//! Which of the two a file holds is seen by its shape.

pub(crate) mod claims;
mod names;
mod resources;
mod wait_for_file;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::spec::{GuestSpec, Mac, Network, NetworkSource, PciAddress, quoted};

pub(crate) use claims::{CLAIMS, claimed};
pub(crate) use names::{PodInterface, named, pod_interface, possible_names, primary_interface};
pub(crate) use resources::{Given, Resources};

/// Where KubeVirt's pods have it.
pub(crate) const DEFAULT_PATH: &str = "/etc/podinfo/network-info";
/// Annotations of a pod are 256 KiB at most; no file needs to be longer.
const MAX_BYTES: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}: longer than {MAX_BYTES} bytes")]
    TooLong { path: PathBuf },
    #[error("{path}: empty: the pod's annotation was not there yet when the file was made")]
    Empty { path: PathBuf },
    #[error("{path}: neither KubeVirt's network-info nor Multus' network-status")]
    Json {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path}: network {}: {what}", shown(.name))]
    Entry {
        path: PathBuf,
        name: String,
        what: String,
    },
    #[error("{field}: {path} does not list this network, only {there}")]
    NotThere {
        field: String,
        path: PathBuf,
        there: String,
    },
    #[error("{field}: the pod has no interface {wanted}, only {there}")]
    NoInterface {
        field: String,
        wanted: String,
        there: String,
    },
    #[error(
        "{field}: the pod has no interface {wanted}, and of its interfaces ({there}) {defaults} a default route, by which hawser \
         would know the one of the pod network"
    )]
    NoPrimary {
        field: String,
        wanted: String,
        there: String,
        defaults: String,
    },
    #[error("{field}: the pod's interface {interface} is that of the network {other} already")]
    SameInterface {
        field: String,
        interface: String,
        other: String,
    },
    #[error("{}: {what}", shown(.variable))]
    Variable { variable: String, what: String },
    #[error("{path}: {what}")]
    Claim { path: PathBuf, what: String },
}

/// A name as somebody else wrote it, fit for a log: it is bounded, and a character that changes a terminal is an escape.
fn shown(name: &str) -> String {
    const LONGEST: usize = 253;
    name.chars().flat_map(char::escape_debug).take(LONGEST).collect()
}

/// One network of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodNetwork {
    /// KubeVirt's: the manifest's name of the network. Multus': `namespace/name` of the NetworkAttachmentDefinition.
    pub(crate) name: String,
    /// The pod's interface; KubeVirt's form does not name it.
    pub(crate) interface: Option<String>,
    /// As the CNI plugin set it.
    pub(crate) mac: Option<Mac>,
    /// Bytes.
    pub(crate) mtu: Option<u32>,
    /// The device behind it, where it is a PCI one.
    pub(crate) pci: Option<PciAddress>,
    /// Multus': it is the pod's primary network.
    pub(crate) default: bool,
}

/// The networks of the pod, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodNetworks {
    path: PathBuf,
    form: Form,
    list: Vec<PodNetwork>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    KubeVirt,
    Multus,
}

impl PodNetworks {
    /// The file that the command line names, or KubeVirt's where there is one.
    pub(crate) fn read(named: Option<&Path>) -> Result<Option<Self>, Error> {
        match named {
            Some(path) => Self::read_file(path).map(Some),
            None if Path::new(DEFAULT_PATH).exists() => Self::read_file(Path::new(DEFAULT_PATH)).map(Some),
            None => Ok(None),
        }
    }

    /// The same, but a file that is there and empty is waited for: the kubelet makes it before the CNI plugins have run,
    /// and fills it when the annotation reaches it.
    pub(crate) fn await_file(named: Option<&Path>, timeout: Duration) -> Result<Option<Self>, Error> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        if named.is_some() || path.exists() {
            wait_for_file::until_written(path, timeout).map_err(|source| Error::Read {
                path: path.to_owned(),
                source,
            })?;
        }
        Self::read(named)
    }

    fn read_file(path: &Path) -> Result<Self, Error> {
        Self::parse(&text(path)?, path)
    }

    /// `path` is for messages.
    pub(crate) fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        if text.trim().is_empty() {
            return Err(Error::Empty {
                path: path.to_owned(),
            });
        }
        let json = |source| Error::Json {
            path: path.to_owned(),
            source,
        };
        let value: serde_json::Value = serde_json::from_str(text).map_err(json)?;
        let (form, written) = if value.is_array() {
            let list: Vec<MultusEntry> = serde_json::from_value(value).map_err(json)?;
            (
                Form::Multus,
                list.into_iter().map(MultusEntry::plain).collect::<Vec<_>>(),
            )
        } else {
            let info: NetworkInfo = serde_json::from_value(value).map_err(json)?;
            let list = info.interfaces.into_iter().map(KubeVirtEntry::plain);
            (Form::KubeVirt, list.collect())
        };
        let list = written.into_iter().map(|entry| entry.checked(path));
        Ok(Self {
            path: path.to_owned(),
            form,
            list: list.collect::<Result<_, _>>()?,
        })
    }

    /// The pod's network of each of the guest's, by the name of the latter.
    ///
    /// Two networks may be of one NetworkAttachmentDefinition. Then the one whose interface has the name that
    /// `interface_of` returns comes first, else they are taken in order.
    pub(crate) fn of_guest(
        &self,
        guest: &GuestSpec,
        interface_of: impl Fn(&Network) -> String,
    ) -> BTreeMap<String, &PodNetwork> {
        let mut taken = BTreeSet::new();
        let mut found = BTreeMap::new();
        for named in [true, false] {
            for interface in &guest.interfaces {
                let network = &interface.network;
                let fits = |entry: &PodNetwork| match named && self.form == Form::Multus {
                    true => entry.interface.as_deref() == Some(&interface_of(network)),
                    false => true,
                };
                let free = self.list.iter().enumerate().find(|(place, entry)| {
                    !taken.contains(place) && self.is_of(entry, network, &guest.namespace) && fits(entry)
                });
                if let Some((place, entry)) = free
                    && !found.contains_key(&network.name)
                {
                    taken.insert(place);
                    found.insert(network.name.clone(), entry);
                }
            }
        }
        found
    }

    fn is_of(&self, entry: &PodNetwork, network: &Network, namespace: &str) -> bool {
        match (self.form, &network.source) {
            (Form::KubeVirt, _) => entry.name == network.name,
            // Its entry has whatever name its CNI configuration has.
            (Form::Multus, NetworkSource::Pod { .. }) => entry.default,
            (Form::Multus, NetworkSource::Multus { default, .. }) if *default != entry.default => false,
            (Form::Multus, NetworkSource::Multus { network_name, .. }) => {
                let full = match network_name.contains('/') {
                    true => network_name.clone(),
                    false => format!("{namespace}/{network_name}"),
                };
                // Before version 3.7 Multus left the namespace out.
                let bare = full.split_once('/').map(|(_, name)| name);
                entry.name == full || bare == Some(entry.name.as_str())
            }
            (Form::Multus, NetworkSource::ResourceClaim(_)) => false,
        }
    }
}

/// A file of at most [`MAX_BYTES`].
fn text(path: &Path) -> Result<String, Error> {
    use std::io::Read;
    let fail = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(MAX_BYTES.saturating_add(1))
        .read_to_string(&mut text)
        .map_err(fail)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(Error::TooLong {
            path: path.to_owned(),
        });
    }
    Ok(text)
}

/// An entry of either form. Fields that are not needed are not read.
struct Written {
    name: String,
    interface: Option<String>,
    mac: Option<String>,
    mtu: Option<u32>,
    device: Option<DeviceInfo>,
    default: bool,
}

impl Written {
    fn checked(self, path: &Path) -> Result<PodNetwork, Error> {
        let fail = |what: String| Error::Entry {
            path: path.to_owned(),
            name: self.name.clone(),
            what,
        };
        let mac = match self.mac.as_deref().filter(|text| !text.is_empty()) {
            None => None,
            // InfiniBand's have 20 octets and are not a NIC's of a guest.
            Some(text) if text.len() > 17 => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|form| fail(format!("mac {}: {form}", quoted(text))))?,
            ),
        };
        let address = self.device.and_then(|device| device.pci?.pci_address);
        let pci = match address.filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => Some(
                text.parse()
                    .map_err(|form| fail(format!("pci-address {}: {form}", quoted(&text))))?,
            ),
        };
        let interface = self.interface.clone().filter(|name| !name.is_empty());
        if let Some(name) = interface
            .as_deref()
            .filter(|name| !names::is_interface_name(name))
        {
            return Err(fail(format!(
                "interface {}: not a valid interface name",
                quoted(name)
            )));
        }
        Ok(PodNetwork {
            name: self.name,
            interface,
            mac,
            mtu: self.mtu.filter(|mtu| *mtu > 0),
            pci,
            default: self.default,
        })
    }
}

#[derive(Deserialize)]
struct NetworkInfo {
    interfaces: Vec<KubeVirtEntry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KubeVirtEntry {
    network: String,
    mac: Option<String>,
    mtu: Option<u32>,
    device_info: Option<DeviceInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct MultusEntry {
    name: String,
    interface: Option<String>,
    mac: Option<String>,
    mtu: Option<u32>,
    device_info: Option<DeviceInfo>,
    #[serde(default)]
    default: bool,
}

/// The part of the Device Information Specification that names the device.
#[derive(Deserialize)]
struct DeviceInfo {
    pci: Option<PciInfo>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PciInfo {
    pci_address: Option<String>,
}

impl KubeVirtEntry {
    fn plain(self) -> Written {
        Written {
            name: self.network,
            interface: None,
            mac: self.mac,
            mtu: self.mtu,
            device: self.device_info,
            default: false,
        }
    }
}

impl MultusEntry {
    fn plain(self) -> Written {
        Written {
            name: self.name,
            interface: self.interface,
            mac: self.mac,
            mtu: self.mtu,
            device: self.device_info,
            default: self.default,
        }
    }
}

#[cfg(test)]
mod tests;
