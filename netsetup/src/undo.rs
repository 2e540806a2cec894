//! What takes a step back, and how it reads: the mirror of [`crate::Step`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::observed;

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
    /// Whether a plan can have written this down. Names of interfaces are the kernel's to check (dev_valid_name), but for what
    /// would make a path of one.
    pub(crate) fn is_expected(&self) -> bool {
        let name = |link: &str| {
            !link.is_empty()
                && link.len() < nix::libc::IFNAMSIZ
                && link != "."
                && link != ".."
                && !link.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
        };
        match self {
            Self::DeleteLink { link } | Self::Ipv4Forwarding { link, .. } => name(link),
            Self::DeleteTables => true,
            Self::Sysctl { path, value } => {
                let known = match observed::accept_ra_of(path) {
                    Some(link) => name(link),
                    None => observed::SYSCTLS.contains(&path.as_str()),
                };
                let numbers = value.len() <= 24
                    && value
                        .chars()
                        .all(|c| c.is_ascii_digit() || c == '-' || c == '\t' || c == ' ');
                known && numbers
            }
        }
    }

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
