//! What the node's agent tells the machine: one JSON object a line, over a virtio port.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::report::Outcome;

/// The name of the port in the node.
pub(crate) const PORT: &str = "hawser.events";

/// The file in the payload that says what to run.
pub(crate) const REQUEST: &str = "request.json";

/// What the agent is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// In order.
    pub(crate) scenarios: Vec<Asked>,
    /// Show the guests' consoles while they run.
    pub(crate) narrate: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) name: String,
    /// Skipped where it has not begun by then, from the agent's start on.
    pub(crate) within: Option<Duration>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// The agent runs, and has begun with what all scenarios need.
    Up,
    /// A part of the preparation has begun.
    Step {
        what: String,
    },
    /// Nothing more will come: scenarios cannot run.
    Unprepared {
        error: String,
    },
    Started {
        scenario: String,
    },
    /// A line for the user.
    Line {
        text: String,
    },
    Finished {
        scenario: String,
        outcome: Outcome,
        took: Duration,
    },
    Done,
}
