//! The pod, put together.

use hawser_manifest::{FieldPath, Report};
use serde_json::{Map, Value, json};

use crate::containers;
use crate::form::Form;
use crate::metadata;
use crate::migration;
use crate::names::GUEST_USER;
use crate::resources;
use crate::run_strategy;
use crate::scheduling;
use crate::sidecars;
use crate::source::{Shape, Source};
use crate::volumes::Volumes;

/// Seconds beyond the guest's own grace period: hawser kills the guest, takes the wiring down and ends by itself.
const GRACE: u64 = 15;
const IPV6_FORWARDING: &str = "net.ipv6.conf.all.forwarding";

/// A pod without its name.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) labels: Map<String, Value>,
    pub(crate) annotations: Map<String, Value>,
    pub(crate) restart_policy: &'static str,
    pub(crate) spec: Map<String, Value>,
}

impl Template {
    /// As controllers have it.
    pub(crate) fn object(self) -> Value {
        json!({
            "metadata": {"labels": self.labels, "annotations": self.annotations},
            "spec": self.spec,
        })
    }
}

/// `config` is the volume with the manifest.
pub(crate) fn template(
    source: &Source<'_>,
    form: Form,
    volumes: &Volumes,
    config: &Value,
    report: &mut Report,
) -> Template {
    let restart_policy = run_strategy::restart_policy(source, report);
    let restart_policy = migration::restart_policy(source, restart_policy, report);
    let mut init = Vec::new();
    if form == Form::TwoContainers {
        init.push(containers::setup(source));
    }
    init.extend(sidecars::containers(source));
    let mut all_volumes = containers::own_volumes(source, form, config);
    all_volumes.extend(volumes.volumes.iter().cloned());
    let pull_secrets: Vec<Value> = volumes
        .pull_secrets
        .iter()
        .map(|name| json!({"name": name}))
        .collect();
    let grace = source
        .guest
        .termination_grace_period_seconds
        .saturating_add(GRACE);
    let mut spec = object(json!({
        "hostname": hostname(source),
        "subdomain": source.guest.subdomain,
        "restartPolicy": restart_policy,
        "terminationGracePeriodSeconds": grace,
        "serviceAccountName": service_account(source, volumes, report),
        // hawser does not speak to the API server.
        "automountServiceAccountToken": false,
        // A variable for each Service of the namespace would be an environment that hawser never asked for.
        "enableServiceLinks": false,
        "hostUsers": (form == Form::UserNamespace).then_some(false),
        "securityContext": security_context(source, form),
        "imagePullSecrets": pull_secrets,
        "initContainers": init,
        "containers": [containers::guest(source, form, volumes, report)],
        "volumes": all_volumes,
        "resourceClaims": resources::claims(source),
    }));
    spec.extend(scheduling::fields(source, report));
    prune(&mut spec);
    Template {
        labels: metadata::labels(source),
        annotations: metadata::annotations(source, report),
        restart_policy,
        spec,
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A pod's host name is a label, and the beginning of a long name may end with a dash.
fn hostname<'a>(source: &Source<'a>) -> &'a str {
    source.guest.hostname.trim_end_matches('-')
}

fn service_account(source: &Source<'_>, volumes: &Volumes, report: &mut Report) -> Option<String> {
    let written = source
        .passed_on("serviceAccountName", Shape::Text, report)
        .and_then(Value::as_str);
    match (written, &volumes.service_account) {
        (Some(name), Some(other)) if name != other => {
            report.refuse(
                FieldPath::of("spec.serviceAccountName"),
                format!("a pod has one service account, and a volume of the guest is that of {other}"),
            );
            None
        }
        (Some(name), _) => Some(name.to_owned()),
        (None, volume) => volume.clone(),
    }
}

fn security_context(source: &Source<'_>, form: Form) -> Value {
    let needs_sysctl = matches!(form, Form::TwoContainers | Form::OneContainer) && source.options.ipv6_sysctl;
    json!({
        "fsGroup": GUEST_USER,
        // Not at each start: a claim may have many files, and a target of a migration starts beside its source.
        "fsGroupChangePolicy": "OnRootMismatch",
        "sysctls": needs_sysctl.then(|| json!([{"name": IPV6_FORWARDING, "value": "1"}])),
    })
}

/// Takes out what is null, and the lists that are empty: both are what is left out.
fn prune(map: &mut Map<String, Value>) {
    map.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()));
    map.values_mut().for_each(prune_below);
}

fn prune_below(value: &mut Value) {
    match value {
        Value::Object(map) => prune(map),
        Value::Array(list) => list.iter_mut().for_each(prune_below),
        _ => {}
    }
}
