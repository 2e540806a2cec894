//! By which open TCP connections move along: what passt asks of its helper, passt-repair(1).
//!
//! To take a socket's state and to put it into another one, the socket must be in repair mode (TCP_REPAIR), and that takes
//! CAP_NET_ADMIN, which passt has not. It sends its sockets to a helper that has, one byte to say which mode, and waits for
//! the same byte. A passt that was started with `--fd` takes its standard input for the connection to that helper (seen in
//! 2025_05_03); a passt that does not has no helper here, and its connections end.
//!
//! Between passt and the helper stands this relay, so that connections are put aside only where they can be taken up: the
//! launchers have agreed, for one hand-off, that the other pod has the same addresses and a helper too. Otherwise passt is
//! answered as if it had been done. That it was not it finds out by itself for each connection, and marks that as one for
//! the target to reset.
//!
//! At the source the relay keeps what has been put aside open, behind a filter that drops whatever comes: a segment that
//! arrives after passt has read a connection's queues would be acknowledged and lost, and one that arrives after passt has
//! closed it would be answered by the pod's kernel with a reset. For the time after, when this process is gone, the
//! privileged half silences the kernel: it looks for a mark of ours whenever the helper ends, as that does with its connection.

use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use socket2::{SockFilter, SockRef};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;

/// What a passt can send with one command (SCM_MAX_FD of the kernel).
const MOST: usize = 253;
const ANCILLARY: usize = rustix::cmsg_space!(ScmRights(MOST));
/// TCP_REPAIR_ON; the two others that there are, off with and without a window probe, end it.
const ON: u8 = 1;
/// For the helper to come, and to answer: it does nothing else.
const PATIENCE: Duration = Duration::from_secs(3);
/// In the directory as long as something is put aside.
pub(super) const MARK: &str = "aside";
/// The one who waits in the directory looks for this ending.
const NAME: &str = "passt.repair";
/// Classic BPF: return 0, which keeps nothing of a packet.
const DROP_ALL: [SockFilter; 1] = [SockFilter::new(0x06, 0, 0, 0)];

/// What becomes of connections in this hand-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// They are put aside here, to be gone when the guest is.
    Source,
    /// They are taken up here.
    Target,
}

/// The way to the helper, shared by every passt of a NIC.
#[derive(Debug, Clone)]
pub(super) struct Repair {
    /// Where the helper waits for a socket to appear; none where nobody does.
    directory: Option<PathBuf>,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    helper: Option<(UnixStream, Side)>,
    aside: Vec<OwnedFd>,
}

impl Repair {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            inner: Arc::default(),
        }
    }

    pub(super) fn is_possible(&self) -> bool {
        self.directory.is_some()
    }

    /// From here on what passt asks for is done. What it asks meanwhile waits.
    pub(super) async fn begin(&self, side: Side) {
        let Some(directory) = &self.directory else { return };
        let mut inner = self.inner.lock().await;
        if let Some((helper, before)) = &mut inner.helper
            && helper
                .try_read(&mut [0])
                .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
        {
            *before = side;
            return;
        }
        match meet(directory).await {
            Ok(helper) => inner.helper = Some((helper, side)),
            Err(error) => tracing::warn!("passt-repair: {error}: connections that are open will end"),
        }
    }

    /// Nothing is put aside from here on, and what has been ends: the guest has not gone, or goes to other addresses.
    pub(super) async fn end(&self) {
        let Some(directory) = &self.directory else { return };
        let mut inner = self.inner.lock().await;
        let marked = mark(directory, false);
        let helper = std::mem::take(&mut *inner).helper;
        // The privileged half looks when a helper ends: this one's end, or that of one that comes only for it.
        if marked && helper.is_none() {
            drop(meet(directory).await);
        }
    }

    /// Serves one passt, whose standard input is the other end of `passt`.
    pub(super) async fn serve(self, passt: UnixStream) {
        let mut asked = false;
        while let Ok(Some((command, sockets))) = receive(&passt).await {
            asked = true;
            let marks = self.inner.lock().await.perform(command, sockets).await;
            if let (Some(aside), Some(directory)) = (marks, &self.directory) {
                mark(directory, aside);
            }
            if send(&passt, command, &[]).await.is_err() {
                break;
            }
        }
        // It has closed its end: its state is given or taken. One that had nothing to ask may be the one before.
        if asked {
            self.inner.lock().await.helper = None;
        }
    }
}

impl Inner {
    /// Tells what becomes of the mark.
    async fn perform(&mut self, command: u8, sockets: Vec<OwnedFd>) -> Option<bool> {
        let (helper, side) = self.helper.as_mut()?;
        let source = *side == Side::Source;
        if source {
            filter(&sockets, command == ON);
        }
        let asked = async {
            send(helper, command, &sockets).await?;
            let mut answer = [0];
            helper.read_exact(&mut answer).await?;
            Ok::<_, io::Error>(answer == [command])
        };
        let error = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(true)) => None,
            Ok(Ok(false)) => Some("it answered otherwise".to_owned()),
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("it does not answer".to_owned()),
        };
        match error {
            None if source && command == ON => {
                self.aside.extend(sockets);
                Some(true)
            }
            None if source => {
                self.aside.clear();
                Some(false)
            }
            None => None,
            Some(error) => {
                tracing::warn!("passt-repair: {error}: connections that are open may end");
                filter(&sockets, false);
                self.helper = None;
                None
            }
        }
    }
}

/// Shows the helper a socket, and waits until it has come to it.
async fn meet(directory: &Path) -> io::Result<UnixStream> {
    let (bound, shown) = (directory.join("new"), directory.join(NAME));
    let clear = || {
        for path in [&bound, &shown] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    };
    clear()?;
    let listener = UnixListener::bind(&bound)?;
    // The helper may be root without a capability for files. Who can get here the directory decides.
    fs::set_permissions(&bound, Permissions::from_mode(0o666))?;
    // It looks at what is created, and connects at once: so the name appears when all is ready.
    fs::hard_link(&bound, &shown)?;
    let came = tokio::time::timeout(PATIENCE, listener.accept()).await;
    clear()?;
    match came {
        Ok(accepted) => Ok(accepted?.0),
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "it has not come")),
    }
}

/// Whether it was there before.
fn mark(directory: &Path, aside: bool) -> bool {
    let path = directory.join(MARK);
    if aside {
        match fs::File::create_new(&path) {
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
            Err(error) => {
                tracing::warn!("{}: {error}: connections that move may be reset", path.display());
                false
            }
        }
    } else {
        fs::remove_file(&path).is_ok()
    }
}

/// Drops whatever comes for these sockets from here on; or takes that back.
fn filter(sockets: &[OwnedFd], all: bool) {
    for socket in sockets {
        let socket = SockRef::from(socket);
        let done = if all {
            socket.attach_filter(&DROP_ALL)
        } else {
            socket.detach_filter()
        };
        match done {
            // None was attached.
            Err(error) if !all && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("a connection's filter: {error}"),
            Ok(()) => {}
        }
    }
}

/// The next command with its sockets; none at the end. To be awaited to its end.
async fn receive(from: &UnixStream) -> io::Result<Option<(u8, Vec<OwnedFd>)>> {
    let mut byte = [0];
    let some = from.async_io(Interest::READABLE, || {
        let mut space = [MaybeUninit::uninit(); ANCILLARY];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags)?;
        let mut sockets = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = message {
                sockets.extend(sent);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(io::Error::other("more sockets than one message has"));
        }
        Ok((received.bytes, sockets))
    });
    let (read, sockets) = some.await?;
    let [command] = byte;
    Ok((read > 0).then_some((command, sockets)))
}

async fn send(to: &UnixStream, byte: u8, sockets: &[OwnedFd]) -> io::Result<()> {
    to.async_io(Interest::WRITABLE, || {
        let mut space = [MaybeUninit::uninit(); ANCILLARY];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let borrowed: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
        if !borrowed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
            return Err(io::Error::other("more sockets than one message has"));
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(to, &[IoSlice::new(&[byte])], &mut ancillary, flags)?;
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use tempfile::TempDir;

    use super::*;

    const OFF: u8 = 0;
    /// For what is wanted on one machine; and for what is not to come.
    const SOON: Duration = Duration::from_secs(5);
    const LONG: Duration = Duration::from_millis(300);

    /// A relay, and passt's end of it.
    fn relay() -> (TempDir, Repair, UnixStream) {
        let directory = tempfile::tempdir().unwrap();
        let repair = Repair::new(Some(directory.path().to_owned()));
        let (ours, passt) = UnixStream::pair().unwrap();
        tokio::spawn(repair.clone().serve(ours));
        (directory, repair, passt)
    }

    /// A stand-in for passt-repair: comes when it is shown a socket, and says what it was asked for.
    async fn come(directory: &TempDir) -> UnixStream {
        let shown = directory.path().join(NAME);
        loop {
            if let Ok(stream) = UnixStream::connect(&shown).await {
                return stream;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What passt does: a command with sockets, and no further before the answer.
    async fn ask(passt: &UnixStream, command: u8, sockets: &[OwnedFd]) {
        send(passt, command, sockets).await.unwrap();
        let answered = tokio::time::timeout(SOON, receive(passt)).await.unwrap();
        assert_eq!(answered.unwrap().unwrap().0, command);
    }

    async fn help(helper: &UnixStream, times: usize) -> Vec<(u8, usize)> {
        let mut asked = Vec::new();
        for _ in 0..times {
            let (command, sockets) = receive(helper).await.unwrap().unwrap();
            asked.push((command, sockets.len()));
            send(helper, command, &[]).await.unwrap();
        }
        asked
    }

    fn connection() -> (OwnedFd, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0.into(), peer)
    }

    /// What comes by `stream` within `time`.
    fn heard(stream: &TcpStream, time: Duration) -> io::Result<usize> {
        stream.set_read_timeout(Some(time)).unwrap();
        (&mut &*stream).read(&mut [0; 8])
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_the_source_puts_aside_hears_nothing_until_it_is_put_back() {
        let (directory, repair, passt) = relay();
        let (ours, mut peer) = connection();
        let socket = TcpStream::from(ours.try_clone().unwrap());
        let ((), helper) = tokio::join!(repair.begin(Side::Source), come(&directory));
        let ours = [ours];
        let ((), asked) = tokio::join!(ask(&passt, ON, &ours), help(&helper, 1));
        assert_eq!(asked, [(ON, 1)]);
        peer.write_all(b"meanwhile").unwrap();
        assert_eq!(
            heard(&socket, LONG).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        let ((), asked) = tokio::join!(ask(&passt, OFF, &ours), help(&helper, 1));
        assert_eq!(asked, [(OFF, 1)]);
        assert!(!directory.path().join(MARK).exists());
        assert_eq!(heard(&socket, SOON).unwrap(), 8, "it was sent again");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_passt_has_closed_is_not_reset_before_the_guest_is_gone_or_stays() {
        let (directory, repair, passt) = relay();
        let (ours, mut peer) = connection();
        let ((), helper) = tokio::join!(repair.begin(Side::Source), come(&directory));
        let ours = [ours];
        tokio::join!(ask(&passt, ON, &ours), help(&helper, 1));
        let marked = || directory.path().join(MARK).exists();
        assert!(marked());
        drop((ours, passt));
        assert!(receive(&helper).await.unwrap().is_none(), "the helper may go");
        peer.write_all(b"meanwhile").unwrap();
        assert_eq!(heard(&peer, LONG).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let ((), poked) = tokio::join!(repair.end(), come(&directory));
        assert!(!marked());
        assert!(receive(&poked).await.unwrap().is_none(), "for the keeper to look");
        // Without repair mode, which needs the capability, a socket says that it is closed.
        assert!(!heard(&peer, SOON).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_target_hears_at_once_and_one_that_asks_nothing_leaves_the_helper_to_the_next() {
        let (directory, repair, passt) = relay();
        let (first, ended) = UnixStream::pair().unwrap();
        let serving = tokio::spawn(repair.clone().serve(first));
        let (ours, mut peer) = connection();
        let socket = TcpStream::from(ours.try_clone().unwrap());
        let ((), helper) = tokio::join!(repair.begin(Side::Target), come(&directory));
        drop(ended);
        serving.await.unwrap();
        let ours = [ours];
        tokio::join!(ask(&passt, ON, &ours), help(&helper, 1));
        peer.write_all(b"at once").unwrap();
        assert_eq!(heard(&socket, SOON).unwrap(), 7);
        // A hand-off later it is the same one.
        repair.begin(Side::Source).await;
        drop(passt);
        assert!(receive(&helper).await.unwrap().is_none());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn passt_is_answered_whatever_becomes_of_the_helper() {
        let (directory, repair, passt) = relay();
        let (ours, mut peer) = connection();
        let socket = TcpStream::from(ours.try_clone().unwrap());
        let ours = [ours];
        ask(&passt, ON, &ours).await;
        let ((), helper) = tokio::join!(repair.begin(Side::Source), come(&directory));
        drop(helper);
        ask(&passt, ON, &ours).await;
        peer.write_all(b"go on").unwrap();
        assert_eq!(heard(&socket, SOON).unwrap(), 5, "nothing is left on it");
        let began = Instant::now();
        repair.begin(Side::Source).await;
        assert!(began.elapsed() < PATIENCE * 3, "nobody comes");
        ask(&passt, ON, &ours).await;
        assert!(std::fs::read_dir(directory.path()).unwrap().next().is_none());
    }
}
