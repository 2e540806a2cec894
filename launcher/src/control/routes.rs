//! The routes of the control socket, each once: docs/control.openapi.json describes the same ones, and a test compares them.

use super::http::{Code, Message};
use super::{Order, Request, Verb};

/// The protocol of a connection that carries the guest's console.
pub(super) const CONSOLE: &str = "hawser-console";
/// The protocol of a connection to a port of the guest's virtio socket.
pub(super) const VSOCK: &str = "hawser-vsock";
/// The header of the answer with that port.
pub(super) const VSOCK_PORT: &str = "Hawser-Vsock-Port";
/// The header of the answer that says who types.
pub(super) const KEYBOARD: &str = "Hawser-Keyboard";

/// What is done with a request, before its body is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Status,
    Verb(Verb),
    Migrate,
    Cancel,
    Console,
    Events,
    Metrics,
    Vsock,
}

/// Method, path, and what is done.
pub(super) const ROUTES: [(&str, &str, Route); 12] = [
    ("GET", "/v1/status", Route::Status),
    ("PUT", "/v1/pause", Route::Verb(Verb::Pause)),
    ("PUT", "/v1/resume", Route::Verb(Verb::Resume)),
    ("PUT", "/v1/reset", Route::Verb(Verb::Reset)),
    ("PUT", "/v1/stop", Route::Verb(Verb::Stop)),
    ("PUT", "/v1/nmi", Route::Verb(Verb::Nmi)),
    ("POST", "/v1/migration", Route::Migrate),
    ("DELETE", "/v1/migration", Route::Cancel),
    ("GET", "/v1/console", Route::Console),
    ("GET", "/v1/events", Route::Events),
    ("GET", "/v1/metrics", Route::Metrics),
    ("GET", "/v1/vsock", Route::Vsock),
];

impl Route {
    /// As a client asks for it.
    pub(super) fn target(self) -> (&'static str, &'static str) {
        let found = ROUTES.iter().find(|(_, _, route)| *route == self);
        found.map_or(("GET", "/"), |(method, path, _)| (method, path))
    }

    fn of(message: &Message) -> Result<Self, (Code, String)> {
        let here: Vec<_> = ROUTES
            .iter()
            .filter(|(_, path, _)| *path == message.path)
            .collect();
        let found = here.iter().find(|(method, _, _)| *method == message.method);
        match (found, here.as_slice()) {
            (Some((_, _, route)), _) => Ok(*route),
            (None, []) => Err((
                Code::NotFound,
                "there is no such path: docs/control.openapi.json has those that there are".to_owned(),
            )),
            (None, others) => {
                let methods: Vec<_> = others.iter().map(|(method, _, _)| *method).collect();
                Err((
                    Code::MethodNotAllowed,
                    format!("this path has the methods {}", methods.join(", ")),
                ))
            }
        }
    }
}

fn upgrade(message: &Message, protocol: &str) -> Result<(), (Code, String)> {
    match message.upgrade.as_deref() == Some(protocol) {
        true => Ok(()),
        false => {
            let why = format!("this path needs the header Upgrade: {protocol}");
            Err((Code::UpgradeRequired, why))
        }
    }
}

/// What a message asks for; else the status and the reason why it is not done.
pub(super) fn request(message: &Message) -> Result<Request, (Code, String)> {
    Ok(match Route::of(message)? {
        Route::Status => Request::Status,
        Route::Verb(verb) => Request::Verb(verb),
        Route::Cancel => Request::Cancel,
        Route::Migrate => {
            let order: Order = serde_json::from_slice(&message.body)
                .map_err(|error| (Code::BadRequest, format!("the body: {error}")))?;
            Request::Migrate(order)
        }
        Route::Metrics => Request::Metrics,
        Route::Events => Request::Events {
            follows: message.query == "follow",
        },
        Route::Vsock => {
            upgrade(message, VSOCK)?;
            let port = message.query.strip_prefix("port=");
            let port = port.and_then(|port| port.parse().ok()).ok_or_else(|| {
                let why = "expected port=PORT behind the path, a number up to 4294967295".to_owned();
                (Code::BadRequest, why)
            })?;
            Request::Vsock { port }
        }
        Route::Console => {
            upgrade(message, CONSOLE)?;
            Request::Console {
                types: message.query != "read-only",
            }
        }
    })
}
