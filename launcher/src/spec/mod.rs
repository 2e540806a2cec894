//! From the manifest as written to a validated [`GuestSpec`].
//!
//! Manifests are read once, before anything in the pod is touched, and every refusal is collected before
//! any is reported.

mod guest;

pub use guest::{
    Binding, CpuTopology, DhcpOptions, GuestSpec, Interface, KernelBoot, LinkState, Mac, Model, Network,
    NetworkSource, PciAddress, PortRange, Ports, Protocol,
};
