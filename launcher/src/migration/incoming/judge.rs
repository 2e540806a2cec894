//! What a target makes of a source's request: whether the guest can come, and what of it comes along.

use super::Incoming;
use crate::daemons::passt;
use crate::migration::describe::{reasons, same_pod_addresses};
use crate::migration::disk_copy::Receiver;
use crate::migration::disks::copied;
use crate::migration::message::Prepare;
use crate::migration::target::Event;
use crate::migration::tls::Security;
use crate::migration::{said, session_certs};
use crate::status::NicDescription;

impl Incoming {
    /// For the disks that the source copies, in its order. They have been compared.
    pub(super) fn receiver(&self, prepare: &Prepare) -> Receiver {
        let ours = copied(self.comparison.disks());
        let theirs = prepare.description.disks.iter().filter(|disk| disk.copied);
        let here = theirs.filter_map(|disk| ours.iter().find(|own| own.name == disk.name));
        Receiver::new(here.cloned().collect())
    }

    /// A VMM that runs the guest before its disks are here would run another guest.
    pub(super) fn with_its_disks(&self, event: Event) -> Event {
        match event {
            Event::Resumed if !self.disks.is_complete() => Event::VmmFailed(
                "cloud-hypervisor ran the guest before all of its disks were here".to_owned(),
            ),
            other => other,
        }
    }

    pub(super) fn judge(&self, prepare: &Prepare, problems: Vec<String>, waits: bool) -> Vec<String> {
        let mut all = problems;
        all.extend(reasons(prepare.version, &prepare.description, &self.own));
        match (&self.listener.security, &prepare.credentials) {
            (Security::Tls(_), Some(credentials)) if all.is_empty() && waits => {
                if let Err(error) = session_certs::accept(&self.vmm_dir, credentials) {
                    all.push(format!(
                        "the target cannot keep this migration's certificates: {error}"
                    ));
                }
            }
            (Security::Tls(_), None) => all.push("the source wants plain TCP, the target TLS".into()),
            (Security::Plain, Some(_)) => all.push("the source wants TLS, the target plain TCP".into()),
            _ => {}
        }
        said::reasons(all)
    }

    /// What serves this NIC here, where passt does.
    pub(super) fn passt_of(&self, nic: &NicDescription) -> Option<&passt::Handle> {
        self.passt.as_ref().filter(|passt| passt.nic() == nic.name)
    }

    /// Of these NICs at the source, those whose connections can go on here.
    pub(super) fn take_connections(&self, theirs: &[NicDescription]) -> Vec<String> {
        let here = |nic: &&NicDescription| {
            let takes = self.passt_of(nic).is_some_and(passt::Handle::keeps_connections);
            let ours = self.own.nics.iter().find(|ours| ours.name == nic.name);
            takes && ours.is_some_and(|ours| same_pod_addresses(nic, ours))
        };
        theirs.iter().filter(here).map(|nic| nic.name.clone()).collect()
    }
}
