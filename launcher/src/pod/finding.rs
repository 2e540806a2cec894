//! What a look at the pod came to: the value that a start goes on with, and what there is to say of it.

use std::fmt;

use crate::error::{ExitCode, Failure};

/// One line of `hawser check`.
#[derive(Debug)]
pub(crate) enum Finding {
    /// As it has to be.
    Good(String),
    /// A guest can run, but something works less well.
    Note(String),
    /// No guest can run.
    Bad(Failure),
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(text) => write!(f, "ok    {text}"),
            Self::Note(text) => write!(f, "note  {text}"),
            Self::Bad(failure) => write!(f, "FAIL  {}", failure.body()),
        }
    }
}

/// One part of the pod. Without a value there is a [`Finding::Bad`] here or in a part that this one rests on.
#[derive(Debug)]
pub(crate) struct Part<T> {
    value: Option<T>,
    findings: Vec<Finding>,
}

impl<T> Part<T> {
    /// What needs no word.
    pub(crate) fn silent(value: T) -> Self {
        Self {
            value: Some(value),
            findings: Vec::new(),
        }
    }

    /// Not looked at, because something that it rests on is unfit.
    pub(crate) fn unknown() -> Self {
        Self {
            value: None,
            findings: Vec::new(),
        }
    }

    pub(crate) fn bad(failure: Failure) -> Self {
        Self {
            value: None,
            findings: vec![Finding::Bad(failure)],
        }
    }

    /// `good` is the line for a value that will do.
    pub(crate) fn of(result: Result<T, Failure>, good: impl FnOnce(&T) -> String) -> Self {
        match result {
            Ok(value) => {
                let line = Finding::Good(good(&value));
                Self::silent(value).with(line)
            }
            Err(failure) => Self::bad(failure),
        }
    }

    /// The same where a value that will do needs no word.
    pub(crate) fn or_bad(result: Result<T, Failure>) -> Self {
        result.map_or_else(Self::bad, Self::silent)
    }

    pub(crate) fn with(mut self, finding: Finding) -> Self {
        self.findings.push(finding);
        self
    }

    pub(crate) fn with_notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.findings.extend(notes.into_iter().map(Finding::Note));
        self
    }

    pub(crate) fn value(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// What of this part stands in the way, for those that go on without it.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &Failure> {
        self.findings.iter().filter_map(|finding| match finding {
            Finding::Bad(failure) => Some(failure),
            Finding::Good(_) | Finding::Note(_) => None,
        })
    }

    pub(crate) fn notes(&self) -> impl Iterator<Item = &str> {
        self.findings.iter().filter_map(|finding| match finding {
            Finding::Note(text) => Some(text.as_str()),
            Finding::Good(_) | Finding::Bad(_) => None,
        })
    }

    /// Goes on from a value, if there is one, and adds what that comes to.
    pub(crate) fn and_then<U>(mut self, next: impl FnOnce(T) -> Part<U>) -> Part<U> {
        match self.value {
            Some(value) => {
                let after = next(value);
                self.findings.extend(after.findings);
                Part {
                    value: after.value,
                    findings: self.findings,
                }
            }
            None => Part {
                value: None,
                findings: self.findings,
            },
        }
    }

    /// Two parts as one, which has a value if both have.
    pub(crate) fn join<U, V>(mut self, other: Part<U>, both: impl FnOnce(T, U) -> V) -> Part<V> {
        self.findings.extend(other.findings);
        Part {
            value: self.value.zip(other.value).map(|(one, other)| both(one, other)),
            findings: self.findings,
        }
    }

    /// Hands over the findings, and keeps the value.
    pub(crate) fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    pub(crate) fn into_value(self) -> Option<T> {
        self.value
    }

    /// For a command that goes on with this part alone: its value, or all that stands in the way.
    pub(crate) fn require(self) -> Result<T, Failure> {
        let mut failures = Vec::new();
        for finding in self.findings {
            if let Finding::Bad(failure) = finding {
                failures.push(failure);
            }
        }
        match (Failure::all(failures), self.value) {
            (Some(failure), _) => Err(failure),
            (None, Some(value)) => Ok(value),
            (None, None) => Err(Failure::new(
                ExitCode::Internal,
                "a part of the pod was checked without a result",
            )),
        }
    }
}

impl<T> Part<Vec<T>> {
    /// Each of several; all of them, or none.
    pub(crate) fn all(results: Vec<Result<T, Failure>>, good: impl Fn(&T) -> String) -> Self {
        let mut part = Self::silent(Vec::new());
        for result in results {
            match result {
                Ok(value) => {
                    part.findings.push(Finding::Good(good(&value)));
                    if let Some(values) = &mut part.value {
                        values.push(value);
                    }
                }
                Err(failure) => {
                    part.findings.push(Finding::Bad(failure));
                    part.value = None;
                }
            }
        }
        part
    }
}
