//! `kubectl hawser migrate` and `cancel` against a stand-in for kubectl and the cluster: with every fault, a guest ends in one place,
//! and what stands around it is as before.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The example of the same package, which cargo builds with the tests.
fn stand_in() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let debug = test.parent().unwrap().parent().unwrap();
    let stand_in = debug.join("examples/kubectl_stand_in");
    assert!(
        stand_in.exists(),
        "{} is not built: cargo test builds it",
        stand_in.display()
    );
    stand_in
}

struct Cluster {
    dir: TempDir,
}

impl Cluster {
    /// With a guest `web` in the pod `web` on the node `a`.
    fn with(faults: Value) -> Self {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "web", "namespace": "vms", "uid": "uid-0", "creationTimestamp": "0",
                "labels": {"vm.kubevirt.io/name": "web"},
            },
            "spec": {
                "nodeName": "a",
                "containers": [{
                    "name": "guest",
                    "image": "r.example/hawser@sha256:1",
                    "args": ["run", "--vmi", "/etc/hawser/vmi.yaml"],
                    "volumeMounts": [{"name": "hawser-tls", "mountPath": "/etc/hawser-tls"}],
                }],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
            "born": 0,
        });
        let guest = json!({"guest": {"namespace": "vms", "name": "web"}, "state": "running"});
        let world = json!({
            "pods": {"web": pod},
            "launchers": {"web": guest},
            "budget": {"metadata": {"name": "web"}, "spec": {"minAvailable": 1}},
            "calls": 0,
            "faults": faults,
            "harm": [],
        });
        let dir = tempfile::tempdir().unwrap();
        let this = Self { dir };
        this.write(&world);
        this
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("world.json")
    }

    fn write(&self, world: &Value) {
        fs::write(self.path(), world.to_string()).unwrap();
    }

    fn world(&self) -> Value {
        serde_json::from_str(&fs::read_to_string(self.path()).unwrap()).unwrap()
    }

    fn with_faults(&self, faults: Value) {
        let mut world = self.world();
        world["faults"] = faults;
        self.write(&world);
    }

    fn run(&self, words: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_kubectl-hawser"))
            .args(words.split(' '))
            .args(["--interval", "5ms", "--namespace", "vms", "--kubectl"])
            .arg(stand_in())
            .env("STAND_IN_WORLD", self.path())
            .output()
            .unwrap()
    }

    /// One pod, which has the guest, and nothing that speaks of a migration that is under way.
    fn expect_guest_on(&self, node: Option<&str>, context: &str) {
        let world = self.world();
        assert_eq!(world["harm"], json!([]), "{context}");
        let pods = world["pods"].as_object().unwrap();
        assert_eq!(pods.len(), 1, "{context}: {pods:?}");
        let (name, pod) = pods.iter().next().unwrap();
        assert_eq!(world["launchers"][name]["state"], "running", "{context}");
        let at = pod["spec"]["nodeName"].as_str().unwrap();
        assert!(node.is_none_or(|node| node == at), "{context}: on {at}");
        let annotations = &pod["metadata"]["annotations"];
        let is_settled = annotations["kubevirt.io/migration-target-ready-timestamp"].is_string();
        let label = pod["metadata"]["labels"]["kubevirt.io/nodeName"].as_str();
        assert_eq!(
            (is_settled, label),
            (at == "b", (at == "b").then_some("b")),
            "{context}"
        );
        assert_eq!(world["budget"]["spec"]["minAvailable"], 1, "{context}");
        let annotations = &world["budget"]["metadata"]["annotations"];
        assert!(annotations.get("hawser.dev/migration").is_none(), "{context}");
    }
}

fn told(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    format!("{:?}\n{out}{err}", output.status)
}

#[test]
fn a_guest_migrates_to_a_node_and_is_there_then() {
    let cluster = Cluster::with(json!({}));
    let output = cluster.run("migrate web --to b");
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert!(
        told(&output).contains("the guest web runs in the pod web-"),
        "{}",
        told(&output)
    );
    cluster.expect_guest_on(Some("b"), &told(&output));
    let calls = cluster.world()["calls"].clone();
    let again = cluster.run("migrate web --to b");
    assert_eq!(again.status.code(), Some(0), "{}", told(&again));
    cluster.expect_guest_on(Some("b"), "nothing to do");
    let made = cluster.world()["calls"].as_u64().unwrap() - calls.as_u64().unwrap();
    assert!(made <= 3, "{made} calls for nothing");
}

/// Killed at any step, and run again: it is taken up. Or it is cancelled. The guest is never harmed.
#[test]
fn a_run_that_is_killed_at_any_step_is_taken_up_or_undone() {
    for next in ["migrate web --to b", "cancel web"] {
        for when in ["kill_before", "kill_after"] {
            for call in 1.. {
                assert!(call < 500, "it never ends");
                let cluster = Cluster::with(json!({when: call}));
                let first = cluster.run("migrate web --to b");
                let context = format!("{when} {call}, then {next}\n{}", told(&first));
                if first.status.code().is_some() {
                    assert_eq!(first.status.code(), Some(0), "{context}");
                    assert!(call > 10, "only {call} calls were made: {context}");
                    break;
                }
                cluster.with_faults(json!({}));
                let second = cluster.run(next);
                let context = format!("{context}\nthen: {}", told(&second));
                match (next, second.status.code()) {
                    ("cancel web", Some(9)) => cluster.expect_guest_on(Some("b"), &context),
                    ("cancel web", Some(0)) => cluster.expect_guest_on(None, &context),
                    (_, Some(0)) => cluster.expect_guest_on(Some("b"), &context),
                    _ => panic!("{context}"),
                }
            }
        }
    }
}

#[test]
fn a_run_that_is_killed_in_the_hand_off_is_taken_up() {
    let cluster = Cluster::with(json!({"kill_in_hand_off": true}));
    let first = cluster.run("migrate web --to b");
    assert_eq!(first.status.code(), None, "{}", told(&first));
    cluster.with_faults(json!({}));
    let second = cluster.run("migrate web --to b");
    assert_eq!(second.status.code(), Some(0), "{}", told(&second));
    cluster.expect_guest_on(Some("b"), &told(&second));
}

/// kubernetes/kubernetes#73056: exec ends with 0, and the command runs on.
#[test]
fn the_exit_code_of_exec_decides_nothing() {
    let cluster = Cluster::with(json!({"lose_exec": true}));
    let output = cluster.run("migrate web");
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    cluster.expect_guest_on(Some("b"), &told(&output));
}

/// kubernetes/kubernetes#66661: a stream that nothing comes through any more, and that does not end.
#[test]
fn a_stream_that_hangs_is_not_waited_for() {
    let cluster = Cluster::with(json!({"hang": true}));
    let output = cluster.run("migrate web");
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    cluster.expect_guest_on(Some("b"), &told(&output));
    let cluster = Cluster::with(json!({"hang": true, "refuse": true}));
    let output = cluster.run("migrate web");
    assert_eq!(output.status.code(), Some(9), "{}", told(&output));
    cluster.expect_guest_on(Some("a"), &told(&output));
}

#[test]
fn an_api_server_that_is_away_for_a_while_is_waited_for() {
    for from in 2..25 {
        let cluster = Cluster::with(json!({"away_from": from, "away_to": from + 6}));
        let output = cluster.run("migrate web --to b");
        let context = format!("away from call {from}\n{}", told(&output));
        if output.status.code() == Some(0) {
            cluster.expect_guest_on(Some("b"), &context);
            continue;
        }
        // Before the target was made: nothing was changed, or the next run puts it right.
        assert!(
            matches!(output.status.code(), Some(1 | 3)) && from < 7,
            "{context}"
        );
        cluster.with_faults(json!({}));
        let again = cluster.run("migrate web --to b");
        assert_eq!(again.status.code(), Some(0), "{context}\n{}", told(&again));
        cluster.expect_guest_on(Some("b"), &context);
    }
}

#[test]
fn what_fails_leaves_everything_as_it_was() {
    for (fault, code, words) in [
        ("refuse", 9, "the target refuses: another disk"),
        ("unschedulable", 9, "Unschedulable: 0/2 nodes are available"),
        ("quota", 3, "exceeded quota: pods=1"),
    ] {
        let cluster = Cluster::with(json!({fault: true}));
        let output = cluster.run("migrate web --to b");
        let told = told(&output);
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(words), "{told}");
        cluster.expect_guest_on(Some("a"), &told);
        // And the next one works.
        cluster.with_faults(json!({}));
        let again = cluster.run("migrate web --to b");
        assert_eq!(again.status.code(), Some(0), "{again:?}");
        cluster.expect_guest_on(Some("b"), &told);
    }
}

#[test]
fn there_and_back_leaves_one_pod() {
    let cluster = Cluster::with(json!({}));
    for node in ["b", "a", "b"] {
        let output = cluster.run(&format!("migrate web --to {node}"));
        assert_eq!(output.status.code(), Some(0), "{}", told(&output));
        let world = cluster.world();
        assert_eq!(
            (world["pods"].as_object().unwrap().len(), &world["harm"]),
            (1, &json!([]))
        );
    }
    cluster.expect_guest_on(Some("b"), "there, back, and there");
    let output = cluster.run("cancel web");
    assert!(
        told(&output).contains("no migration of the guest web is under way"),
        "{}",
        told(&output)
    );
}

#[test]
fn a_guest_that_is_not_there_is_refused() {
    let cluster = Cluster::with(json!({}));
    let mut world = cluster.world();
    world["pods"] = json!({});
    cluster.write(&world);
    for verb in ["migrate web", "cancel web"] {
        let output = cluster.run(verb);
        assert_eq!(output.status.code(), Some(3), "{}", told(&output));
        assert!(told(&output).contains("runs the guest"), "{}", told(&output));
    }
}

#[test]
fn a_drain_migrates_guests_that_ask_for_it_and_shuts_the_others_down() {
    let cluster = Cluster::with(json!({}));
    let output = cluster.run("drain a");
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert_eq!(cluster.world()["cordoned"], "a");
    cluster.expect_guest_on(Some("b"), &told(&output));

    let cluster = Cluster::with(json!({}));
    let mut world = cluster.world();
    world["budget"].take();
    cluster.write(&world);
    let output = cluster.run("drain a");
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert!(
        told(&output).contains("vms/web: its evictionStrategy does not ask"),
        "{}",
        told(&output)
    );
    assert_eq!(cluster.world()["pods"], json!({}));

    let cluster = Cluster::with(json!({"unschedulable": true}));
    let output = cluster.run("drain a");
    assert_eq!(output.status.code(), Some(9), "{}", told(&output));
    assert!(
        told(&output).contains("guests are left on a\nvms/web: "),
        "{}",
        told(&output)
    );
    cluster.expect_guest_on(Some("a"), &told(&output));
}
