//! cloud-hypervisor's client, and the VM's configuration that hawser makes for it.

pub(crate) use hawser_vmm::{api, events, log, process, threads, vcpus};

pub(crate) mod config;
