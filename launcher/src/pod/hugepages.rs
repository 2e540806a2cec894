//! Whether the node has the huge pages that a guest's memory is to be made of, asked before the pod is touched:
//! cloud-hypervisor would find out when the guest's processes are there already, and say no more than ENOMEM.

use std::fs;
use std::path::Path;

use crate::error::{ExitCode, Failure};
use crate::spec::GuestSpec;

/// Linux, Documentation/admin-guide/mm/hugetlbpage.rst.
const POOLS: &str = "/sys/kernel/mm/hugepages";

/// Nothing is reserved: another pod may still be quicker. Limits of the pod's own (the hugetlb controller of cgroups) are
/// the kubelet's, which gives them together with the pages.
pub(crate) fn check(guest: &GuestSpec) -> Result<(), Failure> {
    match guest.hugepage_size {
        Some(size) => enough(Path::new(POOLS), size, guest.memory),
        None => Ok(()),
    }
}

fn enough(pools: &Path, page_size: u64, memory: u64) -> Result<(), Failure> {
    let unfit = |why: String| {
        Failure::new(ExitCode::PodUnfit, format!("spec.domain.memory.hugepages: {why}")).remedy(
            "reserve pages on the node (vm.nr_hugepages, or hugepagesz= on its command line), give the pod \
                 hugepages-2Mi or hugepages-1Gi in its limits, or leave hugepages out of the manifest",
        )
    };
    let kib = page_size >> 10;
    let pool = pools.join(format!("hugepages-{kib}kB/free_hugepages"));
    let free: u64 = fs::read_to_string(&pool)
        .map_err(|error| unfit(format!("the node has no pages of {kib} KiB")).because(error))?
        .trim()
        .parse()
        .map_err(|error: std::num::ParseIntError| unfit(pool.display().to_string()).because(error))?;
    let needed = memory.div_ceil(page_size);
    if free >= needed {
        return Ok(());
    }
    Err(unfit(format!(
        "{needed} pages of {kib} KiB are needed, and the node has {free} free"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_MEBI: u64 = 2 << 20;

    fn pools(free: &str) -> tempfile::TempDir {
        let pools = tempfile::tempdir().unwrap();
        let pool = pools.path().join("hugepages-2048kB");
        fs::create_dir(&pool).unwrap();
        fs::write(pool.join("free_hugepages"), free).unwrap();
        pools
    }

    #[test]
    fn as_many_pages_as_the_guest_has_memory() {
        let pools = pools("96\n");
        enough(pools.path(), TWO_MEBI, 192 << 20).unwrap();
        let failure = enough(pools.path(), TWO_MEBI, 194 << 20).unwrap_err();
        assert_eq!(failure.code(), ExitCode::PodUnfit);
        let text = failure.to_string();
        assert!(
            text.contains("97 pages of 2048 KiB are needed, and the node has 96 free"),
            "{text}"
        );
    }

    #[test]
    fn a_size_that_the_node_has_not() {
        let pools = pools("96\n");
        let text = enough(pools.path(), 1 << 30, 1 << 30).unwrap_err().to_string();
        assert!(text.contains("no pages of 1048576 KiB"), "{text}");
    }
}
