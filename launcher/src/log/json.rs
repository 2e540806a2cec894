//! One event of the log as a line of JSON: `time`, `level`, `event`, `message`, and the event's own fields.
//!
//! By hand: tracing-subscriber's own form would bring another crate into every pod, and puts the fields a level deeper.

use std::fmt;
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// The log's form with `--log-format json`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        writeln!(out, "{}", line(event).line)
    }
}

/// A line, and the event's name if it has one.
pub(super) struct Line {
    pub(super) line: String,
    pub(super) name: Option<String>,
}

pub(super) fn line(event: &Event<'_>) -> Line {
    let mut fields = Fields::default();
    event.record(&mut fields);
    let mut all = Map::new();
    let now = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    all.insert("time".to_owned(), now.into());
    let level = event.metadata().level().as_str().to_ascii_lowercase();
    all.insert("level".to_owned(), level.into());
    let name = fields.0.get("event").and_then(Value::as_str).map(str::to_owned);
    for first in ["event", "message"] {
        if let Some(value) = fields.0.shift_remove(first) {
            all.insert(first.to_owned(), value);
        }
    }
    all.extend(fields.0);
    Line {
        line: Value::Object(all).to_string(),
        name,
    }
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}
