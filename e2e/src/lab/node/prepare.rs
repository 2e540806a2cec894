//! What all scenarios need, done once: the launcher's image, the image that holds a pod's namespaces, a pod network.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::context::{Lab, PAYLOAD};
use crate::lab::process::output;

/// The launcher's image.
pub(crate) const LAUNCHER: &str = "localhost/hawser";
/// The image of the container that holds a pod's namespaces, as a kubelet's pause container does.
pub(crate) const SANDBOX: &str = "localhost/sandbox";
/// The stages of the Containerfile that the machine has prepared.
const STAGES: [&str; 4] = ["build", "vmm", "firmware", "runtime"];
pub(crate) const NETWORK: &str = "pods";
/// The pod network's gateways, which are the node's own addresses there.
pub(crate) const NODE_IPV4: &str = "10.90.0.1";
pub(crate) const NODE_IPV6: &str = "fd90::1";
/// The guest's kernel and initramfs, on the node's own disk.
pub(crate) const GUEST_IMAGE: &str = "/var/lib/lab/guest";

/// What the image is made of, on the node's own disk: a directory for each stage, with that stage's `out`.
pub(crate) const STAGED: &str = "/var/lib/lab/stages";
/// Sidecars of binding plugins.
pub(crate) const SIDECARS: &str = "/var/lib/lab/sidecars";

pub(crate) fn podman() -> Command {
    let mut command = Command::new("podman");
    // Neither systemd nor journald runs here.
    command.args([
        "--cgroup-manager=cgroupfs",
        "--events-backend=none",
        "--log-level=error",
    ]);
    command
}

pub(crate) fn prepare(lab: &Lab) -> Result<()> {
    fs::create_dir_all("/var/lib/lab")?;
    for files in ["guest", "sidecars"] {
        output(Command::new("cp").args(["-r", &format!("{PAYLOAD}/{files}"), "/var/lib/lab/"]))?;
    }

    lab.step("building the launcher's image from the Containerfile");
    build_launcher().context("cannot build the launcher's image")?;

    lab.step("making the pod network");
    import_sandbox().context("cannot make the sandbox image")?;
    output(
        podman()
            .args(["network", "create", "--ipv6"])
            .args(["--subnet", "10.90.0.0/24", "--gateway", NODE_IPV4])
            .args(["--subnet", "fd90::/64", "--gateway", NODE_IPV6, NETWORK]),
    )?;
    Ok(())
}

/// From the Containerfile's final stage, with the stages that need the Internet replaced by what the machine prepared.
fn build_launcher() -> Result<()> {
    let stages = Path::new(STAGED);
    fs::create_dir_all(stages)?;
    for stage in STAGES {
        output(
            Command::new("cp")
                .arg("-a")
                .arg(Path::new(PAYLOAD).join(stage))
                .arg(stages),
        )?;
    }
    // As in the build stage. Done here because the shared directory keeps no capabilities.
    output(
        Command::new("setcap")
            .arg("cap_net_admin+p")
            .arg(stages.join("build/out/usr/bin/hawser")),
    )?;
    let mut build = podman();
    build.args(["build", "--quiet", "--network=none", "--tag", LAUNCHER]);
    for stage in STAGES {
        build.arg(format!(
            "--build-context={stage}={}",
            stages.join(stage).display()
        ));
    }
    // A context of nothing: what the final stage uses comes from the stages.
    let context = Path::new("/var/lib/lab/context");
    fs::create_dir_all(context)?;
    output(
        build
            .arg("--file")
            .arg(Path::new(PAYLOAD).join("Containerfile"))
            .arg(context),
    )?;
    Ok(())
}

fn import_sandbox() -> Result<()> {
    let dir = Path::new("/var/lib/lab/sandbox");
    fs::create_dir_all(dir.join("bin"))?;
    fs::copy("/usr/bin/busybox", dir.join("bin/sleep"))?;
    let archive = "/var/lib/lab/sandbox.tar";
    output(Command::new("tar").args(["-C", "/var/lib/lab/sandbox", "-cf", archive, "."]))?;
    // For `podman kube play`, which names no command for it.
    let sleep = r#"CMD ["/bin/sleep", "infinity"]"#;
    output(podman().args(["import", "--quiet", "--change", sleep, archive, SANDBOX]))?;
    Ok(())
}
