//! images/kubernetes and the Containerfile, as far as they can be held against something without a cluster: everything parses,
//! the plugin accepts the arguments that it is given there and has the directories that they name, and it has no more
//! privileges than were decided on.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hawser_device_plugin::PASST_PROFILE;
use serde_json::{Value, json};

const PLUGIN: &str = env!("CARGO_BIN_EXE_hawser-device-plugin");

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn documents(name: &str) -> Vec<Value> {
    let path = repository().join("images/kubernetes").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let parse = |text: &str| serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    text.split("\n---\n").map(parse).collect()
}

/// Of all files that the kustomization names.
fn objects() -> Vec<Value> {
    let kustomization = documents("kustomization.yaml").remove(0);
    let files = kustomization["resources"].as_array().unwrap();
    files
        .iter()
        .flat_map(|file| documents(file.as_str().unwrap()))
        .collect()
}

fn object(kind: &str, name: &str) -> Value {
    let mut objects = objects();
    objects.retain(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    assert_eq!(objects.len(), 1, "{kind} {name}");
    objects.remove(0)
}

fn pod() -> Value {
    object("DaemonSet", "hawser-device-plugin")["spec"]["template"]["spec"].clone()
}

fn names(list: &Value, field: &str) -> BTreeSet<String> {
    let list = list.as_array().unwrap().iter();
    list.map(|entry| entry[field].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_file_parses_and_is_put_in_by_kustomize() {
    let kustomization = documents("kustomization.yaml").remove(0);
    let mut listed: BTreeSet<String> = kustomization["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    listed.insert("kustomization.yaml".into());
    let files = fs::read_dir(repository().join("images/kubernetes")).unwrap();
    let files: BTreeSet<String> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    assert_eq!(listed, files);
    // The one name that an operator changes is the one that the container has.
    assert_eq!(
        kustomization["images"][0]["name"],
        pod()["containers"][0]["image"]
    );
    let kinds: Vec<_> = objects()
        .iter()
        .map(|object| object["kind"].to_string())
        .collect();
    assert_eq!(
        kinds,
        [
            "\"Namespace\"",
            "\"ServiceAccount\"",
            "\"DaemonSet\"",
            "\"Namespace\""
        ]
    );
}

#[test]
fn it_runs_on_every_node_before_guests_and_without_rights_in_the_cluster() {
    let set = object("DaemonSet", "hawser-device-plugin");
    assert_eq!(
        set["spec"]["selector"]["matchLabels"],
        json!({"app.kubernetes.io/name": "hawser-device-plugin"})
    );
    assert_eq!(
        set["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"],
        "hawser-device-plugin"
    );
    let pod = pod();
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
    assert_eq!(pod["serviceAccountName"], "hawser-device-plugin");
    assert_eq!(pod["automountServiceAccountToken"], false);
    let account = object("ServiceAccount", "hawser-device-plugin");
    assert_eq!(account["automountServiceAccountToken"], false);
    assert!(
        !objects()
            .iter()
            .any(|object| object["kind"].to_string().contains("Role"))
    );
    for object in [&set, &account] {
        assert_eq!(object["metadata"]["namespace"], "hawser-system");
    }
    let labels = |name: &str| object("Namespace", name)["metadata"]["labels"].clone();
    for namespace in ["hawser-system", "vms"] {
        assert_eq!(
            labels(namespace)["pod-security.kubernetes.io/enforce"],
            "privileged"
        );
    }
}

#[test]
fn it_has_no_more_privileges_than_it_needs() {
    let pod = pod();
    for shared in ["hostNetwork", "hostPID", "hostIPC", "hostUsers"] {
        assert!(pod[shared].is_null(), "{shared}");
    }
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    assert_eq!(
        pod["containers"][0]["securityContext"],
        json!({
            "runAsUser": 0,
            "runAsGroup": 0,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["MKNOD"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
    // The host's /dev is not for writing; what may be written is the plugin's own, and the kubelet's directory.
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    for mount in mounts {
        assert_eq!(
            mount["readOnly"] == true,
            mount["mountPath"] == "/host/dev",
            "{mount}"
        );
    }
    assert_eq!(
        names(&pod["volumes"], "name"),
        names(&pod["containers"][0]["volumeMounts"], "name")
    );
}

#[test]
fn its_arguments_are_known_and_name_what_is_mounted() {
    let pod = pod();
    let container = &pod["containers"][0];
    assert_eq!(container["command"], json!(["/usr/bin/hawser-device-plugin"]));
    let arguments: Vec<&str> = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|word| word.as_str().unwrap())
        .collect();
    let output = Command::new(PLUGIN)
        .args(&arguments)
        .arg("--version")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let value = |option: &str| {
        let prefix = format!("{option}=");
        PathBuf::from(
            arguments
                .iter()
                .find_map(|word| word.strip_prefix(&prefix))
                .unwrap(),
        )
    };
    let on_host = |name: &Value| {
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == *name).unwrap();
        PathBuf::from(volume["hostPath"]["path"].as_str().unwrap())
    };
    // Each path in the container with the host's.
    let mounts: Vec<(PathBuf, PathBuf)> = container["volumeMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| {
            (
                mount["mountPath"].as_str().unwrap().into(),
                on_host(&mount["name"]),
            )
        })
        .collect();
    let mounted = |path: &Path| &mounts.iter().find(|(at, _)| at == path).unwrap().1;
    assert_eq!(*mounted(&value("--dev")), Path::new("/dev"));
    assert_eq!(*mounted(&value("--dev").join("hawser")), Path::new("/dev/hawser"));
    // The kubelet is told this path, and so is a pod that names the profile.
    assert_eq!(*mounted(&value("--copies")), value("--copies"));
    let profile = value("--passt-profile");
    assert_eq!(*mounted(profile.parent().unwrap()), profile.parent().unwrap());
    assert_eq!(profile, Path::new("/var/lib/kubelet/seccomp/hawser/passt.json"));
    let directory = Path::new("/var/lib/kubelet/device-plugins");
    assert_eq!(*mounted(directory), directory);
}

/// The runtime reads it as the OCI's runtime specification has it, and takes what it does not know for nothing.
#[test]
fn the_profile_allows_what_passt_needs_and_is_well_formed() {
    let profile: Value = serde_json::from_str(PASST_PROFILE).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let mut rules = Vec::new();
    for rule in profile["syscalls"].as_array().unwrap() {
        let known = ["names", "action", "args", "errnoRet"];
        assert!(
            rule.as_object()
                .unwrap()
                .keys()
                .all(|key| known.contains(&key.as_str())),
            "{rule}"
        );
        for name in rule["names"].as_array().unwrap() {
            rules.push((name.as_str().unwrap(), rule));
        }
    }
    let of = |name: &str| -> Vec<&Value> {
        rules
            .iter()
            .filter(|(found, _)| *found == name)
            .map(|(_, rule)| *rule)
            .collect()
    };
    for allowed in [
        "mount",
        "pivot_root",
        "umount2",
        "ioctl",
        "execve",
        "landlock_create_ruleset",
        "seccomp",
    ] {
        assert!(
            of(allowed).iter().any(|rule| rule["action"] == "SCMP_ACT_ALLOW"),
            "{allowed}"
        );
    }
    for refused in [
        "setns",
        "bpf",
        "io_uring_setup",
        "init_module",
        "open_by_handle_at",
        "keyctl",
        "umount",
    ] {
        assert!(of(refused).is_empty(), "{refused}");
    }
    // A user, a mount, an IPC, a UTS and a PID namespace. Of the network's, time's and cgroups' none.
    let own = 0x1000_0000_u64 | 0x0002_0000 | 0x0800_0000 | 0x0400_0000 | 0x2000_0000;
    let rule = of("unshare")[0];
    assert_eq!(rule["args"][0]["value"], 0xffff_ffff - own);
    assert_eq!(
        (&rule["args"][0]["valueTwo"], &rule["args"][0]["op"]),
        (&json!(0), &json!("SCMP_CMP_MASKED_EQ"))
    );
    // Threads are stopped and released, and neither read nor written: PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH.
    let requests: Vec<_> = of("ptrace")
        .iter()
        .map(|rule| rule["args"][0]["value"].clone())
        .collect();
    assert_eq!(requests, [json!(0x4206), json!(0x4207), json!(17)]);
    assert!(
        of("ptrace")
            .iter()
            .all(|rule| rule["args"][0]["op"] == "SCMP_CMP_EQ")
    );
    // A thread or a process, and no namespace with it. clone3's arguments cannot be looked at: glibc falls back on ENOSYS.
    let namespaces = own | 0x4000_0000 | 0x0200_0000;
    assert_eq!(of("clone")[0]["args"][0]["value"], namespaces);
    assert_eq!(of("clone3")[0]["errnoRet"], 38);
}

#[test]
fn the_image_has_the_plugin_and_says_what_it_is() {
    let text = fs::read_to_string(repository().join("Containerfile")).unwrap();
    assert!(text.contains("/out/usr/bin/hawser-device-plugin"));
    let version = format!(
        "org.opencontainers.image.version=\"{}\"",
        env!("CARGO_PKG_VERSION")
    );
    assert!(text.contains(&version), "{version}");
}
