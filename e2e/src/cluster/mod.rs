//! The cluster: a real Kubernetes on any machine, with the lab's nodes as its nodes.
//!
//! Everything that it is made of comes from where a package manager checks it: Kubernetes, containerd and etcd from their
//! Go modules (`go`), the rest of a node from Debian packages (`crate::lab`). The control plane runs on the machine itself,
//! in a network namespace (`network`, `control_plane`); a node is a QEMU machine with a second card in that namespace and a
//! second disk (`node`, `disk`). hawser's image, the guest's and a client's are made here and imported (`image`).
//!
//! The scenarios (`scenarios`) know `kubectl` and nothing else (`api`): they are the same for any cluster that has the
//! images and the devices.

mod addons;
mod addons_sriov;
mod api;
mod client;
mod control_plane;
mod daemon;
mod disk;
mod elsewhere;
mod go;
mod guest;
mod image;
mod install;
mod kubectl;
mod network;
mod node;
mod operator;
mod pace;
mod pki;
mod run;
mod scenarios;
mod selection;

pub(crate) use elsewhere::Elsewhere;
pub(crate) use run::{images, run, shell};
pub(crate) use selection::{Order, Set};

/// The name of the cluster's scenarios as a group, in reports.
const GROUP: &str = "cluster";
/// The domain of the device plugin's resources: what `hawser pod` asks for by default.
const DEVICES: &str = "devices.kubevirt.io";
/// The device plugin's process on a node.
const DEVICE_PLUGIN: &str = "hawser-device-plugin";
