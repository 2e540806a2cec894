//! Where the entries of the manifest's lists are, for refusals and notes.

use crate::document::report::FieldPath;

pub(crate) fn interface(index: usize) -> FieldPath {
    FieldPath::of("spec.domain.devices.interfaces").index(index)
}

pub(crate) fn network(index: usize) -> FieldPath {
    FieldPath::of("spec.networks").index(index)
}

pub(crate) fn disk(index: usize) -> FieldPath {
    FieldPath::of("spec.domain.devices.disks").index(index)
}

pub(crate) fn volume(index: usize) -> FieldPath {
    FieldPath::of("spec.volumes").index(index)
}
