//! Kills and failures part of the way.

use hawser_netsetup::{Error, Linux, Step, Undo, apply};

use crate::pod::{difference, everything, in_pod, masquerade, outcome, plan, run, spec};

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_start_after_a_kill_at_any_step_converges() {
    let (sender, receiver) = std::sync::mpsc::channel();
    in_pod(async move |pod| {
        let pod = pod.with_eth0();
        let (plan, _) = pod.wire(&spec()).await;
        sender.send((plan.steps.len(), outcome())).unwrap();
    });
    let (steps, wanted) = receiver.recv().unwrap();
    assert!(steps > 5);
    for done in 0..=steps {
        let wanted = wanted.clone();
        in_pod(async move |pod| {
            let pod = pod.with_eth0();
            let before = everything();
            pod.apply_first(&plan(&spec()).await, done).await;
            let (_, journal) = pod.wire(&spec()).await;
            assert_eq!(difference(&wanted, &outcome()), [""; 0], "after {done} steps");
            pod.undo(&journal).await;
            assert_eq!(difference(&before, &everything()), [""; 0], "after {done} steps");
        });
    }
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn what_a_kill_left_can_be_taken_back() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        let before = everything();
        let whole = plan(&spec()).await;
        for done in 0..=whole.steps.len() {
            pod.apply_first(&whole, done).await;
            let journal = pod.journal().read().unwrap();
            assert_eq!(journal, whole.journal);
            pod.undo(&journal).await;
            assert_eq!(difference(&before, &everything()), [""; 0], "after {done} steps");
        }
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn a_failing_step_is_named_and_leaves_the_namespace_as_it_was() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        let before = everything();
        let mut broken = plan(&spec()).await;
        for step in &mut broken.steps {
            if let Step::Ruleset { document } = step {
                let text = document
                    .to_string()
                    .replace("nd-router-solicit", "no such message");
                **document = serde_json::from_str(&text).unwrap();
            }
        }
        let error = apply(&mut Linux::open().unwrap(), &broken, &pod.journal())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Apply { .. }), "{error:?}");
        let said = crate::pod::chain(&error);
        assert!(said.contains("ICMPv6 type"), "nft's own words: {said}");
        assert_eq!(difference(&before, &everything()), [""; 0]);
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn what_is_gone_already_is_no_failure() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        let mut spec = spec();
        masquerade(&mut spec).v6_required = true;
        let (_, mut journal) = pod.wire(&spec).await;
        journal.undo.push(Undo::Sysctl {
            path: "/proc/sys/net/ipv6/conf/eth0/accept_ra".into(),
            value: "1".into(),
        });
        for line in [
            "ip link del tap0",
            "ip link del srv0",
            "ip link del eth0",
            "nft flush ruleset",
        ] {
            run(line);
        }
        pod.undo(&journal).await;
    });
}

#[test]
#[ignore = "needs root: cargo test -- --include-ignored"]
fn an_interface_that_hawser_did_not_create_is_not_deleted() {
    in_pod(async |pod| {
        let pod = pod.with_eth0();
        let undo = Undo::DeleteLink { link: "eth0".into() };
        let journal = hawser_netsetup::Journal { undo: vec![undo] };
        let failures = hawser_netsetup::undo(&mut Linux::open().unwrap(), &journal, &pod.journal()).await;
        let said: Vec<_> = failures
            .iter()
            .map(|failure| crate::pod::chain(failure))
            .collect();
        assert_eq!(
            said,
            ["cannot delete the interface eth0: hawser did not create the interface eth0"]
        );
        run("ip link show dev eth0");
    });
}
