//! Descriptors over a Unix socket (SCM_RIGHTS, unix(7)). Neither function waits: both are for a non-blocking loop, and
//! return `WouldBlock`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// As many descriptors as the kernel sends with one message (SCM_MAX_FD of the kernel's net/scm.h).
pub const MAX_DESCRIPTORS: usize = 253;
const ANCILLARY: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// Reads some bytes, with the descriptors that came with them: close-on-exec, and closed when dropped. No byte is the
/// end of the stream.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); ANCILLARY];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [IoSliceMut::new(buffer)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(socket, &mut pieces, &mut ancillary, flags)?;
    // Taken before the message is judged: what is dropped here is closed.
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            descriptors.extend(sent);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("the kernel cut the message's descriptors"));
    }
    Ok((received.bytes, descriptors))
}

/// Writes some of `bytes`, and all of `descriptors` with the first of them.
pub fn send<D: AsFd>(socket: impl AsFd, bytes: &[u8], descriptors: &[D]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); ANCILLARY];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    if !borrowed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "more than 253 descriptors with one message",
        ));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_the_bytes_and_works() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        assert_eq!(send(&ours, b"ab", &[OwnedFd::from(writer)]).unwrap(), 2);
        let mut buffer = [0; 8];
        let (read, descriptors) = receive(&theirs, &mut buffer).unwrap();
        assert_eq!((&buffer[..read], descriptors.len()), (&b"ab"[..], 1));
        for descriptor in descriptors {
            std::fs::File::from(descriptor).write_all(b"x").unwrap();
        }
        let mut text = String::new();
        // Ends only once nobody has the other end any more.
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        let error = receive(&theirs, &mut buffer).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(ours);
        assert_eq!(receive(&theirs, &mut buffer).unwrap().0, 0);
    }

    #[test]
    fn more_descriptors_than_the_kernel_sends_are_refused() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let many: Vec<_> = (0..=MAX_DESCRIPTORS).map(|_| null.as_fd()).collect();
        let error = send(&ours, b"a", &many).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
