//! cloud-hypervisor's client: its API, its event stream, its process and its log, and what is assumed of the program
//! beyond its documented interface. Knows nothing of manifests, pods or the launcher.

pub mod api;
pub mod assumptions;
pub mod events;
mod fd_stream;
#[doc(hidden)]
pub mod fuzzing;
pub mod log;
pub mod process;
pub mod threads;
pub mod vcpus;
