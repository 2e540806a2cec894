//! `hawser version`: its own version, and those of the programs that it starts, so that an image says what is in it.

use std::path::{Path, PathBuf};

use hawser_linux::programs;

use crate::daemons::virtiofsd;
use crate::error::{ExitCode, Failure};

/// Far more than any of them has.
const MAX_LENGTH: usize = 100;

pub(crate) fn version() -> Result<ExitCode, Failure> {
    println!("hawser {}", env!("CARGO_PKG_VERSION"));
    let on_path = |name: &str| programs::find(Path::new(name));
    for (name, program) in [
        ("cloud-hypervisor", on_path("cloud-hypervisor")),
        ("passt", on_path("passt")),
        ("virtiofsd", virtiofsd::program().ok()),
        ("nft", on_path("nft")),
    ] {
        println!("{}", line(name, program));
    }
    Ok(ExitCode::Success)
}

fn line(name: &str, program: Option<PathBuf>) -> String {
    let Some(program) = program else {
        return format!("{name}: not found");
    };
    match programs::version_of(&program) {
        Ok(output) => format!("{name} {}", version_in(&output)),
        Err(error) => format!("{name}: {}: {error}", program.display()),
    }
}

/// `virtiofsd 1.13.2`, `nftables v1.1.3 (Commodore #4)`: what is after the name, in the first line.
fn version_in(output: &str) -> String {
    let first = output.lines().next().unwrap_or_default().trim();
    let version = first.split_once(' ').map_or(first, |(_, version)| version);
    let version: String = version
        .chars()
        .flat_map(char::escape_debug)
        .take(MAX_LENGTH)
        .collect();
    match version.as_str() {
        "" => "(it prints no version)".to_owned(),
        _ => version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_what_follows_the_name() {
        for (output, version) in [
            ("cloud-hypervisor v53.0.0\n", "v53.0.0"),
            (
                "passt 0.0~git20250503.587980c-2\r\nCopyright\n",
                "0.0~git20250503.587980c-2",
            ),
            ("nftables v1.1.3 (Commodore #4)\n", "v1.1.3 (Commodore #4)"),
            ("1.2\n", "1.2"),
            ("\n", "(it prints no version)"),
            ("x \u{1b}[31m", "\\u{1b}[31m"),
        ] {
            assert_eq!(version_in(output), version, "{output:?}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_said_to_be_missing() {
        assert_eq!(line("passt", None), "passt: not found");
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("nft");
        crate::test_program::write(&program, "#!/bin/sh\necho nftables v9 $1\n");
        assert_eq!(line("nft", Some(program)), "nft v9 --version");
    }
}
