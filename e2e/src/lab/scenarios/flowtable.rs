//! Connections that the kernel carries past the rules, where it has flowtables: the node's has.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::masquerade::{SERVE, wait_for_both_families};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT, Session};
use crate::lab::node::pod::{FORWARD_IPV6, Pod, ROOT};

/// How long the guest sends with another MAC. Seconds.
const STRANGER: u32 = 6;
/// For an answer that is to come, or not to come.
const SOON: Duration = Duration::from_secs(2);

/// Both families' connections are carried, and the filter at the TAP still sees what the guest sends on them.
pub(super) fn carries_what_the_filter_has_seen(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "flows", &[FORWARD_IPV6])?;
    pod.set_manifest(&vmi::masquerade("flows", &[]))?;
    let launcher = pod.launch("run", ROOT)?;
    wait_for_both_families(&launcher)?;

    let mut sessions = Vec::new();
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE)?;
        let mut session = Session::open(address)?;
        // The kernel takes over a connection that both sides have spoken on.
        for word in ["one", "two"] {
            session.say(word)?;
            session.hear(word, SERVE)?;
        }
        is_carried(&pod, address)?;
        sessions.push(session);
    }

    let mac = guest::execute(pod.ipv4.into(), "cat /sys/class/net/eth0/address")?;
    let script = format!(
        "(sleep 1; ip link set eth0 address 02:00:00:00:be:ef; sleep {STRANGER}; ip link set eth0 address {}) \
         > /dev/null 2>&1 < /dev/null &",
        mac.trim()
    );
    guest::execute(pod.ipv4.into(), &script)?;
    std::thread::sleep(SOON);
    for session in &mut sessions {
        session.say("stranger")?;
        ensure!(
            session.hear("stranger", SOON).is_err(),
            "frames of a MAC that is not the guest's passed on a known connection"
        );
    }
    // With its own MAC again, the guest's kernel sends once more what was lost.
    for session in &mut sessions {
        session
            .hear("stranger", Duration::from_secs(60))
            .context("after the guest took its own MAC again")?;
    }
    Ok(())
}

/// The kernel's table of connections marks those (net/netfilter/nf_conntrack_standalone.c).
fn is_carried(pod: &Pod<'_>, address: IpAddr) -> Result<()> {
    let connections = pod.run("cat /proc/self/net/nf_conntrack")?;
    let wanted = [
        format!("dst={}", written_out(address)),
        format!("dport={PORT}"),
        "[OFFLOAD]".to_owned(),
    ];
    let carried = connections
        .lines()
        .any(|line| wanted.iter().all(|word| line.contains(word)));
    ensure!(carried, "no connection to {address} is carried: {connections}");
    Ok(())
}

/// As that table has addresses: IPv6 with all its zeros.
fn written_out(address: IpAddr) -> String {
    match address {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            let groups = ip.segments().map(|group| format!("{group:04x}"));
            groups.join(":")
        }
    }
}
