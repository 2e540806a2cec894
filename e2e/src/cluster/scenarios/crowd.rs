//! Many guests on one node.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::api::{Cluster, until};
use crate::cluster::client::Client;
use crate::cluster::guest::{Guest, PORT, Wanted};
use crate::cluster::operator::Operator;
use crate::lab::process::progress;

const GUESTS: usize = 10;
/// For all of them to boot, one emulated processor between them.
const ALL: Duration = Duration::from_secs(600);
/// For all of them to go.
const GONE: Duration = Duration::from_secs(240);

pub(super) fn ten_guests(cluster: &Cluster) -> Result<()> {
    cluster.within("crowd", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let started = Instant::now();
        let changes = json!({"domain": {
            "memory": {"guest": "128Mi"},
            "resources": {"requests": {"cpu": "20m"}},
        }});
        let names: Vec<String> = (0..GUESTS).map(|number| format!("guest-{number}")).collect();
        let guests = names
            .iter()
            .map(|name| {
                let wanted = Wanted {
                    name,
                    changes: Some(&changes),
                    ..Wanted::by("masquerade")
                };
                Guest::start(namespace, wanted).context(name.clone())
            })
            .collect::<Result<Vec<_>>>()?;
        progress(format!(
            "{GUESTS} containers run after {:.0} s",
            started.elapsed().as_secs_f64()
        ));
        let mut waiting: BTreeSet<usize> = (0..GUESTS).collect();
        let mut addresses = BTreeSet::new();
        until("all guests answer", ALL, || {
            for number in waiting.clone() {
                let guest = guests.get(number).context("no such guest")?;
                let [address, _] = guest.addresses()?;
                if guest.is_ready()? && client.greet(address, PORT).is_ok() {
                    progress(format!(
                        "{} answers after {:.0} s",
                        names.get(number).map_or("?", String::as_str),
                        started.elapsed().as_secs_f64()
                    ));
                    addresses.insert(address);
                    waiting.remove(&number);
                }
            }
            Ok(waiting.is_empty().then_some(()))
        })?;

        ensure!(addresses.len() == GUESTS, "guests share addresses: {addresses:?}");
        let mut macs = BTreeSet::new();
        for address in &addresses {
            // What one writes none of the others finds.
            let script = "[ ! -e /tmp/mine ] && touch /tmp/mine && cat /sys/class/net/eth0/address";
            macs.insert(client.execute(*address, script)?);
        }
        ensure!(macs.len() == GUESTS, "guests share MACs: {macs:?}");
        let node = guests.first().context("no guest")?.node()?;
        let operator = Operator::start(namespace, &node)?;
        let users = operator.on_the_node("for one in $(pidof hawser); do cat /proc/$one/uid_map; done")?;
        let users: BTreeSet<&str> = users.lines().collect();
        ensure!(users.len() == GUESTS, "pods share users of the node: {users:?}");
        for guest in &guests {
            guest.expect_running()?;
        }

        let ending = Instant::now();
        let mut words = vec!["delete", "pod", "--wait=false"];
        words.extend(names.iter().map(String::as_str));
        namespace.run(&words)?;
        until("all guests are gone", GONE, || {
            let text = namespace.run(&["get", "pods", "--output", "json"])?;
            let list: Value = serde_json::from_str(&text).context("kubectl prints no JSON")?;
            let left = list.get("items").and_then(Value::as_array).into_iter().flatten();
            let name = |pod: &Value| {
                pod.pointer("/metadata/name")
                    .and_then(Value::as_str)
                    .map(str::to_owned)
            };
            Ok((!left.filter_map(name).any(|name| names.contains(&name))).then_some(()))
        })?;
        progress(format!("all gone after {:.0} s", ending.elapsed().as_secs_f64()));
        for guest in &guests {
            guest.said("guest: power button", GONE)?;
        }
        Ok(())
    })
}
