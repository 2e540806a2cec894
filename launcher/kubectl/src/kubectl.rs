//! `kubectl` as a program. It knows the cluster, the user and the user's rights; nothing here does.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use thiserror::Error;

/// For an answer. An API server that is away lets kubectl wait for much longer.
const ANSWER: Duration = Duration::from_secs(30);
/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(10);
/// Of what kubectl says when it fails, so many characters are passed on.
const SAID_MAX: usize = 2000;

#[derive(Debug, Error)]
pub enum Error {
    #[error("cannot start {program}: {source}; kubectl hawser needs kubectl on PATH")]
    Start {
        program: String,
        #[source]
        source: std::io::Error,
    },
    /// In its own words, which are mostly the API server's.
    #[error("kubectl {verb}: {said}")]
    Failed { verb: String, said: String },
    #[error("kubectl {verb} has not answered within {} s", ANSWER.as_secs())]
    Silent { verb: String },
    #[error("kubectl {verb} has printed something that is no JSON: {source}")]
    NotJson {
        verb: String,
        #[source]
        source: serde_json::Error,
    },
}

/// A command line that verbs can be added to.
#[derive(Debug)]
pub(crate) struct Kubectl {
    program: String,
    flags: Vec<String>,
}

impl Kubectl {
    pub(crate) fn new(program: String, flags: Vec<String>) -> Self {
        Self { program, flags }
    }

    /// The same in this namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Self {
        let is_other = |flag: &&String| !flag.starts_with("--namespace=");
        let mut flags: Vec<String> = self.flags.iter().filter(is_other).cloned().collect();
        flags.push(format!("--namespace={namespace}"));
        Self::new(self.program.clone(), flags)
    }

    /// The whole command line, for somebody else to start.
    pub(crate) fn words(&self, arguments: &[&str]) -> Vec<String> {
        let own = [&self.program].into_iter().chain(&self.flags).cloned();
        own.chain(arguments.iter().map(|word| (*word).to_owned()))
            .collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.flags).args(arguments);
        command
    }

    fn start(&self, command: &mut Command) -> Result<Child, Error> {
        command.spawn().map_err(|source| Error::Start {
            program: self.program.clone(),
            source,
        })
    }

    /// What it prints.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<String, Error> {
        self.feed(arguments, "")
    }

    /// What it prints, with `text` as its standard input.
    pub(crate) fn feed(&self, arguments: &[&str], text: &str) -> Result<String, Error> {
        let verb = || arguments.first().copied().unwrap_or_default().to_owned();
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.start(&mut command)?;
        let printed = child.stdout.take().map(collect);
        let said = child.stderr.take().map(collect);
        if let Some(mut stdin) = child.stdin.take() {
            let text = text.to_owned();
            // Where it has ended already, its status says so.
            thread::spawn(move || drop(stdin.write_all(text.as_bytes())));
        }
        let Some(status) = ended_within(&mut child, ANSWER) else {
            // Not what is waited for: a grandchild may hold the pipes.
            drop(child.kill());
            drop(child.wait());
            return Err(Error::Silent { verb: verb() });
        };
        if !status.success() {
            let said = said.and_then(|said| said.recv().ok()).unwrap_or_default();
            let said: String = said.trim().chars().take(SAID_MAX).collect();
            let said = match said.is_empty() {
                true => status.to_string(),
                false => said,
            };
            return Err(Error::Failed { verb: verb(), said });
        }
        Ok(printed
            .and_then(|printed| printed.recv().ok())
            .unwrap_or_default())
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value, Error> {
        let text = self.ask(arguments)?;
        serde_json::from_str(&text).map_err(|source| Error::NotJson {
            verb: arguments.first().copied().unwrap_or_default().to_owned(),
            source,
        })
    }

    /// With this terminal as its own.
    pub(crate) fn here(&self, arguments: &[&str]) -> Result<ExitStatus, Error> {
        let mut child = self.start(&mut self.command(arguments))?;
        child.wait().map_err(|source| Error::Start {
            program: self.program.clone(),
            source,
        })
    }

    /// In the background.
    pub(crate) fn background(&self, arguments: &[&str]) -> Result<Background, Error> {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.start(&mut command)?;
        let (sender, lines) = channel();
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|stream| Box::new(stream) as _),
            child.stderr.take().map(|stream| Box::new(stream) as _),
        ];
        for stream in streams.into_iter().flatten() {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Background { child, lines })
    }
}

/// A kubectl that runs beside what goes on here; killed when dropped.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    lines: Receiver<String>,
}

impl Background {
    /// What it has printed since.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// How it ended tells nothing: a stream that is cut looks like an end.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn collect(mut stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        drop(stream.read_to_end(&mut bytes));
        drop(sender.send(String::from_utf8_lossy(&bytes).into_owned()));
    });
    receiver
}

fn ended_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => thread::sleep(LOOK),
            Err(_) => return None,
        }
    }
    None
}
