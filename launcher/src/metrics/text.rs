//! The text format of Prometheus (version 0.0.4): families with their help and type, each once, before their samples.

use std::fmt::Write;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

#[derive(Debug)]
pub(super) struct Text {
    out: String,
    /// Labels of every sample.
    common: String,
}

impl Text {
    pub(super) fn new(common: &[(&str, &str)]) -> Self {
        Self {
            out: String::new(),
            common: labels(common),
        }
    }

    /// A family; one without a sample is left out.
    pub(super) fn family<'a>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, f64)>,
    ) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (more, value) in samples {
            let more = labels(&more);
            let comma = if more.is_empty() || self.common.is_empty() {
                ""
            } else {
                ","
            };
            let _ = writeln!(self.out, "{name}{{{}{comma}{more}}} {value}", self.common);
        }
    }

    pub(super) fn end(self) -> String {
        self.out
    }
}

fn labels(all: &[(&str, &str)]) -> String {
    let each: Vec<String> = all
        .iter()
        .map(|(name, value)| {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    each.join(",")
}
