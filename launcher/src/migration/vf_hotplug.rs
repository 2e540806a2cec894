//! The guest's VFs while it moves. What a VF is doing is in its card and stays there, so the guest gives its VFs back
//! before the transfer, and gets those of the target's pod once it runs there. Both are hot-plug by ACPI: the guest's
//! kernel is told, and may refuse to let go.
//!
//! Places and what leads from one to the next, without a VMM; [`perform`] asks that one. Three facts of cloud-hypervisor
//! make them more than "has it" and "has it not":
//!
//! - It forgets the device in its configuration at the moment in which it asks the guest, and asks no second time, since
//!   what it does not know cannot be asked for. A guest that lets go late is given its VF again when it does.
//! - So a guest that was asked and starts anew comes up without it, and is given it again then.
//! - What the guest lets go of unasked stays in the configuration, and would be looked for at the target.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::source::Event;
use crate::control::Board;
use crate::error::chain;
use crate::queue::Sink;
use crate::vmm::api::Api;
use crate::vmm::config::DeviceConfig;
use crate::vmm::events::VmmEvent;

/// A transfer that has failed is over for cloud-hypervisor a moment after it has said so.
const STILL_MIGRATING: Duration = Duration::from_secs(10);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The guest has it.
    Attached,
    /// The guest was asked to release it, and has it for all that is known.
    Asked,
    Out,
    /// The VMM is being told to give it to the guest.
    Adding,
    /// The guest unplugged it by itself.
    UnpluggedByGuest,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Vf {
    /// The interface's name, and the device's in the VMM.
    id: String,
    config: Value,
    path: PathBuf,
    place: Place,
}

/// What the VMM is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// Have the guest release it.
    Remove(String),
    Add {
        id: String,
        config: Value,
    },
}

/// How that went.
#[derive(Debug)]
pub(crate) struct Done {
    request: Request,
    result: Result<(), String>,
}

/// All of the guest's VFs.
#[derive(Debug)]
pub(crate) struct VfHotplug {
    list: Vec<Vf>,
    /// The guest is to have them.
    wanted: bool,
}

impl VfHotplug {
    /// `comes`: the guest comes from elsewhere, without them.
    pub(crate) fn new(devices: &[DeviceConfig], comes: bool) -> Self {
        let place = if comes { Place::Out } else { Place::Attached };
        let vf = |device: &DeviceConfig| Vf {
            id: device.id().to_owned(),
            config: serde_json::to_value(device).unwrap_or_default(),
            path: device.path().to_owned(),
            place,
        };
        Self {
            list: devices.iter().map(vf).collect(),
            wanted: !comes,
        }
    }

    /// Why the guest cannot migrate just now.
    pub(crate) fn obstacles(&self) -> Vec<String> {
        let why = |function: &Vf| {
            let why = match function.place {
                Place::Attached | Place::Out => return None,
                Place::Asked => {
                    "an earlier hot-unplug of the VF is still pending, and cloud-hypervisor does not repeat it until the guest \
                     reboots"
                }
                Place::Adding => "the VF is being plugged into the guest",
                Place::UnpluggedByGuest => {
                    "the guest unplugged its VF by itself, and cloud-hypervisor would look for it at the target; the guest has it \
                     again when it has rebooted"
                }
            };
            Some(format!("interface {} (sriov): {why}", function.id))
        };
        self.list.iter().filter_map(why).collect()
    }

    /// The guest is to go without them.
    pub(crate) fn release(&mut self) -> Vec<Request> {
        self.wanted = false;
        let mut requests = Vec::new();
        for function in &mut self.list {
            if function.place == Place::Attached {
                function.place = Place::Asked;
                requests.push(Request::Remove(function.id.clone()));
            }
        }
        requests
    }

    /// The guest is to have them, each as soon as it can.
    pub(crate) fn attach(&mut self) -> Vec<Request> {
        self.wanted = true;
        let mut requests = Vec::new();
        for function in &mut self.list {
            if function.place == Place::Out {
                function.place = Place::Adding;
                requests.push(Request::Add {
                    id: function.id.clone(),
                    config: function.config.clone(),
                });
            }
        }
        requests
    }

    /// Whether the event was about a VF, and what comes of it.
    pub(crate) fn vmm(&mut self, event: &VmmEvent) -> (bool, Vec<Request>) {
        let known = match event.event.as_str() {
            "device-removed" => {
                let properties = event.properties.as_ref();
                let id = properties.and_then(|properties| properties.get("id")?.as_str());
                let function = self
                    .list
                    .iter_mut()
                    .find(|function| Some(function.id.as_str()) == id);
                function.map(Vf::removed).is_some()
            }
            "rebooted" => {
                self.list.iter_mut().for_each(Vf::rebooted);
                false
            }
            _ => return (false, Vec::new()),
        };
        let requests = if self.wanted { self.attach() } else { Vec::new() };
        (known, requests)
    }

    /// What it means for a hand-off, if there is one.
    pub(crate) fn done(&mut self, Done { request, result }: Done) -> Option<Event> {
        let (Request::Remove(id) | Request::Add { id, .. }) = &request;
        let function = self.list.iter_mut().find(|function| function.id == *id)?;
        match (request, result) {
            (Request::Remove(_), Ok(())) => None,
            (Request::Remove(id), Err(why)) => {
                // It may have let go meanwhile.
                if function.place == Place::Asked {
                    function.place = Place::Attached;
                }
                let why = format!("{id}: cloud-hypervisor does not unplug the VF: {why}");
                Some(Event::NotDetached(why))
            }
            (Request::Add { id, .. }, result) => {
                match result {
                    Ok(()) => {
                        tracing::info!(
                            event = "vf-plugged",
                            nic = %id,
                            vf = %name(&function.path),
                            "{id}: the VF {} is plugged into the guest",
                            name(&function.path)
                        );
                        function.place = Place::Attached;
                    }
                    Err(why) => {
                        let vf = name(&function.path);
                        tracing::error!(
                            event = "vf-plug-failed",
                            nic = %id,
                            vf = %vf,
                            "{id}: the VF {vf} cannot be plugged into the guest: {why}"
                        );
                        function.place = Place::Out;
                    }
                }
                self.are_settled().then_some(Event::Attached)
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The guest has none of them, nor does the VMM's configuration.
    pub(crate) fn are_out(&self) -> bool {
        self.list.iter().all(|function| function.place == Place::Out)
    }

    /// Nothing is being added.
    pub(crate) fn are_settled(&self) -> bool {
        self.list.iter().all(|function| function.place != Place::Adding)
    }

    /// Those that the guest has yet to release.
    pub(crate) fn pending(&self) -> String {
        let asked = self.list.iter().filter(|function| function.place == Place::Asked);
        let names: Vec<_> = asked.map(|function| function.id.as_str()).collect();
        names.join(", ")
    }

    pub(crate) fn show(&self, board: &mut Board) {
        for Vf { id, place, .. } in &self.list {
            board.vf(id, matches!(place, Place::Attached | Place::Asked));
        }
    }
}

impl Vf {
    fn removed(&mut self) {
        let vf = name(&self.path);
        self.place = match self.place {
            Place::Asked => {
                tracing::info!(
                    event = "vf-unplugged",
                    nic = %self.id,
                    vf = %vf,
                    "{}: the guest has released the VF {vf}",
                    self.id
                );
                Place::Out
            }
            Place::Attached => {
                tracing::warn!(
                    event = "vf-unplugged-by-guest",
                    nic = %self.id,
                    vf = %vf,
                    "{}: the guest has unplugged the VF {vf} by itself",
                    self.id
                );
                Place::UnpluggedByGuest
            }
            other => other,
        };
    }

    /// The guest has what the VMM's configuration has.
    fn rebooted(&mut self) {
        self.place = match self.place {
            Place::Asked => Place::Out,
            Place::UnpluggedByGuest => Place::Attached,
            other => other,
        };
    }
}

fn name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// Asks the VMM for one after the other, and reports how each went.
pub(crate) fn perform(requests: Vec<Request>, api: &Api, sink: &Sink<Done>) {
    if requests.is_empty() {
        return;
    }
    let (api, sink) = (api.clone(), sink.clone());
    tokio::spawn(async move {
        for request in requests {
            let result = match &request {
                Request::Remove(id) => api.remove_device(id).await.map_err(|error| chain(&error)),
                Request::Add { config, .. } => add(&api, config).await,
            };
            sink.send(Done { request, result }).await;
        }
    });
}

/// Between the event that says that a transfer has failed and the moment in which the VM may be changed again,
/// cloud-hypervisor refuses.
async fn add(api: &Api, config: &Value) -> Result<(), String> {
    let end = Instant::now() + STILL_MIGRATING;
    loop {
        match api.add_device(config).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_migrating() && Instant::now() < end => sleep(BETWEEN_ATTEMPTS).await,
            Err(error) => return Err(chain(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::pci::vfio::Access;

    fn functions(comes: bool) -> VfHotplug {
        let device = |id: &str, address: &str| {
            DeviceConfig::function(id, address.parse().unwrap(), None, Access::Group)
        };
        let devices = [device("red", "0000:01:10.0"), device("blue", "0000:01:10.2")];
        VfHotplug::new(&devices, comes)
    }

    fn event(event: &str, id: &str) -> VmmEvent {
        VmmEvent {
            source: "vm".into(),
            event: event.into(),
            properties: Some(json!({"id": id, "bdf": "0000:00:03.0"})),
        }
    }

    fn done(request: &Request, result: Result<(), &str>) -> Done {
        Done {
            request: request.clone(),
            result: result.map_err(str::to_owned),
        }
    }

    fn removal(id: &str) -> Request {
        Request::Remove(id.into())
    }

    fn addition(id: &str, address: &str) -> Request {
        let path = format!("/sys/bus/pci/devices/{address}");
        Request::Add {
            id: id.into(),
            config: json!({"id": id, "path": path}),
        }
    }

    #[test]
    fn the_guest_lets_go_and_is_given_them_back_where_it_stays() {
        let mut this = functions(false);
        let asked = this.release();
        assert_eq!(asked, [removal("red"), removal("blue")]);
        assert_eq!(this.pending(), "red, blue");
        assert!(this.done(done(&asked[0], Ok(()))).is_none());
        assert_eq!(this.vmm(&event("device-removed", "red")), (true, vec![]));
        assert!(!this.are_out());
        assert_eq!(
            this.vmm(&event("device-removed", "a-disk")),
            (false, vec![]),
            "not a VF"
        );
        assert_eq!(this.vmm(&event("device-removed", "blue")), (true, vec![]));
        assert!(this.are_out() && this.obstacles().is_empty());

        let added = this.attach();
        assert_eq!(
            added,
            [addition("red", "0000:01:10.0"), addition("blue", "0000:01:10.2")]
        );
        assert!(!this.are_settled());
        assert!(this.done(done(&added[0], Ok(()))).is_none());
        assert_eq!(
            this.done(done(&added[1], Err("busy"))),
            Some(Event::Attached),
            "what cannot be had is not waited for"
        );
        assert_eq!(this.release(), [removal("red")], "blue is out already");
    }

    #[test]
    fn one_that_lets_go_late_is_given_its_vf_then() {
        let mut this = functions(false);
        this.release();
        this.vmm(&event("device-removed", "blue"));
        assert_eq!(this.attach(), [addition("blue", "0000:01:10.2")]);
        let obstacles = this.obstacles();
        assert_eq!(obstacles.len(), 2, "{obstacles:?}");
        assert!(
            obstacles[0]
                .starts_with("interface red (sriov): an earlier hot-unplug of the VF is still pending"),
            "{obstacles:?}"
        );
        let late = this.vmm(&event("device-removed", "red"));
        assert_eq!(late, (true, vec![addition("red", "0000:01:10.0")]));
    }

    #[test]
    fn a_guest_that_starts_anew_has_what_the_configuration_has() {
        let mut this = functions(false);
        this.vmm(&event("device-removed", "red"));
        assert!(
            this.obstacles()[0].contains("by itself"),
            "{:?}",
            this.obstacles()
        );
        assert_eq!(this.release(), [removal("blue")], "red is out, unasked");
        assert!(!this.are_out(), "the configuration has red still");
        assert!(
            this.attach().is_empty(),
            "the guest has blue, and did not want red"
        );
        // Red is in the configuration, and blue is not.
        let (_, requests) = this.vmm(&event("rebooted", ""));
        assert_eq!(requests, [addition("blue", "0000:01:10.2")]);
        this.done(done(&requests[0], Ok(())));
        assert!(this.obstacles().is_empty());
        assert_eq!(this.release().len(), 2);
        // In the middle of a hand-off it goes on without them.
        assert_eq!(this.vmm(&event("rebooted", "")), (false, vec![]));
        assert!(this.are_out());
    }

    #[test]
    fn what_the_vmm_does_not_ask_for_stays_and_ends_the_hand_off() {
        let mut this = functions(false);
        let asked = this.release();
        let Some(Event::NotDetached(why)) = this.done(done(&asked[0], Err("HTTP status 500"))) else {
            panic!("not told");
        };
        assert!(why.contains("red: ") && why.contains("HTTP status 500"), "{why}");
        assert!(this.attach().is_empty(), "it has both");
        assert_eq!(this.release(), [removal("red")], "which can be asked for again");
    }

    #[test]
    fn at_the_target_they_come_after() {
        let mut this = functions(true);
        assert!(this.are_out() && this.vmm(&event("rebooted", "")).1.is_empty());
        assert_eq!(this.attach().len(), 2);
        assert!(this.attach().is_empty(), "once");
    }
}
