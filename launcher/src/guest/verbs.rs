//! An operator's verbs, asked of the VMM one after another: a guest that is paused and resumed at once must not end up paused.

use tokio::sync::mpsc;

use super::Input;
use super::machine::{CallId, Event, Refusal};
use crate::control::Verb;
use crate::error::chain;
use crate::vmm::api::Api;

/// Why a guest with a liveness probe is not paused.
pub(super) const PROBED: &str = "the manifest has a livenessProbe, which a paused guest does not answer: the kubelet would end the pod; \
                                 take the probe out of the manifest to pause the guest";

/// The queue of the task that asks the VMM. It ends when this is dropped.
pub(super) struct Verbs(mpsc::UnboundedSender<(Option<CallId>, Verb)>);

impl Verbs {
    /// A guest that is `held` has not booted: the first to resume it does that.
    pub(super) fn new(api: Api, mut held: bool, queue: mpsc::Sender<Input>) -> Self {
        let (sender, mut verbs) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some((call, verb)) = verbs.recv().await {
                let done = carry_out(&api, verb, held).await;
                held &= verb != Verb::Resume || done.is_err();
                let _ = queue.send(Input::Event(Event::Operated(call, verb, done))).await;
            }
        });
        Self(sender)
    }

    /// `call` is answered when it is done.
    pub(super) fn ask(&self, call: Option<CallId>, verb: Verb) {
        let _ = self.0.send((call, verb));
    }
}

async fn carry_out(api: &Api, verb: Verb, held: bool) -> Result<(), String> {
    let answer = match verb {
        Verb::Pause => api.pause().await,
        Verb::Resume if held => api.boot().await,
        Verb::Resume => api.resume().await,
        Verb::Reset => api.reset().await,
        Verb::Nmi => api.nmi().await,
        Verb::Stop => api.power_button().await,
    };
    match &answer {
        Ok(()) => {
            tracing::info!(event = "operated", verb = verb.name(), "{}", verb.done());
        }
        Err(error) => {
            tracing::warn!(
                event = "operation-failed",
                verb = verb.name(),
                "hawser {}: cloud-hypervisor did not do it: {}",
                verb.name(),
                chain(error)
            );
        }
    }
    answer.map_err(|error| chain(&error))
}

/// What a caller is told.
pub(super) fn refused(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::NotRunning => "the guest is not running",
        Refusal::Migrating => {
            "a migration is under way already; wait for its end, or cancel it with hawser migrate --cancel"
        }
        Refusal::NotMigrating => "no migration is under way",
        Refusal::Committed => {
            "the guest is committed to the target already; nothing can be done to it here any more: ask the target's launcher"
        }
        Refusal::Paused => "the guest is paused; hawser resume runs it again",
        Refusal::NotPaused => "the guest is not paused",
        Refusal::Busy => "the guest is being paused or resumed; ask again",
        Refusal::Stopping => "the guest is shutting down",
    }
}
