//! HTTP/1.1 as the control socket speaks it: one request a connection, a body with its length, a reply that is delimited by its
//! length or by the end of the connection.
//!
//! The head of a message is read by httparse, as in hyper. hyper's own server would stay resident in every pod for a request that
//! the kubelet makes every few seconds, and would own the connection that a console needs.

use std::io;

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a request: its head and its body.
pub(super) const MAX_REQUEST: usize = 16 << 10;
/// Far more than any client sends.
const MAX_HEADERS: usize = 32;

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) method: String,
    /// Without the query.
    pub(super) path: String,
    pub(super) query: String,
    pub(super) body: Vec<u8>,
    /// The protocol that the connection is to speak from here on.
    pub(super) upgrade: Option<String>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error("the connection")]
    Io(#[from] io::Error),
    #[error("no HTTP request: {0}")]
    Malformed(String),
    #[error("a request has {MAX_REQUEST} bytes at most")]
    TooLong,
}

/// A head that is complete, and the bytes that it and its body take.
struct Head {
    message: Message,
    length: usize,
    body: usize,
}

impl Message {
    /// One request, to the end of its body and no byte further.
    pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Self, MessageError> {
        let mut bytes = Vec::new();
        loop {
            if let Some(head) = Head::parse(&bytes)? {
                let end = head.length.saturating_add(head.body);
                if end > MAX_REQUEST {
                    return Err(MessageError::TooLong);
                }
                if bytes.len() >= end {
                    let mut message = head.message;
                    message.body = bytes.get(head.length..end).unwrap_or_default().to_vec();
                    return Ok(message);
                }
            }
            if bytes.len() >= MAX_REQUEST {
                return Err(MessageError::TooLong);
            }
            let mut chunk = [0; 2048];
            let read = stream.read(&mut chunk).await?;
            if read == 0 {
                return Err(MessageError::Malformed("it has no end".to_owned()));
            }
            bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
        }
    }
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Option<Self>, MessageError> {
        let malformed = |why: &dyn ToString| MessageError::Malformed(why.to_string());
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(length) = request.parse(bytes).map_err(|error| malformed(&error))?
        else {
            return Ok(None);
        };
        let mut body = 0;
        let mut upgrade = None;
        for header in request.headers.iter() {
            let value = || str::from_utf8(header.value).map_err(|_| malformed(&"a header is no text"));
            match header.name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    body = value()?
                        .trim()
                        .parse()
                        .map_err(|_| malformed(&"Content-Length is no number"))?;
                }
                "transfer-encoding" => return Err(malformed(&"the body has to have a Content-Length")),
                "upgrade" => upgrade = Some(value()?.trim().to_ascii_lowercase()),
                _ => {}
            }
        }
        let target = request.path.unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let message = Message {
            method: request.method.unwrap_or_default().to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            body: Vec::new(),
            upgrade,
        };
        Ok(Some(Self {
            message,
            length,
            body,
        }))
    }
}

/// A status of HTTP, as far as the control socket has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    SwitchingProtocols = 101,
    Ok = 200,
    BadRequest = 400,
    NotFound = 404,
    MethodNotAllowed = 405,
    /// Not in the phase that the guest is in.
    Conflict = 409,
    UpgradeRequired = 426,
    /// The launcher is ending.
    Unavailable = 503,
}

impl Code {
    fn reason(self) -> &'static str {
        match self {
            Self::SwitchingProtocols => "Switching Protocols",
            Self::Ok => "OK",
            Self::BadRequest => "Bad Request",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::Conflict => "Conflict",
            Self::UpgradeRequired => "Upgrade Required",
            Self::Unavailable => "Service Unavailable",
        }
    }

    fn line(self) -> String {
        format!("HTTP/1.1 {} {}\r\n", self as u16, self.reason())
    }

    /// The head of a reply whose body ends with the connection.
    pub(super) fn stream(self, content: &str) -> Vec<u8> {
        format!(
            "{}Content-Type: {content}\r\nConnection: close\r\n\r\n",
            self.line()
        )
        .into_bytes()
    }

    /// The head after which the connection speaks `protocol`.
    pub(super) fn upgrade(protocol: &str, header: (&str, &str)) -> Vec<u8> {
        format!(
            "{}Connection: Upgrade\r\nUpgrade: {protocol}\r\n{}: {}\r\n\r\n",
            Self::SwitchingProtocols.line(),
            header.0,
            header.1
        )
        .into_bytes()
    }

    /// A whole reply.
    pub(super) fn reply(self, content: &str, body: &[u8]) -> Vec<u8> {
        let mut reply = format!(
            "{}Content-Type: {content}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.line(),
            body.len()
        )
        .into_bytes();
        reply.extend_from_slice(body);
        reply
    }

    /// A whole reply, as a line of JSON.
    pub(super) fn json(self, body: &impl Serialize) -> io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec(body).map_err(io::Error::other)?;
        text.push(b'\n');
        Ok(self.reply("application/json", &text))
    }
}

/// The head of a reply, for a client: its status and the value of one header.
pub(super) fn reply_head(bytes: &[u8], header: &str) -> io::Result<Option<(usize, u16, Option<String>)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut reply = httparse::Response::new(&mut headers);
    match reply.parse(bytes).map_err(io::Error::other)? {
        httparse::Status::Partial => Ok(None),
        httparse::Status::Complete(length) => {
            let found = reply
                .headers
                .iter()
                .find(|candidate| candidate.name.eq_ignore_ascii_case(header));
            let value = found.map(|found| String::from_utf8_lossy(found.value).into_owned());
            Ok(Some((length, reply.code.unwrap_or_default(), value)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Message, MessageError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut bytes = text;
            Message::read(&mut bytes).await
        })
    }

    #[test]
    fn a_request_with_and_without_a_body() {
        let message = read(b"GET /v1/status?x=1 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        assert_eq!(
            (message.path.as_str(), message.query.as_str()),
            ("/v1/status", "x=1")
        );
        let message = read(b"POST /v1/migration HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}rest").unwrap();
        assert_eq!(message.body, b"{}");
        let message = read(b"POST /c HTTP/1.1\r\nUpgrade: Hawser-Console\r\n\r\n").unwrap();
        assert_eq!(message.upgrade.as_deref(), Some("hawser-console"));
    }

    #[test]
    fn what_is_none_is_said_to_be_none_and_never_waited_for_without_end() {
        for junk in [
            &b"{\"ask\":\"status\"}\n"[..],
            b"",
            b"GET / HTTP/1.1\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nfour",
        ] {
            assert!(matches!(read(junk), Err(MessageError::Malformed(_))), "{junk:?}");
        }
        let endless = [b"GET /".as_slice(), &vec![b'x'; MAX_REQUEST]].concat();
        assert!(matches!(read(&endless), Err(MessageError::TooLong)));
        let large = b"PUT / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n";
        assert!(matches!(read(large), Err(MessageError::TooLong)));
    }

    #[test]
    fn a_reply_is_read_as_it_was_written() {
        let reply = Code::Conflict.json(&"no").unwrap();
        let (length, code, content) = reply_head(&reply, "content-type").unwrap().unwrap();
        assert_eq!((code, content.as_deref()), (409, Some("application/json")));
        assert_eq!(&reply[length..], b"\"no\"\n");
        assert_eq!(reply_head(&reply[..20], "x").unwrap(), None);
        let reply = Code::upgrade("hawser-console", ("Hawser-Keyboard", "yours"));
        assert_eq!(
            reply_head(&reply, "hawser-keyboard").unwrap().unwrap(),
            (reply.len(), 101, Some("yours".to_owned()))
        );
    }
}
