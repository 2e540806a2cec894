//! A way into the guest that needs no network of it: its serial console.

use anyhow::{Result, ensure};

use super::lifecycle::END;
use super::masquerade::{BOOT, SERVE};
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT};
use crate::lab::node::pod::{Pod, ROOT};

/// A shell of the guest reads what is typed, and what it prints is shown.
pub(super) fn typed_at(lab: &Lab) -> Result<()> {
    let pod = Pod::create(lab, "console", &[])?;
    pod.set_manifest(&vmi::masquerade("console", &[]))?;
    let mut launcher = pod.launch("run", ROOT)?;
    launcher.console.wait_for("guest: ready", BOOT)?;
    guest::greet_within(pod.ipv4.into(), PORT, SERVE)?;
    guest::execute(pod.ipv4.into(), "setsid sh -i < /dev/ttyS0 > /dev/ttyS0 2>&1 &")?;
    let mut attached = launcher.exec_typing(&["hawser", "console"], "echo the answer is $((6 * 7))\r")?;
    // Not as it was typed: as the guest's shell has understood it.
    attached.console.wait_for("the answer is 42", SERVE)?;
    // What it printed before.
    ensure!(
        attached.console.last(2000).contains("guest: ready"),
        "{}",
        attached.console.last(20)
    );
    launcher.console.wait_for("the answer is 42", SERVE)?;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)?;
    attached.expect_exit(0, END)
}
