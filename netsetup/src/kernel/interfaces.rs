//! The interfaces' names, and which of them the pod's own packets leave by. Without netlink, so that a command that only
//! explains a manifest needs no runtime.

use std::collections::BTreeSet;
use std::fs;

/// Flags of a route (linux/route.h).
const UP: u32 = 1;
const REJECT: u32 = 0x200;

/// An interface of the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    /// A default route of the main table leads out here.
    pub has_default_route: bool,
}

/// All of them. Needs no privilege and changes nothing.
pub fn interfaces() -> Vec<Interface> {
    let names = nix::net::if_::if_nameindex();
    let names: Vec<String> = names.map_or_else(
        |_| Vec::new(),
        |all| {
            all.iter()
                .map(|one| one.name().to_string_lossy().into_owned())
                .collect()
        },
    );
    let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
    let defaults = with_default_route(&read("route"), &read("ipv6_route"));
    let interface = |name: String| Interface {
        has_default_route: defaults.contains(&name),
        name,
    };
    names.into_iter().map(interface).collect()
}

/// Of the two files of /proc/net (proc_pid_net(5)), which have the main table.
fn with_default_route(v4: &str, v6: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let usable = |flags: &str| u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & (UP | REJECT) == UP);
    for line in v4.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [name, "00000000", _, flags, _, _, _, "00000000", ..] = words.as_slice()
            && usable(flags)
        {
            names.insert((*name).to_owned());
        }
    }
    for line in v6.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [destination, "00", _, _, _, _, _, _, flags, name] = words.as_slice()
            && destination.bytes().all(|digit| digit == b'0')
            && usable(flags)
        {
            names.insert((*name).to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leads_out_by_default() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                  tap0\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth1\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                  *\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0\n\
                  eth2\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n";
        let zero = "00000000000000000000000000000000";
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     ens5\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n\
             fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth1\n"
        );
        let found: Vec<_> = with_default_route(v4, &v6).into_iter().collect();
        assert_eq!(found, ["ens5", "tap0"]);
    }
}
