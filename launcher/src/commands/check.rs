//! `hawser check`: is this pod fit to run a guest? One line each, with the remedy for what is not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caps::Capability;
use hawser_netsetup::{Owner, observe};

use crate::binding::{Functions, sriov};
use crate::cli::CheckArgs;
use crate::error::{ExitCode, Failure};
use crate::pod::host_devices as host;
use crate::pod::{cpus, vfio};
use crate::spec::GuestSpec;
use crate::{passt, privileges, virtiofs};

enum Finding {
    Good(String),
    /// Something works less well, or was done beforehand.
    Note(String),
    Bad(Failure),
}

/// Prints the findings. The exit code says whether a guest could be run.
pub(crate) fn check(args: &CheckArgs, guest: Option<&GuestSpec>) -> Result<ExitCode, Failure> {
    let owner = privileges::owner(107);
    let as_user = match &owner {
        Ok(owner) => *owner,
        Err(_) => Owner { uid: 107, gid: 107 },
    };
    let mut findings = vec![match owner {
        Ok(owner) => Finding::Good(format!(
            "user: the guest's processes run as {}:{}",
            owner.uid, owner.gid
        )),
        Err(failure) => Finding::Bad(failure),
    }];
    for device in privileges::DEVICES {
        findings.push(match privileges::device(device, as_user) {
            Ok(()) => Finding::Good(format!("{device}: usable by user {}", as_user.uid)),
            Err(failure) => Finding::Bad(failure),
        });
    }
    findings.push(net_admin());
    findings.push(program("nft", Path::new("nft"), "install nftables in the image"));
    findings.push(passt());
    findings.extend(passt_repair());
    findings.push(match find_program(&args.cloud_hypervisor) {
        Ok(path) => Finding::Good(format!("cloud-hypervisor: {}", path.display())),
        Err(failure) => Finding::Bad(failure),
    });
    findings.push(state_dir(&args.state_dir));
    findings.extend(namespace());
    if let Some(guest) = guest {
        findings.extend(functions(args, guest, as_user));
        findings.extend(match cpus::pin(guest) {
            Ok(pinning) => pinning.map(|pinning| Finding::Good(pinning.to_string())),
            Err(failure) => Some(Finding::Bad(failure)),
        });
        findings.extend(virtiofsd(guest));
    }

    let mut fit = true;
    for finding in findings {
        match finding {
            Finding::Good(text) => println!("ok    {text}"),
            Finding::Note(text) => println!("note  {text}"),
            Finding::Bad(failure) => {
                fit = false;
                println!("FAIL  {}", failure.to_string().trim_start_matches("hawser: "));
            }
        }
    }
    Ok(if fit {
        ExitCode::Success
    } else {
        ExitCode::PodUnfit
    })
}

/// What the guest's SR-IOV interfaces and host devices need, by the checks that a start makes.
fn functions(args: &CheckArgs, guest: &GuestSpec, owner: Owner) -> Vec<Finding> {
    let (vfs, notes) = match sriov::vfs(guest, &args.pod, Duration::ZERO) {
        Ok(found) => found,
        Err(failure) => return vec![Finding::Bad(failure)],
    };
    let mut findings: Vec<_> = notes.into_iter().map(Finding::Note).collect();
    let host = match host::find(guest, &args.pod, &vfs) {
        Ok(found) => found,
        Err(failure) => {
            findings.push(Finding::Bad(failure));
            return findings;
        }
    };
    findings.extend(vfs.iter().map(|vf| Finding::Good(vf.to_string())));
    findings.extend(host.iter().map(|function| Finding::Good(function.to_string())));
    let functions = Functions {
        vfs,
        host,
        access: vfio::Access::Group,
    };
    let addresses = functions.addresses();
    if addresses.is_empty() {
        return findings;
    }
    let (found, _) = vfio::examine(&addresses, owner, guest.memory);
    findings.extend(found.into_iter().map(|one| match one {
        Ok(text) => Finding::Good(text),
        Err(failure) => Finding::Bad(failure),
    }));
    findings
}

fn net_admin() -> Finding {
    if privileges::has(Capability::CAP_NET_ADMIN) {
        return Finding::Good("capabilities: NET_ADMIN".into());
    }
    Finding::Bad(
        Failure::new(ExitCode::PodUnfit, "capabilities: NET_ADMIN is missing").remedy(
            "add NET_ADMIN to the container, or wire the pod beforehand with hawser setup in an init container that has it",
        ),
    )
}

fn program(name: &str, path: &Path, remedy: &str) -> Finding {
    match on_path(path) {
        Some(path) => Finding::Good(format!("{name}: {}", path.display())),
        None => Finding::Bad(
            Failure::new(ExitCode::PodUnfit, format!("{name}: not found on PATH")).remedy(remedy),
        ),
    }
}

/// Only the binding of that name needs it.
fn passt() -> Finding {
    let found = passt::find().and_then(|path| Ok((passt::check(&path, &[])?, path)));
    match found {
        Ok((passt::Fitness { note: Some(note), .. }, _)) => Finding::Note(format!("passt: {note}")),
        Ok((fit, path)) => Finding::Good(format!("passt: {}, {}", path.display(), fit.version)),
        Err(failure) => Finding::Note(format!(
            "the binding passt cannot be used here: {}",
            failure.to_string().trim_start_matches("hawser: ")
        )),
    }
}

/// A migration goes without it too.
fn passt_repair() -> Option<Finding> {
    passt::find().ok()?;
    let ends = "connections that are open behind passt end in a migration";
    Some(match passt::Helper::program() {
        None => Finding::Note(format!("passt-repair: not found on PATH: {ends}")),
        Some(_) if !privileges::has(caps::Capability::CAP_NET_ADMIN) => {
            Finding::Note(format!("passt-repair: without CAP_NET_ADMIN {ends}"))
        }
        Some(path) => Finding::Good(format!(
            "passt-repair: {}: connections behind passt migrate to a pod of the same addresses",
            path.display()
        )),
    })
}

/// Only shared file systems need it.
fn virtiofsd(guest: &GuestSpec) -> Option<Finding> {
    if guest.filesystems.is_empty() {
        return None;
    }
    Some(match virtiofs::program() {
        Ok(path) => Finding::Good(format!("virtiofsd: {}", path.display())),
        Err(failure) => Finding::Bad(failure),
    })
}

fn state_dir(path: &Path) -> Finding {
    let nearest = path
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    if nix::unistd::access(nearest, nix::unistd::AccessFlags::W_OK).is_ok() {
        return Finding::Good(format!("state directory: {}", path.display()));
    }
    Finding::Bad(
        Failure::new(
            ExitCode::PodUnfit,
            format!("state directory: {} is not writable", nearest.display()),
        )
        .remedy("mount a writable volume there (emptyDir), or name another with --state-dir"),
    )
}

fn namespace() -> Vec<Finding> {
    let observed = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(ExitCode::Internal, "start the runtime").because(error))
        .and_then(|runtime| runtime.block_on(observe()).map_err(Failure::from));
    let observed = match observed {
        Ok(observed) => observed,
        Err(failure) => return vec![Finding::Bad(failure)],
    };
    let Some(pod) = observed.link("eth0") else {
        return vec![Finding::Bad(
            Failure::new(
                ExitCode::PodUnfit,
                "eth0: the pod's network namespace has no such interface",
            )
            .remedy("run in a pod with a network of its own, not in the host's"),
        )];
    };
    let addresses: Vec<_> = pod
        .global_v4()
        .map(|ip| ip.to_string())
        .chain(pod.global_v6().map(|ip| ip.to_string()))
        .collect();
    let mut findings = Vec::new();
    if addresses.is_empty() {
        findings.push(Finding::Bad(
            Failure::new(ExitCode::PodUnfit, "eth0: no global address").remedy("see to the pod's CNI"),
        ));
    } else {
        findings.push(Finding::Good(format!(
            "eth0: {}, MTU {}",
            addresses.join(", "),
            pod.mtu
        )));
    }
    findings.push(Finding::Good(
        "forwarding: IPv4 is switched on per interface over netlink".into(),
    ));
    if pod.global_v6().next().is_some() {
        findings.push(match &observed.ipv6_forwarding {
            Some(sysctl) if sysctl.value == "1" => Finding::Good("forwarding: IPv6 is on".into()),
            Some(sysctl) if sysctl.writable => Finding::Good("forwarding: IPv6 can be switched on".into()),
            _ => Finding::Note(
                "forwarding: IPv6 is off and /proc/sys is read-only: the guest gets IPv4 alone unless the pod has the \
                 sysctl net.ipv6.conf.all.forwarding=1"
                    .into(),
            ),
        });
    }
    findings
}

/// The VMM's binary: a path, or a name on PATH.
pub(crate) fn find_program(program: &Path) -> Result<PathBuf, Failure> {
    on_path(program).ok_or_else(|| {
        Failure::new(
            ExitCode::PodUnfit,
            format!(
                "cloud-hypervisor: {} is not an executable file",
                program.display()
            ),
        )
        .remedy("put cloud-hypervisor on PATH, or say where it is with --cloud-hypervisor")
    })
}

pub(crate) fn on_path(program: &Path) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.components().count() > 1 {
        return fs::canonicalize(program).ok().filter(executable);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(executable)
}
