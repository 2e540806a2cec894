//! The matrix of crashes and of faults: for each wiring there is, at each change that its plan makes to anything.
//!
//! Nothing here names a step. A plan is carried out under ptrace, which counts the system calls that change something: those
//! of the journal, of each step, and of taking them back. The process is then killed behind each of them in turn, which is
//! before, in and after each step; or each of them fails in turn. A step that is new is in the matrix by itself, and a
//! wiring that is new does not compile until it is here.

use std::time::{Duration, Instant};

use hawser_netsetup::{Linux, Mac, NetSpec, Nic, Passt, Plan, Wiring, apply, observe, undo};
use nix::errno::Errno;

use crate::pod::{Pod, chain, difference, everything, in_pod, outcome, run, spec};
use crate::tracer::{End, Traced, What, traced};

/// Each wiring, and two of them in one pod.
fn specs() -> Vec<(&'static str, NetSpec)> {
    let masquerade = spec();
    let with = |wiring: Wiring| {
        let mut spec = spec();
        if wiring == Wiring::Bridge {
            spec.nics[0].guest_mac = None;
        }
        spec.nics[0].wiring = wiring;
        spec
    };
    let passt = Passt {
        lowest_port: Some(80),
        all_ports: false,
    };
    let mut two = spec();
    two.nics.push(Nic {
        name: "red".into(),
        pod_interface: "net1".into(),
        tap: "tap1".into(),
        server_tap: "srv1".into(),
        queue_pairs: 1,
        guest_mac: None,
        made_mac: Mac([0x02, 0x5e, 0, 0, 0, 2]),
        wiring: Wiring::Bridge,
    });
    let all = vec![
        masquerade,
        with(Wiring::Bridge),
        with(Wiring::ManagedTap),
        with(Wiring::Passt(passt)),
        with(Wiring::Down),
        two,
    ];
    let named = |spec: NetSpec| {
        let name = match &spec.nics[..] {
            [_, _] => "masquerade and bridge",
            [nic, ..] => match &nic.wiring {
                Wiring::Masquerade(_) => "masquerade",
                Wiring::Bridge => "bridge",
                Wiring::ManagedTap => "managedTap",
                Wiring::Passt(_) => "passt",
                Wiring::Down => "down",
            },
            [] => "none",
        };
        (name, spec)
    };
    all.into_iter().map(named).collect()
}

fn with_interfaces(pod: Pod) -> Pod {
    let pod = pod.with_eth0();
    for line in [
        "ip link add net1 address 02:00:00:00:00:71 mtu 1500 type veth peer name peer1 address 02:00:00:00:00:98",
        "ip link set peer1 addrgenmode none up",
        "ip link set net1 addrgenmode none up",
        "ip addr add 198.51.100.7/24 dev net1",
    ] {
        run(line);
    }
    // The kernel adds these once it has seen that the other end is up.
    let deadline = Instant::now() + Duration::from_secs(5);
    for link in ["eth0", "peer", "net1", "peer1"] {
        while !run("ip -6 route show table local").contains(&format!("multicast ff00::/8 dev {link} ")) {
            assert!(Instant::now() < deadline, "{link} did not come up");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    pod
}

/// What the tracer calls a message of the kernel.
const ANSWER: &str = "netlink answer";

/// The two halves of a launcher's life in the namespace.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Wire,
    TakeDown,
}

/// In a process of its own: carries the plan out, or takes it back.
fn carried_out(pod: &Pod, spec: &NetSpec, phase: Phase, what: What) -> Traced {
    let work = || async {
        let journal = pod.journal();
        let result = async {
            match phase {
                Phase::Wire => {
                    let plan = Plan::new(spec, &observe().await?)?;
                    apply(&mut Linux::open()?, &plan, &journal).await?;
                }
                Phase::TakeDown => {
                    let known = journal.read()?;
                    let failures = undo(&mut Linux::open()?, &known, &journal).await;
                    if !failures.is_empty() {
                        return Ok(8);
                    }
                }
            }
            Ok::<_, hawser_netsetup::Error>(0)
        };
        match result.await {
            Ok(code) => code,
            Err(error) => {
                let _ = std::fs::write(pod.error_path(), chain(&error));
                1
            }
        }
    };
    traced(what, || {
        // The thread that the process was forked by has a runtime already.
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_or(101, |runtime| runtime.block_on(work()))
        };
        std::thread::scope(|scope| scope.spawn(run).join().unwrap_or(101))
    })
}

/// A start in what is there ends as in a fresh pod, and taking it down leaves the namespace as it was before.
async fn converges(pod: &Pod, spec: &NetSpec, wanted: &str, before: &str, when: &str) {
    let (_, journal) = pod.wire(spec).await;
    assert_eq!(difference(wanted, &outcome()), [""; 0], "{when}");
    pod.undo(&journal).await;
    assert_eq!(difference(before, &everything()), [""; 0], "{when}");
}

/// What a fresh pod looks like when it is wired, and the system calls of a phase.
fn clean(spec: &NetSpec, phase: Phase) -> (String, Vec<String>) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let spec = spec.clone();
    in_pod(async move |pod| {
        let pod = with_interfaces(pod);
        let wired = carried_out(&pod, &spec, Phase::Wire, What::Nothing);
        assert_eq!(wired.end, End::Exited(0));
        let wanted = outcome();
        let calls = match phase {
            Phase::Wire => wired.calls,
            Phase::TakeDown => {
                let taken = carried_out(&pod, &spec, phase, What::Nothing);
                assert_eq!(taken.end, End::Exited(0));
                taken.calls
            }
        };
        sender.send((wanted, calls)).unwrap();
    });
    receiver.recv().unwrap()
}

fn killed_everywhere_in(phase: Phase) {
    let mut points = 0;
    for (name, spec) in specs() {
        let (wanted, calls) = clean(&spec, phase);
        assert!(!calls.is_empty(), "{name}");
        // An answer that was read has changed nothing.
        let changes = calls.iter().enumerate().filter(|(_, call)| *call != ANSWER);
        for (place, call) in changes {
            let (spec, wanted) = (spec.clone(), wanted.clone());
            let when = format!("{name}, {phase:?}, killed behind call {place}: {call}");
            in_pod(async move |pod| {
                let pod = with_interfaces(pod);
                let before = everything();
                if phase == Phase::TakeDown {
                    pod.wire(&spec).await;
                }
                let traced = carried_out(&pod, &spec, phase, What::Kill(place));
                assert_eq!(traced.end, End::Killed, "{when}: {:#?}", traced.calls);
                converges(&pod, &spec, &wanted, &before, &when).await;
            });
            points += 1;
        }
    }
    println!("{points} points");
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn killed_behind_each_change_of_each_plan_the_next_start_ends_as_in_a_fresh_pod() {
    killed_everywhere_in(Phase::Wire);
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn killed_behind_each_change_of_taking_down_the_next_start_ends_as_in_a_fresh_pod() {
    killed_everywhere_in(Phase::TakeDown);
}

/// A kernel without memory, a full disk, a process without descriptors: whichever call meets it, the start ends with an
/// error, and the namespace is as it was; or the call did not matter, and the namespace is as wanted.
#[test]
#[cfg(target_arch = "x86_64")]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn whichever_change_of_a_plan_fails_nothing_is_half_done() {
    let mut points = 0;
    for (name, spec) in specs() {
        let (wanted, calls) = clean(&spec, Phase::Wire);
        // Each request has some answers: those of the shortest plan stand for all.
        let looked_at = calls
            .iter()
            .enumerate()
            .filter(|(_, call)| *call != ANSWER || name == "down");
        for (place, call) in looked_at {
            let errno = match call.as_str() {
                call if call.starts_with("netlink") => Errno::ENOBUFS,
                call if call.starts_with("write") => Errno::ENOSPC,
                call if call.starts_with("openat") => Errno::EMFILE,
                call if call.starts_with("rename") => Errno::EROFS,
                _ => Errno::ENOMEM,
            };
            let (spec, wanted) = (spec.clone(), wanted.clone());
            let when = format!("{name}: {errno:?} of call {place}: {call}");
            in_pod(async move |pod| {
                let pod = with_interfaces(pod);
                let before = everything();
                let traced = carried_out(&pod, &spec, Phase::Wire, What::Fail(place, errno));
                match traced.end {
                    End::Exited(0) => {
                        assert_eq!(difference(&wanted, &outcome()), [""; 0], "{when}");
                    }
                    End::Exited(1) => {
                        let said = std::fs::read_to_string(pod.error_path()).unwrap();
                        assert!(!said.is_empty() && !said.contains('\n'), "{when}: {said:?}");
                        assert_eq!(difference(&before, &everything()), [""; 0], "{when}: {said}");
                    }
                    other => panic!("{when}: {other:?}"),
                }
                converges(&pod, &spec, &wanted, &before, &when).await;
            });
            points += 1;
        }
    }
    println!("{points} points");
}
