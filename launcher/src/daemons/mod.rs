//! The programs that serve the guest beside the VMM, each a process that the unprivileged half starts: passt behind a
//! NIC, virtiofsd behind a shared file system. The VMM reaches them over vhost-user.
//!
//! What they share: their standard error goes into the log (`output`), and one that exits is started again, a bounded
//! number of times (`restarts`).

mod output;
pub(crate) mod passt;
pub(crate) mod restarts;
pub(crate) mod virtiofsd;
