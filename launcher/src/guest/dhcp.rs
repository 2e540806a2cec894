//! Serves the guest its addresses, and tells the pod's network of one that has come from another pod.

use std::os::fd::OwnedFd;
use std::time::Duration;

use hawser_dhcp::{announcements, serve};
use hawser_netsetup::open_tap;
use tokio::sync::watch;

use super::heard::Heard;
use crate::error::chain;
use crate::nic::Server;

/// A server whose channel broke is started again after this.
const SERVER_PAUSE: Duration = Duration::from_secs(1);
/// RFC 5227, section 2.3: two, two seconds apart; one more, since nobody asks for a guest's address when it moves.
const ANNOUNCEMENTS: u32 = 3;
const ANNOUNCEMENT_INTERVAL: Duration = Duration::from_secs(2);

/// Serves one NIC until `ended` says so, over a new channel whenever the old one breaks.
/// `arrived`: it has come from another pod.
pub(super) async fn serve_guest(
    Server {
        interface,
        tap,
        lease,
        announces,
    }: Server,
    arrived: bool,
    heard: Heard,
    ended: watch::Receiver<()>,
) {
    let mut announcements = (announces && arrived).then(|| announcements(&lease));
    loop {
        let cancel = {
            let mut ended = ended.clone();
            // Only the sender's end completes this: nothing is ever sent.
            async move { while ended.changed().await.is_ok() {} }
        };
        let observer = |event: hawser_dhcp::Event| {
            heard.note(&interface, &event);
            match event {
                hawser_dhcp::Event::Ignored(_) => {
                    tracing::debug!(event = event.name(), tap = %tap, "{tap}: {event}")
                }
                event => tracing::info!(event = event.name(), tap = %tap, "{tap}: {event}"),
            }
        };
        let channel: Result<OwnedFd, _> = open_tap(&tap);
        if let Ok(channel) = &channel
            && let Some(frames) = announcements.take()
            && let Ok(channel) = channel.try_clone()
        {
            tokio::spawn(announce(tap.clone(), channel, frames));
        }
        let result = match channel {
            Ok(channel) => serve(channel, lease.clone(), observer, cancel)
                .await
                .map_err(|error| chain(&error)),
            Err(error) => Err(chain(&error)),
        };
        match result {
            Ok(()) => return,
            Err(why) => {
                tracing::error!(
                    event = "dhcp-server-failed",
                    tap = %tap,
                    "{tap}: the guest gets no DHCP and no router advertisements: {why}"
                )
            }
        }
        tokio::time::sleep(SERVER_PAUSE).await;
    }
}

/// Tells the pod's network where the guest is now, more than once: a frame may be lost, and a switch's port may forward
/// nothing at first.
async fn announce(tap: String, channel: OwnedFd, frames: Vec<Vec<u8>>) {
    tracing::info!(
        event = "addresses-announced",
        tap = %tap,
        "{tap}: the guest's addresses are announced from this pod"
    );
    for round in 0..ANNOUNCEMENTS {
        if round > 0 {
            tokio::time::sleep(ANNOUNCEMENT_INTERVAL).await;
        }
        for frame in &frames {
            if let Err(errno) = nix::unistd::write(&channel, frame) {
                tracing::warn!(
                    event = "announcement-failed",
                    tap = %tap,
                    "{tap}: an announcement could not be sent: {errno}"
                );
            }
        }
    }
}
