//! The cluster's name server as a guest asks it, by what DHCP said, and a guest's own name.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::service::{cluster_addresses, service};
use crate::cluster::api::{Cluster, Namespace, until};
use crate::cluster::client::Client;
use crate::cluster::guest::{Guest, PORT, SERVE, Wanted};

/// The first guest has a name of its own, its Service is its subdomain.
const BINDINGS: [&str; 3] = ["masquerade", "bridge", "passt"];
/// For a name server that was started to answer, and to know what was made since.
const KNOWN: Duration = Duration::from_secs(30);

pub(super) fn asked_by_guests(cluster: &Cluster) -> Result<()> {
    cluster.addons.dns(&cluster.kubectl)?;
    cluster.within("dns", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        namespace.apply(&[service("client")])?;
        let changes = [
            json!({"hostname": "box", "subdomain": "fleet"}),
            json!({}),
            // Otherwise passt opens all ports, which takes this node too long while others boot.
            json!({"domain": {"devices": {"interfaces": [
                {"name": "default", "passt": {}, "ports": [{"port": PORT}]}
            ]}}}),
        ];
        let guests = BINDINGS
            .iter()
            .zip(&changes)
            .map(|(binding, changes)| {
                let wanted = Wanted {
                    name: binding,
                    changes: Some(changes),
                    ..Wanted::by(binding)
                };
                Guest::start(namespace, wanted).context(*binding)
            })
            .collect::<Result<Vec<_>>>()?;
        let own = format!("box.fleet.{}.svc.cluster.local", namespace.name);
        let named = guests.first().context("no guest")?.addresses()?;
        for (guest, binding) in guests.iter().zip(BINDINGS) {
            guest.wait_for_both_families().context(binding)?;
            let [address, _] = guest.addresses()?;
            client.greet_within(address, PORT, SERVE).context(binding)?;
            resolves(namespace, &client, address, &own, named).context(binding)?;
        }

        // Whoever looks it up in a pod gets to the guest.
        for address in looked_up(&namespace.exec("client", &["nslookup", &own])?) {
            client.greet(address, PORT).context("at the guest's own name")?;
        }
        guests.into_iter().try_for_each(Guest::end)
    })
}

/// What the guest at `guest` finds of a Service and of a guest named `own`.
fn resolves(
    namespace: &Namespace<'_>,
    client: &Client<'_>,
    guest: IpAddr,
    own: &str,
    named: [IpAddr; 2],
) -> Result<()> {
    let config = client.execute(guest, "cat /etc/resolv.conf")?;
    let servers: Vec<IpAddr> = config
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok())
        .collect();
    let families = [IpAddr::is_ipv4, IpAddr::is_ipv6].map(|is| servers.iter().any(is));
    ensure!(
        families == [true, true],
        "the guest has not a name server of each family: {config}"
    );
    let domain = format!("{}.svc.cluster.local", namespace.name);
    let search = config.lines().find_map(|line| line.strip_prefix("search "));
    ensure!(
        search.is_some_and(|list| list.split(' ').any(|word| word == domain)),
        "{domain} is not searched: {config}"
    );

    let service = cluster_addresses(namespace, "client")?;
    let known = format!("client.{domain}");
    for server in servers {
        for (name, wanted) in [(known.as_str(), service.as_slice()), (own, &named)] {
            until(
                &format!("{server} answers with {name}'s addresses"),
                KNOWN,
                || {
                    let script = format!("nslookup {name} {server} || true");
                    let found = looked_up(&client.execute(guest, &script)?);
                    Ok(wanted.iter().all(|one| found.contains(one)).then_some(()))
                },
            )?;
        }
    }
    // By the search list; whatever family the guest chooses.
    let seen = client
        .execute(guest, "wget -q -T 10 -O - http://client/cgi-bin/who")
        .context("from the guest to a Service, by its name alone")?;
    ensure!(!seen.trim().is_empty(), "the Service said nothing");
    if named.contains(&guest) {
        return Ok(());
    }
    client
        .execute(guest, &format!("wget -q -T 10 -O - http://{own}:{PORT}/"))
        .context("from the guest to the guest with a name")
        .map(drop)
}

/// The addresses in an answer of nslookup, behind those of the server itself.
fn looked_up(answer: &str) -> Vec<IpAddr> {
    let (_, answer) = answer.split_once("\n\n").unwrap_or_default();
    answer
        .lines()
        .filter_map(|line| {
            line.strip_prefix("Address")?
                .rsplit_once(": ")?
                .1
                .trim()
                .parse()
                .ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_own_address_is_none_of_the_answers() {
        let answer = "Server:\t\t10.96.0.10\nAddress:\t10.96.0.10:53\n\n\
            Name:\tclient.svc\nAddress: 10.96.3.4\n\nName:\tclient.svc\nAddress: fd00:10:96::5\n\n";
        let wanted: Vec<IpAddr> = ["10.96.3.4", "fd00:10:96::5"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(looked_up(answer), wanted);
    }
}
