//! The guest's lease in the course of its life: renewed, given back and asked for again, and asked for by a guest that has
//! booted anew in the same VMM. After each the guest is reached as before.

use anyhow::{Context, Result};

use super::bridge::wait_for_the_pods_addresses;
use super::masquerade::{BOOT, SERVE, wait_for_both_families};
use super::{bridge, vmi};
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{FORWARD_IPV6, Launcher, Pod, ROOT};

pub(super) fn masquerade(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "leases", &[FORWARD_IPV6])?;
    pod.set_manifest(&vmi::masquerade("leases", &[]))?;
    let launcher = pod.launch("run", ROOT)?;
    wait_for_both_families(&launcher)?;
    course(&pod, &launcher, "10.0.2.2/24 via 10.0.2.1 ", "fd10:0:2::2 ")
}

pub(super) fn bridge(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "bleases", &[])?;
    pod.set_manifest(&bridge::manifest("bleases"))?;
    let launcher = pod.launch("run", ROOT)?;
    wait_for_the_pods_addresses(&pod, &launcher)?;
    let (v4, v6) = (format!("{}/24 via ", pod.ipv4), format!("{} ", pod.ipv6));
    course(&pod, &launcher, &v4, &v6)
}

fn course(pod: &Pod<'_>, launcher: &Launcher<'_>, v4: &str, v6: &str) -> Result<()> {
    let (v4, v6) = (format!("guest: ipv4 eth0 {v4}"), format!("guest: ipv6 eth0 {v6}"));
    let told = |event: &str, nth: usize| -> Result<()> {
        for line in [&v4, &v6] {
            launcher.console.wait_for_nth(&[line, event], nth, BOOT)?;
        }
        for address in pod.addresses() {
            guest::greet_within(address, PORT, SERVE)?;
        }
        Ok(())
    };
    // By itself and a little later: the answer to this very request has to get out first.
    let later = |script: &str| {
        let script = format!("(sleep 1; {script}) > /dev/null 2>&1 &");
        guest::execute(pod.ipv4.into(), &script).map(drop)
    };
    let [v4_client, v6_client] = ["$(cat /run/udhcpc.eth0)", "$(cat /run/udhcpc6.eth0)"];
    told("event bound", 1).context("after the start")?;

    later(&format!("kill -USR1 {v4_client} {v6_client}"))?;
    told("event renew", 1).context("after a renewal")?;

    // Busybox's DHCPv6 client asks for an address of freed memory once it has released one, so it is ended instead of
    // being asked again; init starts the next.
    later(&format!(
        "kill -USR2 {v4_client} {v6_client}; sleep 1; ip address show dev eth0 > /run/released; \
         kill -USR1 {v4_client}; kill {v6_client}"
    ))?;
    told("event bound", 2).context("after a release")?;
    let between = guest::execute(pod.ipv4.into(), "cat /run/released")?;
    anyhow::ensure!(
        !between.contains("scope global"),
        "nothing was released: {between}"
    );

    later("reboot -f")?;
    launcher.console.wait_for_nth(&["guest: ready"], 2, BOOT)?;
    told("event bound", 3).context("after a reboot")
}
