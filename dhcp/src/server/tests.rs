use super::*;
use crate::bucket::{BURST, RATE};
use crate::event::{Dhcp4, Dhcp4Outcome, Ignored};
use crate::testing::*;

use std::cell::RefCell;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;

use tokio::net::UnixDatagram as Guest;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet};

type Events = Rc<RefCell<Vec<Event>>>;

/// A served channel: the guest's end, what was observed, the way to stop it, and its end.
struct Served {
    guest: Guest,
    events: Events,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), Error>>,
}

fn start(lease: Lease) -> Served {
    start_with_room(lease, 200_000)
}

/// With room for this many bytes of replies that the guest has not read.
fn start_with_room(lease: Lease, room: usize) -> Served {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    nix::sys::socket::setsockopt(&ours, nix::sys::socket::sockopt::SndBuf, &room).unwrap();
    let (stop, stopped) = oneshot::channel();
    let events = Events::default();
    let log = events.clone();
    let ended = tokio::task::spawn_local(async move {
        let observe = move |event| log.borrow_mut().push(event);
        serve(ours.into(), lease, observe, async { drop(stopped.await) }).await
    });
    Served {
        guest: Guest::from_std(theirs).unwrap(),
        events,
        stop,
        ended,
    }
}

impl Served {
    async fn receive(&self) -> Sent {
        let mut buffer = [0; 2048];
        let wait = tokio::time::timeout(Duration::from_secs(5), self.guest.recv(&mut buffer));
        let len = wait.await.expect("a frame within five seconds").unwrap();
        sent(&buffer[..len])
    }

    async fn end(self) -> (Result<(), Error>, Vec<Event>) {
        drop(self.stop);
        let wait = tokio::time::timeout(Duration::from_secs(5), self.ended);
        let result = wait.await.expect("an end within five seconds").unwrap();
        (result, self.events.take())
    }
}

/// As the launcher runs it: one thread, and a future that need not be `Send`.
fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn discover() -> Vec<u8> {
    let message = message4(Ipv4Addr::UNSPECIFIED, 0, &options4(&[(53, &[1])]));
    frame4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, &message)
}

fn is_advertisement(sent: &Sent) -> bool {
    sent.payload.first() == Some(&134)
}

#[test]
fn advertises_at_start_then_answers_until_cancelled() {
    run(async {
        let served = start(lease());
        assert!(is_advertisement(&served.receive().await));
        served.guest.send(&discover()).await.unwrap();
        assert_eq!(decode4(&served.receive().await.payload).yiaddr(), GUEST);
        served
            .guest
            .send(&solicitation(GUEST6_LOCAL, 255, 0, &[]))
            .await
            .unwrap();
        assert_eq!(served.receive().await.to, GUEST6_LOCAL);
        let (result, events) = served.end().await;
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(events[0], Event::RouterAdvertisement);
        let offered = Dhcp4Outcome::Offered(GUEST);
        assert!(
            matches!(&events[1], Event::Dhcp4 { request: Dhcp4::Discover, outcome, .. } if *outcome == offered)
        );
        assert_eq!(events[2..], [Event::RouterSolicitation { unicast: true }]);
    });
}

#[test]
fn without_ipv6_nothing_is_advertised() {
    run(async {
        let mut lease = lease();
        lease.v6 = None;
        let served = start(lease);
        served.guest.send(&discover()).await.unwrap();
        assert!(!is_advertisement(&served.receive().await));
        assert!(!served.end().await.1.contains(&Event::RouterAdvertisement));
    });
}

/// RFC 4861 6.2.4 and 6.2.6, with the clock of the test: three at 16 s, then 200 to 600 s; solicited ones to all
/// nodes wait for their turn.
#[test]
fn advertisements_keep_their_times() {
    run(async {
        tokio::time::pause();
        let served = start(lease());
        let start = Instant::now();
        let mut at = Vec::new();
        let mut buffer = [0; 2048];
        for _ in 0..5 {
            served.guest.recv(&mut buffer).await.unwrap();
            at.push(start.elapsed().as_secs());
        }
        assert_eq!(at[..3], [0, 16, 32]);
        assert!(
            at.windows(2)
                .skip(2)
                .all(|pair| (200..=600).contains(&(pair[1] - pair[0]))),
            "{at:?}"
        );
        let before = Instant::now();
        for _ in 0..3 {
            served
                .guest
                .send(&solicitation(Ipv6Addr::UNSPECIFIED, 255, 0, &[]))
                .await
                .unwrap();
        }
        served.guest.recv(&mut buffer).await.unwrap();
        assert_eq!(before.elapsed().as_secs(), 3);
        served.guest.recv(&mut buffer).await.unwrap();
        assert!(before.elapsed().as_secs() >= 203);
    });
}

#[test]
fn a_flood_is_bounded_told_and_survived() {
    run(async {
        let served = start(lease());
        assert!(is_advertisement(&served.receive().await));
        let mut answered = 0;
        let mut buffer = [0; 2048];
        let begun = Instant::now();
        for _ in 0..3000 {
            served.guest.send(&discover()).await.unwrap();
            while served.guest.try_recv(&mut buffer).is_ok() {
                answered += 1;
            }
        }
        // The burst, and what the rate allows in the time the flood took.
        let burst = u64::from(BURST);
        let most = burst + u64::from(RATE) * (begun.elapsed().as_secs() + 1);
        assert!((burst..=most).contains(&answered), "{answered} answered");
        // Served again once the bucket has filled, without a restart.
        let recovered = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                served.guest.send(&discover()).await.unwrap();
                if served.guest.try_recv(&mut buffer).is_ok() {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), recovered)
            .await
            .expect("answers after the flood");
        let (result, events) = served.end().await;
        assert!(result.is_ok(), "{result:?}");
        let thrown_away: u64 = events
            .iter()
            .map(|event| {
                if let Event::Throttled { frames } = event {
                    *frames
                } else {
                    0
                }
            })
            .sum();
        assert!(
            thrown_away > 0 && events.len() < 3000,
            "{thrown_away} of {} events",
            events.len()
        );
    });
}

#[test]
fn bad_frames_and_a_guest_that_does_not_read_are_survived() {
    run(async {
        let served = start_with_room(lease(), 8192);
        assert!(is_advertisement(&served.receive().await));
        let mut hlen = discover();
        hlen[14 + 28 + 2] = 17;
        hlen[14 + 20 + 6..14 + 20 + 8].fill(0);
        for bad in [&[0u8][..], &[0xff; 1518], &discover()[..200], &hlen] {
            served.guest.send(bad).await.unwrap();
        }
        // Far more than the channel queues, unread: replies are dropped, not waited for.
        for _ in 0..90 {
            served.guest.send(&discover()).await.unwrap();
        }
        let mut buffer = [0; 2048];
        let done = |events: &Events| {
            let events = events.borrow();
            events
                .iter()
                .filter(|event| matches!(event, Event::Dhcp4 { .. }))
                .count()
                == 90
        };
        let wait = async {
            while !done(&served.events) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait)
            .await
            .expect("all frames looked at");
        while served.guest.try_recv(&mut buffer).is_ok() {}
        served.guest.send(&discover()).await.unwrap();
        assert_eq!(decode4(&served.receive().await.payload).yiaddr(), GUEST);
        let (result, events) = served.end().await;
        assert!(result.is_ok(), "{result:?}");
        assert!(
            events
                .iter()
                .any(|event| matches!(event, Event::WriteDropped { frames: 2.., .. }))
        );
        let malformed = events
            .iter()
            .filter(|event| matches!(event, Event::Malformed { .. }))
            .count();
        assert_eq!(malformed, 3, "{events:?}");
        assert!(events.contains(&Event::Ignored(Ignored::ForeignMac)));
    });
}

#[test]
fn a_closed_channel_ends_the_server() {
    run(async {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(theirs);
        let mut v4_only = lease();
        v4_only.v6 = None;
        let result = serve(ours.into(), v4_only, |_| {}, std::future::pending()).await;
        assert!(matches!(result, Err(Error::Closed)), "{result:?}");
    });
}

#[test]
fn a_descriptor_that_cannot_be_waited_for_is_refused() {
    run(async {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let result = serve(file.into(), lease(), |_| {}, std::future::pending()).await;
        assert!(matches!(result, Err(Error::Wait(_))), "{result:?}");
    });
}

/// Not needed by the launcher's one thread, but nothing in here should take it away.
#[test]
fn the_server_can_move_between_threads() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    let (ours, _theirs) = UnixDatagram::pair().unwrap();
    drop(send(serve(ours.into(), lease(), |_| {}, std::future::ready(()))));
}
