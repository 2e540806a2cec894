//! A guest behind a passt: what it reaches and what reaches it, and what happens when passt dies.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::lifecycle::{END, compare};
use super::masquerade::{BOOT, SERVE, reach_out, resolve};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, OTHER_PORT, PORT, WhoAmI};
use crate::lab::node::pace;
use crate::lab::node::pod::{Launcher, Pod, ROOT, UNPRIVILEGED};
use crate::lab::node::prepare::{NODE_IPV4, NODE_IPV6};

pub(super) const PING: &str = "net.ipv4.ping_group_range=107 107";
/// A UDP port that the manifest lists, and one that it does not.
const UDP_PORT: u16 = 5353;
const OTHER_UDP_PORT: u16 = 5354;
/// For what takes moments where nothing is emulated.
const SOON: Duration = Duration::from_secs(20);

fn manifest(name: &str, ports: Value) -> Value {
    let mut manifest = vmi::masquerade(name, &[]);
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", "passt": {}, "ports": ports}]),
    );
    manifest
}

fn listed() -> Value {
    json!([{"port": PORT, "protocol": "TCP"}, {"port": UDP_PORT, "protocol": "UDP"}])
}

/// The guest has what the pod has, by DHCP, DHCPv6 and router advertisement.
pub(super) fn wait_for_the_pods_addresses(pod: &Pod<'_>, launcher: &Launcher<'_>) -> Result<()> {
    let console = &launcher.console;
    let lease = console.wait_for(
        &format!("guest: ipv4 eth0 {}/24 via {NODE_IPV4} ", pod.ipv4),
        BOOT,
    )?;
    ensure!(
        lease.contains(" mtu 1500 "),
        "not the MTU of the pod's interface: {lease}"
    );
    console.wait_for(&format!("guest: ipv6 eth0 {} ", pod.ipv6), BOOT)?;
    console.wait_for("guest: ipv6-route eth0 default via fe80::1 ", BOOT)?;
    Ok(())
}

fn greet_both(pod: &Pod<'_>) -> Result<()> {
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE)?;
    }
    Ok(())
}

/// How many datagrams came to the guest for which it has no listener, of both families: nothing in it listens on UDP.
fn datagrams(pod: &Pod<'_>) -> Result<u64> {
    let script = "awk '$1 == \"Udp:\" && $3 ~ /^[0-9]+$/ { n += $3 } $1 == \"Udp6NoPorts\" { n += $2 } END { print n }' \
                  /proc/net/snmp /proc/net/snmp6";
    let printed = guest::execute(pod.ipv4.into(), script)?;
    printed
        .trim()
        .parse()
        .with_context(|| format!("no number: {printed}"))
}

fn send(address: IpAddr, port: u16) -> Result<()> {
    let any: IpAddr = if address.is_ipv4() {
        "0.0.0.0".parse()?
    } else {
        "::".parse()?
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.send_to(b"datagram", SocketAddr::new(address, port))?;
    Ok(())
}

/// Datagrams to the listed port reach the guest, at both addresses, and those to others do not.
fn udp(pod: &Pod<'_>) -> Result<()> {
    for address in pod.addresses() {
        let before = datagrams(pod)?;
        for port in [OTHER_UDP_PORT, PORT] {
            send(address, port)?;
        }
        send(address, UDP_PORT)?;
        let end = pace::deadline(SOON);
        while datagrams(pod)? == before {
            ensure!(Instant::now() < end, "no datagram reaches the guest at {address}");
            thread::sleep(Duration::from_millis(100));
        }
        // What was sent before it, to the other ports, would have come before it.
        let came = datagrams(pod)? - before;
        ensure!(
            came == 1,
            "{came} datagrams for one to a listed port at {address}"
        );
    }
    Ok(())
}

/// The pod's loopback is not to be had by the gateway's address, which is what passt makes of it when it is not told.
fn loopback_is_out_of_reach(pod: &Pod<'_>) -> Result<()> {
    let port = pod.enter(|| Ok(WhoAmI::listen("127.0.0.1".parse()?)?.port))?;
    pod.enter(|| {
        std::net::TcpStream::connect(("127.0.0.1", port))
            .map(drop)
            .context("nobody listens on the pod's loopback: nothing is shown")
    })?;
    let found = guest::execute(
        pod.ipv4.into(),
        &format!("wget -q -T 5 -O - http://{NODE_IPV4}:{port}/ && exit 1; exit 0"),
    );
    found
        .map(drop)
        .context("the guest reached the pod's loopback by the gateway's address")
}

/// passt is a process of the guest's user without a capability, with no way to gain one.
fn is_unprivileged(pid: u32) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.split_whitespace().next().unwrap_or_default().to_owned())
            .with_context(|| format!("no {name}"))
    };
    let found = [
        field("Uid:")?,
        field("CapPrm:")?,
        field("CapEff:")?,
        field("NoNewPrivs:")?,
    ];
    ensure!(
        found == ["107", "0000000000000000", "0000000000000000", "1"],
        "passt runs with {found:?}"
    );
    Ok(())
}

/// kB of a process's own share of memory.
fn pss(pid: u32) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    Ok(number.context("no Pss")?.parse()?)
}

/// By a launcher that has no capability at all.
pub(super) fn dual_stack(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "passt", &[PING])?;
    let before = pod.snapshot()?;
    pod.set_manifest(&manifest("passt", listed()))?;
    let mut launcher = pod.launch("run", UNPRIVILEGED)?;
    wait_for_the_pods_addresses(&pod, &launcher)?;
    greet_both(&pod)?;
    for address in pod.addresses() {
        for port in [OTHER_PORT, UDP_PORT] {
            if guest::greet(address, port).is_ok() {
                bail!("TCP port {port} is not listed, but the guest answers on it at {address}");
            }
        }
    }
    for address in ["127.0.0.1", "::1"] {
        pod.enter(|| guest::greet_within(address.parse()?, PORT, SERVE))
            .context("from inside the pod")?;
    }
    udp(&pod)?;
    reach_out(&pod, pod.ipv4.into(), NODE_IPV4.parse()?)?;
    reach_out(&pod, pod.ipv6.into(), NODE_IPV6.parse()?)?;
    resolve(&pod, "passt")?;
    guest::execute(
        pod.ipv4.into(),
        &format!("ping -c 1 -W 5 {NODE_IPV4} && ping6 -c 1 -W 5 {NODE_IPV6}"),
    )
    .context("the guest's ping")?;
    loopback_is_out_of_reach(&pod)?;
    ensure!(
        pod.snapshot()? == before,
        "the launcher touched the pod's namespace"
    );

    let pid = pod.process("passt")?;
    is_unprivileged(pid)?;
    lab.record("passt-memory", &format!("listed ports: Pss {} kB", pss(pid)?))?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)?;
    compare(&before, &pod.snapshot()?)
}

/// passt is killed, the guest gives its lease back and takes it again, and starts anew: each time all works after it.
pub(super) fn killed_released_rebooted(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "passt-dies", &[PING])?;
    pod.set_manifest(&manifest("passt-dies", listed()))?;
    let mut launcher = pod.launch("run", ROOT)?;
    wait_for_the_pods_addresses(&pod, &launcher)?;
    greet_both(&pod)?;
    keep_sending(&pod)?;

    let first = pod.process("passt")?;
    kill(first)?;
    launcher.console.wait_for(r#"event="passt-exited""#, SOON)?;
    launcher.console.wait_for(r#"event="passt-restarted""#, SOON)?;
    ensure!(pod.process("passt")? != first, "no fresh passt");
    greet_both(&pod).context("after passt was killed")?;
    udp(&pod).context("after passt was killed")?;
    reach_out(&pod, pod.ipv4.into(), NODE_IPV4.parse()?).context("after passt was killed")?;

    // The answer to this request has to get out before the address is gone.
    let leases = "(sleep 1; killall -USR2 udhcpc; sleep 1; killall -USR1 udhcpc) > /dev/null 2>&1 &";
    guest::execute(pod.ipv4.into(), leases)?;
    let bound = format!("guest: ipv4 eth0 {}/24 via ", pod.ipv4);
    launcher
        .console
        .wait_for_nth(&[&bound], 2, SOON)
        .context("after the lease was given back")?;
    greet_both(&pod).context("after the lease was given back")?;

    guest::execute(pod.ipv4.into(), "(sleep 1; reboot -f) > /dev/null 2>&1 &")?;
    launcher
        .console
        .wait_for_nth(&["guest: init, "], 2, BOOT)
        .context("the guest does not start anew")?;
    launcher
        .console
        .wait_for_nth(&[&bound], 3, BOOT)
        .context("after a reboot")?;
    launcher
        .console
        .wait_for_nth(&[&format!("guest: ipv6 eth0 {} ", pod.ipv6)], 2, BOOT)?;
    greet_both(&pod).context("after a reboot")?;
    keep_sending(&pod)?;
    kill(pod.process("passt")?)?;
    launcher
        .console
        .wait_for_nth(&[r#"event="passt-restarted""#], 2, SOON)?;
    greet_both(&pod).context("killed after a reboot")?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)
}

/// A fresh passt learns the guest's hardware address from its next frame, and reaches it from then on; one that never said
/// anything would not be reached from outside.
fn keep_sending(pod: &Pod<'_>) -> Result<()> {
    let forever = format!("(while :; do ping -c 1 -W 1 {NODE_IPV4}; sleep 1; done) > /dev/null 2>&1 &");
    guest::execute(pod.ipv4.into(), &forever).map(drop)
}

/// One that dies again and again is given up: the guest loses the NIC and goes on.
pub(super) fn given_up(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "passt-lost", &[PING])?;
    pod.set_manifest(&manifest("passt-lost", listed()))?;
    let mut launcher = pod.launch("run", UNPRIVILEGED)?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    for nth in 1..=5 {
        kill(pod.process("passt")?)?;
        launcher
            .console
            .wait_for_nth(&[r#"event="passt-restarted""#], nth, SOON)?;
    }
    kill(pod.process("passt")?)?;
    launcher.console.wait_for(r#"event="passt-given-up""#, SOON)?;
    launcher.console.wait_for(r#"event="device-unplugged""#, SOON)?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)
}

/// Without a list of ports: a socket for each.
pub(super) fn all_ports(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "passt-all", &[PING, "net.ipv4.ip_unprivileged_port_start=0"])?;
    pod.set_manifest(&manifest("passt-all", json!([])))?;
    let before = slab()?;
    let mut launcher = pod.launch("run", UNPRIVILEGED)?;
    wait_for_the_pods_addresses(&pod, &launcher)?;
    greet_both(&pod)?;
    for address in pod.addresses() {
        guest::greet(address, OTHER_PORT)?;
    }
    let memory = format!(
        "all ports: Pss {} kB, {} kB more of the kernel's slab",
        pss(pod.process("passt")?)?,
        slab()?.saturating_sub(before)
    );
    lab.record("passt-memory", &memory)?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)
}

/// A port that the pod's sysctl keeps from it ends the start before anything is touched.
pub(super) fn low_port_refused(lab: &Lab) -> Result<()> {
    let pod = Pod::create(
        lab,
        "passt-low",
        &[PING, "net.ipv4.ip_unprivileged_port_start=1024"],
    )?;
    let before = pod.snapshot()?;
    pod.set_manifest(&manifest("passt-low", json!([{"port": 80}])))?;
    let mut launcher = pod.launch("run", UNPRIVILEGED)?;
    launcher.expect_exit(4, END)?;
    launcher
        .console
        .wait_for("net.ipv4.ip_unprivileged_port_start=80", Duration::ZERO)
        .context("the line with the remedy")?;
    compare(&before, &pod.snapshot()?)
}

/// Where passt may have no user namespace, the start ends and says what has to be allowed.
pub(super) fn without_user_namespace(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "passt-userns", &[PING])?;
    pod.set_manifest(&manifest("passt-userns", listed()))?;
    let mut launcher = pod.launch_confined("run", UNPRIVILEGED)?;
    launcher.expect_exit(4, END)?;
    for expected in ["user namespace", "securityContext.seccompProfile"] {
        launcher.console.wait_for(expected, Duration::ZERO)?;
    }
    Ok(())
}

fn kill(pid: u32) -> Result<()> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
    Ok(nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?)
}

/// kB of kernel objects, sockets among them.
fn slab() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Slab:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    Ok(number.context("no Slab")?.parse()?)
}
