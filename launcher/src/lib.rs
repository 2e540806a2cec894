//! Hawser: runs a KubeVirt VirtualMachineInstance in a pod with cloud-hypervisor.
//!
//! The line is straight, and `commands::run` is that line as code. `load` and `spec` turn the manifest into a validated
//! guest, `nic` says what each NIC needs from the pod, from the VMM and from DHCP, `survey` looks at everything that the
//! pod has for it (`pod`, `disks`), and `launch` decides what the launcher does. `keeper` splits the process in two; one half
//! wires the pod (`hawser-netsetup`), and in the unprivileged half `guest` serves addresses, starts the VMM and drives the
//! guest's life to an exit code. What was done is then taken back. `migration` moves a guest between two launchers;
//! `control` is how a running launcher is asked.

mod accept;
pub mod cli;
pub mod commands;
mod console;
mod control;
mod daemons;
mod descriptors;
mod devices;
mod disks;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod guest;
mod hooks;
mod keeper;
mod launch;
mod load;
pub mod log;
mod may_migrate;
mod metrics;
mod migration;
mod nic;
mod pod;
mod privileges;
mod queue;
mod state_dir;
mod status;
mod stop_signals;
mod survey;
#[cfg(test)]
mod test_program;
mod vmm;

// The names that these had as modules of this crate.
pub use hawser_manifest as spec;
pub(crate) use hawser_manifest::plugins;

pub use commands::dispatch;
pub use error::{ExitCode, Failure};
