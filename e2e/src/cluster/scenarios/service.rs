//! A Service in front of a guest, by kube-proxy.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::api::{Cluster, LABEL, Namespace, until};
use crate::cluster::client::Client;
use crate::cluster::guest::{BOOT, Guest, PORT, SERVE, Wanted};

/// For a probe's answer to be known, and for kube-proxy to have heard of it.
const KNOWN: Duration = Duration::from_secs(60);
const SERVICE_PORT: u16 = 80;

/// The Service leads to the guest once its own server answers, and no more once it does not.
pub(super) fn follows_readiness(cluster: &Cluster) -> Result<()> {
    cluster.within("service", &[], |namespace| {
        let client = Client::start(namespace, "client")?;
        namespace.apply(&[service("guest"), service("client")])?;
        let wanted = Wanted {
            probed: true,
            ..Wanted::by("masquerade")
        };
        let guest = Guest::start(namespace, wanted)?;
        ensure!(!guest.is_ready()?, "the pod was ready before its guest could be");
        ensure!(
            endpoints(namespace)?.is_empty(),
            "the Service led to a guest that boots"
        );
        until("the guest's pod is ready", BOOT, || {
            Ok(guest.is_ready()?.then_some(()))
        })?;
        guest.wait_for_both_families()?;

        for address in cluster_addresses(namespace, "guest")? {
            client
                .greet_within(address, SERVICE_PORT, KNOWN)
                .context("through the Service")?;
        }
        // The other way: what the guest sends to a Service is the pod's.
        let [pod, _] = guest.addresses()?;
        for address in cluster_addresses(namespace, "client")? {
            let script = format!("wget -q -T 10 -O - http://{}/cgi-bin/who", bracketed(address));
            client
                .execute(pod, &script)
                .with_context(|| format!("from the guest to the Service at {address}"))?;
        }

        // In the background, so that the answer gets out first.
        client.execute(pod, "(sleep 1; killall httpd) > /dev/null 2>&1 &")?;
        until("the pod is not ready without the guest's server", KNOWN, || {
            Ok((!guest.is_ready()?).then_some(()))
        })?;
        until("the Service leads nowhere", KNOWN, || {
            Ok(endpoints(namespace)?.is_empty().then_some(()))
        })?;
        for address in cluster_addresses(namespace, "guest")? {
            until("connections to the Service are refused", SERVE, || {
                Ok(client.greet(address, SERVICE_PORT).is_err().then_some(()))
            })?;
        }
        guest.end()
    })
}

/// One of both families, at [`SERVICE_PORT`], for the pod of this name.
pub(super) fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {
            "selector": {LABEL: name},
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"port": SERVICE_PORT, "targetPort": PORT}],
        },
    })
}

pub(super) fn cluster_addresses(namespace: &Namespace<'_>, service: &str) -> Result<Vec<IpAddr>> {
    let service = namespace.get(&format!("service/{service}"))?;
    let addresses = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
    let addresses: Vec<IpAddr> = addresses
        .into_iter()
        .flatten()
        .filter_map(|address| address.as_str()?.parse().ok())
        .collect();
    ensure!(
        addresses.len() == 2,
        "the Service has not one address of each family: {addresses:?}"
    );
    Ok(addresses)
}

/// The ready ones of the guest's Service.
fn endpoints(namespace: &Namespace<'_>) -> Result<Vec<Value>> {
    let text = namespace.run(&[
        "get",
        "endpointslices",
        "--selector",
        "kubernetes.io/service-name=guest",
        "--output",
        "json",
    ])?;
    let slices: Value = serde_json::from_str(&text).context("kubectl prints no JSON")?;
    let endpoints = slices
        .get("items")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|slice| slice.get("endpoints")?.as_array())
        .flatten();
    let ready = |endpoint: &&Value| endpoint.pointer("/conditions/ready") == Some(&json!(true));
    Ok(endpoints.filter(ready).cloned().collect())
}

fn bracketed(address: IpAddr) -> String {
    if address.is_ipv6() {
        format!("[{address}]")
    } else {
        address.to_string()
    }
}
