//! Whatever hawser reads that it did not write, as functions of bytes: for the fuzz targets in `launcher/fuzz/`, and for
//! `launcher/tests/any_bytes.rs`, which calls them with the targets' seeds and with what becomes of these by mutation.
//! Nothing else calls them.
//!
//! Each function panics where something does not hold that has to hold of every input: the text of an error is fit for a
//! log, what was read is the same when it is read again, and nothing is taken over that may not be.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::disks::qcow2;
use crate::guest::Notified;
use crate::hooks::{Hooked, rules};
use crate::migration::message::{self, Message};
use crate::migration::{Description, Identity, describe, said};
use crate::pod::networks::{PodNetworks, Resources, claims};
use crate::pod::resolv;
use crate::spec::{Mac, Refusals};

pub use hawser_vhost_relay::fuzzing::vhost_user;
pub use hawser_vmm::fuzzing::{vmm_event, vmm_reply};

/// A function of any bytes.
pub type Target = fn(&[u8]);

/// Each target by its name, which is also that of its binary and of the directory of its seeds.
pub const TARGETS: &[(&str, Target)] = &[
    ("bindings", bindings),
    ("device_metadata", device_metadata),
    ("guest_report", guest_report),
    ("hand_off", hand_off),
    ("hook_reply", hook_reply),
    ("manifest", manifest),
    ("network_status", network_status),
    ("qcow2", qcow2_header),
    ("resolv_conf", resolv_conf),
    ("vhost_user", vhost_user),
    ("vmm_event", vmm_event),
    ("vmm_reply", vmm_reply),
];

/// One line, and no character that changes a terminal.
fn fit_for_a_log(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}

fn refused(refusals: &Refusals) {
    let text = refusals.to_string();
    assert!(!text.is_empty());
    text.lines().for_each(fit_for_a_log);
}

/// A manifest: refused in lines, or accepted and the same again when it is read as it is kept.
pub fn manifest(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match crate::spec::load(&text) {
        Err(refusals) => refused(&refusals),
        Ok(loaded) => {
            for note in &loaded.warnings {
                fit_for_a_log(&note.to_string());
            }
            let again = crate::spec::load(&loaded.manifest.to_string()).map(|again| again.spec);
            assert_eq!(again, Ok(loaded.spec));
        }
    }
}

/// The file of `--bindings`.
pub fn bindings(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(refusals) = crate::plugins::parse(&text, "bindings.yaml") {
        refused(&refusals);
    }
}

/// What Multus or KubeVirt says of the pod's networks.
pub fn network_status(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = PodNetworks::parse(&text, Path::new("/networks")) {
        fit_for_a_log(&error.to_string());
    }
}

/// What says which devices the pod has: a file of Dynamic Resource Allocation, and, each in a line, variables of device
/// plugins.
pub fn device_metadata(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = claims::address(&text, "red") {
        fit_for_a_log(&error);
    }
    let variables = text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    match Resources::parse(variables) {
        Err(error) => fit_for_a_log(&error.to_string()),
        Ok(resources) => {
            let _ = resources.devices("EXAMPLE_COM_NET");
            if let Err(error) = resources.given("example.com/net") {
                fit_for_a_log(&error.to_string());
            }
        }
    }
}

/// The other launcher's messages, one after the other.
pub fn hand_off(bytes: &[u8]) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() else {
        return;
    };
    let ours = Description {
        identity: Identity {
            namespace: "ns".into(),
            name: "web".into(),
            uid: None,
        },
        vmm_version: "v53.0".into(),
        nics: Vec::new(),
        disks: Vec::new(),
        config: json!({"cpus": {"boot_vcpus": 1}, "rules": [{"path": "/x"}]}),
        obstacles: Vec::new(),
        passt_version: None,
    };
    let mut rest = bytes;
    loop {
        let message = match runtime.block_on(message::read(&mut rest)) {
            Ok(message) => message,
            Err(error) => {
                fit_for_a_log(&said::text(&error.to_string()));
                break;
            }
        };
        let mut written = Vec::new();
        if runtime.block_on(message::write(&mut written, &message)).is_ok() {
            let again = runtime.block_on(message::read(&mut written.as_slice()));
            assert_eq!(
                again.map_err(|error: io::Error| error.to_string()),
                Ok(message.clone())
            );
        }
        if let Message::Prepare(prepare) = message {
            let theirs = &prepare.description;
            let reasons = said::reasons(describe::reasons(prepare.version, theirs, &ours));
            reasons.iter().for_each(|reason| fit_for_a_log(reason));
            assert!(reasons.len() <= 65, "{}", reasons.len());
            for note in describe::notes(theirs, &ours) {
                fit_for_a_log(&said::text(&note));
            }
            // Of two launchers with the same, nothing speaks against a migration but what they say themselves.
            let same = describe::reasons(describe::VERSION, theirs, theirs);
            assert!(same.len() <= theirs.obstacles.len() || theirs.vmm_version != ours.vmm_version);
        }
    }
}

/// A sidecar's answer: refused in lines, or nothing but its own NIC is changed.
pub fn hook_reply(bytes: &[u8]) {
    let Ok(theirs) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let ours = json!({
        "cpus": {"boot_vcpus": 2, "max_vcpus": 2},
        "memory": {"size": 268_435_456},
        "net": [
            {"id": "default", "tap": "tap0", "mac": "02:00:00:00:00:01", "num_queues": 2, "queue_size": 256},
            {"id": "red", "mac": "02:00:00:00:00:02", "num_queues": 2, "queue_size": 256},
        ],
        "landlock_enable": true,
    });
    for (name, attached, place) in [("default", true, "/net/0"), ("red", false, "/net/1")] {
        let hooked = Hooked {
            name: name.to_owned(),
            mac_is_given: attached,
            attached,
        };
        let merged = match rules::merge(&ours, &theirs, &hooked) {
            Ok(merged) => merged,
            Err(refusals) => {
                refused(&refusals);
                continue;
            }
        };
        let mut rest = merged.config;
        let nic = rest.pointer_mut(place).map(Value::take).unwrap_or_default();
        let mut expected = ours.clone();
        expected.pointer_mut(place).map(Value::take);
        assert_eq!(rest, expected, "another part than {place} was changed");
        assert_eq!(nic.get("id").and_then(Value::as_str), Some(name));
        let mac = nic.get("mac").and_then(Value::as_str).unwrap_or_default();
        assert!(mac.parse::<Mac>().is_ok(), "{nic}");
        assert!(!attached || mac == "02:00:00:00:00:01", "{nic}");
        let (tap, socket) = (nic.get("tap"), nic.get("vhost_socket"));
        assert!(tap.is_some() != socket.is_some(), "{nic}");
    }
}

/// The beginning of an image, which is as long as its first eight bytes say.
pub fn qcow2_header(bytes: &[u8]) {
    let Some((length, header)) = bytes.split_first_chunk::<8>() else {
        return;
    };
    match qcow2::virtual_size(header, u64::from_be_bytes(*length)) {
        Err(problem) => fit_for_a_log(&problem.to_string()),
        Ok(size) => {
            assert_ne!(size, 0);
            if let Ok(overlay) = qcow2::overlay(size, Path::new("/base"), "qcow2") {
                let again = qcow2::virtual_size(&overlay, overlay.len() as u64);
                assert_eq!(again, Err(qcow2::Problem::BackingFile));
            }
        }
    }
}

/// What the guest's systemd reports: kept in bounds, and fit for a log.
pub fn guest_report(bytes: &[u8]) {
    let notified = Notified::new(None);
    notified.take(bytes);
    let boot = notified.boot();
    let texts = boot.targets.iter().chain(&boot.status).chain(&boot.hostname);
    texts.for_each(|text| fit_for_a_log(text));
    assert!(boot.targets.len() <= 100, "{}", boot.targets.len());
    notified.take(bytes);
    assert_eq!(notified.boot(), boot);
}

/// The pod's resolv.conf: the guest gets no server that it cannot reach, and no name that is none.
pub fn resolv_conf(bytes: &[u8]) {
    let resolv = resolv::parse(&String::from_utf8_lossy(bytes));
    for server in &resolv.nameservers {
        assert!(!server.is_unspecified() && !server.is_multicast(), "{server}");
    }
    for name in &resolv.search {
        assert!(
            !name.is_empty() && !name.contains(char::is_whitespace),
            "{name:?}"
        );
    }
    resolv.notes.iter().for_each(|note| fit_for_a_log(note));
}
