//! Names that nobody can guess.

use std::io;

use tokio_rustls::rustls::crypto::ring;

/// An unguessable name for a migration.
pub(crate) fn fresh_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    ring::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| io::Error::other("the system has no randomness"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
