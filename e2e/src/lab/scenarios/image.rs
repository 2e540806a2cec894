//! The launcher's image, as the Containerfile makes it.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::lab::node::Lab;
use crate::lab::node::prepare::{LAUNCHER, podman};
use crate::lab::process::output;

/// Everything included. The launcher is the largest part.
const SIZE_LIMIT: u64 = 60 << 20;

pub(super) fn is_complete_and_small(_lab: &Lab) -> Result<()> {
    // Each starts as the user that guests run as, so every library is there and readable.
    for program in ["hawser", "cloud-hypervisor", "nft", "passt", "virtiofsd"] {
        let argument = if program == "hawser" {
            "version"
        } else {
            "--version"
        };
        let said = output(
            podman()
                .args([
                    "run",
                    "--rm",
                    "--network=none",
                    "--user=107:107",
                    "--cap-drop=all",
                    "--read-only",
                ])
                .args(["--entrypoint", &format!("/usr/bin/{program}"), LAUNCHER, argument]),
        )
        .with_context(|| format!("{program} does not start in the image"))?;
        ensure!(
            program != "hawser" || (said.contains("virtiofsd ") && !said.contains("not found")),
            "hawser version does not say what is in the image: {said}"
        );
    }

    let size = output(podman().args(["image", "inspect", "--format", "{{.Size}}", LAUNCHER]))?;
    let size: u64 = size.trim().parse()?;
    ensure!(
        size <= SIZE_LIMIT,
        "the image has {} MiB, more than {}",
        size >> 20,
        SIZE_LIMIT >> 20
    );

    let root = output(podman().args(["image", "mount", LAUNCHER]))?;
    let capability = output(Command::new("getcap").arg(Path::new(root.trim()).join("usr/bin/hawser")));
    let packages = packages_are_recorded(Path::new(root.trim()));
    output(podman().args(["image", "unmount", LAUNCHER]))?;
    packages?;
    let capability = capability?;
    ensure!(
        capability.contains("cap_net_admin=p"),
        "the launcher's file capability is lost: {capability:?}"
    );
    Ok(())
}

/// Where scanners of images look: an entry with the installed version, and the licence.
fn packages_are_recorded(root: &Path) -> Result<()> {
    for package in ["nftables", "passt", "virtiofsd", "libc6", "libgcc-s1"] {
        let entry = root.join("var/lib/dpkg/status.d").join(package);
        let entry = fs::read_to_string(&entry).with_context(|| format!("no {}", entry.display()))?;
        let installed = output(Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]))?;
        ensure!(
            entry.contains(&format!("\nVersion: {}\n", installed.trim())),
            "the image's record of {package} has another version than the node's {installed}: {entry}"
        );
        let terms = root.join("usr/share/doc").join(package).join("copyright");
        ensure!(terms.is_file(), "the image lacks {}", terms.display());
    }
    Ok(())
}
