//! Holds a value against a JSON Schema and reports every difference by field path.
//!
//! Only the part of JSON Schema that `schemars` makes from the wire types is understood. What is at fault is
//! taken out of the value, so that the rest can be read and looked through in the same go. `null` is the same
//! as absent, as it is for Kubernetes.

use serde_json::{Map, Value};

use super::report::{FieldPath, Report, quoted};
use crate::support;

/// Checks `value` against `schema`, whose `$defs` its references point into. What remains of `value` fits.
pub(crate) fn check(schema: &Value, value: &mut Value, report: &mut Report) {
    check_at(schema, value, &FieldPath::default(), report);
}

/// The same for a value that lies at `path` in its document.
pub(crate) fn check_at(schema: &Value, value: &mut Value, path: &FieldPath, report: &mut Report) {
    let walker = Walker {
        defs: schema.get("$defs"),
    };
    if !walker.fits(schema, value, path, report) {
        *value = Value::Object(Map::new());
    }
}

struct Walker<'a> {
    defs: Option<&'a Value>,
}

impl<'a> Walker<'a> {
    /// Follows `$ref`, and picks the branch of an `anyOf` that is not `null`, which an `Option` makes.
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let mut schema = schema;
        // The types are not recursive; the bound is there in case one becomes so.
        for _ in 0..8 {
            let null = |branch: &&Value| branch.get("type").and_then(Value::as_str) != Some("null");
            let branches = schema.get("anyOf").and_then(Value::as_array);
            let target = schema
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|r| r.strip_prefix("#/$defs/"));
            let next = match target {
                Some(name) => self.defs.and_then(|defs| defs.get(name)),
                None => branches.and_then(|branches| branches.iter().find(null)),
            };
            match next {
                Some(next) => schema = next,
                None => break,
            }
        }
        schema
    }

    /// Whether `value` may stay; its own unfit children are taken out.
    fn fits(&self, schema: &'a Value, value: &mut Value, path: &FieldPath, report: &mut Report) -> bool {
        let schema = self.resolve(schema);
        if let Some(expected) = mismatch(schema, value) {
            let place = if path.to_string().is_empty() {
                FieldPath::of("manifest")
            } else {
                path.clone()
            };
            report.refuse(place, format!("expected {expected}, found {}", describe(value)));
            return false;
        }
        if let Some(problem) = out_of_set(schema, value).or_else(|| out_of_range(schema, value)) {
            report.refuse(path.clone(), problem);
            return false;
        }
        match value {
            Value::Object(map) => self.object(schema, map, path, report),
            Value::Array(items) => {
                if let Some(item_schema) = schema.get("items") {
                    for (index, item) in items.iter_mut().enumerate() {
                        if !self.fits(item_schema, item, &path.index(index), report) {
                            *item = Value::Null;
                        }
                    }
                }
            }
            _ => {}
        }
        true
    }

    fn object(&self, schema: &'a Value, map: &mut Map<String, Value>, path: &FieldPath, report: &mut Report) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties");
        // Named, but at fault: reported already, and so not to be called missing.
        let mut unfit = Vec::new();
        map.retain(|name, value| {
            let field = path.key(name);
            let expected = match properties.and_then(|properties| properties.get(name)) {
                Some(expected) => Some(expected),
                None if others == Some(&Value::Bool(false)) => {
                    report.refuse_with(field, || unknown(name, path, properties));
                    return false;
                }
                None => others,
            };
            if value.is_null() {
                return false;
            }
            let fits = expected.is_none_or(|expected| self.fits(expected, value, &field, report));
            if !fits {
                unfit.push(name.clone());
            }
            fits
        });
        let required = schema.get("required").and_then(Value::as_array);
        for name in required.into_iter().flatten().filter_map(Value::as_str) {
            if !map.contains_key(name) && !unfit.iter().any(|unfit| unfit == name) {
                report.refuse(path.key(name), "required");
            }
        }
    }
}

/// What was expected instead, where the JSON type is wrong.
fn mismatch(schema: &Value, value: &Value) -> Option<String> {
    let types: Vec<&str> = match schema.get("type")? {
        Value::Array(types) => types
            .iter()
            .filter_map(Value::as_str)
            .filter(|t| *t != "null")
            .collect(),
        other => other.as_str().into_iter().collect(),
    };
    let fits = types.iter().any(|wanted| match (*wanted, value) {
        ("object", Value::Object(_))
        | ("array", Value::Array(_))
        | ("string", Value::String(_))
        | ("boolean", Value::Bool(_))
        | ("number", Value::Number(_)) => true,
        ("integer", Value::Number(number)) => number.is_i64() || number.is_u64(),
        _ => false,
    });
    (!fits).then(|| types.join(" or "))
}

fn out_of_set(schema: &Value, value: &Value) -> Option<String> {
    let allowed = match schema.get("enum").and_then(Value::as_array) {
        Some(allowed) => allowed.iter().filter(|item| !item.is_null()).collect(),
        None => vec![schema.get("const")?],
    };
    if allowed.contains(&value) {
        return None;
    }
    let list: Vec<String> = allowed.into_iter().map(show).collect();
    Some(format!(
        "unsupported value {}: expected {}",
        show(value),
        list.join(" or ")
    ))
}

fn out_of_range(schema: &Value, value: &Value) -> Option<String> {
    let number = value
        .as_i64()
        .map(i128::from)
        .or_else(|| value.as_u64().map(i128::from))?;
    let format = schema
        .get("format")
        .and_then(Value::as_str)
        .and_then(format_range);
    let bound = |name: &str| {
        let bound = schema.get(name)?;
        bound
            .as_i64()
            .map(i128::from)
            .or_else(|| bound.as_f64().map(|float| float as i128))
    };
    let low = bound("minimum").or(format.map(|(low, _)| low));
    let high = bound("maximum").or(format.map(|(_, high)| high));
    let outside = low.is_some_and(|low| number < low) || high.is_some_and(|high| number > high);
    let wanted = match (low, high) {
        _ if !outside => return None,
        // Bounds that only the machine's integers set would tell a reader nothing.
        (Some(low), Some(high)) if high < i128::from(i32::MAX) => format!("from {low} to {high}"),
        (Some(low), _) if number < low => format!("at least {low}"),
        (_, Some(high)) => format!("at most {high}"),
        _ => return None,
    };
    Some(format!("must be {wanted}, found {number}"))
}

/// `schemars` tells the width of an integer by `format`.
fn format_range(format: &str) -> Option<(i128, i128)> {
    Some(match format {
        "uint8" => (0, u8::MAX.into()),
        "uint16" => (0, u16::MAX.into()),
        "uint32" => (0, u32::MAX.into()),
        "int64" => (i64::MIN.into(), i64::MAX.into()),
        _ => return None,
    })
}

/// Why a name is not accepted, with the accepted one that was probably meant.
fn unknown(name: &str, path: &FieldPath, properties: Option<&Map<String, Value>>) -> String {
    if let Some(refusal) = support::refusal(&path.kind(), name) {
        return refusal;
    }
    let accepted = properties.into_iter().flat_map(Map::keys);
    let closest = accepted
        .map(|other| (distance(name, other), other))
        .min_by_key(|(distance, _)| *distance);
    match closest {
        Some((distance, other)) if distance <= 2 && distance < other.len() => {
            format!("unknown field, did you mean {other}?")
        }
        _ => "unknown field".to_owned(),
    }
}

/// Levenshtein distance, ignoring case; long names are never close, whatever it would cost to find out.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX;
    }
    strsim::levenshtein(&a.to_lowercase(), &b.to_lowercase())
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => other.to_string(),
    }
}

/// The type of a value, with the value where that is short.
fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("boolean {value}"),
        Value::Number(value) => format!("number {value}"),
        Value::String(text) => format!("string {}", quoted(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}
