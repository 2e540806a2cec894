//! The status for people: what the guest does and since when, its NICs, its temporary disks, and a migration if there is one.
//!
//! Every text in it that a peer or the guest may have written was made harmless where it came in (`migration::said`).

use std::fmt::Write;

use crate::status::{BootState, Direction, GuestBoot, Status, time};

const GAP: usize = 3;

pub(super) fn table(status: &Status) -> String {
    let mut out = String::new();
    let guest = format!("{}/{}", status.guest.namespace, status.guest.name);
    line(
        &mut out,
        &format!("{guest}   {} since {}", status.state.name(), time(status.since)),
    );
    if let Some(to) = &status.handed_over_to {
        line(&mut out, &format!("migrated to {to}"));
    }
    if let Some(boot) = &status.guest_boot {
        line(&mut out, &guest_boot(boot));
    }
    interfaces(&mut out, status);
    disks(&mut out, status);
    migration(&mut out, status);
    for condition in &status.vmi.conditions {
        if condition.kind == "LiveMigratable"
            && let Some(why) = &condition.message
        {
            line(&mut out, &format!("\ncannot migrate: {why}"));
        }
    }
    out
}

fn guest_boot(boot: &GuestBoot) -> String {
    let state = boot.state.name();
    match (&boot.status, boot.state) {
        (_, BootState::NotReported) => "the guest's systemd has reported nothing".to_owned(),
        (Some(said), _) => format!("the guest's systemd: {state} since {}: {said}", time(boot.since)),
        (None, _) => format!("the guest's systemd: {state} since {}", time(boot.since)),
    }
}

fn interfaces(out: &mut String, status: &Status) {
    let mut rows = vec![["INTERFACE", "BINDING", "LINK", "MAC", "POD", "ADDRESSES"].map(str::to_owned)];
    for interface in &status.vmi.interfaces {
        let nic = status.nics.iter().find(|nic| nic.name == interface.name);
        let vf = nic.and_then(|nic| nic.vf.as_ref());
        let device = vf.map(|vf| match vf.attached {
            true => vf.address.clone(),
            false => format!("{} (not attached)", vf.address),
        });
        let source = match interface.info_source.strip_prefix("domain, ") {
            Some(source) => format!(" ({source})"),
            None => String::new(),
        };
        let addresses = match interface.ip_addresses.as_slice() {
            [] => "-".to_owned(),
            all => format!("{}{source}", all.join(" ")),
        };
        rows.push([
            interface.name.clone(),
            nic.map(|nic| nic.binding.clone()).unwrap_or_default(),
            interface.link_state.clone(),
            dash(&interface.mac),
            dash(
                &device
                    .or_else(|| interface.pod_interface_name.clone())
                    .unwrap_or_default(),
            ),
            addresses,
        ]);
    }
    columns(out, &rows);
}

fn disks(out: &mut String, status: &Status) {
    let mut rows = vec![["DISK", "SIZE", "TAKEN"].map(str::to_owned)];
    for disk in &status.disks {
        let taken = disk.taken.map_or_else(|| "-".to_owned(), mebibytes);
        rows.push([disk.name.clone(), mebibytes(disk.size), taken]);
    }
    columns(out, &rows);
}

fn migration(out: &mut String, status: &Status) {
    let Some(migration) = &status.migration else {
        return;
    };
    let mut rows = vec![["MIGRATION", "STEP", "SINCE", "ROUNDS", "WHY"].map(str::to_owned)];
    let direction = match migration.direction {
        Direction::Out => "to",
        Direction::In => "at",
    };
    rows.push([
        format!("{direction} {}", migration.address),
        migration.step.name().to_owned(),
        time(migration.since),
        migration
            .rounds
            .map_or_else(|| "-".to_owned(), |rounds| rounds.to_string()),
        dash(migration.why.as_deref().unwrap_or_default()),
    ]);
    columns(out, &rows);
}

fn dash(text: &str) -> String {
    match text {
        "" => "-".to_owned(),
        text => text.to_owned(),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn line(out: &mut String, text: &str) {
    let _ = writeln!(out, "{text}");
}

/// Below an empty line; nothing where there is only the head.
fn columns<const N: usize>(out: &mut String, rows: &[[String; N]]) {
    if rows.len() < 2 {
        return;
    }
    line(out, "");
    for row in rows {
        let mut text = String::new();
        for (at, cell) in row.iter().enumerate() {
            let widest = |row: &[String; N]| row.get(at).map_or(0, |cell| cell.chars().count());
            let width = rows
                .iter()
                .map(widest)
                .max()
                .unwrap_or_default()
                .saturating_add(GAP);
            let _ = write!(text, "{cell:width$}");
        }
        line(out, text.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Facts, Identity, MigrationStatus, NicDescription, Phase, Step};

    #[test]
    fn a_guest_with_a_lease_and_a_migration() {
        let guest = Identity {
            namespace: "vms".into(),
            name: "web".into(),
            uid: None,
        };
        let nic = NicDescription {
            name: "default".into(),
            binding: "masquerade".into(),
            tap: "tap0".into(),
            tap_mac: None,
            mac: "02:00:5e:00:53:07".into(),
            mtu: 1500,
            queue_pairs: 1,
            addresses: vec!["10.0.2.2/24".into()],
            passt: None,
            pod: None,
            addresses_may_change: false,
            vf: None,
        };
        let mut status = Status::new(guest, Phase::Running, 1_700_000_000, vec![nic]);
        status.facts = Facts {
            leased: [("default".to_owned(), vec!["10.0.2.2".parse().unwrap()])].into(),
            pod_interfaces: [("default".to_owned(), "eth0".to_owned())].into(),
            ..Facts::default()
        };
        status.migration = Some(MigrationStatus {
            direction: Direction::Out,
            address: "tcp:b:49152".into(),
            step: Step::Sending,
            since: 1_700_000_009,
            started: 1_700_000_000,
            rounds: Some(2),
            sent: None,
            why: None,
        });
        status.refresh();
        insta::assert_snapshot!(table(&status));
    }

    #[test]
    fn a_guest_that_reports_how_far_it_has_booted() {
        let guest = Identity {
            namespace: "vms".into(),
            name: "web".into(),
            uid: None,
        };
        let mut status = Status::new(guest, Phase::Running, 1_700_000_000, Vec::new());
        let mut shown = |boot: Option<GuestBoot>| {
            status.facts.boot = boot;
            status.refresh();
            table(&status)
        };
        assert!(!shown(None).contains("systemd"), "no virtio socket");
        let nothing = shown(Some(GuestBoot::default()));
        assert!(
            nothing.contains("\nthe guest's systemd has reported nothing\n"),
            "{nothing}"
        );
        let booted = shown(Some(GuestBoot {
            state: BootState::Booted,
            since: 1_700_000_009,
            status: Some("Ready.".into()),
            ..GuestBoot::default()
        }));
        let line = "\nthe guest's systemd: booted since 2023-11-14T22:13:29Z: Ready.\n";
        assert!(booted.contains(line), "{booted}");
    }
}
