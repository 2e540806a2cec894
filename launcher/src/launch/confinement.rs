//! What the VMM may reach of the pod: the landlock ruleset around its process, from its first instruction on.
//!
//! cloud-hypervisor has a landlock of its own, as part of the VM's configuration (`landlock_rules`). It does not stand for
//! this one. It holds for the thread that creates the VM and for those that this one starts, and the main thread and
//! those of the API and of the events, with the same memory, stay without. And in a live migration the configuration comes
//! with the guest: a source that a guest has taken over would decide what the target's VMM may open.
//!
//! So this is made of this pod's own plan, for a guest that boots here and for one that comes here alike.

use std::path::Path;

use hawser_linux::landlock::Allowed;

use super::Parts;
use crate::devices::vsock;
use crate::disks::Drive;
use crate::migration;
use crate::pod::boot_source::Boot;
use crate::pod::pci::Access;
use crate::privileges;
use crate::spec::pod_ports;

impl Parts<'_> {
    /// `program` is the VMM's.
    pub(crate) fn vmm_may(&self, program: &Path) -> Allowed {
        let mut allowed = Allowed::program(program)
            .write(privileges::KVM)
            // Of the guest's random number generator.
            .read("/dev/urandom")
            // The C library asks how many CPUs there are, and on arm64 the VMM for their caches.
            .read("/sys/devices/system/cpu")
            .read(migration::tls_directory(self.directory))
            .tcp_port(pod_ports::MIGRATION_RELAY);
        if self.opens_taps() {
            allowed = allowed.write(privileges::TUN);
            for place in super::vm_config::TAP_FLAGS {
                allowed = allowed.read(place);
            }
        }
        // A VF that is plugged again after a migration is one of the plan's too.
        for node in &self.functions.nodes {
            allowed = allowed.write(node);
        }
        if self.functions.access == Access::Iommufd {
            allowed = allowed.read("/sys/devices");
        }
        if self.guest.vsock.is_some() {
            allowed = allowed.sockets(vsock::place(self.directory));
        }
        allowed = match self.boot {
            Boot::Kernel(files) => {
                let files = [Some(&files.kernel), files.initrd.as_ref()];
                files.into_iter().flatten().fold(allowed, Allowed::read)
            }
            Boot::Firmware(firmware) => allowed.read(firmware),
        };
        self.drives.iter().fold(allowed, disk)
    }
}

fn disk(allowed: Allowed, drive: &Drive) -> Allowed {
    let allowed = match (&drive.make, drive.readonly) {
        (Some(_), true) => allowed.read(&drive.path),
        (Some(_), false) => allowed.write(&drive.path),
        (None, true) => allowed.read_found(&drive.path),
        (None, false) => allowed.write_found(&drive.path),
    };
    drive.base.iter().fold(allowed, Allowed::read_found)
}
