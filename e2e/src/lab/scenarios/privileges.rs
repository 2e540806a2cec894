//! How little the launcher can do with.

use std::time::Duration;

use anyhow::{Context, Result};

use super::masquerade::{BOOT, SERVE, wait_for_both_families};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{FORWARD_IPV6, NET_ADMIN_ONLY, Pod, UNPRIVILEGED};

/// A pod without the IPv6 sysctl, whose /proc/sys is read-only: IPv4 works all the same, and IPv6 is left out with a line
/// that says what to add.
pub(super) fn net_admin_only(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "netadmin", &[])?;
    pod.set_manifest(&vmi::masquerade("netadmin", &[]))?;
    let launcher = pod.launch("run", NET_ADMIN_ONLY)?;
    launcher
        .console
        .wait_for("guest: ipv4 eth0 10.0.2.2/24 via 10.0.2.1 ", BOOT)?;
    guest::greet_within(pod.ipv4.into(), PORT, SERVE)?;
    launcher
        .console
        .wait_for("net.ipv6.conf.all.forwarding", Duration::ZERO)
        .context("the line with the remedy")?;
    Ok(())
}

/// The network by one container that may, the guest by another that may not.
pub(super) fn init_container(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "init", &[FORWARD_IPV6])?;
    pod.set_manifest(&vmi::masquerade("init", &[]))?;
    pod.launch("setup", NET_ADMIN_ONLY)?
        .expect_exit(0, Duration::from_secs(60))
        .context("setup")?;
    let launcher = pod.launch("run", UNPRIVILEGED)?;
    wait_for_both_families(&launcher)?;
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE)?;
    }
    Ok(())
}
