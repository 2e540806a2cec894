//! A device plugin of the kubelet: it offers a node's /dev/kvm, /dev/net/tun, /dev/vhost-net and /dev/vfio/vfio to pods.
//!
//! These devices can be shared by any number of processes. So each of them is a resource of many interchangeable devices, all
//! of which are the same node; a pod asks for one.
//!
//! Nothing here is remembered. What the kubelet, this process and the node's administrator do shows in two directories: the
//! kubelet's one of device plugins, and /dev. Something changes there (`watch`), everything is looked at again, and
//! `registration` says what is to be done next: a kubelet that has restarted, a socket that was removed and a module that was
//! loaded late are the same case. `plugin` does it for one resource, `server` answers the kubelet, and `kubelet` calls it.
//! `handout` decides which node a container is given.

mod error;
mod handout;
mod kubelet;
mod node;
mod node_copies;
mod offer;
mod plugin;
mod profile;
mod registration;
mod resource;
mod run;
mod server;
mod watch;

// What tonic and prost make of the file is theirs to lint.
#[allow(clippy::all, unreachable_pub, missing_debug_implementations)]
pub mod v1beta1 {
    tonic::include_proto!("v1beta1");
}

pub use error::Error;
pub use kubelet::{Connection, connect};
pub use resource::{Resource, UnknownResource};
pub use run::{Config, run};

/// Of the protocol, as a plugin names it when it registers.
pub const VERSION: &str = "v1beta1";
/// The kubelet's socket in its directory of device plugins.
pub const KUBELET_SOCKET: &str = "kubelet.sock";
/// passt's seccomp profile, as it is put on the node.
pub const PASST_PROFILE: &str = include_str!("../../../images/kubernetes/passt-seccomp.json");
