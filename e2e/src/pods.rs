//! Pods for fast tests: a network namespace with `eth0`, the mounts and privileges of a container, and no container.
//!
//! `eth0` is one end of a veth; the other is in a *node* namespace, which is everything outside the pod: the gateway,
//! and the peer that connects to the guest. hawser runs inside as a black box, with the stand-in VMM.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::entry::Entry;
use crate::netns::Netns;
use crate::process::{Process, until};
use crate::programs::{self, Programs};
use crate::standin_script::Script;

pub(crate) const NODE4: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
pub(crate) const POD4: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 5);
pub(crate) const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1);
pub(crate) const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 5);
/// Beyond the gateway: reached by the default route only.
pub(crate) const FAR4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);

pub(crate) const MTU: u32 = 1450;
pub(crate) const GUEST_MAC: &str = "02:11:aa:33:44:55";

/// The uid of the launcher and of the VMM, as KubeVirt has it.
pub(crate) const VMM_UID: u32 = 107;

/// Who hawser is in the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privileges {
    /// Root with what container runtimes leave it, and NET_ADMIN.
    Root,
    /// Root with NET_ADMIN and what it takes to become another user, and nothing else.
    FewRoot,
    /// uid 107 with NET_ADMIN and nothing else.
    NetAdmin,
    /// uid 107 with nothing.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DefaultRoute6 {
    Static,
    /// Learnt by the kernel from a router advertisement.
    Advertised,
}

/// What containerd and podman give to root, with NET_ADMIN added.
const RUNTIME_DEFAULT: &[&str] = &[
    "NET_ADMIN",
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "SETFCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
];

/// What a pod is to be like.
#[derive(Clone, Debug)]
pub(crate) struct PodSpec {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
    pub(crate) default_route6: DefaultRoute6,
    pub(crate) read_only_proc_sys: bool,
    /// Set from outside, as a pod's `securityContext.sysctls` are.
    pub(crate) sysctls: Vec<(&'static str, &'static str)>,
    pub(crate) privileges: Privileges,
    pub(crate) resolv_conf: String,
    /// Wired by whoever asks for the pod, with CNI plugins: here it gets no `eth0`.
    pub(crate) by_cni: bool,
}

impl Default for PodSpec {
    fn default() -> Self {
        Self {
            v4: true,
            v6: true,
            default_route6: DefaultRoute6::Static,
            read_only_proc_sys: false,
            sysctls: Vec::new(),
            privileges: Privileges::Root,
            by_cni: false,
            resolv_conf: "search ns.svc.cluster.local svc.cluster.local cluster.local\n\
                          nameserver 10.96.0.10\nnameserver fd00:10:96::a\noptions ndots:5\n"
                .to_owned(),
        }
    }
}

/// A pod; its processes must be dropped before it.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) netns: Netns,
    pub(crate) node: Netns,
    pub(crate) dir: TempDir,
    spec: PodSpec,
    programs: Programs,
}

impl Pod {
    pub(crate) fn new(programs: &Programs, spec: PodSpec) -> Result<Self> {
        let dir = TempDir::with_prefix("hawser-pod-")?;
        // The VMM's user has to get to its executable and sockets.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let pod = Self {
            netns: Netns::new("pod")?,
            node: Netns::new("node")?,
            dir,
            spec,
            programs: programs.clone(),
        };
        pod.files()?;
        pod.network()?;
        Ok(pod)
    }

    fn files(&self) -> Result<()> {
        for sub in ["vmm", "image", "devices", "state"] {
            fs::create_dir(self.path(sub))?;
        }
        if matches!(self.spec.privileges, Privileges::NetAdmin | Privileges::Nothing) {
            chown(self.path("state"), Some(VMM_UID), Some(VMM_UID))?;
        }
        fs::write(self.path("image/vmlinux"), "not a kernel")?;
        fs::write(self.path("image/initramfs"), "not an initramfs")?;
        fs::write(self.path("resolv.conf"), &self.spec.resolv_conf)?;
        link(&self.programs.standin, &self.path("vmm/standin-vmm"))?;
        link(&self.programs.hawser, &self.path("hawser"))?;
        self.script(&Script::default())
    }

    /// Sets what the stand-in does from its next start on.
    pub(crate) fn script(&self, script: &Script) -> Result<()> {
        let mut script = script.clone();
        if script.ports.is_empty() {
            script.ports.insert("tap0".to_owned(), self.port());
        }
        let path = self.path("vmm/standin.json");
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        Ok(std::os::unix::fs::symlink(serde_json::to_string(&script)?, path)?)
    }

    /// The socket of the guest port.
    pub(crate) fn port(&self) -> PathBuf {
        self.path("port.sock")
    }

    pub(crate) fn path(&self, sub: &str) -> PathBuf {
        self.dir.path().join(sub)
    }

    fn network(&self) -> Result<()> {
        let (pod, node) = (&self.netns, &self.node);
        // No waiting for duplicates of addresses on a wire with two ends.
        for netns in [pod, node] {
            for key in [
                "net.ipv6.conf.default.accept_dad",
                "net.ipv6.conf.default.router_solicitations",
            ] {
                netns.set_sysctl(key, "0")?;
            }
        }
        for address in [format!("{FAR4}/32"), format!("{FAR6}/128")] {
            node.ip(&format!("address add {address} dev lo"))?;
        }
        if self.spec.by_cni {
            return Ok(());
        }
        node.ip(&format!(
            "link add veth0 mtu {MTU} type veth peer name eth0 mtu {MTU} netns {}",
            pod.name()
        ))?;
        for address in [format!("{NODE4}/24"), format!("{NODE6}/64")] {
            node.ip(&format!("address add {address} dev veth0"))?;
        }
        node.ip("link set veth0 up")?;
        pod.ip("link set eth0 up")?;
        if self.spec.v4 {
            pod.ip(&format!("address add {POD4}/24 dev eth0"))?;
            pod.ip(&format!("route add default via {NODE4}"))?;
        }
        if self.spec.v6 {
            pod.ip(&format!("address add {POD6}/64 dev eth0"))?;
            match self.spec.default_route6 {
                DefaultRoute6::Static => drop(pod.ip(&format!("-6 route add default via {NODE6}"))?),
                DefaultRoute6::Advertised => self.advertise()?,
            }
        }
        for (key, value) in &self.spec.sysctls {
            pod.set_sysctl(key, value)?;
        }
        self.settle()
    }

    /// Waits for the local routes of the pod's IPv6 addresses. The kernel adds them later than the addresses, from a work
    /// queue (net/ipv6/addrconf.c), and a snapshot before that would differ from one after it whatever hawser does.
    fn settle(&self) -> Result<()> {
        self.settle_on("eth0")
    }

    /// The same of an interface of any name.
    pub(crate) fn settle_on(&self, interface: &str) -> Result<()> {
        until(
            "local routes of the pod's IPv6 addresses",
            Duration::from_secs(20),
            || {
                let addresses = self.netns.ip(&format!("-6 -o address show dev {interface}"))?;
                let routes = self.netns.ip("-6 route show table local")?;
                let addresses = addresses.split_whitespace().skip_while(|word| *word != "inet6");
                let words: Vec<_> = addresses.collect();
                let addresses = words.windows(2).filter(|pair| pair.first() == Some(&"inet6"));
                let mut addresses = addresses.filter_map(|pair| pair.get(1)?.split('/').next());
                let is_there =
                    addresses.all(|address| routes.contains(&format!("local {address} dev {interface} ")));
                Ok(is_there.then_some(()))
            },
        )
    }

    /// Sends router advertisements from the node until the pod has its route.
    pub(crate) fn advertise(&self) -> Result<()> {
        let target = until("the pod's link-local address", Duration::from_secs(3), || {
            link_local(&self.netns, "eth0")
        })?;
        until("a default route by RA", Duration::from_secs(3), || {
            self.node
                .run(|| crate::packets::send_router_advertisement(target, "veth0"))?;
            let routes = self.netns.ip("-6 route show default")?;
            Ok(routes.contains("proto ra").then_some(()))
        })
    }

    /// How a process of this pod comes about.
    pub(crate) fn entry(&self) -> Entry {
        let (uid, capabilities) = match self.spec.privileges {
            Privileges::Root => (None, Some(RUNTIME_DEFAULT)),
            Privileges::FewRoot => (None, Some(&["NET_ADMIN", "SETUID", "SETGID"][..])),
            Privileges::NetAdmin => (Some(VMM_UID), Some(&["NET_ADMIN"][..])),
            Privileges::Nothing => (Some(VMM_UID), Some(&[][..])),
        };
        Entry {
            netns: self.netns.path(),
            binds: vec![(self.path("resolv.conf"), PathBuf::from("/etc/resolv.conf"))],
            devices: Some(self.path("devices")),
            read_only_proc_sys: self.spec.read_only_proc_sys,
            uid,
            capabilities: capabilities.map(|names| names.iter().map(|&name| name.to_owned()).collect()),
            ..Entry::default()
        }
    }

    pub(crate) fn command_as(&self, entry: &Entry, program: &Path, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(&self.programs.enter);
        command.arg(serde_json::to_string(entry)?).arg(program).args(args);
        Ok(command)
    }

    /// hawser's command line with the options that every test has.
    pub(crate) fn hawser_command(&self, entry: &Entry, verb: &str, args: &[&str]) -> Result<Command> {
        let mut all = vec![verb];
        let state = self.path("state").display().to_string();
        let image = format!("kernel-boot={}", self.path("image").display());
        let vmm = self.path("vmm/standin-vmm").display().to_string();
        if matches!(verb, "run" | "setup" | "plan" | "check") {
            if !args.contains(&"--state-dir") {
                all.extend(["--state-dir", &state]);
            }
            all.extend(["--image", &image]);
        }
        let is_given = args.contains(&"--cloud-hypervisor");
        if matches!(verb, "run" | "check") && !is_given {
            all.extend(["--cloud-hypervisor", &vmm]);
        }
        all.extend(args);
        self.command_as(entry, &self.path("hawser"), &all)
    }

    /// Starts `hawser VERB --vmi -` with the manifest on its stdin.
    pub(crate) fn hawser(&self, verb: &str, vmi: &Value) -> Result<Process> {
        self.hawser_as(&self.entry(), verb, vmi, &[])
    }

    pub(crate) fn hawser_as(&self, entry: &Entry, verb: &str, vmi: &Value, args: &[&str]) -> Result<Process> {
        let plugins = args.iter().skip_while(|arg| **arg != "--bindings").nth(1);
        crate::schema::hold(&self.programs.hawser, vmi, plugins.copied())?;
        let mut all = vec!["--vmi", "-"];
        all.extend(args);
        let mut process = Process::spawn("hawser", &mut self.hawser_command(entry, verb, &all)?)?;
        // One that refuses its arguments has ended by now; its status says so better than a broken pipe.
        let _ = process.feed(&vmi.to_string());
        Ok(process)
    }

    /// The programs this pod was made with.
    pub(crate) fn programs(&self) -> &Programs {
        &self.programs
    }
}

fn link(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_err() {
        programs::copy(from, to)?;
    }
    Ok(())
}

/// The usable link-local address of an interface, once there is one.
pub(crate) fn link_local(netns: &Netns, interface: &str) -> Result<Option<Ipv6Addr>> {
    let text = netns.ip(&format!(
        "-6 -o address show dev {interface} scope link -tentative"
    ))?;
    let address = text.split_whitespace().skip_while(|word| *word != "inet6").nth(1);
    Ok(address
        .and_then(|address| address.split('/').next())
        .and_then(|address| address.parse().ok()))
}

/// A guest with one masquerade NIC, as KubeVirt's users write it; `ports` is what `interfaces[0].ports` is to be.
pub(crate) fn vmi(ports: Value) -> Value {
    let mut vmi = json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachineInstance",
        "metadata": {"name": "guest", "namespace": "ns"},
        "spec": {
            "terminationGracePeriodSeconds": 3,
            "domain": {
                "cpu": {"cores": 1},
                "memory": {"guest": "128Mi"},
                "firmware": {"kernelBoot": {
                    "container": {"image": "example/kernel", "kernelPath": "/vmlinux", "initrdPath": "/initramfs"},
                    "kernelArgs": "console=ttyS0",
                }},
                "devices": {"interfaces": [
                    {"name": "default", "masquerade": {}, "macAddress": GUEST_MAC},
                ]},
            },
            "networks": [{"name": "default", "pod": {}}],
        },
    });
    if !ports.is_null() {
        set(&mut vmi, "/spec/domain/devices/interfaces/0/ports", ports);
    }
    vmi
}

/// Sets the field at a JSON pointer whose parent exists.
pub(crate) fn set(vmi: &mut Value, pointer: &str, value: Value) {
    if let Some((parent, key)) = pointer.rsplit_once('/')
        && let Some(Value::Object(parent)) = vmi.pointer_mut(parent)
    {
        parent.insert(key.to_owned(), value);
    }
}
