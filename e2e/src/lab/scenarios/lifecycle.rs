//! Beginnings and ends.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::masquerade::{BOOT, SERVE, wait_for_both_families};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{FORWARD_IPV6, Pod, ROOT};

/// For a guest to go down, and for the launcher to take the network down after it.
pub(super) const END: Duration = Duration::from_secs(60);

pub(super) fn sigterm(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "sigterm", &[FORWARD_IPV6])?;
    pod.set_manifest(&vmi::masquerade("sigterm", &[]))?;
    let mut launcher = pod.launch("run", ROOT)?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    launcher.signal("TERM")?;
    launcher.console.wait_for("guest: power button", END)?;
    launcher.expect_exit(0, END)
}

pub(super) fn guest_powers_off(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "poweroff", &[FORWARD_IPV6])?;
    pod.set_manifest(&vmi::masquerade("poweroff", &[]))?;
    let mut launcher = pod.launch("run", ROOT)?;
    wait_for_both_families(&launcher)?;
    guest::greet_within(pod.ipv4.into(), PORT, SERVE)?;
    // In the background, so that the answer gets out first.
    guest::execute(pod.ipv4.into(), "(sleep 1; poweroff -f) > /dev/null 2>&1 &")?;
    launcher.expect_exit(0, END)
}

pub(super) fn restart_after_kill(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "restart", &[FORWARD_IPV6])?;
    let before = pod.snapshot()?;
    pod.set_manifest(&vmi::masquerade("restart", &[]))?;

    let mut first = pod.launch("run", ROOT)?;
    wait_for_both_families(&first)?;
    first.signal("KILL")?;
    if first.exit_code(END)? == 0 {
        bail!("a killed launcher ended with 0");
    }

    let mut second = pod.launch("run", ROOT).context("the second start")?;
    wait_for_both_families(&second).context("the second start")?;
    for address in pod.addresses() {
        guest::greet_within(address, PORT, SERVE).context("the second start")?;
    }
    second.signal("TERM")?;
    second.expect_exit(0, END)?;
    compare(&before, &pod.snapshot()?)
}

pub(super) fn teardown(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "teardown", &[FORWARD_IPV6])?;
    let before = pod.snapshot()?;
    pod.set_manifest(&vmi::masquerade("teardown", &[PORT]))?;
    let mut launcher = pod.launch("run", ROOT)?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    if pod.snapshot()? == before {
        bail!("the snapshot does not see what the launcher does");
    }
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)?;
    compare(&before, &pod.snapshot()?)
}

/// The namespace must be as it was: the error names the lines that are not.
pub(super) fn compare(before: &str, after: &str) -> Result<()> {
    let lines = |text: &str, other: &str, mark: char| -> Vec<String> {
        text.lines()
            .filter(|line| !other.lines().any(|o| o == *line))
            .map(|line| format!("{mark} {line}"))
            .collect()
    };
    let mut differences = lines(before, after, '-');
    differences.extend(lines(after, before, '+'));
    if !differences.is_empty() || before.lines().count() != after.lines().count() {
        bail!("the pod's namespace is not as it was: {}", differences.join("; "));
    }
    Ok(())
}
