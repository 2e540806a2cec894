//! A connection whose first bytes take descriptors along (SCM_RIGHTS, unix(7)).
//!
//! cloud-hypervisor gives a request the descriptors that came with any of its bytes, so the first write is as good as any.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

#[derive(Debug)]
pub(super) struct WithDescriptors {
    stream: UnixStream,
    /// Closed here once they are on their way.
    descriptors: Vec<OwnedFd>,
}

impl WithDescriptors {
    pub(super) fn new(stream: UnixStream, descriptors: Vec<OwnedFd>) -> Self {
        Self { stream, descriptors }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let raw: Vec<_> = self.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        sendmsg::<()>(
            self.stream.as_raw_fd(),
            &[IoSlice::new(bytes)],
            &rights,
            flags,
            None,
        )
        .map_err(Into::into)
    }
}

impl AsyncRead for WithDescriptors {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for WithDescriptors {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.descriptors.is_empty() {
            return Pin::new(&mut self.stream).poll_write(cx, bytes);
        }
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_io(Interest::WRITABLE, || self.send(bytes)) {
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
    use std::io::{IoSliceMut, Read, Write};

    use nix::sys::socket::{ControlMessageOwned, recvmsg};
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn the_first_bytes_take_the_descriptors_along_and_no_others() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (mut pipe, end) = std::io::pipe().unwrap();
        let mut stream = WithDescriptors::new(UnixStream::from_std(ours).unwrap(), vec![end.into()]);
        stream.write_all(b"head").await.unwrap();
        assert!(stream.descriptors.is_empty());
        let mut bytes = [0; 16];
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!([i32; 4]);
        let message = recvmsg::<()>(
            theirs.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::empty(),
        )
        .unwrap();
        assert_eq!(message.bytes, 4);
        let received: Vec<i32> = message
            .cmsgs()
            .unwrap()
            .flat_map(|message| match message {
                ControlMessageOwned::ScmRights(fds) => fds,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(received.len(), 1);
        // SAFETY: the kernel has just made this descriptor for us.
        let mut received = unsafe { <std::fs::File as std::os::fd::FromRawFd>::from_raw_fd(received[0]) };
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
