//! Talking to a guest through whatever is in front of it.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::pace;

/// What the guest's web server answers with (images/guest/init).
pub(crate) const GREETING: &str = "hello from the guest";
/// The guest's two ports.
pub(crate) const PORT: u16 = 8080;
pub(crate) const OTHER_PORT: u16 = 9090;

const CONNECT: Duration = Duration::from_secs(3);
const ANSWER: Duration = Duration::from_secs(30);

/// Fetches the guest's page.
pub(crate) fn greet(address: IpAddr, port: u16) -> Result<()> {
    let body = request(address, port, "GET", "/", "")?;
    if body.trim() != GREETING {
        bail!("{address} port {port} answered, but not as the guest: {body:?}");
    }
    Ok(())
}

/// Fetches the guest's page, trying again until `deadline`: its server starts after its addresses are there.
pub(crate) fn greet_within(address: IpAddr, port: u16, deadline: Duration) -> Result<()> {
    let end = pace::deadline(deadline);
    loop {
        match greet(address, port) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Runs a shell script in the guest; its output, if it succeeded.
pub(crate) fn execute(address: IpAddr, script: &str) -> Result<String> {
    let body = request(address, PORT, "POST", "/cgi-bin/run", script)?;
    let (printed, status) = body
        .trim_end()
        .rsplit_once("status ")
        .context("the guest did not finish the script")?;
    if status != "0" {
        bail!("in the guest: {script}: status {status}: {}", printed.trim());
    }
    Ok(printed.to_owned())
}

fn request(address: IpAddr, port: u16, method: &str, path: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), pace::allowed(CONNECT))
        .with_context(|| format!("cannot connect to {address} port {port}"))?;
    stream.set_read_timeout(Some(pace::allowed(ANSWER)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("no answer from {address} port {port}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("no HTTP: {answer:?}"))?;
    if !head.contains(" 200 ") {
        bail!("{address} port {port}: {head}");
    }
    Ok(body.to_owned())
}

/// A shell in the guest over one TCP connection, for as long as it exists: it shows whether the connection lives.
#[derive(Debug)]
pub(crate) struct Session {
    stream: TcpStream,
    heard: String,
}

impl Session {
    /// `run.cgi` gives the shell each line as it comes, and us each that the shell prints.
    pub(crate) fn open(address: IpAddr) -> Result<Self> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, PORT), pace::allowed(CONNECT))
            .with_context(|| format!("cannot connect to {address} port {PORT}"))?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.set_nodelay(true)?;
        write!(
            stream,
            "POST /cgi-bin/run HTTP/1.0\r\nContent-Length: 1000000\r\n\r\n"
        )?;
        let mut session = Self {
            stream,
            heard: String::new(),
        };
        session.say("begin")?;
        session.hear("begin", ANSWER).context("a fresh session")?;
        Ok(session)
    }

    /// Has the guest echo a word.
    pub(crate) fn say(&mut self, word: &str) -> Result<()> {
        writeln!(self.stream, "echo said-{word}").with_context(|| format!("cannot say {word}"))
    }

    pub(crate) fn hear(&mut self, word: &str, deadline: Duration) -> Result<()> {
        let end = pace::deadline(deadline);
        let wanted = format!("said-{word}");
        while !self.heard.contains(&wanted) {
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the guest closed the connection before {word}: {:?}", self.heard),
                Ok(length) => {
                    let chunk = chunk.get(..length).unwrap_or_default();
                    self.heard.push_str(&String::from_utf8_lossy(chunk));
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() > end {
                        bail!(
                            "no {word} in {} s: {:?}",
                            pace::allowed(deadline).as_secs(),
                            self.heard
                        );
                    }
                }
                Err(error) => return Err(error).with_context(|| format!("waiting for {word}")),
            }
        }
        Ok(())
    }

    /// Whether the connection has ended, by either end, once what came on it is read.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        loop {
            match self.stream.read(&mut [0; 4096]) {
                Ok(0) => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(true),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// All that the guest has echoed, in its order.
    pub(crate) fn echoes(&self) -> impl Iterator<Item = &str> {
        self.heard.lines().filter_map(|line| line.strip_prefix("said-"))
    }
}

/// A session on which something is said all the time.
#[derive(Debug)]
pub(crate) struct Talk {
    enough: Arc<AtomicBool>,
    speaker: JoinHandle<Result<(Session, u32)>>,
}

impl Talk {
    pub(crate) fn begin(mut session: Session) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&enough);
        let speaker = thread::spawn(move || {
            let mut said = 0;
            while !over.load(Ordering::SeqCst) {
                session
                    .say(&said.to_string())
                    .with_context(|| format!("after {said} words"))?;
                said += 1;
                thread::sleep(Duration::from_millis(100));
            }
            Ok((session, said))
        });
        Self { enough, speaker }
    }

    /// Every word has come back once, in its order.
    pub(crate) fn end(self, deadline: Duration) -> Result<()> {
        self.enough.store(true, Ordering::SeqCst);
        let ended = self.speaker.join().map_err(|_| anyhow!("the speaker panicked"))?;
        let (mut session, said) = ended?;
        session.say("end")?;
        session.hear("end", deadline)?;
        let wanted = (0..said).map(|word| word.to_string());
        let echoes = session.echoes().filter(|word| !["begin", "end"].contains(word));
        ensure!(
            echoes.eq(wanted),
            "of {said} words came back: {:?}",
            session.heard
        );
        Ok(())
    }
}

/// A server on the node that one guest connects to and counts for; each number goes back to it.
#[derive(Debug)]
pub(crate) struct Counter {
    pub(crate) port: u16,
    counted: Arc<AtomicU64>,
}

impl Counter {
    /// Takes one connection, and never another.
    pub(crate) fn listen(address: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let port = listener.local_addr()?.port();
        let counted = Arc::new(AtomicU64::new(0));
        let shared = Arc::clone(&counted);
        thread::spawn(move || -> Result<()> {
            let (stream, _) = listener.accept()?;
            drop(listener);
            let mut answers = stream.try_clone()?;
            for line in BufReader::new(stream).lines() {
                let line = line?;
                shared.store(line.trim().parse()?, Ordering::SeqCst);
                writeln!(answers, "{line}")?;
            }
            Ok(())
        });
        Ok(Self { port, counted })
    }

    /// What a guest runs to count five times a second.
    pub(crate) fn script(&self, address: IpAddr) -> String {
        format!(
            "(n=0; while :; do n=$((n+1)); echo $n > /tmp/number; echo $n; sleep 0.2; done | nc {address} {} > /tmp/counted) > /dev/null 2>&1 &",
            self.port
        )
    }

    pub(crate) fn counted(&self) -> u64 {
        self.counted.load(Ordering::SeqCst)
    }

    /// Waits until the guest has counted beyond `number`.
    pub(crate) fn beyond(&self, number: u64, deadline: Duration) -> Result<u64> {
        let end = pace::deadline(deadline);
        loop {
            let counted = self.counted();
            if counted > number {
                return Ok(counted);
            }
            if Instant::now() > end {
                bail!("the guest has counted to {counted} and no further");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A web server on the node that tells every caller which address it came from, for as long as it exists.
#[derive(Debug)]
pub(crate) struct WhoAmI {
    pub(crate) port: u16,
}

impl WhoAmI {
    pub(crate) fn listen(address: IpAddr) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let port = listener.local_addr()?.port();
        // Ends with the agent: an accept that nobody wakes costs nothing.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = answer(stream);
            }
        });
        Ok(Self { port })
    }
}

fn answer(mut stream: TcpStream) -> Result<()> {
    let peer = stream.peer_addr()?.ip();
    stream.set_read_timeout(Some(pace::allowed(CONNECT)))?;
    // The request line is enough to have been asked.
    let mut request = [0; 1024];
    let _ = stream.read(&mut request)?;
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{peer}\n"
    )?;
    Ok(())
}
