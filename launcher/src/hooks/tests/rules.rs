//! Answers in, the configuration or exact refusals out.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::Hooked;
use super::super::rules::{inside, merge, share_memory_where_needed};
use super::super::socket::check;

fn ours() -> Value {
    json!({
        "cpus": {"boot_vcpus": 2, "max_vcpus": 2},
        "memory": {"size": 268_435_456},
        "payload": {"kernel": "/k", "cmdline": "console=ttyS0"},
        "net": [
            {"id": "default", "tap": "tap0", "mac": "02:00:00:00:00:01", "num_queues": 2, "queue_size": 256},
            {"id": "red", "mac": "02:00:00:00:00:02", "num_queues": 2, "queue_size": 256},
        ],
        "landlock_enable": true,
        "landlock_rules": [{"path": "/sys/class/net", "access": "r"}],
    })
}

fn hooked(name: &str, mac_is_given: bool) -> Hooked {
    Hooked {
        name: name.to_owned(),
        mac_is_given,
        attached: name == "default",
    }
}

fn with(changes: &[(&str, Value)]) -> Value {
    let mut config = ours();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match config.pointer_mut(parent).unwrap() {
            Value::Object(map) => drop(map.insert(key.to_owned(), value.clone())),
            Value::Array(list) => list.insert(key.parse().unwrap(), value.clone()),
            other => panic!("{other}"),
        }
    }
    config
}

/// A vhost-user backend behind red.
fn backend(more: &[(&str, Value)]) -> Value {
    let mut changes = vec![
        ("/net/1/vhost_user", json!(true)),
        ("/net/1/vhost_socket", json!("/hooks/red.vhost")),
    ];
    changes.extend(more.iter().cloned());
    with(&changes)
}

fn refused(theirs: &Value, hooked: &Hooked) -> Vec<String> {
    match merge(&ours(), theirs, hooked) {
        Ok(merged) => panic!("accepted: {merged:#?}"),
        Err(refusals) => refusals.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn a_vhost_user_backend_is_taken_over_and_the_memory_is_then_shared() {
    let theirs = backend(&[
        ("/net/1/mac", json!("02:00:00:00:00:09")),
        ("/net/1/mtu", json!(1400)),
        ("/net/1/num_queues", json!(4)),
        ("/net/1/queue_size", json!(1024)),
        ("/net/1/vhost_mode", json!("Client")),
        ("/net/1/offload_tso", json!(false)),
    ]);
    let mut merged = merge(&ours(), &theirs, &hooked("red", false)).unwrap();
    assert_eq!(merged.config, theirs);
    assert_eq!(merged.socket.as_deref(), Some("/hooks/red.vhost"));
    share_memory_where_needed(&mut merged.config);
    assert_eq!(
        merged.config["memory"],
        json!({"size": 268_435_456, "shared": true})
    );
}

#[test]
fn a_tap_is_taken_over_and_the_memory_stays_the_guests_own() {
    let theirs = with(&[("/net/1/tap", json!("veth.7"))]);
    let mut merged = merge(&ours(), &theirs, &hooked("red", false)).unwrap();
    share_memory_where_needed(&mut merged.config);
    assert_eq!(merged.config, theirs);
    assert_eq!(merged.socket, None);
}

#[test]
fn a_null_is_no_field_and_the_order_of_fields_does_not_matter() {
    let theirs = backend(&[
        ("/net/1/rate_limiter_config", json!(null)),
        ("/disks", json!(null)),
    ]);
    let text = theirs.to_string();
    let sorted: std::collections::BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
    let theirs = serde_json::to_value(sorted).unwrap();
    let merged = merge(&ours(), &theirs, &hooked("red", false)).unwrap();
    assert_eq!(merged.config, backend(&[]), "the nulls are not taken over");
}

#[test]
fn an_attached_nic_may_be_tuned() {
    let theirs = with(&[
        ("/net/0/queue_size", json!(512)),
        ("/net/0/mac", json!("02:00:00:00:00:09")),
    ]);
    let merged = merge(&ours(), &theirs, &hooked("default", false)).unwrap();
    assert_eq!(merged.config, theirs);
    // And is complete as it is.
    assert_eq!(
        merge(&ours(), &ours(), &hooked("default", false)).unwrap().config,
        ours()
    );
}

#[test]
fn everything_else_is_refused_by_its_path_and_all_at_once() {
    let mut theirs = backend(&[
        ("/memory/size", json!(1)),
        ("/memory/shared", json!(true)),
        ("/payload/cmdline", json!("console=ttyS0 init=/bin/sh")),
        ("/net/0/mac", json!("02:00:00:00:00:05")),
        ("/net/1/id", json!("blue")),
        ("/net/1/iommu", json!(true)),
        ("/net/2", json!({"id": "extra"})),
        ("/landlock_enable", json!(false)),
        ("/landlock_rules/1", json!({"path": "/", "access": "rw"})),
        ("/fs", json!([{"tag": "t"}])),
    ]);
    theirs.as_object_mut().unwrap().remove("cpus");
    assert_eq!(
        refused(&theirs, &hooked("red", false)),
        [
            "cpus: the sidecar left out an object: it must return what it does not set",
            "memory.size: the sidecar changed it from 268435456 to 1, and may set fields of its own NIC only",
            "memory.shared: the sidecar added true, and may set fields of its own NIC only",
            "payload.cmdline: the sidecar changed it from \"console=ttyS0\" to \"console=ttyS0 init=/bin/sh\", and may set fields of its own NIC only",
            "net[0].mac: the sidecar changed it from \"02:00:00:00:00:01\" to \"02:00:00:00:00:05\", and may set fields of its own NIC only",
            "net[1].id: \"blue\": a sidecar may not set this",
            "net[1].iommu: true: a sidecar may not set this",
            "net[2]: the sidecar added an object, and may set fields of its own NIC only",
            "landlock_enable: the sidecar changed it from true to false, and may set fields of its own NIC only",
            "landlock_rules[1]: the sidecar added an object, and may set fields of its own NIC only",
            "fs: the sidecar added a list, and may set fields of its own NIC only",
        ]
    );
}

#[test]
fn another_place_or_another_shape() {
    let mut swapped = backend(&[]);
    swapped["net"].as_array_mut().unwrap().reverse();
    let refusals = refused(&swapped, &hooked("red", false));
    assert!(
        refusals.iter().any(|line| line.starts_with("net[1].id: ")),
        "{refusals:#?}"
    );
    assert_eq!(
        refused(&json!([1]), &hooked("red", false)),
        [
            "vm_config: the sidecar changed it from an object to a list, and may set fields of its own NIC only"
        ]
    );
    assert_eq!(
        refused(&with(&[("/net", json!("none"))]), &hooked("red", false)),
        ["net: the sidecar changed it from a list to \"none\", and may set fields of its own NIC only"]
    );
    assert_eq!(
        refused(
            &with(&[("/net", json!([ours()["net"][0]]))]),
            &hooked("red", false)
        ),
        ["net[1]: the sidecar left out an object: it must return what it does not set"]
    );
}

#[test]
fn each_field_of_the_nic_within_its_bounds() {
    for (key, value, why) in [
        (
            "mac",
            json!("03:00:00:00:00:01"),
            "\"03:00:00:00:00:01\": expected a unicast address",
        ),
        (
            "mac",
            json!("02:00:00:00:00:01"),
            "\"02:00:00:00:00:01\": another NIC has this MAC",
        ),
        (
            "mac",
            json!("zz"),
            "\"zz\": expected six hex pairs joined by ':' or '-'",
        ),
        ("mac", json!(7), "7: expected text"),
        (
            "queue_size",
            json!(8),
            "8: expected a power of two from 16 to 32768",
        ),
        (
            "queue_size",
            json!(100),
            "100: expected a power of two from 16 to 32768",
        ),
        (
            "queue_size",
            json!(65536),
            "65536: expected a power of two from 16 to 32768",
        ),
        ("num_queues", json!(3), "3: expected an even number from 2 to 4"),
        ("num_queues", json!(6), "6: expected an even number from 2 to 4"),
        ("num_queues", json!(-2), "-2: expected an even number from 2 to 4"),
        ("mtu", json!(67), "67: expected 68 to 65535"),
        ("mtu", json!(65536), "65536: expected 68 to 65535"),
        ("offload_csum", json!("yes"), "\"yes\": expected true or false"),
        ("vhost_user", json!(1), "1: expected true or false"),
        (
            "vhost_mode",
            json!("Server"),
            "\"Server\": expected \"Client\": the sidecar's backend listens",
        ),
        ("vhost_socket", json!(5), "5: expected a path"),
        (
            "host_mac",
            json!("02:00:00:00:00:07"),
            "\"02:00:00:00:00:07\": a sidecar may not set this",
        ),
        ("fds", json!([3]), "a list: a sidecar may not set this"),
    ] {
        let theirs = backend(&[(&format!("/net/1/{key}"), value)]);
        assert_eq!(
            refused(&theirs, &hooked("red", false)),
            [format!("net[1].{key}: {why}")]
        );
    }
}

#[test]
fn the_manifests_mac_stays() {
    let theirs = backend(&[("/net/1/mac", json!("02:00:00:00:00:09"))]);
    assert_eq!(
        refused(&theirs, &hooked("red", true)),
        ["net[1].mac: \"02:00:00:00:00:09\": the manifest sets macAddress"]
    );
    // Said again it is no change.
    assert!(merge(&ours(), &backend(&[]), &hooked("red", true)).is_ok());
}

#[test]
fn one_backend_and_a_whole_one() {
    let red = hooked("red", false);
    for (theirs, why) in [
        (
            ours(),
            "net[1]: the NIC has no backend: set vhost_user and vhost_socket, or tap",
        ),
        (
            with(&[("/net/1/vhost_user", json!(false))]),
            "net[1]: the NIC has no backend: set vhost_user and vhost_socket, or tap",
        ),
        (
            with(&[("/net/1/vhost_user", json!(true))]),
            "net[1].vhost_socket: required with vhost_user",
        ),
        (
            backend(&[("/net/1/tap", json!("tap9"))]),
            "net[1].tap: beside vhost_user: a NIC has one backend",
        ),
        (
            with(&[("/net/1/tap", json!("tap9")), ("/net/1/mtu", json!(1400))]),
            "net[1].mtu: only with vhost_user",
        ),
        (
            with(&[
                ("/net/1/tap", json!("tap9")),
                ("/net/1/vhost_socket", json!("/hooks/s")),
            ]),
            "net[1].vhost_socket: only with vhost_user",
        ),
        (
            with(&[("/net/1/tap", json!("tap0"))]),
            "net[1].tap: \"tap0\": another NIC has this TAP",
        ),
    ] {
        assert_eq!(refused(&theirs, &red), [why]);
    }
    for name in ["", ".", "a/b", "tap%d", "a b", "sixteen-letters-"] {
        let refusals = refused(&with(&[("/net/1/tap", json!(name))]), &red);
        assert!(
            refusals[0].ends_with("expected an interface's name of 1 to 15 characters"),
            "{refusals:?}"
        );
    }
}

#[test]
fn a_nic_that_hawser_attached_keeps_its_tap() {
    for (key, value) in [
        ("vhost_user", json!(true)),
        ("vhost_socket", json!("/hooks/s")),
        ("tap", json!("tap9")),
        ("num_queues", json!(4)),
        ("mtu", json!(1400)),
    ] {
        let theirs = with(&[(&format!("/net/0/{key}"), value.clone())]);
        let refusals = refused(&theirs, &hooked("default", false));
        assert_eq!(refusals.len(), 1, "{refusals:?}");
        assert!(
            refusals[0].starts_with(&format!("net[0].{key}: "))
                && refusals[0].ends_with("hawser has attached this NIC to a device (domainAttachmentType)"),
            "{refusals:?}"
        );
    }
}

#[test]
fn what_a_sidecar_says_is_short_and_harmless_in_the_log() {
    let long = "\u{1b}[31m".repeat(10_000);
    let refusals = refused(
        &backend(&[("/payload/cmdline", json!(long))]),
        &hooked("red", false),
    );
    assert!(
        refusals[0].len() < 400 && !refusals[0].contains('\u{1b}'),
        "{refusals:?}"
    );
    let many: Vec<Value> = (0..50_000).map(|number| json!(number)).collect();
    let refusals = refused(
        &backend(&[
            ("/fs", json!({"a": 1})),
            ("/net/2", json!(1)),
            ("/landlock_rules", json!(many)),
        ]),
        &hooked("red", false),
    );
    assert!(refusals.len() <= 101, "{}", refusals.len());
    assert!(
        refusals.last().unwrap().ends_with("more"),
        "{:?}",
        refusals.last()
    );
}

#[test]
fn only_paths_below_the_shared_directory() {
    let hooks = Path::new("/hooks");
    assert_eq!(inside(hooks, "/hooks/a/b.sock"), Ok(Path::new("a/b.sock")));
    for path in [
        "",
        "s",
        "/hooks",
        "/hooks/",
        "/hooks/../etc/s",
        "/hooks/a/../../s",
        "/hooksother/s",
        "/etc/s",
        "hooks/s",
    ] {
        let why = inside(hooks, path).unwrap_err();
        assert_eq!(why, "not in the shared directory /hooks", "{path}");
    }
    let long = format!("/hooks/{}", "s".repeat(101));
    assert_eq!(
        inside(hooks, &long).unwrap_err(),
        "longer than the 107 bytes of a socket's address"
    );
    assert!(inside(hooks, &long[..107]).is_ok());
}

#[test]
fn only_sockets_and_no_links() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let _inside = UnixListener::bind(path("good")).unwrap();
    let _outside = UnixListener::bind(outside.path().join("other")).unwrap();
    std::fs::write(path("file"), "").unwrap();
    symlink(outside.path().join("other"), path("link")).unwrap();
    symlink("good", path("link-inside")).unwrap();
    symlink(outside.path(), path("dir")).unwrap();
    assert_eq!(check(dir.path(), &path("good")), Ok(()));
    for (name, why) in [
        ("file", "not a socket"),
        ("link", "reached over a symbolic link"),
        ("link-inside", "reached over a symbolic link"),
        ("dir/other", "reached over a symbolic link"),
        (
            "missing",
            "not there: the backend has to listen before the call is answered",
        ),
    ] {
        assert_eq!(check(dir.path(), &path(name)).unwrap_err(), why, "{name}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec(("[a-z_]{1,6}|net|id|tap|mac|vhost_user", inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_answered_the_rest_of_the_configuration_stays(
        changes in prop::collection::vec(("[a-z_]{1,8}|net|memory|payload|cpus", any_json()), 0..4),
        nic in any_json(),
        put_nic in any::<bool>(),
    ) {
        let mut theirs = backend(&[]);
        for (key, value) in changes {
            theirs[key] = value;
        }
        if put_nic && let Some(entry) = theirs.pointer_mut("/net/1") {
            *entry = nic;
        }
        if let Ok(merged) = merge(&ours(), &theirs, &hooked("red", false)) {
            let mut without = merged.config.clone();
            without["net"][1] = ours()["net"][1].clone();
            prop_assert_eq!(without, ours());
            prop_assert_eq!(&merged.config["net"][1]["id"], "red");
        }
    }
}
