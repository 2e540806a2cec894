//! `hawser version`: its own version, and those of the programs that it starts with what each makes possible, so that an image says
//! what is in it.

use std::path::{Path, PathBuf};

use hawser_linux::programs;
use hawser_vmm::assumptions::{NEWEST_TESTED, OLDEST, Release, release};

use crate::daemons::{self, virtiofsd};
use crate::error::{ExitCode, Failure};

/// Far more than any of them has.
const MAX_LENGTH: usize = 100;

pub(crate) fn version() -> Result<ExitCode, Failure> {
    println!("hawser {}", env!("CARGO_PKG_VERSION"));
    let on_path = |name: &str| programs::find(Path::new(name));
    for (name, program, what) in [
        (
            "cloud-hypervisor",
            on_path("cloud-hypervisor"),
            What {
                gives: cloud_hypervisor,
                without: "no guest can run",
            },
        ),
        (
            "passt",
            on_path("passt"),
            What {
                gives: passt,
                without: "no interface can have the passt binding",
            },
        ),
        (
            "virtiofsd",
            virtiofsd::program().ok(),
            What {
                gives: |_, _| "guests can have file systems".to_owned(),
                without: "no guest can have a file system",
            },
        ),
        (
            "nft",
            on_path("nft"),
            What {
                gives: |_, _| "interfaces can have the masquerade and bridge bindings".to_owned(),
                without: "no interface can have the masquerade or bridge binding",
            },
        ),
    ] {
        println!("{}", line(name, program, &what));
    }
    Ok(ExitCode::Success)
}

/// What a program makes possible.
struct What {
    /// By its path and its version.
    gives: fn(&Path, &str) -> String,
    without: &'static str,
}

fn line(name: &str, program: Option<PathBuf>, what: &What) -> String {
    let Some(program) = program else {
        return format!("{name}: not found: {}", what.without);
    };
    match programs::version_of(&program) {
        Ok(output) => {
            let version = version_in(&output);
            let gives = (what.gives)(&program, &version);
            format!("{name} {version}: {gives}")
        }
        Err(error) => format!("{name}: {}: {error}: {}", program.display(), what.without),
    }
}

fn cloud_hypervisor(_: &Path, version: &str) -> String {
    match release(version) {
        Release::TooOld => format!("too old to run a guest: v{OLDEST}.0 or newer is needed"),
        Release::Tested => "guests can run and migrate".to_owned(),
        Release::NotTested => {
            format!(
                "guests can run; hawser was tested with v{NEWEST_TESTED}.x, and live migration may not work"
            )
        }
        Release::Unknown => {
            format!("whether guests can run is not known: v{OLDEST}.0 or newer is needed")
        }
    }
}

fn passt(program: &Path, _: &str) -> String {
    match daemons::passt::check(program, false) {
        Ok(fit) => match fit.obstacle() {
            None => "interfaces can have the passt binding, and their guests can migrate".to_owned(),
            Some(why) => format!("interfaces can have the passt binding; {why}"),
        },
        Err(_) => "too old for the passt binding".to_owned(),
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
        let what = What {
            gives: |_, version| format!("rules of {version}"),
            without: "no rules",
        };
        assert_eq!(line("nft", None, &what), "nft: not found: no rules");
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("nft");
        crate::test_program::write(&program, "#!/bin/sh\necho nftables v9 $1\n");
        assert_eq!(
            line("nft", Some(program), &what),
            "nft v9 --version: rules of v9 --version"
        );
    }

    #[test]
    fn a_release_says_what_guests_can_do_with_it() {
        let says = |version| cloud_hypervisor(Path::new(""), version);
        assert!(says("v51.0").starts_with("too old"));
        assert_eq!(says("v53.0.0"), "guests can run and migrate");
        assert!(says("v99.0").contains("may not work"));
        assert!(says("mine").contains("not known"));
    }
}
