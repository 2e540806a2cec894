//! `cargo e2e fuzz`: each fuzz target for a while, from its seeds and from what earlier runs have found.
//!
//! The targets are two workspaces of their own, since a fuzzer is built by nightly Rust. What a run finds stays in the
//! workspace's `corpus`, and an input that ends a target in its `artifacts`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::report::{Outcome, Report, Skip, is_selected};

const GROUP: &str = "fuzz";
/// The directories with a `fuzz` below them.
const PACKAGES: [&str; 2] = ["dhcp", "launcher"];
/// For one input.
const TIMEOUT_SECONDS: u32 = 10;

pub(crate) fn run(report: &mut Report, filter: Option<&str>, each: Duration) {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let missing = missing();
    for package in PACKAGES {
        let directory = top.join(package);
        let targets = match targets(&directory) {
            Ok(targets) => targets,
            Err(error) => {
                report.record(GROUP, package, Outcome::Failed(format!("{error:#}")), None);
                continue;
            }
        };
        for target in targets.iter().filter(|target| is_selected(GROUP, target, filter)) {
            let started = Instant::now();
            let outcome = match &missing {
                Some(reason) => Err(Skip::because(reason.clone()).into()),
                None => fuzz(&directory, target, each),
            };
            report.record(GROUP, target, outcome.into(), Some(started.elapsed()));
        }
    }
}

/// What has to be installed first.
fn missing() -> Option<String> {
    let runs = |args: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !runs(&["+nightly", "--version"]) {
        return Some("no nightly Rust: rustup toolchain install nightly --profile minimal".to_owned());
    }
    if !runs(&["+nightly", "fuzz", "--version"]) {
        return Some("no cargo-fuzz: cargo install cargo-fuzz".to_owned());
    }
    None
}

/// The binaries of a package's fuzz crate.
fn targets(directory: &Path) -> Result<Vec<String>> {
    let manifest = directory.join("fuzz/Cargo.toml");
    let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    let (_, binaries) = text.split_once("[[bin]]").context("no [[bin]]")?;
    let names = binaries
        .lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    Ok(names.map(str::to_owned).collect())
}

fn fuzz(directory: &Path, target: &str, each: Duration) -> Result<()> {
    let directory = directory.canonicalize()?;
    let corpus = directory.join("fuzz/corpus").join(target);
    fs::create_dir_all(&corpus)?;
    let mut inputs: Vec<PathBuf> = vec![corpus];
    inputs.extend(Some(directory.join("fuzz/seeds").join(target)).filter(|seeds| seeds.exists()));
    let output = Command::new("cargo")
        .args(["+nightly", "fuzz", "run", target])
        .args(inputs)
        .arg("--")
        .arg(format!("-max_total_time={}", each.as_secs()))
        .arg(format!("-timeout={TIMEOUT_SECONDS}"))
        .arg("-print_final_stats=1")
        .current_dir(&directory)
        .stdin(Stdio::null())
        .output()
        .context("cannot start cargo")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        let lines: Vec<_> = said.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(30)..).unwrap_or_default();
        bail!("{}:\n{}", output.status, tail.join("\n"));
    }
    let executed = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .context("the fuzzer did not say how many inputs it tried")?;
    println!("       {target}: {} inputs", executed.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_targets_are_found() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let of = |package: &str| targets(&top.join(package)).unwrap();
        assert_eq!(of("dhcp"), ["frame", "message"]);
        for package in PACKAGES {
            let mut files: Vec<_> = fs::read_dir(top.join(package).join("fuzz/fuzz_targets"))
                .unwrap()
                .map(|file| file.unwrap().path())
                .filter(|path| fs::read_to_string(path).unwrap().contains("fuzz_target!"))
                .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
                .collect();
            files.sort();
            assert_eq!(of(package), files);
        }
    }
}
