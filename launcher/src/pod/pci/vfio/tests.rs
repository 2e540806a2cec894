use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

/// A sysfs as the kernel lays it out, with functions by address, driver and group.
fn roots(dir: &Path, functions: &[(&str, Option<&str>, Option<u32>)]) -> Roots {
    let roots = Roots {
        sys: dir.join("sys"),
        dev: dir.join("dev"),
    };
    let by_address = roots.sys.join("bus/pci/devices");
    fs::create_dir_all(&by_address).unwrap();
    for (address, driver, group) in functions {
        let device = roots.sys.join("devices/pci0000:00").join(address);
        fs::create_dir_all(&device).unwrap();
        symlink(&device, by_address.join(address)).unwrap();
        if let Some(driver) = driver {
            symlink(
                Path::new("/sys/bus/pci/drivers").join(driver),
                device.join("driver"),
            )
            .unwrap();
        }
        if let Some(group) = group {
            let group = roots.sys.join("kernel/iommu_groups").join(group.to_string());
            fs::create_dir_all(group.join("devices")).unwrap();
            symlink(&device, group.join("devices").join(address)).unwrap();
            symlink(&group, device.join("iommu_group")).unwrap();
        }
    }
    roots
}

fn address(text: &str) -> PciAddress {
    text.parse().unwrap()
}

fn first_line(failure: &Failure) -> String {
    let text = failure.to_string();
    assert!(text.contains("\n  remedy: "), "{text}");
    text.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_function_alone_or_beside_what_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(
        dir.path(),
        &[
            ("0000:01:10.0", Some("vfio-pci"), Some(26)),
            ("0000:01:10.1", Some("mlx5_vfio_pci"), Some(27)),
            ("0000:01:10.2", None, Some(27)),
            ("0000:00:01.0", Some("pcieport"), Some(27)),
        ],
    );
    assert_eq!(roots.function(address("0000:01:10.0")).unwrap().group, 26);
    assert_eq!(roots.function(address("0000:01:10.1")).unwrap().group, 27);
}

#[test]
fn each_thing_that_is_not_so_has_its_own_words() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(
        dir.path(),
        &[
            ("0000:01:10.0", Some("igbvf"), Some(26)),
            ("0000:01:10.1", None, Some(27)),
            ("0000:01:10.2", Some("vfio-pci"), None),
            ("0000:00:1f.3", Some("vfio-pci"), Some(7)),
            ("0000:00:1f.2", Some("ahci"), Some(7)),
            ("0000:00:1f.0", Some("lpc_ich"), Some(7)),
            ("0000:02:00.0", Some("vfio-pci"), Some(9)),
        ],
    );
    fs::write(roots.sys.join("kernel/iommu_groups/9/name"), "vfio-noiommu\n").unwrap();
    for (text, expected) in [
        (
            "0000:01:10.0",
            "hawser: 0000:01:10.0: bound to igbvf, not to vfio-pci",
        ),
        (
            "0000:01:10.1",
            "hawser: 0000:01:10.1: bound to no driver, not to vfio-pci",
        ),
        ("0000:01:10.2", "hawser: 0000:01:10.2: in no IOMMU group"),
        ("0000:02:00.0", "hawser: 0000:02:00.0: in no IOMMU group"),
        (
            "0000:00:1f.3",
            "hawser: 0000:00:1f.3: IOMMU group 7 is not viable: 0000:00:1f.0 is bound to lpc_ich, 0000:00:1f.2 is bound to ahci",
        ),
        (
            "0000:09:00.0",
            "hawser: 0000:09:00.0: no such PCI device on this node",
        ),
    ] {
        let failure = roots.function(address(text)).unwrap_err();
        assert_eq!(first_line(&failure), expected);
        assert_eq!(failure.code(), crate::ExitCode::PodUnfit);
    }
}

#[test]
fn iommufd_only_where_the_pod_has_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let list = [
        ("0000:01:10.0", Some("vfio-pci"), Some(26)),
        ("0000:01:10.1", Some("vfio-pci"), Some(27)),
    ];
    let roots = roots(dir.path(), &list);
    for (address, name) in [("0000:01:10.0", "vfio0"), ("0000:01:10.1", "vfio1")] {
        fs::create_dir_all(
            roots
                .sys
                .join("devices/pci0000:00")
                .join(address)
                .join("vfio-dev")
                .join(name),
        )
        .unwrap();
    }
    let functions: Vec<_> = list
        .iter()
        .map(|(text, ..)| roots.function(address(text)).unwrap())
        .collect();
    fs::create_dir_all(roots.dev.join("vfio/devices")).unwrap();
    let names = |access| {
        let nodes = roots.nodes(&functions, access);
        let name = |node: &PathBuf| node.strip_prefix(&roots.dev).unwrap().display().to_string();
        nodes.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(roots.access(&functions), Access::Group);
    assert_eq!(names(Access::Group), ["vfio/vfio", "vfio/26", "vfio/27"]);
    fs::write(roots.dev.join("iommu"), "").unwrap();
    fs::write(roots.dev.join("vfio/devices/vfio0"), "").unwrap();
    assert_eq!(
        roots.access(&functions),
        Access::Group,
        "one function has its group's node alone"
    );
    fs::write(roots.dev.join("vfio/devices/vfio1"), "").unwrap();
    assert_eq!(roots.access(&functions), Access::Iommufd);
    assert_eq!(
        names(Access::Iommufd),
        ["iommu", "vfio/devices/vfio0", "vfio/devices/vfio1"]
    );
    // As the VMM's user, or as whoever runs this: both may open these stand-ins for nodes.
    assert!(roots.probe(&functions, Access::Iommufd).is_ok());
}

#[test]
fn what_is_no_container_is_not_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let roots = roots(dir.path(), &[("0000:01:10.0", Some("vfio-pci"), Some(26))]);
    let functions = [roots.function(address("0000:01:10.0")).unwrap()];
    let failure = roots.probe(&functions, Access::Group).unwrap_err();
    assert!(
        first_line(&failure).contains("/vfio/vfio: cannot be opened: No such file"),
        "{failure}"
    );
    fs::create_dir_all(roots.dev.join("vfio")).unwrap();
    fs::write(roots.dev.join("vfio/vfio"), "").unwrap();
    let failure = roots.probe(&functions, Access::Group).unwrap_err();
    assert!(
        first_line(&failure).ends_with("/vfio/vfio: not a VFIO container of version 0"),
        "{failure}"
    );
}
