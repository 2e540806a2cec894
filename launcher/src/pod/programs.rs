//! The programs that hawser starts: where each is, and whether it will do.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use caps::Capability;
use hawser_linux::programs::find as on_path;

use super::finding::{Finding, Part};
use crate::daemons::passt;
use crate::error::Failure;
use crate::privileges;
use crate::spec::{Interface, Ports};

/// passt as it was found for a guest with an interface of that binding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PasstProgram {
    pub(crate) path: PathBuf,
    /// Its release's date, as two launchers compare it.
    pub(crate) date: Option<u32>,
    /// Why a guest that it serves cannot migrate.
    pub(crate) not_migratable: Option<String>,
}

/// The VMM's binary: a path, or a name on PATH.
pub(crate) fn cloud_hypervisor(program: &Path) -> Result<PathBuf, Failure> {
    on_path(program).ok_or_else(|| {
        Failure::unfit(
            format!(
                "cloud-hypervisor: {} is not an executable file",
                program.display()
            ),
            "put cloud-hypervisor on PATH, or pass its location with --cloud-hypervisor",
        )
    })
}

/// What a start learns from the VMM itself, asked before there is one. A program that does not answer is left to a start.
pub(crate) fn cloud_hypervisor_version(program: &Path) -> Result<(), Failure> {
    let asked = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let text = asked.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = text.as_deref().unwrap_or_default().lines().next();
    match version.and_then(|line| line.strip_prefix("cloud-hypervisor ")) {
        Some(version) => crate::guest::check_version(version.trim()),
        None => Ok(()),
    }
}

/// passt, where the guest has an interface that it serves.
pub(crate) fn passt(interface: Option<&Interface>) -> Part<Option<PasstProgram>> {
    let Some(interface) = interface else {
        return Part::silent(None);
    };
    let found = passt::find().and_then(|path| {
        let fit = passt::check(&path, interface.ports == Ports::All)?;
        Ok((path, fit))
    });
    match found {
        Ok((path, fit)) => {
            let line = Finding::Good(format!("passt: {}, {}", path.display(), fit.version));
            let not_migratable = fit.obstacle();
            let program = PasstProgram {
                path,
                date: fit.date,
                not_migratable,
            };
            let part = Part::silent(Some(program)).with(line).with_notes(fit.note);
            match passt_repair() {
                Some(finding) => part.with(finding),
                None => part,
            }
        }
        Err(failure) => Part::bad(failure),
    }
}

/// The same where no guest is known: it may have no such interface.
pub(crate) fn passt_if_needed() -> Vec<Finding> {
    let found = passt::find().and_then(|path| Ok((passt::check(&path, false)?, path)));
    let mut findings = vec![match found {
        Ok((passt::Fitness { note: Some(note), .. }, _)) => Finding::Note(format!("passt: {note}")),
        Ok((fit, path)) => Finding::Good(format!("passt: {}, {}", path.display(), fit.version)),
        Err(failure) => Finding::Note(format!(
            "the binding passt cannot be used here: {}",
            failure.body()
        )),
    }];
    findings.extend(passt::find().ok().and_then(|_| passt_repair()));
    findings
}

/// A migration goes without it too.
fn passt_repair() -> Option<Finding> {
    let ends = "connections that are open behind passt end in a migration";
    Some(match passt::RepairProgram::program() {
        None => Finding::Note(format!("passt-repair: not found on PATH: {ends}")),
        Some(_) if !privileges::has(Capability::CAP_NET_ADMIN) => {
            Finding::Note(format!("passt-repair: without CAP_NET_ADMIN {ends}"))
        }
        Some(path) => Finding::Good(format!(
            "passt-repair: {}: connections behind passt migrate to a pod of the same addresses",
            path.display()
        )),
    })
}
