//! Hawser: runs a KubeVirt VirtualMachineInstance in a pod with cloud-hypervisor.
//!
//! The line is straight; `run` is that line as code. `spec` turns the manifest into a validated guest, `binding`
//! says what each NIC wants from the pod, from the VMM and from DHCP, `disks` finds its disks, `hawser-netsetup` compares that with the
//! namespace and wires it, `keeper` splits the process in two, and in the unprivileged half `supervisor` serves
//! addresses, starts the VMM and drives its `lifecycle` to an exit code. What was done is then taken back. A guest may
//! come from another launcher or go to one (`migration`); `control` is how a running launcher is asked.

mod beneath;
mod binding;
pub mod cli;
pub mod commands;
mod control;

mod devices;
mod disks;
mod error;
mod hooks;

mod keeper;
mod launch;
mod lifecycle;
mod load;
mod migration;
mod passt;

mod plugins;
mod pod;
mod privileges;

pub mod spec;
mod state_dir;
mod supervisor;
mod survey;

mod vhost_relay;
mod virtiofs;
mod vmm;

pub use commands::dispatch;
pub use error::{ExitCode, Failure};
