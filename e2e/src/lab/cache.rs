//! What takes long to make and is the same each time: kept outside the working copy, under the hash of its recipe.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

const DEFAULT_ROOT: &str = "/var/cache/hawser";

/// The cache directory, locked: two runs at once would make the same thing twice, and fight for two cores.
#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    _lock: Flock<File>,
}

impl Cache {
    /// Opens `$HAWSER_CACHE`, or the default, waiting for another run to finish.
    pub(crate) fn open() -> Result<Self> {
        let root =
            std::env::var_os("HAWSER_CACHE").map_or_else(|| PathBuf::from(DEFAULT_ROOT), PathBuf::from);
        fs::create_dir_all(&root)
            .with_context(|| format!("cannot make the cache directory {}", root.display()))?;
        let lock = File::create(root.join("lock"))?;
        let lock = match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((lock, _)) => {
                super::process::progress(format!("waiting for another run that uses {}", root.display()));
                Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?
            }
        };
        Ok(Self { root, _lock: lock })
    }

    /// The directory `name` as `make` fills it, made anew only if `recipe` has changed. A run that is interrupted leaves
    /// no entry behind: the directory gets its name when it is complete.
    pub(crate) fn entry(
        &self,
        name: &str,
        recipe: &[&[u8]],
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let entry = self.root.join(format!("{name}-{}", recipe_hash(recipe)));
        if entry.is_dir() {
            return Ok(entry);
        }
        let unfinished = self.root.join(format!("{name}.unfinished"));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        fs::create_dir(&unfinished)?;
        make(&unfinished)?;
        fs::rename(&unfinished, &entry)?;
        Ok(entry)
    }

    /// An empty directory that the next run empties again.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf> {
        let dir = self.root.join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir(&dir)?;
        Ok(dir)
    }
}

fn recipe_hash(recipe: &[&[u8]]) -> String {
    let mut hasher = Sha256::new();
    for part in recipe {
        // With its length, so that moving a byte from one part to the next is a change.
        hasher.update(part.len().to_le_bytes());
        hasher.update(part);
    }
    hex(&hasher.finalize()).chars().take(12).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_knows_where_a_part_ends() {
        assert_ne!(recipe_hash(&[b"ab", b"c"]), recipe_hash(&[b"a", b"bc"]));
        assert_eq!(recipe_hash(&[b"ab"]), recipe_hash(&[b"ab"]));
    }
}
