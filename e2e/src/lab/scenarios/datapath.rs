//! `cargo e2e bench --datapath`: what passes between the node and a real guest, hawser's wiring beside the same by hand.
//!
//! For each binding (`rows`) two pods, both with a guest of the same image and the same processor and memory: in one hawser
//! wires and starts it, in the other a script of `ip` and `nft`, or a passt, and cloud-hypervisor itself (`byhand`). Both
//! guests are there all the time, and are measured in turns; which is first changes with the round. A pair of neighbours
//! in time sees the same node, so the ratio is that of each pair, and its median. The node is emulated: the ratios say
//! something, the figures by themselves do not.

mod byhand;
mod rows;

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::byhand::{ByHand, Vmm};
use self::rows::ROWS;
use super::masquerade::BOOT;
use super::vmi;
use crate::bench::load::{self, MEASURES};
use crate::bench::median;
use crate::lab::events::Event;
use crate::lab::node::pod::{Extra, Pod, Privileges};
use crate::lab::node::{Lab, PAYLOAD};

/// Beside the guest's own image (`GUEST_IMAGE`): the same with the load program in it.
pub(crate) const INITRD: &str = "initrd-load.img";
/// In the payload: an [`Order`].
pub(crate) const ORDER: &str = "bench.json";

/// A binding's rounds end after this, so that all of it ends in time on a machine that is busy; but not before
/// [`LEAST`] of them.
const LIMIT: Duration = Duration::from_secs(100);
const LEAST: usize = 3;

/// What is to be measured.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) rounds: usize,
    pub(crate) ipv6: bool,
    /// None: all of them.
    pub(crate) bindings: Vec<String>,
}

impl Order {
    /// Says what there is where something is asked for that there is not.
    pub(crate) fn check(&self) -> Result<()> {
        for wanted in &self.bindings {
            let Some(row) = ROWS.iter().find(|row| row.binding == wanted) else {
                let all: Vec<_> = ROWS.iter().map(|row| row.binding).collect();
                bail!("no row {wanted}: there are {}", all.join(", "));
            };
            if self.ipv6 && !row.ipv6 {
                bail!("{wanted} passes frames, whatever is in them: there is nothing to measure by IPv6");
            }
        }
        Ok(())
    }

    fn rows(&self) -> impl Iterator<Item = &'static rows::Row> {
        ROWS.iter().filter(|row| {
            (row.ipv6 || !self.ipv6)
                && (self.bindings.is_empty() || self.bindings.iter().any(|name| name == row.binding))
        })
    }
}

pub(crate) fn compare(lab: &Lab) -> Result<()> {
    let order: Order = serde_json::from_slice(&fs::read(Path::new(PAYLOAD).join(ORDER))?)?;
    let say = |text: String| lab.tell(&Event::Line { text });
    say(format!(
        "over IPv{}, medians; the node is emulated, so only the ratios mean anything",
        if order.ipv6 { 6 } else { 4 }
    ));
    say(format!(
        "{:<11} {:<24} {:>9} {:>9} {:>18} {:>7}",
        "binding", "", "by hand", "hawser", "hawser / by hand", "rounds"
    ));
    for row in order.rows() {
        let bench = Bench {
            lab,
            order: &order,
            binding: row.binding,
        };
        let found = (row.measure)(&bench).with_context(|| row.binding.to_owned())?;
        for line in table(row.binding, &found) {
            say(line);
        }
    }
    Ok(())
}

/// A row's surroundings.
struct Bench<'a> {
    lab: &'a Lab,
    order: &'a Order,
    binding: &'static str,
}

/// hawser's side of a row.
struct Ours {
    manifest: Value,
    privileges: Privileges<'static>,
    extra: Extra,
}

/// By hand and hawser's, as everywhere here.
type Pair<T> = [T; 2];

impl Bench<'_> {
    fn pods(&self, sysctls: &[&str]) -> Result<Pair<Pod<'_>>> {
        let pod = |who: &str| Pod::create(self.lab, &format!("{who}-{}", self.binding), sysctls);
        Ok([pod("byhand")?, pod("hawser")?])
    }

    /// The pods' own addresses, of the family that is measured.
    fn addresses(&self, pods: &Pair<Pod<'_>>) -> Pair<IpAddr> {
        pods.each_ref().map(|pod| {
            if self.order.ipv6 {
                pod.ipv6.into()
            } else {
                pod.ipv4.into()
            }
        })
    }

    /// Boots both guests and measures them where they are reached.
    fn compare(
        &self,
        pods: &Pair<Pod<'_>>,
        by_hand: &ByHand,
        mut ours: Ours,
        guests: Pair<IpAddr>,
    ) -> Result<Vec<Pair<[f64; 4]>>> {
        let [theirs, own] = pods;
        let initrd = "/spec/domain/firmware/kernelBoot/container/initrdPath";
        vmi::set(&mut ours.manifest, initrd, json!(format!("/{INITRD}")));
        own.set_manifest(&ours.manifest)?;
        self.lab.step(format!("{}: booting both guests", self.binding));
        let launcher = own.launch_with("run", ours.privileges, &ours.extra)?;
        let vmm = Vmm::boot(theirs, by_hand)?;
        vmm.console.wait_for("guest: ready", BOOT).context("by hand")?;
        launcher
            .console
            .wait_for("guest: ready", BOOT)
            .context("hawser's")?;
        for guest in guests {
            load::wait_for(guest, BOOT)?;
        }

        let mut found = Vec::new();
        let started = Instant::now();
        // The first finds cold caches, and is not counted.
        for round in 0..=self.order.rounds {
            if found.len() > LEAST && started.elapsed() > LIMIT {
                break;
            }
            self.lab.step(format!(
                "{}: round {round} of {}",
                self.binding, self.order.rounds
            ));
            let [theirs, ours] = guests;
            let pair = if round % 2 == 0 {
                let theirs = load::measure(theirs).context("by hand")?;
                [theirs, load::measure(ours).context("hawser's")?]
            } else {
                let ours = load::measure(ours).context("hawser's")?;
                [load::measure(theirs).context("by hand")?, ours]
            };
            found.push(pair);
        }
        found.remove(0);
        Ok(found)
    }
}

fn table(binding: &str, rounds: &[Pair<[f64; 4]>]) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, what) in MEASURES.iter().enumerate() {
        let of = |values: &[f64; 4]| values.get(index).copied().unwrap_or(f64::NAN);
        let mut theirs: Vec<_> = rounds.iter().map(|[theirs, _]| of(theirs)).collect();
        let mut ours: Vec<_> = rounds.iter().map(|[_, ours]| of(ours)).collect();
        let mut ratios: Vec<_> = rounds
            .iter()
            .map(|[theirs, ours]| of(ours) / of(theirs))
            .collect();
        let ratio = median(&mut ratios);
        let span = ratios.first().zip(ratios.last());
        let span = span.map_or_else(String::new, |(low, high)| format!("({low:.2}-{high:.2})"));
        lines.push(format!(
            "{binding:<11} {what:<24} {:>9.1} {:>9.1} {ratio:>5.2} {span:<12} {:>7}",
            median(&mut theirs),
            median(&mut ours),
            rounds.len()
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_each_pair_and_its_median() {
        // A node that gets slower: the medians by themselves would say that the two are the same.
        let rounds =
            [(100.0, 50.0), (50.0, 50.0), (40.0, 10.0)].map(|(theirs, ours)| [[theirs; 4], [ours; 4]]);
        let lines = table("bridge", &rounds);
        assert_eq!(lines.len(), 4);
        let words: Vec<_> = lines[0].split_whitespace().collect();
        assert_eq!(
            words,
            [
                "bridge",
                "to",
                "the",
                "guest,",
                "Mbit/s",
                "50.0",
                "50.0",
                "0.50",
                "(0.25-1.00)",
                "3"
            ]
        );
    }

    #[test]
    fn a_row_that_is_not_there_is_refused_with_those_that_are() {
        let order = |binding: &str, ipv6| Order {
            rounds: 1,
            ipv6,
            bindings: vec![binding.to_owned()],
        };
        let error = order("slirp", false).check().unwrap_err().to_string();
        assert!(
            error.contains("slirp") && error.contains("masquerade, bridge"),
            "{error}"
        );
        assert!(order("sriov", true).check().is_err());
        order("sriov", false).check().unwrap();
        order("passt", true).check().unwrap();
    }
}
