//! passt's seccomp profile on the node, from where the runtime reads it for pods that name it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Writes `text` unless it is there. A runtime that reads at this moment finds the old file or the new one, whole.
pub(crate) fn install(path: &Path, text: &str) -> io::Result<bool> {
    if fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(false);
    }
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(directory)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_written_whole_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hawser/passt.json");
        assert!(install(&path, "{}").unwrap());
        assert!(!install(&path, "{}").unwrap());
        assert!(install(&path, crate::PASST_PROFILE).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), crate::PASST_PROFILE);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
