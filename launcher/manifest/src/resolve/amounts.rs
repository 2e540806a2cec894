//! Quantities of `spec.domain.resources` and elsewhere, as numbers.

use std::collections::BTreeMap;

use crate::document::fields::Quantity;
use crate::document::quantity;
use crate::document::report::{FieldPath, Report};

pub(crate) type Quantities = BTreeMap<String, Quantity>;

pub(crate) fn resource(
    list: &Quantities,
    of: &str,
    name: &str,
    report: &mut Report,
) -> Option<(FieldPath, u64)> {
    let path = FieldPath::of("spec.domain.resources").key(of).key(name);
    let value = amount(&list.get(name)?.0, &path, report)?;
    Some((path, value))
}

pub(crate) fn amount(text: &str, path: &FieldPath, report: &mut Report) -> Option<u64> {
    quantity::parse(text)
        .map_err(|problem| report.refuse(path.clone(), problem))
        .ok()
}
