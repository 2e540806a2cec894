//! Whether the kernel has flowtables, and a rule set for one that has not.
//!
//! `nft` would only say "No such file or directory", after twice the time that the whole rule set takes. So the kernel is asked
//! here, by a transaction that makes one and that is never finished: without its last message the kernel abandons it
//! (net/netfilter/nfnetlink.c, nfnetlink_rcv_batch). Like any use of nf_tables, it loads the module.

use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;
use serde_json::Value;

/// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h, linux/netlink.h.
const BATCH_BEGIN: u16 = 0x10;
const SUBSYSTEM_NFTABLES: u16 = 10;
const NEW_TABLE: u16 = 0;
const NEW_FLOWTABLE: u16 = 22;
const REQUEST: u16 = 0x1;
const REQUEST_AND_ACK: u16 = 0x5;
const CREATE: u16 = 0x400;
const ERROR: u16 = 2;
const NESTED: u16 = 1 << 15;

const UNSPECIFIED: u8 = 0;
const INET: u8 = 1;

const TABLE_NAME: u16 = 1;
const FLOWTABLE_TABLE: u16 = 1;
const FLOWTABLE_NAME: u16 = 2;
const FLOWTABLE_HOOK: u16 = 3;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
/// NF_NETDEV_INGRESS.
const INGRESS: u32 = 0;

/// Ours among the answers.
const SEQUENCE: u32 = 3;
const NAME: &[u8] = b"hawser-trial\0";

/// A kernel that loads the module first answers after some milliseconds.
const TIMEOUT: i64 = Duration::from_secs(2).as_secs() as i64;

/// Whether the kernel makes flowtables of the family `inet`; not where it cannot be asked, for want of CAP_NET_ADMIN or else.
/// Changes nothing.
pub(super) fn is_known() -> bool {
    answer() == Ok(Some(0))
}

/// The kernel's answer: 0, or a negative errno.
fn answer() -> nix::Result<Option<i32>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT, 0))?;
    sendto(
        socket.as_raw_fd(),
        &transaction(),
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    let mut buffer = [0_u8; 4096];
    // Whatever comes is an answer to this transaction: to one of its first messages, if that has failed, else to the last.
    let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    Ok(buffer.get(..length).and_then(error_of))
}

/// struct nlmsghdr, then the error of struct nlmsgerr.
fn error_of(message: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let error = i32::from_ne_bytes(message.get(16..20)?.try_into().ok()?);
    (kind == ERROR).then_some(error)
}

fn transaction() -> Vec<u8> {
    let own = |kind| SUBSYSTEM_NFTABLES << 8 | kind;
    let mut begin = message(BATCH_BEGIN, REQUEST, 1, UNSPECIFIED, &[]);
    // struct nfgenmsg, res_id: the subsystem that the transaction is of.
    if let Some(subsystem) = begin.get_mut(18..20) {
        subsystem.copy_from_slice(&SUBSYSTEM_NFTABLES.to_be_bytes());
    }
    let table = attribute(TABLE_NAME, NAME);
    let hook = [
        attribute(HOOK_NUMBER, &INGRESS.to_be_bytes()),
        attribute(HOOK_PRIORITY, &0_u32.to_be_bytes()),
    ]
    .concat();
    let flowtable = [
        attribute(FLOWTABLE_TABLE, NAME),
        attribute(FLOWTABLE_NAME, NAME),
        attribute(FLOWTABLE_HOOK | NESTED, &hook),
    ]
    .concat();
    [
        begin,
        message(own(NEW_TABLE), REQUEST | CREATE, 2, INET, &table),
        message(
            own(NEW_FLOWTABLE),
            REQUEST_AND_ACK | CREATE,
            SEQUENCE,
            INET,
            &flowtable,
        ),
    ]
    .concat()
}

/// struct nlmsghdr, struct nfgenmsg, attributes.
fn message(kind: u16, flags: u16, sequence: u32, family: u8, attributes: &[u8]) -> Vec<u8> {
    const HEADERS: usize = 20;
    let length = u32::try_from(HEADERS.saturating_add(attributes.len())).unwrap_or_default();
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend([0; 4]);
    message.extend([family, 0, 0, 0]);
    message.extend(attributes);
    message
}

/// struct nlattr, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    const HEADER: usize = 4;
    let length = HEADER.saturating_add(value.len());
    let mut attribute = Vec::new();
    attribute.extend(u16::try_from(length).unwrap_or_default().to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(length.next_multiple_of(4), 0);
    attribute
}

/// `document` without its flowtables and the rules that use them.
pub(super) fn without(document: &Value) -> Value {
    let mut document = document.clone();
    if let Some(commands) = document.get_mut("nftables").and_then(Value::as_array_mut) {
        commands.retain(|command| {
            let statements = command.pointer("/add/rule/expr").and_then(Value::as_array);
            let uses_one = statements
                .into_iter()
                .flatten()
                .any(|statement| statement.get("flow").is_some());
            !uses_one && command.pointer("/add/flowtable").is_none()
        });
    }
    document
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_left_out_with_the_rules_that_use_it() {
        let rule = |expr: Value| json!({"add": {"rule": {"family": "inet", "table": "hawser", "chain": "forward", "expr": expr}}});
        let table = json!({"create": {"table": {"family": "inet", "name": "hawser"}}});
        let document = json!({"nftables": [
            table,
            {"add": {"flowtable": {"family": "inet", "table": "hawser", "name": "guests"}}},
            rule(json!([{"flow": {"op": "add", "flowtable": "@guests"}}])),
            rule(json!([{"accept": null}])),
        ]});
        assert_eq!(
            without(&document),
            json!({"nftables": [table, rule(json!([{"accept": null}]))]})
        );
    }

    /// Without CAP_NET_ADMIN the kernel refuses the transaction's first message; it understands all of it before.
    #[test]
    fn the_kernel_reads_it() {
        let refused = -(nix::errno::Errno::EPERM as i32);
        let unknown = -(nix::errno::Errno::ENOENT as i32);
        let none = -(nix::errno::Errno::EOPNOTSUPP as i32);
        let answer = answer().unwrap();
        assert!(
            [Some(0), Some(refused), Some(unknown), Some(none)].contains(&answer),
            "{answer:?}"
        );
    }
}
