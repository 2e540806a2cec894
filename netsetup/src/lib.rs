//! Wires a guest's network interfaces inside a pod's own network namespace.
//!
//! The line is straight. [`NetSpec`] says what is wanted; [`observe`] reads the namespace once into [`Observed`];
//! [`Plan::new`] compares the two and yields steps as data, touching nothing; [`apply`] performs them in order
//! and has written down how to take them back before the first of them. Only `kernel` makes system calls, and a
//! plan made again after it was applied is empty: that is how a second start, or one after a kill, converges.

mod addressing;
mod apply;
mod cni;
mod error;
mod guest_nic;
mod journal;
mod kernel;
mod observed;
mod plan;
mod ruleset;
mod spec;
mod step;
mod undo;

pub use hawser_mac::Mac;

pub use addressing::{Assigned, Route};
pub use apply::{Kernel, apply, undo};
pub use cni::{CniDevice, CniNic, CniSpec};
pub use error::{Error, StepFailure, UndoFailure};
pub use guest_nic::{
    Bridged, BridgedV4, BridgedV6, FamilyPlan, GuestNic, Handed, HandedV4, Joined, Masqueraded, Resolver,
    Router6,
};
pub use journal::{Journal, JournalFile};
pub use kernel::{
    Interface, Linux, MacvtapError, Nft, allow_resets, drop_resets, find_routers, interfaces,
    missing_expressions, observe, offload, open_macvtap, open_tap,
};
pub use observed::{Address, Connection, Devconf, Link, Listener, Observed, Sysctl, TapFacts};
pub use plan::Plan;
pub use ruleset::document as ruleset;
pub use spec::{
    GATEWAY_LINK_LOCAL, GATEWAY_MAC, Masquerade, NetSpec, Nic, Owner, Passt, PortRange, Ports, Protocol,
    Wiring, bridge_name, server_tap_name, tap_name,
};
pub use step::{BridgeStep, PortStep, Step, TapStep};
pub use undo::Undo;
