//! The manifest's probes as probes of the pod, which mean the guest: it has the pod's address.

use hawser_manifest::{Binding, FieldPath, LinkState, Ports, Protocol, Report};
use serde_json::{Map, Value, json};

use crate::source::{Source, written};

/// What the manifest has in a probe; the rest is refused before this.
const HANDLERS: [&str; 2] = ["tcpSocket", "httpGet"];
/// How long a guest may take to boot before its liveness probe counts, in tries and seconds between them.
const BOOT_TRIES: u32 = 120;
/// The same where the guest comes from another pod: an hour more, after which `hawser migrate` gives up by default.
const RECEIVE_TRIES: u32 = 840;
const BOOT_PERIOD: u32 = 5;
/// Seconds between two questions whether hawser's guest runs, where the manifest has no readiness probe.
const READY_PERIOD: u32 = 5;
/// Seconds for hawser to answer. The question is a process of its own, which starts late on a node that is busy.
pub(crate) const TIMEOUT: u32 = 5;

#[derive(Debug)]
pub(crate) struct Probes {
    pub(crate) startup: Value,
    pub(crate) readiness: Value,
    pub(crate) liveness: Value,
}

/// How the kubelet asks hawser.
pub(crate) fn ask(flag: &str) -> Value {
    json!({"command": ["/usr/bin/hawser", "status", flag]})
}

impl Probes {
    pub(crate) fn of(source: &Source<'_>, report: &mut Report) -> Self {
        let readiness = match probe(source, "readinessProbe", report) {
            Some(probe) => probe.into(),
            None => json!({
                "exec": ask("--ready"),
                "periodSeconds": READY_PERIOD,
                "timeoutSeconds": TIMEOUT,
            }),
        };
        let liveness = probe(source, "livenessProbe", report);
        Self {
            startup: liveness.as_ref().map(|liveness| startup(source, liveness)).into(),
            readiness,
            liveness: liveness.into(),
        }
    }
}

/// A guest that boots is not a guest that hangs: the liveness probe counts from the first answer.
fn startup(source: &Source<'_>, liveness: &Map<String, Value>) -> Value {
    let mut startup: Map<String, Value> = liveness
        .iter()
        .filter(|(field, _)| HANDLERS.contains(&field.as_str()))
        .map(|(field, value)| (field.clone(), value.clone()))
        .collect();
    for field in ["initialDelaySeconds", "timeoutSeconds"] {
        startup.extend(liveness.get(field).map(|value| (field.to_owned(), value.clone())));
    }
    startup.insert("periodSeconds".to_owned(), BOOT_PERIOD.into());
    let tries = match source.options.target {
        Some(_) => RECEIVE_TRIES,
        None => BOOT_TRIES,
    };
    startup.insert("failureThreshold".to_owned(), json!(tries));
    startup.into()
}

fn probe(source: &Source<'_>, field: &str, report: &mut Report) -> Option<Map<String, Value>> {
    let probe = written(source.vmi.get("spec"), field)?;
    let path = FieldPath::of("spec").key(field);
    let Some(probe) = probe.as_object() else {
        report.refuse(path, "expected an object");
        return None;
    };
    let Some(handler) = HANDLERS
        .into_iter()
        .find(|handler| probe.get(*handler).is_some_and(Value::is_object))
    else {
        report.refuse(path, "expected tcpSocket or httpGet");
        return None;
    };
    let Some(ports) = reachable(source) else {
        report.refuse(
            path,
            "the kubelet asks at the pod's address, and no interface of the guest has that: use masquerade, bridge or \
             passt on the pod network",
        );
        return None;
    };
    let port = probe.get(handler).and_then(|handler| handler.get("port"));
    if !forwards(ports, port) {
        report.refuse(
            path.key(handler).key("port"),
            "not among the interface's ports: the probe would never reach the guest",
        );
        return None;
    }
    Some(probe.clone())
}

/// The ports at which the guest is reached at the pod's address, if it is at all.
fn reachable<'a>(source: &Source<'a>) -> Option<&'a Ports> {
    let interface = source.guest.interfaces.iter().find(|interface| {
        let by_address = matches!(
            interface.binding,
            Binding::Masquerade | Binding::Bridge | Binding::Passt | Binding::Plugin { .. }
        );
        interface.network.is_primary() && interface.state == LinkState::Up && by_address
    })?;
    match interface.binding {
        // The guest has the address itself, so that all of its ports are there.
        Binding::Bridge => Some(&Ports::All),
        _ => Some(&interface.ports),
    }
}

/// Whether a probe's port, by number or by name, is one of these. A number that YAML has as a string is a name to Kubernetes
/// unless it is one of digits alone.
fn forwards(ports: &Ports, port: Option<&Value>) -> bool {
    let Ports::Listed(list) = ports else { return true };
    let number = port
        .and_then(Value::as_u64)
        .or_else(|| port?.as_str()?.parse().ok());
    let name = port.and_then(Value::as_str);
    list.iter()
        .filter(|range| range.protocol == Protocol::Tcp)
        .any(|range| match number {
            Some(number) => (u64::from(range.first)..=u64::from(range.last)).contains(&number),
            None => range.name.as_deref() == name && name.is_some(),
        })
}
