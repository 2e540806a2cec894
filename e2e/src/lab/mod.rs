//! The lab: real guests under real cloud-hypervisor, in pods, on any machine.
//!
//! Real guests need a KVM that runs ordinary kernels, and pods need a machine that may run containers. Neither can be
//! taken for granted, so both are had in a *node*: a QEMU machine under software emulation, made from Debian packages
//! (`node_image`, `qemu`), that is booted once for all scenarios. It runs this same binary as its agent (`node`), which
//! builds the launcher's image from the Containerfile, runs the scenarios (`scenarios`) and reports each as an event
//! (`events`); `nodes` watches from outside, with a deadline for every event, and
//! boots another for what a lost one still owed (`owed`).
//!
//! The node is used even where the machine's own KVM would do: the scenarios change forwarding, load modules and fill
//! a container store, which is nobody's business to do on the machine itself.

mod build;
pub(crate) mod cache;
mod cpio;
mod debian;
mod debian_guest;
mod disk_image;
mod events;
mod firmware;
mod guest_image;
pub(crate) mod memory;
pub(crate) mod node;
pub(crate) mod node_image;
mod nodes;
mod owed;
pub(crate) mod payload;
pub(crate) mod process;
pub(crate) mod qemu;
mod run;
mod scenarios;
pub(crate) mod vmm;

pub(crate) use build::{LauncherBinary, launcher};
pub(crate) use run::{Set, bench, bench_migration, demo, run, setup, shell, why_no_real_guests};
pub(crate) use scenarios::datapath::Order;

/// The name of the lab's scenarios as a group, in reports.
const GROUP: &str = "lab";
