//! A Unix socket with vhost-user messages, descriptors included.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hawser_linux::fd_socket;
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::message::{Framer, MAX_PAYLOAD, Malformed, Message};

/// Shared between what is remembered and what is being sent; closed with the last of them.
pub(crate) type Descriptor = Arc<OwnedFd>;

#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the connection broke")]
    Broken(#[source] io::Error),
    #[error("not vhost-user")]
    Malformed(#[from] Malformed),
}

#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    framer: Framer<Descriptor>,
}

impl Channel {
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            framer: Framer::default(),
        }
    }

    /// The next message; none at the end of the stream. What is half read stays for the next call, so this may be
    /// cancelled.
    pub(crate) async fn receive(&mut self) -> Result<Option<Message<Descriptor>>, ChannelError> {
        loop {
            let mut buffer = [0; MAX_PAYLOAD];
            let wanted = self.framer.wanted().min(buffer.len());
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            let stream = &self.stream;
            let read = stream.async_io(Interest::READABLE, || fd_socket::receive(stream, piece));
            let (read, descriptors) = match read.await {
                Ok(read) => read,
                // What a peer that was killed leaves where it had not read everything.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(ChannelError::Broken(error)),
            };
            if read == 0 {
                self.framer.end()?;
                return Ok(None);
            }
            let bytes = buffer.get(..read).unwrap_or_default();
            if let Some(message) = self.framer.feed(bytes, descriptors.into_iter().map(Arc::new))? {
                return Ok(Some(message));
            }
        }
    }

    pub(crate) async fn send(&self, message: &Message<Descriptor>) -> Result<(), ChannelError> {
        let bytes = message.bytes();
        let mut rest = bytes.as_slice();
        let mut descriptors = message.descriptors.as_slice();
        while !rest.is_empty() {
            let stream = &self.stream;
            let sent = stream
                .async_io(Interest::WRITABLE, || fd_socket::send(stream, rest, descriptors))
                .await
                .map_err(ChannelError::Broken)?;
            rest = rest.get(sent..).unwrap_or_default();
            // They went with the first bytes.
            descriptors = &[];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_message_arrives_with_its_descriptors_and_the_end_after_it() {
        let (a, b) = UnixStream::pair().unwrap();
        let (a, mut b) = (Channel::new(a), Channel::new(b));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"shared").unwrap();
        let descriptor: Descriptor = Arc::new(file.into());
        let message = Message::new(5, vec![1; 72]).with([descriptor.clone(), descriptor.clone()]);
        a.send(&message).await.unwrap();
        a.send(&Message::new(1, Vec::new())).await.unwrap();
        drop(a);

        let first = b.receive().await.unwrap().unwrap();
        assert_eq!((first.request, first.payload.len()), (5, 72));
        assert_eq!(first.descriptors.len(), 2);
        assert_ne!(first.descriptors[0].as_raw_fd(), descriptor.as_raw_fd());
        let mut text = [0; 6];
        let received = File::from(first.descriptors[0].try_clone().unwrap());
        received.read_exact_at(&mut text, 0).unwrap();
        assert_eq!(&text, b"shared");
        let second = b.receive().await.unwrap().unwrap();
        assert!(second.descriptors.is_empty(), "they are the first message's");
        assert!(b.receive().await.unwrap().is_none());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_end_inside_a_message_is_an_error() {
        let (mut a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        let mut b = Channel::new(UnixStream::from_std(b).unwrap());
        a.write_all(&[1, 0, 0, 0, 1]).unwrap();
        drop(a);
        let error = b.receive().await.unwrap_err();
        assert!(
            matches!(error, ChannelError::Malformed(Malformed::Cut)),
            "{error}"
        );
    }
}
