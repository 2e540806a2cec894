//! docs/pods.md's table with real guests: passt in every pod, and every binding in those pods that the kernel of whoever runs
//! the tests may not be able to make. hawser's other cells are `cargo e2e test --only namespace layouts`.

use std::net::IpAddr;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use super::lifecycle::END;
use super::masquerade::BOOT;
use super::passt::PING;
use super::vmi;
use crate::lab::node::Lab;
use crate::lab::node::guest::{self, PORT, WhoAmI};
use crate::lab::node::pod::{FORWARD_IPV6, Launcher, Pod, ROOT};
use crate::lab::process::output;
use crate::layouts::{Layout, layouts, refusal};
use crate::netns::Netns;
use crate::pods::{FAR4, FAR6, POD4, POD6};

const BINDINGS: [&str; 3] = ["masquerade", "bridge", "passt"];

pub(super) fn as_the_page_says(lab: &Lab) -> Result<()> {
    let mut wrong = Vec::new();
    for (number, layout) in layouts().iter().enumerate() {
        for binding in BINDINGS {
            if binding != "passt" && !layout.in_the_lab_alone {
                continue;
            }
            let written = layout.written(binding);
            lab.step(format!("{binding} in {}", layout.name));
            let name = format!("row-{number}-{binding}");
            let found = outcome(lab, layout, binding, &name).unwrap_or_else(|error| format!("{error:#}"));
            if written != found {
                wrong.push(format!(
                    "{} with {binding}: docs/pods.md says {written:?}, found {found:?}",
                    layout.name
                ));
            }
        }
    }
    // All that is wrong in one go, so that the page can be put right in one go.
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// What becomes of the guest, in the words of the page.
fn outcome(lab: &Lab, layout: &Layout, binding: &str, name: &str) -> Result<String> {
    let pod = Pod::create(lab, name, &[FORWARD_IPV6, PING])?;
    let node = Netns::new("node")?;
    arrange(&pod, &node, layout).context("making the pod's network")?;
    let mut manifest = vmi::masquerade(name, &[]);
    vmi::set(
        &mut manifest,
        "/spec/domain/devices/interfaces",
        json!([{"name": "default", binding: {}}]),
    );
    pod.set_manifest(&manifest)?;
    let mut plan = pod.launch("plan", ROOT)?;
    if plan.exit_code(END)? != 0 {
        return Ok(refusal(&plan.console.last(8).replace(" | ", "\n")));
    }
    drop(plan);
    let launcher = pod.launch("run", ROOT)?;
    works(&launcher, &node, layout)?;
    let mut launcher = launcher;
    launcher.signal("TERM")?;
    launcher.expect_exit(0, END)?;
    Ok(if layout.v6 { "IPv4, IPv6" } else { "IPv4" }.to_owned())
}

/// The pod loses the network that podman made, and has the layout's instead, whose other end is in a namespace that stands in for
/// the cluster's node.
fn arrange(pod: &Pod<'_>, node: &Netns, layout: &Layout) -> Result<()> {
    pod.run("ip link delete eth0")?;
    for key in ["accept_dad", "router_solicitations"] {
        let key = format!("net.ipv6.conf.default.{key}");
        node.set_sysctl(&key, "0")?;
        pod.run(&format!("sysctl -q -w {key}=0"))?;
    }
    node.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
    for address in [format!("{FAR4}/32"), format!("{FAR6}/128")] {
        node.ip(&format!("address add {address} dev lo"))?;
    }
    // `ip` knows namespaces by name.
    let namespace = pod.namespace();
    let process = namespace.iter().nth(2).and_then(|name| name.to_str());
    let named = pod.name();
    output(Command::new("ip").args(["netns", "attach", named, process.context("no process")?]))?;
    let made = commands(pod, node, layout, named);
    output(Command::new("ip").args(["netns", "delete", named]))?;
    made
}

fn commands(pod: &Pod<'_>, node: &Netns, layout: &Layout, named: &str) -> Result<()> {
    for command in &layout.node {
        node.ip(&command.replace("POD", named))?;
    }
    for command in &layout.pod {
        pod.run(&format!("ip {command}"))?;
    }
    Ok(())
}

fn works(launcher: &Launcher<'_>, node: &Netns, layout: &Layout) -> Result<()> {
    let console = &launcher.console;
    console.wait_for("guest: ipv4 eth0 ", BOOT)?;
    let mut families: Vec<(IpAddr, IpAddr)> = vec![(POD4.into(), FAR4.into())];
    if layout.v6 {
        console.wait_for("guest: ipv6-route eth0 default ", BOOT)?;
        console.wait_for("guest: ipv6 eth0 ", BOOT)?;
        families.push((POD6.into(), FAR6.into()));
    }
    for (pod, far) in families {
        let server = node.run(|| WhoAmI::listen(far))?;
        let host = match far {
            IpAddr::V4(far) => far.to_string(),
            IpAddr::V6(far) => format!("[{far}]"),
        };
        let fetch = format!("wget -q -T 10 -O - http://{host}:{}/", server.port);
        let seen = node.run(|| {
            guest::greet_within(pod, PORT, BOOT).context("the guest is not reached")?;
            guest::execute(pod, &fetch).context("the guest does not reach others")
        })?;
        // An address of the pod's: which one depends on its routes.
        let own = launcher.pod().run("ip -o address show scope global")?;
        ensure!(
            own.contains(&format!(" {}/", seen.trim())),
            "others see {}, which is not the pod's: {own}",
            seen.trim()
        );
    }
    Ok(())
}
