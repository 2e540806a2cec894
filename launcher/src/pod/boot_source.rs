//! What the guest boots from, as files of this pod: a kernel in an image that the pod mounts, or the UEFI firmware.

use std::fmt;
use std::path::{Path, PathBuf};

use hawser_linux::safe_path::{Links, RegularFile};

use super::places::Places;
use crate::error::{ExitCode, Failure};
use crate::spec::{GuestSpec, KernelBoot};

/// The name under which the kernelBoot image is mounted.
const KERNEL_BOOT: &str = "kernel-boot";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Boot {
    Kernel(KernelFiles),
    /// UEFI, which finds a boot loader on the disks.
    Firmware(PathBuf),
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(files) => write!(f, "kernel {}", files.kernel.display()),
            Self::Firmware(path) => write!(f, "UEFI firmware {}", path.display()),
        }
    }
}

/// A guest's kernel as files of this pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KernelFiles {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) cmdline: String,
}

pub(crate) fn boot(places: &Places, guest: &GuestSpec) -> Result<Boot, Failure> {
    match &guest.kernel_boot {
        Some(boot) => kernel_files(places, boot).map(Boot::Kernel),
        None => firmware(&places.firmware).map(Boot::Firmware),
    }
}

/// Finds the files that `spec.domain.firmware.kernelBoot` names.
fn kernel_files(places: &Places, boot: &KernelBoot) -> Result<KernelFiles, Failure> {
    let of = format!("{}.container", boot.path);
    let directory = places.image(KERNEL_BOOT);
    let file = |field: &str, path: &str| resolve(&directory, path, &format!("{of}.{field}"));
    Ok(KernelFiles {
        kernel: file("kernelPath", &boot.kernel_path)?,
        initrd: boot
            .initrd_path
            .as_deref()
            .map(|path| file("initrdPath", path))
            .transpose()?,
        cmdline: boot.kernel_args.clone(),
    })
}

/// The administrator's own path, so links are followed.
fn firmware(path: &Path) -> Result<PathBuf, Failure> {
    let fail = |why: String| {
        Failure::new(ExitCode::PodUnfit, format!("UEFI firmware {}: {why}", path.display())).remedy(
            "use an image that has cloud-hypervisor's firmware (Debian's package cloudhv-efi-x86-64), or pass its location with --firmware",
        )
    };
    let found = path.canonicalize().map_err(|error| fail(error.to_string()))?;
    if !found.is_file() {
        return Err(fail("not a regular file".to_owned()));
    }
    Ok(found)
}

/// The real path of a regular file below `directory`.
fn resolve(directory: &Path, path: &str, field: &str) -> Result<PathBuf, Failure> {
    match RegularFile::find(directory, path, Links::Inside) {
        Ok(found) => Ok(found.path),
        Err(problem) => Err(Failure::new(
            ExitCode::PodUnfit,
            format!("{field}: {path} in {}: {problem}", directory.display()),
        )
        .remedy(format!(
            "mount the image there, or pass its location with --image {KERNEL_BOOT}=DIR"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_its_field() {
        let dir = tempfile::tempdir().unwrap();
        let failure = resolve(dir.path(), "/missing", "spec.field").unwrap_err();
        let text = failure.to_string();
        assert!(
            text.contains("spec.field: /missing in ") && text.contains("No such file"),
            "{text}"
        );
        assert_eq!(failure.code(), ExitCode::PodUnfit);
    }

    #[test]
    fn the_firmware_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let text = firmware(dir.path()).unwrap_err().to_string();
        assert!(
            text.contains("not a regular file") && text.contains("--firmware"),
            "{text}"
        );
        let file = dir.path().join("fd");
        std::fs::write(&file, "x").unwrap();
        assert!(firmware(&file).is_ok());
    }
}
