//! Documents in YAML or JSON, whatever is in them: read, held against a schema, and refused by field path.

pub(crate) mod check;
pub(crate) mod fields;
pub(crate) mod input;
pub(crate) mod quantity;
pub(crate) mod report;
pub(crate) mod schema;
pub(crate) mod text;
