//! README and docs/ agree with the code: links lead somewhere, the command lines parse, and defaults, ports, exit codes, file
//! names and what can migrate are those of the program.

// Helpers of tests are tests' code too, which clippy does not see.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "docs/page.rs"]
mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use hawser::cli::Cli;
use page::{Page, repository};
use serde_json::{Value, json};

/// Options of other programs that the pages name.
const OTHERS_OPTIONS: [&str; 35] = [
    // passt
    "--address",
    "--fd",
    "--gateway",
    "--ipv4-only",
    "--ipv6-only",
    "--dns-forward",
    "--dns-host",
    "--map-host-loopback",
    "--netmask",
    // virtiofsd
    "--sandbox",
    // podman
    "--device",
    "--privileged",
    "--ulimit",
    // hawser-device-plugin, and the kubelet
    "--copies",
    "--dev",
    "--devices",
    "--domain",
    "--kubelet-dir",
    "--offer",
    "--passt-profile",
    "--root-dir",
    // kubectl hawser, and kubectl
    "--context",
    "--follow",
    "--give-up",
    "--interval",
    "--start-timeout",
    // cargo e2e
    "--all",
    "--datapath",
    "--ipv6",
    "--kubeconfig",
    "--migration",
    "--nodes",
    "--only",
    "--rounds",
    "--within",
];

fn pages() -> Vec<Page> {
    let docs = fs::read_dir(repository().join("docs")).unwrap();
    let mut paths: Vec<PathBuf> = docs.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.sort();
    let others = [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "e2e/kind/README.md",
    ];
    paths.extend(others.map(|name| repository().join(name)));
    assert!(paths.len() > 15, "{paths:?}");
    paths.into_iter().map(Page::read).collect()
}

fn page(name: &str) -> Page {
    Page::read(repository().join(name))
}

/// Fails with all of them.
fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_link_and_anchor_leads_somewhere() {
    let mut wrong = Vec::new();
    for page in pages() {
        for link in page.links() {
            if link.starts_with("http://") || link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => page.path.clone(),
                file => page.path.parent().unwrap().join(file),
            };
            if !target.exists() {
                wrong.push(format!("{page}: {link}: no such file"));
            } else if !anchor.is_empty() && !Page::read(target).anchors().contains(anchor) {
                wrong.push(format!("{page}: {link}: no such heading"));
            }
        }
    }
    none(wrong);
}

#[test]
fn every_command_line_parses() {
    let mut wrong = Vec::new();
    let mut tried = 0;
    for page in pages() {
        for line in page.invocations() {
            tried += 1;
            let Err(error) = Cli::try_parse_from(line.split_whitespace()) else {
                continue;
            };
            // A page may name a verb without all that it needs.
            if !matches!(
                error.kind(),
                ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            ) {
                wrong.push(format!("{page}: {line}: {error}"));
            }
        }
    }
    assert!(tried > 40, "{tried}");
    none(wrong);
}

/// Each long option of any verb with its default.
fn options() -> BTreeMap<String, Option<String>> {
    let command = Cli::command();
    let of_verbs = command.get_subcommands().flat_map(|verb| verb.get_arguments());
    of_verbs
        .chain(command.get_arguments())
        .filter_map(|argument| {
            let default = argument.get_default_values().first();
            Some((
                format!("--{}", argument.get_long()?),
                default.map(|default| default.to_string_lossy().into_owned()),
            ))
        })
        .collect()
}

#[test]
fn every_option_is_one_of_ours_or_of_a_program_that_is_known() {
    let options = options();
    let mut wrong = Vec::new();
    for page in pages() {
        for span in page.spans().iter().filter(|span| span.starts_with("--")) {
            let option = span.split([' ', '=']).next().unwrap();
            if !options.contains_key(option) && !OTHERS_OPTIONS.contains(&option) {
                wrong.push(format!("{page}: {span}"));
            }
        }
    }
    none(wrong);
}

#[test]
fn defaults_and_ports_are_the_codes_own() {
    let options = options();
    let mut wrong = Vec::new();
    let port = options["--migration-listen"].as_ref().unwrap();
    let port = port.rsplit_once(':').unwrap().1;
    let metrics = hawser::spec::pod_ports::METRICS.to_string();
    let state_dir = options["--state-dir"].as_ref().unwrap();
    for page in pages() {
        // `--option`, by default `VALUE`
        let text = page.prose();
        for (at, by) in text.match_indices("`, by default `") {
            let option = text[..at].rsplit('`').next().unwrap();
            let value = text[at + by.len()..].split('`').next().unwrap();
            let option = option.split(' ').next().unwrap();
            match options.get(option) {
                Some(Some(default)) if default != value => {
                    wrong.push(format!("{page}: {option} is {default} by default, not {value}"));
                }
                _ => {}
            }
        }
        for word in page.text.split([' ', '`', '\n', '|', ',', '"']) {
            let address = word.strip_prefix("tcp:").and_then(|word| word.rsplit_once(':'));
            if address.is_some_and(|(_, found)| {
                found.bytes().all(|b| b.is_ascii_digit()) && found != port && found != metrics
            }) {
                wrong.push(format!("{page}: {word}: the port is {port}"));
            }
            if word.starts_with("/run/") && !word.starts_with(state_dir.as_str()) {
                wrong.push(format!("{page}: {word}: the state directory is {state_dir}"));
            }
        }
    }
    // The options of a migration, and the ports that stay in the pod.
    for row in page("docs/migration.md").table("# Live migration", "| option |") {
        let option = row[0].trim_matches('`');
        let default = (row[1] != "none").then(|| row[1].clone());
        if options.get(option) != Some(&default) {
            wrong.push(format!(
                "docs/migration.md: {option}: the default is {:?}",
                options.get(option)
            ));
        }
    }
    let kept: BTreeSet<String> = hawser_manifest::pod_ports::ALWAYS
        .iter()
        .map(u16::to_string)
        .collect();
    let ports = page("docs/masquerade.md").table("### Ports that stay in the pod", "| TCP ports |");
    let named: BTreeSet<String> = ports
        .iter()
        .map(|row| row[0].clone())
        .filter(|port| !port.contains(','))
        .collect();
    if named != kept {
        wrong.push(format!(
            "docs/masquerade.md: {named:?} stay in the pod, not {kept:?}"
        ));
    }
    none(wrong);
}

#[test]
fn exit_codes_are_those_of_the_enum_and_of_the_help() {
    let source = include_str!("../src/error.rs");
    let discriminant = |line: &str| {
        let (name, code) = line.trim().strip_suffix(',')?.split_once(" = ")?;
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric())
            .then_some(())?;
        code.parse::<u8>().ok()
    };
    let codes: Vec<u8> = source.lines().filter_map(discriminant).collect();
    assert!(codes.len() > 8, "{codes:?}");
    let rows = page("README.md").table("### Exit codes", "| code |");
    let table: Vec<u8> = rows.iter().map(|row| row[0].parse().unwrap()).collect();
    assert_eq!(table, codes);
    let help = Cli::command().get_after_help().unwrap().to_string();
    let (_, help) = help.split_once("Exit codes:").unwrap();
    for code in &codes {
        assert!(help.contains(&format!("{code} ")), "{code}: {help}");
    }
    let mut wrong = Vec::new();
    for page in pages() {
        let text = page.prose();
        for (at, before) in text.match_indices("exit code ") {
            let number: String = text[at + before.len()..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            if number.parse().is_ok_and(|number| !codes.contains(&number)) {
                wrong.push(format!("{page}: exit code {number}"));
            }
        }
    }
    none(wrong);
}

#[test]
fn every_file_of_the_repository_that_a_page_names_is_there() {
    let mut wrong = Vec::new();
    for page in pages() {
        for span in page.spans() {
            let rooms = ["launcher/", "netsetup/", "dhcp/", "e2e/", "images/", ".ci/"];
            let is_path = rooms.iter().any(|room| span.starts_with(room)) && !span.contains(' ');
            // A place that the reader fills in, or a file below the state directory.
            if is_path && !span.contains("NAME") && !repository().join(&span).exists() {
                wrong.push(format!("{page}: {span}"));
            }
        }
    }
    none(wrong);
}

/// What a page has the reader run to see something must exist: `cargo test -p CRATE FILTER`, `cargo e2e lab NAME`.
#[test]
fn every_test_that_a_page_names_is_there() {
    let mut wrong = Vec::new();
    let sources = page::sources(repository());
    let somewhere = |word: &str| {
        let last = word.rsplit("::").next().unwrap();
        let named =
            |(path, text): &(PathBuf, String)| path.to_string_lossy().contains(last) || text.contains(last);
        sources.iter().any(named)
    };
    let packages: Vec<String> = page::packages(repository());
    for page in pages() {
        for line in page.code().iter().filter(|line| line.starts_with("cargo ")) {
            let words: Vec<&str> = line.split_whitespace().skip(1).collect();
            let mut words = words.as_slice();
            let mut named = Vec::new();
            while let [word, rest @ ..] = words {
                words = rest;
                match (*word, rest) {
                    ("-p", [package, rest @ ..]) => {
                        words = rest;
                        if !packages.contains(&(*package).to_owned()) {
                            wrong.push(format!("{page}: {line}: no package {package}"));
                        }
                    }
                    ("--rounds" | "--test" | "--only", [_, rest @ ..]) => words = rest,
                    ("#", _) => break,
                    (
                        "test" | "e2e" | "lab" | "demo" | "bench" | "shell" | "NAME" | "build" | "install",
                        _,
                    ) => {}
                    (option, _) if option.starts_with(['-', '+', '\'', '|']) => {}
                    (name, _) => named.push(name),
                }
            }
            let ours = line.starts_with("cargo e2e lab ") || line.starts_with("cargo test ");
            wrong.extend(
                named
                    .iter()
                    .filter(|name| ours && !somewhere(name))
                    .map(|name| format!("{page}: {line}: no {name}")),
            );
        }
    }
    none(wrong);
}

/// A manifest with one interface, and the plugin that it names.
fn explained(annotation: &str, interface: Value, network: Value, plugin: Value) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let annotations = match annotation {
        "" => json!({}),
        annotation => json!({annotation: ""}),
    };
    let mut interface = interface;
    interface["name"] = "nic".into();
    let mut network = network;
    network["name"] = "nic".into();
    let vmi = json!({
        "apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "guest", "annotations": annotations},
        "spec": {
            "domain": {
                "memory": {"guest": "192Mi"},
                "firmware": {"kernelBoot": {"container": {"image": "guest", "kernelPath": "/vmlinux"}}},
                "devices": {"interfaces": [interface]},
            },
            "networks": [network],
        },
    });
    let write = |name: &str, value: &Value| {
        let path = directory.path().join(name);
        fs::write(&path, value.to_string()).unwrap();
        path
    };
    let output = Command::new(env!("CARGO_BIN_EXE_hawser"))
        .args(["explain", "-o", "json", "--vmi"])
        .arg(write("vmi.json", &vmi))
        .arg("--bindings")
        .arg(write("bindings.json", &json!({"x": plugin})))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    answer["interfaces"][0]["migration"]["possible"]
        .as_bool()
        .unwrap()
}

#[test]
fn what_can_migrate_is_what_explain_says() {
    const ANNOTATION: &str = "kubevirt.io/allow-pod-bridge-network-live-migration";
    let pod = || json!({"pod": {}});
    let secondary = || json!({"multus": {"networkName": "red"}});
    let bound = |binding: &str| json!({binding: {}});
    let by_plugin = || json!({"binding": {"name": "x"}});
    let tap = || json!({"domainAttachmentType": "tap"});
    let migrates = |kind: &str| json!({"domainAttachmentType": kind, "migration": {}});
    let rows = page("docs/migration.md").table("## Which guests can migrate", "| interface |");
    let explained = |row: &str| match row {
        "masquerade" => explained("", bound("masquerade"), pod(), tap()),
        "passt" => explained("", json!({"passtBinding": {}}), pod(), tap()),
        "bridge on the pod network" => explained("", bound("bridge"), pod(), tap()),
        "bridge on the pod network, with the annotation" => {
            explained(ANNOTATION, bound("bridge"), pod(), tap())
        }
        "bridge on a secondary network" => explained("", bound("bridge"), secondary(), tap()),
        "sriov" => explained("", bound("sriov"), secondary(), tap()),
        "plugin, `managedTap`, that declares `migration`" => {
            explained("", by_plugin(), secondary(), migrates("managedTap"))
        }
        "plugin, `tap`, that declares `migration`" => {
            explained("", by_plugin(), secondary(), migrates("tap"))
        }
        "plugin with a sidecar" => explained(
            "",
            by_plugin(),
            pod(),
            json!({"sidecarImage": "x:1", "migration": {}}),
        ),
        "plugin that declares no `migration`" => explained("", by_plugin(), secondary(), tap()),
        other => panic!("docs/migration.md: no manifest is known for {other}"),
    };
    let mut wrong = Vec::new();
    let mut possible = 0;
    for row in &rows {
        let documented = row[1].starts_with("yes");
        possible += usize::from(documented);
        if explained(&row[0]) != documented {
            wrong.push(format!(
                "docs/migration.md: {}: {}, which explain denies",
                row[0], row[1]
            ));
        }
    }
    assert!(possible > 5 && rows.len() > 9, "{rows:?}");
    // A page of a binding that can migrate says so, and none says that nothing does.
    for name in ["masquerade", "bridge", "passt", "sriov", "plugins"] {
        let page = page(&format!("docs/{name}.md"));
        if !page.anchors().contains("live-migration") {
            wrong.push(format!("{page}: no section about live migration"));
        }
    }
    for page in pages() {
        let text = page.prose().to_lowercase();
        for stale in [
            "does not migrate",
            "migrates no guest",
            "nothing migrates",
            "no guest migrates",
        ] {
            if text.contains(stale) {
                wrong.push(format!("{page}: {stale}"));
            }
        }
    }
    none(wrong);
}

/// The last column of docs/glossary.md, as far as a word there is never the right one.
#[test]
fn pages_use_the_words_of_the_glossary() {
    let retired = [
        "let go of",
        "stands still",
        "standstill",
        "hand over",
        "handed over",
        "given away",
        "goes on elsewhere",
        "start anew",
        "keeper",
        "neighbour",
        "honour",
    ];
    let mut wrong = Vec::new();
    for page in pages().iter().filter(|page| !page.path.ends_with("glossary.md")) {
        let text = page.words().to_lowercase();
        wrong.extend(
            retired
                .iter()
                .filter(|word| text.contains(*word))
                .map(|word| format!("{page}: {word}")),
        );
    }
    none(wrong);
}

/// The pages' own machinery: without it the tests above would pass over everything.
#[test]
fn a_page_is_read_as_it_is_written() {
    let text = "# A `b` c: d\n\n[x](y.md#z) `hawser plan\n--vmi FILE|-` `[not](a link)`\n\n    hawser run --vmi F \\\n        --uid 1   # why\n\n| a | b |\n|---|---|\n| `1` | 2 |\n";
    let page = Page {
        path: Path::new("p.md").to_owned(),
        text: text.to_owned(),
    };
    assert_eq!(page.links(), ["y.md#z"]);
    assert!(page.anchors().contains("a-b-c-d"));
    assert_eq!(
        page.invocations(),
        ["hawser run --vmi F --uid 1", "hawser plan --vmi FILE"]
    );
    assert_eq!(page.table("# A", "| a |"), [["`1`", "2"]]);
}
