//! docs/pods.md's table: pods as the networks of clusters make them, times bindings, each run with real DHCP clients.
//!
//! A layout is made by a function in namespaces; it has what such a plugin leaves in a pod, and a node that answers as the
//! plugin's does. A cell says what became of the guest: it reaches the world and is reached in a family, or hawser refuses.

use std::net::{IpAddr, Ipv6Addr};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::Context;
use super::bridge::manifest as bridged;
use super::running::{Running, eventually};
use super::traffic::{TcpServer, reaches};
use crate::guests::{Client, Guest};
use crate::layouts::{Layout, layouts, refusal};
use crate::pods::{FAR4, FAR6, POD4, POD6, Pod, PodSpec, vmi};
use crate::report::Scenario;
use crate::standin_script::Script;

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "layouts of docs/pods.md: masquerade",
        run: |c| column(c, 0),
    },
    Scenario {
        name: "layouts of docs/pods.md: bridge",
        run: |c| column(c, 1),
    },
];

/// A binding's name, and a guest of it.
type Binding = (&'static str, fn() -> Value);

const BINDINGS: [Binding; 2] = [("masquerade", || vmi(Value::Null)), ("bridge", bridged)];

fn pod_of(context: &Context, layout: &Layout) -> Result<Pod> {
    let spec = PodSpec {
        by_cni: true,
        resolv_conf: layout.resolv.to_owned(),
        ..PodSpec::default()
    };
    let pod = Pod::new(&context.programs, spec)?;
    pod.node.set_sysctl("net.ipv6.conf.all.forwarding", "1")?;
    for command in &layout.node {
        pod.node.ip(&command.replace("POD", pod.netns.name()))?;
    }
    for command in &layout.pod {
        pod.netns.ip(command)?;
    }
    pod.settle_on(layout.interface)?;
    Ok(pod)
}

/// What becomes of the guest, in the words of the page.
fn outcome(context: &Context, layout: &Layout, vmi: &Value) -> Result<String> {
    let pod = pod_of(context, layout)?;
    let mut plan = pod.hawser_as(&pod.entry(), "plan", vmi, &["--output", "json"])?;
    if plan.wait_exit(super::running::WAIT)?.code() != Some(0) {
        return Ok(refusal(&plan.stderr()));
    }
    let text = serde_json::from_str::<Value>(&plan.stdout())?.to_string();
    let tap = text
        .split("\"tap\":\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let mut script = Script::default();
    script
        .ports
        .insert(tap.context("the plan has no TAP")?.to_owned(), pod.port());
    pod.script(&script)?;
    let mut guest = Guest::new(&pod)?;
    let hawser = pod.hawser("run", vmi)?;
    guest.booted_by(&hawser)?;
    let mut running = Running { hawser, guest, pod };
    works(&running, layout)?;
    running.stop_cleanly()?;
    Ok(if layout.v6 { "IPv4, IPv6" } else { "IPv4" }.to_owned())
}

fn works(running: &Running, layout: &Layout) -> Result<()> {
    let (guest, node) = (&running.guest.netns, &running.pod.node);
    let any6 = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let _in_guest = TcpServer::start(guest, "guest", (any6, 80))?;
    let _in_node = TcpServer::start(node, "node", (any6, 8080))?;
    let route4 = || -> Result<()> {
        let routes = guest.ip("-4 route show default")?;
        ensure!(routes.contains("default"), "no IPv4 default route: {routes}");
        Ok(())
    };
    for client in [Client::Udhcpc, Client::Dhclient] {
        let clients = running.guest.client_of(client, "-4")?;
        eventually(running, &clients, route4)?;
        running.explain(reaches(guest, (FAR4, 8080), "node"))?;
        running.explain(reaches(node, (POD4, 80), "guest"))?;
        drop(clients);
        if client == Client::Udhcpc {
            guest.ip("-4 address flush dev eth0")?;
        }
    }
    if layout.v6 {
        let clients = running.guest.client_of(Client::Dhclient, "-6")?;
        eventually(running, &clients, || {
            let addresses = guest.ip("-6 -o address show dev eth0 scope global -tentative")?;
            ensure!(!addresses.is_empty(), "no IPv6 address");
            let routes = running.guest.default6()?;
            ensure!(routes.contains("default"), "no IPv6 default route");
            Ok(())
        })?;
        running.explain(reaches(guest, (FAR6, 8080), "node"))?;
        running.explain(reaches(node, (POD6, 80), "guest"))?;
    }
    Ok(())
}

/// All that is wrong in one go, so that the page can be put right in one go.
fn column(context: &Context, binding: usize) -> Result<()> {
    let (name, vmi) = BINDINGS.get(binding).context("no such binding")?;
    let mut wrong = Vec::new();
    for layout in layouts().into_iter().filter(|layout| !layout.in_the_lab_alone) {
        let written = layout.written(name);
        let found = outcome(context, &layout, &vmi()).unwrap_or_else(|error| format!("{error:#}"));
        if written != found {
            wrong.push(format!(
                "{} with {name}: docs/pods.md says {written:?}, found {found:?}",
                layout.name
            ));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}
