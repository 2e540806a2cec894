//! `hawser plan`.

mod dot;
mod output;

pub(crate) use output::Picture;
