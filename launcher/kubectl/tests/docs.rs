//! The command lines of `kubectl hawser` in the documentation are ones that it takes.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;

use clap::Parser;
use hawser_kubectl::Cli;

#[test]
fn every_command_line_in_the_documentation_parses() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kubernetes.md");
    let text = fs::read_to_string(page).unwrap();
    let mut tried = 0;
    for line in text
        .lines()
        .filter(|line| line.starts_with("    kubectl hawser "))
    {
        let line = line.split("  #").next().unwrap();
        let words = line.split_whitespace().skip(1);
        Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
        tried += 1;
    }
    assert!(tried >= 6, "{tried}");
}
