//! docs/events.md and the code name the same events, and every line of the log from `info` on has one.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The bodies of the logging macros of these levels.
fn calls(text: &str) -> Vec<&str> {
    let mut calls = Vec::new();
    for level in ["info!(", "warn!(", "error!("] {
        for (start, _) in text.match_indices(&format!("tracing::{level}")) {
            // Up to the next statement is far enough: the name comes first.
            let body = text.get(start..).unwrap();
            calls.push(body.split(';').next().unwrap());
        }
    }
    calls
}

fn named_in_code() -> BTreeSet<String> {
    let mut files = Vec::new();
    for dir in [
        "launcher/src",
        "launcher/vmm/src",
        "launcher/vhost-relay/src",
        "launcher/linux/src",
        "launcher/manifest/src",
        "netsetup/src",
        "dhcp/src",
    ] {
        sources(&top().join(dir), &mut files);
    }
    let mut names = BTreeSet::new();
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        for call in calls(&text) {
            let (_, rest) = call
                .split_once("event = ")
                .unwrap_or_else(|| panic!("{}: no event: {call}", path.display()));
            // The DHCP server's events have their names from their type.
            if let Some(name) = rest.strip_prefix('"') {
                names.insert(name.split('"').next().unwrap().to_owned());
            }
        }
        if path.ends_with("dhcp/src/event.rs") {
            let (_, body) = text.split_once("pub fn name(").unwrap();
            let (body, _) = body.split_once("\nimpl").unwrap();
            names.extend(body.split('"').skip(1).step_by(2).map(str::to_owned));
        }
    }
    names
}

fn documented() -> BTreeSet<String> {
    let text = fs::read_to_string(top().join("docs/events.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_page_has_the_events_of_the_code() {
    let (code, page) = (named_in_code(), documented());
    assert!(code.len() > 60, "{code:?}");
    let missing: Vec<_> = code.difference(&page).collect();
    let gone: Vec<_> = page.difference(&code).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "not in docs/events.md: {missing:?}; only there: {gone:?}"
    );
}
