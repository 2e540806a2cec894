//! Guests of binding plugins: on devices that somebody else made, and on a bridge without a server of hawser's.
//!
//! Each network has a namespace of its own in the node, outside the pod, with busybox' DHCP server in it, as a network that
//! is none of Kubernetes' has one.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::lifecycle::{END, compare};
use super::masquerade::{BOOT, SERVE};
use super::vmi;
use crate::cni_tap;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pace;
use crate::lab::node::pod::{Extra, Launcher, Pod, Privileges, ROOT, UNPRIVILEGED};
use crate::lab::process::output;

/// The network's name, and what KubeVirt calls the pod's interface on it: printf l2 | sha256sum.
const NETWORK: &str = "l2";
pub(super) const INTERFACE: &str = "pod8a1cee436cb";
/// Whoever serves the network.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The only address that it gives.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);

pub(super) fn manifest(name: &str, plugin: &str) -> Value {
    let mut manifest = vmi::masquerade(name, &[]);
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([{"name": NETWORK, "binding": {"name": plugin}}]),
    );
    vmi::set(
        &mut manifest,
        "/spec/networks",
        json!([{"name": NETWORK, "multus": {"networkName": "l2-net"}}]),
    );
    manifest
}

fn bindings() -> Value {
    json!({"binding": {
        "device": {"domainAttachmentType": "tap"},
        "wire": {"domainAttachmentType": "managedTap"},
        "moving-device": {"domainAttachmentType": "tap", "migration": {}},
        "moving-wire": {"domainAttachmentType": "managedTap", "migration": {"method": "link-refresh"}},
    }})
}

fn launch<'a>(pod: &'a Pod<'_>, privileges: Privileges<'_>, device: Option<&str>) -> Result<Launcher<'a>> {
    pod.launch_with("run", privileges, &extra(pod, device)?)
}

/// With the registry of plugins, and `device` of the node's where there is one.
pub(super) fn extra(pod: &Pod<'_>, device: Option<&str>) -> Result<Extra> {
    let file = pod.write("bindings.json", &bindings())?;
    let mut extra = Extra {
        podman: vec!["--volume".into(), format!("{}:/bindings.json:ro", file.display())],
        hawser: vec!["--bindings".into(), "/bindings.json".into()],
    };
    if let Some(device) = device {
        extra.podman.extend(["--device".to_owned(), device.to_owned()]);
    }
    Ok(extra)
}

/// A network outside the pod: a namespace whose `inside` is where the server listens. Gone when dropped.
struct Outside {
    name: String,
    server: Option<Child>,
}

impl Outside {
    fn new(name: &str) -> Result<Self> {
        let outside = Self {
            name: name.to_owned(),
            server: None,
        };
        output(Command::new("ip").args(["netns", "add", name]))?;
        Ok(outside)
    }

    fn ip(&self, command: &str) -> Result<String> {
        output(
            Command::new("ip")
                .args(["-n", &self.name])
                .args(command.split(' ')),
        )
    }

    /// Gives `SERVER`'s address to the interface and serves leases on it.
    fn serve(&mut self, interface: &str) -> Result<()> {
        self.ip(&format!("address add {SERVER}/24 dev {interface}"))?;
        let conf = PathBuf::from(format!("/tmp/{}.conf", self.name));
        let leases = conf.with_extension("leases");
        fs::write(&leases, "")?;
        fs::write(
            &conf,
            format!(
                "start {GUEST}\nend {GUEST}\ninterface {interface}\nlease_file {}\nopt subnet 255.255.255.0\nopt router \
                 {SERVER}\n",
                leases.display()
            ),
        )?;
        self.server = Some(serve(&["ip", "netns", "exec", &self.name], &conf)?);
        Ok(())
    }

    /// The guest is reached from here, and reaches what is here.
    fn reaches_the_guest(&self) -> Result<()> {
        let namespace = fs::File::open(Path::new("/run/netns").join(&self.name))?;
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
                    guest::greet_within(GUEST.into(), PORT, SERVE).context("from the network")?;
                    guest::execute(GUEST.into(), &format!("ping -c 1 -W 5 {SERVER}"))
                        .context("from the guest")
                })
                .join()
                .map_err(|_| anyhow::anyhow!("panicked in the network"))?
        })
        .map(drop)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Some(server) = &mut self.server {
            let _ = server.kill();
            let _ = server.wait();
        }
        let _ = output(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// busybox' server in the foreground, behind the words that take it to its namespace.
fn serve(enter: &[&str], conf: &Path) -> Result<Child> {
    let Some((program, words)) = enter.split_first() else {
        bail!("nowhere to serve");
    };
    Ok(Command::new(program)
        .args(words)
        .args(["busybox", "udhcpd", "-f"])
        .arg(conf)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?)
}

fn wait_for_the_networks_lease(launcher: &Launcher<'_>) -> Result<()> {
    let wanted = format!("guest: ipv4 eth0 {GUEST}/24 via {SERVER} ");
    launcher.console.wait_for(&wanted, BOOT).map(drop)
}

fn guest_has_the_mac(pod: &Pod<'_>, launcher: &Launcher<'_>) -> Result<()> {
    let shown: Value = serde_json::from_str(&pod.run(&format!("ip -j link show dev {INTERFACE}"))?)?;
    let mac = shown
        .pointer("/0/address")
        .and_then(Value::as_str)
        .context("no MAC")?;
    let nic = launcher.console.wait_for("guest: nic eth0 ", BOOT)?;
    ensure!(
        nic.contains(&format!(" mac {mac} ")),
        "the device has {mac}, but the guest says: {nic}"
    );
    Ok(())
}

/// A macvtap that a CNI plugin put into the pod, and its device given to uid 107, as a device plugin does.
pub(super) fn macvtap(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "macvtap", &[])?;
    let mut outside = Outside::new("l2-macvtap")?;
    outside.ip("link add up0 type veth peer name up1")?;
    outside.ip("link set up0 up")?;
    outside.ip("link set up1 up")?;
    let namespace = pod.namespace();
    let namespace = namespace.to_str().context("path is not UTF-8")?;
    let index = 1000;
    outside.ip(&format!(
        "link add link up0 name {INTERFACE} index {index} netns {namespace} type macvtap mode bridge"
    ))?;
    pod.run(&format!("ip link set {INTERFACE} up"))?;
    outside.serve("up1")?;
    let device = format!("/dev/tap{index}");
    nix::unistd::chown(device.as_str(), Some(107.into()), Some(107.into())).context(device.clone())?;
    let before = settled(&pod)?;

    pod.set_manifest(&manifest("macvtap", "device"))?;
    let mut launcher = launch(&pod, UNPRIVILEGED, Some(&device))?;
    guest_has_the_mac(&pod, &launcher)?;
    wait_for_the_networks_lease(&launcher)?;
    outside.reaches_the_guest()?;
    compare(&before, &pod.snapshot()?).context("while the guest runs")?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)?;
    compare(&before, &pod.snapshot()?)
}

/// The pod itself is the guest's network here: the TAP has an address, and a server behind it.
pub(super) fn cni_tap(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "cnitap", &[])?;
    let untouched = pod.snapshot()?;
    let configuration = json!({"owner": 107, "group": 107, "mtu": 1400});
    let namespace = pod.namespace();
    cni_tap::call("ADD", &namespace, INTERFACE, &configuration)?;
    // Or the kernel makes one up once somebody has the TAP open, whoever that is.
    pod.run(&format!("ip link set {INTERFACE} addrgenmode none"))?;
    pod.run(&format!("ip address add {SERVER}/24 dev {INTERFACE}"))?;
    let before = pod.snapshot()?;
    let conf = PathBuf::from("/tmp/cnitap.conf");
    fs::write("/tmp/cnitap.leases", "")?;
    fs::write(
        &conf,
        format!(
            "start {GUEST}\nend {GUEST}\ninterface {INTERFACE}\nlease_file /tmp/cnitap.leases\nopt subnet 255.255.255.0\nopt \
             router {SERVER}\n"
        ),
    )?;
    let net = format!("--net={}", namespace.display());
    let mut server = serve(&["nsenter", &net], &conf)?;
    let result = on_a_cni_tap(&pod);
    let _ = server.kill();
    let _ = server.wait();
    result?;
    compare(&without_carrier(&before), &without_carrier(&pod.snapshot()?))?;
    cni_tap::call("CHECK", &namespace, INTERFACE, &configuration)?;
    cni_tap::call("DEL", &namespace, INTERFACE, &configuration)?;
    compare(&untouched, &pod.snapshot()?)
}

fn on_a_cni_tap(pod: &Pod<'_>) -> Result<()> {
    pod.set_manifest(&manifest("cnitap", "device"))?;
    let mut launcher = launch(pod, UNPRIVILEGED, None)?;
    guest_has_the_mac(pod, &launcher)?;
    let nic = launcher.console.wait_for("guest: nic eth0 ", BOOT)?;
    ensure!(
        nic.contains(" mtu 1400 "),
        "the TAP has an MTU of 1400, but the guest says: {nic}"
    );
    wait_for_the_networks_lease(&launcher)?;
    pod.enter(|| {
        guest::greet_within(GUEST.into(), PORT, SERVE).context("from the pod")?;
        guest::execute(GUEST.into(), &format!("ping -c 1 -W 5 {SERVER}")).context("from the guest")
    })?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)
}

/// The namespace once every link-local address is known to be unique, which the kernel finds out in its own time.
pub(super) fn settled(pod: &Pod<'_>) -> Result<String> {
    let end = pace::deadline(SERVE);
    loop {
        let snapshot = pod.snapshot()?;
        if !snapshot.contains(" tentative") {
            return Ok(snapshot);
        }
        ensure!(Instant::now() < end, "addresses stay tentative: {snapshot}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A TAP that was open once has another queueing discipline, its last user's vnet_hdr, a multicast route and no carrier: the
/// kernel's doing.
fn without_carrier(snapshot: &str) -> String {
    let line = |line: &str| {
        let mut words = Vec::new();
        let mut rest = line.split(' ');
        while let Some(word) = rest.next() {
            match word {
                "linkdown" | "dead" => {}
                "qdisc" | "state" | "vnet_hdr" => drop(rest.next()),
                _ => words.push(word),
            }
        }
        words
            .join(" ")
            .replace("NO-CARRIER,", "")
            .replace(",LOWER_UP", "")
    };
    let multicast = format!("multicast ff00::/8 dev {INTERFACE} ");
    let lines = snapshot.lines().filter(|text| !text.contains(&multicast));
    lines.map(|text| line(text) + "\n").collect()
}

pub(super) fn managed_tap(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "managedtap", &[])?;
    let mut outside = Outside::new("l2-managed")?;
    let namespace = pod.namespace();
    outside.ip(&format!(
        "link add up0 type veth peer name {INTERFACE} netns {}",
        namespace.to_str().context("path is not UTF-8")?
    ))?;
    outside.ip("link set up0 up")?;
    pod.run(&format!("ip link set {INTERFACE} up"))?;
    outside.serve("up0")?;
    let before = settled(&pod)?;

    pod.set_manifest(&manifest("managedtap", "wire"))?;
    let mut first = launch(&pod, ROOT, None)?;
    wait_for_the_networks_lease(&first)?;
    outside.reaches_the_guest()?;
    ensure!(
        !pod.run("ip link show")?.contains("srv"),
        "hawser serves this guest too"
    );

    first.signal("KILL")?;
    ensure!(first.exit_code(END)? != 0, "a killed launcher ended with 0");
    let mut second = launch(&pod, ROOT, None).context("the second start")?;
    wait_for_the_networks_lease(&second).context("the second start")?;
    outside.reaches_the_guest().context("the second start")?;
    second.signal("TERM")?;
    second.expect_exit(0, END)?;
    compare(&before, &pod.snapshot()?)
}
