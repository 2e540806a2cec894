//! `spec.domain.firmware`: what the guest boots from, and its identity.
//!
//! A kernel from an image, or else UEFI from the disks. KubeVirt's default is BIOS, which cloud-hypervisor has not:
//! manifests that name no bootloader, as most do, boot by UEFI with a note. One that asks for BIOS by name, or for
//! secure boot, is refused, since it would get something else than it asked for. KubeVirt takes `efi` without
//! `secureBoot` for secure boot, and so does this.

use serde_json::Value;

use super::volumes::file_path;
use crate::document::report::{FieldPath, Report, quoted};
use crate::document::text::given;
use crate::guest::KernelBoot;
use crate::v1;

/// What the guest boots from.
pub(crate) enum BootSource {
    Kernel(KernelBoot),
    /// UEFI, from the disks.
    Uefi,
}

impl BootSource {
    pub(crate) fn kernel(self) -> Option<KernelBoot> {
        match self {
            Self::Kernel(kernel) => Some(kernel),
            Self::Uefi => None,
        }
    }
}

pub(crate) fn boot_source(domain: &v1::Domain, raw: &Value, report: &mut Report) -> Option<BootSource> {
    let written = |pointer: &str| raw.pointer(pointer).is_some_and(|value| !value.is_null());
    let has_disks = ["/spec/volumes", "/spec/domain/devices/disks"]
        .into_iter()
        .any(|pointer| {
            raw.pointer(pointer)
                .and_then(Value::as_array)
                .is_some_and(|list| !list.is_empty())
        });
    let is_kernel = written("/spec/domain/firmware/kernelBoot");
    let named = bootloader(domain, raw, report);
    if is_kernel {
        return kernel(domain, raw, report).map(BootSource::Kernel);
    }
    if !has_disks {
        report.refuse(
            FieldPath::of("spec.domain.firmware.kernelBoot"),
            "required: there is no disk to boot from",
        );
        return None;
    }
    if !named {
        report.note(
            FieldPath::of("spec.domain.firmware"),
            "no bootloader is named: the guest boots by UEFI, since cloud-hypervisor has no BIOS",
        );
    }
    Some(BootSource::Uefi)
}

/// Whether the manifest names one.
fn bootloader(domain: &v1::Domain, raw: &Value, report: &mut Report) -> bool {
    let path = FieldPath::of("spec.domain.firmware.bootloader");
    let bios = raw.pointer("/spec/domain/firmware/bootloader/bios");
    let efi = domain
        .firmware
        .as_ref()
        .and_then(|firmware| firmware.bootloader.as_ref()?.efi.as_ref());
    match efi {
        Some(efi) if efi.secure_boot != Some(false) => {
            let found = match efi.secure_boot {
                Some(_) => "",
                None => ", and efi without secureBoot asks for it",
            };
            report.refuse(
                path.key("efi").key("secureBoot"),
                format!("secure boot is not supported{found}: write secureBoot: false"),
            );
            true
        }
        Some(_) => true,
        None => bios.is_some_and(|value| !value.is_null()),
    }
}

fn kernel(domain: &v1::Domain, raw: &Value, report: &mut Report) -> Option<KernelBoot> {
    let path = FieldPath::of("spec.domain.firmware.kernelBoot");
    let boot = domain.firmware.as_ref()?.kernel_boot.as_ref()?;
    let container = boot.container.as_ref()?;
    let of = path.key("container");
    if container.image.as_deref() == Some("") {
        report.refuse(of.key("image"), "required");
    }
    let kernel = given(&container.kernel_path);
    let initrd = given(&container.initrd_path);
    let named = |field: &str| {
        let field = raw.pointer(&format!("/spec/domain/firmware/kernelBoot/container/{field}"));
        field.is_some_and(|value| !value.is_null() && value != "")
    };
    if !named("kernelPath") && !named("initrdPath") {
        report.refuse(
            of.clone(),
            "at least one of kernelPath and initrdPath is required",
        );
    } else if !named("kernelPath") {
        report.refuse(
            of.key("kernelPath"),
            "required: an initrd cannot boot without a kernel",
        );
    }
    let args = given(&boot.kernel_args).unwrap_or_default();
    if !args.is_empty() && !named("kernelPath") {
        report.refuse(path.key("kernelArgs"), "only together with a kernelPath");
    }
    if args.chars().any(char::is_control) {
        report.refuse(path.key("kernelArgs"), "control characters are not allowed");
    }
    let kernel = kernel.and_then(|kernel| file_path(kernel, of.key("kernelPath"), report));
    let initrd = initrd.and_then(|initrd| file_path(initrd, of.key("initrdPath"), report));
    Some(KernelBoot {
        path: report.in_place(path).to_string(),
        image: container.image.clone()?,
        kernel_path: kernel?,
        initrd_path: initrd,
        kernel_args: args.to_owned(),
    })
}

/// RFC 9562 text form.
pub(crate) fn uuid(domain: &v1::Domain, report: &mut Report) -> Option<String> {
    let text = domain
        .firmware
        .as_ref()
        .and_then(|firmware| given(&firmware.uuid))?;
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    if groups != [8, 4, 4, 4, 12] || !text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()) {
        report.refuse(
            FieldPath::of("spec.domain.firmware.uuid"),
            format!("expected a UUID, found {}", quoted(text)),
        );
        return None;
    }
    Some(text.to_ascii_lowercase())
}
