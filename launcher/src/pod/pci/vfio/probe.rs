//! The kernel's own answers, by the ioctls of `linux/vfio.h`.
//!
//! A process of the VMM's user asks, since it is that user who will have to be let in; hawser itself may be root with few
//! capabilities, or may be allowed more. Everything is let go of again when that process ends: a group can be open only
//! once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem::size_of;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use hawser_netsetup::Owner;
use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork};
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_BASE, VFIO_GROUP_FLAGS_VIABLE, VFIO_TYPE, VFIO_TYPE1v2_IOMMU, vfio_group_status,
};

use super::{Access, CONTAINER, Function, Roots};
use crate::error::{ExitCode, Failure};
use crate::privileges;

/// In the header's words `_IO(VFIO_TYPE, VFIO_BASE + n)`.
macro_rules! code {
    ($n:expr) => {
        nix::request_code_none!(VFIO_TYPE, VFIO_BASE + $n)
    };
}
nix::ioctl_none_bad!(get_api_version, code!(0));
nix::ioctl_write_int_bad!(check_extension, code!(1));
nix::ioctl_write_int_bad!(set_iommu, code!(2));
nix::ioctl_read_bad!(group_get_status, code!(3), vfio_group_status);
nix::ioctl_write_ptr_bad!(group_set_container, code!(4), RawFd);

/// Runs `work` in a process that has become `owner`, with the groups that own `nodes`, and hands its answer back.
pub(super) fn as_user(
    owner: Owner,
    nodes: &[PathBuf],
    work: impl FnOnce() -> Result<String, Failure>,
) -> Result<String, Failure> {
    let fail =
        |what: &'static str| move |error: io::Error| Failure::new(ExitCode::Internal, what).because(error);
    let (mut answer, mut telling) = io::pipe().map_err(fail("make a pipe"))?;
    // SAFETY: there is one thread and no runtime, so the child may go on like any process.
    match unsafe { fork() }.map_err(|errno| fail("fork")(errno.into()))? {
        ForkResult::Child => {
            drop(answer);
            let outcome = privileges::drop_all(owner, nodes).and_then(|()| work());
            let text = match &outcome {
                Ok(line) => format!("{}\0{line}", ExitCode::Success as i32),
                Err(failure) => failure.to_parts(),
            };
            let _ = telling.write_all(text.as_bytes());
            std::process::exit(0);
        }
        ForkResult::Parent { child } => {
            drop(telling);
            let mut text = String::new();
            answer.read_to_string(&mut text).map_err(fail("hear the probe"))?;
            // How it ended is of no interest once it has said what it found.
            let _ = waitpid(child, None);
            match text.split_once('\0') {
                Some(("0", line)) => Ok(line.to_owned()),
                _ => Err(Failure::from_parts(&text)),
            }
        }
    }
}

impl Roots {
    pub(super) fn probe(&self, functions: &[Function], access: Access) -> Result<String, Failure> {
        match access {
            Access::Group => self.probe_groups(functions),
            Access::Iommufd => {
                for node in self.nodes(functions, access) {
                    open(&node).map_err(|error| opening(&node, &error))?;
                }
                Ok("VFIO: the kernel lets the devices be opened (iommufd)".to_owned())
            }
        }
    }

    /// As the VMM will: one container with all the groups in it.
    fn probe_groups(&self, functions: &[Function]) -> Result<String, Failure> {
        let path = self.dev.join(CONTAINER);
        let container = open(&path).map_err(|error| opening(&path, &error))?;
        has_type1(&container, &path)?;
        let mut groups: Vec<(u32, File)> = Vec::new();
        for function in functions {
            if groups.iter().any(|(number, _)| *number == function.group) {
                continue;
            }
            let path = self.group_node(function.group);
            let group = open(&path).map_err(|error| opening(&path, &error))?;
            is_viable(&group, function)?;
            let descriptor = container.as_raw_fd();
            // SAFETY: the argument is a pointer to a descriptor of a container, which lives across the call.
            unsafe { group_set_container(group.as_raw_fd(), &descriptor) }
                .map_err(|errno| refused(&path, "VFIO_GROUP_SET_CONTAINER", errno))?;
            if groups.is_empty() {
                // SAFETY: the argument is a number.
                unsafe { set_iommu(container.as_raw_fd(), VFIO_TYPE1v2_IOMMU as i32) }
                    .map_err(|errno| refused(&path, "VFIO_SET_IOMMU", errno))?;
            }
            groups.push((function.group, group));
        }
        Ok("VFIO: the kernel gives the groups to the guest's user, with a type-1 IOMMU".to_owned())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn opening(path: &Path, error: &io::Error) -> Failure {
    let remedy = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EBUSY) => {
            "another VMM holds it: the function is assigned to two pods, or the previous VMM is still exiting"
        }
        Some(Errno::EPERM) => {
            "the pod's device cgroup denies it: request the device from the device plugin, or pass --device"
        }
        Some(Errno::ENODEV | Errno::ENXIO) => {
            "load vfio-pci on the node (modprobe vfio-pci), and bind the function to it"
        }
        _ => "check VFIO on the node; the node's kernel log may have the reason",
    };
    Failure::unfit(format!("{}: cannot be opened: {error}", path.display()), remedy)
}

fn has_type1(container: &File, path: &Path) -> Result<(), Failure> {
    // SAFETY: neither takes a pointer.
    let (version, type1) = unsafe {
        (
            get_api_version(container.as_raw_fd()),
            check_extension(container.as_raw_fd(), VFIO_TYPE1v2_IOMMU as i32),
        )
    };
    if version != Ok(VFIO_API_VERSION as i32) {
        return Err(Failure::unfit(
            format!(
                "{}: not a VFIO container of version {VFIO_API_VERSION}",
                path.display()
            ),
            "mount the node's own /dev/vfio/vfio there",
        ));
    }
    if type1 != Ok(1) {
        return Err(Failure::unfit(
            format!("{}: no type-1 IOMMU", path.display()),
            "switch the node's IOMMU on, and load its driver: modprobe vfio_iommu_type1",
        ));
    }
    Ok(())
}

fn is_viable(group: &File, function: &Function) -> Result<(), Failure> {
    let mut status = vfio_group_status {
        argsz: u32::try_from(size_of::<vfio_group_status>()).unwrap_or_default(),
        flags: 0,
    };
    let Function {
        address,
        group: number,
        ..
    } = function;
    // SAFETY: the argument is that ioctl's structure, with its size in it.
    let asked = unsafe { group_get_status(group.as_raw_fd(), &mut status) };
    if asked.is_ok() && status.flags & VFIO_GROUP_FLAGS_VIABLE != 0 {
        return Ok(());
    }
    let why = asked.err().map(|errno| format!(" ({errno})")).unwrap_or_default();
    Err(Failure::unfit(
        format!("{address}: IOMMU group {number} is not viable{why}"),
        "bind every device of the group to vfio-pci or to no driver",
    ))
}

fn refused(path: &Path, ioctl: &str, errno: Errno) -> Failure {
    let remedy = match errno {
        Errno::EPERM => {
            "the node has no interrupt remapping, so a guest could forge interrupts: switch it on in the firmware (x2APIC, \
             VT-d), or, where every guest is trusted, load vfio_iommu_type1 with allow_unsafe_interrupts=1"
        }
        Errno::EBUSY => {
            "another VMM holds it: the function is assigned to two pods, or the previous VMM is still exiting"
        }
        _ => "check the IOMMU of the node; the node's kernel log may have the reason",
    };
    Failure::unfit(format!("{}: {ioctl}: {}", path.display(), errno.desc()), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_answers_is_told_with_what_to_do() {
        for (errno, remedy) in [
            (Errno::EPERM, "interrupt remapping"),
            (Errno::EBUSY, "another VMM holds it"),
            (Errno::EINVAL, "kernel log"),
        ] {
            let text = refused(Path::new("/dev/vfio/9"), "VFIO_SET_IOMMU", errno).to_string();
            assert!(
                text.starts_with("hawser: /dev/vfio/9: VFIO_SET_IOMMU: "),
                "{text}"
            );
            assert!(text.contains(remedy), "{text}");
            let error = io::Error::from(errno);
            let text = opening(Path::new("/dev/vfio/9"), &error).to_string();
            assert!(
                text.starts_with("hawser: /dev/vfio/9: cannot be opened: "),
                "{text}"
            );
        }
        let busy = opening(Path::new("/dev/vfio/9"), &Errno::EBUSY.into()).to_string();
        assert!(busy.contains("another VMM holds it"), "{busy}");
    }
}
