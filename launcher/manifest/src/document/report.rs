//! Field paths, refusals and notes: what a reader of a manifest is told, and in which order.

use std::fmt;

use serde_json::Value;

/// Refusals printed before "and N more"; a manifest can hold hundreds of thousands.
const SHOWN: usize = 100;
/// Refusals kept at all, so that a hostile manifest cannot multiply itself in memory.
const MAX_KEPT: usize = 1000;
/// Characters of a foreign string that are quoted in a message.
const QUOTED: usize = 40;

/// A path in the manifest as Kubernetes writes it: `spec.networks[1].multus`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldPath(Vec<Segment>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    Key(String),
    Index(usize),
}

impl FieldPath {
    /// From a dotted list of plain names.
    pub fn of(dotted: &str) -> Self {
        Self(
            dotted
                .split('.')
                .map(|name| Segment::Key(name.to_owned()))
                .collect(),
        )
    }

    pub fn key(&self, name: &str) -> Self {
        self.with(Segment::Key(name.to_owned()))
    }

    pub fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    fn with(&self, segment: Segment) -> Self {
        let mut path = self.clone();
        path.0.push(segment);
        path
    }

    /// The path with its indices left out, which names the type of object it leads to.
    pub fn kind(&self) -> String {
        let names = self.0.iter().filter_map(|segment| match segment {
            Segment::Key(name) => Some(name.as_str()),
            Segment::Index(_) => None,
        });
        names.collect::<Vec<_>>().join(".")
    }

    /// Where the path lies in `document`, to sort by; what is not there comes last in its parent.
    fn position(&self, document: &Value) -> Vec<usize> {
        let mut at = Some(document);
        let step = |segment: &Segment| {
            let (position, next) = match (segment, at) {
                (Segment::Key(name), Some(Value::Object(map))) => {
                    (map.keys().position(|key| key == name), map.get(name))
                }
                (Segment::Index(index), Some(Value::Array(items))) => (Some(*index), items.get(*index)),
                _ => (None, None),
            };
            at = next;
            position.unwrap_or(usize::MAX)
        };
        self.0.iter().map(step).collect()
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(name) if is_plain(name) && place == 0 => f.write_str(name)?,
                Segment::Key(name) if is_plain(name) => write!(f, ".{name}")?,
                Segment::Key(name) => write!(f, "[{}]", quoted(name))?,
            }
        }
        Ok(())
    }
}

fn is_plain(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !name.is_empty() && name.len() <= QUOTED && name.bytes().all(plain)
}

/// `text` in double quotes, shortened, with everything escaped that could disturb a terminal or a log.
pub fn quoted(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTED).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    // `{:?}` escapes control characters and invisible ones.
    format!("{short:?}")
}

/// One thing in the manifest that is refused, or worth a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Field path such as `spec.networks[1].multus`; `manifest` for the text as a whole.
    pub path: String,
    /// Lower case, no full stop.
    pub message: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Every reason why a manifest is refused, in the order of the document. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusals {
    list: Vec<Note>,
    dropped: usize,
}

impl Refusals {
    pub fn one(path: &str, message: impl fmt::Display) -> Self {
        Self {
            list: vec![Note {
                path: path.to_owned(),
                message: message.to_string(),
            }],
            dropped: 0,
        }
    }

    /// The refusals, at most a thousand of them.
    pub fn as_slice(&self) -> &[Note] {
        &self.list
    }

    /// How many there were, also those that were not kept.
    pub fn count(&self) -> usize {
        self.list.len() + self.dropped
    }
}

/// One `path: message` line for each of the first hundred.
impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, note) in self.list.iter().take(SHOWN).enumerate() {
            let newline = if place == 0 { "" } else { "\n" };
            write!(f, "{newline}{note}")?;
        }
        match self.count().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

impl std::error::Error for Refusals {}

/// Collects refusals and warnings while the manifest is looked through.
#[derive(Debug, Default)]
pub struct Report {
    /// Where the instance is, in a manifest of another kind.
    template: Option<&'static str>,
    refused: Vec<(FieldPath, String)>,
    dropped: usize,
    notes: Vec<(FieldPath, String)>,
    for_the_pod: Vec<(FieldPath, String)>,
}

impl Report {
    /// From here on, paths of an instance are those of one in the template at `place`.
    pub fn enter_template(&mut self, place: &'static str) {
        self.template = Some(place);
    }

    /// Where the field of an instance stands in the manifest. An instance in a template has its owner's name.
    pub fn in_place(&self, path: FieldPath) -> FieldPath {
        let owners = path.to_string() == "kind"
            || matches!(path.kind().as_str(), "metadata.name" | "metadata.namespace");
        match self.template {
            Some(place) if !owners => {
                let mut moved = FieldPath::of(place);
                moved.0.extend(path.0);
                moved
            }
            _ => path,
        }
    }

    pub fn refuse(&mut self, path: FieldPath, message: impl Into<String>) {
        self.refuse_with(path, || message.into());
    }

    /// For messages that cost something to make; they are not made for what will not be kept.
    pub fn refuse_with(&mut self, path: FieldPath, message: impl FnOnce() -> String) {
        if self.refused.len() < MAX_KEPT {
            self.refused.push((self.in_place(path), message()));
        } else {
            self.dropped += 1;
        }
    }

    #[cfg(test)]
    pub fn has_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    pub fn note(&mut self, path: FieldPath, message: impl Into<String>) {
        if self.notes.len() < MAX_KEPT {
            self.notes.push((self.in_place(path), message.into()));
        }
    }

    /// A note for whoever does not make the pod.
    pub fn note_for_the_pod(&mut self, path: FieldPath, message: impl Into<String>) {
        if self.for_the_pod.len() < MAX_KEPT {
            self.for_the_pod.push((self.in_place(path), message.into()));
        }
    }

    /// Those notes, in the order of `document`.
    pub fn take_notes_for_the_pod(&mut self, document: &Value) -> Vec<Note> {
        in_order(std::mem::take(&mut self.for_the_pod), document)
    }

    /// For a field that stands outside of the instance, in what has it as its template.
    pub fn refuse_owner(&mut self, path: FieldPath, message: impl Into<String>) {
        let template = self.template.take();
        self.refuse(path, message);
        self.template = template;
    }

    /// The same for a note.
    pub fn note_owner(&mut self, path: FieldPath, message: impl Into<String>) {
        let template = self.template.take();
        self.note(path, message);
        self.template = template;
    }

    /// The notes, or the refusals where there are any; both in the order of `document`.
    pub fn finish(self, document: &Value) -> Result<Vec<Note>, Refusals> {
        if self.refused.is_empty() {
            return Ok(in_order(self.notes, document));
        }
        Err(Refusals {
            list: in_order(self.refused, document),
            dropped: self.dropped,
        })
    }
}

fn in_order(mut found: Vec<(FieldPath, String)>, document: &Value) -> Vec<Note> {
    found.sort_by_cached_key(|(path, _)| path.position(document));
    found
        .into_iter()
        .map(|(path, message)| Note {
            path: path.to_string(),
            message,
        })
        .collect()
}
