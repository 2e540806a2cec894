//! `hawser pod`: the Kubernetes objects that run a guest.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use hawser_kubernetes::{DeviceResources, Facts, Options, TargetOf, Workload};
use serde_json::Value;

use super::args::ManifestArgs;
use crate::error::{ExitCode, Failure};
use crate::launch::obstacles;
use crate::load;
use crate::nic;
use crate::spec::GuestSpec;

#[derive(Debug, Args)]
pub struct PodArgs {
    #[command(flatten)]
    pub manifest: ManifestArgs,
    /// Reference of the image that has hawser.
    #[arg(long, value_name = "REFERENCE", default_value = "hawser")]
    pub launcher_image: String,
    /// What runs the pod.
    #[arg(long = "for", value_enum, default_value_t = Runtime::Kubernetes)]
    pub runtime: Runtime,
    /// Namespace of all objects, in place of the manifest's. Without either, the one that kubectl uses.
    #[arg(short, long, value_name = "NAME", value_parser = label)]
    pub namespace: Option<String>,
    /// What stands over the pod.
    #[arg(long, value_enum, default_value_t = Kind::Pod)]
    pub kind: Kind,
    /// For clusters without user namespaces for pods (before Kubernetes 1.33), and for volumes that cannot be mounted in one,
    /// such as NFS.
    #[arg(long)]
    pub no_user_namespaces: bool,
    /// Without a user namespace: wire the pod in the guest's own container, instead of in one beside it.
    #[arg(long)]
    pub single: bool,
    /// Without a user namespace: set the sysctl net.ipv6.conf.all.forwarding, for IPv6 behind masquerade. The kubelet has to
    /// allow it (allowedUnsafeSysctls).
    #[arg(long)]
    pub ipv6_sysctl: bool,
    /// Name of a volume of the manifest whose claim is a block device (volumeMode: Block).
    #[arg(long = "block", value_name = "VOLUME")]
    pub block_volumes: Vec<String>,
    /// Secret with the certificates of live migration: ca.crt, tls.crt and tls.key, as cert-manager makes it. The pod has them in
    /// /etc/hawser-tls.
    #[arg(long, value_name = "NAME", value_parser = object_name)]
    pub tls_secret: Option<String>,
    /// Make a NetworkPolicy that lets the guest's own pods reach the port of live migration, for namespaces that let nobody in.
    #[arg(long, requires = "tls_secret")]
    pub network_policy: bool,
    /// Make the pod with this name, as the target of a live migration: it boots nothing, waits for the guest, and is on another
    /// node than the guest's other pods.
    #[arg(long, value_name = "POD", requires = "tls_secret", value_parser = label)]
    pub target: Option<String>,
    /// Make the target of a live migration of this pod, which runs the guest: the pod as kubectl get pod -o yaml prints it, YAML or
    /// JSON; - for standard input. The pod itself takes the place of the manifest and of the other options.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["vmi", "bindings", "shared", "launcher_image", "runtime", "namespace",
        "kind", "no_user_namespaces", "single", "ipv6_sysctl", "block_volumes", "tls_secret", "target", "network_resources",
        "device_resources", "network_policy"])]
    pub target_of: Option<PathBuf>,
    /// With --target-of: the node for the target, by its name.
    #[arg(long, value_name = "NAME", requires = "target_of", value_parser = object_name)]
    pub node: Option<String>,
    /// With --target-of: name images as the source's pod does, also by tags, which may mean other images by now. Without it, images
    /// are those that the source runs with, by digest, and one whose digest the pod's status does not say is refused.
    #[arg(long, requires = "target_of")]
    pub keep_tags: bool,
    /// With --target-of: the level of the source's SELinux label, where its pod does not say it (securityContext.seLinuxOptions).
    #[arg(long, value_name = "LEVEL", requires = "target_of")]
    pub selinux_level: Option<String>,
    /// Resource by which a device plugin offers the VFs of a network of the manifest.
    #[arg(long = "network-resource", value_name = "NETWORK=RESOURCE", value_parser = named)]
    pub network_resources: Vec<(String, String)>,
    /// Resource by which a device plugin offers /dev/kvm or /dev/net/tun, in place of devices.kubevirt.io/kvm and
    /// devices.kubevirt.io/tun.
    #[arg(long = "device-resource", value_name = "kvm|tun=RESOURCE", value_parser = device)]
    pub device_resources: Vec<(Device, String)>,
    /// Format of the objects: YAML documents, or one JSON object of the kind List.
    #[arg(short, long, value_enum, default_value_t = PodFormat::Yaml)]
    pub output: PodFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PodFormat {
    Yaml,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// A cluster, by `kubectl apply -f -`.
    Kubernetes,
    /// `podman kube play -`, as root; as any user where every NIC is behind passt. podman 5.4 or newer.
    Podman,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A pod by itself: the guest is lost with its node.
    Pod,
    /// At most one pod at a time, which is made again once its node is back or was deleted.
    #[value(name = "statefulset")]
    StatefulSet,
    /// A pod on another node five minutes after the first node was lost. Only for guests that write no claim.
    Deployment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Kvm,
    Tun,
}

pub(super) fn pod(args: &PodArgs) -> Result<ExitCode, Failure> {
    if let Some(path) = &args.target_of {
        let target = target_of(path, args)?;
        return print(args.output, &[target]);
    }
    let loaded = args.manifest.load_for_a_pod()?;
    let facts = facts(&loaded.spec);
    let options = args.options()?;
    let rendered = hawser_kubernetes::render(&loaded, &facts, &options).map_err(|refusals| {
        Failure::new(
            ExitCode::Manifest,
            format!("no pod can be made of the manifest\n{refusals}"),
        )
    })?;
    for note in &rendered.notes {
        tracing::warn!(event = "pod-note", "{note}");
    }
    print(args.output, &rendered.objects)
}

fn print(format: PodFormat, objects: &[Value]) -> Result<ExitCode, Failure> {
    let text = match format {
        PodFormat::Yaml => hawser_kubernetes::stream(objects)
            .map_err(|error| Failure::new(ExitCode::Internal, "the objects").because(error))?,
        PodFormat::Json => {
            let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects});
            format!("{list:#}\n")
        }
    };
    print!("{text}");
    Ok(ExitCode::Success)
}

/// The target of a live migration of the pod in a file.
fn target_of(path: &Path, args: &PodArgs) -> Result<Value, Failure> {
    let refused = |why: &dyn std::fmt::Display| {
        Failure::new(
            ExitCode::Manifest,
            format!("no target can be made of the pod {}\n{why}", path.display()),
        )
    };
    let pod = crate::spec::parse(&load::text("the pod", path)?).map_err(|error| refused(&error))?;
    let options = TargetOf {
        node: args.node.clone(),
        keep_tags: args.keep_tags,
        selinux_level: args.selinux_level.clone(),
    };
    hawser_kubernetes::target_of(&pod, &options).map_err(|refusals| refused(&refusals))
}

fn facts(guest: &GuestSpec) -> Facts {
    let obstacles = obstacles(guest, &[]);
    Facts {
        needs_net_admin: nic::needs_net_admin(guest),
        needs_tap: nic::needs_tap(guest),
        masqueraded_taps: nic::masqueraded_taps(guest),
        migration_obstacle: (!obstacles.is_empty()).then(|| obstacles.join("; ")),
    }
}

impl PodArgs {
    fn options(&self) -> Result<Options, Failure> {
        let bindings = match &self.manifest.bindings {
            Some(path) => Some(fs::read_to_string(path).map_err(|error| {
                Failure::new(
                    ExitCode::Manifest,
                    format!("read the binding plugins {}", path.display()),
                )
                .because(error)
            })?),
            None => None,
        };
        let podman = self.runtime == Runtime::Podman;
        let mut devices = DeviceResources::default();
        for (device, resource) in &self.device_resources {
            match device {
                Device::Kvm => devices.kvm.clone_from(resource),
                Device::Tun => devices.tun.clone_from(resource),
            }
        }
        Ok(Options {
            image: self.launcher_image.clone(),
            bindings,
            namespace: self.namespace.clone(),
            workload: match self.kind {
                Kind::Pod => Workload::Pod,
                Kind::StatefulSet => Workload::StatefulSet,
                Kind::Deployment => Workload::Deployment,
            },
            podman,
            // Those of podman's pods need user ids that an administrator has set aside.
            user_namespaces: !self.no_user_namespaces && !podman,
            // A container that stays is no init container for podman.
            one_container: self.single || podman,
            // podman lets a pod have any sysctl of its own network.
            ipv6_sysctl: self.ipv6_sysctl || podman,
            devices,
            block_volumes: self.block_volumes.iter().cloned().collect(),
            tls_secret: self.tls_secret.clone(),
            target: self.target.clone(),
            network_policy: self.network_policy,
            network_resources: self.network_resources.iter().cloned().collect(),
        })
    }
}

fn named(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, resource)) if !name.is_empty() && !resource.is_empty() => {
            Ok((name.to_owned(), resource.to_owned()))
        }
        _ => Err("expected NETWORK=RESOURCE".to_owned()),
    }
}

fn device(text: &str) -> Result<(Device, String), String> {
    match text.split_once('=') {
        Some(("kvm", resource)) if !resource.is_empty() => Ok((Device::Kvm, resource.to_owned())),
        Some(("tun", resource)) if !resource.is_empty() => Ok((Device::Tun, resource.to_owned())),
        _ => Err("expected kvm=RESOURCE or tun=RESOURCE".to_owned()),
    }
}

/// A subdomain of RFC 1123.
fn object_name(text: &str) -> Result<String, String> {
    match text.len() <= 253 && text.split('.').all(is_label) {
        true => Ok(text.to_owned()),
        false => Err("expected at most 253 of a-z, 0-9, '-' and '.', as names of objects have".to_owned()),
    }
}

fn is_label(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A label of RFC 1123.
fn label(text: &str) -> Result<String, String> {
    match is_label(text) {
        true => Ok(text.to_owned()),
        false => Err(
            "expected at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts_of(binding: &str) -> Facts {
        let manifest = format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: a}}, spec: {{domain: {{memory: \
             {{guest: 64Mi}}, devices: {{interfaces: [{{name: default, {binding}: {{}}}}]}}, firmware: {{kernelBoot: \
             {{container: {{image: i, kernelPath: /k}}}}}}}}, networks: [{{name: default, pod: {{}}}}]}}}}"
        );
        facts(&crate::spec::load(&manifest).unwrap().spec)
    }

    #[test]
    fn only_what_makes_devices_and_rules_needs_a_capability() {
        for (binding, needs) in [("masquerade", true), ("bridge", true), ("passt", false)] {
            let facts = facts_of(binding);
            assert_eq!(facts.needs_net_admin, needs, "{binding}");
            assert_eq!(facts.needs_tap, needs, "{binding}");
        }
        assert_eq!(facts_of("masquerade").masqueraded_taps, ["tap0"]);
    }
}
