//! Which scenarios a run is of, how many nodes they need, and how much time.

use std::time::Duration;

use super::GROUP;
use super::api::Cluster;
use super::scenarios::{API, BETWEEN_NODES, LONGER, LONGER_BETWEEN_NODES, MAIN, USUAL};
use crate::report::{Scenario, is_selected};

/// What the first scenario waits for on a machine half as fast as the one that the limits are written for: Kubernetes is built.
const CONTROL_PLANE: Duration = Duration::from_secs(600);
/// The same with nodes, which have to boot, and with time for a scenario or two.
const NODES: Duration = Duration::from_secs(1200);

/// Which scenarios are chosen from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// What `cargo e2e test` runs.
    Main,
    Usual,
    /// The longer set too.
    All,
}

/// What a run is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order<'a> {
    pub(crate) set: Set,
    /// Any of them selects; none: all of the set.
    pub(crate) filters: &'a [String],
    /// No more nodes than this.
    pub(crate) nodes: Option<usize>,
}

/// A scenario, and how many nodes it needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chosen {
    pub(super) scenario: &'static Scenario<Cluster>,
    pub(super) nodes: usize,
}

impl Chosen {
    pub(super) fn name(&self) -> &'static str {
        self.scenario.name
    }

    /// Why it is not begun with so much time left, if it is not.
    pub(super) fn too_late(&self, left: Option<Duration>) -> Option<String> {
        let takes = if self.nodes == 0 { CONTROL_PLANE } else { NODES };
        let left = left.filter(|left| *left < takes)?;
        Some(format!(
            "{} s are left of --within, and it may take {} s until it ends where nothing is built yet",
            left.as_secs(),
            takes.as_secs()
        ))
    }
}

impl Order<'_> {
    /// In the order in which they are run: those that need fewest nodes first.
    pub(super) fn chosen(&self) -> Vec<Chosen> {
        let lists = [
            (API, 0),
            (USUAL, 1),
            (BETWEEN_NODES, 2),
            (LONGER, 1),
            (LONGER_BETWEEN_NODES, 2),
        ];
        let named = |name: &str| self.filters.iter().any(|f| is_selected(GROUP, name, Some(f)));
        lists
            .into_iter()
            .flat_map(|(list, nodes)| list.iter().map(move |scenario| Chosen { scenario, nodes }))
            .filter(|one| {
                let mut longer = LONGER.iter().chain(LONGER_BETWEEN_NODES);
                let is_longer = longer.any(|scenario| scenario.name == one.name());
                match self.set {
                    Set::Main => MAIN.contains(&one.name()) && (self.filters.is_empty() || named(one.name())),
                    _ if !self.filters.is_empty() => named(one.name()),
                    Set::Usual => !is_longer,
                    Set::All => true,
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(set: Set, filters: &[&str]) -> Vec<&'static str> {
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let order = Order {
            set,
            filters: &filters,
            nodes: None,
        };
        order.chosen().iter().map(Chosen::name).collect()
    }

    #[test]
    fn each_set_is_within_the_next() {
        let [main, usual, all] = [Set::Main, Set::Usual, Set::All].map(|set| names(set, &[]));
        assert!(main.len() < usual.len() && usual.len() < all.len());
        assert_eq!(main.len(), MAIN.len(), "a name that is no scenario's: {MAIN:?}");
        for (less, more) in [(&main, &usual), (&usual, &all)] {
            assert!(less.iter().all(|name| more.contains(name)), "{less:?} {more:?}");
        }
        let different: BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "two of one name: {all:?}");
    }

    #[test]
    fn a_word_selects_from_the_longer_set_too() {
        let longer = LONGER[0].name;
        assert!(!names(Set::Usual, &[]).contains(&longer));
        assert_eq!(names(Set::Usual, &[longer]), [longer]);
        assert_eq!(names(Set::Main, &[longer]), [""; 0]);
    }

    #[test]
    fn what_takes_longer_than_there_is_time_is_not_begun() {
        let of = |nodes| Chosen {
            scenario: &API[0],
            nodes,
        };
        let left = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(of(1).too_late(None), None);
        assert_eq!(of(1).too_late(left(1200)), None);
        assert!(of(1).too_late(left(1199)).is_some());
        assert_eq!(of(0).too_late(left(1199)), None);
        let reason = of(0).too_late(left(9)).unwrap_or_default();
        assert!(reason.starts_with("9 s are left of --within"), "{reason}");
    }

    #[test]
    fn fewer_nodes_come_first() {
        let order = Order {
            set: Set::Usual,
            filters: &[],
            nodes: None,
        };
        let nodes: Vec<usize> = order.chosen().iter().map(|one| one.nodes).collect();
        assert!(nodes.is_sorted(), "{nodes:?}");
        assert_eq!((nodes.first(), nodes.last()), (Some(&0), Some(&2)));
    }
}
