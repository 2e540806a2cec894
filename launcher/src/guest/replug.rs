//! NICs that cloud-hypervisor has lost and the guest is to lose or to get again.
//!
//! It ends the connection of a vhost-user NIC when it takes the last of the guest's state for a migration, and does not
//! connect again: in a guest that stays, the NIC is dead from then on, until it is unplugged and plugged again.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::daemons::passt;
use crate::error::chain;
use crate::vmm::api::Api;
use crate::vmm::config::VmConfig;
use crate::vmm::events::VmmEvent;

/// Between two tries of a request that cloud-hypervisor does not take yet, and how many there are.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
const MAX_TRIES: u32 = 100;

/// The NICs that are plugged again once they are unplugged.
#[derive(Debug, Default)]
pub(super) struct Replug(BTreeSet<String>);

impl Replug {
    /// The guest stays after a migration that has failed.
    pub(super) fn resume(&mut self, passt: Option<&passt::Handle>, api: &Api) {
        let Some(passt) = passt.cloned() else { return };
        let (nic, disconnected) = (passt.nic().to_owned(), passt.is_let_go());
        tokio::spawn(async move { passt.leave_connections().await });
        if disconnected {
            tracing::warn!(
                event = "nic-replug-started",
                nic = %nic,
                "{nic}: cloud-hypervisor has disconnected the NIC for the migration: it is unplugged from the guest and plugged again"
            );
            self.0.insert(nic.clone());
            tokio::spawn(unplug_after_migration(api.clone(), nic));
        }
    }

    /// A device that is no VF has left the guest.
    pub(super) fn removed(&mut self, event: &VmmEvent, config: &VmConfig, api: &Api) {
        let id = event
            .properties
            .as_ref()
            .and_then(|properties| properties.get("id"));
        let id = id.and_then(Value::as_str).unwrap_or_default();
        if !self.0.remove(id) {
            tracing::warn!(
                event = "device-unplugged",
                device = %id,
                "a device that did not work any more was unplugged from the guest"
            );
            return;
        }
        let config = serde_json::to_value(config).unwrap_or_default();
        let nics = config.get("net").and_then(Value::as_array);
        let is_it = |nic: &&Value| nic.get("id").and_then(Value::as_str) == Some(id);
        if let Some(nic) = nics.and_then(|nics| nics.iter().find(is_it)) {
            tokio::spawn(plug(api.clone(), nic.clone()));
        }
    }
}

/// A NIC that does not work any more is better not there: the guest sees that, and does not wait for answers.
pub(super) async fn unplug(api: Api, nic: String) {
    if let Err(error) = api.remove_device(&nic).await {
        tracing::error!(
            event = "nic-unplug-failed",
            nic = %nic,
            "{nic}: the NIC is down and could not be unplugged: {}",
            chain(&error)
        );
    }
}

/// cloud-hypervisor reports that the transfer has failed a moment before it takes requests for the guest again, and reports
/// nothing then.
async fn unplug_after_migration(api: Api, nic: String) {
    for _ in 1..MAX_TRIES {
        match api.remove_device(&nic).await {
            Ok(()) => return,
            Err(error) => tracing::debug!("{nic}: not yet unplugged: {}", chain(&error)),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
    unplug(api, nic).await;
}

async fn plug(api: Api, nic: Value) {
    match api.add_net(&nic, Vec::new()).await {
        Ok(()) => tracing::info!(event = "nic-plugged", "the NIC is plugged into the guest again"),
        Err(error) => tracing::error!(
            event = "nic-plug-failed",
            "the NIC could not be plugged again: {}",
            chain(&error)
        ),
    }
}
