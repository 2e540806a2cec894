//! What the node's agent tells the machine, one JSON object a line, over a virtio port; and what it is told, in files of the
//! directory of results.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::report::Outcome;

/// The name of the port in the node.
pub(crate) const PORT: &str = "hawser.events";

/// The file, among the results, that answers an agent's n-th [`Event::Ready`].
pub(crate) fn turn_file(number: usize) -> String {
    format!("turn-{number}.json")
}

/// What the agent is to do next.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// By name; none where it is done.
    pub(crate) scenario: Option<String>,
    /// Show the guests' consoles while it runs.
    pub(crate) narrate: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// The agent runs, and has begun with what all scenarios need.
    Up,
    /// How much more than the reference's time this node is given.
    Measured {
        factor: f64,
    },
    /// A part of the preparation has begun.
    Step {
        what: String,
    },
    /// Nothing more will come: scenarios cannot run.
    Unprepared {
        error: String,
    },
    /// Waits for its next turn.
    Ready,
    /// A line for the user.
    Line {
        text: String,
    },
    /// The scenario of this turn.
    Finished {
        outcome: Outcome,
        took: Duration,
    },
    Done,
}
