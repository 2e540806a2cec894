//! The guest's PodDisruptionBudget during a migration: no drain ends either pod.
//!
//! Outside of a migration it wants one pod that is ready. A target is not ready before it has the guest, so an eviction of it would
//! be allowed. With two that are wanted and one that is ready, both are refused. An annotation says that the number is to be put back,
//! for whoever finds it.

use hawser_kubernetes::guest_selector;
use serde_json::{Value, json};

use crate::kubectl::{Error, Kubectl};

/// Present while a migration is under way, with the target's name.
const MIGRATION: &str = "hawser.dev/migration";

/// Before the target is made.
pub(crate) fn raise(kubectl: &Kubectl, guest: &str, target: &str) -> Result<(), Error> {
    for budget in budgets(kubectl, guest)? {
        if budget.wanted == Some(1) {
            let patch = json!({
                "metadata": {"annotations": {MIGRATION: target}},
                "spec": {"minAvailable": 2},
            });
            change(kubectl, &budget.name, &patch)?;
        }
    }
    Ok(())
}

/// When one pod is left.
pub(crate) fn lower(kubectl: &Kubectl, guest: &str) -> Result<(), Error> {
    for budget in budgets(kubectl, guest)? {
        if budget.is_raised {
            let patch = json!({
                "metadata": {"annotations": {MIGRATION: null}},
                "spec": {"minAvailable": 1},
            });
            change(kubectl, &budget.name, &patch)?;
        }
    }
    Ok(())
}

/// Whether a drain waits for the guest.
pub(crate) fn is_there(kubectl: &Kubectl, guest: &str) -> Result<bool, Error> {
    Ok(!budgets(kubectl, guest)?.is_empty())
}

struct Budget {
    name: String,
    wanted: Option<u64>,
    is_raised: bool,
}

fn budgets(kubectl: &Kubectl, guest: &str) -> Result<Vec<Budget>, Error> {
    let selector = guest_selector(guest);
    let list = kubectl.json(&[
        "get",
        "poddisruptionbudgets",
        "--selector",
        &selector,
        "--output",
        "json",
    ])?;
    let items = list.get("items").and_then(Value::as_array).into_iter().flatten();
    let budgets = items.filter_map(|item| {
        let annotations = item.pointer("/metadata/annotations");
        Some(Budget {
            name: item.pointer("/metadata/name")?.as_str()?.to_owned(),
            wanted: item.pointer("/spec/minAvailable").and_then(Value::as_u64),
            is_raised: annotations.is_some_and(|all| all.get(MIGRATION).is_some()),
        })
    });
    Ok(budgets.collect())
}

fn change(kubectl: &Kubectl, name: &str, patch: &Value) -> Result<(), Error> {
    let patch = patch.to_string();
    let budget = format!("poddisruptionbudget/{name}");
    kubectl
        .ask(&["patch", &budget, "--type", "merge", "--patch", &patch])
        .map(drop)
}
