//! What is there afterwards, and that nothing of it is left in the end.

use std::collections::BTreeMap;

use hawser_netsetup::{Error, Plan, PortRange, Ports, Protocol, Step};

use crate::pod::{
    difference, everything, in_pod, json, masquerade, observed, outcome, plan, run, spec, sysctl,
};

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn the_kernel_has_what_the_plan_says() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        let (plan, _) = pod.wire(&spec()).await;
        assert!(plan.notes.is_empty(), "{:?}", plan.notes);

        let tap = &json("ip -d -j link show dev tap0")[0];
        assert_eq!(tap["address"], "02:00:00:00:00:00");
        assert_eq!(tap["mtu"], 1450);
        assert!(tap["flags"].to_string().contains("\"UP\""), "{tap}");
        let data = &tap["linkinfo"]["info_data"];
        assert_eq!(data["persist"], true);
        assert_eq!(data["multi_queue"], false);
        // A name where the machine has one for the number.
        for id in [&data["user"], &data["group"]] {
            let id = id.to_string().replace('"', "");
            assert!(id == "107" || id.starts_with(char::is_alphabetic), "{tap}");
        }
        let helper = &json("ip -d -j link show dev srv0")[0];
        assert!(helper["flags"].to_string().contains("NOARP"), "{helper}");

        assert_eq!(
            addresses("tap0"),
            ["10.0.2.1/24", "fd10:0:2::1/120", "fe80::1/64"]
        );
        assert_eq!(addresses("srv0"), [""; 0]);
        assert_eq!(run("ip -6 address show dev tap0 tentative"), "");
        let neighbours = run("ip neigh show dev tap0 nud permanent");
        for guest in ["10.0.2.2", "fd10:0:2::2"] {
            let wanted = format!("{guest} lladdr 02:aa:bb:cc:dd:ee PERMANENT");
            assert!(neighbours.contains(&wanted), "{neighbours}");
        }
        for path in [
            "ipv4/conf/eth0/forwarding",
            "ipv4/conf/tap0/forwarding",
            "ipv4/conf/tap0/route_localnet",
            "ipv6/conf/all/forwarding",
        ] {
            assert_eq!(sysctl(path), "1", "{path}");
        }
        for path in [
            "ipv4/conf/all/forwarding",
            "ipv4/conf/srv0/forwarding",
            "ipv4/conf/eth0/route_localnet",
        ] {
            assert_eq!(sysctl(path), "0", "{path}");
        }
        assert_eq!(loaded(), in_document(&plan));
    });
}

/// Kinds of nftables objects and how many there are of each.
type Census = BTreeMap<String, usize>;

fn loaded() -> Census {
    let listed = json("nft -j list ruleset");
    let mut census = Census::new();
    for object in listed["nftables"].as_array().unwrap() {
        for kind in object
            .as_object()
            .unwrap()
            .keys()
            .filter(|kind| *kind != "metainfo")
        {
            *census.entry(kind.clone()).or_default() += 1;
        }
    }
    census
}

fn in_document(plan: &Plan) -> Census {
    let mut census = Census::new();
    let documents = plan.steps.iter().filter_map(|step| match step {
        Step::Ruleset { document } => Some(document),
        _ => None,
    });
    for command in documents.flat_map(|document| document["nftables"].as_array().unwrap()) {
        for kind in command
            .as_object()
            .unwrap()
            .values()
            .flat_map(|object| object.as_object().unwrap().keys())
        {
            *census.entry(kind.clone()).or_default() += 1;
        }
    }
    census
}

fn addresses(link: &str) -> Vec<String> {
    let mut all: Vec<_> = json(&format!("ip -j address show dev {link}"))[0]["addr_info"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]))
        .collect();
    all.sort();
    all
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn taken_back_the_namespace_is_as_it_was() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        let before = everything();
        let (_, journal) = pod.wire(&spec()).await;
        assert_ne!(difference(&before, &everything()), [""; 0]);
        pod.undo(&journal).await;
        assert_eq!(difference(&before, &everything()), [""; 0]);
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn multi_queue_ports_and_istio_load_too() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        let mut spec = spec();
        spec.nics[0].queue_pairs = 4;
        masquerade(&mut spec).istio = true;
        masquerade(&mut spec).ports = Ports::Listed(vec![
            PortRange {
                protocol: Protocol::Tcp,
                first: 80,
                last: 80,
            },
            PortRange {
                protocol: Protocol::Tcp,
                first: 8000,
                last: 8999,
            },
            PortRange {
                protocol: Protocol::Udp,
                first: 53,
                last: 53,
            },
        ]);
        let (plan, _) = pod.wire(&spec).await;
        let tap = &json("ip -d -j link show dev tap0")[0];
        assert_eq!(tap["linkinfo"]["info_data"]["multi_queue"], true);
        assert_eq!(loaded(), in_document(&plan));
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn one_family_is_enough() {
    for (without, with) in [
        ("192.0.2.10/24", "fd10:0:2::1/120"),
        ("2001:db8::10/64", "10.0.2.1/24"),
    ] {
        in_pod(async move |pod| {
            let pod = pod.with_eth0();
            run(&format!("ip address del {without} dev eth0"));
            let before = everything();
            let (_, journal) = pod.wire(&spec()).await;
            assert!(addresses("tap0").contains(&with.to_owned()));
            pod.undo(&journal).await;
            assert_eq!(difference(&before, &everything()), [""; 0]);
        });
    }
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_pod_of_a_small_mtu_has_ipv4() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        run("ip link set eth0 mtu 1000");
        let before = everything();
        let (plan, journal) = pod.wire(&spec()).await;
        assert!(plan.nics[0].masqueraded().unwrap().v6.is_none());
        assert_eq!(addresses("tap0"), ["10.0.2.1/24"]);
        pod.undo(&journal).await;
        assert_eq!(difference(&before, &everything()), [""; 0]);
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_pod_whose_new_interfaces_have_no_ipv6_has_ipv4() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let before = everything();
        let (plan, journal) = pod.wire(&spec()).await;
        assert!(plan.notes[0].contains("disable_ipv6"), "{:?}", plan.notes);
        assert_eq!(addresses("tap0"), ["10.0.2.1/24"]);
        pod.undo(&journal).await;
        assert_eq!(difference(&before, &everything()), [""; 0]);
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn another_spec_in_the_same_namespace_leaves_nothing_of_the_first() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        let before = everything();
        let mut wanted = spec();
        masquerade(&mut wanted).v4 = "172.30.0.0/30".parse().unwrap();
        wanted.nics[0].queue_pairs = 2;
        let fresh = {
            let (_, journal) = pod.wire(&wanted).await;
            let fresh = outcome();
            pod.undo(&journal).await;
            fresh
        };
        pod.wire(&spec()).await;
        let (_, journal) = pod.wire(&wanted).await;
        assert_eq!(difference(&fresh, &outcome()), [""; 0]);
        pod.undo(&journal).await;
        assert_eq!(difference(&before, &everything()), [""; 0]);
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn what_is_not_ours_is_refused_untouched() {
    in_pod(async move |pod| {
        let _pod = pod.with_eth0();
        run("ip link add k6t-eth0 type bridge");
        let before = everything();
        let refusal = Plan::new(&spec(), &observed().await).unwrap_err();
        assert!(matches!(refusal, Error::NotOurs { .. }), "{refusal:?}");
        assert_eq!(difference(&before, &everything()), [""; 0]);
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_name_that_is_taken_is_left_to_its_owner() {
    for foreign in ["ip tuntap add tap0 mode tap", "ip link add srv0 type bridge"] {
        in_pod(async move |pod| {
            let pod = pod.with_eth0();
            run(foreign);
            let before = everything();
            let (plan, journal) = pod.wire(&spec()).await;
            assert!(
                !["tap0", "srv0"].contains(&plan.nics[0].tap().unwrap()),
                "{:?}",
                plan.nics
            );
            pod.undo(&journal).await;
            assert_eq!(difference(&before, &everything()), [""; 0]);
        });
    }
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn read_only_sysctls_leave_ipv4_and_say_what_ipv6_needs() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        let before = everything();
        run("mount --bind /proc/sys /proc/sys");
        run("mount -o remount,bind,ro /proc/sys");
        let (plan, journal) = pod.wire(&spec()).await;
        assert!(plan.nics[0].masqueraded().unwrap().v4.is_some());
        assert!(plan.nics[0].masqueraded().unwrap().v6.is_none());
        assert!(
            plan.notes[0].contains("net.ipv6.conf.all.forwarding"),
            "{:?}",
            plan.notes
        );
        assert_eq!(sysctl("ipv4/conf/eth0/forwarding"), "1");
        assert_eq!(sysctl("ipv6/conf/all/forwarding"), "0");
        pod.undo(&journal).await;
        assert_eq!(difference(&before, &everything()), [""; 0]);

        run("umount /proc/sys");
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        run("mount --bind /proc/sys /proc/sys");
        run("mount -o remount,bind,ro /proc/sys");
        let (plan, _) = pod.wire(&spec()).await;
        assert!(
            plan.nics[0].masqueraded().unwrap().v6.is_some(),
            "set by the pod: {:?}",
            plan.notes
        );
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn what_root_set_up_is_done_for_who_comes_after() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        pod.wire(&spec()).await;
        // As container runtimes make it, whatever the machine's own is like.
        run("mount -t tmpfs tmpfs /dev/net");
        run("mknod -m 666 /dev/net/tun c 10 200");
        // For this thread alone: the C library's call would change them all.
        for (call, id) in [
            (nix::libc::SYS_setgroups, 0),
            (nix::libc::SYS_setresgid, 107),
            (nix::libc::SYS_setresuid, 107),
        ] {
            // SAFETY: plain numbers, and setgroups of no groups reads no memory.
            assert_eq!(unsafe { nix::libc::syscall(call, id, id, id) }, 0);
        }
        let again = plan(&spec()).await;
        assert_eq!(again.steps, []);
        assert!(again.nics[0].masqueraded().unwrap().v6.is_some());
        hawser_netsetup::open_tap("srv0").unwrap();
    });
}
