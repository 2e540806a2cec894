//! cloud-hypervisor: its configuration (pure), its API, its event stream and its process.

pub(crate) mod api;
pub(crate) mod config;
mod descriptors;
pub(crate) mod events;
pub(crate) mod log;
pub(crate) mod process;
pub(crate) mod threads;
