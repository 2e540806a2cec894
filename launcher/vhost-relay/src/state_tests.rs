//! Messages in, what is remembered and said again out. Descriptors are numbers here.

use proptest::prelude::*;

use super::super::message::{Framer, MAX_DESCRIPTORS, MAX_PAYLOAD};
use super::*;

type Told = Message<u32>;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn state(index: u32, num: u32) -> Vec<u8> {
    [index, num].map(u32::to_le_bytes).concat()
}

/// As cloud-hypervisor sets up a NIC of two rings: memory in descriptor 7 from the frontend's address 0x10_0000 on, which
/// is 0x1000 in the file; ring N has its used ring at 0x10_2000 + N * 0x1000.
fn set_up() -> Vec<Told> {
    let mut all = vec![
        Told::new(request::SET_OWNER, vec![]),
        Told::new(request::SET_PROTOCOL_FEATURES, words(&[LOG_SHMFD | REPLY_ACK])),
        Told::new(request::SET_FEATURES, words(&[1 << 30])),
        Told::new(
            request::SET_MEM_TABLE,
            words(&[1, 0, 0x10_0000, 0x10_0000, 0x1000]),
        )
        .with([7]),
    ];
    for index in 0..2_u32 {
        let used = 0x10_2000 + u64::from(index) * 0x1000;
        all.extend([
            Told::new(request::SET_VRING_NUM, state(index, 256)),
            Told::new(
                request::SET_VRING_ADDR,
                words(&[u64::from(index), 0x10_0000, used, 0x10_1000, 0]),
            ),
            Told::new(request::SET_VRING_BASE, state(index, 0)),
            Told::new(request::SET_VRING_CALL, words(&[index.into()])).with([10 + index]),
            Told::new(request::SET_VRING_KICK, words(&[index.into()])).with([20 + index]),
        ]);
    }
    all.extend((0..2).map(|index| Told::new(request::SET_VRING_ENABLE, state(index, 1))));
    all
}

fn relay(messages: Vec<Told>) -> Relay<u32> {
    let mut relay = Relay::default();
    for message in messages {
        assert_eq!(relay.process_request(message.clone()), Ok(message));
        assert!(!relay.awaits());
    }
    relay
}

fn nothing(_: &u32, _: u64) -> Option<u16> {
    None
}

#[test]
fn a_fresh_backend_is_told_all_again_and_where_the_dead_one_was() {
    let relay = relay(set_up());
    let read = |descriptor: &u32, offset: u64| {
        assert_eq!(*descriptor, 7);
        match offset {
            // The used index is the ring's third and fourth byte.
            0x3002 => Some(300),
            0x4002 => Some(5),
            other => panic!("read at {other:#x}"),
        }
    };
    let mut expected = set_up();
    for message in expected.iter_mut().skip(2) {
        message.flags = VERSION | NEED_REPLY;
        if message.request == request::SET_VRING_BASE {
            let index = message.u32(0).unwrap();
            message.payload = state(index, if index == 0 { 300 } else { 5 });
        }
    }
    assert_eq!(relay.replay(read), expected);
    assert_eq!(relay.bells(), [20, 10, 21, 11]);
}

#[test]
fn the_latest_of_everything_counts_and_a_stopped_ring_stays_stopped() {
    let mut relay = relay(set_up());
    relay
        .process_request(Told::new(request::SET_VRING_CALL, words(&[0])).with([50]))
        .unwrap();
    relay
        .process_request(Told::new(request::GET_VRING_BASE, state(1, 0)))
        .unwrap();
    assert_eq!(
        relay.pending().map(|message| message.request),
        Some(request::GET_VRING_BASE)
    );
    let bases = |relay: &Relay<u32>| {
        let all = relay.replay(|_, _| Some(9)).into_iter();
        all.filter(|message| message.request == request::SET_VRING_BASE)
            .map(|message| message.u32(4).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(bases(&relay), [9, 9], "not answered yet: memory knows");
    let mut reply = Told::new(request::GET_VRING_BASE, state(1, 77));
    reply.flags |= REPLY;
    relay.process_reply(reply).unwrap();
    assert_eq!(bases(&relay), [9, 77], "answered: that is where it goes on");
    let replay = relay.replay(nothing);
    let bells: Vec<_> = replay
        .iter()
        .filter(|message| message.request == request::SET_VRING_KICK)
        .map(|message| message.descriptors.clone())
        .collect();
    assert_eq!(bells, [[20]]);
    assert_eq!(relay.bells(), [20, 50]);
}

#[test]
fn a_backend_that_knows_no_acknowledgements_is_asked_for_none() {
    let mut all = set_up();
    all[1].payload = words(&[0]);
    let replay = relay(all).replay(nothing);
    assert!(replay.iter().all(|message| message.flags == VERSION));
    assert!(
        replay
            .iter()
            .all(|message| message.request != request::SET_PROTOCOL_FEATURES)
    );
}

#[test]
fn the_reply_to_the_log_has_the_form_and_length_in_which_the_frontend_reads_it() {
    let mut relay = relay(set_up());
    let log = Told::new(request::SET_LOG_BASE, words(&[4096, 0])).with([9]);
    relay.process_request(log).unwrap();
    assert!(relay.awaits());
    let mut reply = Told::new(request::SET_LOG_BASE, words(&[0]));
    reply.flags |= REPLY | NEED_REPLY;
    let passed = relay.process_reply(reply.clone()).unwrap();
    // The VMM takes a log without a size for a broken answer.
    assert_eq!((passed.payload, passed.flags), (words(&[4096, 0]), reply.flags));
    assert!(!relay.awaits());
    assert!(
        relay
            .replay(nothing)
            .iter()
            .any(|message| message.request == request::SET_LOG_BASE && message.descriptors == [9])
    );
}

#[test]
fn what_could_not_be_told_again_is_not_passed_on() {
    let mut relay = Relay::default();
    let mut refused = |message: Told| relay.process_request(message).unwrap_err();
    // RESET_OWNER and ADD_MEM_REG.
    for unknown in [4, 37, 1000] {
        assert_eq!(refused(Told::new(unknown, vec![])), Refused::Unknown(unknown));
    }
    assert_eq!(
        refused(Told::new(request::SET_VRING_NUM, state(16, 1))),
        Refused::Ring(16)
    );
    assert_eq!(
        refused(Told::new(request::SET_FEATURES, vec![1])),
        Refused::Form(2)
    );
    // A bell without its descriptor, and one that says it has none.
    assert_eq!(
        refused(Told::new(request::SET_VRING_KICK, words(&[0]))),
        Refused::Form(12)
    );
    let both = Told::new(request::SET_VRING_CALL, words(&[NO_DESCRIPTOR])).with([1]);
    assert_eq!(refused(both), Refused::Form(13));
}

#[test]
fn a_reply_that_nobody_waits_for_is_not_passed_on() {
    let mut relay = relay(set_up());
    let mut reply = Told::new(request::GET_FEATURES, words(&[1]));
    reply.flags |= REPLY;
    assert_eq!(relay.process_reply(reply.clone()), Err(Refused::Unasked(1)));
    relay
        .process_request(Told::new(request::GET_FEATURES, vec![]))
        .unwrap();
    let request = Told::new(request::GET_FEATURES, words(&[1]));
    assert_eq!(relay.process_reply(request), Err(Refused::Unasked(1)));
}

#[test]
fn the_vmm_gets_an_answer_even_where_no_backend_will() {
    let mut relay = relay(set_up());
    let mut disable = Told::new(request::SET_VRING_ENABLE, state(0, 0));
    disable.flags |= NEED_REPLY;
    relay.process_request(disable).unwrap();
    let answer = relay.stand_in().unwrap();
    assert_eq!(
        (answer.request, answer.flags, answer.payload),
        (request::SET_VRING_ENABLE, VERSION | REPLY, vec![0; 8])
    );
    relay
        .process_request(Told::new(request::GET_VRING_BASE, state(1, 0)))
        .unwrap();
    assert_eq!(relay.stand_in().unwrap().payload, state(1, 0));
    assert!(relay.stand_in().is_none());
}

/// Well-formed headers with anything behind, and anything at all after them.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let message = (
        prop_oneof![0..50_u32, request::SET_VRING_NUM..=request::SET_VRING_ENABLE],
        0..16_u32,
        proptest::collection::vec(any::<u8>(), 0..80),
        any::<bool>(),
    );
    let message = message.prop_map(|(request, flags, mut payload, is_ring)| {
        // A ring's number is small or it is refused.
        if is_ring && payload.len() >= 4 {
            payload[1..4].fill(0);
        }
        let mut message = Told::new(request, payload);
        message.flags = VERSION | flags << 2;
        message.bytes()
    });
    let junk = proptest::collection::vec(any::<u8>(), 0..40);
    (proptest::collection::vec(message, 0..150), junk)
        .prop_map(|(messages, junk)| [messages.concat(), junk].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_of_either_side_cost_bounded_memory(
        frontend in stream(), backend in stream(), size in 1..200_usize, with in 0..4_u32,
    ) {
        let mut relay = Relay::default();
        let mut framers = [Framer::default(), Framer::default()];
        for (piece, side) in frontend.chunks(size).map(|p| (p, 0)).chain(backend.chunks(size).map(|p| (p, 1))) {
            let mut rest = piece;
            while !rest.is_empty() {
                let framer = &mut framers[side];
                let (now, after) = rest.split_at(framer.wanted().min(rest.len()));
                rest = after;
                match framer.feed(now, 0..with) {
                    Ok(Some(message)) if side == 0 => drop(relay.process_request(message)),
                    Ok(Some(message)) => drop(relay.process_reply(message)),
                    Ok(None) => {}
                    // The session ends here.
                    Err(_) => {
                        let _ = relay.replay(|_, _| Some(1));
                        let _ = relay.stand_in();
                        return Ok(());
                    }
                }
                prop_assert!(framer.wanted() <= MAX_PAYLOAD);
            }
            // The memory table, two of the log, and what is awaited; each ring has bounded parts.
            prop_assert!(relay.weight() <= 4 * (MAX_PAYLOAD + MAX_DESCRIPTORS));
            prop_assert!(relay.rings.len() <= MAX_RINGS as usize);
        }
        let _ = relay.replay(|_, _| Some(1));
        let _ = relay.bells();
        let _ = relay.stand_in();
    }
}
