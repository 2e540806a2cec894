//! Options that several verbs have.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::error::{ExitCode, Failure};
use crate::launch::HookOptions;
use crate::load;
use crate::pod::networks::CLAIMS;
use crate::pod::places::Places;
use crate::spec::Loaded;

/// What says how the guest is to be.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// The VirtualMachineInstance manifest, YAML or JSON; - for standard input. Without it, hawser reads the manifest as JSON
    /// from the environment variable STANDALONE_VMI.
    #[arg(long, value_name = "FILE")]
    pub vmi: Option<PathBuf>,
    /// The binding plugins that the manifest names, YAML or JSON, in the form of KubeVirt's configuration.network.binding.
    /// A whole KubeVirt object is accepted too.
    #[arg(long, value_name = "FILE")]
    pub bindings: Option<PathBuf>,
    /// Volume of the manifest, a claim, that every pod has which this guest may migrate to (ReadWriteMany). The guest can then
    /// migrate although it writes its disk. Both launchers need this option, and prove to each other that it is true. The disk
    /// leaves out the node's page cache, as with cache: none. May be repeated.
    #[arg(long = "shared", value_name = "NAME")]
    pub shared: Vec<String>,
}

impl ManifestArgs {
    /// Whether there is one, named or in the environment.
    pub(super) fn is_given(&self) -> bool {
        self.vmi.is_some() || std::env::var_os(load::VARIABLE).is_some()
    }

    pub(super) fn load(&self) -> Result<Loaded, Failure> {
        let loaded = self.load_for_a_pod()?;
        load::note_of_the_pod(&loaded);
        Ok(loaded)
    }

    /// For the pod that will have what the manifest asks of it.
    pub(super) fn load_for_a_pod(&self) -> Result<Loaded, Failure> {
        let mut loaded = load::manifest(self.vmi.as_deref(), self.bindings.as_deref())?;
        loaded.spec.share(&self.shared).map_err(|why| {
            Failure::new(ExitCode::Usage, format!("--shared {why}"))
                .remedy("name a volume of the manifest that is a claim, and whose disk the guest writes")
        })?;
        Ok(loaded)
    }
}

/// What the verbs that look at the whole pod have in common.
#[derive(Debug, Args)]
pub struct PodArgs {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// State directory: sockets, the journal of the wiring, and the log of the guest's console.
    #[arg(long, value_name = "DIR", default_value = "/run/hawser")]
    pub state_dir: PathBuf,
    /// Directory where the pod mounts an image that the manifest names. NAME is the volume's name for a containerDisk, and
    /// kernel-boot for the image of kernelBoot. By default images/NAME below the state directory.
    #[arg(long = "image", value_name = "NAME=DIR", value_parser = named_dir)]
    pub images: Vec<(String, PathBuf)>,
    /// Where the pod has a volume that the manifest names: a mounted directory, or the block device of a claim. By default
    /// volumes/NAME below the state directory.
    #[arg(long = "volume", value_name = "NAME=PATH", value_parser = named_dir)]
    pub volumes: Vec<(String, PathBuf)>,
    /// UEFI firmware for guests that boot from a disk.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/usr/share/cloudhv-efi-x86-64/CLOUDHV.fd"
    )]
    pub firmware: PathBuf,
    /// Directory that the sidecars of binding plugins share with hawser; each sidecar listens there on NAME.sock. By default
    /// hooks below the state directory.
    #[arg(long, value_name = "DIR")]
    pub hooks_dir: Option<PathBuf>,
    /// Time that the sidecars of binding plugins have to start.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub hooks_timeout: u64,
    /// Numeric user ID of the guest's processes, where hawser itself runs as root.
    #[arg(long, value_name = "UID", default_value_t = DEFAULT_UID, value_parser = clap::value_parser!(u32).range(1..))]
    pub uid: u32,
    /// The cloud-hypervisor program: a path, or a name to look up on PATH.
    #[arg(
        long,
        value_name = "PATH",
        env = "CLOUD_HYPERVISOR",
        default_value = "cloud-hypervisor"
    )]
    pub cloud_hypervisor: PathBuf,
    #[command(flatten)]
    pub devices: DeviceArgs,
}

/// The user that KubeVirt runs guests as.
pub(super) const DEFAULT_UID: u32 = 107;

/// Where the pod says which networks and devices it has.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// File with the pod's annotation kubevirt.io/network-info or k8s.v1.cni.cncf.io/network-status, mounted by the downward
    /// API. By default /etc/podinfo/network-info, if that exists.
    #[arg(long, value_name = "FILE")]
    pub network_status: Option<PathBuf>,
    /// Directory with the metadata of claimed devices (Dynamic Resource Allocation).
    #[arg(long, value_name = "DIR", default_value = CLAIMS)]
    pub device_metadata: PathBuf,
}

impl PodArgs {
    pub(crate) fn places(&self) -> Places {
        Places {
            state_dir: absolute(&self.state_dir),
            images: self.images.clone(),
            volumes: self.volumes.clone(),
            firmware: self.firmware.clone(),
            hooks_dir: self.hooks_dir.clone(),
            network_status: self.devices.network_status.clone(),
            device_metadata: self.devices.device_metadata.clone(),
            cloud_hypervisor: self.cloud_hypervisor.clone(),
        }
    }
}

impl PodArgs {
    pub(super) fn hooks(&self, vmi: serde_json::Value) -> HookOptions {
        HookOptions {
            timeout: Duration::from_secs(self.hooks_timeout),
            vmi,
        }
    }
}

/// Paths below it are told to the VMM, which has / as its directory.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn named_dir(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => Ok((name.to_owned(), PathBuf::from(dir))),
        _ => Err("expected NAME=PATH".to_owned()),
    }
}

/// State directory of a launcher that is running or has ended.
#[derive(Debug, Args)]
pub struct StateDirArgs {
    /// State directory of the running launcher.
    #[arg(long, value_name = "DIR", default_value = "/run/hawser")]
    pub state_dir: PathBuf,
}

/// Who may send or receive a guest.
#[derive(Debug, Args)]
pub struct SecurityArgs {
    /// Directory with the certificates of live migration: ca-cert.pem; client-cert.pem and client-key.pem at the source;
    /// server-cert.pem and server-key.pem at the target. Read again for each connection.
    #[arg(long, value_name = "DIR")]
    pub tls_dir: Option<PathBuf>,
    /// Migrate without certificates and encryption. Whoever reaches the port can then take or plant a guest, and whoever
    /// sees the network can read its memory.
    #[arg(long, conflicts_with = "tls_dir")]
    pub insecure_plain_tcp: bool,
}

impl SecurityArgs {
    /// The directory of the certificates; none if plain TCP was asked for.
    pub(super) fn tls_directory(&self) -> Result<Option<PathBuf>, Failure> {
        if self.tls_dir.is_none() && !self.insecure_plain_tcp {
            return Err(
                Failure::new(crate::ExitCode::Usage, "migration needs TLS certificates").remedy(
                    "pass --tls-dir DIR, or --insecure-plain-tcp to migrate unencrypted on an isolated network",
                ),
            );
        }
        Ok(self.tls_dir.clone())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        pod: PodArgs,
    }

    #[test]
    fn a_state_directory_is_absolute_whatever_directory_the_vmm_has() {
        let command = Command::parse_from(["hawser", "--vmi", "-", "--state-dir", "state"]);
        let places = command.pod.places();
        assert_eq!(places.state_dir, std::env::current_dir().unwrap().join("state"));
        assert!(places.vmm_dir().is_absolute() && places.hooks().is_absolute());
    }
}
