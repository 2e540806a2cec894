//! What is known of each NIC, written disk and device of a guest: who gives the IP, what others use, whether it can migrate, what
//! it needs.

use std::fmt::Write;

use hawser_netsetup::CniNic;
use serde::Serialize;

use super::migratable::disk_may_migrate;
use crate::devices;
use crate::may_migrate::MayMigrate;
use crate::nic;
use crate::spec::GuestSpec;

#[derive(Debug, Serialize)]
pub(crate) struct Explanations {
    pub(crate) interfaces: Vec<nic::Explanation>,
    /// Those that the guest writes.
    disks: Vec<DiskExplanation>,
    devices: Vec<devices::Explanation>,
}

#[derive(Debug, Serialize)]
struct DiskExplanation {
    disk: String,
    migration: MayMigrate,
}

impl Explanations {
    /// `cni` are the devices that CNI plugins have made, where the pod could be read.
    pub(crate) fn new(guest: &GuestSpec, cni: &[CniNic]) -> Self {
        let written = guest.disks.iter().filter(|disk| !disk.readonly);
        let disks = written.map(|disk| DiskExplanation {
            disk: disk.name.clone(),
            migration: disk_may_migrate(guest, disk),
        });
        Self {
            interfaces: nic::explain(guest, cni),
            disks: disks.collect(),
            devices: devices::explain(guest),
        }
    }

    /// A table for each.
    pub(crate) fn text(&self) -> String {
        let mut text = nic::explanation_text(&self.interfaces);
        for DiskExplanation { disk, migration } in &self.disks {
            let _ = writeln!(
                text,
                "\ndisk {disk}\n  {:<12} {}",
                "can migrate",
                migration.text()
            );
        }
        text + &devices::explanation_text(&self.devices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launch::obstacles;

    #[test]
    fn each_written_disk_is_explained_as_it_is_decided() {
        let manifest = include_str!("../../manifest/src/testdata/minimal.yaml").to_owned()
            + "  volumes:
  - {name: root, containerDisk: {image: example/root}}
  - {name: scratch, emptyDisk: {capacity: 1Gi}}
  - {name: data, persistentVolumeClaim: {claimName: data}}
  - {name: copy, ephemeral: {persistentVolumeClaim: {claimName: data}}}
  - {name: host, hostDisk: {path: /data/disk.img, type: Disk}}
  - {name: seed, cloudInitNoCloud: {userData: '#cloud-config'}}
";
        for (strategy, moves) in [("", false), ("  evictionStrategy: LiveMigrate\n", true)] {
            let guest = crate::spec::load(&format!("{manifest}{strategy}")).unwrap().spec;
            let text = Explanations::new(&guest, &[]).text();
            let obstacles = obstacles(&guest, &[]);
            for (disk, goes) in [
                ("root", moves),
                ("scratch", true),
                ("data", false),
                ("copy", false),
                ("host", false),
            ] {
                let answer = format!(
                    "\ndisk {disk}\n  can migrate  {}: ",
                    if goes { "yes" } else { "no" }
                );
                assert!(text.contains(&answer), "{answer:?} in {text}");
                let against = obstacles
                    .iter()
                    .any(|why| why.starts_with(&format!("disk {disk}: ")));
                assert_eq!(against, !goes, "{disk}: {obstacles:?}");
            }
            assert!(!text.contains("disk seed"), "{text}");
        }
    }
}
