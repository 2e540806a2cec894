//! Whether the pod may use as much memory as its guest: if not, the kernel ends the guest at the time when it uses its memory,
//! which may be long after the start.

use std::fs;
use std::path::Path;

use crate::spec::GuestSpec;

/// Of this container, in the second and in the first version of cgroups.
const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];
const MIB: u64 = 1 << 20;

/// What to note of a limit that is too low.
pub(crate) fn note(guest: &GuestSpec) -> Option<String> {
    let limit = LIMITS.into_iter().find_map(|file| limit(Path::new(file)))?;
    too_low(guest, limit)
}

/// In bytes; nothing where there is none.
fn limit(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn too_low(guest: &GuestSpec, limit: u64) -> Option<String> {
    let beside = hawser_kubernetes::overhead(guest);
    // Huge pages have a limit of their own.
    let own = match guest.hugepage_size {
        Some(_) => 0,
        None => guest.memory,
    };
    let needed = own.saturating_add(beside);
    (limit < needed).then(|| {
        let mebibytes = |bytes: u64| bytes.div_ceil(MIB);
        format!(
            "memory: the container may use {} MiB, and the guest needs up to {} MiB beside {} MiB for what runs it: the kernel \
             will end it when it uses its memory; write at least {}Mi into the container's resources.limits.memory",
            limit / MIB,
            mebibytes(own),
            mebibytes(beside),
            mebibytes(needed)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(memory: &str) -> GuestSpec {
        let text = format!(
            "{{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {{name: web}}, spec: {{domain: {{memory: {memory}}},
            volumes: [{{name: a, emptyDisk: {{capacity: 1Mi}}}}]}}}}"
        );
        crate::spec::load(&text).unwrap().spec
    }

    #[test]
    fn the_number_to_write_is_one_that_suffices() {
        let plain = guest("{guest: 1Gi}");
        let text = too_low(&plain, 1 << 30).unwrap();
        let (_, rest) = text.split_once("write at least ").unwrap();
        let wanted: u64 = rest.split("Mi").next().unwrap().parse().unwrap();
        assert!(wanted > 1024 && text.contains("may use 1024 MiB"), "{text}");
        assert_eq!(too_low(&plain, wanted * MIB), None);
        assert!(too_low(&plain, wanted * MIB - MIB).is_some());
        let huge = guest("{guest: 1Gi, hugepages: {pageSize: 2Mi}}");
        assert_eq!(too_low(&huge, 512 * MIB), None, "huge pages are counted apart");
        assert!(too_low(&huge, 64 * MIB).is_some());
    }

    #[test]
    fn a_limit_as_the_kernel_says_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("memory.max");
        assert_eq!(limit(&file), None);
        fs::write(&file, "max\n").unwrap();
        assert_eq!(limit(&file), None);
        fs::write(&file, "1073741824\n").unwrap();
        assert_eq!(limit(&file), Some(1 << 30));
    }
}
