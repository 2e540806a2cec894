//! The `nft` tool: one call, one transaction.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hawser_linux::converse::converse;
use nix::unistd::{Pid, getpid};

use crate::error::StepFailure;
use crate::ruleset;

/// A rule set takes nft some 30 ms. A pod whose nft hangs is to end with an error before its grace period does, and taking
/// the wiring down may meet the same nft.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A started `nft` that waits for its rules. To start it takes as long as to load them, so it is started beside other
/// work; one that is not needed after all is ended.
#[derive(Debug)]
pub struct Nft {
    child: Option<Child>,
    /// A process forked from this one has a copy that must not end what it did not start.
    starter: Pid,
}

impl Nft {
    /// The tool needs CAP_NET_ADMIN too: by its uid, or ambient from the caller.
    ///
    /// # Errors
    /// When there is no `nft` to be run.
    pub fn start() -> Result<Self, StepFailure> {
        Self::start_with(&["-j", "-f", "-"])
    }

    fn start_with(arguments: &[&str]) -> Result<Self, StepFailure> {
        let child = Command::new("nft")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        Ok(Self {
            child: Some(child),
            starter: getpid(),
        })
    }

    fn run(mut self, document: &serde_json::Value) -> Result<(), StepFailure> {
        let Some(mut nft) = self.child.take() else {
            return Ok(());
        };
        let text = document.to_string();
        let (status, said) =
            converse(&mut nft, text.as_bytes(), Instant::now() + TIMEOUT).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::TimedOut => StepFailure::NftHung(TIMEOUT.as_secs()),
                    _ => failed(error),
                }
            })?;
        if status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said);
        Err(StepFailure::Nft(match said.trim() {
            "" => status.to_string(),
            said => said.to_owned(),
        }))
    }
}

impl Drop for Nft {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut().filter(|_| self.starter == getpid()) {
            // It has read no rules, so nothing is lost; an error means that it has exited already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Replaces the rule set by `document`, with `nft` if that was started already.
///
/// First as if there were none, as in a fresh pod. To delete a table, even one that is not there, nft waits until the
/// kernel has cleaned up after it, and that takes longer than the whole rest.
pub(super) fn replace(nft: Option<Nft>, document: &serde_json::Value) -> Result<(), StepFailure> {
    let nft = nft.map_or_else(Nft::start, Ok)?;
    match nft.run(document) {
        Err(StepFailure::Nft(_)) => run(&ruleset::replacing(document)),
        other => other,
    }
}

/// Adds [`crate::Plan::offloading`] to a rule set that is loaded. False where the kernel or `nft` does not have what that takes;
/// the rules do the same without, and cost each packet more. Needs CAP_NET_ADMIN, ambient for `nft` too.
///
/// # Errors
/// When there is no `nft`, or it hangs.
pub fn offload(document: &serde_json::Value) -> Result<bool, StepFailure> {
    if lacks_flowtables(Path::new("/proc/sys/net/netfilter")) {
        return Ok(false);
    }
    match run(document) {
        Ok(()) => Ok(true),
        Err(StepFailure::Nft(_)) => Ok(false),
        Err(other) => Err(other),
    }
}

/// Whether it is known, without asking nf_tables, that the kernel was built without them. Asking takes a transaction that fails, after
/// which the kernel waits until no processor uses what it takes back: longer than it takes to load the rules. A kernel built with
/// them has their time limits among connection tracking's sysctls, from Linux 5.14 on
/// (Documentation/networking/nf_conntrack-sysctl.rst). The rules use connection tracking, so it is there once they are loaded.
fn lacks_flowtables(sysctls: &Path) -> bool {
    let is_there = |name: &str| sysctls.join(name).exists();
    is_there("nf_conntrack_udp_timeout") && !is_there("nf_flowtable_udp_timeout")
}

pub(super) fn run(document: &serde_json::Value) -> Result<(), StepFailure> {
    Nft::start()?.run(document)
}

/// Has the kernel go through `document` without keeping anything of it.
pub(super) fn check(document: &serde_json::Value) -> Result<(), StepFailure> {
    Nft::start_with(&["-c", "-j", "-f", "-"])?.run(document)
}

/// Makes the pod's kernel send no resets for connections that it does not know: they continue in another pod with the same
/// addresses.
/// Needs CAP_NET_ADMIN, ambient for `nft` too.
///
/// # Errors
/// When there is no `nft`, or the kernel refuses.
pub fn drop_resets() -> Result<(), StepFailure> {
    run(&ruleset::drop_resets())
}

/// Takes [`drop_resets`] back.
///
/// # Errors
/// When there is no `nft`, or the kernel refuses.
pub fn allow_resets() -> Result<(), StepFailure> {
    run(&ruleset::allow_resets())
}

fn failed(source: std::io::Error) -> StepFailure {
    StepFailure::system("run nft", source)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_kernel_lacks_flowtables_only_where_its_sysctls_say_so() {
        let sysctls = tempfile::tempdir().unwrap();
        assert!(!lacks_flowtables(sysctls.path()), "nothing is known");
        fs::write(sysctls.path().join("nf_conntrack_udp_timeout"), "30").unwrap();
        assert!(lacks_flowtables(sysctls.path()));
        fs::write(sysctls.path().join("nf_flowtable_udp_timeout"), "30").unwrap();
        assert!(!lacks_flowtables(sysctls.path()));
    }
}
