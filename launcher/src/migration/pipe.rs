//! Bytes from one connection to another by way of a pipe, without a copy to this process and back: splice(2) moves what
//! the kernel has of them by reference. Whoever carries them sees how many there are, and not what they are.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes, and as many pages; what an unprivileged process may have (`fs.pipe-max-size`).
const CAPACITY: usize = 1 << 20;

/// Between two connections. What has been taken and not given is in the pipe.
#[derive(Debug)]
pub(super) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    filled: usize,
}

impl Pipe {
    pub(super) fn new() -> io::Result<Self> {
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A user may have too many large ones; a small one does, only slower.
        let _ = fcntl_setpipe_size(&into, CAPACITY);
        Ok(Self { out, into, filled: 0 })
    }

    /// Takes what is there, once something is, and says how much; 0 at the end. Only for an empty pipe: a full one would
    /// be waited for without end.
    pub(super) async fn take(&mut self, from: &TcpStream) -> io::Result<usize> {
        debug_assert_eq!(self.filled, 0);
        let taken = from
            .async_io(Interest::READABLE, || self.splice_from(from))
            .await?;
        self.filled = taken;
        Ok(taken)
    }

    fn splice_from(&self, from: &TcpStream) -> io::Result<usize> {
        Ok(splice(from, None, &self.into, None, CAPACITY, flags())?)
    }

    /// Gives all that was taken.
    pub(super) async fn give(&mut self, to: &TcpStream) -> io::Result<()> {
        while self.filled > 0 {
            let left = self.filled;
            let given = to
                .async_io(Interest::WRITABLE, || {
                    Ok(splice(&self.out, None, to, None, left, flags())?)
                })
                .await?;
            if given == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.filled = left.saturating_sub(given);
        }
        Ok(())
    }
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (one, other) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        (one.unwrap(), other.unwrap().0)
    }

    #[tokio::test]
    async fn all_of_it_arrives_in_order_and_then_the_end() {
        let (mut sender, from) = connection().await;
        let (to, mut receiver) = connection().await;
        let sent: Vec<u8> = (0..9_000_000_u32).map(|n| (n % 251) as u8).collect();
        let carried = async {
            let mut pipe = Pipe::new().unwrap();
            let mut count = 0;
            loop {
                let taken = pipe.take(&from).await.unwrap();
                if taken == 0 {
                    return count;
                }
                count += taken;
                pipe.give(&to).await.unwrap();
            }
        };
        let sending = async {
            sender.write_all(&sent).await.unwrap();
            sender.shutdown().await.unwrap();
        };
        let mut received = vec![0; sent.len()];
        let (count, (), _) = tokio::join!(carried, sending, async {
            receiver.read_exact(&mut received).await.unwrap()
        });
        assert_eq!(count, sent.len());
        assert!(received == sent);
    }

    #[tokio::test]
    async fn what_was_taken_stays_until_it_is_given() {
        let (mut sender, from) = connection().await;
        let (to, mut receiver) = connection().await;
        let mut pipe = Pipe::new().unwrap();
        sender.write_all(b"run it").await.unwrap();
        assert_eq!(pipe.take(&from).await.unwrap(), 6);
        assert!(receiver.try_read(&mut [0; 8]).is_err(), "nothing has gone on");
        pipe.give(&to).await.unwrap();
        let mut received = [0; 6];
        receiver.read_exact(&mut received).await.unwrap();
        assert_eq!(&received, b"run it");
        drop(receiver);
    }
}
