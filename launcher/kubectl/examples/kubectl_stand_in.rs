//! A stand-in for kubectl and the cluster behind it, for tests of `kubectl hawser`: no API server, no kubelet, no launcher.
//!
//! The cluster is a file, `$STAND_IN_WORLD`, and time: whoever looks next sees what has happened since. So a hand-off goes on when
//! its exec is gone, as a real one does. Faults are in the file too. What would have harmed a guest is written into `harm`.

// It is a test's.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs::{self, File};
use std::io::{Read, Write, stdin};
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process::{ExitCode, exit};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Milliseconds: for a pod to start, a transfer, and a guest to be ready after it.
const START: u64 = 30;
const TRANSFER: u64 = 80;
const READY: u64 = 30;

const TIMESTAMP: &str = "kubevirt.io/migration-target-ready-timestamp";

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// The world, while nobody else has it.
struct World {
    path: PathBuf,
    value: Value,
    _lock: File,
}

impl World {
    fn open() -> Self {
        let path = PathBuf::from(std::env::var_os("STAND_IN_WORLD").unwrap());
        let lock = File::create(path.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        let value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let mut world = Self {
            path,
            value,
            _lock: lock,
        };
        world.advance();
        world
    }

    fn close(self) {
        let fresh = self.path.with_extension("new");
        fs::write(&fresh, self.value.to_string()).unwrap();
        fs::rename(fresh, &self.path).unwrap();
    }

    fn harm(&mut self, what: &str) {
        self.value["harm"].as_array_mut().unwrap().push(json!(what));
    }

    fn fault(&self, name: &str) -> bool {
        self.value["faults"][name].as_bool() == Some(true)
    }

    fn names(&self) -> Vec<String> {
        self.value["pods"].as_object().unwrap().keys().cloned().collect()
    }

    fn pod(&mut self, name: &str) -> &mut Value {
        &mut self.value["pods"][name]
    }

    fn launcher(&mut self, name: &str) -> &mut Value {
        &mut self.value["launchers"][name]
    }

    /// What has happened by now.
    fn advance(&mut self) {
        for name in self.names() {
            let born = self.pod(&name)["born"].as_u64().unwrap();
            let is_pending = self.pod(&name)["status"]["phase"] == "Pending";
            if is_pending && self.fault("unschedulable") {
                self.pod(&name)["status"]["conditions"] = json!([{
                    "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available",
                }]);
            } else if is_pending && now() > born + START {
                let asked = &self.pod(&name)["metadata"]["annotations"]["hawser.dev/requested-node"];
                let node = asked.as_str().unwrap_or("b").to_owned();
                self.pod(&name)["spec"]["nodeName"] = json!(node);
                self.pod(&name)["status"] = json!({"phase": "Running", "podIP": "10.0.0.2"});
                self.value["launchers"][&name] = json!({
                    "guest": {"namespace": "vms", "name": "web"},
                    "state": "receiving",
                    "migration": {"direction": "in", "address": "", "step": "waiting"},
                });
            }
            self.transfer(&name);
            let arrived = self.launcher(&name)["arrived"].as_u64();
            if arrived.is_some_and(|arrived| now() > arrived + READY) {
                self.pod(&name)["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
            }
        }
        let living = self.names().iter().filter(|name| self.is_living(name)).count();
        let has_budget = self.value["budget"].is_object();
        if living > 1 && has_budget && self.value["budget"]["spec"]["minAvailable"] != 2 {
            self.harm("two pods, and the budget would let one of them go");
        }
    }

    fn is_living(&self, name: &str) -> bool {
        self.value["pods"][name]["status"]["phase"] != "Succeeded"
    }

    fn transfer(&mut self, source: &str) {
        let began = self.launcher(source)["began"].as_u64();
        let is_leaving = self.launcher(source)["migration"]["step"] == "sending";
        if !is_leaving || began.is_none_or(|began| now() < began + TRANSFER) {
            return;
        }
        let target = self.launcher(source)["to"].as_str().unwrap().to_owned();
        if self.value["pods"].get(&target).is_none() {
            self.launcher(source)["migration"]["step"] = json!("failed");
            self.launcher(source)["migration"]["why"] = json!("the target is gone");
            return;
        }
        *self.launcher(source) = json!({});
        self.pod(source)["status"] = json!({
            "phase": "Succeeded",
            "containerStatuses": [{"name": "guest", "state": {"terminated": {"exitCode": 0}}}],
        });
        self.launcher(&target)["state"] = json!("running");
        self.launcher(&target)["migration"]["step"] = json!("migrated");
        self.launcher(&target)["arrived"] = json!(now());
    }
}

fn refused(why: &str) -> ! {
    eprintln!("{why}");
    exit(1)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--namespace="))
        .collect();
    let mut world = World::open();
    let call = world.value["calls"].as_u64().unwrap() + 1;
    world.value["calls"] = json!(call);
    let faults = world.value["faults"].clone();
    let kills = |when: &str| {
        if faults[when].as_u64() == Some(call) {
            kill(
                Pid::from_raw(i32::try_from(parent_id()).unwrap()),
                Signal::SIGKILL,
            )
            .unwrap();
        }
    };
    if faults["kill_before"].as_u64() == Some(call) {
        world.close();
        kills("kill_before");
        return ExitCode::SUCCESS;
    }
    let is_away = |from: &str, to: &str| {
        let bound = |name: &str| faults[name].as_u64();
        bound(from).is_some_and(|from| call >= from) && bound(to).is_some_and(|to| call < to)
    };
    if is_away("away_from", "away_to") {
        world.close();
        refused(
            "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?",
        );
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let printed = match words.as_slice() {
        ["cordon", node] => {
            world.value["cordoned"] = json!(node);
            String::new()
        }
        ["get", "pods", "--all-namespaces", ..] => {
            let on = world.value["cordoned"].clone();
            let pods = world.value["pods"].as_object().unwrap().values();
            let pods: Vec<Value> = pods
                .filter(|pod| pod["spec"]["nodeName"] == on)
                .cloned()
                .collect();
            json!({"items": pods}).to_string()
        }
        ["get", "pods", ..] => {
            let pods: Vec<Value> = world.value["pods"]
                .as_object()
                .unwrap()
                .values()
                .cloned()
                .collect();
            json!({"items": pods}).to_string()
        }
        ["get", "poddisruptionbudgets", ..] => {
            let budget = world.value["budget"].clone();
            let budgets: Vec<Value> = [budget].into_iter().filter(Value::is_object).collect();
            json!({"items": budgets}).to_string()
        }
        ["logs", ..] => "the last line of a log\n".to_owned(),
        ["create", ..] => create(&mut world),
        ["delete", "--raw", path, ..] => delete(&mut world, path.rsplit('/').next().unwrap()),
        ["patch", object, "--type", "merge", "--patch", patch] => change(&mut world, object, patch),
        ["exec", pod, "--container", "guest", "--", "hawser", verb @ ..] => match verb {
            ["status", ..] => {
                if world.pod(pod)["status"]["phase"] != "Running" {
                    world.close();
                    refused("cannot exec in a stopped container");
                }
                let mut said = world.launcher(pod).clone();
                said["nics"] = json!([]);
                said.to_string()
            }
            ["migrate", "--cancel"] => {
                if world.launcher(pod)["migration"]["step"] == "sending" {
                    world.launcher(pod)["migration"] =
                        json!({"direction": "out", "address": "", "step": "failed", "why": "cancelled"});
                }
                "cancelling".to_owned()
            }
            ["migrate", ..] => return hand_off(world, pod),
            _ => panic!("{words:?}"),
        },
        _ => panic!("{words:?}"),
    };
    world.close();
    kills("kill_after");
    drop(std::io::stdout().write_all(printed.as_bytes()));
    ExitCode::SUCCESS
}

fn input() -> Value {
    let mut text = String::new();
    stdin().read_to_string(&mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn create(world: &mut World) -> String {
    let mut pod = input();
    let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
    if world.fault("quota") {
        refused("Error from server (Forbidden): pods \"web\" is forbidden: exceeded quota: pods=1");
    }
    if world.value["pods"].get(&name).is_some() {
        refused("Error from server (AlreadyExists): pods already exists");
    }
    let call = &world.value["calls"];
    pod["metadata"]["uid"] = json!(format!("uid-{call}"));
    pod["metadata"]["creationTimestamp"] = json!(format!("{:0>20}", now()));
    pod["born"] = json!(now());
    pod["status"] = json!({"phase": "Pending"});
    world.value["pods"][&name] = pod;
    world.advance();
    String::new()
}

fn delete(world: &mut World, name: &str) -> String {
    let uid = input()["preconditions"]["uid"].clone();
    if world.pod(name)["metadata"]["uid"] != uid {
        refused("Error from server (Conflict)");
    }
    // Without a budget its manifest lets a drain end it.
    if world.launcher(name)["state"] == "running" && world.value["budget"].is_object() {
        world.harm("the guest's pod was deleted");
    }
    let ready = |pod: &Value| pod["status"]["conditions"][0]["type"] == "Ready";
    let others = world.names().into_iter().filter(|other| other != name);
    if !world.is_living(name)
        && !others
            .into_iter()
            .any(|other| ready(&world.value["pods"][&other]))
    {
        world.harm("the source was deleted before its target was ready");
    }
    world.value["pods"].as_object_mut().unwrap().shift_remove(name);
    String::new()
}

fn change(world: &mut World, object: &str, patch: &str) -> String {
    let patch: Value = serde_json::from_str(patch).unwrap();
    if let Some(name) = object.strip_prefix("pod/") {
        let settles = patch["metadata"]["annotations"].get(TIMESTAMP).is_some();
        if settles && world.launcher(name)["state"] != "running" {
            world.harm("networks were told of a guest that is not there");
        }
        merge(world.pod(name), &patch);
    } else {
        merge(&mut world.value["budget"], &patch);
    }
    String::new()
}

/// RFC 7396.
fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (key, change) in patch {
        if change.is_null() {
            value.as_object_mut().unwrap().shift_remove(key);
        } else {
            merge(&mut value[key], change);
        }
    }
}

fn hand_off(mut world: World, source: &str) -> ExitCode {
    let kills = world.value["faults"]["kill_in_hand_off"] == true;
    let hangs = world.fault("hang");
    if world.fault("refuse") {
        world.launcher(source)["migration"] = json!({"direction": "out", "address": "", "step": "failed", "why": "the target refuses: another disk"});
        world.close();
        if hangs {
            // As where something in between swallows the stream.
            sleep(Duration::from_secs(600));
        }
        eprintln!("hawser: the target refuses: another disk");
        return ExitCode::from(9);
    }
    let target = world.names().into_iter().find(|name| name != source).unwrap();
    let at = now();
    *world.launcher(source) = json!({
        "guest": {"namespace": "vms", "name": "web"},
        "state": "running",
        "migration": {"direction": "out", "address": "", "step": "sending", "started": at / 1000},
        "began": at,
        "to": target,
    });
    world.launcher(&target)["migration"]["step"] = json!("receiving");
    let is_lost = world.fault("lose_exec");
    world.close();
    println!("sending: the guest's memory");
    if kills {
        kill(
            Pid::from_raw(i32::try_from(parent_id()).unwrap()),
            Signal::SIGKILL,
        )
        .unwrap();
    }
    if is_lost {
        // As a stream that is cut looks to kubectl.
        return ExitCode::SUCCESS;
    }
    loop {
        let mut world = World::open();
        let is_over = world.launcher(source)["migration"]["step"] != "sending";
        world.close();
        if is_over && !hangs {
            return ExitCode::SUCCESS;
        }
        sleep(Duration::from_millis(10));
    }
}
