//! The schema that is published (`hawser schema`): the same as the structural check goes by, with what that check knows
//! without being told written out for validators, which know less.

use serde_json::{Map, Value, json};

/// In every schema below: `null` is the same as absent, and an integer's format bounds it.
pub(crate) fn write_out(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    bound(map);
    let required: Vec<String> = match map.get("required") {
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect(),
        _ => Vec::new(),
    };
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        for (name, property) in properties {
            write_out(property);
            if !required.contains(name) {
                allow_null(property);
            }
        }
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(keyword) {
            write_out(inner);
            if keyword == "additionalProperties" {
                allow_null(inner);
            }
        }
    }
    for keyword in ["anyOf", "oneOf"] {
        if let Some(Value::Array(branches)) = map.get_mut(keyword) {
            branches.iter_mut().for_each(write_out);
        }
    }
    if let Some(Value::Object(defs)) = map.get_mut("$defs") {
        defs.values_mut().for_each(write_out);
    }
}

fn bound(map: &mut Map<String, Value>) {
    let (low, high) = match map.get("format").and_then(Value::as_str) {
        Some("uint32") => (json!(0), json!(u32::MAX)),
        Some("int64") => (json!(i64::MIN), json!(i64::MAX)),
        _ => return,
    };
    map.entry("minimum").or_insert(low);
    map.entry("maximum").or_insert(high);
}

fn allow_null(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    if let Some(only) = map.remove("const") {
        map.insert("enum".to_owned(), json!([only]));
    }
    if let Some(Value::Array(allowed)) = map.get_mut("enum")
        && !allowed.contains(&Value::Null)
    {
        allowed.push(Value::Null);
    }
    let null = json!("null");
    if let Some(types) = map.get_mut("type") {
        match types {
            Value::Array(types) if types.contains(&null) => {}
            Value::Array(types) => types.push(null),
            one => *one = json!([one.take(), "null"]),
        }
    } else if let Some(Value::Array(branches)) = map.get_mut("anyOf") {
        let nothing = json!({"type": "null"});
        if !branches.contains(&nothing) {
            branches.push(nothing);
        }
    } else if map.contains_key("$ref") {
        let whole = Value::Object(std::mem::take(map));
        *schema = json!({"anyOf": [whole, {"type": "null"}]});
    }
}
