//! Programs by name, and what they say of themselves.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Far more than a version takes.
const MAX_OUTPUT: usize = 4096;
/// Programs answer in milliseconds.
const TIMEOUT_MS: u16 = 10_000;

/// The executable file of a program: the first of that name on PATH, or the path itself, without a link in it, where
/// `program` has more than one component.
pub fn find(program: &Path) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.components().count() > 1 {
        return fs::canonicalize(program).ok().filter(executable);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(executable)
}

/// What `program --version` prints. passt ends without flushing what it wrote to a pipe (seen in 2025_05_03), so the output
/// has to look like a terminal.
///
/// # Errors
/// Those of starting it.
pub fn version_of(program: &Path) -> io::Result<String> {
    let terminal = nix::pty::openpty(None, None)?;
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(terminal.slave)
        .stderr(Stdio::null())
        .spawn()?;
    let mut output = File::from(terminal.master);
    let mut text = Vec::new();
    let mut chunk = [0; 512];
    while text.len() < MAX_OUTPUT {
        let mut waited = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waited, PollTimeout::from(TIMEOUT_MS))? == 0 {
            let _ = child.kill();
            break;
        }
        match output.read(&mut chunk) {
            // A terminal whose other end is closed fails with EIO.
            Ok(0) | Err(_) => break,
            Ok(read) => text.extend_from_slice(chunk.get(..read).unwrap_or_default()),
        }
    }
    let end = std::time::Instant::now() + std::time::Duration::from_millis(TIMEOUT_MS.into());
    if crate::converse::end(&mut child, end).is_err() {
        let _ = child.kill();
        child.wait()?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_on_path_and_a_path_is_taken_as_it_is() {
        let shell = find(Path::new("sh")).unwrap();
        assert!(shell.is_absolute() && shell.ends_with("sh"));
        assert!(find(Path::new("/bin/sh")).is_some());
        assert_eq!(find(Path::new("no-such-program-anywhere")), None);
        assert_eq!(find(Path::new("/etc/passwd")), None, "not executable");
    }
}
