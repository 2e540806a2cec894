//! What runs inside the node.

mod agent;
pub(crate) mod console;
mod context;
pub(crate) mod guest;
pub(crate) mod hang;
pub(crate) mod pace;
pub(crate) mod pod;
pub(crate) mod prepare;
pub(crate) mod sidecar;

pub(crate) use agent::run;
pub(crate) use context::{Lab, PAYLOAD, RESULTS};
