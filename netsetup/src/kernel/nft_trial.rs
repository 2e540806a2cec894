//! Whether this node's kernel and `nft` have all that the rule set needs. A kernel may be built without some expressions, or not
//! load their modules for a pod, and nft then says no more than "No such file or directory".
//!
//! The rules are tried without being loaded (`nft --check`: the kernel goes through the transaction and abandons it), in tables of
//! other names and on `lo`, since the TAPs are not there yet. Only if that fails, each rule is tried by itself: what all of the
//! failing ones have and none of the others is missing.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{flowtable, nft};
use crate::error::StepFailure;

const TABLE: &str = "hawser-trial";
const DEVICE: &str = "lo";

/// What of `document` this node has not; nothing where it can be loaded. Changes nothing. Needs CAP_NET_ADMIN, ambient for `nft`
/// too.
///
/// # Errors
/// When there is no `nft` to be run.
pub fn missing_expressions(document: &Value) -> Result<Vec<String>, StepFailure> {
    // A flowtable is left out where there is none.
    let trial = trial(&flowtable::without(document));
    missing(
        &trial,
        &|commands| match nft::check(&json!({ "nftables": commands })) {
            Ok(()) => Ok(None),
            Err(StepFailure::Nft(error)) => Ok(Some(error)),
            Err(other) => Err(other),
        },
    )
}

/// The error of a list of commands, if they have one.
type Try<'a> = &'a dyn Fn(&[Value]) -> Result<Option<String>, StepFailure>;

fn missing(commands: &[Value], fails: Try<'_>) -> Result<Vec<String>, StepFailure> {
    if fails(commands)?.is_none() {
        return Ok(Vec::new());
    }
    let is_rule = |command: &&Value| command.pointer("/add/rule").is_some();
    let frame: Vec<Value> = commands
        .iter()
        .filter(|command| !is_rule(command))
        .cloned()
        .collect();
    if let Some(error) = fails(&frame)? {
        return Ok(vec![format!("tables, chains or sets ({error})")]);
    }
    let (mut failing, mut passing) = (BTreeSet::new(), BTreeSet::new());
    for rule in commands.iter().filter(is_rule) {
        let alone: Vec<Value> = frame.iter().chain([rule]).cloned().collect();
        let kinds = kinds(rule);
        match fails(&alone)? {
            Some(_) => failing.extend(kinds),
            None => passing.extend(kinds),
        }
    }
    let only: Vec<String> = failing.difference(&passing).cloned().collect();
    Ok(match only.is_empty() {
        true => vec!["something that only all rules together need".to_owned()],
        false => only,
    })
}

/// The expressions and statements of a rule, by the names that nft has for them.
fn kinds(rule: &Value) -> BTreeSet<String> {
    let statements = rule.pointer("/add/rule/expr").and_then(Value::as_array);
    let mut kinds = BTreeSet::new();
    for statement in statements.into_iter().flatten().filter_map(Value::as_object) {
        for (name, value) in statement {
            let expression = match name.as_str() {
                "match" => value.get("left"),
                "mangle" => value.get("key"),
                _ => None,
            };
            let left = expression
                .and_then(Value::as_object)
                .and_then(|left| left.keys().next());
            kinds.insert(left.unwrap_or(name).clone());
        }
    }
    kinds
}

fn trial(document: &Value) -> Vec<Value> {
    let mut commands = document
        .get("nftables")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    commands.iter_mut().for_each(elsewhere);
    commands
}

/// In a table of its own, and on a device that is there.
fn elsewhere(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (key, value) in object.iter_mut() {
                let field = match key.as_str() {
                    "table" if value.is_string() => Some((value, TABLE)),
                    "table" => value.get_mut("name").map(|name| (name, TABLE)),
                    "dev" => Some((value, DEVICE)),
                    "dup" => value.get_mut("addr").map(|device| (device, DEVICE)),
                    _ => {
                        elsewhere(value);
                        None
                    }
                };
                if let Some((field, name)) = field {
                    *field = name.into();
                }
            }
        }
        Value::Array(array) => array.iter_mut().for_each(elsewhere),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(expr: Value) -> Value {
        json!({"add": {"rule": {"family": "inet", "table": "hawser", "chain": "c", "expr": expr}}})
    }

    fn commands() -> Vec<Value> {
        let document = json!({"nftables": [
            {"create": {"table": {"family": "inet", "name": "hawser"}}},
            {"add": {"chain": {"family": "netdev", "table": "hawser", "name": "from-tap0", "dev": "tap0"}}},
            rule(json!([{"match": {"left": {"fib": {"result": "type"}}, "right": "local", "op": "=="}}, {"drop": null}])),
            rule(json!([{"match": {"left": {"meta": {"key": "iifname"}}, "right": "tap0", "op": "=="}}, {"fwd": {"dev": "srv0"}}])),
            rule(json!([{"match": {"left": {"meta": {"key": "iifname"}}, "right": "tap0", "op": "=="}}, {"drop": null}])),
        ]});
        trial(&document)
    }

    #[test]
    fn it_is_tried_elsewhere() {
        let text = Value::from(commands()).to_string();
        assert!(!text.contains("\"hawser\"") && !text.contains("srv0"), "{text}");
        let device = commands()[1].pointer("/add/chain/dev").cloned();
        assert_eq!(device, Some(json!("lo")), "{text}");
        assert!(text.contains(r#""fwd":{"dev":"lo"}"#), "{text}");
        // Names of interfaces that are compared need none.
        assert!(text.contains(r#""right":"tap0""#), "{text}");
    }

    #[test]
    fn what_only_failing_rules_have_is_missing() {
        let without = |what: &'static [&'static str]| {
            move |commands: &[Value]| {
                let text = Value::from(commands.to_vec()).to_string();
                Ok(what
                    .iter()
                    .any(|what| text.contains(what))
                    .then(|| "No such file or directory".to_owned()))
            }
        };
        let missing = |what| missing(&commands(), &without(what)).unwrap();
        assert_eq!(missing(&["nothing of it"]), [""; 0]);
        assert_eq!(missing(&["\"fib\""]), ["fib"]);
        assert_eq!(missing(&["\"fwd\"", "\"fib\""]), ["fib", "fwd"]);
        assert_eq!(
            missing(&["\"netdev\""]),
            ["tables, chains or sets (No such file or directory)"]
        );
    }
}
