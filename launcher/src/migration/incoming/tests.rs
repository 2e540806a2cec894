use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpSocket;

use super::*;
use crate::migration::channel::Stream;
use crate::migration::describe::VERSION;
use crate::migration::disks::{For, describe};
use crate::migration::message;
use crate::migration::message::Prepare;
use crate::status::Identity;

const LIMIT: Duration = Duration::from_secs(10);

fn description() -> Description {
    Description {
        identity: Identity {
            namespace: "ns".into(),
            name: "web".into(),
            uid: None,
        },
        vmm_version: "v53.0".into(),
        nics: Vec::new(),
        disks: Vec::new(),
        config: json!({"memory": {"size": 1024}}),
        obstacles: Vec::new(),
        passt_version: None,
    }
}

/// Over plain TCP, and not open yet.
async fn target() -> (Incoming, TcpListener, mpsc::Receiver<Arrival>, tempfile::TempDir) {
    target_with(Vec::new()).await
}

async fn target_with(
    disks: Vec<MigratingDisk>,
) -> (Incoming, TcpListener, mpsc::Receiver<Arrival>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let listener = Listener {
        address: (Ipv4Addr::LOCALHOST, 0).into(),
        security: Security::Plain,
        peer_name: String::new(),
    };
    let (queue, arrivals) = mpsc::channel(64);
    let vmm_dir = directory.path().to_owned();
    let bound = Incoming::bind(listener, (description(), disks), None, vmm_dir, Sink::new(queue)).await;
    let (incoming, socket) = bound.unwrap();
    (incoming, socket, arrivals, directory)
}

async fn next(arrivals: &mut mpsc::Receiver<Arrival>) -> Arrival {
    tokio::time::timeout(LIMIT, arrivals.recv())
        .await
        .unwrap()
        .unwrap()
}

/// As a VMM without TLS opens them: all of them, and only then says the first word.
#[tokio::test]
async fn all_connections_for_memory_are_let_in_at_once() {
    for count in [16, 64, 128] {
        let (mut incoming, socket, mut arrivals, _directory) = target().await;
        let there = socket.local_addr().unwrap();
        incoming.port.expect("id", None);
        incoming.open(socket, None, "v53.0");
        let source = tokio::task::spawn_blocking(move || {
            let mut all: Vec<_> = (0..count).map(|_| TcpStream::connect(there).unwrap()).collect();
            for stream in &mut all {
                stream.write_all(b"HAWSER MEMORY id\n").unwrap();
            }
            all
        });
        for _ in 0..count {
            let arrival = next(&mut arrivals).await;
            assert!(
                matches!(arrival, Arrival::Connection(port::Incoming::Memory(_))),
                "{arrival:?}"
            );
        }
        drop(source.await.unwrap());
    }
}

#[tokio::test]
async fn memory_of_another_hand_off_is_not_let_in() {
    let (mut incoming, socket, mut arrivals, _directory) = target().await;
    let there = socket.local_addr().unwrap();
    incoming.port.expect("id", None);
    incoming.open(socket, None, "v53.0");
    let mut stranger = tokio::net::TcpStream::connect(there).await.unwrap();
    stranger.write_all(b"HAWSER MEMORY other\n").await.unwrap();
    assert_eq!(stranger.read(&mut [0]).await.unwrap(), 0);
    assert!(arrivals.try_recv().is_err());
}

/// As many as there are places for, of the source's address and of others; then those who have something to say.
#[tokio::test]
async fn the_silent_make_room_for_a_launcher_and_for_the_source_that_comes_back() {
    let (mut incoming, socket, mut arrivals, _directory) = target().await;
    let there = socket.local_addr().unwrap();
    incoming.open(socket, None, "v53.0");
    let dial = async |last: u8| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::new(127, 0, 0, last), 0).into()).unwrap();
        socket.connect(there).await.unwrap()
    };
    let mut silent = Vec::new();
    for number in 0..300_u16 {
        silent.push(dial(u8::try_from(number % 3).unwrap() + 1).await);
    }
    let mut source = dial(9).await;
    source.write_all(b"HAWSER CONTROL\n").await.unwrap();
    let Arrival::Connection(port::Incoming::Control { from, .. }) = next(&mut arrivals).await else {
        panic!("no channel");
    };
    assert_eq!(from, Ipv4Addr::new(127, 0, 0, 9));

    // It is slow to say what it wants, and a crowd of any number of addresses comes meanwhile.
    incoming.port.expect("id", Some(from));
    let mut source = dial(9).await;
    for number in 0..600_u16 {
        silent.push(dial(u8::try_from(number % 200).unwrap() + 10).await);
    }
    source.write_all(b"HAWSER CONTROL\n").await.unwrap();
    let arrival = next(&mut arrivals).await;
    assert!(
        matches!(arrival, Arrival::Connection(port::Incoming::Control { from: again, .. }) if again == from),
        "{arrival:?}"
    );
}

#[tokio::test]
async fn the_port_closes_once_the_guest_is_here_for_good() {
    let (mut incoming, socket, mut arrivals, _directory) = target().await;
    let there = socket.local_addr().unwrap();
    incoming.open(socket, None, "v53.0");
    incoming.settling = Duration::from_millis(300);
    incoming.settle();
    // The source may have to ask once more.
    let mut source = tokio::net::TcpStream::connect(there).await.unwrap();
    source.write_all(b"HAWSER CONTROL\n").await.unwrap();
    let arrival = next(&mut arrivals).await;
    assert!(matches!(arrival, Arrival::Connection(_)), "{arrival:?}");
    assert!(incoming.arrived(arrival, false).is_none());
    let arrival = next(&mut arrivals).await;
    assert!(matches!(arrival, Arrival::Settled), "{arrival:?}");
    assert!(incoming.arrived(arrival, false).is_none());
    assert_eq!(incoming.channels.len(), 0);
    tokio::task::yield_now().await;
    let refused = tokio::net::TcpStream::connect(there).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

/// What a source that has this disk is told.
async fn asked(incoming: &mut Incoming, arrivals: &mut mpsc::Receiver<Arrival>, disk: &Path) -> Vec<String> {
    let (ours, _theirs) = tokio::io::duplex(1 << 16);
    let stream: Box<dyn Stream> = Box::new(ours);
    let from = Ipv4Addr::new(10, 0, 0, 1).into();
    incoming.arrived(
        Arrival::Connection(port::Incoming::Control { stream, from }),
        true,
    );
    let channel = (0..100)
        .rev()
        .find(|channel| incoming.channels.has(*channel))
        .unwrap();
    let disk = MigratingDisk::unwritten("seed", disk.to_owned());
    let disks = describe(&[disk], For::Target).disks;
    let prepare = Prepare {
        version: VERSION,
        id: "id".into(),
        description: Description {
            disks,
            ..description()
        },
        credentials: None,
    };
    let message = Received::Message(Message::Prepare(Box::new(prepare)));
    assert!(
        incoming
            .arrived(Arrival::Received(channel, message), true)
            .is_none()
    );
    loop {
        // Not a source that is chosen: it could not be asked again.
        if let Some(Event::Prepare { reasons }) = incoming.arrived(next(arrivals).await, false) {
            return reasons;
        }
    }
}

#[tokio::test]
async fn a_disk_is_compared_as_it_is_when_the_source_asks() {
    let files = tempfile::tempdir().unwrap();
    let (theirs, ours) = (files.path().join("theirs"), files.path().join("ours"));
    std::fs::write(&theirs, "what the guest reads").unwrap();
    std::fs::write(&ours, "what the guest reads").unwrap();
    let disks = vec![MigratingDisk::unwritten("seed", ours.clone())];
    let (mut incoming, _socket, mut arrivals, _directory) = target_with(disks).await;
    assert_eq!(asked(&mut incoming, &mut arrivals, &theirs).await, [""; 0]);
    std::fs::write(&ours, "what someone wrote").unwrap();
    let reasons = asked(&mut incoming, &mut arrivals, &theirs).await;
    assert!(reasons[0].starts_with("disk seed: "), "{reasons:?}");
    std::fs::remove_file(&ours).unwrap();
    let reasons = asked(&mut incoming, &mut arrivals, &theirs).await;
    assert!(reasons[0].contains("No such file"), "{reasons:?}");
    std::fs::write(&ours, "what the guest reads").unwrap();
    assert_eq!(asked(&mut incoming, &mut arrivals, &theirs).await, [""; 0]);
}

/// What may happen to a target.
#[derive(Debug, Clone)]
enum Happening {
    Opens(u8),
    /// Over the channel of this number.
    Says(u32, Message),
    Sends(u32, Vec<u8>),
    Closes(u32),
    Vmm(Event),
    Stop,
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("id".to_owned()),
        "\\PC{0,20}",
        vec(any::<char>(), 0..40).prop_map(String::from_iter),
        Just("x\n".repeat(60_000)),
    ]
}

fn prepare() -> impl Strategy<Value = Message> {
    let version = prop_oneof![9 => Just(VERSION), 1 => any::<u32>()];
    let obstacles = prop_oneof![3 => Just(Vec::new()), 1 => vec(text(), 0..100)];
    let size = prop_oneof![3 => Just(1024), 1 => any::<u32>()];
    (version, text(), obstacles, size).prop_map(|(version, id, obstacles, size)| {
        let mut description = description();
        description.obstacles = obstacles;
        description.config = json!({"memory": {"size": size}});
        Message::Prepare(Box::new(Prepare {
            version,
            id,
            description,
            credentials: None,
        }))
    })
}

fn said_by_a_peer() -> impl Strategy<Value = Message> {
    prop_oneof![
        4 => prepare(),
        3 => text().prop_map(|id| Message::Commit { id }),
        1 => text().prop_map(|why| Message::Abort { why }),
        1 => text().prop_map(|why| Message::Gone { why }),
        1 => vec(text(), 0..4).prop_map(|reasons| Message::Refused { reasons }),
        1 => any::<bool>().prop_map(|takes_connections| Message::Prepared { takes_connections }),
        1 => Just(Message::Running),
        1 => Just(Message::Holding),
    ]
}

/// A message as it is sent, and what becomes of it on the way; or no message at all.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let sent = said_by_a_peer().prop_map(|message| {
        let body = serde_json::to_vec(&message).unwrap();
        let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(body);
        bytes
    });
    prop_oneof![
        vec(any::<u8>(), 0..300),
        (any::<u32>(), vec(any::<u8>(), 0..300)).prop_map(|(length, body)| {
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend(body);
            bytes
        }),
        (sent, any::<prop::sample::Index>(), any::<u8>(), any::<bool>()).prop_map(
            |(mut bytes, at, byte, cut)| {
                let at = at.index(bytes.len());
                match cut {
                    true => bytes.truncate(at),
                    false => bytes[at] = byte,
                }
                bytes
            }
        ),
        // A number of opening brackets that a reader which calls itself for each would not survive.
        (1..200_000_u32).prop_map(|depth| {
            let mut bytes = depth.to_be_bytes().to_vec();
            bytes.extend(vec![b'['; depth as usize]);
            bytes
        }),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    let channel = || 0..14_u32;
    let vmm = prop_oneof![
        3 => Just(Event::Listening),
        3 => Just(Event::Restored),
        2 => Just(Event::Resumed),
        1 => Just(Event::VmmFailed("failed".into())),
        1 => Just(Event::HoldOver),
    ];
    prop_oneof![
        4 => (0..4_u8).prop_map(Happening::Opens),
        6 => (channel(), said_by_a_peer()).prop_map(|(channel, message)| Happening::Says(channel, message)),
        2 => (channel(), bytes()).prop_map(|(channel, bytes)| Happening::Sends(channel, bytes)),
        1 => channel().prop_map(Happening::Closes),
        4 => vmm.prop_map(Happening::Vmm),
        1 => Just(Happening::Stop),
    ]
}

/// Returns the machine's next state.
async fn happens(
    incoming: &mut Incoming,
    state: State,
    peers: &mut Vec<DuplexStream>,
    happening: Happening,
) -> State {
    let waits = state == State::Waiting;
    let received = |channel, bytes: Vec<u8>| async move {
        let read = message::read(&mut bytes.as_slice()).await;
        let received = read.map_or_else(|error| Received::Lost(error.to_string()), Received::Message);
        Arrival::Received(channel, received)
    };
    let arrival = match happening {
        Happening::Vmm(event) => Arrival::Event(event),
        Happening::Stop => Arrival::Event(Event::Stop),
        Happening::Opens(from) => {
            // Nobody reads at its other end.
            let (ours, theirs) = tokio::io::duplex(64);
            peers.push(theirs);
            let stream: Box<dyn Stream> = Box::new(ours);
            let from = Ipv4Addr::new(10, 0, 0, from).into();
            Arrival::Connection(port::Incoming::Control { stream, from })
        }
        Happening::Says(channel, message) => Arrival::Received(channel, Received::Message(message)),
        Happening::Sends(channel, bytes) => received(channel, bytes).await,
        Happening::Closes(channel) => Arrival::Received(channel, Received::Lost("closed".into())),
    };
    // The disks are read by a task; here the answer comes at once.
    let asked = match &arrival {
        Arrival::Received(channel, Received::Message(Message::Prepare(prepare))) => {
            Some((*channel, prepare.clone()))
        }
        _ => None,
    };
    let mut event = incoming.arrived(arrival, waits);
    if let (None, Some((channel, prepare))) = (&event, asked) {
        let compared = Compared {
            channel,
            prepare,
            disks: Vec::new(),
            problems: Vec::new(),
        };
        event = incoming.arrived(Arrival::Compared(compared), waits);
    }
    let Some(event) = event else {
        return state;
    };
    let texts = match &event {
        Event::Prepare { reasons } => reasons.as_slice(),
        Event::Abort(why) => std::slice::from_ref(why),
        _ => &[],
    };
    for text in texts {
        assert!(
            text.len() < 10_000 && !text.contains(char::is_control),
            "{text:?}"
        );
    }
    assert!(texts.len() <= 65, "{} reasons", texts.len());
    let (state, actions) = state.on(event);
    for action in actions {
        incoming.perform(action, &Api::new("/nowhere".as_ref()));
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Nothing that a peer sends, in whatever state, in whatever order, ends the launcher or makes it keep more and more.
    #[test]
    fn whatever_is_sent_in_whatever_state_is_borne(happenings in vec(happening(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (mut incoming, _socket, arrivals, _directory) = target().await;
            drop(arrivals);
            let (mut state, mut peers) = (State::Waiting, Vec::new());
            for what in happenings {
                state = happens(&mut incoming, state, &mut peers, what).await;
                assert!(incoming.channels.len() <= 8, "{} channels", incoming.channels.len());
            }
        });
    }

    /// A message is read to its end or is an error, and no more of it is taken than a message may have.
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in bytes()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut rest = bytes.as_slice();
        let read = runtime.block_on(message::read(&mut rest));
        let taken = bytes.len() - rest.len();
        prop_assert!(taken <= 4 + (256 << 10));
        if let Err(error) = read {
            prop_assert!(error.to_string().len() < 6000, "{}", error.to_string().len());
        }
    }
}
