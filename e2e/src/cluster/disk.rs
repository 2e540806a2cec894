//! The second disk of a cluster's node: the programs that run there, the client's image, and room for what they store.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::go::Programs;
use super::image;
use crate::lab::cache::Cache;
use crate::lab::node_image::NodeImage;
use crate::lab::process::{output, progress};
use crate::programs;

const PROGRAMS: &[&str] = &[
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "kubelet",
    "kube-proxy",
];
/// Sparse: what it takes is what is in it. The node's writes go elsewhere (`-snapshot`).
const SIZE: &str = "8G";

pub(super) fn get(cache: &Cache, node: &NodeImage, go: &Programs) -> Result<PathBuf> {
    let paths = PROGRAMS
        .iter()
        .map(|program| go.path(program))
        .collect::<Result<Vec<_>>>()?;
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let mut recipe: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
    // The last raised when the code below or that of the image makes something else.
    recipe.extend([
        node.key(),
        image::CLIENT.as_bytes(),
        SIZE.as_bytes(),
        b"cluster disk 1",
    ]);
    let dir = cache.entry("cluster-disk", &recipe, |dir| {
        progress("making the disk of the cluster's nodes");
        let root = dir.join("root");
        for below in ["bin", "images"] {
            fs::create_dir_all(root.join(below))?;
        }
        for (program, path) in PROGRAMS.iter().zip(&paths) {
            programs::copy(path, &root.join("bin").join(program))?;
        }
        let scratch = dir.join("scratch");
        fs::create_dir(&scratch)?;
        let busybox = node.root().join("usr/bin/busybox");
        image::client(&busybox, &scratch, &root.join("images/client.tar"))?;

        let disk = dir.join("disk.img");
        output(Command::new("truncate").args(["-s", SIZE]).arg(&disk))?;
        // -d fills the file system without mounting it. Nobody reads this one again, so nobody needs its journal.
        output(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-O", "^has_journal", "-d"])
                .arg(&root)
                .arg(&disk),
        )?;
        for made in [root, scratch] {
            fs::remove_dir_all(made)?;
        }
        Ok(())
    })?;
    Ok(dir.join("disk.img"))
}
