//! Connections whose peers are not known yet: how many there may be, and which one goes when there are too many.
//!
//! A peer that connects and says nothing costs a descriptor. If there were so many places and no more, whoever takes them all
//! would shut the port. So a newcomer always has a place, and the oldest one of the address that has most makes room: one that
//! has been silent for longer than all others is the least likely to be a launcher's, whose first line comes with the connection.
//! The address of the source that this launcher has begun to take a guest from has places of its own. It may have to come back
//! to say that the guest is ours, and then no crowd must stand in its way.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

/// Those that may wait, `T` being what ends one.
#[derive(Debug)]
pub(super) struct Strangers<T> {
    /// By age.
    waiting: VecDeque<Stranger<T>>,
    /// Of each address. A crowd must not make each of its connections dear.
    counts: BTreeMap<IpAddr, usize>,
    max_total: usize,
    max_per_address: usize,
}

#[derive(Debug)]
struct Stranger<T> {
    key: u64,
    address: IpAddr,
    end: T,
}

impl<T> Strangers<T> {
    pub(super) fn new(max_total: usize, max_per_address: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            counts: BTreeMap::new(),
            max_total,
            max_per_address,
        }
    }

    /// Lets one in, and returns the one that has to go for it.
    pub(super) fn admit(&mut self, key: u64, address: IpAddr, end: T, source: Option<IpAddr>) -> Option<T> {
        self.waiting.push_back(Stranger { key, address, end });
        let count = self.counts.entry(address).or_default();
        *count = count.saturating_add(1);
        if *count > self.max_per_address {
            return self.take(|stranger| stranger.address == address);
        }
        let of_source = source.map_or(0, |source| self.count(source));
        if self.waiting.len().saturating_sub(of_source) <= self.max_total {
            return None;
        }
        let others = self
            .counts
            .iter()
            .filter(|(address, _)| Some(**address) != source);
        let most = others.map(|(_, count)| *count).max()?;
        // Of the addresses that have as many, the one whose oldest has waited longest.
        let crowded = self.waiting.iter().map(|stranger| stranger.address);
        let crowded = crowded
            .filter(|address| Some(*address) != source)
            .find(|address| self.count(*address) == most)?;
        self.take(|stranger| stranger.address == crowded)
    }

    /// One whose peer is known, or that has ended.
    pub(super) fn remove(&mut self, key: u64) -> Option<T> {
        self.take(|stranger| stranger.key == key)
    }

    fn count(&self, address: IpAddr) -> usize {
        self.counts.get(&address).copied().unwrap_or_default()
    }

    /// The oldest that is meant.
    fn take(&mut self, is_meant: impl FnMut(&Stranger<T>) -> bool) -> Option<T> {
        let position = self.waiting.iter().position(is_meant)?;
        let stranger = self.waiting.remove(position)?;
        match self.count(stranger.address) {
            0 | 1 => drop(self.counts.remove(&stranger.address)),
            count => drop(self.counts.insert(stranger.address, count.saturating_sub(1))),
        }
        Some(stranger.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn admit(strangers: &mut Strangers<u64>, key: u64, from: u8) -> Option<u64> {
        strangers.admit(key, address(from), key, Some(address(99)))
    }

    #[test]
    fn the_oldest_of_the_most_crowded_address_makes_room() {
        let mut strangers = Strangers::new(4, 3);
        for key in 0..3 {
            assert_eq!(admit(&mut strangers, key, 1), None);
        }
        assert_eq!(admit(&mut strangers, 3, 1), Some(0), "of one address");
        assert_eq!(admit(&mut strangers, 4, 2), None);
        assert_eq!(admit(&mut strangers, 5, 3), Some(1), "of all");
        assert_eq!(admit(&mut strangers, 6, 4), Some(2));
        // All have one each.
        assert_eq!(admit(&mut strangers, 7, 5), Some(3));
        assert_eq!(admit(&mut strangers, 8, 6), Some(4));
        assert_eq!(strangers.remove(8), Some(8));
        assert_eq!(strangers.remove(8), None);
        assert_eq!(admit(&mut strangers, 9, 7), None);
    }

    #[test]
    fn the_source_has_places_of_its_own() {
        let mut strangers = Strangers::new(4, 3);
        assert_eq!(admit(&mut strangers, 0, 99), None);
        for key in 1..200 {
            let from = u8::try_from(key % 90).unwrap();
            assert_ne!(admit(&mut strangers, key, from), Some(0));
        }
        for key in 200..202 {
            assert_eq!(
                admit(&mut strangers, key, 99),
                None,
                "it takes none of the others'"
            );
        }
        assert_eq!(
            admit(&mut strangers, 202, 99),
            Some(0),
            "and has no more than any address"
        );
        assert_eq!(strangers.waiting.len(), 7);
        let keys: Vec<_> = strangers.waiting.iter().map(|stranger| stranger.key).collect();
        for key in keys {
            assert!(strangers.remove(key).is_some());
        }
        assert!(strangers.counts.is_empty(), "{:?}", strangers.counts);
    }
}
