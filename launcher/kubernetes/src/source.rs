//! What everything here reads: the guest as it was understood, and the manifest as it was written.

use hawser_manifest::{Binding, FieldPath, GuestSpec, Kind, Report};
use serde_json::{Map, Value};

use crate::options::{Facts, Options};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) guest: &'a GuestSpec,
    /// The VirtualMachineInstance as written.
    pub(crate) vmi: &'a Value,
    /// What the instance was written in.
    pub(crate) manifest: &'a Value,
    pub(crate) owner: Kind,
    pub(crate) facts: &'a Facts,
    pub(crate) options: &'a Options,
}

/// What Kubernetes has in a field that is passed on as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    Text,
    Object,
    List,
    /// An object whose values are strings.
    Strings,
}

impl Shape {
    fn fits(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Object => value.is_object(),
            Self::List => value.is_array(),
            Self::Strings => value
                .as_object()
                .is_some_and(|map| map.values().all(Value::is_string)),
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Text => "expected a string",
            Self::Object => "expected an object",
            Self::List => "expected a list",
            Self::Strings => "expected an object whose values are strings",
        }
    }
}

impl<'a> Source<'a> {
    /// A field of the instance's `spec` that no phase before this one reads.
    pub(crate) fn passed_on(&self, field: &str, shape: Shape, report: &mut Report) -> Option<&'a Value> {
        let value = written(self.vmi.get("spec"), field)?;
        if !shape.fits(value) {
            report.refuse(FieldPath::of("spec").key(field), shape.expected());
            return None;
        }
        Some(value)
    }

    /// The entries of `spec.volumes`, each with its path.
    pub(crate) fn volumes(&self) -> impl Iterator<Item = (FieldPath, &'a Value)> {
        let list = self.vmi.pointer("/spec/volumes").and_then(Value::as_array);
        let path = FieldPath::of("spec.volumes");
        list.into_iter()
            .flatten()
            .enumerate()
            .map(move |(index, volume)| (path.index(index), volume))
    }

    /// `metadata.labels` or `metadata.annotations` of the instance.
    pub(crate) fn metadata(&self, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
        let map = self
            .vmi
            .get("metadata")
            .and_then(|metadata| metadata.get(field))
            .and_then(Value::as_object);
        map.into_iter().flat_map(Map::iter)
    }

    /// The namespace of every object, where one is asked for. Without it kubectl's own counts.
    pub(crate) fn namespace(&self) -> Option<&'a str> {
        self.options.namespace.as_deref().or_else(|| {
            self.vmi
                .pointer("/metadata/namespace")
                .and_then(Value::as_str)
                .filter(|namespace| !namespace.is_empty())
        })
    }

    pub(crate) fn has_passt(&self) -> bool {
        let interfaces = &self.guest.interfaces;
        interfaces
            .iter()
            .any(|interface| interface.binding == Binding::Passt)
    }
}

/// A field of an object, unless it is absent or null.
pub(crate) fn written<'a>(object: Option<&'a Value>, field: &str) -> Option<&'a Value> {
    object?.get(field).filter(|value| !value.is_null())
}

/// A string field, unless it is empty: an empty string is an absent one in KubeVirt's API.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object
        .get(field)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

/// What a pointer (RFC 6901) leads to, where that is a string.
pub(crate) fn text_at<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}
