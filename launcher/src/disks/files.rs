//! The files of a volume that the pod mounts: a configMap, a secret, a token, or what the downward API says. The kubelet
//! fills such a directory with links to a hidden one, which it swaps when the content changes.

use std::io::Read;
use std::path::Path;

use nix::fcntl::OFlag;

use super::fat::{Files, MAX_BYTES, MAX_FILES};
use hawser_linux::safe_path::{self, Links, RegularFile};

/// The downward API nests a few directories; a circle of links has no end.
const MAX_DEPTH: usize = 8;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error(transparent)]
    At(#[from] safe_path::Problem),
    #[error("{path}: {source}")]
    In {
        path: String,
        source: safe_path::Problem,
    },
    #[error("more than {MAX_FILES} files")]
    Many,
    #[error("more than {} MiB of files", MAX_BYTES >> 20)]
    Large,
    #[error("directories nested deeper than {MAX_DEPTH}")]
    Deep,
    #[error("none of the keys {0}")]
    NoKey(String),
}

impl Problem {
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::At(problem) if problem.is_missing())
    }
}

/// Every file below `directory`.
pub(crate) fn all(directory: &Path) -> Result<Files, Problem> {
    let mut files = Files::new();
    let mut room = MAX_BYTES;
    let mut open = vec![(String::new(), 0_usize)];
    while let Some((parent, depth)) = open.pop() {
        let names = safe_path::names(directory, &parent).map_err(|source| inside(&parent, source))?;
        for name in names.into_iter().filter(|name| !name.starts_with("..")) {
            let path = if parent.is_empty() {
                name
            } else {
                format!("{parent}/{name}")
            };
            match RegularFile::find(directory, &path, Links::Inside) {
                Ok(file) => {
                    let content = read(&file, &mut room, &path)?;
                    files.insert(path, content);
                    if files.len() > MAX_FILES {
                        return Err(Problem::Many);
                    }
                }
                Err(safe_path::Problem::Directory) if depth < MAX_DEPTH => {
                    open.push((path, depth.saturating_add(1)))
                }
                Err(safe_path::Problem::Directory) => return Err(Problem::Deep),
                Err(source) => return Err(inside(&path, source)),
            }
        }
    }
    Ok(files)
}

/// The content of the first of `keys` that is there.
pub(crate) fn first(directory: &Path, keys: &[&str]) -> Result<Vec<u8>, Problem> {
    // A directory that is not there is another problem than a secret without the key.
    safe_path::names(directory, "")?;
    for key in keys {
        match RegularFile::find(directory, key, Links::Inside) {
            Ok(file) => return read(&file, &mut { MAX_BYTES }, key),
            Err(problem) if problem.is_missing() => {}
            Err(source) => return Err(inside(key, source)),
        }
    }
    Err(Problem::NoKey(keys.join(" and ")))
}

fn read(file: &RegularFile, room: &mut usize, path: &str) -> Result<Vec<u8>, Problem> {
    let mut content = Vec::new();
    let opened = file
        .open(false, OFlag::empty())
        .map_err(|source| inside(path, source))?;
    let most = u64::try_from(*room).unwrap_or(u64::MAX).saturating_add(1);
    opened
        .take(most)
        .read_to_end(&mut content)
        .map_err(|error| inside(path, error.into()))?;
    *room = room.checked_sub(content.len()).ok_or(Problem::Large)?;
    Ok(content)
}

fn inside(path: &str, source: safe_path::Problem) -> Problem {
    if path.is_empty() {
        return Problem::At(source);
    }
    Problem::In {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// As the kubelet lays a volume out.
    fn volume() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let hidden = dir.path().join("..2026_11_24");
        fs::create_dir_all(hidden.join("nested")).unwrap();
        fs::write(hidden.join("user"), "admin").unwrap();
        fs::write(hidden.join("nested/name"), "web").unwrap();
        symlink("..2026_11_24", dir.path().join("..data")).unwrap();
        for name in ["user", "nested"] {
            symlink(format!("..data/{name}"), dir.path().join(name)).unwrap();
        }
        dir
    }

    #[test]
    fn the_keys_as_files() {
        let expected = Files::from([
            ("user".into(), b"admin".to_vec()),
            ("nested/name".into(), b"web".to_vec()),
        ]);
        assert_eq!(all(volume().path()).unwrap(), expected);
        assert_eq!(first(volume().path(), &["userdata", "user"]).unwrap(), b"admin");
    }

    #[test]
    fn what_is_not_there() {
        let dir = volume();
        assert!(all(&dir.path().join("none")).unwrap_err().is_missing());
        assert!(first(&dir.path().join("none"), &["a"]).unwrap_err().is_missing());
        let problem = first(dir.path(), &["a", "b"]).unwrap_err();
        assert!(
            !problem.is_missing() && problem.to_string() == "none of the keys a and b",
            "{problem}"
        );
    }

    #[test]
    fn bounds_and_links_that_lead_out() {
        let dir = volume();
        symlink("/etc/passwd", dir.path().join("out")).unwrap();
        let problem = all(dir.path()).unwrap_err().to_string();
        assert!(problem.starts_with("out: it leads out"), "{problem}");
        fs::remove_file(dir.path().join("out")).unwrap();
        symlink(".", dir.path().join("circle")).unwrap();
        assert!(matches!(all(dir.path()), Err(Problem::Deep)));
        fs::remove_file(dir.path().join("circle")).unwrap();
        fs::write(dir.path().join("big"), vec![0; MAX_BYTES]).unwrap();
        assert!(matches!(all(dir.path()), Err(Problem::Large)));
        fs::remove_file(dir.path().join("big")).unwrap();
        for n in 0..=MAX_FILES {
            fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        assert!(matches!(all(dir.path()), Err(Problem::Many)));
    }
}
