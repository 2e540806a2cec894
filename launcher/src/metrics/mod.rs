//! The guest as numbers: what `GET /v1/metrics` of the control socket answers, and with `--metrics` whoever asks at the pod's port
//! 49154. The names are KubeVirt's where it has one (docs/operate.md lists all).
//!
//! Nothing is counted here but what the launcher counts anyway. The rest is read when somebody asks: from /proc, and from the
//! VMM, which counts what its devices carry.

mod proc;
mod text;

use std::collections::BTreeMap;

use serde_json::Value;

use self::proc::Process;
use self::text::{Kind, Text};
use crate::status::{Phase, Status, Step};

/// The content type of the text.
pub(crate) const CONTENT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that is told.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) status: Status,
    /// By interface and the name of the event.
    pub(crate) dhcp: Vec<(String, &'static str, u64)>,
    /// How often each event was logged, by its name.
    pub(crate) logged: BTreeMap<String, u64>,
    /// Of the VMM, while it runs.
    pub(crate) vmm: Option<u32>,
    /// What its devices carried, by device; none while it does not say.
    pub(crate) counters: Option<Value>,
}

type Labels<'a> = Vec<(&'a str, &'a str)>;

impl Snapshot {
    pub(crate) fn text(&self) -> String {
        let guest = &self.status.guest;
        let mut text = Text::new(&[("namespace", &guest.namespace), ("name", &guest.name)]);
        self.state(&mut text);
        self.vmm(&mut text);
        self.network(&mut text);
        self.storage(&mut text);
        self.migration(&mut text);
        self.launcher(&mut text);
        text.end()
    }

    fn state(&self, text: &mut Text) {
        let phase = vec![("phase", self.status.vmi.phase.as_str())];
        text.family(
            "kubevirt_vmi_info",
            Kind::Gauge,
            "Always 1; the phase is KubeVirt's.",
            [(phase, 1.0)],
        );
        let states = Phase::ALL.map(|phase| {
            let value = if phase == self.status.state { 1.0 } else { 0.0 };
            (vec![("state", phase.name())], value)
        });
        text.family(
            "hawser_guest_state",
            Kind::Gauge,
            "1 for the state that the guest is in, 0 for the others.",
            states,
        );
        text.family(
            "hawser_guest_state_start_time_seconds",
            Kind::Gauge,
            "When the guest's state began, in seconds since 1970, UTC.",
            [(vec![], number(self.status.since))],
        );
    }

    fn vmm(&self, text: &mut Text) {
        let Some(vmm) = self.vmm.and_then(Process::read) else {
            return;
        };
        text.family(
            "kubevirt_vmi_memory_resident_bytes",
            Kind::Gauge,
            "Resident memory of the VMM, with what the guest has touched of its own.",
            [(vec![], number(vmm.resident))],
        );
        for (name, help, value) in [
            (
                "kubevirt_vmi_cpu_usage_seconds_total",
                "CPU time of the VMM and its vCPUs.",
                vmm.user + vmm.system,
            ),
            (
                "kubevirt_vmi_cpu_user_usage_seconds_total",
                "CPU time of the VMM and its vCPUs in user mode.",
                vmm.user,
            ),
            (
                "kubevirt_vmi_cpu_system_usage_seconds_total",
                "CPU time of the VMM and its vCPUs in the kernel.",
                vmm.system,
            ),
        ] {
            text.family(name, Kind::Counter, help, [(vec![], value)]);
        }
        let vcpus = vmm.vcpus();
        text.family(
            "kubevirt_vmi_vcpu_seconds_total",
            Kind::Counter,
            "CPU time of each vCPU.",
            vcpus
                .iter()
                .map(|(id, seconds)| (vec![("id", id.as_str()), ("state", "running")], *seconds)),
        );
    }

    /// The counters of one kind of device, by what hawser calls the device.
    fn carried<'a>(
        &'a self,
        label: &'a str,
        prefix: &'a str,
        counter: &'a str,
    ) -> impl Iterator<Item = (Labels<'a>, f64)> {
        let devices = self.counters.as_ref().and_then(Value::as_object);
        devices.into_iter().flatten().filter_map(move |(id, counters)| {
            let name = id.strip_prefix(prefix)?;
            let value = counters.get(counter)?.as_u64()?;
            Some((vec![(label, name)], number(value)))
        })
    }

    fn network(&self, text: &mut Text) {
        for (name, counter, help) in [
            ("receive_bytes", "rx_bytes", "Bytes that the guest received."),
            ("receive_packets", "rx_frames", "Frames that the guest received."),
            ("transmit_bytes", "tx_bytes", "Bytes that the guest sent."),
            ("transmit_packets", "tx_frames", "Frames that the guest sent."),
        ] {
            let name = format!("kubevirt_vmi_network_{name}_total");
            text.family(&name, Kind::Counter, help, self.carried("interface", "", counter));
        }
        let dropped = proc::dropped();
        let taps = || {
            self.status
                .nics
                .iter()
                .filter_map(|nic| Some((nic.name.as_str(), dropped.get(&nic.tap)?)))
        };
        text.family(
            "kubevirt_vmi_network_receive_packets_dropped_total",
            Kind::Counter,
            "Frames for the guest that its TAP dropped, because the guest did not take them.",
            taps().map(|(name, dropped)| (vec![("interface", name)], number(dropped.sent))),
        );
        text.family(
            "kubevirt_vmi_network_transmit_packets_dropped_total",
            Kind::Counter,
            "Frames of the guest that the pod's kernel dropped at its TAP.",
            taps().map(|(name, dropped)| (vec![("interface", name)], number(dropped.received))),
        );
        text.family(
            "hawser_dhcp_events_total",
            Kind::Counter,
            "Messages of the guest to hawser's DHCP and RA server, by what came of them (docs/events.md).",
            self.dhcp.iter().map(|(interface, event, count)| {
                (
                    vec![("interface", interface.as_str()), ("event", *event)],
                    number(*count),
                )
            }),
        );
    }

    fn storage(&self, text: &mut Text) {
        for (name, counter, help) in [
            (
                "read_traffic_bytes",
                "read_bytes",
                "Bytes that the guest read of a disk.",
            ),
            (
                "write_traffic_bytes",
                "write_bytes",
                "Bytes that the guest wrote to a disk.",
            ),
            ("iops_read", "read_ops", "Reads of a disk."),
            ("iops_write", "write_ops", "Writes to a disk."),
        ] {
            let name = format!("kubevirt_vmi_storage_{name}_total");
            text.family(
                &name,
                Kind::Counter,
                help,
                self.carried("drive", "disk.", counter),
            );
        }
    }

    fn migration(&self, text: &mut Text) {
        let Some(migration) = self
            .status
            .migration
            .as_ref()
            .filter(|one| one.step != Step::Waiting)
        else {
            return;
        };
        let ended = migration.step.is_end();
        let succeeded = migration.step == Step::Migrated;
        let flag = |value: bool| if value { 1.0 } else { 0.0 };
        for (name, help, value) in [
            (
                "kubevirt_vmi_migration_start_time_seconds",
                "When the last migration began, in seconds since 1970, UTC.",
                Some(number(migration.started)),
            ),
            (
                "kubevirt_vmi_migration_end_time_seconds",
                "When the last migration ended, in seconds since 1970, UTC.",
                ended.then(|| number(migration.since)),
            ),
            (
                "kubevirt_vmi_migration_succeeded",
                "1 if the last migration succeeded.",
                ended.then(|| flag(succeeded)),
            ),
            (
                "kubevirt_vmi_migration_failed",
                "1 if the last migration failed.",
                ended.then(|| flag(!succeeded)),
            ),
            (
                "kubevirt_vmi_migration_data_processed_bytes",
                "Bytes of the guest's memory and state that were sent, as of the last round.",
                migration.sent.map(number),
            ),
            (
                "hawser_migration_rounds",
                "Rounds over the guest's memory of the last migration.",
                migration.rounds.map(number),
            ),
        ] {
            text.family(name, Kind::Gauge, help, value.map(|value| (vec![], value)));
        }
    }

    fn launcher(&self, text: &mut Text) {
        let logged = |name: &str| number(self.logged.get(name).copied().unwrap_or_default());
        for (name, event, help) in [
            (
                "hawser_passt_restarts_total",
                "passt-restarted",
                "Times that passt was restarted.",
            ),
            (
                "hawser_virtiofsd_exits_total",
                "virtiofsd-exited",
                "Times that a virtiofsd exited while the guest used it; it is restarted when the guest reboots.",
            ),
        ] {
            text.family(name, Kind::Counter, help, [(vec![], logged(event))]);
        }
        text.family(
            "hawser_events_total",
            Kind::Counter,
            "Events that the launcher logged, by name (docs/events.md).",
            self.logged
                .iter()
                .map(|(name, count)| (vec![("event", name.as_str())], number(*count))),
        );
        let Some(own) = Process::read(std::process::id()) else {
            return;
        };
        text.family(
            "process_cpu_seconds_total",
            Kind::Counter,
            "CPU time of hawser's supervisor.",
            [(vec![], own.user + own.system)],
        );
        text.family(
            "process_resident_memory_bytes",
            Kind::Gauge,
            "Resident memory of hawser's supervisor.",
            [(vec![], number(own.resident))],
        );
    }
}

/// Exact up to 2^53, as everything in Prometheus.
#[allow(clippy::cast_precision_loss)]
fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests;
