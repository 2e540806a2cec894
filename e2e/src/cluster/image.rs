//! Container images as docker archives of one layer, made of directories: what `ctr images import` reads.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::lab::cache::hex;
use crate::lab::process::output;

/// The images of the scenarios, by the names that pods give. Not `latest`: what is called so is pulled each time.
pub(super) const LAUNCHER: &str = "localhost/hawser:test";
pub(super) const GUEST: &str = "localhost/guest:test";
/// Busybox, for what a pod does that is no guest; and, asleep, what holds a pod's namespaces.
pub(super) const CLIENT: &str = "localhost/client:test";

/// `CAP_NET_ADMIN`, permitted and not effective, as an extended attribute has it (capabilities(7), `struct vfs_cap_data`,
/// revision 2): the binary has to start where the pod gives none.
const NET_ADMIN_PERMITTED: [u8; 20] = [0, 0, 0, 2, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// hawser's image, of the stages of the Containerfile as the lab's payload has them.
pub(super) fn launcher(payload: &Path, archive: &Path) -> Result<()> {
    let stages = ["runtime", "vmm", "firmware", "build"].map(|stage| payload.join(stage).join("out"));
    let config = json!({"Env": ["PATH=/usr/bin"], "Entrypoint": ["/usr/bin/hawser"], "Cmd": ["run"]});
    write(archive, LAUNCHER, config, &stages)
}

/// The guest's kernel and initramfs, as `kernelBoot.container` names them.
pub(super) fn guest(payload: &Path, archive: &Path) -> Result<()> {
    write(archive, GUEST, json!({}), &[payload.join("guest")])
}

/// `scratch` is a directory to make it in.
pub(super) fn client(busybox: &Path, scratch: &Path, archive: &Path) -> Result<()> {
    let root = scratch.join("client");
    let bin = root.join("bin");
    fs::create_dir_all(&bin)?;
    let tmp = root.join("tmp");
    fs::create_dir(&tmp)?;
    fs::set_permissions(&tmp, Permissions::from_mode(0o1777))?;
    fs::copy(busybox, bin.join("busybox"))?;
    for applet in output(Command::new(busybox).arg("--list"))?.lines() {
        if applet != "busybox" {
            std::os::unix::fs::symlink("busybox", bin.join(applet))?;
        }
    }
    let config = json!({"Env": ["PATH=/bin"], "Entrypoint": ["/bin/sleep", "infinity"]});
    write(archive, CLIENT, config, &[root])
}

fn write(archive: &Path, name: &str, config: Value, roots: &[PathBuf]) -> Result<()> {
    let mut layer = Layer {
        tar: Builder::new(Vec::new()),
        directories: BTreeSet::new(),
    };
    for root in roots {
        layer
            .add(root, Path::new(""))
            .with_context(|| format!("{} in the image {name}", root.display()))?;
    }
    let layer = layer.tar.into_inner()?;
    let digest = hex(&Sha256::digest(&layer));
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    }))?;
    let layer_file = format!("{digest}.tar");
    let config_file = format!("{}.json", hex(&Sha256::digest(&config)));
    let manifest = json!([{"Config": config_file, "RepoTags": [name], "Layers": [layer_file]}]);

    let mut tar = Builder::new(File::create(archive)?);
    for (path, content) in [
        (config_file.as_str(), config.as_slice()),
        (&layer_file, &layer),
        ("manifest.json", &serde_json::to_vec(&manifest)?),
    ] {
        let mut header = header(EntryType::Regular, 0o644, content.len() as u64);
        tar.append_data(&mut header, path, content)?;
    }
    tar.into_inner()?.flush()?;
    Ok(())
}

struct Layer {
    tar: Builder<Vec<u8>>,
    directories: BTreeSet<PathBuf>,
}

impl Layer {
    /// What is in `root`/`below`, as root's, without times.
    fn add(&mut self, root: &Path, below: &Path) -> Result<()> {
        let mut entries: Vec<_> = fs::read_dir(root.join(below))?.collect::<io::Result<_>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let metadata = entry.metadata()?;
            let permissions = metadata.permissions().mode() & 0o7777;
            let path = below.join(entry.file_name());
            if metadata.is_dir() {
                if self.directories.insert(path.clone()) {
                    let mut header = header(EntryType::Directory, permissions, 0);
                    self.tar.append_data(&mut header, &path, io::empty())?;
                }
                self.add(root, &path)?;
            } else if metadata.is_symlink() {
                let mut header = header(EntryType::Symlink, 0o777, 0);
                self.tar
                    .append_link(&mut header, &path, fs::read_link(entry.path())?)?;
            } else {
                if path == Path::new("usr/bin/hawser") {
                    self.tar.append_pax_extensions([(
                        "SCHILY.xattr.security.capability",
                        NET_ADMIN_PERMITTED.as_slice(),
                    )])?;
                }
                let mut header = header(EntryType::Regular, permissions, metadata.len());
                self.tar
                    .append_data(&mut header, &path, File::open(entry.path())?)?;
            }
        }
        Ok(())
    }
}

fn header(kind: EntryType, permissions: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(permissions);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_the_same_each_time_and_hawser_has_its_capability() {
        let dir = tempfile::tempdir().unwrap();
        for (stage, file) in [
            ("build", "usr/bin/hawser"),
            ("vmm", "usr/bin/vmm"),
            ("runtime", "etc/passwd"),
            ("firmware", "usr/share/f"),
        ] {
            let path = dir.path().join(stage).join("out").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, stage).unwrap();
        }
        let archives = ["a.tar", "b.tar"].map(|name| dir.path().join(name));
        for archive in &archives {
            launcher(dir.path(), archive).unwrap();
        }
        let [first, second] = archives.map(|archive| fs::read(archive).unwrap());
        assert_eq!(first, second);

        let mut files = Vec::new();
        let mut outer = tar::Archive::new(first.as_slice());
        for entry in outer.entries().unwrap() {
            let entry = entry.unwrap();
            if entry.path().unwrap().extension() != Some("tar".as_ref()) {
                continue;
            }
            for inner in tar::Archive::new(entry).entries().unwrap() {
                let mut inner = inner.unwrap();
                let path = inner.path().unwrap().into_owned();
                let capable = inner.pax_extensions().unwrap().is_some_and(|extensions| {
                    extensions
                        .filter_map(Result::ok)
                        .any(|extension| extension.value_bytes() == NET_ADMIN_PERMITTED)
                });
                assert_eq!(capable, path == Path::new("usr/bin/hawser"), "{}", path.display());
                files.push(path);
            }
        }
        let usr = files.iter().filter(|path| *path == Path::new("usr/bin")).count();
        assert_eq!(usr, 1, "{files:?}");
        assert!(files.contains(&PathBuf::from("usr/bin/vmm")));
    }
}
