//! Child processes whose output is waited for by what it says, with an end to every wait.

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a process has said so far, by line, stdout and stderr as they came.
#[derive(Debug, Default)]
struct Said {
    stdout: Vec<String>,
    stderr: Vec<String>,
    open: usize,
}

/// A running process, killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<(Mutex<Said>, Condvar)>,
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Process {
    pub(crate) fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let said = Arc::new((
            Mutex::new(Said {
                open: 2,
                ..Said::default()
            }),
            Condvar::new(),
        ));
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        collect(stdout, said.clone(), |said, line| said.stdout.push(line));
        collect(stderr, said.clone(), |said, line| said.stderr.push(line));
        Ok(Self {
            name: name.to_owned(),
            stdin: child.stdin.take(),
            child,
            said,
        })
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Writes a line to its stdin.
    pub(crate) fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("stdin is closed")?;
        writeln!(stdin, "{line}").with_context(|| format!("write to {}", self.name))
    }

    /// With both of its streams going to pipes that are full already, which nothing reads until the returned ends are.
    pub(crate) fn spawn_unread(name: &str, command: &mut Command) -> Result<(Self, [PipeReader; 2])> {
        let (out, out_end) = full_pipe()?;
        let (err, err_end) = full_pipe()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out_end)
            .stderr(err_end)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let process = Self {
            name: name.to_owned(),
            child,
            stdin: None,
            said: Arc::default(),
        };
        Ok((process, [out, err]))
    }

    /// Writes all of stdin and closes it.
    pub(crate) fn feed(&mut self, text: &str) -> Result<()> {
        let mut stdin = self.stdin.take().context("stdin is closed")?;
        stdin
            .write_all(text.as_bytes())
            .with_context(|| format!("write to {}", self.name))
    }

    /// Waits until a line of either stream contains `what`, counting `nth` of them from 1.
    pub(crate) fn wait_for(&self, what: &str, nth: usize, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut said = lock(&self.said.0);
        loop {
            let mut lines = said
                .stdout
                .iter()
                .chain(&said.stderr)
                .filter(|line| line.contains(what));
            if let Some(line) = lines.nth(nth - 1) {
                return Ok(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if said.open == 0 || left.is_zero() {
                let why = if said.open == 0 { "ended" } else { "went on" };
                drop(said);
                bail!(
                    "{} {why} without saying {what:?}:\n{}",
                    self.name,
                    self.transcript()
                );
            }
            said = self
                .said
                .1
                .wait_timeout(said, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Whether so many lines contain `what` by now.
    pub(crate) fn has_said(&self, what: &str, times: usize) -> bool {
        let said = lock(&self.said.0);
        said.stdout
            .iter()
            .chain(&said.stderr)
            .filter(|line| line.contains(what))
            .count()
            >= times
    }

    /// Both of its streams are closed.
    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.said.0).open == 0
    }

    /// Waits for the end of both streams, which is that of the process and of its children, and takes its status.
    pub(crate) fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                // What it said last is still in the pipes; a child that has them open is not waited for long.
                let said = lock(&self.said.0);
                let _ = self
                    .said
                    .1
                    .wait_timeout_while(said, Duration::from_millis(300), |said| said.open > 0);
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} did not end within {limit:?}:\n{}",
                    self.name,
                    self.transcript()
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn stdout(&self) -> String {
        lock(&self.said.0).stdout.join("\n")
    }

    pub(crate) fn stderr(&self) -> String {
        lock(&self.said.0).stderr.join("\n")
    }

    /// The last lines of both streams, for a failure's message.
    pub(crate) fn transcript(&self) -> String {
        let said = lock(&self.said.0);
        let tail = |name: &str, lines: &[String]| -> String {
            let skip = lines.len().saturating_sub(25);
            lines
                .iter()
                .skip(skip)
                .map(|line| format!("    {name}: {line}\n"))
                .collect()
        };
        tail("out", &said.stdout) + &tail("err", &said.stderr)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn full_pipe() -> Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = std::io::pipe()?;
    let waits = |waits: bool| -> Result<()> {
        let flags = if waits { OFlag::empty() } else { OFlag::O_NONBLOCK };
        fcntl(&writer, FcntlArg::F_SETFL(flags))?;
        Ok(())
    };
    waits(false)?;
    while (&writer).write(&[b'.'; 4096]).is_ok() {}
    waits(true)?;
    Ok((reader, writer))
}

fn collect(
    stream: impl Read + Send + 'static,
    said: Arc<(Mutex<Said>, Condvar)>,
    push: impl Fn(&mut Said, String) + Send + 'static,
) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(length) if length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            push(&mut lock(&said.0), text);
            said.1.notify_all();
            line.clear();
        }
        lock(&said.0).open -= 1;
        said.1.notify_all();
    });
}

/// Runs a command to its end.
///
/// # Errors
/// A status other than 0, with what it wrote to stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The program that runs, whatever is at its path by now: `cargo test` may have put another build of it there (proc(5)).
pub(crate) const THIS_PROGRAM: &str = "/proc/self/exe";

/// Asks until the answer is yes; the state of the kernel is not something to wait on otherwise.
pub(crate) fn until<T>(what: &str, limit: Duration, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_every(Duration::from_millis(10), what, limit, ask)
}

/// The same with a pause between two questions, where asking is work for what is asked.
pub(crate) fn until_every<T>(
    pause: Duration,
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("not within {limit:?}: {what}");
        }
        thread::sleep(pause);
    }
}
