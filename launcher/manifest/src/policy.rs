//! KubeVirt's MigrationPolicy (migrations.kubevirt.io/v1alpha1), YAML or JSON: read like a manifest, and refused like one, every
//! fault by its path.

use serde_json::Value;

use crate::document::check::check;
use crate::document::fields::{Accepted, Quantity, fields};
use crate::document::quantity;
use crate::document::report::{FieldPath, Note, Refusals, Report, quoted};

const KIND: &str = "MigrationPolicy";
const GROUP: &str = "migrations.kubevirt.io/";
/// KubeVirt's own bound for `maxDowntimeMs`.
const MAX_DOWNTIME_MS: i64 = 2_000_000;

/// What the policy says; what it does not mention is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MigrationPolicy {
    pub auto_converge: Option<bool>,
    /// Bytes a second; 0 is without a limit.
    pub bandwidth: Option<u64>,
    /// Seconds; 0 is without a limit.
    pub completion_timeout_per_gib: Option<u64>,
    pub max_downtime_ms: Option<u64>,
    pub workload_disruption: Option<bool>,
}

fields! {
    PolicyAsWritten {
        kind: Option<String>,
        api_version: Option<String>,
        metadata: Option<Accepted>,
        status: Option<Accepted>,
        spec: Option<SpecAsWritten>,
    } accepted {}
}

fields! {
    SpecAsWritten {
        selectors: Option<Accepted>,
        allow_auto_converge: Option<bool>,
        bandwidth_per_migration: Option<Quantity>,
        #[serde(rename = "completionTimeoutPerGiB")] completion_timeout_per_gib: Option<i64>,
        max_downtime_ms: Option<i64>,
        allow_post_copy: Option<bool>,
        allow_workload_disruption: Option<bool>,
    } accepted {}
}

/// Reads the policy, with what the user should know although nothing is refused.
///
/// # Errors
/// Everything that it is refused for, in one go.
pub fn parse(text: &str) -> Result<(MigrationPolicy, Vec<Note>), Refusals> {
    let document = crate::document::input::parse(text).map_err(|error| Refusals::one("policy", error))?;
    let mut report = Report::default();
    let mut checked = document.clone();
    let schema = schemars::schema_for!(PolicyAsWritten).to_value();
    check(&schema, &mut checked, &mut report);
    let policy = match serde_json::from_value::<PolicyAsWritten>(checked) {
        Ok(written) => resolve(written, &document, &mut report),
        Err(error) => {
            // Unreachable as long as the check and the types agree; refused rather than trusted.
            report.refuse(FieldPath::of("policy"), error.to_string());
            MigrationPolicy::default()
        }
    };
    let notes = report.finish(&document)?;
    Ok((policy, notes))
}

fn resolve(written: PolicyAsWritten, document: &Value, report: &mut Report) -> MigrationPolicy {
    if document.is_object() && written.kind.as_deref() != Some(KIND) {
        let found = written.kind.as_deref().map_or("nothing".to_owned(), quoted);
        report.refuse(FieldPath::of("kind"), format!("expected {KIND}, found {found}"));
    }
    if let Some(version) = written.api_version.filter(|version| !version.starts_with(GROUP)) {
        let found = quoted(&version);
        report.refuse(
            FieldPath::of("apiVersion"),
            format!("expected {GROUP}v1alpha1, found {found}"),
        );
    }
    let spec = written.spec.unwrap_or_default();
    let field = |name: &str| FieldPath::of("spec").key(name);
    if spec.selectors.is_some() {
        report.note(
            field("selectors"),
            "not used: the policy holds for the migration that it is given to",
        );
    }
    if spec.allow_post_copy == Some(true) {
        report.refuse(
            field("allowPostCopy"),
            "hawser does not offer post-copy: a network that breaks in the middle of it would end the guest. Use \
             allowWorkloadDisruption, which pauses the guest instead",
        );
    }
    let mut number = |name: &str, value: Option<i64>, least: i64, most: i64| {
        let value = value?;
        if !(least..=most).contains(&value) {
            let range = match most {
                i64::MAX => format!("{least} or more"),
                most => format!("{least} to {most}"),
            };
            report.refuse(field(name), format!("expected {range}, found {value}"));
        }
        u64::try_from(value).ok()
    };
    let completion_timeout_per_gib = number(
        "completionTimeoutPerGiB",
        spec.completion_timeout_per_gib,
        0,
        i64::MAX,
    );
    let max_downtime_ms = number("maxDowntimeMs", spec.max_downtime_ms, 1, MAX_DOWNTIME_MS);
    let bandwidth = spec.bandwidth_per_migration.and_then(|Quantity(text)| {
        quantity::parse(&text)
            .map_err(|why| report.refuse(field("bandwidthPerMigration"), why))
            .ok()
    });
    MigrationPolicy {
        auto_converge: spec.allow_auto_converge,
        bandwidth,
        completion_timeout_per_gib,
        max_downtime_ms,
        workload_disruption: spec.allow_workload_disruption,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_as_kubevirt_documents_it() {
        let (policy, notes) = parse(
            "apiVersion: migrations.kubevirt.io/v1alpha1
kind: MigrationPolicy
metadata:
  name: my-awesome-policy
spec:
  allowAutoConverge: true
  bandwidthPerMigration: 64Mi
  completionTimeoutPerGiB: 120
  maxDowntimeMs: 900
  allowPostCopy: false
  allowWorkloadDisruption: true
  selectors:
    namespaceSelector: {hpc-workloads: 'True'}
    virtualMachineInstanceSelector: {workload-type: db}
",
        )
        .unwrap();
        let expected = MigrationPolicy {
            auto_converge: Some(true),
            bandwidth: Some(64 << 20),
            completion_timeout_per_gib: Some(120),
            max_downtime_ms: Some(900),
            workload_disruption: Some(true),
        };
        assert_eq!(policy, expected);
        let notes: Vec<_> = notes.iter().map(|note| note.path.as_str()).collect();
        assert_eq!(notes, ["spec.selectors"]);
        let (policy, notes) = parse("{\"kind\": \"MigrationPolicy\", \"spec\": {}}").unwrap();
        assert_eq!((policy, notes.len()), (MigrationPolicy::default(), 0));
    }

    #[test]
    fn whatever_is_not_honored_is_refused_by_its_path() {
        for (text, refused) in [
            (
                "kind: MigrationPolicy\nspec: {allowPostCopy: true}",
                "spec.allowPostCopy",
            ),
            (
                "kind: MigrationPolicy\nspec: {experimental: {}}",
                "spec.experimental",
            ),
            (
                "kind: MigrationPolicy\nspec: {allowAutoconverge: true}",
                "spec.allowAutoconverge",
            ),
            (
                "kind: MigrationPolicy\nspec: {allowAutoConverge: 1}",
                "spec.allowAutoConverge",
            ),
            (
                "kind: MigrationPolicy\nspec: {bandwidthPerMigration: 64MB}",
                "spec.bandwidthPerMigration",
            ),
            (
                "kind: MigrationPolicy\nspec: {completionTimeoutPerGiB: -1}",
                "spec.completionTimeoutPerGiB",
            ),
            (
                "kind: MigrationPolicy\nspec: {maxDowntimeMs: 0}",
                "spec.maxDowntimeMs",
            ),
            (
                "kind: MigrationPolicy\nspec: {maxDowntimeMs: 2000001}",
                "spec.maxDowntimeMs",
            ),
            ("kind: VirtualMachineInstance\nspec: {}", "kind"),
            ("spec: {}", "kind"),
            ("kind: MigrationPolicy\napiVersion: kubevirt.io/v1", "apiVersion"),
            ("[]", "manifest"),
            ("{", "policy"),
        ] {
            let refusals = parse(text).unwrap_err();
            let paths: Vec<_> = refusals
                .as_slice()
                .iter()
                .map(|note| note.path.as_str())
                .collect();
            assert_eq!(paths, [refused], "{text}");
        }
    }
}
