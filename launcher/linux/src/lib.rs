//! What the launcher needs of Linux and std does not offer, each thing once: processes that die with their parent,
//! paths resolved without following links, descriptors over a Unix socket, sockets bound anew, programs on PATH, programs that are given a text and a time, landlock
//! rulesets and seccomp filters, what programs print as lines, the kernel's
//! lists of sockets, pseudoterminals, single threads of a child that are stopped.
//!
//! Knows nothing of guests, pods or VMMs.

pub mod child;
pub mod converse;
pub mod fd_socket;
pub mod landlock;
pub mod lines;
pub mod lossy;
pub mod proc_net;
pub mod programs;
pub mod pty;
pub mod safe_path;
pub mod seccomp;
pub mod stopped;
pub mod unix_socket;
