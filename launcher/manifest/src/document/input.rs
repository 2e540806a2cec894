//! Text to a tree of values, with bounded time and memory.
//!
//! YAML is read as `kubectl` reads it: plain `yes`, `no`, `on` and `off` are booleans (YAML 1.1) and `<<`
//! merges. Stricter than it: duplicate keys are refused, and a number with a leading zero or with underscores
//! stays text, since YAML 1.1 and 1.2 disagree about its value. JSON is tried first where the text looks like
//! it, because not every JSON escape is YAML.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Kubernetes itself stores no object larger than about 1.5 MiB.
pub const MAX_BYTES: usize = 1 << 20;
/// A VMI nests about ten deep.
const MAX_DEPTH: usize = 64;

/// Why a text is no manifest at all.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("larger than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("empty")]
    Empty,
    #[error("nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("line {line}, column {column}: {message}")]
    At { line: u64, column: u64, message: String },
    #[error("{0}")]
    Syntax(String),
}

/// Reads one YAML or JSON document.
pub fn parse(text: &str) -> Result<Value, ParseError> {
    if text.len() > MAX_BYTES {
        return Err(ParseError::TooLarge);
    }
    let value = match text
        .trim_start()
        .starts_with('{')
        .then(|| serde_json::from_str::<Unique>(text))
    {
        Some(Ok(Unique(value))) => value,
        _ => yaml(text)?,
    };
    if value.is_null() {
        return Err(ParseError::Empty);
    }
    if deeper_than(&value, MAX_DEPTH) {
        return Err(ParseError::TooDeep);
    }
    Ok(value)
}

fn deeper_than(value: &Value, levels: usize) -> bool {
    match (value, levels.checked_sub(1)) {
        (Value::Array(items), Some(rest)) => items.iter().any(|item| deeper_than(item, rest)),
        (Value::Object(map), Some(rest)) => map.values().any(|item| deeper_than(item, rest)),
        (Value::Array(_) | Value::Object(_), None) => true,
        _ => false,
    }
}

fn yaml(text: &str) -> Result<Value, ParseError> {
    let options = serde_saphyr::options! {
        // The bytes of all scalars are counted again each time an alias replays them, so what is read is never
        // much larger than what was written.
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_events: 200_000,
            max_nodes: 100_000,
            max_aliases: 200,
            max_anchors: 200,
            max_merge_keys: 100,
            max_total_scalar_bytes: MAX_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 2000 },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: false,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        with_snippet: false,
    };
    let Unique(value) = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let message = plain(&error.without_snippet().render());
        match error.location() {
            Some(at) => ParseError::At {
                line: at.line(),
                column: at.column(),
                message,
            },
            None => ParseError::Syntax(message),
        }
    })?;
    Ok(value)
}

/// The parser's message for a reader who does not know the parser: no position (told apart), no API of its own.
fn plain(message: &str) -> String {
    const WORDS: [(&str, &str); 7] = [
        ("recursive references", "an alias inside its own anchor"),
        ("multiple YAML documents", "more than one document"),
        ("alias replay limit", "aliases expand to too much"),
        ("recursion limit", "nested too deeply"),
        ("budget breached: Depth", "nested too deeply"),
        ("budget breached: ScalarBytes", "aliases expand to too much"),
        ("budget breached", "too many parts"),
    ];
    if let Some((_, ours)) = WORDS.iter().find(|(theirs, _)| message.starts_with(theirs)) {
        return (*ours).to_owned();
    }
    let message = message.lines().next().unwrap_or_default();
    let message = message.split(" at line ").next().unwrap_or_default();
    let message = message
        .split(", set DuplicateKeyPolicy")
        .next()
        .unwrap_or_default();
    message
        .chars()
        .take(200)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A value whose objects name each key once; `serde_json` alone would keep the last.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can hold")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        // A number without a fraction is an integer, however it is written (JSON Schema Core, section 4.2.1); kubectl's
        // reader sends `30.0` and `3e1` as 30. Those that an i64 cannot hold stay what they are: no field takes them.
        if value.fract() == 0.0 && value.abs() < i64::MAX as f64 {
            return Ok((value as i64).into());
        }
        serde_json::Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format_args!(
                    "duplicate key {}",
                    super::report::quoted(&key)
                )));
            }
            let Unique(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
