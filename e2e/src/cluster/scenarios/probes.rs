//! The manifest's probes as the kubelet has them: what they do to the pod, and what becomes of the guest.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::api::{Cluster, Namespace, until};
use crate::cluster::client::Client;
use crate::cluster::guest::{BOOT, Guest, PORT, SERVE, Wanted};
use crate::cluster::pace::allowed;

/// What the readiness probe asks: the guest's second web server (images/guest/init). The first is asked by the liveness probe.
const READY_PORT: u16 = 9090;
/// For a guest that lives to answer a probe. One that does not is refused at once.
const ANSWER: Duration = Duration::from_secs(10);
/// For a probe's answer to be known.
const KNOWN: Duration = Duration::from_secs(30);
/// For a guest whose probe fails to be shut down.
const ENDED: Duration = Duration::from_secs(90);

/// Guests by `runStrategy`, and what their pods are when the guest has been shut down for not answering.
const STRATEGIES: [(&str, &str, Option<&str>); 3] = [
    ("always", "Always", None),
    // The guest went down by its power button, which is no failure; but the kubelet starts whatever failed its liveness probe
    // again, whatever its exit code is, unless restartPolicy is Never.
    ("rerun", "RerunOnFailure", None),
    ("once", "Once", Some("Succeeded")),
];

pub(super) fn of_the_guest(cluster: &Cluster) -> Result<()> {
    cluster.within("probes", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        let probe = |port: u16| {
            json!({
                "httpGet": {"port": port},
                "periodSeconds": 2,
                "timeoutSeconds": allowed(ANSWER).as_secs(),
                "failureThreshold": 2,
            })
        };
        let changes = json!({"readinessProbe": probe(READY_PORT), "livenessProbe": probe(PORT)});
        let mut guests = STRATEGIES
            .iter()
            .map(|(name, strategy, _)| {
                let wanted = Wanted {
                    name,
                    again: true,
                    strategy,
                    changes: Some(&changes),
                    ..Wanted::by("masquerade")
                };
                Guest::start(namespace, wanted).context(*name)
            })
            .collect::<Result<Vec<_>>>()?;
        for (guest, (name, _, _)) in guests.iter().zip(STRATEGIES) {
            started_late(namespace, guest, name).context(name)?;
        }
        if let Some(guest) = guests.first() {
            ready_and_not(&client, guest)?;
        }
        for (guest, (name, _, phase)) in guests.iter_mut().zip(STRATEGIES) {
            not_alive(namespace, &client, guest, name, phase).context(name)?;
        }
        let restarted = guests
            .into_iter()
            .zip(STRATEGIES)
            .filter(|(_, (_, _, phase))| phase.is_none());
        restarted.map(|(guest, _)| guest).try_for_each(Guest::end)
    })
}

/// The liveness probe, which allows four seconds, does not count while the guest boots, which takes longer.
fn started_late(namespace: &Namespace<'_>, guest: &Guest<'_>, name: &str) -> Result<()> {
    until("the pod is ready", BOOT, || Ok(guest.is_ready()?.then_some(())))?;
    let status = container(namespace, name)?;
    ensure!(
        status.get("started") == Some(&json!(true)) && status.get("restartCount") == Some(&json!(0)),
        "the container was started more than once: {status}"
    );
    guest.wait_for_both_families()
}

fn ready_and_not(client: &Client<'_>, guest: &Guest<'_>) -> Result<()> {
    let [address, _] = guest.addresses()?;
    let container = guest.container()?;
    let kill = format!("kill $(ps | awk '/[h]ttpd -p {READY_PORT}/ {{ print $1 }}')");
    client.execute(address, &kill)?;
    until("the pod is not ready", KNOWN, || {
        Ok((!guest.is_ready()?).then_some(()))
    })?;
    client.execute(address, &format!("httpd -p {READY_PORT} -h /www"))?;
    until("the pod is ready again", KNOWN, || {
        Ok(guest.is_ready()?.then_some(()))
    })?;
    ensure!(
        guest.container()? == container,
        "a probe of readiness started the container again"
    );
    Ok(())
}

fn not_alive(
    namespace: &Namespace<'_>,
    client: &Client<'_>,
    guest: &mut Guest<'_>,
    name: &str,
    phase: Option<&str>,
) -> Result<()> {
    let [address, _] = guest.addresses()?;
    // In the background, so that the answer gets out first.
    client.execute(address, "(sleep 1; killall httpd) > /dev/null 2>&1 &")?;
    guest
        .said("guest: power button", ENDED)
        .context("the guest is not told to go")?;
    let Some(phase) = phase else {
        until("the container is started again", ENDED, || {
            let count = container(namespace, name)?.get("restartCount").cloned();
            Ok((count == Some(json!(1))).then_some(()))
        })?;
        guest.read_again()?;
        guest.said("guest: ready", BOOT).context("the second start")?;
        // The kubelet may have removed the first container by now, and then says nothing of how it ended.
        let ended = container(namespace, name)?;
        let code = ended.pointer("/lastState/terminated/exitCode");
        ensure!(
            code.is_none_or(|code| *code == json!(0)),
            "the launcher did not end with 0: {ended}"
        );
        ensure!(
            !guest.has_said("event=\"previous-launcher-killed\""),
            "the launcher was killed before its guest had gone"
        );
        until("the pod is ready again", BOOT, || {
            Ok(guest.is_ready()?.then_some(()))
        })?;
        return client.greet_within(address, PORT, SERVE);
    };
    until(&format!("the pod is {phase}"), ENDED, || {
        let pod = guest.pod()?;
        let is = pod.pointer("/status/phase").and_then(Value::as_str);
        ensure!(
            is == Some("Running") || is == Some(phase),
            "the pod is {}",
            pod.get("status").unwrap_or(&Value::Null)
        );
        Ok((is == Some(phase)).then_some(()))
    })
}

fn container(namespace: &Namespace<'_>, pod: &str) -> Result<Value> {
    let pod = namespace.get(&format!("pod/{pod}"))?;
    let status = pod.pointer("/status/containerStatuses/0");
    status.cloned().context("no container status")
}
