//! What runs inside the node.

mod agent;
pub(crate) mod console;
pub(crate) mod guest;
pub(crate) mod pace;
pub(crate) mod pod;
pub(crate) mod prepare;
pub(crate) mod sidecar;

pub(crate) use agent::{Lab, PAYLOAD, RESULTS, run};
