//! The pod, put together.

use hawser_manifest::{FieldPath, Report};
use serde_json::{Map, Value, json};

use crate::containers::{self, GUEST_USER};
use crate::form::Form;
use crate::metadata;
use crate::resources;
use crate::run_strategy;
use crate::scheduling;
use crate::sidecars;
use crate::source::{Shape, Source};
use crate::volumes::Volumes;

/// Seconds beyond the guest's own grace period: hawser kills the guest, takes the wiring down and ends by itself.
const GRACE: u64 = 15;
const IPV6_FORWARDING: &str = "net.ipv6.conf.all.forwarding";

/// `metadata` and `spec` of the pod, without its name.
pub(crate) fn template(
    source: &Source<'_>,
    form: Form,
    volumes: &Volumes,
    mounted: &Value,
    report: &mut Report,
) -> Value {
    let mut init = Vec::new();
    if form == Form::TwoContainers {
        init.push(containers::setup(source, mounted));
    }
    init.extend(sidecars::containers(source));
    let mut spec = Map::new();
    let mut set = |field: &str, value: Value| drop(spec.insert(field.to_owned(), value));
    set("hostname", hostname(source).into());
    set("subdomain", json!(source.guest.subdomain));
    set(
        "restartPolicy",
        run_strategy::restart_policy(source, report).into(),
    );
    set(
        "terminationGracePeriodSeconds",
        source
            .guest
            .termination_grace_period_seconds
            .saturating_add(GRACE)
            .into(),
    );
    set(
        "serviceAccountName",
        service_account(source, volumes, report).into(),
    );
    // hawser does not speak to the API server.
    set("automountServiceAccountToken", false.into());
    // A variable for each Service of the namespace would be an environment that hawser never asked for.
    set("enableServiceLinks", false.into());
    set("hostUsers", (form == Form::UserNamespace).then_some(false).into());
    set("securityContext", security_context(source, form));
    set(
        "imagePullSecrets",
        volumes
            .pull_secrets
            .iter()
            .map(|name| json!({"name": name}))
            .collect::<Vec<_>>()
            .into(),
    );
    set("initContainers", init.into());
    set(
        "containers",
        vec![containers::guest(source, form, volumes, mounted, report)].into(),
    );
    let mut all = containers::own_volumes(source, form, mounted);
    all.extend(volumes.volumes.iter().cloned());
    set("volumes", all.into());
    set("resourceClaims", resources::claims(source).cloned().into());
    spec.extend(scheduling::fields(source, report));
    let metadata = json!({
        "labels": metadata::labels(source),
        "annotations": metadata::annotations(source, report),
    });
    let mut pod = json!({"metadata": metadata, "spec": spec});
    prune(&mut pod["spec"]);
    pod
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
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty()));
            map.values_mut().for_each(prune);
        }
        Value::Array(list) => list.iter_mut().for_each(prune),
        _ => {}
    }
}
