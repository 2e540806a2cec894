//! The relay between two real sockets, with real descriptors; VMM and backend are written out here.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::message::{NEED_REPLY, REPLY};
use super::*;

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn state(index: u32, num: u32) -> Vec<u8> {
    [index, num].map(u32::to_le_bytes).concat()
}

fn pair() -> (UnixStream, Channel) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (ours, Channel::new(theirs))
}

fn descriptor(file: &File) -> Descriptor {
    Arc::new(file.try_clone().unwrap().into())
}

/// One ring in memory whose used index is at 0x42 of the file; its bell is a file of its own.
fn ring(memory: &File, bell: &File) -> [Message<Descriptor>; 5] {
    [
        Message::new(request::SET_OWNER, vec![]),
        Message::new(request::SET_MEM_TABLE, words(&[1, 0, 0x1000, 0x7000, 0])).with([descriptor(memory)]),
        Message::new(request::SET_VRING_NUM, state(0, 256)),
        Message::new(request::SET_VRING_ADDR, words(&[0, 0x7000, 0x7040, 0x7080, 0])),
        Message::new(request::SET_VRING_KICK, words(&[0])).with([descriptor(bell)]),
    ]
}

async fn next(channel: &mut Channel) -> Message<Descriptor> {
    let received = tokio::time::timeout(Duration::from_secs(10), channel.receive()).await;
    received.expect("no message").unwrap().unwrap()
}

fn reply(request: u32, payload: Vec<u8>) -> Message<Descriptor> {
    let mut reply = Message::new(request, payload);
    reply.flags |= REPLY;
    reply
}

#[tokio::test(flavor = "current_thread")]
async fn a_backend_dies_with_a_question_open_and_the_next_one_answers_it() {
    let (stream, mut vmm) = pair();
    let (to_backend, mut first) = pair();
    let mut backend = Channel::new(to_backend);
    let mut session = Session::new(stream, Arc::default());
    let memory = tempfile::tempfile().unwrap();
    memory.set_len(0x1000).unwrap();
    memory.write_all_at(&777_u16.to_le_bytes(), 0x42).unwrap();
    let bell = tempfile::tempfile().unwrap();

    let talk = async {
        for message in ring(&memory, &bell) {
            vmm.send(&message).await.unwrap();
            let seen = next(&mut first).await;
            assert_eq!((seen.request, seen.payload), (message.request, message.payload));
            assert_eq!(seen.descriptors.len(), message.descriptors.len());
        }
        vmm.send(&Message::new(request::GET_QUEUE_NUM, vec![]))
            .await
            .unwrap();
        assert_eq!(next(&mut first).await.request, request::GET_QUEUE_NUM);
        drop(first);
    };
    let (end, ()) = tokio::join!(session.carry(&mut backend), talk);
    assert!(matches!(end, End::Backend(BackendError::Gone)), "{end:?}");

    let (to_backend, mut second) = pair();
    let mut backend = Channel::new(to_backend);
    session.resume(&mut backend).await.unwrap();
    let mut told = Vec::new();
    while told.last() != Some(&request::GET_QUEUE_NUM) {
        let message = next(&mut second).await;
        if message.request == request::SET_VRING_BASE {
            assert_eq!(message.payload, state(0, 777), "from the used ring");
        }
        told.push(message.request);
    }
    assert_eq!(told, [3, 5, 8, 9, 10, 12, 17]);
    let mut rung = [0; 8];
    bell.read_exact_at(&mut rung, 0).unwrap();
    assert_eq!(rung, 1_u64.to_ne_bytes());

    let talk = async {
        second
            .send(&reply(request::GET_QUEUE_NUM, words(&[2])))
            .await
            .unwrap();
        assert_eq!(next(&mut vmm).await.u64(0), Some(2));
        drop(vmm);
    };
    let (end, ()) = tokio::join!(session.carry(&mut backend), talk);
    assert!(matches!(end, End::Frontend), "{end:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_fresh_backend_that_refuses_what_the_old_one_took_is_not_used() {
    let (stream, vmm) = pair();
    let (to_backend, mut first) = pair();
    let mut backend = Channel::new(to_backend);
    let mut session = Session::new(stream, Arc::default());
    let talk = async {
        // REPLY_ACK.
        let features = Message::new(request::SET_PROTOCOL_FEATURES, words(&[1 << 3]));
        vmm.send(&features).await.unwrap();
        vmm.send(&Message::new(request::SET_FEATURES, words(&[1])))
            .await
            .unwrap();
        next(&mut first).await;
        next(&mut first).await;
        drop(first);
    };
    let _ = tokio::join!(session.carry(&mut backend), talk);
    let (to_backend, mut second) = pair();
    let mut backend = Channel::new(to_backend);
    let talk = async {
        assert_eq!(next(&mut second).await.request, request::SET_PROTOCOL_FEATURES);
        let asked = next(&mut second).await;
        assert_eq!(asked.flags & NEED_REPLY, NEED_REPLY);
        second.send(&reply(asked.request, words(&[1]))).await.unwrap();
    };
    let (result, ()) = tokio::join!(session.resume(&mut backend), talk);
    assert!(
        matches!(result, Err(BackendError::Failed(request::SET_FEATURES))),
        "{result:?}"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn the_vmm_can_let_go_of_a_device_whose_backend_is_gone() {
    let (stream, mut vmm) = pair();
    let mut session = Session::new(stream, Arc::default());
    let talk = async {
        vmm.send(&Message::new(request::GET_VRING_BASE, state(1, 0)))
            .await
            .unwrap();
        assert_eq!(next(&mut vmm).await.payload, state(1, 0));
        drop(vmm);
    };
    let (end, ()) = tokio::join!(session.stand_in(), talk);
    assert!(matches!(end, End::Frontend), "{end:?}");
}

/// As cloud-hypervisor snapshots a NIC for a migration: rings stopped, state taken, and then once more the log.
#[tokio::test(flavor = "current_thread")]
async fn a_backend_that_has_handed_over_may_end_while_the_vmm_still_asks() {
    const LOG_SHMFD: u64 = 1 << 1;
    let (stream, mut vmm) = pair();
    let (to_backend, mut first) = pair();
    let mut backend = Channel::new(to_backend);
    let leaving = Arc::new(AtomicBool::new(true));
    let mut session = Session::new(stream, leaving.clone());
    assert!(!leaving.load(Ordering::Relaxed), "it has only come");
    let state_file = tempfile::tempfile().unwrap();
    let talk = async {
        let features = Message::new(request::SET_PROTOCOL_FEATURES, words(&[LOG_SHMFD]));
        vmm.send(&features).await.unwrap();
        next(&mut first).await;
        vmm.send(&Message::new(request::GET_VRING_BASE, state(0, 0)))
            .await
            .unwrap();
        next(&mut first).await;
        first
            .send(&reply(request::GET_VRING_BASE, state(0, 9)))
            .await
            .unwrap();
        next(&mut vmm).await;
        assert!(!leaving.load(Ordering::Relaxed), "a reset does that too");
        // Save, with the rings stopped.
        let save = Message::new(request::SET_DEVICE_STATE_FD, state(0, 0)).with([descriptor(&state_file)]);
        for (asked, answer) in [
            (save, 0x100),
            (Message::new(request::CHECK_DEVICE_STATE, vec![]), 0),
        ] {
            vmm.send(&asked).await.unwrap();
            let seen = next(&mut first).await;
            assert_eq!(seen.descriptors.len(), asked.descriptors.len());
            first.send(&reply(asked.request, words(&[answer]))).await.unwrap();
            assert_eq!(next(&mut vmm).await.u64(0), Some(answer));
        }
        assert!(leaving.load(Ordering::Relaxed));
        drop(first);
    };
    let (end, ()) = tokio::join!(session.carry(&mut backend), talk);
    assert!(matches!(end, End::HandedOver), "{end:?}");
    let talk = async {
        let log = Message::new(request::SET_LOG_BASE, words(&[4096, 0])).with([descriptor(&state_file)]);
        vmm.send(&log).await.unwrap();
        let answer = next(&mut vmm).await;
        assert_eq!(
            (answer.request, answer.payload),
            (request::SET_LOG_BASE, words(&[4096, 0]))
        );
        drop(vmm);
    };
    let (end, ()) = tokio::join!(session.stand_in(), talk);
    assert!(matches!(end, End::Frontend), "{end:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn one_that_could_not_hand_over_or_took_over_is_replaced_like_any_other() {
    // The direction that is asked for, and what comes of it.
    for (direction, result) in [(0, u64::MAX), (1, 0)] {
        let (stream, mut vmm) = pair();
        let (to_backend, mut first) = pair();
        let mut backend = Channel::new(to_backend);
        let mut session = Session::new(stream, Arc::default());
        let state_file = tempfile::tempfile().unwrap();
        let talk = async {
            let asked = [
                Message::new(request::SET_DEVICE_STATE_FD, state(direction, 0))
                    .with([descriptor(&state_file)]),
                Message::new(request::CHECK_DEVICE_STATE, vec![]),
            ];
            for message in asked {
                vmm.send(&message).await.unwrap();
                next(&mut first).await;
                first
                    .send(&reply(message.request, words(&[result])))
                    .await
                    .unwrap();
                next(&mut vmm).await;
            }
            drop(first);
        };
        let (end, ()) = tokio::join!(session.carry(&mut backend), talk);
        assert!(
            matches!(end, End::Backend(BackendError::Gone)),
            "{direction}: {end:?}"
        );
    }
}

#[tokio::test(flavor = "current_thread")]
async fn greeting_tells_one_that_serves_from_one_that_ended() {
    let (to_backend, mut there) = pair();
    let mut backend = Channel::new(to_backend);
    let talk = async {
        assert_eq!(next(&mut there).await.request, request::GET_FEATURES);
        there
            .send(&reply(request::GET_FEATURES, words(&[1])))
            .await
            .unwrap();
    };
    let (greeted, ()) = tokio::join!(greet(&mut backend), talk);
    greeted.unwrap();
    drop(there);
    assert!(greet(&mut backend).await.is_err());
}

/// Tells a session of a ring with this bell, and then brings a fresh backend up to it.
async fn resume_with(bell: Descriptor) {
    let (stream, vmm) = pair();
    let (to_backend, mut first) = pair();
    let mut backend = Channel::new(to_backend);
    let mut session = Session::new(stream, Arc::default());
    let kick = Message::new(request::SET_VRING_KICK, words(&[0])).with([bell]);
    let talk = async {
        vmm.send(&kick).await.unwrap();
        next(&mut first).await;
        drop(first);
    };
    let _ = tokio::join!(session.carry(&mut backend), talk);
    let (to_backend, _second) = pair();
    session.resume(&mut Channel::new(to_backend)).await.unwrap();
}

#[test]
fn a_bell_that_is_a_full_pipe_stops_nothing() {
    let (_reader, writer) = io::pipe().unwrap();
    let full = Arc::new(OwnedFd::from(writer));
    let blocking = fcntl_getfl(&full).unwrap();
    fcntl_setfl(&full, blocking | OFlags::NONBLOCK).unwrap();
    while rustix::io::write(&full, &[0; 4096]).is_ok() {}
    fcntl_setfl(&full, blocking).unwrap();
    let (done, resumed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(resume_with(full));
        done.send(()).unwrap();
    });
    let waited = resumed.recv_timeout(Duration::from_secs(10));
    waited.expect("the relay waits for the bell");
}
