//! Files inside images that the pod mounts. A path in a manifest must not lead out of its image, whatever links
//! the image holds: the kernel resolves it with openat2 and RESOLVE_BENEATH (openat2(2)).

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::cli::Common;
use crate::error::{ExitCode, Failure};
use crate::spec::KernelBoot;

/// The name under which the kernelBoot image is mounted.
const KERNEL_BOOT: &str = "kernel-boot";

/// A guest's kernel as files of this pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelFiles {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) cmdline: String,
}

/// Finds the files that `spec.domain.firmware.kernelBoot` names.
pub(crate) fn kernel_files(common: &Common, boot: &KernelBoot) -> Result<KernelFiles, Failure> {
    let of = format!("{}.container", boot.path);
    let directory = directory(common, KERNEL_BOOT);
    let file = |field: &str, path: &str| resolve(&directory, path, &format!("{of}.{field}"));
    let Some(kernel) = &boot.kernel_path else {
        return Err(Failure::new(
            ExitCode::Manifest,
            format!("{of}.kernelPath: required: an initrd cannot boot without a kernel"),
        ));
    };
    Ok(KernelFiles {
        kernel: file("kernelPath", kernel)?,
        initrd: boot
            .initrd_path
            .as_deref()
            .map(|path| file("initrdPath", path))
            .transpose()?,
        cmdline: boot.kernel_args.clone(),
    })
}

fn directory(common: &Common, name: &str) -> PathBuf {
    let given = common.images.iter().rev().find(|(image, _)| image == name);
    match given {
        Some((_, directory)) => directory.clone(),
        None => common.state_dir.join("images").join(name),
    }
}

/// The real path of a regular file below `directory`.
fn resolve(directory: &Path, path: &str, field: &str) -> Result<PathBuf, Failure> {
    let fail = |errno: Errno| {
        let why = match errno {
            Errno::EXDEV | Errno::ELOOP => "it leads out of the image, or links in a circle".to_owned(),
            errno => errno.desc().to_owned(),
        };
        Failure::new(
            ExitCode::PodUnfit,
            format!("{field}: {path} in {}: {why}", directory.display()),
        )
        .remedy(format!(
            "mount the image there, or say where it is with --image {KERNEL_BOOT}=DIR"
        ))
    };
    let root = open(
        directory,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(fail)?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let inside = path.trim_start_matches('/');
    let file = openat2(&root, inside, how).map_err(fail)?;
    let kind = SFlag::from_bits_truncate(fstat(&file).map_err(fail)?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFREG {
        return Err(Failure::new(
            ExitCode::PodUnfit,
            format!("{field}: {path} in {}: not a regular file", directory.display()),
        ));
    }
    // The VMM opens by name; this is the name of what was checked, without a link in it.
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .map_err(|error| Failure::new(ExitCode::Internal, format!("{field}: {path}")).because(error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("boot")).unwrap();
        std::fs::write(dir.path().join("boot/vmlinux"), "k").unwrap();
        dir
    }

    #[test]
    fn a_file_and_a_link_inside_the_image() {
        let dir = image();
        symlink("boot/vmlinux", dir.path().join("kernel")).unwrap();
        for path in ["/boot/vmlinux", "/kernel"] {
            let found = resolve(dir.path(), path, "f").unwrap();
            assert_eq!(std::fs::read(found).unwrap(), b"k");
        }
    }

    #[test]
    fn what_leads_out_or_is_no_file_is_refused_by_its_field() {
        let dir = image();
        symlink("/etc/passwd", dir.path().join("absolute")).unwrap();
        symlink("../../../../etc/passwd", dir.path().join("relative")).unwrap();
        for (path, why) in [
            ("/absolute", "leads out"),
            ("/relative", "leads out"),
            ("/boot", "not a regular file"),
            ("/missing", "No such file"),
        ] {
            let failure = resolve(dir.path(), path, "spec.field").unwrap_err().to_string();
            assert!(
                failure.contains("spec.field: ") && failure.contains(why),
                "{failure}"
            );
        }
    }
}
