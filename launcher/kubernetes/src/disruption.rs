//! The PodDisruptionBudget: whether a drain may end the guest's pod.

use hawser_manifest::{FieldPath, Report, quoted};
use serde_json::{Value, json};

use crate::metadata::{self, NAME_LABEL, name_label};
use crate::names;
use crate::source::{Shape, Source};

/// `minAvailable` as a number: it is the one form that needs no controller over the pod.
pub(crate) fn budget(source: &Source<'_>, report: &mut Report) -> Option<Value> {
    let strategy = source
        .passed_on("evictionStrategy", Shape::Text, report)?
        .as_str()?;
    let path = FieldPath::of("spec.evictionStrategy");
    let obstacle = source.facts.migration_obstacle.as_deref();
    match strategy {
        "None" | "" => return None,
        "LiveMigrateIfPossible" => {
            if let Some(why) = obstacle {
                report.note(
                    path,
                    format!("a drain ends the guest, because it cannot migrate: {why}"),
                );
                return None;
            }
        }
        "LiveMigrate" => {
            if let Some(why) = obstacle {
                report.note(
                    path,
                    format!("a drain of its node waits until the guest is shut down, because it cannot migrate: {why}"),
                );
            }
        }
        "External" => {}
        other => {
            report.refuse(
                path,
                format!(
                    "expected None, LiveMigrate, LiveMigrateIfPossible or External, found {}",
                    quoted(other)
                ),
            );
            return None;
        }
    }
    let name = names::bounded(&source.guest.name, names::NAME_MAX);
    let mut object = metadata::object(source, "policy/v1", "PodDisruptionBudget", &name);
    object.insert(
        "spec".to_owned(),
        json!({
            "minAvailable": 1,
            "selector": {"matchLabels": {NAME_LABEL: name_label(&source.guest.name)}},
        }),
    );
    Some(object.into())
}
