//! A guest that migrates to a pod on another node.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::certificates::Authority;
use crate::cluster::api::{Cluster, LABEL, until};
use crate::cluster::client::Client;
use crate::cluster::guest::{Guest, PORT, SERVE, Wanted};
use crate::lab::process::progress;

pub(super) const SECRET: &str = "guest-migration";
/// The target's pod.
const TARGET: &str = "guest-b";
/// For a target to listen.
const LISTEN: Duration = Duration::from_secs(60);
/// Seconds of a request that is under way while its guest migrates.
const REQUEST: u32 = 60;
pub(super) const SERVICE_PORT: u16 = 80;

/// By two pods of `hawser pod`, with certificates from a Secret, and `hawser migrate` by `kubectl exec`.
pub(super) fn between_nodes(cluster: &Cluster) -> Result<()> {
    cluster.within("migration", &[], |namespace| {
        let peer = format!("guest.{}.vmi", namespace.name);
        namespace.apply(&[certificates(&peer)?, settings(), service()])?;
        let volumes = [json!({"name": "settings", "configMap": {"name": "settings"}})];
        let shared = ["--namespace", &namespace.name, "--tls-secret", SECRET];
        let at_target = [&shared[..], &["--target", TARGET]].concat();
        let wanted = Wanted {
            mac: Some("02:00:00:00:00:01"),
            volumes: &volumes,
            options: &shared,
            ..Wanted::by("masquerade")
        };

        let client = Client::start(namespace, "client")?;
        let source = Guest::start(namespace, wanted)?;
        source.wait_for_both_families()?;
        let before = source.addresses()?;
        for address in before {
            client
                .greet_within(address, PORT, SERVE)
                .context("at the source")?;
        }
        let target = Guest::start(
            namespace,
            Wanted {
                pod: Some(TARGET),
                options: &at_target,
                ..wanted
            },
        )
        .context("the target")?;
        let (from, to) = (source.node()?, target.node()?);
        ensure!(from != to, "both pods are on {from}");
        target.said("event=\"waiting-for-guest\"", LISTEN)?;
        let status = target.status()?;
        ensure!(
            status.get("state").and_then(Value::as_str) == Some("receiving"),
            "hawser status of a target that waits: {status}"
        );
        ensure!(!target.is_ready()?, "the target is ready without a guest");

        let [source_ipv4, _] = before;
        let boot = client.execute(source_ipv4, "cat /proc/sys/kernel/random/boot_id")?;
        let uptime = client.uptime(source_ipv4)?;
        let open = client.long_request(source_ipv4, REQUEST)?;
        let after = target.addresses()?;
        let [target_ipv4, target_ipv6] = after;
        let address = format!("tcp:[{target_ipv6}]:49152");
        let started = Instant::now();
        let steps = namespace
            .exec(
                "guest",
                &[
                    "hawser",
                    "migrate",
                    "--to",
                    &address,
                    "--server-name",
                    &peer,
                    "--tls-dir",
                    "/etc/hawser-tls",
                ],
            )
            .context("hawser migrate, in the source's pod")?;
        progress(format!(
            "from {from} to {to} in {:.1} s:\n{steps}",
            started.elapsed().as_secs_f64()
        ));

        target.said("event=\"guest-running\"", SERVE)?;
        until("the target's pod is ready", SERVE, || {
            Ok(target.is_ready()?.then_some(()))
        })?;
        until("the source's pod has succeeded", SERVE, || {
            let pod = source.pod()?;
            Ok((pod.pointer("/status/phase").and_then(Value::as_str) == Some("Succeeded")).then_some(()))
        })?;
        source.said("event=\"guest-migrated\"", SERVE)?;
        expect_status(&target)?;

        for (address, own) in after.into_iter().zip(client.addresses()?) {
            client
                .greet_within(address, PORT, SERVE)
                .context("at the target")?;
            let seen = client.seen(address, own)?;
            ensure!(
                seen == address,
                "a pod saw the guest as {seen}, not as its new pod, {address}"
            );
        }
        let same = client.execute(target_ipv4, "cat /proc/sys/kernel/random/boot_id")?;
        ensure!(same == boot, "the guest has booted anew");
        let now = client.uptime(target_ipv4)?;
        ensure!(
            now > uptime,
            "the guest was up for {uptime} s, and is now for {now} s"
        );
        let service = namespace.get("service/guest-web")?;
        let service = service.pointer("/spec/clusterIP").and_then(Value::as_str);
        let service = service.context("the Service has no address")?.parse()?;
        client
            .greet_within(service, SERVICE_PORT, SERVE)
            .context("through the Service, after the migration")?;
        // As docs/migration.md says of masquerade: connections are to the pod's address, and that stayed behind.
        ensure!(
            !open.has_said("answered", 1),
            "a connection to the source's pod has outlived it"
        );
        target.end()
    })
}

fn expect_status(target: &Guest<'_>) -> Result<()> {
    let status = target.status()?;
    let text = |pointer: &str| status.pointer(pointer).and_then(Value::as_str);
    ensure!(
        text("/state") == Some("running")
            && text("/migration/direction") == Some("in")
            && text("/migration/step") == Some("migrated"),
        "hawser status at the target: {status}"
    );
    Ok(())
}

/// As cert-manager would make it.
pub(super) fn certificates(name: &str) -> Result<Value> {
    let authority = Authority::new("migration")?;
    let identity = authority.identity(name, None, &[name.to_owned()])?;
    let data = [
        ("ca.crt", authority.certificate()),
        ("tls.crt", &identity.certificate),
        ("tls.key", &identity.key),
    ];
    let data: serde_json::Map<String, Value> = data
        .into_iter()
        .map(|(key, text)| (key.to_owned(), STANDARD.encode(text).into()))
        .collect();
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": SECRET},
        "data": data,
    }))
}

pub(super) fn settings() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "settings"},
        "data": {"a": "b"},
    })
}

pub(super) fn service() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "guest-web"},
        "spec": {
            "selector": {LABEL: "guest"},
            "ports": [{"port": SERVICE_PORT, "targetPort": PORT}],
        },
    })
}
