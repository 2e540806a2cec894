//! By which open TCP connections move along: what passt asks of its helper, passt-repair(1).
//!
//! To take a socket's state and to put it into another one, the socket must be in repair mode (TCP_REPAIR), and that
//! takes CAP_NET_ADMIN, which passt has not. It sends its sockets to a helper that has, one byte to say which mode, and
//! waits for the same byte. A passt that was started with `--fd` takes its standard input for the connection to that
//! helper (seen in 2025_05_03); a passt that does not has no helper here, and its connections end.
//!
//! Between passt and the helper stands this relay, so that connections are put aside only where they can be taken up:
//! the launchers have agreed, for one hand-off, that the other pod has the same addresses and a helper too. Otherwise
//! passt is answered as if it had been done. passt then notices for each connection that repair mode was not set, and
//! marks it to be reset by the target.
//!
//! At the source passt closes what it has put aside, and others go on sending for a while. The pod's kernel would answer
//! with a reset, from passt's end of the connection until the network leads to the other pod, beyond the end of this
//! process. So the half that keeps the capability has it send none, from before the transfer on ([`Repair::begin`]).

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hawser_linux::fd_socket;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Mutex;

/// For the helper to come, and to answer: it does nothing else.
const HELPER_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
const SHOW_INTERVAL: Duration = Duration::from_millis(50);
/// In the directory for as long as connections may be put aside, and for good where they went along.
pub(super) const MARK: &str = "aside";
/// The one who waits in the directory looks for this ending.
const ENDING: &str = ".repair";
const BOUND: &str = "new";
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
    /// Where the helper waits for a socket to appear; absent where there is no helper.
    directory: Option<PathBuf>,
    helper: Arc<Mutex<Option<UnixStream>>>,
}

impl Repair {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            helper: Arc::default(),
        }
    }

    pub(super) fn is_possible(&self) -> bool {
        self.directory.is_some()
    }

    /// From here on what passt asks for is done. What it asks meanwhile waits.
    ///
    /// The privileged half learns nothing but that a helper has ended, as each does with its connection. It then looks
    /// for our mark, sees to the resets, and has another helper come. So once that one is here, there are none.
    pub(super) async fn begin(&self, side: Side) {
        let Some(directory) = &self.directory else { return };
        let mut helper = self.helper.lock().await;
        *helper = None;
        let come = async {
            if side == Side::Source {
                File::create(directory.join(MARK))?;
                drop(meet(directory).await?);
            }
            meet(directory).await
        };
        match come.await {
            Ok(came) => *helper = Some(came),
            Err(error) => {
                tracing::warn!(
                    event = "passt-repair-failed",
                    "passt-repair: {error}: connections that are open will end"
                );
                // So that their peers get resets.
                let _ = fs::remove_file(directory.join(MARK));
            }
        }
    }

    /// Nothing is put aside from here on: the guest has not gone, or goes to other addresses.
    pub(super) async fn end(&self) {
        let Some(directory) = &self.directory else { return };
        let mut helper = self.helper.lock().await;
        let marked = fs::remove_file(directory.join(MARK)).is_ok();
        if helper.take().is_none() && marked {
            drop(meet(directory).await);
        }
    }

    /// Serves one passt, whose standard input is the other end of `passt`.
    pub(super) async fn serve(self, passt: UnixStream) {
        let mut asked = false;
        while let Ok(Some((command, sockets))) = receive(&passt).await {
            asked = true;
            let mut helper = self.helper.lock().await;
            if let Some(there) = helper.as_mut()
                && let Err(error) = pass_on(there, command, &sockets).await
            {
                tracing::warn!(
                    event = "passt-repair-failed",
                    "passt-repair: {error}: connections that are open may end"
                );
                *helper = None;
            }
            if send(&passt, command, &[]).await.is_err() {
                break;
            }
        }
        // It has closed its end: its state is given or taken. One that had nothing to ask may be the one before.
        if asked {
            *self.helper.lock().await = None;
        }
    }
}

/// To the helper, and its answer.
async fn pass_on(helper: &mut UnixStream, command: u8, sockets: &[OwnedFd]) -> io::Result<()> {
    let asked = async {
        send(helper, command, sockets).await?;
        let mut answer = [0];
        helper.read_exact(&mut answer).await?;
        if answer == [command] {
            Ok(())
        } else {
            Err(io::Error::other("it answered otherwise"))
        }
    };
    let silent = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
    tokio::time::timeout(HELPER_TIMEOUT, asked)
        .await
        .unwrap_or_else(silent)
}

/// Shows the helper a socket, and waits until it has come to it.
async fn meet(directory: &Path) -> io::Result<UnixStream> {
    let shown = Shown::new(directory)?;
    let deadline = Instant::now() + HELPER_TIMEOUT;
    // One that has only been started may not look yet, and it looks at what is created while it does.
    for count in 0.. {
        shown.again(count)?;
        if let Ok(accepted) = tokio::time::timeout(SHOW_INTERVAL, shown.listener.accept()).await {
            return Ok(accepted?.0);
        }
        if Instant::now() > deadline {
            break;
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "it did not connect"))
}

/// A socket under any number of names, which are gone with it. None goes before: the helper may be on its way.
struct Shown<'a> {
    directory: &'a Path,
    listener: UnixListener,
}

impl<'a> Shown<'a> {
    fn new(directory: &'a Path) -> io::Result<Self> {
        clear(directory)?;
        let bound = directory.join(BOUND);
        let listener = UnixListener::bind(&bound)?;
        // The helper may be root without a capability for files. Who can get here the directory decides.
        fs::set_permissions(&bound, Permissions::from_mode(0o666))?;
        Ok(Self { directory, listener })
    }

    /// It connects as soon as the name appears, so that comes last.
    fn again(&self, count: u32) -> io::Result<()> {
        fs::hard_link(
            self.directory.join(BOUND),
            self.directory.join(format!("{count}{ENDING}")),
        )
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        // What is left here the next one clears.
        let _ = clear(self.directory);
    }
}

fn clear(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == BOUND || name.as_encoded_bytes().ends_with(ENDING.as_bytes()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// The next command with its sockets; none at the end. To be awaited to its end.
async fn receive(from: &UnixStream) -> io::Result<Option<(u8, Vec<OwnedFd>)>> {
    let mut byte = [0];
    let received = from.async_io(Interest::READABLE, || fd_socket::receive(from, &mut byte));
    let (read, sockets) = received.await?;
    let [command] = byte;
    Ok((read > 0).then_some((command, sockets)))
}

async fn send(to: &UnixStream, byte: u8, sockets: &[OwnedFd]) -> io::Result<()> {
    to.async_io(Interest::WRITABLE, || fd_socket::send(to, &[byte], sockets))
        .await
        .map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use tempfile::TempDir;

    use super::*;

    /// TCP_REPAIR_ON.
    const ON: u8 = 1;
    /// For what is wanted on one machine.
    const SOON: Duration = Duration::from_secs(5);

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
        let shown = directory.path().join(format!("1{ENDING}"));
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

    fn connection() -> OwnedFd {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap().into()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn before_a_source_puts_anything_aside_the_other_half_has_seen_its_mark() {
        let (directory, repair, passt) = relay();
        let marked = || directory.path().join(MARK).exists();
        let came = async {
            let first = come(&directory).await;
            assert!(receive(&first).await.unwrap().is_none(), "it ends");
            assert!(marked());
            come(&directory).await
        };
        let ((), helper) = tokio::join!(repair.begin(Side::Source), came);
        let ours = [connection()];
        let ((), asked) = tokio::join!(ask(&passt, ON, &ours), help(&helper, 1));
        assert_eq!(asked, [(ON, 1)]);
        // Its state is given.
        drop(passt);
        assert!(receive(&helper).await.unwrap().is_none());
        assert!(marked(), "until the guest stays");
        let ((), last) = tokio::join!(repair.end(), come(&directory));
        assert!(!marked());
        assert!(
            receive(&last).await.unwrap().is_none(),
            "for the other half to look"
        );
        assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_target_makes_no_mark_and_a_passt_that_asked_nothing_leaves_the_helper_to_the_next() {
        let (directory, repair, passt) = relay();
        let (first, ended) = UnixStream::pair().unwrap();
        let serving = tokio::spawn(repair.clone().serve(first));
        let ((), helper) = tokio::join!(repair.begin(Side::Target), come(&directory));
        assert!(!directory.path().join(MARK).exists());
        drop(ended);
        serving.await.unwrap();
        let ours = [connection(), connection()];
        let ((), asked) = tokio::join!(ask(&passt, ON, &ours), help(&helper, 1));
        assert_eq!(asked, [(ON, 2)]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn passt_is_answered_whatever_becomes_of_the_helper() {
        let (directory, repair, passt) = relay();
        let ours = [connection()];
        ask(&passt, ON, &ours).await;
        let ((), helper) = tokio::join!(repair.begin(Side::Target), come(&directory));
        drop(helper);
        ask(&passt, ON, &ours).await;
        let began = Instant::now();
        repair.begin(Side::Source).await;
        assert!(began.elapsed() < HELPER_TIMEOUT * 3, "nobody comes");
        assert!(!directory.path().join(MARK).exists());
        ask(&passt, ON, &ours).await;
    }
}
