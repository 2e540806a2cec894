//! What fuzz targets and tests feed with bytes (`launcher/fuzz/`). Nothing else calls it.

use crate::message::{Framer, MAX_DESCRIPTORS, MAX_PAYLOAD, Message};
use crate::state::Relay;

/// Messages of both sides in one stream: one that is a reply is the backend's, every other one the VMM's. The bits of the
/// flags that mean nothing say how many descriptors come with the next message.
///
/// What is held has a bound, and a backend that was told everything again is as the one before it.
pub fn vhost_user(bytes: &[u8]) {
    let mut relay = Relay::default();
    let mut framer = Framer::default();
    let (mut rest, mut descriptors, mut last) = (bytes, 0_usize, 0_usize);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(framer.wanted().min(rest.len()));
        rest = after;
        let came = last..last.saturating_add(std::mem::take(&mut descriptors));
        last = came.end;
        let Ok(message) = framer.feed(piece, came) else {
            break;
        };
        let Some(message) = message else { continue };
        descriptors = (message.flags >> 8) as usize % 4;
        if message.is_reply() {
            let _ = relay.process_reply(message);
        } else if !relay.awaits() {
            let _ = relay.process_request(message);
        }
        assert!(relay.weight() <= MAX_PAYLOAD.saturating_add(MAX_DESCRIPTORS).saturating_mul(4));
    }
    let told = replay(&relay);
    let mut again = Relay::default();
    for message in &told {
        assert!(again.process_request(message.clone()).is_ok(), "{message:?}");
        if again.awaits() {
            let _ = again.stand_in();
        }
    }
    assert_eq!(replay(&again), told);
    let _ = relay.bells();
    let _ = relay.pending().cloned();
    let _ = relay.stand_in();
}

fn replay(relay: &Relay<usize>) -> Vec<Message<usize>> {
    relay.replay(|_, _| None)
}
