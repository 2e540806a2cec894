//! Live migration: two launchers, one guest, never two of it.
//!
//! The source's [`source`] and the target's [`target`] are pure machines; [`outgoing`] and [`incoming`] perform what
//! they decide. Prepare: the target compares everything ([`describe`]) and refuses with every reason, or has its VMM
//! listen. Detach: the guest lets go of its VFs ([`functions`]), which it gets at the target again. Transfer: the VMMs talk, through a [`relay`] on each side. Hold: the target's VMM has all of the guest, and
//! its last instruction is held back. Fence: the source stops its VMM and notes that the guest is given away. Commit:
//! the source says so, and only then may the target run it. docs/migration.md draws it.

mod channel;
mod describe;
mod disks;
mod fence;
mod functions;
mod incoming;
mod link;
mod message;
mod one_time;
mod outgoing;
mod pipe;
mod relay;
mod source;
mod target;
mod watch;

#[cfg(test)]
mod model;

pub(crate) use channel::{Address, Security, check, listen_address};
pub(crate) use describe::{Description, Identity, NicDescription, VfDescription};
pub(crate) use disks::{describe as describe_disks, readonly as readonly_disks};
pub(crate) use functions::{Functions, Request as FunctionRequest, perform};
pub(crate) use incoming::{Arrival, End, Incoming, Listener};
pub(crate) use one_time::{directory as tls_directory, make_directory as make_tls_directory};
pub(crate) use outgoing::{Hands, Outgoing, REBOOTS, Told};
pub(crate) use source::Event as SourceEvent;
pub(crate) use target::Event as TargetEvent;
