//! Live migration: two launchers, one guest, never two of it.
//!
//! The source's [`source`] and the target's [`target`] are pure machines; [`outgoing`] and [`incoming`] perform what
//! they decide. Prepare: the target compares everything ([`describe`]) and refuses with every reason, or has its VMM
//! listen. Copy: the content of the disks that are the pod's own goes along ([`disk_copy`]). Detach: the guest lets go of its VFs ([`vf_hotplug`]), which it gets at the target again. Transfer: the VMMs talk, through a [`relay`] on each side. Hold: the target's VMM has all of the guest, and
//! its last instruction is held back. Fence: the source stops its VMM and notes that the guest is given away. Commit:
//! the source says so, and only then may the target run it. docs/migration.md draws it.
//!
//! Anybody may come to the target's [`port`]; [`tls`] knows whom to let in, and [`said`] makes what they say fit for a log.

mod arrival;
mod bandwidth;
mod channel;
mod channels;
mod comparison;
mod convergence;
pub(crate) mod describe;
mod descriptors;
mod disk_copy;
mod disks;
mod fence;
mod fresh_id;
mod incoming;
mod link;
mod listen;
pub(crate) mod message;
mod outgoing;
mod pipe;
mod port;
mod rejections;
mod relay;
mod report;
pub(crate) mod said;
mod session_certs;
mod shared;
pub(crate) mod source;
mod strangers;
pub(crate) mod target;
mod tls;
mod vf_hotplug;
mod vmm_socket;
mod vmm_watchdog;

pub(crate) use crate::status::{Identity, NicDescription, VfDescription};
pub(crate) use arrival::Arrival;
pub(crate) use channel::{Address, listen_address};
pub(crate) use describe::Description;
pub(crate) use disks::{MigratingDisk, copied as copied_disks, migrating as migrating_disks};
pub(crate) use incoming::{Incoming, Listener};
pub(crate) use outgoing::{Hands, Outgoing, REBOOTED, in_doubt, lost_there};
pub(crate) use report::Report;
pub(crate) use session_certs::{directory as tls_directory, make_directory as make_tls_directory};
pub(crate) use shared::TokenFile;
pub(crate) use tls::{Security, check, check_name, peer_name};
pub(crate) use vf_hotplug::{Request as VfRequest, VfHotplug, perform as perform_hotplug};
