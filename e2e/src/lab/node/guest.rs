//! Talking to a guest through whatever is in front of it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

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
    let end = Instant::now() + deadline;
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
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT)
        .with_context(|| format!("cannot connect to {address} port {port}"))?;
    stream.set_read_timeout(Some(ANSWER))?;
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
    stream.set_read_timeout(Some(CONNECT))?;
    // The request line is enough to have been asked.
    let mut request = [0; 1024];
    let _ = stream.read(&mut request)?;
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n{peer}\n"
    )?;
    Ok(())
}
