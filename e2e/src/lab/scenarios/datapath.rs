//! `cargo e2e bench --datapath`: what passes between the node and a real guest, hawser's wiring beside the same by hand.
//!
//! For each binding (`rows`) two pods, both with a guest of the same image and the same processor and memory: in one hawser
//! wires and starts it, in the other a script of `ip` and `nft`, or a passt, and cloud-hypervisor itself (`byhand`). Both
//! guests are there all the time, and do the same small pieces of work in turns; which is first changes with the round. The
//! node is emulated: the ratios say something, the figures by themselves do not.

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
use crate::bench::load::{self, MEASURES, Measure};
use crate::lab::events::Event;
use crate::lab::node::pod::{Extra, Pod, Privileges};
use crate::lab::node::{Lab, PAYLOAD};

/// Beside the guest's own image (`GUEST_IMAGE`): the same with the load program in it.
pub(crate) const INITRD: &str = "initrd-load.img";
/// In the payload: an [`Order`].
pub(crate) const ORDER: &str = "bench.json";

/// A binding's rounds end after this, so that all of it ends in time on a machine that is busy; but not before
/// [`LEAST`] of them.
const LIMIT: Duration = Duration::from_secs(90);
const LEAST: usize = 5;

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
        "over IPv{}; the node is emulated, so only the ratios mean anything",
        if order.ipv6 { 6 } else { 4 }
    ));
    say(format!(
        "{:<11} {:<24} {:>9} {:>9} {:>6} {:>7} {:<11} {:>6}",
        "binding", "the best of each", "by hand", "hawser", "ratio", "of pairs", "(middle half)", "rounds"
    ));
    let mut failed = Vec::new();
    for row in order.rows() {
        let bench = Bench {
            lab,
            order: &order,
            binding: row.binding,
        };
        match (row.measure)(&bench) {
            Ok(rounds) => table(row.binding, &rounds).into_iter().for_each(&say),
            // The others may do nevertheless.
            Err(error) => {
                say(format!("{:<11} no figures", row.binding));
                failed.push(format!("{}: {error:#}", row.binding));
            }
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
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
    ) -> Result<Vec<Round>> {
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

        let mut rounds = Vec::new();
        let started = Instant::now();
        // The first finds cold caches, and is not counted.
        for round in 0..=self.order.rounds {
            if rounds.len() > LEAST && started.elapsed() > LIMIT {
                break;
            }
            self.lab.step(format!(
                "{}: round {round} of {}",
                self.binding, self.order.rounds
            ));
            let mut pairs = Vec::new();
            for measure in &MEASURES {
                pairs.push(pair(measure, guests, round % 2 == 0)?);
            }
            rounds.push(pairs);
        }
        rounds.remove(0);
        Ok(rounds)
    }
}

/// One after the other; `by_hand` says whose turn it is first.
fn pair(measure: &Measure, [theirs, ours]: Pair<IpAddr>, by_hand: bool) -> Result<Pair<f64>> {
    let theirs = || measure.take(theirs).context("by hand");
    let ours = || measure.take(ours).context("hawser's");
    Ok(if by_hand {
        [theirs()?, ours()?]
    } else {
        let ours = ours()?;
        [theirs()?, ours]
    })
}

/// In the order of [`MEASURES`].
type Round = Vec<Pair<f64>>;

/// A line for each measure. Whatever else the machine does makes a figure smaller, never greater: so the best of each
/// side is the least disturbed.
fn table(binding: &str, rounds: &[Round]) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, measure) in MEASURES.iter().enumerate() {
        let pairs: Vec<_> = rounds.iter().filter_map(|round| round.get(index)).collect();
        let best = |side: fn(&Pair<f64>) -> f64| pairs.iter().map(|pair| side(pair)).fold(0.0, f64::max);
        let (theirs, ours) = (best(|[theirs, _]| *theirs), best(|[_, ours]| *ours));
        let mut ratios: Vec<_> = pairs.iter().map(|[theirs, ours]| ours / theirs).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |quarters: usize| ratios.get((ratios.len() - 1) * quarters / 4).copied();
        let [low, middle, high] = [1, 2, 3].map(|quarters| at(quarters).unwrap_or(f64::NAN));
        lines.push(format!(
            "{binding:<11} {:<24} {theirs:>9.1} {ours:>9.1} {:>6.2} {middle:>7.2} {:<11} {:>6}",
            measure.name,
            ours / theirs,
            format!("({low:.2}-{high:.2})"),
            pairs.len()
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_of_the_best_and_the_median_of_each_pairs() {
        let pairs = [
            (100.0, 50.0),
            (50.0, 50.0),
            (40.0, 10.0),
            (40.0, 20.0),
            (80.0, 60.0),
        ];
        let rounds = pairs.map(|(theirs, ours)| vec![[theirs, ours]; MEASURES.len()]);
        let lines = table("bridge", &rounds);
        assert_eq!(lines.len(), 4);
        let line = lines[0].split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            line,
            "bridge to the guest, Mbit/s 100.0 60.0 0.60 0.50 (0.50-0.75) 5"
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
