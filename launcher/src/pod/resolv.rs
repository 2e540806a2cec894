//! The pod's resolv.conf (resolv.conf(5)) as the guest is told it.

use std::net::IpAddr;

/// Name servers and search list, and what was left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolv {
    pub(crate) nameservers: Vec<IpAddr>,
    pub(crate) search: Vec<String>,
    /// The cluster's API.
    pub(crate) api: Option<IpAddr>,
    /// One line for each server that no guest could reach.
    pub(crate) notes: Vec<String>,
}

/// Where a pod finds the API of its cluster.
const API: &str = "KUBERNETES_SERVICE_HOST";

impl Resolv {
    /// The first of each family on the pod's loopback.
    pub(crate) fn resolvers(&self) -> Vec<IpAddr> {
        let first = |v4: bool| {
            let mut all = self.nameservers.iter().copied();
            all.find(|ip| ip.is_loopback() && ip.is_ipv4() == v4)
        };
        [true, false].into_iter().filter_map(first).collect()
    }

    /// What the pod is known to reach outside of itself.
    pub(crate) fn peers(&self) -> Vec<IpAddr> {
        let outside = self.nameservers.iter().copied().filter(|ip| !ip.is_loopback());
        outside.chain(self.api).collect()
    }
}

const PATH: &str = "/etc/resolv.conf";

/// Reads the pod's own. A pod without one has no name servers.
pub(crate) fn read() -> Resolv {
    let resolv = match std::fs::read(PATH) {
        Ok(text) => parse(&String::from_utf8_lossy(&text)),
        Err(error) => Resolv {
            notes: vec![format!("{PATH}: {error}: the guest gets no DNS server")],
            ..Resolv::default()
        },
    };
    let api = std::env::var(API).ok().and_then(|host| host.parse().ok());
    Resolv { api, ..resolv }
}

pub(crate) fn parse(text: &str) -> Resolv {
    let mut resolv = Resolv::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                if let Some(word) = words.next() {
                    nameserver(&mut resolv, word);
                }
            }
            // The last one counts, and `domain` is an old way to say a search list of one.
            Some("search" | "domain") => {
                resolv.search = words
                    .map(|name| name.trim_end_matches('.').to_owned())
                    .filter(|name| !name.is_empty())
                    .collect();
            }
            _ => {}
        }
    }
    if resolv.nameservers.is_empty() && resolv.notes.is_empty() {
        resolv
            .notes
            .push(format!("{PATH}: lists no DNS server: the guest gets none"));
    }
    resolv
}

/// Whether a guest can reach a server on the pod's loopback, or by a link-local IPv4 address, depends on the guest's NIC.
fn nameserver(resolv: &mut Resolv, word: &str) {
    let bare = word.split('%').next().unwrap_or(word);
    let Ok(ip) = bare.parse::<IpAddr>() else {
        resolv
            .notes
            .push(format!("{PATH}: nameserver {word:?} is not an address: ignored"));
        return;
    };
    let kind = match ip {
        IpAddr::V6(ip) if ip.is_unicast_link_local() => "a link-local address",
        ip if ip.is_unspecified() || ip.is_multicast() => "no unicast address",
        _ => {
            if !resolv.nameservers.contains(&ip) {
                resolv.nameservers.push(ip);
            }
            return;
        }
    };
    resolv.notes.push(format!(
        "{PATH}: nameserver {ip} is {kind}, which the guest cannot reach: ignored"
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_both_families_and_the_last_search_list() {
        let resolv = parse(
            "# made by the kubelet\ndomain old.example\nsearch ns.svc.cluster.local. svc.cluster.local\n\
             nameserver 10.96.0.10\nnameserver fd00::a\nnameserver 10.96.0.10\noptions ndots:5\n",
        );
        assert_eq!(
            resolv.nameservers,
            [
                "10.96.0.10".parse::<IpAddr>().unwrap(),
                "fd00::a".parse().unwrap()
            ]
        );
        assert_eq!(resolv.search, ["ns.svc.cluster.local", "svc.cluster.local"]);
        assert!(resolv.notes.is_empty());
    }

    #[test]
    fn what_the_guest_cannot_reach_is_left_out_and_said() {
        let resolv = parse("nameserver fe80::1%eth0\nnameserver 0.0.0.0\nnameserver x\n");
        assert!(resolv.nameservers.is_empty());
        assert_eq!(resolv.notes.len(), 3, "{:?}", resolv.notes);
        assert!(resolv.notes[0].contains("fe80::1"));
    }

    #[test]
    fn servers_on_the_loopback_and_those_that_are_elsewhere() {
        let resolv = parse(
            "nameserver 127.0.0.11\nnameserver ::1\nnameserver 127.0.0.53\nnameserver 169.254.25.10\nnameserver 10.0.2.3\n",
        );
        let ips = |list: &[&str]| -> Vec<IpAddr> { list.iter().map(|ip| ip.parse().unwrap()).collect() };
        assert_eq!(resolv.resolvers(), ips(&["127.0.0.11", "::1"]));
        assert_eq!(resolv.peers(), ips(&["169.254.25.10", "10.0.2.3"]));
        assert!(resolv.notes.is_empty(), "{:?}", resolv.notes);
    }

    #[test]
    fn an_empty_file_is_said_too() {
        assert_eq!(parse("").notes.len(), 1);
    }
}
