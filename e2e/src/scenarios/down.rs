//! An interface with `state: down`: the guest has its NIC, and nothing passes, whatever the guest does about it.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Context;
use super::running::Running;
use crate::pods::{NODE4, PodSpec, set, vmi};
use crate::process::output;
use crate::report::Scenario;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "a guest that configures itself reaches nobody, and the pod is left as it was",
        run: silent,
    },
    Scenario {
        name: "an absent interface's network need not be there",
        run: absent,
    },
];

fn reaches(context: &Context, state: &str) -> Result<bool> {
    let mut vmi = vmi(Value::Null);
    set(&mut vmi, "/spec/domain/devices/interfaces/0/state", json!(state));
    let mut running = Running::start(context, PodSpec::default(), &vmi)?;
    running.guest.configure4()?;
    let mut ping = running
        .guest
        .command("ping", &["-c", "2", "-W", "1", &NODE4.to_string()])?;
    let reached = output(&mut ping).is_ok();
    if state == "down" {
        let said = running.hawser.stderr();
        ensure!(said.contains("interfaces[0].state: no frame passes"), "{said}");
        let before = running.pod.netns.ip("-o address show dev eth0")?;
        ensure!(before.contains("10.244.0.5/24"), "{before}");
    }
    running.stop_cleanly()?;
    Ok(reached)
}

fn silent(context: &Context) -> Result<()> {
    ensure!(reaches(context, "up")?, "the control does not work");
    ensure!(!reaches(context, "down")?, "a link that is down carries a ping");
    Ok(())
}

fn absent(context: &Context) -> Result<()> {
    let mut vmi = vmi(Value::Null);
    let interfaces = json!([
        {"name": "default", "masquerade": {}}, {"name": "gone", "bridge": {}, "state": "absent"},
    ]);
    let networks = json!([
        {"name": "default", "pod": {}}, {"name": "gone", "multus": {"networkName": "gone"}},
    ]);
    set(&mut vmi, "/spec/domain/devices/interfaces", interfaces);
    set(&mut vmi, "/spec/networks", networks);
    let mut running = Running::start(context, PodSpec::default(), &vmi)?;
    let said = running.hawser.stderr();
    ensure!(
        said.contains("interfaces[1].state: the guest gets no such NIC"),
        "{said}"
    );
    running.stop_cleanly()
}
