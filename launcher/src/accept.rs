//! Accepts connections for as long as there is somebody to accept them. accept(2) fails while the process or the node is out of
//! descriptors or memory, and for a connection that was broken off before it was taken. Neither is a reason to stop listening:
//! whoever brought it about could then shut a port for good.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::libc;
use tokio::time::Instant;

/// Until there may be descriptors again. What waits in the kernel's queue meanwhile is not lost.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// However often it fails, it is logged no more often than this.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// One socket's connections, one after another.
#[derive(Debug)]
pub(crate) struct Accepting {
    what: &'static str,
    logged: Option<Instant>,
}

impl Accepting {
    /// `what` is listened at, for the log.
    pub(crate) fn at(what: &'static str) -> Self {
        Self { what, logged: None }
    }

    /// The next connection, by a listener's `poll_accept`.
    pub(crate) async fn next<T>(
        &mut self,
        mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> T {
        loop {
            match poll_fn(&mut accept).await {
                Ok(accepted) => return accepted,
                // That connection's own end; the next one may be there already.
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {
                    tokio::task::yield_now().await
                }
                Err(error) => {
                    self.log(&error);
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    fn log(&mut self, error: &io::Error) {
        if self.logged.is_some_and(|logged| logged.elapsed() < LOG_INTERVAL) {
            return;
        }
        self.logged = Some(Instant::now());
        tracing::warn!(
            event = "accept-failed",
            "{}: a connection cannot be accepted now, and is tried again: {error}",
            self.what
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_error_ends_listening() {
        let errors = [
            libc::EMFILE,
            libc::ECONNABORTED,
            libc::ENFILE,
            libc::ENOMEM,
            libc::ENOBUFS,
            libc::EPROTO,
            libc::EPERM,
        ];
        let mut errors = errors.into_iter();
        let mut accepting = Accepting::at("a test");
        let accepted = accepting
            .next(|_| {
                Poll::Ready(match errors.next() {
                    Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                    None => Ok(7),
                })
            })
            .await;
        assert_eq!(accepted, 7);
        assert!(accepting.logged.is_some());
    }
}
