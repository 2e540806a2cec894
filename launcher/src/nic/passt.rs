//! Passt: the guest's connections are the pod's own sockets.
//!
//! - From the pod: nothing but two sysctls where they are not so already. Its interface is not touched, and hawser needs
//!   no capability. A passt process per NIC takes the guest's frames and makes of each connection a socket of the pod.
//! - From the VMM: a vhost-user NIC of one queue pair, with the guest's memory shared; between the two stands a relay
//!   that outlives passt (`vhost_relay`).
//! - From DHCP: nothing of ours. passt has servers for DHCP, DHCPv6 and router advertisements of its own; its arguments
//!   are what it offers.
//! - Who gives the IP: passt, and it is the pod's own address of each family.
//! - Migration: the guest keeps its addresses, which the target's passt keeps offering; so do its open connections, where
//!   the pods' addresses are the same and both launchers can use passt-repair.

use hawser_netsetup::{GuestNic, Handed, Nic, Passt, Wiring};

use super::attachment::{Attachment, Device};
use super::explain::{Explanation, Hop, ports_text};
use super::lease::search_list;
use super::{Context, Daemon, Kind, Source, own_mac, tap};
use crate::daemons::passt::{Command, Frontend, forwards_all_text};
use crate::may_migrate::MayMigrate;
use crate::pod::networks::{PodInterface, pod_interface};
use crate::spec::{GuestSpec, Interface, Ports};
use crate::vmm::config::NetConfig;

pub(super) static ROW: Kind = Kind {
    name: "passt",
    needs_tap: false,
    pod_interface: PodInterface::Wanted,
    device: Source::Wired { nic, attach },
    has_pods_addresses: false,
    daemon: Some(Daemon::Passt),
    notes,
    may_migrate: |_, _, _| may_migrate(),
    explain: |guest, interface, _| explain(guest, interface),
};

/// What this interface wants from the pod's namespace.
fn nic(guest: &GuestSpec, interface: &Interface) -> Nic {
    let lowest_port = match &interface.ports {
        Ports::All => Some(1),
        Ports::Listed(list) => list.iter().map(|range| range.first).min(),
    };
    let wiring = Wiring::Passt(Passt {
        lowest_port,
        all_ports: interface.ports == Ports::All,
    });
    Nic {
        queue_pairs: 1,
        ..tap::nic(guest, interface, wiring)
    }
}

fn attach(context: &Context<'_>, interface: &Interface, nic: &GuestNic) -> Attachment {
    let Context {
        guest,
        resolv,
        directory,
    } = context;
    let search = search_list(guest, resolv);
    let command = |handed| {
        let (ports, hostname) = (&interface.ports, &guest.hostname);
        Command::new(
            nic,
            handed,
            ports,
            super::kept_tcp(guest),
            hostname,
            resolv,
            &search,
        )
    };
    Attachment {
        device: Device::Net(NetConfig::vhost_user(nic, &Frontend::path(directory))),
        server: None,
        passt: nic.passt().map(command),
    }
}

/// What the guest is offered, as text.
pub(super) fn addresses(handed: &Handed) -> impl Iterator<Item = String> {
    let v4 = handed.v4.map(|v4| format!("{}/{}", v4.address, v4.prefix_len));
    v4.into_iter().chain(handed.v6.map(|v6| v6.to_string()))
}

/// What is to be known although nothing is wrong.
fn notes(guest: &GuestSpec, interface: &Interface) -> Vec<String> {
    if guest.network_interface_multiqueue == Some(true) {
        return vec![format!(
            "{}: passt has one queue pair: networkInterfaceMultiqueue is without effect here",
            interface.path
        )];
    }
    Vec::new()
}

fn may_migrate() -> MayMigrate {
    MayMigrate::yes(
        "the guest keeps its MAC and addresses, which the target's passt keeps offering; others then use the target pod's; open \
         connections go on where those are the same and both launchers have NET_ADMIN and passt-repair, and are reset otherwise",
    )
}

/// What is asked about this interface.
fn explain(guest: &GuestSpec, interface: &Interface) -> Explanation {
    let pod = pod_interface(&interface.network);
    Explanation {
        interface: interface.name.clone(),
        binding: ROW.label(interface),
        ip_from: "passt, by its own DHCP, DHCPv6 and router advertisements, with what hawser reads from the pod".into(),
        guest_address: format!("that of {pod}, of each family; by SLAAC one more in its /64, which is seen inside the guest only"),
        mac: own_mac::text(guest, interface),
        others_use: "the same address".into(),
        ports: if interface.ports == Ports::All {
            forwards_all_text()
        } else {
            ports_text(&interface.ports)
        },
        mtu: format!("that of {pod}, by DHCP option 26 and router advertisement (passt's own default would be 65520)"),
        queue_pairs: 1,
        migration: may_migrate(),
        privileges: vec![
            "no capability (NET_ADMIN is used, where the container has it, to take open connections along in a migration); \
             passt must be allowed a user namespace (the container's seccomp profile)"
                .into(),
            "net.ipv4.ping_group_range with the group, for the guest to ping, and net.ipv4.ip_unprivileged_port_start no \
             higher than its lowest port: set by the pod where /proc/sys is read-only"
                .into(),
        ],
        devices: vec!["/dev/kvm".into()],
        cost: "a process of 17 MB and a copy of each byte in user space; guest memory is shared memory; a socket for \
               each port that is forwarded, which without a list are some 75000 and 260 MB of the kernel's memory"
            .into(),
        path: vec![Hop::new(&pod, "sockets"), Hop::new("passt", "vhost-user")],
        pod_interface: pod,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(interface: &str, devices: &str) -> GuestSpec {
        let manifest = format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web, namespace: shop}}, spec: {{
               domain: {{memory: {{guest: 256Mi}}, cpu: {{cores: 4}},
                 firmware: {{kernelBoot: {{container: {{image: g, kernelPath: /k}}}}}},
                 devices: {{interfaces: [{{name: default, passt: {{}} {interface}}}] {devices}}}}},
               networks: [{{name: default, pod: {{}}}}]}}}}"
        );
        crate::spec::load(&manifest).unwrap().spec
    }

    #[test]
    fn one_queue_pair_whatever_is_asked_and_a_note_when_more_is() {
        let spec = guest("", "");
        assert_eq!(nic(&spec, &spec.interfaces[0]).queue_pairs, 1);
        assert!(notes(&spec, &spec.interfaces[0]).is_empty());
        let spec = guest("", ", networkInterfaceMultiqueue: true");
        assert_eq!(nic(&spec, &spec.interfaces[0]).queue_pairs, 1);
        let notes = notes(&spec, &spec.interfaces[0]);
        assert!(notes[0].contains("networkInterfaceMultiqueue"), "{notes:?}");
    }

    #[test]
    fn the_lowest_port_is_what_the_pod_has_to_allow() {
        let lowest = |ports: &str| {
            let spec = guest(ports, "");
            match nic(&spec, &spec.interfaces[0]).wiring {
                Wiring::Passt(passt) => (passt.lowest_port, passt.all_ports),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(lowest(""), (Some(1), true));
        assert_eq!(
            lowest(", ports: [{port: 8080}, {port: 53, protocol: UDP}]"),
            (Some(53), false)
        );
    }

    #[test]
    fn who_gives_the_ip() {
        let spec = guest(", ports: [{port: 80}]", "");
        let text = crate::nic::explanation_text(&crate::nic::explain(&spec, &[]));
        for expected in [
            "interface default: passt on eth0\n",
            "IP given by  passt",
            "ports        TCP 80\n",
            "queue pairs  1\n",
            "can migrate  yes: the guest keeps its MAC and addresses",
            "privileges   no capability",
            "devices      /dev/kvm\n",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
}
