//! `spec.networks`: one source each, one primary network, and guest networks that can hold a guest.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use serde_json::Value;

use super::one_of::exactly_one;
use super::paths;
use crate::document::fields::List;
use crate::document::report::{FieldPath, Report, quoted};
use crate::document::text::{given, is_dns_name};
use crate::guest::{Claim, Network, NetworkSource};
use crate::v1::net;

/// KubeVirt's fields for a source, of which a network has exactly one.
const SOURCE_FIELDS: &[&str] = &["pod", "multus", "resourceClaim", "genie"];

/// The networks by name; of those with the same name the first. `absent` tells of an interface that the guest is not to have.
pub(crate) fn resolve(
    networks: &List<net::Network>,
    claims: &List<net::ResourceClaim>,
    absent: &dyn Fn(&str) -> bool,
    raw: &Value,
    report: &mut Report,
) -> BTreeMap<String, Network> {
    single_primary(networks, report);
    unmixed(networks, report);
    let mut by_name = BTreeMap::new();
    let mut secondary = 0_usize;
    for (index, network) in networks.iter() {
        let path = paths::network(index);
        // Multus does not count those that the pod is not on.
        let is_there = !given(&network.name).is_some_and(absent);
        let is_secondary = is_there && network.multus.as_ref().is_some_and(|multus| !multus.default);
        secondary = secondary.saturating_add(usize::from(is_secondary));
        if network.name.as_deref() == Some("") {
            report.refuse(path.key("name"), "required");
        }
        let source = source(network, index, claims, raw, report);
        if let (Some(name), Some(source)) = (given(&network.name), source) {
            let network = Network {
                name: name.to_owned(),
                path: report.in_place(path).to_string(),
                source,
                ordinal: is_secondary.then_some(secondary),
                pod_interface: None,
            };
            by_name.entry(name.to_owned()).or_insert(network);
        }
    }
    by_name
}

/// The pod has one primary network: its own, or the Multus default in its place.
fn single_primary(networks: &List<net::Network>, report: &mut Report) {
    let mut pod = None;
    let mut default = None;
    for (index, network) in networks.iter() {
        if network.pod.is_some() {
            match pod {
                None => pod = Some(index),
                Some(first) => {
                    let message = format!("only one pod network, and networks[{first}] is one already");
                    report.refuse(paths::network(index).key("pod"), message);
                }
            }
        }
        if network.multus.as_ref().is_some_and(|multus| multus.default) {
            match default {
                None => default = Some(index),
                Some(first) => {
                    let message = format!("only one Multus default, and networks[{first}] is one already");
                    report.refuse(paths::network(index).key("multus").key("default"), message);
                }
            }
        }
    }
    if let (Some(pod), Some(default)) = (pod, default) {
        let message = format!("it would replace the pod network, and networks[{pod}] is that");
        report.refuse(paths::network(default).key("multus").key("default"), message);
    }
}

/// As KubeVirt has it: Multus and Dynamic Resource Allocation do not share a pod, and a request is one device.
fn unmixed(networks: &List<net::Network>, report: &mut Report) {
    let multus = networks.iter().find(|(_, network)| network.multus.is_some());
    let mut seen = BTreeMap::new();
    for (index, network) in networks.iter() {
        let Some(claim) = &network.resource_claim else {
            continue;
        };
        let path = paths::network(index).key("resourceClaim");
        if let Some((multus, _)) = multus {
            report.refuse(
                path.clone(),
                format!("not together with Multus, which networks[{multus}] is of"),
            );
        }
        if let Some(first) = seen.insert((&claim.claim_name, &claim.request_name), index) {
            report.refuse(path, format!("the same as that of networks[{first}]"));
        }
    }
}

fn source(
    network: &net::Network,
    index: usize,
    claims: &List<net::ResourceClaim>,
    raw: &Value,
    report: &mut Report,
) -> Option<NetworkSource> {
    let path = paths::network(index);
    let expected = "of pod, multus and resourceClaim";
    exactly_one(
        raw,
        ("/spec/networks", index),
        SOURCE_FIELDS,
        expected,
        &path,
        report,
    );
    if let Some(pod) = &network.pod {
        let path = path.key("pod");
        return Some(NetworkSource::Pod {
            vm_network_cidr: given(&pod.vm_network_cidr).and_then(|text| {
                ipv4(text)
                    .map_err(|p| report.refuse(path.key("vmNetworkCIDR"), p))
                    .ok()
            }),
            vm_ipv6_network_cidr: given(&pod.vm_ipv6_network_cidr).and_then(|text| {
                ipv6(text)
                    .map_err(|p| report.refuse(path.key("vmIPv6NetworkCIDR"), p))
                    .ok()
            }),
        });
    }
    if let Some(request) = &network.resource_claim {
        return claim(request, claims, &path.key("resourceClaim"), report).map(NetworkSource::ResourceClaim);
    }
    let multus = network.multus.as_ref()?;
    if multus.network_name.as_deref() == Some("") {
        report.refuse(path.key("multus").key("networkName"), "required");
    }
    Some(NetworkSource::Multus {
        network_name: multus.network_name.clone()?,
        default: multus.default,
    })
}

/// Names of both become parts of a path.
pub(crate) fn claim(
    request: &net::ClaimRequest,
    claims: &List<net::ResourceClaim>,
    path: &FieldPath,
    report: &mut Report,
) -> Option<Claim> {
    let mut name = |text: &Option<String>, field: &str| {
        let text = text.as_deref()?;
        if text.is_empty() {
            report.refuse(path.key(field), "required");
        } else if !is_dns_name(text) {
            let form = "expected a DNS name in lower case";
            report.refuse(path.key(field), format!("{form}, found {}", quoted(text)));
        } else {
            return Some(text.to_owned());
        }
        None
    };
    let claim = name(&request.claim_name, "claimName");
    let request = name(&request.request_name, "requestName");
    let claim = claim?;
    let Some((index, entry)) = claims
        .iter()
        .find(|(_, entry)| entry.name.as_ref() == Some(&claim))
    else {
        let problem = format!("no entry of spec.resourceClaims is named {}", quoted(&claim));
        report.refuse(path.key("claimName"), problem);
        return None;
    };
    let existing = given(&entry.resource_claim_name);
    let of = FieldPath::of("spec.resourceClaims").index(index);
    match (existing, given(&entry.resource_claim_template_name)) {
        (Some(name), None) if !is_dns_name(name) => {
            let form = "expected a DNS name in lower case";
            report.refuse(
                of.key("resourceClaimName"),
                format!("{form}, found {}", quoted(name)),
            );
            return None;
        }
        (Some(_), None) | (None, Some(_)) => {}
        _ => {
            report.refuse(
                of,
                "expected exactly one of resourceClaimName and resourceClaimTemplateName",
            );
            return None;
        }
    }
    Some(Claim {
        name: claim,
        request: request?,
        existing: existing.map(str::to_owned),
    })
}

fn ipv4(text: &str) -> Result<Ipv4Net, String> {
    let net = parts(text)
        .and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok())
        .ok_or_else(|| {
            format!(
                "expected an IPv4 network such as 10.0.2.0/24, found {}",
                quoted(text)
            )
        })?;
    is_network(net, net.trunc())?;
    // Network, gateway, guest and broadcast: four addresses.
    is_large_enough(net.prefix_len(), 30)?;
    let reserved = [
        (Ipv4Addr::UNSPECIFIED, 8, "this network (RFC 1122)"),
        (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
        (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
        (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
        (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
    ];
    for (address, prefix, what) in reserved {
        let overlaps = |other: Ipv4Net| other.contains(&net) || net.contains(&other);
        if Ipv4Net::new(address, prefix).is_ok_and(overlaps) {
            return Err(format!("must not hold {what} addresses, found {net}"));
        }
    }
    Ok(net)
}

fn ipv6(text: &str) -> Result<Ipv6Net, String> {
    let net = parts(text)
        .and_then(|(address, prefix)| Ipv6Net::new(address, prefix).ok())
        .ok_or_else(|| {
            format!(
                "expected an IPv6 network such as fd10:0:2::/120, found {}",
                quoted(text)
            )
        })?;
    is_network(net, net.trunc())?;
    is_large_enough(net.prefix_len(), 126)?;
    let reserved = [
        // The unspecified address, loopback and the IPv4-compatible ones.
        (Ipv6Addr::UNSPECIFIED, 96, "loopback"),
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, "IPv4-mapped"),
        (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, "link-local"),
        (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, "multicast"),
    ];
    for (address, prefix, what) in reserved {
        let overlaps = |other: Ipv6Net| other.contains(&net) || net.contains(&other);
        if Ipv6Net::new(address, prefix).is_ok_and(overlaps) {
            return Err(format!("must not hold {what} addresses, found {net}"));
        }
    }
    Ok(net)
}

/// Address and prefix length. `ipnet` would read `010.0.2.0` as `10.0.2.0`, others as octal; the standard
/// library refuses it, as Go does.
fn parts<A: FromStr>(text: &str) -> Option<(A, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let plain = prefix.bytes().all(|b| b.is_ascii_digit()) && (prefix == "0" || !prefix.starts_with('0'));
    Some((address.parse().ok()?, prefix.parse().ok().filter(|_| plain)?))
}

fn is_network<T: PartialEq + fmt::Display>(net: T, network: T) -> Result<(), String> {
    if net == network {
        Ok(())
    } else {
        Err(format!("not a network address: {net} lies in {network}"))
    }
}

fn is_large_enough(prefix: u8, longest: u8) -> Result<(), String> {
    if prefix <= longest {
        Ok(())
    } else {
        Err(format!(
            "too small for a gateway and a guest: at most /{longest}, found /{prefix}"
        ))
    }
}
