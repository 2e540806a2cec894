//! Expressions of nftables' JSON (libnftables-json(5)), shorter than the crate's types are when written out.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;

use hawser_mac::Mac;
use nftables::expr::{
    BinaryOperation, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadBase, PayloadField,
    PayloadRaw, Prefix, Range,
};
use nftables::schema::{
    Chain, Element, FlowTable, NfCmd, NfListObject, NfObject, Nftables, Rule, Set, SetFlag, SetType,
    SetTypeValue, Table,
};
use nftables::stmt::{
    Dup, FWD, Flow, JumpTarget, Mangle, Match, Operator, Reject, RejectType, SetOp, Statement,
};
pub(super) use nftables::types::NfChainPolicy as Policy;
use nftables::types::{NfChainType, NfFamily, NfHook, RejectCode};

use super::TABLE;

pub(super) type Expr = Expression<'static>;
pub(super) type Stmt = Statement<'static>;

pub(super) const DROP: Stmt = Statement::Drop(None);

/// To the sender as if there were no route.
pub(super) const REJECT: Stmt = Statement::Reject(Some(Reject {
    _type: Some(RejectType::ICMPX),
    expr: Some(RejectCode::NoRoute),
}));

/// To the sender as what is not for it.
pub(super) const REFUSE: Stmt = Statement::Reject(Some(Reject {
    _type: Some(RejectType::ICMPX),
    expr: Some(RejectCode::AdminProhibited),
}));

pub(super) fn text(value: &str) -> Expr {
    Expression::String(Cow::Owned(value.to_owned()))
}

pub(super) fn number(value: u16) -> Expr {
    Expression::Number(u32::from(value))
}

pub(super) fn address(ip: impl Into<IpAddr>) -> Expr {
    text(&ip.into().to_string())
}

pub(super) fn mac(mac: Mac) -> Expr {
    text(&mac.to_string())
}

pub(super) fn prefix_v4((address, len): ([u8; 4], u32)) -> Expr {
    Expression::Named(NamedExpression::Prefix(Prefix {
        addr: Box::new(text(&std::net::Ipv4Addr::from(address).to_string())),
        len,
    }))
}

pub(super) fn port_range(first: u16, last: u16) -> Expr {
    if first == last {
        return number(first);
    }
    Expression::Range(Box::new(Range {
        range: [number(first), number(last)],
    }))
}

pub(super) fn set_of(elements: Vec<Expr>) -> Expr {
    Expression::Named(NamedExpression::Set(
        elements
            .into_iter()
            .map(nftables::expr::SetItem::Element)
            .collect(),
    ))
}

pub(super) fn named_set(tap: &str, name: &str) -> Expr {
    text(&format!("@{tap}-{name}"))
}

pub(super) fn payload(protocol: &'static str, field: &'static str) -> Expr {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    })))
}

/// `bits` bits at a distance, in bits, from the beginning of the transport header.
pub(super) fn at_transport(offset: u32, bits: u32) -> Expr {
    Expression::Named(NamedExpression::Payload(Payload::PayloadRaw(PayloadRaw {
        base: PayloadBase::TH,
        offset,
        len: bits,
    })))
}

pub(super) fn set_field(key: Expr, value: Expr) -> Stmt {
    Statement::Mangle(Mangle { key, value })
}

pub(super) fn meta(key: MetaKey) -> Expr {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn compare(op: Operator, left: Expr, right: Expr) -> Stmt {
    Statement::Match(Match { left, right, op })
}

pub(super) fn equal(left: Expr, right: Expr) -> Stmt {
    compare(Operator::EQ, left, right)
}

pub(super) fn not_equal(left: Expr, right: Expr) -> Stmt {
    compare(Operator::NEQ, left, right)
}

pub(super) fn is_in(left: Expr, right: Expr) -> Stmt {
    compare(Operator::IN, left, right)
}

pub(super) fn ct(key: &'static str) -> Expr {
    Expression::Named(NamedExpression::CT(nftables::expr::CT {
        key: key.into(),
        family: None,
        dir: None,
    }))
}

pub(super) fn concat(parts: Vec<Expr>) -> Expr {
    Expression::Named(NamedExpression::Concat(parts))
}

/// Puts `value` into the set of this name, or renews it there. A rule ends here where the set is full.
pub(super) fn remember(value: Expr, set: &str) -> Stmt {
    Statement::Set(nftables::stmt::Set {
        op: SetOp::Update,
        elem: value,
        set: Cow::Owned(format!("@{set}")),
    })
}

/// Has the kernel carry the rest of the packet's connection past the rules ([`Objects::flowtable`]). A rule ends here where the
/// connection is none that can be.
pub(super) fn offload_to(flowtable: &str) -> Stmt {
    Statement::Flow(Flow {
        op: SetOp::Add,
        flowtable: Cow::Owned(format!("@{flowtable}")),
    })
}

pub(super) fn masked(value: Expr, mask: u32) -> Expr {
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(value, Expression::Number(mask))))
}

pub(super) fn jump(chain: &str) -> Stmt {
    Statement::Jump(JumpTarget {
        target: Cow::Owned(chain.to_owned()),
    })
}

pub(super) fn forward_to(device: &str) -> Stmt {
    Statement::FWD(Some(FWD {
        dev: Some(text(device)),
        family: None,
        addr: None,
    }))
}

/// Sends a copy of the frame to `device`; the frame itself continues.
pub(super) fn copy_to(device: &str) -> Stmt {
    Statement::Dup(Dup {
        addr: text(device),
        dev: None,
    })
}

pub(super) struct Objects {
    list: Vec<NfObject<'static>>,
    table: &'static str,
}

impl Default for Objects {
    fn default() -> Self {
        Self::in_table(TABLE)
    }
}

impl Objects {
    pub(super) fn in_table(table: &'static str) -> Self {
        Self {
            list: Vec::new(),
            table,
        }
    }

    fn table(&self, family: NfFamily) -> NfListObject<'static> {
        NfListObject::Table(Table {
            family,
            name: self.table.into(),
            handle: None,
        })
    }

    fn add(&mut self, object: NfListObject<'static>) {
        self.list.push(NfObject::CmdObject(NfCmd::Add(object)));
    }

    /// Adding what is there is no error and deleting what is not there is: so first the one, then the other.
    pub(super) fn delete_table(&mut self, family: NfFamily) {
        self.add(self.table(family));
        self.list
            .push(NfObject::CmdObject(NfCmd::Delete(self.table(family))));
    }

    /// Also where it is there.
    pub(super) fn have_table(&mut self, family: NfFamily) {
        self.add(self.table(family));
    }

    pub(super) fn create_table(&mut self, family: NfFamily) {
        self.list
            .push(NfObject::CmdObject(NfCmd::Create(self.table(family))));
    }

    pub(super) fn base_chain(&mut self, name: &str, kind: NfChainType, hook: NfHook, priority: i32) {
        self.hooked(name, kind, hook, priority, Policy::Accept);
    }

    /// At the priority of filters.
    pub(super) fn filter_chain(&mut self, name: &str, hook: NfHook, policy: Policy) {
        self.hooked(name, NfChainType::Filter, hook, 0, policy);
    }

    fn hooked(&mut self, name: &str, kind: NfChainType, hook: NfHook, priority: i32, policy: Policy) {
        self.add(NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: self.table.into(),
            name: Cow::Owned(name.to_owned()),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(policy),
            ..Chain::default()
        }));
    }

    pub(super) fn device_chain(&mut self, name: &str, device: &str, policy: Policy) {
        self.add(NfListObject::Chain(Chain {
            family: NfFamily::NetDev,
            table: self.table.into(),
            name: Cow::Owned(name.to_owned()),
            _type: Some(NfChainType::Filter),
            hook: Some(NfHook::Ingress),
            prio: Some(0),
            dev: Some(Cow::Owned(device.to_owned())),
            policy: Some(policy),
            ..Chain::default()
        }));
    }

    /// Where packets of known connections leave the way through the rules, as they enter by one of `devices`. After the chains of
    /// [`Self::device_chain`], which see every frame.
    pub(super) fn flowtable(&mut self, name: &str, devices: Vec<&str>) {
        const AFTER_FILTERS: u32 = 10;
        let devices = devices.into_iter().map(|name| Cow::Owned(name.to_owned()));
        self.add(NfListObject::FlowTable(FlowTable {
            family: NfFamily::INet,
            table: self.table.into(),
            name: Cow::Owned(name.to_owned()),
            handle: None,
            hook: Some(NfHook::Ingress),
            prio: Some(AFTER_FILTERS),
            dev: Some(devices.collect()),
        }));
    }

    pub(super) fn chain(&mut self, name: &str) {
        self.add(NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: self.table.into(),
            name: Cow::Owned(name.to_owned()),
            ..Chain::default()
        }));
    }

    pub(super) fn port_set(&mut self, name: &str, ports: Vec<Expr>) {
        self.add(NfListObject::Set(Box::new(Set {
            family: NfFamily::INet,
            table: self.table.into(),
            name: Cow::Owned(name.to_owned()),
            set_type: SetTypeValue::Single(SetType::InetService),
            flags: Some(HashSet::from([SetFlag::Interval])),
            elem: (!ports.is_empty()).then_some(Cow::Owned(ports)),
            ..Set::default()
        })));
    }

    /// IPv6 addresses of the last `timeout` seconds, at most `size` of them, that rules of `netdev` remember.
    pub(super) fn recent_v6(&mut self, name: &str, size: u32, timeout: u32) {
        self.add(NfListObject::Set(Box::new(Set {
            family: NfFamily::NetDev,
            table: self.table.into(),
            name: Cow::Owned(name.to_owned()),
            set_type: SetTypeValue::Single(SetType::Ipv6Addr),
            // Which makes the kernel choose a kind that rules can add to. nft 1.0.6 does not know `dynamic` in JSON.
            flags: Some(HashSet::from([SetFlag::Timeout])),
            timeout: Some(timeout),
            size: Some(size),
            ..Set::default()
        })));
    }

    /// An empty set of concatenations.
    pub(super) fn concat_set(&mut self, name: &str, types: &[SetType]) {
        self.add(NfListObject::Set(Box::new(Set {
            family: NfFamily::INet,
            table: self.table.into(),
            name: Cow::Owned(name.to_owned()),
            set_type: SetTypeValue::Concatenated(Cow::Owned(types.to_vec())),
            ..Set::default()
        })));
    }

    pub(super) fn elements(&mut self, set: &str, elements: Vec<Expr>) {
        self.add(NfListObject::Element(Element {
            family: NfFamily::INet,
            table: self.table.into(),
            name: Cow::Owned(set.to_owned()),
            elem: Cow::Owned(elements),
        }));
    }

    pub(super) fn rule(&mut self, family: NfFamily, chain: &str, expr: Vec<Stmt>) {
        self.add(NfListObject::Rule(Rule {
            family,
            table: self.table.into(),
            chain: Cow::Owned(chain.to_owned()),
            expr: Cow::Owned(expr),
            ..Rule::default()
        }));
    }

    pub(super) fn document(self) -> serde_json::Value {
        let document = Nftables {
            objects: Cow::Owned(self.list),
        };
        // The crate's types are plain data: turning them into JSON cannot fail.
        let mut document = serde_json::to_value(document).unwrap_or_default();
        sort_flags(&mut document);
        document
    }
}

/// The crate keeps flags in hash sets; the same rules must be the same text every time.
fn sort_flags(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(object) => {
            if let Some(serde_json::Value::Array(flags)) = object.get_mut("flags") {
                flags.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            }
            object.values_mut().for_each(sort_flags);
        }
        serde_json::Value::Array(array) => array.iter_mut().for_each(sort_flags),
        _ => {}
    }
}
