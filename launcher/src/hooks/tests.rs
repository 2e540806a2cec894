//! Sidecars that are as they should be, and others: doubles in this process, on real sockets.

mod doubles;
mod rules;
mod session;
