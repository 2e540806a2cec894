//! Whether the passt that is there can serve a guest of cloud-hypervisor: found out before anything is touched.

use std::path::{Path, PathBuf};

use hawser_linux::programs;
use nix::sys::resource::{Resource, getrlimit};

use super::PROGRAM;
use crate::error::{ExitCode, Failure};

/// The first release with vhost-user that KubeVirt and we have seen to work: year, month and day as one number.
const OLDEST: u32 = 20_241_211;
/// The first that we have seen to migrate a guest: it logs what it writes, and sends the next one what it knows of the
/// guest.
const OLDEST_THAT_MIGRATES: u32 = 20_250_503;
/// What passt holds open beside its ports, before any connection.
const SPARE_DESCRIPTORS: u64 = 1024;

const INSTALL: &str =
    "install passt 2024-12-11 or newer in the image (Debian trixie or newer has it), or use masquerade";

/// A passt that will do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fitness {
    /// As it prints it.
    pub(crate) version: String,
    /// Year, month and day as one number, where the version says it.
    pub(crate) date: Option<u32>,
    pub(crate) note: Option<String>,
}

impl Fitness {
    /// Why a guest that it serves cannot migrate.
    pub(crate) fn obstacle(&self) -> Option<String> {
        self.date.filter(|date| *date < OLDEST_THAT_MIGRATES).map(|_| {
            format!(
                "passt {} cannot migrate a guest: 2025-05-03 or newer is needed",
                self.version
            )
        })
    }
}

/// passt on PATH.
pub(crate) fn find() -> Result<PathBuf, Failure> {
    programs::find(Path::new(PROGRAM))
        .ok_or_else(|| Failure::new(ExitCode::PodUnfit, "passt: not found on PATH").remedy(INSTALL))
}

/// Asks `program` for its version, and this process for what it may open.
pub(crate) fn check(program: &Path, all_ports: bool) -> Result<Fitness, Failure> {
    let output = programs::version_of(program).map_err(|error| {
        Failure::new(ExitCode::PodUnfit, format!("passt: start {}", program.display()))
            .because(error)
            .remedy(INSTALL)
    })?;
    if all_ports {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
        check_descriptors(sockets_for_all(&range), hard)?;
    }
    judge(&output)
}

/// `passt 0.0~git20250503.587980c-2+deb13u1`, `passt 2025_05_03.587980c`, `passt 0^20250503.g587980c-1.fc42.x86_64`.
fn judge(output: &str) -> Result<Fitness, Failure> {
    let first = output.lines().next().unwrap_or_default();
    let version: String = first
        .trim()
        .trim_start_matches(PROGRAM)
        .trim()
        .chars()
        .flat_map(char::escape_debug)
        .take(100)
        .collect();
    match date(&version) {
        Some(date) if date < OLDEST => Err(Failure::new(
            ExitCode::PodUnfit,
            format!("passt {version} is too old: 2024-12-11 or newer is needed, which has vhost-user"),
        )
        .remedy(INSTALL)),
        date @ Some(_) => Ok(Fitness {
            version,
            date,
            note: None,
        }),
        None => Ok(Fitness {
            date: None,
            note: Some(format!(
                "cannot parse passt's version {version:?}; 2024-12-11 or newer is needed"
            )),
            version,
        }),
    }
}

/// The first eight digits in a row that are a date of this century, underscores between them or not.
fn date(version: &str) -> Option<u32> {
    let is_part = |character: char| character.is_ascii_digit() || character == '_';
    version
        .split(|character| !is_part(character))
        .filter_map(|run| {
            let digits = run.replace('_', "");
            let date = digits.get(..8)?.parse::<u32>().ok()?;
            (20_000_101..21_000_101).contains(&date).then_some(date)
        })
        .next()
}

/// One for each port outside the ephemeral range, TCP and UDP; each serves both families.
fn sockets_for_all(local_port_range: &str) -> u64 {
    let bounds: Vec<u64> = local_port_range
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let ephemeral = match bounds.as_slice() {
        [low, high] => high.saturating_sub(*low).saturating_add(1),
        _ => 0,
    };
    65535_u64.saturating_sub(ephemeral).saturating_mul(2)
}

fn check_descriptors(wanted: u64, hard: u64) -> Result<(), Failure> {
    let wanted = wanted.saturating_add(SPARE_DESCRIPTORS);
    if hard >= wanted {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::PodUnfit,
        format!("passt: without a list of ports it opens a socket for each: {wanted} open files are needed, {hard} are allowed"),
    )
    .remedy("list the ports that are to reach the guest in the manifest, or raise the container's limit of open files (RLIMIT_NOFILE)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_2024_12_11_on() {
        for good in [
            "passt 0.0~git20250503.587980c-2+deb13u1",
            "passt 2025_05_03.587980c",
            "passt 0^20250503.g587980c-1.fc42.x86_64",
            "passt 2024_12_11.09478d5",
            "passt 0.0~git20241211.09478d5-1",
        ] {
            let fit = judge(good).unwrap();
            assert_eq!(fit.note, None, "{good}");
        }
        for old in [
            "passt 0.0~git20230309.7c7625d-1",
            "passt 2024_11_27.c0fbc7e",
            "passt 0^20241121.g238c69f-1.fc41.x86_64",
        ] {
            let failure = judge(old).unwrap_err();
            assert_eq!(failure.code(), ExitCode::PodUnfit, "{old}");
            assert!(failure.to_string().contains("remedy: install passt"), "{failure}");
        }
        for unknown in ["passt unknown version", "", "passt 99999999\u{1b}[31m"] {
            let fit = judge(unknown).unwrap();
            assert!(fit.note.is_some_and(|note| !note.contains('\u{1b}')), "{unknown}");
        }
    }

    #[test]
    fn only_one_that_hands_over_lets_its_guest_migrate() {
        let obstacle = |output: &str| judge(output).unwrap().obstacle();
        for good in ["passt 0.0~git20250503.587980c-2+deb13u1", "passt unknown version"] {
            assert_eq!(obstacle(good), None, "{good}");
        }
        let why = obstacle("passt 2024_12_11.09478d5").unwrap();
        assert!(why.contains("2024_12_11") && why.contains("2025-05-03"), "{why}");
    }

    #[test]
    fn all_ports_need_a_socket_each() {
        assert_eq!(sockets_for_all("32768\t60999\n"), 2 * 37303);
        assert_eq!(sockets_for_all("nonsense"), 2 * 65535);
        assert!(check_descriptors(74606, 1_048_576).is_ok());
        let failure = check_descriptors(74606, 65536).unwrap_err();
        assert_eq!(failure.code(), ExitCode::PodUnfit);
        assert!(failure.to_string().contains("75630 open files"), "{failure}");
        assert!(failure.to_string().contains("list the ports"), "{failure}");
    }

    /// A stand-in that says what Debian's says.
    #[test]
    fn what_it_prints_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("passt");
        let script = "#!/bin/sh\ntest -t 1 && echo 'passt 0.0~git20250503.587980c-2'; echo Copyright\n";
        crate::test_program::write(&program, script);
        let fit = check(&program, false).unwrap();
        assert_eq!(fit.version, "0.0~git20250503.587980c-2");
        assert!(check(&dir.path().join("none"), false).is_err());
    }
}
