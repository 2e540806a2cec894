//! Devices that a CNI plugin makes: found as the kernel has them, opened, and left alone.

use hawser_netsetup::{CniDevice, CniNic, CniSpec, Mac, MacvtapError, Wiring, open_macvtap};

use crate::pod::{OWNER, Pod, chain, difference, everything, in_pod, observed, run, spec};

fn wanted(queue_pairs: u16) -> CniSpec {
    CniSpec {
        name: "red".into(),
        devices: vec!["tapred".into()],
        pod_interfaces: vec!["podred".into()],
        queue_pairs,
        guest_mac: None,
    }
}

async fn find(wanted: &CniSpec) -> Result<CniNic, String> {
    CniNic::find(wanted, OWNER, &observed().await, &mut Vec::new()).map_err(|error| chain(&error))
}

/// The kernel calls the device in /dev by the interface's index, which others on this machine may have too.
fn macvtap(pod: Pod, index: u32) -> Pod {
    let pod = pod.with_eth0();
    run(&format!(
        "ip link add podred address 02:00:00:00:00:07 index {index} link eth0 type macvtap mode bridge"
    ));
    run("ip link set podred up");
    pod
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_macvtap_is_found_and_opened_for_each_queue_pair() {
    in_pod(async |pod| {
        let index = 7000 + std::process::id() % 1000;
        let _pod = macvtap(pod, index);
        let before = everything();
        let nic = find(&wanted(2)).await.unwrap();
        assert_eq!(nic.device, CniDevice::Macvtap { index });
        assert_eq!(
            (nic.guest_mac, nic.mtu, nic.queue_pairs),
            (Mac([2, 0, 0, 0, 0, 7]), 1450, 2)
        );
        let queues = open_macvtap(&nic.interface, index, nic.queue_pairs).unwrap();
        assert_eq!(queues.len(), 2);
        drop(queues);
        // The same by the device number, which this namespace's sysfs tells.
        run("mount -t sysfs sysfs /sys");
        open_macvtap(&nic.interface, index, 1).unwrap();
        assert_eq!(difference(&before, &everything()), [""; 0]);
        // The name in /dev counts for nothing where the number is another one's.
        run(&format!("mount --bind /dev/null /dev/tap{index}"));
        let error = open_macvtap(&nic.interface, index, 1).unwrap_err();
        assert!(matches!(error, MacvtapError::NoNode { .. }), "{}", chain(&error));
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_device_of_another_interface_is_not_taken_for_it() {
    in_pod(async |pod| {
        let index = 8000 + std::process::id() % 1000;
        let _pod = macvtap(pod, index);
        let error = open_macvtap("other", index, 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("/dev/tap{index} belongs to podred, not to other")
        );
        let error = open_macvtap("podred", index + 1000, 1).unwrap_err();
        assert!(
            error.to_string().contains(&format!("/dev/tap{}", index + 1000)),
            "{error}"
        );
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_tap_as_the_kernel_describes_it() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        let make = |options: &str| {
            run(&format!("ip tuntap add tapred {options}"));
            run("ip link set tapred up");
        };
        make("mode tap");
        assert_eq!(find(&wanted(1)).await.unwrap().device, CniDevice::Tap);
        run("ip link del tapred");
        make("mode tap user 107 group 107 multi_queue");
        assert_eq!(find(&wanted(2)).await.unwrap().queue_pairs, 2);
        assert!(
            find(&wanted(1))
                .await
                .unwrap_err()
                .contains("the TAP is multi-queue")
        );
        run("ip link del tapred");
        make("mode tap user 1");
        assert!(
            find(&wanted(1))
                .await
                .unwrap_err()
                .contains("the TAP belongs to user 1")
        );
        run("ip link del tapred");
        make("mode tun");
        assert!(
            find(&wanted(1))
                .await
                .unwrap_err()
                .contains("tapred: it is a TUN")
        );
        drop(pod);
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_managed_tap_is_a_wire_without_a_server_and_goes_without_a_trace() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        let before = everything();
        let mut spec = spec();
        spec.nics[0].wiring = Wiring::ManagedTap;
        let (plan, journal) = pod.wire(&spec).await;
        assert!(plan.nics[0].server_tap().is_none());
        let rules = run("nft list ruleset");
        assert!(
            rules.contains("chain local-in") && !rules.contains("fwd to"),
            "{rules}"
        );
        let links = run("ip -o link");
        assert!(links.contains("k6t-eth0") && !links.contains("srv0"), "{links}");
        pod.undo(&journal).await;
        assert_eq!(difference(&before, &everything()), [""; 0]);
    });
}
