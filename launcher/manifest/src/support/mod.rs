//! What hawser does with the fields of KubeVirt's API that it does not simply obey: one table, as data.
//!
//! ```text
//!                      ┌──► refusals of fields that KubeVirt has and hawser does not support (`document::check`)
//! table (RULES) ───────┼──► notes of fields that are accepted and not obeyed (`notes`)
//!      +               │
//! types of `v1`  ──────┴──► docs/manifest.md: every field of KubeVirt's schema (`page`, a test)
//! ```
//!
//! A field that the types of `v1` read and that has no rule is honored. A field that they only accept by name has a rule, or
//! an object above it has one. A field that they do not have is refused, and has a rule that says so. The tests here walk
//! KubeVirt's schema and hold every field of it against that.

mod devices;
mod guest;
mod notes;
mod owners;
#[cfg(test)]
mod page;
#[cfg(test)]
mod tests;

pub use notes::without_fields_of_the_pod;
pub(crate) use notes::{annotations, instance, owner};

/// What becomes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The manifest is refused.
    Refused,
    /// Accepted and not obeyed, and a note says so by its path.
    Noted(When),
    /// Obeyed in part. The code that reads the field notes what is left of it, where that is less than what was asked for.
    Reduced,
    /// The pod has to have it, and the pod that `hawser pod` prints does. The launcher cannot add it to the pod in which it
    /// runs, so everybody else is told by a note.
    Pod(When),
    /// It asks for what every guest has anyway, or for nothing that could be seen.
    Anyway,
    /// Of the object in the API server, not of the guest.
    Object,
}

/// Which values ask for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Any.
    Given,
    True,
    /// An object in which neither `enabled` nor `present` is false.
    On,
    /// More than the table can say: the code that reads the field decides.
    Code,
}

/// A field, and all fields below it that have no rule of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    /// Without indices. Of an instance it begins at the instance, wherever that is in the manifest.
    pub(crate) path: &'static str,
    pub(crate) fate: Fate,
    /// Why, and what to do instead. May be empty for [`Fate::Refused`] and [`Fate::Pod`].
    pub(crate) why: &'static str,
}

const fn refused(path: &'static str, why: &'static str) -> Rule {
    Rule {
        path,
        fate: Fate::Refused,
        why,
    }
}

const fn noted(path: &'static str, when: When, why: &'static str) -> Rule {
    Rule {
        path,
        fate: Fate::Noted(when),
        why,
    }
}

const fn reduced(path: &'static str, why: &'static str) -> Rule {
    Rule {
        path,
        fate: Fate::Reduced,
        why,
    }
}

const fn of_the_pod(path: &'static str, why: &'static str) -> Rule {
    Rule {
        path,
        fate: Fate::Pod(When::Given),
        why,
    }
}

const fn anyway(path: &'static str, why: &'static str) -> Rule {
    Rule {
        path,
        fate: Fate::Anyway,
        why,
    }
}

const fn object(path: &'static str) -> Rule {
    Rule {
        path,
        fate: Fate::Object,
        why: "",
    }
}

/// Every rule.
pub(crate) fn rules() -> impl Iterator<Item = &'static Rule> {
    [guest::RULES, devices::RULES, owners::RULES]
        .into_iter()
        .flatten()
}

/// The rule for the field at `path`, or else of the closest object around it.
pub(crate) fn rule(path: &str) -> Option<&'static Rule> {
    rules()
        .filter(|rule| is_at_or_below(path, rule.path))
        .max_by_key(|rule| rule.path.len())
}

/// What the rule for exactly this field says.
pub(crate) fn why(path: &str) -> &'static str {
    rules().find(|rule| rule.path == path).map_or("", |rule| rule.why)
}

fn is_at_or_below(path: &str, place: &str) -> bool {
    path.strip_prefix(place)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A path without indices, from the instance where it is one of its fields: an instance in a template is one like any other.
pub(crate) fn canonical(path: &str) -> &str {
    let path = path
        .strip_prefix("spec.virtualMachineTemplate.")
        .filter(|rest| rest.starts_with("spec."))
        .unwrap_or(path);
    path.strip_prefix("spec.template.").unwrap_or(path)
}

/// What is said of the field `name` in the object at `kind`, if KubeVirt has it and hawser does not support it.
pub(crate) fn refusal(kind: &str, name: &str) -> Option<String> {
    let path = match canonical(kind) {
        "" => name.to_owned(),
        kind => format!("{kind}.{name}"),
    };
    let rule = rules().find(|rule| rule.path == path && rule.fate == Fate::Refused)?;
    Some(match rule.why {
        "" => "not supported".to_owned(),
        why => format!("not supported: {why}"),
    })
}
