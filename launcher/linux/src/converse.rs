//! A child that is given a text and answers by its exit status and its standard error, in a bounded time.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes that are kept of what the child says; the rest is read and dropped.
const MAX_SAID: usize = 64 << 10;
/// Between two looks at whether the child has ended, once it has closed its standard error: a matter of microseconds.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Writes `text` to the child's standard input and closes that, reads its standard error, and waits for its end; as far as
/// these two are pipes. A child that has not ended by the deadline is killed.
///
/// # Errors
/// `TimedOut`; and what goes wrong with the pipes, but for a child that does not read its input, whose exit status tells more.
pub fn converse(child: &mut Child, text: &[u8], deadline: Instant) -> io::Result<(ExitStatus, Vec<u8>)> {
    let result = exchange(child, text, deadline).and_then(|(said, unread)| {
        let status = end(child, deadline)?;
        // One that succeeds with half of its input has not done what it was told.
        match unread.filter(|_| status.success()) {
            Some(error) => Err(error),
            None => Ok((status, said)),
        }
    });
    if result.is_err() {
        let _ = child.kill();
        // Killed, so it ends.
        let _ = child.wait();
    }
    result
}

/// Waits for the end of a child that has nothing more to say. One that has not ended by the deadline goes on.
///
/// # Errors
/// `TimedOut`.
pub fn end(child: &mut Child, deadline: Instant) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// What the child said, and why it was not given all of its input.
type Exchanged = (Vec<u8>, Option<io::Error>);

fn exchange(child: &mut Child, text: &[u8], deadline: Instant) -> io::Result<Exchanged> {
    let mut stdin = child.stdin.take();
    let mut stderr = child.stderr.take();
    if let Some(stdin) = &stdin {
        fcntl(stdin, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    let mut rest = text;
    let mut said = Vec::new();
    let mut unread = None;
    loop {
        if rest.is_empty() {
            stdin = None;
        }
        let mut waited = Vec::new();
        waited.extend(
            stdin
                .as_ref()
                .map(|stdin| PollFd::new(stdin.as_fd(), PollFlags::POLLOUT)),
        );
        waited.extend(
            stderr
                .as_ref()
                .map(|stderr| PollFd::new(stderr.as_fd(), PollFlags::POLLIN)),
        );
        if waited.is_empty() {
            return Ok((said, unread));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // Rounded up, or the last millisecond would be spent awake.
        let left = u16::try_from(left.as_millis().saturating_add(1)).unwrap_or(u16::MAX);
        match poll(&mut waited, PollTimeout::from(left)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut ready = waited
            .iter()
            .map(|one| one.any().unwrap_or_default())
            .collect::<Vec<_>>()
            .into_iter();
        let (writable, readable) = (
            stdin.is_some() && ready.next().unwrap_or_default(),
            stderr.is_some() && ready.next().unwrap_or_default(),
        );
        if writable && let Some(pipe) = &mut stdin {
            match pipe.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    stdin = None;
                    unread = Some(error);
                }
            }
        }
        if readable && let Some(pipe) = &mut stderr {
            let mut chunk = [0; 4096];
            match pipe.read(&mut chunk) {
                Ok(0) => stderr = None,
                Ok(read) => {
                    let room = MAX_SAID.saturating_sub(said.len()).min(read);
                    said.extend_from_slice(chunk.get(..room).unwrap_or_default());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if stdin.is_none() && !rest.is_empty() {
            rest = &[];
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn shell(script: &str, text: &[u8], limit: Duration) -> io::Result<(Option<i32>, String)> {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (status, said) = converse(&mut child, text, Instant::now() + limit)?;
        Ok((status.code(), String::from_utf8(said).unwrap()))
    }

    #[test]
    fn a_child_is_given_its_text_and_heard_to_its_end() {
        let long = vec![b'x'; 1 << 20];
        let limit = Duration::from_secs(20);
        assert_eq!(
            shell("wc -c >&2", &long, limit).unwrap(),
            (Some(0), "1048576\n".into())
        );
        assert_eq!(
            shell("echo no >&2; exit 3", &long, limit).unwrap(),
            (Some(3), "no\n".into())
        );
        let (status, said) = shell("head -c 1000000 /dev/zero >&2", b"", limit).unwrap();
        assert_eq!((status, said.len()), (Some(0), MAX_SAID));
        // Half of it is not enough to succeed with.
        let error = shell("exec 0<&-; exit 0", &long, limit).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_child_that_hangs_is_killed_wherever_it_hangs() {
        let long = vec![b'x'; 1 << 20];
        for script in [
            "exec sleep 600",
            "cat > /dev/null; exec sleep 600",
            "exec 2>&-; exec sleep 600",
        ] {
            let began = Instant::now();
            let error = shell(script, &long, Duration::from_millis(300)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{script}");
            assert!(began.elapsed() < Duration::from_secs(5), "{script}");
        }
    }
}
