//! KubeVirt's own example manifests, and the table in docs/examples.md that says what becomes of each.
//!
//! The manifests are KubeVirt's and are not here: the environment says where they are, and without it that part is
//! skipped. What the table says is refused is always tried in manifests of ours, so that it cannot become untrue unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::Context;
use super::running::{exit_code, expect_exit};
use crate::pods::{Pod, PodSpec, Privileges, set, vmi};
use crate::process::Process;
use crate::report::{Scenario, Skip};

pub(super) const SCENARIOS: &[Scenario<Context>] = &[
    Scenario {
        name: "the table counts itself, and what it refuses is refused",
        run: table_holds,
    },
    Scenario {
        name: "KubeVirt's own, each as the table says",
        run: kubevirts,
    },
];

/// The directory `examples` of KubeVirt's repository.
const DIRECTORY: &str = "KUBEVIRT_EXAMPLES";

/// What becomes of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Accepted,
    /// By these fields.
    Refused(Vec<String>),
    /// It describes no guest.
    NoGuest,
}

impl Outcome {
    fn row(&self, name: &str) -> String {
        match self {
            Self::Accepted => format!("| `{name}` | accepted | |"),
            Self::Refused(paths) => format!("| `{name}` | refused | `{}` |", paths.join("`, `")),
            Self::NoGuest => format!("| `{name}` | no guest | |"),
        }
    }

    fn of_row(row: &str) -> Option<(String, Self)> {
        let cells: Vec<_> = row.trim_matches('|').split(" |").map(str::trim).collect();
        let name = cells.first()?.strip_prefix('`')?.strip_suffix('`')?;
        let paths = cells.get(2).copied().unwrap_or_default().split("`, `");
        let outcome = match *cells.get(1)? {
            "accepted" => Self::Accepted,
            "refused" => Self::Refused(paths.map(|path| path.trim_matches('`').to_owned()).collect()),
            "no guest" => Self::NoGuest,
            _ => return None,
        };
        Some((name.to_owned(), outcome))
    }
}

type Table = BTreeMap<String, Outcome>;

fn page() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples.md");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn table(page: &str) -> Table {
    page.lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(Outcome::of_row)
        .collect()
}

/// The sentence that the page has about its table.
fn sums_up(table: &Table) -> String {
    let count = |wanted: fn(&Outcome) -> bool| table.values().filter(|outcome| wanted(outcome)).count();
    let accepted = count(|outcome| *outcome == Outcome::Accepted);
    let refused = count(|outcome| matches!(outcome, Outcome::Refused(_)));
    let others = count(|outcome| *outcome == Outcome::NoGuest);
    format!(
        "{} files: {accepted} of {} guests are accepted, {refused} are refused, and {others} describe no guest.",
        table.len(),
        accepted + refused
    )
}

fn table_holds(context: &Context) -> Result<()> {
    let page = page()?;
    let table = table(&page);
    let sum = sums_up(&table);
    ensure!(page.contains(&sum), "docs/examples.md does not say: {sum}");
    let refused: BTreeSet<&str> = table
        .values()
        .filter_map(|outcome| match outcome {
            Outcome::Refused(paths) => Some(paths),
            _ => None,
        })
        .flatten()
        .map(String::as_str)
        .collect();
    let pod = pod(context)?;
    for path in refused {
        let outcome = outcome(&pod, &ours(path)?.to_string())?;
        ensure!(
            outcome == Outcome::Refused(vec![path.to_owned()]),
            "{path}: {outcome:?}"
        );
    }
    Ok(())
}

/// A manifest of ours with the field at `path`, and nothing else that could be refused.
fn ours(path: &str) -> Result<Value> {
    let mut vmi = vmi(Value::Null);
    let in_template = path.strip_prefix("spec.template.");
    let within = in_template.unwrap_or(path);
    let (parent, field, value) = match within {
        "metadata.annotations[\"hooks.kubevirt.io/hookSidecars\"]" => {
            let annotations = json!({"hooks.kubevirt.io/hookSidecars": "[]"});
            ("/metadata", "annotations", annotations)
        }
        "spec.domain.firmware.bootloader.efi.secureBoot" => (
            "/spec/domain/firmware",
            "bootloader",
            json!({"efi": {"secureBoot": true}}),
        ),
        "spec.instancetype" | "spec.preference" => {
            let mut machine = in_machine(&vmi);
            let field = within.trim_start_matches("spec.");
            set(&mut machine, &format!("/spec/{field}"), json!({"name": "small"}));
            return Ok(machine);
        }
        _ => match within.rsplit_once('.') {
            Some(("spec.domain.devices", field)) => ("/spec/domain/devices", field, json!({})),
            _ => bail!("{path} is refused by the table, and this test has no manifest for it"),
        },
    };
    set(&mut vmi, &format!("{parent}/{field}"), value);
    Ok(if in_template.is_some() {
        in_machine(&vmi)
    } else {
        vmi
    })
}

fn in_machine(vmi: &Value) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": "machine"},
        "spec": {"template": {
            "metadata": {"annotations": vmi.pointer("/metadata/annotations")},
            "spec": vmi.get("spec"),
        }},
    })
}

fn kubevirts(context: &Context) -> Result<()> {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        let reason = format!("{DIRECTORY} names no directory: the examples are in KubeVirt's repository");
        return Err(Skip::because(reason).into());
    };
    let pod = pod(context)?;
    let mut found = Table::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let manifest = fs::read_to_string(&path)?;
            let outcome = outcome(&pod, &manifest)?;
            if outcome == Outcome::Accepted {
                renders(&pod, &manifest).with_context(|| name.clone())?;
            }
            found.insert(name, outcome);
        }
    }
    let wanted = table(&page()?);
    let names: BTreeSet<_> = found.keys().chain(wanted.keys()).collect();
    let differ = names
        .into_iter()
        .filter(|name| found.get(*name) != wanted.get(*name));
    let rows: Vec<_> = differ
        .map(|name| match found.get(name) {
            Some(outcome) => outcome.row(name),
            None => format!("{name} is not there"),
        })
        .collect();
    ensure!(
        rows.is_empty(),
        "docs/examples.md is not what is found:\n{}\n{}",
        rows.join("\n"),
        sums_up(&found)
    );
    Ok(())
}

fn pod(context: &Context) -> Result<Pod> {
    let spec = PodSpec {
        privileges: Privileges::Nothing,
        ..PodSpec::default()
    };
    Pod::new(&context.programs, spec)
}

/// What is accepted is a pod too. That Kubernetes takes it is for the cluster's scenarios.
fn renders(pod: &Pod, manifest: &str) -> Result<()> {
    let mut hawser = Process::spawn(
        "hawser",
        &mut pod.hawser_command(&pod.entry(), "pod", &["--vmi", "-"])?,
    )?;
    let _ = hawser.feed(manifest);
    expect_exit(exit_code(&mut hawser)?, 0, &hawser)?;
    ensure!(
        hawser.stdout().contains("kind: Pod"),
        "no pod:\n{}",
        hawser.transcript()
    );
    Ok(())
}

/// By `hawser plan`: a pod that lacks what an accepted manifest needs is another matter than a manifest that is refused.
fn outcome(pod: &Pod, manifest: &str) -> Result<Outcome> {
    let mut hawser = Process::spawn(
        "hawser",
        &mut pod.hawser_command(&pod.entry(), "plan", &["--vmi", "-"])?,
    )?;
    let _ = hawser.feed(manifest);
    let code = exit_code(&mut hawser)?;
    let said = hawser.stderr();
    match code {
        0 | 4 => Ok(Outcome::Accepted),
        3 => {
            let lines = said
                .lines()
                .skip_while(|line| !line.contains("the manifest is refused"));
            let path = |line: &str| line.trim().split_once(": ").map(|(path, _)| path.to_owned());
            let paths: Vec<_> = lines.skip(1).filter_map(path).collect();
            ensure!(!paths.is_empty(), "refused without a field:\n{said}");
            Ok(if paths == ["kind"] {
                Outcome::NoGuest
            } else {
                Outcome::Refused(paths)
            })
        }
        code => bail!("exit code {code}:\n{}", hawser.transcript()),
    }
}
