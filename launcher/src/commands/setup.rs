//! `hawser setup`: the wiring alone, for an init container. `hawser run` then finds it done.

use super::args::PodArgs;
use super::run::ANNOTATION_TIMEOUT;
use super::wiring;
use crate::error::{ExitCode, Failure};
use crate::state_dir::StateDir;
use crate::survey::{Look, Survey};

pub(super) fn setup(args: &PodArgs) -> Result<ExitCode, Failure> {
    let guest = args.manifest.load()?.spec;
    let nft = wiring::begin()?;
    let places = args.places();
    let survey = Survey {
        places: &places,
        uid: args.uid,
        look: Look::Start {
            wait: ANNOTATION_TIMEOUT,
        },
        certificates: None,
    };
    let (owner, plan, notes) = survey.wiring(guest)?;
    wiring::note(&notes);
    wiring::note(&plan.notes);
    let state = StateDir::open(&places.state_dir, owner)?;
    wiring::wire(&plan, nft, &state.journal())?;
    tracing::info!(
        event = "pod-wired",
        "the pod is wired; hawser run will use this wiring"
    );
    Ok(ExitCode::Success)
}
