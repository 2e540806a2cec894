//! `kubectl hawser`: guests in a cluster, through `kubectl` and with the rights of whoever calls it.
//!
//! ```text
//! kubectl ──► Pod (as the API server has it) ──┐
//! kubectl exec … hawser status ──► Launcher ───┴──► Scene ──► verdict ──► one step ──► a new look
//! ```
//!
//! `migrate` and `cancel` remember nothing: each step begins with what the cluster and both launchers say, so that a run that was
//! interrupted is taken up by the next. What a step may do follows from the [`verdict`] alone, which only the launchers decide.
//! That `kubectl exec` has ended says nothing: its stream ends for many reasons, and the hand-off goes on without it.
//!
//! 1. `kubectl` starts the program, and ends it when it does not answer.
//! 2. `pod` and `launcher` read what it prints; `scene` puts the pods of a guest in their places.
//! 3. `verdict` says what became of the guest, `placement` why a target does not start. Both are pure.
//! 4. `migrate` goes step by step, with `attempt`, `budget` and `steps`, and `drain` so for each guest of a node; `thin` has the verbs that are one command, and `ssh`
//!    the one that starts another program.

mod attempt;
mod budget;
mod cli;
mod drain;
mod failure;
mod kubectl;
mod launcher;
mod migrate;
mod placement;
mod pod;
mod progress;
mod run;
mod scene;
mod ssh;
mod steps;
mod thin;
mod verdict;

pub use cli::Cli;
pub use failure::Failure;
pub use run::run;
