//! The verbs that are one command in the guest's pod.

use std::io::{IsTerminal, stdin};
use std::process::{ExitCode, ExitStatus};

use hawser_kubernetes::GUEST;
use serde_json::{Value, json};

use crate::cli::Format;
use crate::failure::Failure;
use crate::kubectl::Kubectl;
use crate::launcher::{Launcher, status_json, within};
use crate::pod::{Phase, Pod};
use crate::scene::Scene;
use crate::verdict::{Verdict, verdict};

pub(crate) fn status(kubectl: &Kubectl, guest: &str, format: Format) -> Result<ExitCode, Failure> {
    let scene = Scene::look(kubectl, guest)?;
    if scene.pods.is_empty() {
        scene.holder(guest)?;
    }
    let mut list = Vec::new();
    for pod in &scene.pods {
        let runs = pod.phase == Phase::Running;
        match format {
            Format::Json => {
                let said = runs.then(|| status_json(kubectl, &pod.name));
                let (said, error) = match said {
                    Some(Ok(said)) => (said, None),
                    Some(Err(error)) => (Value::Null, Some(error.to_string())),
                    None => (Value::Null, None),
                };
                list.push(json!({
                    "pod": pod.name,
                    "node": pod.node,
                    "phase": pod.text("/status/phase"),
                    "launcher": said,
                    "error": error,
                }));
            }
            Format::Table => println!("{}", told(kubectl, pod)),
        }
    }
    if format == Format::Json {
        println!("{:#}", Value::from(list));
    }
    Ok(ExitCode::SUCCESS)
}

fn told(kubectl: &Kubectl, pod: &Pod) -> String {
    let phase = pod.text("/status/phase").unwrap_or("no phase");
    let place = pod.place();
    if pod.phase != Phase::Running {
        return match pod.phase {
            Phase::Ended(Some(code)) => format!("{place}: {phase}, exit code {code}"),
            _ => format!("{place}: {phase}"),
        };
    }
    match kubectl.ask(&within(&pod.name, &["status", "--output", "table"])) {
        Ok(table) => format!("{place}: {phase}\n{table}"),
        Err(error) => format!("{place}: {phase}; {error}"),
    }
}

/// The pod that has the guest; during a migration, by what the launchers say.
pub(crate) fn pod_of_guest(kubectl: &Kubectl, guest: &str) -> Result<Pod, Failure> {
    let scene = Scene::look(kubectl, guest)?;
    if let Some(target) = scene.open_target() {
        let source = scene.source_of(target);
        let at_source = source.map_or(Launcher::Gone, |source| Launcher::of(kubectl, source));
        let at_target = Launcher::of(kubectl, target);
        return match (verdict(&at_source, &at_target), source) {
            (Verdict::Migrated, _) | (_, None) => Ok(target.clone()),
            (_, Some(source)) => Ok(source.clone()),
        };
    }
    scene.holder(guest).cloned()
}

pub(crate) fn logs(kubectl: &Kubectl, guest: &str, follow: bool) -> Result<ExitCode, Failure> {
    let scene = Scene::look(kubectl, guest)?;
    let pod = match pod_of_guest(kubectl, guest) {
        Ok(pod) => pod.name,
        // What has ended has a log too.
        Err(failure) => scene.pods.last().map(|pod| pod.name.clone()).ok_or(failure)?,
    };
    let mut words = vec!["logs", &pod, "--container", GUEST];
    if follow {
        words.push("--follow");
    }
    Ok(code(kubectl.here(&words)?))
}

pub(crate) fn console(kubectl: &Kubectl, guest: &str, read_only: bool) -> Result<ExitCode, Failure> {
    let pod = pod_of_guest(kubectl, guest)?;
    let mut verb = vec!["console"];
    if read_only {
        verb.push("--read-only");
    }
    let mut words = within(&pod.name, &verb);
    words.insert(1, "--stdin");
    if stdin().is_terminal() {
        words.insert(1, "--tty");
    }
    Ok(code(kubectl.here(&words)?))
}

pub(crate) fn stop(kubectl: &Kubectl, guest: &str) -> Result<ExitCode, Failure> {
    let pod = pod_of_guest(kubectl, guest)?;
    Ok(code(kubectl.here(&within(&pod.name, &["stop"]))?))
}

pub(crate) fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}
