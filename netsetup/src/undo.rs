//! What takes a step back, and how it reads: the mirror of [`crate::Step`].

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing to take back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "undo")]
pub enum Undo {
    DeleteLink { link: String },
    DeleteTables,
    Ipv4Forwarding { link: String, value: bool },
    Sysctl { path: String, value: String },
}

impl Undo {
    /// Whether both speak of the same object.
    pub(crate) fn same_object(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::DeleteLink { link: a }, Self::DeleteLink { link: b }) => a == b,
            (Self::DeleteTables, Self::DeleteTables) => true,
            (Self::Ipv4Forwarding { link: a, .. }, Self::Ipv4Forwarding { link: b, .. }) => a == b,
            (Self::Sysctl { path: a, .. }, Self::Sysctl { path: b, .. }) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteLink { link } => write!(f, "delete the interface {link}"),
            Self::DeleteTables => f.write_str("delete the nftables tables inet hawser and netdev hawser"),
            Self::Ipv4Forwarding { link, value } => {
                write!(f, "set IPv4 forwarding on {link} back to {}", u8::from(*value))
            }
            Self::Sysctl { path, value } => write!(f, "set {path} back to {value}"),
        }
    }
}
