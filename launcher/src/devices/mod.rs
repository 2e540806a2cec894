//! What the guest has besides NICs and disks: devices of the node's by VFIO, shared file systems, and a virtio socket.
//!
//! `vsock` is the place of the socket; file systems have a process behind each (`daemons::virtiofsd`). What is asked
//! about them is answered here, from the manifest alone.

mod explain;
pub(crate) mod vsock;

pub(crate) use explain::{Explanation, explain, obstacles, text as explanation_text};
