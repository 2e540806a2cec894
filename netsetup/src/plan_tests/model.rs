//! A kernel as far as plans know it, and what holds whatever was there before and wherever a start was killed.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What can be seen, and what the plan takes the mark's word for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    pub(super) observed: Observed,
    tables: Option<serde_json::Value>,
    neighbours: BTreeSet<(String, IpAddr, Mac)>,
    loopback_routes: BTreeSet<String>,
}

impl Model {
    pub(super) fn new(observed: Observed) -> Self {
        Self {
            observed,
            tables: None,
            neighbours: BTreeSet::new(),
            loopback_routes: BTreeSet::new(),
        }
    }

    pub(super) fn apply(&mut self, plan: &Plan) {
        plan.steps.iter().for_each(|step| self.perform(step));
    }

    fn link(&mut self, name: &str) -> &mut Link {
        link(&mut self.observed, name)
    }

    fn perform(&mut self, step: &Step) {
        match step {
            Step::Tap(tap) => self.tap(tap),
            Step::AddAddress { link, ip, prefix_len } => {
                let link = self.link(link);
                assert!(
                    ip.is_ipv4() || link.mtu >= 1280,
                    "the kernel has no IPv6 on such a link"
                );
                let address = Address {
                    ip: *ip,
                    prefix_len: *prefix_len,
                };
                if !link.addresses.contains(&address) {
                    link.addresses.push(address);
                    link.addresses.sort_by_key(|address| address.ip);
                }
            }
            Step::Neighbour { link, ip, mac } => {
                self.link(link);
                self.neighbours.retain(|(l, i, _)| (l, i) != (link, ip));
                self.neighbours.insert((link.clone(), *ip, *mac));
            }
            Step::LoopbackRoute { link } => {
                self.link(link);
                self.loopback_routes.insert(link.clone());
            }
            Step::Ruleset { document } => {
                for command in document["nftables"].as_array().unwrap() {
                    if let Some(device) = command["add"]["chain"]["dev"].as_str() {
                        self.link(device);
                    }
                }
                self.tables = Some((**document).clone());
            }
            Step::Ipv4Forwarding { link } => {
                assert!(
                    self.tables.is_some(),
                    "nothing is forwarded before the rules are there"
                );
                self.link(link).devconf.forwarding = true;
            }
            Step::Sysctl { path, value } => {
                assert!(
                    self.tables.is_some(),
                    "nothing is forwarded before the rules are there"
                );
                self.sysctl(path, value);
            }
            Step::Bridge(_) | Step::Port(_) => panic!("no bridge in this model"),
            Step::Mark { link, alias } => self.link(link).alias = Some(alias.clone()),
        }
    }

    fn tap(&mut self, tap: &TapStep) {
        if tap.replace {
            self.delete(&tap.name);
        }
        if self.observed.link(&tap.name).is_none() {
            self.observed.links.push(Link {
                name: tap.name.clone(),
                kind: Some("tun".into()),
                tap: Some(TapFacts {
                    multi_queue: tap.multi_queue,
                    persistent: true,
                    ..TapFacts::default()
                }),
                ..Link::default()
            });
            self.observed.links.sort_by(|a, b| a.name.cmp(&b.name));
        }
        let link = self.link(&tap.name);
        let facts = link.tap.as_mut().unwrap();
        assert_eq!(facts.multi_queue, tap.multi_queue, "the kernel: EINVAL");
        facts.owner = Some(tap.owner.uid);
        facts.group = Some(tap.owner.gid);
        link.alias = Some(tap.alias.clone());
        link.mac = Some(tap.mac);
        link.mtu = tap.mtu;
        link.up = true;
        if tap.gateway {
            link.devconf = Devconf {
                forwarding: true,
                route_localnet: true,
            };
        }
    }

    fn delete(&mut self, name: &str) {
        self.observed.links.retain(|link| link.name != name);
        self.neighbours.retain(|(link, ..)| link != name);
        self.loopback_routes.remove(name);
    }

    fn sysctl(&mut self, path: &str, value: &str) {
        let forwarding = path == IPV6_FORWARDING;
        let sysctl = if forwarding {
            self.observed.ipv6_forwarding.as_mut()
        } else {
            let name = path.split('/').rev().nth(1).unwrap();
            self.link(name).accept_ra.as_mut()
        };
        let sysctl = sysctl.unwrap();
        assert!(sysctl.writable, "the kernel: EROFS");
        sysctl.value = value.into();
        if forwarding && value == "1" {
            for link in &mut self.observed.links {
                link.default_route_by_ra &= link.accept_ra.as_ref().is_some_and(|accept| accept.value == "2");
            }
        }
    }

    fn take_back(&mut self, journal: &Journal) {
        for undo in journal.undo.iter().rev() {
            match undo {
                Undo::DeleteLink { link } => self.delete(link),
                Undo::DeleteTables => self.tables = None,
                Undo::Ipv4Forwarding { link, value } => self.link(link).devconf.forwarding = *value,
                Undo::Sysctl { path, value } => self.sysctl(path, value),
            }
        }
    }

    /// As a process sees it that may write nothing.
    fn without_privileges(&self) -> Observed {
        let mut observed = self.observed.clone();
        let accepts = observed
            .links
            .iter_mut()
            .filter_map(|link| link.accept_ra.as_mut());
        for sysctl in accepts.chain(observed.ipv6_forwarding.as_mut()) {
            sysctl.writable = false;
        }
        observed
    }
}

prop_compose! {
    fn some_pod()(
        v4: bool,
        v6: bool,
        mtu in prop::sample::select(&[1000_u32, 1279, 1280, 1450, 9000][..]),
        forwarding in prop::option::of((prop::sample::select(&["0", "1"][..]), any::<bool>())),
        accept_ra in prop::option::of(prop::sample::select(&["0", "1", "2"][..])),
        by_ra: bool,
        forwards_v4: bool,
    ) -> Observed {
        let mut observed = pod();
        observed.ipv6_forwarding = forwarding.map(|(value, writable)| Sysctl { value: value.into(), writable });
        // /proc/sys is mounted one way or the other.
        let writable = observed.ipv6_forwarding.as_ref().is_some_and(|sysctl| sysctl.writable);
        let link = eth0(&mut observed);
        link.mtu = mtu;
        link.addresses.retain(|a| if a.ip.is_ipv4() { v4 } else { v6 });
        link.accept_ra = accept_ra.map(|value| Sysctl { value: value.into(), writable });
        link.default_route_by_ra = by_ra && link.accept_ra.is_some();
        link.devconf.forwarding = forwards_v4;
        observed.links.sort_by(|a, b| a.name.cmp(&b.name));
        observed
    }
}

fn some_ports() -> impl Strategy<Value = Ports> {
    let protocol = prop::sample::select(&[Protocol::Tcp, Protocol::Udp][..]);
    let one = (protocol, any::<u16>(), any::<u16>()).prop_map(|(p, a, b)| range(p, a.min(b), a.max(b)));
    prop_oneof![
        Just(Ports::All),
        prop::collection::vec(one, 0..20).prop_map(Ports::Listed)
    ]
}

prop_compose! {
    fn some_spec()(
        v4 in prop::sample::select(&["10.0.2.0/24", "172.30.0.4/30", "10.0.0.0/8"][..]),
        v6 in prop::sample::select(&["fd10:0:2::/120", "fd00::4/126"][..]),
        v6_required: bool,
        ports in some_ports(),
        istio: bool,
        queue_pairs in 1_u16..=8,
        guest_mac: Option<[u8; 6]>,
        id in prop::sample::select(&[0_u32, 107][..]),
    ) -> NetSpec {
        let mut spec = spec();
        let (v4, v6) = (v4.parse().unwrap(), v6.parse().unwrap());
        *masquerade(&mut spec) = Masquerade { v4, v6, v4_else: Vec::new(), v6_else: Vec::new(), v6_required, ports, kept_tcp: vec![49152], istio };
        spec.nics[0].queue_pairs = queue_pairs;
        spec.nics[0].guest_mac = guest_mac.map(Mac);
        spec.owner = Owner { uid: id, gid: id };
        spec
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_that_was_applied_is_empty_when_made_again(pod in some_pod(), spec in some_spec()) {
        let mut model = Model::new(pod);
        if let Ok(plan) = Plan::new(&spec, &model.observed) {
            prop_assert_ne!(&plan.steps, &[]);
            model.apply(&plan);
            for observed in [model.observed.clone(), model.without_privileges()] {
                let again = Plan::new(&spec, &observed).unwrap();
                prop_assert_eq!(again.steps, []);
                prop_assert_eq!(again.nics, plan.nics.clone());
            }
        }
    }

    #[test]
    fn a_route_learnt_by_advertisement_stays(pod in some_pod(), spec in some_spec()) {
        let mut model = Model::new(pod.clone());
        if let Ok(plan) = Plan::new(&spec, &pod) {
            model.apply(&plan);
            let learnt = |observed: &Observed| observed.link("eth0").unwrap().default_route_by_ra;
            prop_assert_eq!(learnt(&pod), learnt(&model.observed));
        }
    }

    #[test]
    fn whatever_a_killed_start_left_the_next_one_ends_as_in_a_fresh_pod(
        pod in some_pod(), first in some_spec(), spec in some_spec(), killed_after in 0_usize..20,
    ) {
        converges(pod, &first, &spec, killed_after)?;
    }

    /// A pod's manifest does not change: both starts want the link down.
    #[test]
    fn so_does_a_link_that_is_down(
        pod in some_pod(), first in some_spec(), spec in some_spec(), killed_after in 0_usize..4,
    ) {
        let down = |mut spec: NetSpec| {
            spec.nics[0].wiring = Wiring::Down;
            spec
        };
        let (first, spec) = (down(first), down(spec));
        let mut model = Model::new(pod.clone());
        let plan = Plan::new(&spec, &pod).unwrap();
        model.apply(&plan);
        prop_assert_eq!(Plan::new(&spec, &model.observed).unwrap().steps, []);
        converges(pod, &first, &spec, killed_after)?;
    }
}

fn converges(
    pod: Observed,
    first: &NetSpec,
    spec: &NetSpec,
    killed_after: usize,
) -> Result<(), TestCaseError> {
    let Ok(wanted) = Plan::new(spec, &pod) else {
        return Ok(());
    };
    let mut fresh = Model::new(pod.clone());
    fresh.apply(&wanted);

    let mut model = Model::new(pod.clone());
    let mut journal = Journal::default();
    if let Ok(plan) = Plan::new(first, &pod) {
        plan.steps
            .iter()
            .take(killed_after)
            .for_each(|step| model.perform(step));
        journal = plan.journal;
    }
    let plan = Plan::new(spec, &model.observed).unwrap();
    model.apply(&plan);
    prop_assert_eq!(&model, &fresh);

    let journal = plan.journal.after(journal);
    model.take_back(&journal);
    prop_assert_eq!(model, Model::new(pod));
    Ok(())
}
