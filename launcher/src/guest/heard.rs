//! What the guest has asked of the DHCP and RA servers, and was granted: for `hawser status` and the metrics. The servers are
//! tasks of the supervisor's own thread, so the lock is never waited for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hawser_dhcp::{Dhcp4, Dhcp4Outcome, Dhcp6Outcome, Event};

#[derive(Debug, Clone, Default)]
pub(super) struct Heard(Arc<Mutex<BTreeMap<String, Nic>>>);

#[derive(Debug, Default)]
struct Nic {
    leased: Vec<IpAddr>,
    /// By the event's name, which says the protocol and the result.
    events: BTreeMap<&'static str, u64>,
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Nic>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, interface: &str, event: &Event) {
        let mut all = self.lock();
        let nic = all.entry(interface.to_owned()).or_default();
        let count = match event {
            Event::Throttled { frames } => *frames,
            _ => 1,
        };
        let events = nic.events.entry(event.name()).or_default();
        *events = events.saturating_add(count);
        match event {
            Event::Dhcp4 {
                request,
                outcome: Dhcp4Outcome::Acknowledged(Some(address)),
                ..
            } if *request != Dhcp4::Inform => nic.grant((*address).into()),
            Event::Dhcp6 {
                outcome: Dhcp6Outcome::Replied(Some(address)),
                ..
            } => nic.grant((*address).into()),
            Event::Dhcp4 {
                outcome: Dhcp4Outcome::Released(_) | Dhcp4Outcome::Declined(_),
                ..
            } => nic.leased.retain(IpAddr::is_ipv6),
            Event::Dhcp6 {
                outcome: Dhcp6Outcome::Released | Dhcp6Outcome::Declined,
                ..
            } => nic.leased.retain(IpAddr::is_ipv4),
            _ => {}
        }
    }

    /// A guest that boots again has no lease until it asks.
    pub(super) fn rebooted(&self) {
        for nic in self.lock().values_mut() {
            nic.leased.clear();
        }
    }

    /// How often each event was, by interface.
    pub(super) fn counts(&self) -> Vec<(String, &'static str, u64)> {
        let all = self.lock();
        let counts = |(name, nic): (&String, &Nic)| {
            let name = name.clone();
            let counts: Vec<_> = nic.events.iter().map(|(event, count)| (*event, *count)).collect();
            counts
                .into_iter()
                .map(move |(event, count)| (name.clone(), event, count))
        };
        all.iter().flat_map(counts).collect()
    }

    pub(super) fn leased(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let leased = |(name, nic): (&String, &Nic)| (name.clone(), nic.leased.clone());
        self.lock().iter().map(leased).collect()
    }
}

impl Nic {
    /// IPv4 first.
    fn grant(&mut self, address: IpAddr) {
        self.leased.retain(|other| other.is_ipv4() != address.is_ipv4());
        self.leased.push(address);
        self.leased.sort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(request: Dhcp4, outcome: Dhcp4Outcome) -> Event {
        Event::Dhcp4 {
            request,
            outcome,
            hostname: None,
            vendor: None,
        }
    }

    #[test]
    fn a_lease_is_what_was_acknowledged_until_it_is_released_or_the_guest_reboots() {
        let heard = Heard::default();
        let leased = || heard.leased().remove("default").unwrap_or_default();
        let address = "10.0.2.2".parse().unwrap();
        heard.note("default", &v4(Dhcp4::Discover, Dhcp4Outcome::Offered(address)));
        assert!(leased().is_empty(), "only offered");
        let granted = v4(Dhcp4::Selecting, Dhcp4Outcome::Acknowledged(Some(address)));
        heard.note("default", &granted);
        let six = "fd10:0:2::2".parse().unwrap();
        let outcome = Dhcp6Outcome::Replied(Some(six));
        let request = hawser_dhcp::Dhcp6::Request;
        heard.note("default", &Event::Dhcp6 { request, outcome });
        assert_eq!(leased(), [IpAddr::from(address), six.into()]);
        heard.note("default", &v4(Dhcp4::Release, Dhcp4Outcome::Released(address)));
        assert_eq!(leased(), [IpAddr::from(six)]);
        heard.note("default", &granted);
        heard.rebooted();
        assert!(leased().is_empty());
    }
}
