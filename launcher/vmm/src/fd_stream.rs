//! A connection whose first bytes take descriptors along (SCM_RIGHTS, unix(7)).
//!
//! cloud-hypervisor gives a request the descriptors that came with any of its bytes, so the first write is as good as any.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hawser_linux::fd_socket;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

#[derive(Debug)]
pub(crate) struct FdStream {
    stream: UnixStream,
    /// Closed here once they are on their way.
    descriptors: Vec<OwnedFd>,
}

impl FdStream {
    pub(crate) fn new(stream: UnixStream, descriptors: Vec<OwnedFd>) -> Self {
        Self { stream, descriptors }
    }
}

impl AsyncRead for FdStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for FdStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.descriptors.is_empty() {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        }
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_io(Interest::WRITABLE, || {
                fd_socket::send(&self.stream, bytes, &self.descriptors)
            }) {
                Ok(written) => {
                    self.descriptors.clear();
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn the_first_bytes_take_the_descriptors_along_and_no_others() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (mut pipe, end) = std::io::pipe().unwrap();
        let mut stream = FdStream::new(UnixStream::from_std(ours).unwrap(), vec![end.into()]);
        stream.write_all(b"head").await.unwrap();
        assert!(stream.descriptors.is_empty());
        let mut bytes = [0; 16];
        let (read, mut received) = fd_socket::receive(&theirs, &mut bytes).unwrap();
        assert_eq!((read, received.len()), (4, 1));
        let mut received = std::fs::File::from(received.remove(0));
        received.write_all(b"x").unwrap();
        drop(received);
        let mut all = Vec::new();
        // Ends only if nobody else has the other end any more.
        pipe.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"x");
        stream.write_all(b"body").await.unwrap();
        let mut rest = [0; 4];
        (&theirs).read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"body");
    }
}
