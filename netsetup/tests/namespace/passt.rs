//! What passt needs, written to the kernel's own sysctls of a namespace and taken back.

use hawser_netsetup::{Passt, Wiring};

use crate::pod::{difference, everything, in_pod, plan, spec, sysctl};

const PING: &str = "ipv4/ping_group_range";
const PORT: &str = "ipv4/ip_unprivileged_port_start";

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn the_sysctls_are_written_read_back_as_done_and_put_back() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        let before = (everything(), sysctl(PING), sysctl(PORT));
        let mut spec = spec();
        spec.nics[0].wiring = Wiring::Passt(Passt {
            lowest_port: Some(80),
            all_ports: false,
        });
        let (_, journal) = pod.wire(&spec).await;
        let gid = spec.owner.gid;
        assert_eq!(sysctl(PING), format!("{gid}\t{gid}"));
        assert_eq!(sysctl(PORT), "80");
        assert_eq!(
            difference(&before.0, &everything()),
            [""; 0],
            "nothing else is touched"
        );
        assert_eq!(plan(&spec).await.steps, [], "a second start finds it done");
        pod.undo(&journal).await;
        assert_eq!((everything(), sysctl(PING), sysctl(PORT)), before);
    });
}
