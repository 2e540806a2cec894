//! One passt process: started with its end of a socket pair, in a session of its own, and dead with the supervisor.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use hawser_linux::child::BeforeExec;
use tokio::net::UnixStream;
use tokio::process::Child;

use super::Command;
use super::repair::Repair;
use crate::daemons::output::{Output, quote};
use crate::error::{ExitCode, Failure};
use hawser_vhost_relay::{BackendError, Channel, greet};

/// For it to open its ports, which may be tens of thousands, and to answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// For it to end once its connection has.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// A passt that serves.
#[derive(Debug)]
pub(super) struct Backend {
    child: Child,
    pub(super) channel: Channel,
    output: Output,
}

/// Why one does not.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("start {program}")]
    Spawn {
        program: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{how}{}", quote(.last))]
    Ended { how: String, last: Vec<String> },
}

impl StartError {
    pub(super) fn failure(self) -> Failure {
        let user_namespace =
            matches!(&self, Self::Ended { last, .. } if last.iter().any(|line| is_sandbox(line)));
        let remedy = if user_namespace {
            "passt could not create its user namespace: allow unshare, mount, pivot_root and umount2 in the container's seccomp profile (securityContext.seccompProfile), check that AppArmor and the node (user.max_user_namespaces) permit it, or use masquerade"
        } else {
            "hawser plan shows its command line, to be tried in this pod"
        };
        Failure::new(ExitCode::PodUnfit, "passt cannot serve the guest")
            .because(self)
            .remedy(remedy)
    }
}

/// Whether passt writes this when a step of its isolation fails.
fn is_sandbox(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    [
        "user namespace",
        "unshare",
        "mount",
        "pivot_root",
        "chdir",
        "seccomp",
        "isolat",
    ]
    .into_iter()
    .any(|word| line.contains(word))
}

/// Starts one, and waits until it answers.
pub(super) async fn start(program: &Path, command: &Command, repair: &Repair) -> Result<Backend, StartError> {
    let spawn = |source| StartError::Spawn {
        program: program.display().to_string(),
        source,
    };
    let (ours, theirs) = StdStream::pair().map_err(spawn)?;
    ours.set_nonblocking(true).map_err(spawn)?;
    let channel = Channel::new(UnixStream::from_std(ours).map_err(spawn)?);
    let theirs = OwnedFd::from(theirs);
    let (helper, input) = StdStream::pair().map_err(spawn)?;
    helper.set_nonblocking(true).map_err(spawn)?;
    let helper = UnixStream::from_std(helper).map_err(spawn)?;
    tokio::spawn(repair.clone().serve(helper));
    let descriptor = theirs.as_raw_fd();
    let mut process = tokio::process::Command::new(program);
    process
        .args(&command.arguments)
        .arg(format!("--fd={descriptor}"))
        .env_clear()
        .current_dir("/")
        .stdin(OwnedFd::from(input))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    BeforeExec::new()
        .new_session()
        .inherit(theirs)
        .apply(process.as_std_mut());
    let mut child = process.spawn().map_err(spawn)?;
    // With it, our copy of passt's end.
    drop(process);
    let nic = command.nic.clone();
    let output = Output::follow(
        child.stderr.take(),
        move |line| tracing::info!(event = "passt-output", nic = %nic, "{nic}: passt: {line}"),
    );
    let mut backend = Backend {
        child,
        channel,
        output,
    };
    match tokio::time::timeout(START_TIMEOUT, greet(&mut backend.channel)).await {
        Ok(Ok(())) => {
            backend.output.serves();
            Ok(backend)
        }
        Ok(Err(error)) => Err(backend.failed(error).await),
        Err(_) => Err(backend.failed(BackendError::Silent).await),
    }
}

impl Backend {
    /// How it ended, when it was not asked to; one that is still there is killed.
    pub(super) async fn failed(self, error: BackendError) -> StartError {
        let Self {
            mut child,
            channel,
            mut output,
        } = self;
        // By its end of the connection one that is ending has closed, so what it leaves is its own verdict.
        let how = match (&error, tokio::time::timeout(END_TIMEOUT, child.wait()).await) {
            (BackendError::Gone, Ok(Ok(status))) => how(status),
            (_, Ok(Ok(status))) => format!("{error}, and {}", how(status)),
            _ => {
                let _ = child.start_kill();
                format!("{error}, and it was killed")
            }
        };
        drop(channel);
        StartError::Ended {
            how,
            last: output.last_lines().await,
        }
    }

    /// Ends it by ending its connection, so that its ports are free for the next.
    pub(super) async fn finish(self) {
        let Self {
            mut child,
            channel,
            output,
        } = self;
        drop(channel);
        if tokio::time::timeout(END_TIMEOUT, child.wait()).await.is_err() {
            tracing::warn!(
                event = "passt-killed",
                "passt did not end with its connection: killed"
            );
            let _ = child.kill().await;
        }
        output.abort();
    }
}

fn how(status: ExitStatus) -> String {
    format!("it ended with {status}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_program;

    /// A stand-in for a passt that cannot go on.
    async fn start_script(script: &str) -> Failure {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("passt");
        test_program::write(&program, &format!("#!/bin/sh\n{script}\n"));
        let command = Command::bare("default", &["--quiet"]);
        start(&program, &command, &Repair::new(None))
            .await
            .unwrap_err()
            .failure()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn one_that_may_have_no_user_namespace_says_so() {
        let failure =
            start_script("echo \"Couldn't create user namespace: Operation not permitted\" >&2; exit 1")
                .await;
        assert_eq!(failure.code(), ExitCode::PodUnfit);
        let text = failure.to_string();
        for expected in [
            "exit status: 1",
            "it said: Couldn",
            "seccompProfile",
            "masquerade",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_it_asks_of_its_helper_is_answered() {
        let failure = start_script("printf '\\1' >&0; head -c 1 <&0 | od -An -tu1 >&2; exit 4").await;
        assert!(failure.to_string().contains("it said: 1"), "{failure}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn any_other_end_is_reported_in_its_own_words() {
        let text = start_script("echo \"Failed to bind port 80\" >&2; kill -9 $$")
            .await
            .to_string();
        for expected in ["signal: 9", "Failed to bind port 80", "hawser plan"] {
            assert!(text.contains(expected), "{text}");
        }
        assert!(!text.contains("seccomp"), "{text}");
    }
}
